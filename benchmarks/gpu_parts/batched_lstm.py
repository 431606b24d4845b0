"""Several generators of the same sizes as one network, for a trial: their LSTMs in one product."""

import torch
from torch import nn

from audio_from_video.generation.networks import AudioGenerator
from audio_from_video.learning.dropout import Dropout


class BatchedGenerators(nn.Module):
    """S generators: video features [S, B, T, V] -> standardised audio features [S, B, T, A].

    Every product is a batched one over the seeds.  The weights are the generators', stacked.
    """

    def __init__(self, generators: list[AudioGenerator]):
        super().__init__()
        parameters, buffers = torch.func.stack_module_state(generators)
        self.weights = nn.ParameterDict(
            {name.replace(".", "/"): nn.Parameter(value) for name, value in parameters.items()}
        )
        self.scales = buffers
        self.dropout = Dropout(generators[0].project[0].rate)
        self.directions = ["", "_reverse"] if generators[0].lstm.bidirectional else [""]

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """[S, B, T, V] -> [S, B, T, A]."""
        mean = self.scales["video_mean"][:, None, None]
        std = self.scales["video_std"][:, None, None]
        values = self.dropout((video - mean) / std)
        projected = self._linear("project/1", values).relu()
        projected = self.dropout(projected)
        states = [self._run(projected, direction) for direction in self.directions]
        return self._linear("head/1", self.dropout(torch.cat(states, dim=-1)))

    def _linear(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """[S, B, T, in] -> [S, B, T, out]."""
        weight = self.weights[f"{name}/weight"]
        bias = self.weights[f"{name}/bias"]
        flat = values.flatten(1, 2)  # [S, B * T, in]
        output = torch.baddbmm(bias[:, None], flat, weight.mT)
        return output.unflatten(1, values.shape[1:3])

    def _run(self, inputs: torch.Tensor, direction: str) -> torch.Tensor:
        """[S, B, T, P] -> hidden states of one direction [S, B, T, H]."""
        weight = self.weights[f"lstm/weight_ih_l0{direction}"]
        recurrent = self.weights[f"lstm/weight_hh_l0{direction}"].mT  # [S, H, 4H]
        bias = self.weights[f"lstm/bias_ih_l0{direction}"]
        bias = bias + self.weights[f"lstm/bias_hh_l0{direction}"]
        flat = inputs.flatten(1, 2)
        gates_of_inputs = torch.baddbmm(bias[:, None], flat, weight.mT)
        gates_of_inputs = gates_of_inputs.unflatten(1, inputs.shape[1:3])  # [S, B, T, 4H]

        seeds, batch, steps = inputs.shape[:3]
        hidden = inputs.new_zeros(seeds, batch, recurrent.shape[1])
        cell = hidden
        order = range(steps) if not direction else reversed(range(steps))
        states: list[torch.Tensor] = [hidden] * steps
        for step in order:
            gates = torch.baddbmm(gates_of_inputs[:, :, step], hidden, recurrent)
            enter, forget, candidate, leave = gates.chunk(4, dim=-1)
            cell = forget.sigmoid() * cell + enter.sigmoid() * candidate.tanh()
            hidden = leave.sigmoid() * cell.tanh()
            states[step] = hidden
        return torch.stack(states, dim=2)

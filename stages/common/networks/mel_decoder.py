"""From audio features back to AST's input form."""

import torch
from torch import nn


class MelDecoder(nn.Module):
    """Audio features [B, T, A] -> normalised log-mel [B, frames, mel bins].

    Every time step decodes its share of the frames from its own features and its neighbours' with one hidden layer; the
    frames are then stretched to their number by linear interpolation.
    """

    def __init__(self, steps: int, width: int, hidden: int, frames: int, mel_bins: int):
        super().__init__()
        self.frames, self.mel_bins = frames, mel_bins
        self.per_step = -(-frames // steps)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        self.decode = nn.Sequential(
            nn.Linear(3 * width, hidden), nn.ReLU(), nn.Linear(hidden, self.per_step * mel_bins)
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        x = (features - self.mean) / self.std  # [B, T, A]
        padded = torch.cat([x[:, :1], x, x[:, -1:]], dim=1)
        context = torch.cat([padded[:, :-2], x, padded[:, 2:]], dim=-1)  # [B, T, 3A]
        frames = (
            self.decode(context).unflatten(-1, (self.per_step, self.mel_bins)).flatten(1, 2)
        )  # [B, T * per_step, mel]
        return nn.functional.interpolate(
            frames.transpose(1, 2), self.frames, mode="linear", align_corners=False
        ).transpose(1, 2)

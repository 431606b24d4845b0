"""The action classifier: one LSTM for every condition, and what some conditions add to it.

Only the width of the input differs between conditions. Shapes: B clips, T time steps, V and A
dimensions of the video and audio features, H of the hidden state.
"""

from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, log_softmax, mse_loss

from audio_from_video.learning.dropout import Dropout

# A last hidden state must remember the first step (Jozefowicz et al. 2015 recommend 1 to 2).
FORGET_BIAS = 2.0


@dataclass(frozen=True)
class ClassifierSizes:
    """Sizes of a classifier.

    projection: width of the first linear layer; 0 lets the LSTM read the features themselves.
    steps: time steps of a clip, which only ReconstructingClassifier needs.
    """

    video_width: int
    audio_width: int
    actions: int
    hidden: int
    projection: int
    dropout: float
    steps: int = 0


@dataclass(frozen=True)
class TrainingBatch:
    """Features of the clips of a training step, and what a second loss learns from.

    video [B, T, V]
    audio [B, T, A]
    has_audio [B] bool: clips whose `audio` stands in the input.
    is_real [B] bool: clips whose own real audio stands in `audio`, in the input or not.
    audio_belongs [B] bool: those whose real audio belongs to their action (gate `dictionary`).
    """

    video: torch.Tensor
    audio: torch.Tensor
    has_audio: torch.Tensor
    is_real: torch.Tensor
    audio_belongs: torch.Tensor


class ActionClassifier(nn.Module):
    """[features -> dropout -> linear -> ReLU] -> LSTM -> last hidden state -> linear -> logits.

    video [B, T, V] and audio [B, T, A] are standardised (`set_scale`), audio is weighted by
    component (`audio_weight` [A], classification/audio_input.py), and they are concatenated to
    [B, T, V + A]. A clip without audio gets the learned `token` [A] at every step. Dropout and ReLU
    stand before the last linear layer, too.
    """

    audio_in_input = True

    def __init__(self, sizes: ClassifierSizes):
        super().__init__()
        input_audio_width = sizes.audio_width if self.audio_in_input else 0
        width = sizes.video_width + input_audio_width
        for modality, size in (("video", sizes.video_width), ("audio", sizes.audio_width)):
            self.register_buffer(f"{modality}_mean", torch.zeros(size))
            self.register_buffer(f"{modality}_std", torch.ones(size))
        self.register_buffer("audio_weight", torch.ones(sizes.audio_width))
        self.token = nn.Parameter(torch.zeros(input_audio_width))

        # The order of the layers is that of their initial weights' random draws.
        self.input_dropout = Dropout(sizes.dropout)
        self.project: nn.Module = nn.Identity()
        if sizes.projection:
            self.project = nn.Sequential(
                nn.Linear(width, sizes.projection), nn.ReLU(), Dropout(sizes.dropout)
            )
        self.lstm = nn.LSTM(sizes.projection or width, sizes.hidden, batch_first=True)
        # PyTorch orders the biases of the gates as input, forget, cell, output.
        with torch.no_grad():
            self.lstm.bias_hh_l0[sizes.hidden : 2 * sizes.hidden] += FORGET_BIAS
        self.head = nn.Sequential(
            nn.ReLU(), Dropout(sizes.dropout), nn.Linear(sizes.hidden, sizes.actions)
        )

    def set_scale(self, modality: str, mean: torch.Tensor, std: torch.Tensor) -> None:
        """Set mean and standard deviation [V] or [A] of a modality; saved with the weights."""
        getattr(self, f"{modality}_mean").copy_(mean)
        getattr(self, f"{modality}_std").copy_(std)

    def scale(self, modality: str, features: torch.Tensor) -> torch.Tensor:
        """Standardise the features of a modality, [B, T, V] or [B, T, A], and weight audio."""
        mean = getattr(self, f"{modality}_mean")
        std = getattr(self, f"{modality}_std")
        standardised = (features - mean) / std
        return standardised * self.audio_weight if modality == "audio" else standardised

    def forward(
        self,
        video: torch.Tensor,
        audio: torch.Tensor | None = None,
        has_audio: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """video [B, T, V], audio [B, T, A], has_audio [B] bool -> logits [B, actions]."""
        features = self.scale("video", video)
        if audio is not None and has_audio is not None:
            scaled = self.scale("audio", audio)
            audio = torch.where(has_audio[:, None, None], scaled, self.token)
            features = torch.cat([features, audio], dim=-1)  # [B, T, V + A]
        return self.classify(self.encode(features))

    def training_pass(self, batch: TrainingBatch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return logits [B, actions] and the second loss, a scalar; None where it has none.

        Of several experts the logits are [experts, B, actions], which learn each by itself.
        """
        return self(batch.video, batch.audio, batch.has_audio), None

    def encode(self, features: torch.Tensor) -> torch.Tensor:
        """Standardised features [B, T, V + A] -> hidden states [B, T, H]."""
        projected = self.project(self.input_dropout(features))
        states, _ = self.lstm(projected)
        return states

    def classify(self, states: torch.Tensor) -> torch.Tensor:
        """Hidden states [B, T, H] -> logits [B, actions], from the last one."""
        return self.head(states[:, -1])


class MultitaskClassifier(ActionClassifier):
    """Sees the video alone, and from the same hidden states classifies and generates audio.

    After the multi-task LSTM of "Audio feature generation for the missing modality problem in video
    action recognition" (ICASSP 2019).
    """

    audio_in_input = False

    def __init__(self, sizes: ClassifierSizes):
        super().__init__(sizes)
        self.generate = nn.Linear(sizes.hidden, sizes.audio_width)

    def forward(
        self,
        video: torch.Tensor,
        audio: torch.Tensor | None = None,
        has_audio: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """video [B, T, V] -> logits [B, actions], whatever the audio."""
        return self.classify(self.encode(self.scale("video", video)))

    def training_pass(self, batch: TrainingBatch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits [B, actions], and the mean squared error of the audio generated from video.

        The error is that of clips with real audio; None where no clip of the batch has any.
        """
        states = self.encode(self.scale("video", batch.video))
        loss = None
        if batch.is_real.any():
            generated = self.generate(states[batch.is_real])
            loss = mse_loss(generated, self.scale("audio", batch.audio[batch.is_real]))
        return self.classify(states), loss


class LateFusionClassifier(ActionClassifier):
    """Two experts, one of video and one of audio, whose probabilities are multiplied.

    log p = log p(video) + share x log p(audio), up to a constant (a product of experts, Hinton
    2002). Each learns by itself. `audio_share` is chosen on validation after training; a clip
    without audio is answered by the expert of video alone.
    """

    audio_in_input = False
    SHARES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)

    def __init__(self, sizes: ClassifierSizes):
        super().__init__(sizes)
        self.hear = ActionClassifier(replace(sizes, video_width=sizes.audio_width, audio_width=0))
        self.register_buffer("audio_share", torch.ones(()))

    def forward(  # type: ignore[override]
        self, video: torch.Tensor, audio: torch.Tensor, has_audio: torch.Tensor
    ) -> torch.Tensor:
        """Return logits [B, actions] of the product."""
        of_video, of_audio = self.experts(video, audio, has_audio)
        return log_softmax(of_video, -1) + self.audio_share * log_softmax(of_audio, -1)

    def training_pass(self, batch: TrainingBatch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the logits of both experts, [2, B, actions], and no second loss."""
        return self.experts(batch.video, batch.audio, batch.has_audio), None

    def experts(
        self, video: torch.Tensor, audio: torch.Tensor, has_audio: torch.Tensor
    ) -> torch.Tensor:
        """Return the logits of both experts, [2, B, actions]; without audio the second has 0."""
        of_video = self.classify(self.encode(self.scale("video", video)))
        of_audio = self.hear(self.scale("audio", audio))
        return torch.stack([of_video, torch.where(has_audio[:, None], of_audio, 0.0)])


class GatedClassifier(ActionClassifier):
    """Weighs audio against the token by a learned gate.

    In training a dictionary says which audio belongs to its action; the gate learns to tell that
    from the features (after learnable irrelevant-modality dropout, CVPR 2022).
    """

    WIDTH = 32

    def __init__(self, sizes: ClassifierSizes):
        super().__init__(sizes)
        self.gate = nn.Sequential(
            nn.Linear(sizes.video_width + sizes.audio_width, self.WIDTH),
            nn.ReLU(),
            nn.Linear(self.WIDTH, 1),
        )

    def forward(  # type: ignore[override]
        self, video: torch.Tensor, audio: torch.Tensor, has_audio: torch.Tensor
    ) -> torch.Tensor:
        """Return logits [B, actions]; the gate's probability [B] weighs the audio."""
        video = self.scale("video", video)
        audio = self.scale("audio", audio)
        weight = self._gate_logits(video, audio).sigmoid()
        return self._weigh_and_classify(video, audio, weight, has_audio)

    def training_pass(self, batch: TrainingBatch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits [B, actions] by the dictionary's decisions, and the gate's cross-entropy.

        The cross-entropy is against these decisions, on clips with real audio; None without any.
        """
        video = self.scale("video", batch.video)
        audio = self.scale("audio", batch.audio)
        gate_logits = self._gate_logits(video, audio)
        weight = batch.audio_belongs.float()
        loss = None
        if batch.is_real.any():
            loss = binary_cross_entropy_with_logits(
                gate_logits[batch.is_real], weight[batch.is_real]
            )
        return self._weigh_and_classify(video, audio, weight, batch.has_audio), loss

    def _gate_logits(self, video: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
        """Standardised features [B, T, V] and [B, T, A] -> logits of the gate [B]."""
        means = torch.cat([video.mean(1), audio.mean(1)], dim=1)  # [B, V + A]
        return self.gate(means)[:, 0]

    def _weigh_and_classify(
        self,
        video: torch.Tensor,
        audio: torch.Tensor,
        weight: torch.Tensor,
        has_audio: torch.Tensor,
    ) -> torch.Tensor:
        """Logits [B, actions] with audio weighed against the token by `weight` [B]."""
        weight = (weight * has_audio)[:, None, None]  # [B, 1, 1]
        audio = torch.where(has_audio[:, None, None], audio, 0.0)
        audio = audio * weight + self.token * (1 - weight)
        features = torch.cat([video, audio], dim=-1)  # [B, T, V + A]
        return self.classify(self.encode(features))


class ReconstructingClassifier(ActionClassifier):
    """Reconstructs missing audio from the video by a transformer layer, and classifies with it.

    Trained with audio that is dropped at random (after ActionMAE, AAAI 2023).
    """

    WIDTH = 64
    HEADS = 4

    def __init__(self, sizes: ClassifierSizes):
        super().__init__(sizes)
        self.see = nn.Linear(sizes.video_width, self.WIDTH)
        # What stands for the missing audio at each step.
        self.memory = nn.Parameter(0.02 * torch.randn(sizes.steps, self.WIDTH))
        self.fuse = nn.TransformerEncoderLayer(
            self.WIDTH, self.HEADS, 2 * self.WIDTH, sizes.dropout, batch_first=True
        )
        self.reconstruct = nn.Linear(self.WIDTH, sizes.audio_width)

    def forward(  # type: ignore[override]
        self, video: torch.Tensor, audio: torch.Tensor, has_audio: torch.Tensor
    ) -> torch.Tensor:
        """Return logits [B, actions]; the reconstruction stands where a clip has no audio."""
        video = self.scale("video", video)
        audio = self.scale("audio", audio)
        reconstruction = self._reconstruction(video)
        return self._fill_and_classify(video, audio, reconstruction, has_audio)

    def training_pass(self, batch: TrainingBatch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits [B, actions], and the mean squared error of the reconstruction.

        The error is that of clips with real audio; None where no clip of the batch has any.
        """
        video = self.scale("video", batch.video)
        audio = self.scale("audio", batch.audio)
        reconstruction = self._reconstruction(video)
        loss = None
        if batch.is_real.any():
            loss = mse_loss(reconstruction[batch.is_real], audio[batch.is_real])
        return self._fill_and_classify(video, audio, reconstruction, batch.has_audio), loss

    def _reconstruction(self, video: torch.Tensor) -> torch.Tensor:
        """Standardised video features [B, T, V] -> standardised audio features [B, T, A]."""
        seen = self.see(video) + self.memory  # [B, T, WIDTH]
        return self.reconstruct(self.fuse(seen))

    def _fill_and_classify(
        self,
        video: torch.Tensor,
        audio: torch.Tensor,
        reconstruction: torch.Tensor,
        has_audio: torch.Tensor,
    ) -> torch.Tensor:
        """Logits [B, actions] with the reconstruction where `has_audio` [B] is False."""
        audio = torch.where(has_audio[:, None, None], audio, reconstruction)
        features = torch.cat([video, audio], dim=-1)  # [B, T, V + A]
        return self.classify(self.encode(features))


def network_class(
    learns: str, gate: str, test_audio: str, fusion: str = "concatenate"
) -> type[ActionClassifier]:
    """Return the network of a condition, by those of its keys that choose it (params.yaml).

    fusion: how audio and video come together where none of the other keys decides.
    """
    if learns == "audio":
        return MultitaskClassifier
    if gate == "dictionary":
        return GatedClassifier
    if test_audio == "reconstructed":
        return ReconstructingClassifier
    if fusion == "late":
        return LateFusionClassifier
    return ActionClassifier


def parameter_count(model: nn.Module) -> int:
    """Return how many numbers a model learns."""
    return sum(parameter.numel() for parameter in model.parameters())


def matched_hidden(sizes: ClassifierSizes) -> int:
    """Return the hidden size that gives a video-only classifier about as many parameters.

    sizes: those of the classifier with audio, whose parameter count is to be matched.
    """
    target = parameter_count(ActionClassifier(sizes))
    best_hidden = sizes.hidden
    best_gap = None
    for hidden in range(sizes.hidden, 2 * sizes.hidden + 1):
        video_only = ActionClassifier(replace(sizes, audio_width=0, hidden=hidden))
        gap = abs(parameter_count(video_only) - target)
        if best_gap is None or gap < best_gap:
            best_hidden = hidden
            best_gap = gap
    return best_hidden

"""The action classifier: one LSTM for every condition, only its input width differs; and what some conditions add to it."""

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

FORGET_BIAS = 2.0  # a last hidden state must remember the first step (Jozefowicz et al. 2015 recommend 1 to 2)


class ActionClassifier(nn.Module):
    """[features -> dropout -> linear -> ReLU] -> LSTM -> last hidden state -> dropout, ReLU, linear -> logits.

    video [B, T, V] and audio [B, T, A] are standardised (`set_scale`) and concatenated to [B, T, V + A]; a clip without
    audio gets the learned `token` [A] at every step.  `projection`: width of the first linear layer; 0 lets the LSTM read
    the features themselves.
    """

    hears = True  # whether audio is part of the input

    def __init__(
        self,
        video_width: int,
        audio_width: int,
        actions: int,
        hidden: int,
        projection: int,
        dropout: float,
    ):
        super().__init__()
        width = video_width + audio_width * self.hears
        for name, size in (("video", video_width), ("audio", audio_width)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_std", torch.ones(size))
        self.token = nn.Parameter(torch.zeros(audio_width * self.hears))
        self.input_dropout = nn.Dropout(dropout)
        self.project = (
            nn.Sequential(nn.Linear(width, projection), nn.ReLU(), nn.Dropout(dropout))
            if projection
            else nn.Identity()
        )
        self.lstm = nn.LSTM(projection or width, hidden, batch_first=True)
        with torch.no_grad():
            self.lstm.bias_hh_l0[hidden : 2 * hidden] += FORGET_BIAS
        self.head = nn.Sequential(nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, actions))

    def set_scale(self, modality: str, mean: torch.Tensor, std: torch.Tensor) -> None:
        """Mean and standard deviation [V] or [A] of a modality over the training clips; saved with the weights."""
        getattr(self, f"{modality}_mean").copy_(mean)
        getattr(self, f"{modality}_std").copy_(std)

    def scale(self, modality: str, features: torch.Tensor) -> torch.Tensor:
        """Features of a modality, standardised."""
        return (features - getattr(self, f"{modality}_mean")) / getattr(self, f"{modality}_std")

    def forward(
        self,
        video: torch.Tensor,
        audio: torch.Tensor | None = None,
        has_audio: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """video [B, T, V], audio [B, T, A], has_audio [B] bool -> logits [B, actions]."""
        return self.answer(video, audio, has_audio)[0]

    def answer(
        self,
        video: torch.Tensor,
        audio: torch.Tensor | None = None,
        has_audio: torch.Tensor | None = None,
        known: torch.Tensor | None = None,
        relevant: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits and, where a condition learns something else, too, that loss.  known [B]: clips whose real audio stands in
        `audio`, given to the network or not; relevant [B]: those of them whose sound belongs to their action."""
        features = self.scale("video", video)
        if audio is not None and has_audio is not None:
            audio = torch.where(has_audio[:, None, None], self.scale("audio", audio), self.token)
            features = torch.cat([features, audio], dim=-1)  # [B, T, V + A]
        return self.head(self.encode(features)[:, -1]), None

    def encode(self, features: torch.Tensor) -> torch.Tensor:
        """Standardised features [B, T, V + A] -> hidden states [B, T, H]."""
        return self.lstm(self.project(self.input_dropout(features)))[0]


class MultitaskClassifier(ActionClassifier):
    """Sees the video alone, and from the same hidden states classifies and generates audio (after the multi-task LSTM of
    "Audio feature generation for the missing modality problem in video action recognition", ICASSP 2019)."""

    hears = False

    def __init__(
        self,
        video_width: int,
        audio_width: int,
        actions: int,
        hidden: int,
        projection: int,
        dropout: float,
    ):
        super().__init__(video_width, audio_width, actions, hidden, projection, dropout)
        self.generate = nn.Linear(hidden, audio_width)

    def answer(self, video, audio=None, has_audio=None, known=None, relevant=None):
        states = self.encode(self.scale("video", video))
        extra = None
        if audio is not None and known is not None and known.any():
            extra = mse_loss(self.generate(states[known]), self.scale("audio", audio[known]))
        return self.head(states[:, -1]), extra


class GatedClassifier(ActionClassifier):
    """Learns in training, where a dictionary says which sound belongs to its action, to tell that from the features; the
    learned gate then weighs sound against the token (after learnable irrelevant-modality dropout, CVPR 2022)."""

    WIDTH = 32

    def __init__(
        self,
        video_width: int,
        audio_width: int,
        actions: int,
        hidden: int,
        projection: int,
        dropout: float,
    ):
        super().__init__(video_width, audio_width, actions, hidden, projection, dropout)
        self.gate = nn.Sequential(
            nn.Linear(video_width + audio_width, self.WIDTH), nn.ReLU(), nn.Linear(self.WIDTH, 1)
        )

    def answer(self, video, audio=None, has_audio=None, known=None, relevant=None):
        video, audio = self.scale("video", video), self.scale("audio", audio)
        logits = self.gate(torch.cat([video.mean(1), audio.mean(1)], dim=1))[:, 0]  # [B]
        extra = None
        if relevant is None:
            weight = logits.sigmoid()
        else:
            weight = relevant.float()
            if known.any():
                extra = binary_cross_entropy_with_logits(logits[known], weight[known])
        weight = (weight * has_audio)[:, None, None]
        audio = torch.where(has_audio[:, None, None], audio, 0.0) * weight + self.token * (
            1 - weight
        )
        return self.head(self.encode(torch.cat([video, audio], dim=-1))[:, -1]), extra


class ReconstructingClassifier(ActionClassifier):
    """Reconstructs the audio that a clip lacks from its video, by a transformer layer over the time steps, and classifies
    with it; trained with audio dropped at random (after ActionMAE, AAAI 2023)."""

    WIDTH, HEADS = 64, 4

    def __init__(
        self,
        video_width: int,
        audio_width: int,
        actions: int,
        hidden: int,
        projection: int,
        dropout: float,
        steps: int,
    ):
        super().__init__(video_width, audio_width, actions, hidden, projection, dropout)
        self.see = nn.Linear(video_width, self.WIDTH)
        self.memory = nn.Parameter(
            0.02 * torch.randn(steps, self.WIDTH)
        )  # stands for the missing audio at each step
        self.fuse = nn.TransformerEncoderLayer(
            self.WIDTH, self.HEADS, 2 * self.WIDTH, dropout, batch_first=True
        )
        self.reconstruct = nn.Linear(self.WIDTH, audio_width)

    def answer(self, video, audio=None, has_audio=None, known=None, relevant=None):
        video, audio = self.scale("video", video), self.scale("audio", audio)
        made = self.reconstruct(self.fuse(self.see(video) + self.memory))  # [B, T, A]
        extra = mse_loss(made[known], audio[known]) if known is not None and known.any() else None
        audio = torch.where(has_audio[:, None, None], audio, made)
        return self.head(self.encode(torch.cat([video, audio], dim=-1))[:, -1]), extra


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def matched_hidden(
    video_width: int, audio_width: int, actions: int, hidden: int, projection: int
) -> int:
    """The hidden size at which the video-only classifier comes closest to the parameter count of one with audio."""
    target = parameter_count(
        ActionClassifier(video_width, audio_width, actions, hidden, projection, 0.0)
    )
    sizes = range(hidden, 2 * hidden + 1)
    return min(
        sizes,
        key=lambda size: abs(
            parameter_count(ActionClassifier(video_width, 0, actions, size, projection, 0.0))
            - target
        ),
    )

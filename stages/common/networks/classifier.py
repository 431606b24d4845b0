"""The action classifier: one LSTM for every condition, only its input width differs."""
import torch
from torch import nn

FORGET_BIAS = 2.0  # a last hidden state must remember the first step (Jozefowicz et al. 2015 recommend 1 to 2)


class ActionClassifier(nn.Module):
    """[features -> dropout -> linear -> ReLU] -> LSTM -> last hidden state -> dropout, ReLU, linear -> logits.

    video [B, T, V] and audio [B, T, A] are standardised (`set_scale`) and concatenated to [B, T, V + A]; a clip without
    audio gets the learned `token` [A] at every step.  `projection`: width of the first linear layer; 0 lets the LSTM read
    the features themselves.
    """

    def __init__(self, video_width: int, audio_width: int, actions: int, hidden: int, projection: int, dropout: float):
        super().__init__()
        width = video_width + audio_width
        for name, size in (("video", video_width), ("audio", audio_width)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_std", torch.ones(size))
        self.token = nn.Parameter(torch.zeros(audio_width))
        self.input_dropout = nn.Dropout(dropout)
        self.project = nn.Sequential(nn.Linear(width, projection), nn.ReLU(), nn.Dropout(dropout)) if projection else nn.Identity()
        self.lstm = nn.LSTM(projection or width, hidden, batch_first=True)
        with torch.no_grad():
            self.lstm.bias_hh_l0[hidden : 2 * hidden] += FORGET_BIAS
        self.head = nn.Sequential(nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, actions))

    def set_scale(self, modality: str, mean: torch.Tensor, std: torch.Tensor) -> None:
        """Mean and standard deviation [V] or [A] of a modality over the training clips; saved with the weights."""
        getattr(self, f"{modality}_mean").copy_(mean)
        getattr(self, f"{modality}_std").copy_(std)

    def forward(self, video: torch.Tensor, audio: torch.Tensor | None = None, has_audio: torch.Tensor | None = None) -> torch.Tensor:
        """video [B, T, V], audio [B, T, A], has_audio [B] bool -> logits [B, actions]."""
        features = (video - self.video_mean) / self.video_std
        if audio is not None and has_audio is not None:
            audio = (audio - self.audio_mean) / self.audio_std
            audio = torch.where(has_audio[:, None, None], audio, self.token)
            features = torch.cat([features, audio], dim=-1)  # [B, T, V + A]
        _, (last, _) = self.lstm(self.project(self.input_dropout(features)))
        return self.head(last[-1])


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def matched_hidden(video_width: int, audio_width: int, actions: int, hidden: int, projection: int) -> int:
    """The hidden size at which the video-only classifier comes closest to the parameter count of one with audio."""
    target = parameter_count(ActionClassifier(video_width, audio_width, actions, hidden, projection, 0.0))
    sizes = range(hidden, 2 * hidden + 1)
    return min(sizes, key=lambda size: abs(parameter_count(ActionClassifier(video_width, 0, actions, size, projection, 0.0)) - target))

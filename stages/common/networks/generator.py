"""Networks that generate audio features from video features."""

import torch
from torch import nn


class AudioGenerator(nn.Module):
    """Architecture 1: video features [B, T, V] -> audio features [B, T, A] by an LSTM over the time steps.

    Inputs are standardised and targets are predicted in standardised units (`scale` and `unscale` hold the training
    clips' means and deviations), so that no dimension rules the loss.  `bidirectional`: a step may see what follows; a
    sound often begins where the movement that explains it ends.
    """

    def __init__(
        self,
        video_width: int,
        audio_width: int,
        hidden: int,
        projection: int,
        dropout: float,
        bidirectional: bool,
    ):
        super().__init__()
        for name, size in (("video", video_width), ("audio", audio_width)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_std", torch.ones(size))
        self.project = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(video_width, projection), nn.ReLU(), nn.Dropout(dropout)
        )
        self.lstm = nn.LSTM(projection, hidden, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(hidden * (1 + bidirectional), audio_width)
        )

    def set_scale(self, modality: str, mean: torch.Tensor, std: torch.Tensor) -> None:
        """Mean and standard deviation of a modality over the training clips; saved with the weights."""
        getattr(self, f"{modality}_mean").copy_(mean)
        getattr(self, f"{modality}_std").copy_(std)

    def scale(self, audio: torch.Tensor) -> torch.Tensor:
        """Audio features in the units of the targets."""
        return (audio - self.audio_mean) / self.audio_std

    def unscale(self, audio: torch.Tensor) -> torch.Tensor:
        """The inverse of `scale`."""
        return audio * self.audio_std + self.audio_mean

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """[B, T, V] -> standardised audio features [B, T, A]."""
        hidden, _ = self.lstm(self.project((video - self.video_mean) / self.video_std))
        return self.head(hidden)


def generation_loss(
    predicted: torch.Tensor, target: torch.Tensor, mse_weight: float, cosine_weight: float
) -> torch.Tensor:
    """MSE + (1 - cosine per time step), of standardised features [B, T, A]."""
    cosine = nn.functional.cosine_similarity(predicted, target, dim=-1).mean()
    return mse_weight * nn.functional.mse_loss(predicted, target) + cosine_weight * (1 - cosine)

"""Networks that generate audio features from video features."""

from dataclasses import dataclass, fields

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


@dataclass(frozen=True)
class Anchors:
    """What a batch is conditioned on; anchors are the steps of representative frames.

    present [B, T] bool: whether a step is an anchor; caption [B, T, D] text embeddings (anything elsewhere); text
    [B, T, k, D] and audio [B, T, k, A] of the labels that each anchor's caption was mapped to (audio is centred: the training
    clips' mean is 0); valid [B, T, k] which of them exist: a caption that resembles no label has none.
    """

    present: torch.Tensor
    caption: torch.Tensor
    text: torch.Tensor
    audio: torch.Tensor
    valid: torch.Tensor

    def to(self, device: str) -> "Anchors":
        return Anchors(*(getattr(self, field.name).to(device) for field in fields(self)))


class LabelAttention(nn.Module):
    """Attention over the k labels an anchor was mapped to: value = label audio, key = label text, query = caption and frame.

    Query and key are the text embeddings plus learned projections that start at 0, so that the first weights are those of
    the plain cosines; weight decay pulls back to these.  The temperature is learned; at 1 all labels would weigh the same,
    because cosines differ by tenths.
    """

    def __init__(self, text_width: int, video_width: int, temperature: float):
        super().__init__()
        self.query = nn.Linear(text_width + video_width, text_width, bias=False)
        self.key = nn.Linear(text_width, text_width, bias=False)
        nn.init.zeros_(self.query.weight)
        nn.init.zeros_(self.key.weight)
        self.log_temperature = nn.Parameter(torch.tensor(temperature).log())

    def weights(self, anchors: Anchors, frame: torch.Tensor) -> torch.Tensor:
        """frame [B, T, V] -> weights [B, T, k], rows summing to 1 (0 where no label is valid)."""
        there = anchors.present  # computed at anchors alone: they are a quarter of the steps
        caption, text, valid = anchors.caption[there], anchors.text[there], anchors.valid[there]
        query = caption + self.query(torch.cat([caption, frame[there]], dim=-1))
        cosine = nn.functional.cosine_similarity(
            query[:, None, :], text + self.key(text), dim=-1
        )  # [anchors, k]
        scores = (cosine / self.log_temperature.exp()).masked_fill(~valid, -1e4)
        weights = torch.zeros(anchors.valid.shape, dtype=scores.dtype, device=scores.device)
        weights[there] = scores.softmax(-1) * valid
        return weights

    def forward(self, anchors: Anchors, frame: torch.Tensor) -> torch.Tensor:
        """The mapped audio feature of each anchor [B, T, A]; zeros at other steps."""
        return (self.weights(anchors, frame)[..., None] * anchors.audio).sum(-2)


def nearest_anchor(anchors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """anchors [B, T] bool -> share [B, T, T] of each step's nearest anchors (two at the same distance count half each;
    zeros where a clip has none) and the distance to them [B, T] in steps (infinite there)."""
    steps = torch.arange(anchors.shape[1], device=anchors.device)
    distance = (steps[:, None] - steps).abs().float().expand(len(anchors), -1, -1)
    distance = distance.masked_fill(~anchors[:, None, :], torch.inf)  # [B, step, anchor]
    closest = distance.amin(-1)
    chosen = (distance == closest[..., None]) & anchors[:, None, :]
    return chosen / chosen.sum(-1, keepdim=True).clamp(min=1), closest


def propagate(values: torch.Tensor, anchors: torch.Tensor, length: float) -> torch.Tensor:
    """Carry what stands at anchors to their neighbours, decaying with the distance d in steps: c(t) = exp(-d / length) v(nearest).

    values [B, T, A], anchors [B, T] bool -> [B, T, A].  An anchor keeps its own value in full strength; `length` 0 leaves
    the other steps at 0, and so does a clip without anchors.

        length 2:   d  0    1    2    3    4        steps      . . A . . . . A .
                       1   .61  .37  .22  .14       strength   .37 .61 1 .61 .37 .37 .61 1 .61
    """
    share, distance = nearest_anchor(anchors)
    strength = torch.exp(-distance / length) if length else (distance == 0).float()
    return strength[..., None] * (share @ values)


class MappedAudioGenerator(AudioGenerator):
    """Video features [B, T, V], anchors and noise [B, T, N] -> standardised audio features [B, T, A].

    The input of a step is noise, the label audio carried to it (`propagate`) and the visual feature of its own frame
    (`visual: step`) or of its nearest representative frame (`representative`, the research description's).  The label audio
    also enters the output, scaled by the learned `injection` that starts at 1 (full strength).
    """

    def __init__(
        self,
        video_width: int,
        audio_width: int,
        text_width: int,
        hidden: int,
        projection: int,
        dropout: float,
        bidirectional: bool,
        noise: int,
        length: float,
        anchored: bool,
        visual: str,
        temperature: float,
    ):
        super().__init__(
            video_width + audio_width + noise,
            audio_width,
            hidden,
            projection,
            dropout,
            bidirectional,
        )
        self.register_buffer("video_mean", torch.zeros(video_width))
        self.register_buffer("video_std", torch.ones(video_width))
        self.attention = LabelAttention(text_width, video_width, temperature)
        self.injection = nn.Parameter(torch.ones(()))
        self.length, self.anchored, self.visual = length, anchored, visual

    def condition(self, frame: torch.Tensor, anchors: Anchors) -> torch.Tensor:
        """Label audio at every step [B, T, A] in the units of the targets; not `anchored`: the clip's mean at all steps."""
        mapped, known = self.attention(anchors, frame) / self.audio_std, anchors.valid.any(-1)
        if self.anchored:
            return propagate(mapped, known, self.length)
        return (mapped.sum(1, keepdim=True) / known.sum(1).clamp(min=1)[:, None, None]).expand_as(
            mapped
        )

    def forward(self, video: torch.Tensor, anchors: Anchors, noise: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        frame = (video - self.video_mean) / self.video_std
        label_audio = self.condition(frame, anchors)
        if self.visual == "representative":
            frame = nearest_anchor(anchors.present)[0] @ frame
        hidden, _ = self.lstm(self.project(torch.cat([frame, label_audio, noise], dim=-1)))
        return self.head(hidden) + self.injection * label_audio

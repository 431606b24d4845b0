"""Networks that generate audio features from video features.

AudioGenerator is architecture 1: an LSTM over the video features. MappedAudioGenerator is
architecture 2: the same LSTM, conditioned on the sound of the labels that captions were mapped to.
Shapes: B clips, T time steps, V and A dimensions of the video and audio features, D of text
embeddings, k labels per caption, N noise dimensions.
"""

from dataclasses import dataclass, field, fields, replace

import torch
from torch import nn

from audio_from_video.learning.dropout import Dropout

# What stands for a label that does not exist, before the softmax; finite, as -inf would give NaN
# where none exists.
NO_LABEL_SCORE = -1e4
# Logarithms of predicted variances, in standardised units: a float16 deviation stays above 0.
LOG_VARIANCE_RANGE = (-12.0, 6.0)


@dataclass(frozen=True)
class GeneratorSizes:
    """Sizes of architecture 1's network; hidden: of the LSTM's state in each direction.

    variance: `predicted` adds a second head.
    """

    video_width: int
    audio_width: int
    hidden: int
    projection: int
    dropout: float
    bidirectional: bool
    variance: str = field(default="none", kw_only=True)


@dataclass(frozen=True)
class MappedGeneratorSizes(GeneratorSizes):
    """Sizes of architecture 2's network; params.yaml explains what they add."""

    text_width: int
    noise: int
    propagation: float
    anchors: bool
    visual: str
    temperature: float


@dataclass(frozen=True)
class Prediction:
    """What a generator says of clips, in the units of the targets.

    mean [B, T, A]: the audio features.
    log_variance [B, T, A]: of the errors that it expects; None where it predicts none.
    """

    mean: torch.Tensor
    log_variance: torch.Tensor | None = None


class AudioGenerator(nn.Module):
    """Architecture 1: video features [B, T, V] -> audio features [B, T, A] by an LSTM.

    Inputs are standardised and targets are predicted in standardised units (`scale` and `unscale`
    hold the training clips' means and deviations), so that no dimension rules the loss.
    `bidirectional`: a step may see what follows; a sound often begins where the movement that
    explains it ends.
    input_width: of the first layer, where it reads more than the video features.
    """

    def __init__(self, sizes: GeneratorSizes, input_width: int | None = None):
        super().__init__()
        for modality, size in (("video", sizes.video_width), ("audio", sizes.audio_width)):
            self.register_buffer(f"{modality}_mean", torch.zeros(size))
            self.register_buffer(f"{modality}_std", torch.ones(size))

        # The order of the layers is that of their initial weights' random draws.
        self.project = nn.Sequential(
            Dropout(sizes.dropout),
            nn.Linear(input_width or sizes.video_width, sizes.projection),
            nn.ReLU(),
            Dropout(sizes.dropout),
        )
        self.lstm = nn.LSTM(
            sizes.projection, sizes.hidden, batch_first=True, bidirectional=sizes.bidirectional
        )
        width = sizes.hidden * (2 if sizes.bidirectional else 1)
        self.head = nn.Sequential(Dropout(sizes.dropout), nn.Linear(width, sizes.audio_width))
        self.variance_head: nn.Sequential | None = None
        if sizes.variance == "predicted":
            self.variance_head = nn.Sequential(
                Dropout(sizes.dropout), nn.Linear(width, sizes.audio_width)
            )

    def set_scale(self, modality: str, mean: torch.Tensor, std: torch.Tensor) -> None:
        """Set mean and standard deviation [V] or [A] of a modality; saved with the weights."""
        getattr(self, f"{modality}_mean").copy_(mean)
        getattr(self, f"{modality}_std").copy_(std)

    def scale(self, audio: torch.Tensor) -> torch.Tensor:
        """Return audio features [B, T, A] in the units of the targets."""
        return (audio - self.audio_mean) / self.audio_std

    def unscale(self, audio: torch.Tensor) -> torch.Tensor:
        """Return features [B, T, A] in the units of the audio: the inverse of `scale`."""
        return audio * self.audio_std + self.audio_mean

    def scale_video(self, video: torch.Tensor) -> torch.Tensor:
        """Standardise video features [B, T, V]."""
        return (video - self.video_mean) / self.video_std

    def start_variances(self, std: torch.Tensor) -> None:
        """Let predicted variances start at those of the training clips' features.

        std [A]: their deviations, in the units of the audio. From there the network learns how much
        of them it explains: a component that hardly varies would take long to come down from 1.
        """
        if self.variance_head is None:
            return
        linear = self.variance_head[1]
        with torch.no_grad():
            linear.bias.copy_(2 * (std.to(self.audio_std.device) / self.audio_std).log())

    def deviation(self, log_variance: torch.Tensor) -> torch.Tensor:
        """Return predicted deviations [B, T, A] in the units of the audio."""
        return (log_variance / 2).exp() * self.audio_std

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """[B, T, V] -> standardised audio features [B, T, A]."""
        return self.predict(video).mean

    def predict(self, video: torch.Tensor) -> Prediction:
        """Return features and, where they are predicted, variances of video features [B, T, V]."""
        return self._of_states(self.project(self.scale_video(video)))

    def _of_states(self, projected: torch.Tensor) -> Prediction:
        """What the LSTM and its heads make of the first layer's outputs [B, T, projection]."""
        hidden, _ = self.lstm(projected)
        mean = self.head(hidden)
        if self.variance_head is None:
            return Prediction(mean)
        return Prediction(mean, self.variance_head(hidden).clamp(*LOG_VARIANCE_RANGE))


class ActionSound(nn.Module):
    """The mean sound of each action, to which a generator may add what it makes of the video.

    mean [actions, A]: over clips and steps, in the units of the targets; it is not learned.
    """

    def __init__(self, actions: int, audio_width: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(actions, audio_width))

    def forward(self, probabilities: torch.Tensor) -> torch.Tensor:
        """Return the sound that clips of such probabilities [B, actions] have on average.

        It is the same at every step: [B, 1, A].
        """
        return (probabilities @ self.mean)[:, None]


def generation_loss(
    predicted: torch.Tensor, target: torch.Tensor, mse_weight: float, cosine_weight: float
) -> torch.Tensor:
    """Return the mean of `clip_losses`, a scalar."""
    return clip_losses(predicted, target, mse_weight, cosine_weight).mean()


def clip_losses(
    predicted: torch.Tensor, target: torch.Tensor, mse_weight: float, cosine_weight: float
) -> torch.Tensor:
    """mse_weight x MSE + cosine_weight x (1 - mean cosine over time steps) of each clip, [B].

    predicted, target: standardised audio features [B, T, A].
    """
    cosine = nn.functional.cosine_similarity(predicted, target, dim=-1).mean(1)
    mse = (predicted - target).square().mean((1, 2))
    return mse_weight * mse + cosine_weight * (1 - cosine)


def beta_nll(prediction: Prediction, target: torch.Tensor, beta: float) -> torch.Tensor:
    """Return twice the Gaussian negative log-likelihood, each term weighted, a scalar.

    The weight is the predicted variance to the power of `beta`, without gradient (beta-NLL, Seitzer
    et al. 2022, arXiv 2203.09168). At 0 it is the likelihood, whose gradient for the mean vanishes
    where a large variance excuses the error; at 1 this gradient is that of the squared error. The
    constant log(2 pi) is left out.
    target: standardised audio features [B, T, A].
    """
    log_variance = prediction.log_variance
    if log_variance is None:
        raise ValueError("the likelihood needs predicted variances")
    weight = (beta * log_variance).exp().detach()
    error = (prediction.mean - target).square()
    return (weight * (log_variance + error / log_variance.exp())).mean()


def contrastive_loss(
    predicted: torch.Tensor, target: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Return how well each clip's prediction tells its own target from the others, a scalar.

    InfoNCE (van den Oord et al. 2018): the cross-entropy of the own clip among those of the batch,
    of cosines over all time steps divided by `temperature`.
    predicted, target: standardised audio features [B, T, A].
    """
    directions = nn.functional.normalize(predicted.flatten(1), dim=1)
    target_directions = nn.functional.normalize(target.flatten(1), dim=1)
    logits = directions @ target_directions.T / temperature  # [B, B]
    own = torch.arange(len(logits), device=logits.device)
    return nn.functional.cross_entropy(logits, own)


@dataclass(frozen=True)
class Anchors:
    """What a batch is conditioned on; anchors are the steps of representative frames.

    present [B, T] bool: whether a step is an anchor.
    caption [B, T, D]: text embedding of an anchor's caption (anything at other steps).
    text [L, D]: text embeddings of the labels that occur.
    label [B, T, k]: the places in `text` of the labels that each anchor's caption was mapped to.
    audio [B, T, k, A]: of these labels, centred: the training clips' mean is 0.
    valid [B, T, k] bool: which of these labels exist; a caption that resembles none has none.
    """

    present: torch.Tensor
    caption: torch.Tensor
    text: torch.Tensor
    label: torch.Tensor
    audio: torch.Tensor
    valid: torch.Tensor

    def to(self, device: str) -> "Anchors":
        """Return the same anchors on a device."""
        return Anchors(*(getattr(self, field.name).to(device) for field in fields(self)))


class LabelAttention(nn.Module):
    """Attention over the k labels of an anchor: value = label audio, key = label text.

    The query is caption and frame. Query and key are the text embeddings plus learned projections
    that start at 0, so that the first weights are those of the plain cosines; weight decay pulls
    back to these. The temperature is learned; at 1 all labels would weigh the same, because cosines
    differ by tenths.
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
        # Computed at anchors alone, a quarter of the steps, and once for each label that occurs.
        present = anchors.present
        caption = anchors.caption[present]  # [anchors, D]
        label = anchors.label[present]  # [anchors, k]
        valid = anchors.valid[present]  # [anchors, k]
        caption_and_frame = torch.cat([caption, frame[present]], dim=-1)
        query = nn.functional.normalize(caption + self.query(caption_and_frame), dim=-1)
        key = nn.functional.normalize(anchors.text + self.key(anchors.text), dim=-1)  # [L, D]
        cosine = (query @ key.T).gather(1, label)  # [anchors, k]
        scores = cosine / self.log_temperature.exp()
        scores = scores.masked_fill(~valid, NO_LABEL_SCORE)

        weights = torch.zeros(anchors.valid.shape, dtype=scores.dtype, device=scores.device)
        weights[present] = scores.softmax(-1) * valid
        return weights

    def forward(self, anchors: Anchors, frame: torch.Tensor) -> torch.Tensor:
        """The mapped audio feature of each anchor [B, T, A]; zeros at other steps."""
        weights = self.weights(anchors, frame)[..., None]  # [B, T, k, 1]
        return (weights * anchors.audio).sum(-2)


def nearest_anchor(anchors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the nearest anchors of each step and their distance, of anchors [B, T] bool.

    share [B, T, T]: rows of weights over the steps; two anchors at the same distance count half
    each; zeros where a clip has none.
    distance [B, T]: in steps; infinite where a clip has none.
    """
    steps = torch.arange(anchors.shape[1], device=anchors.device)
    is_anchor = anchors[:, None, :]  # [B, 1, T]
    distance = (steps[:, None] - steps).abs().float()  # [T, T]
    distance = distance.expand(len(anchors), -1, -1)
    distance = distance.masked_fill(~is_anchor, torch.inf)  # [B, step, anchor]
    closest = distance.amin(-1)  # [B, T]

    nearest = (distance == closest[..., None]) & is_anchor
    count = nearest.sum(-1, keepdim=True).clamp(min=1)
    return nearest / count, closest


def propagate(values: torch.Tensor, anchors: torch.Tensor, length: float) -> torch.Tensor:
    """Carry values of anchors to their neighbours: c(t) = exp(-d / length) v(nearest anchor).

    d is the distance in steps. values [B, T, A], anchors [B, T] bool -> [B, T, A]. An anchor keeps
    its own value in full strength. With `length` 0 the other steps stay at 0, and so do all steps
    of a clip without anchors.

        length 2:   d  0    1    2    3    4        steps      . . A . . . . A .
                       1   .61  .37  .22  .14       strength   .37 .61 1 .61 .37 .37 .61 1 .61
    """
    share, distance = nearest_anchor(anchors)
    strength = torch.exp(-distance / length) if length else (distance == 0).float()
    return strength[..., None] * (share @ values)


class MappedAudioGenerator(AudioGenerator):
    """Architecture 2: video features, anchors and noise -> audio features, [B, T, A].

    The input of a step is noise, the label audio carried to it (`propagate`) and the visual feature
    of its own frame (`visual: step`) or of its nearest representative frame (`representative`, as
    in the research description). The label audio also enters the output, scaled by the learned
    `injection` that starts at 1 (full strength).
    """

    def __init__(self, sizes: MappedGeneratorSizes):
        super().__init__(sizes, sizes.video_width + sizes.audio_width + sizes.noise)
        self.attention = LabelAttention(sizes.text_width, sizes.video_width, sizes.temperature)
        self.injection = nn.Parameter(torch.ones(()))
        self.propagation = sizes.propagation
        self.anchored = sizes.anchors
        self.visual = sizes.visual

    def label_audio(self, frame: torch.Tensor, anchors: Anchors) -> torch.Tensor:
        """Label audio at every step [B, T, A] in the units of the targets.

        Not `anchored`: the mean over a clip's anchors at all steps.
        """
        # The label audio is centred, so that only its scale is left to adjust.
        mapped = self.attention(anchors, frame) / self.audio_std
        has_label = anchors.valid.any(-1)
        if self.anchored:
            return propagate(mapped, has_label, self.propagation)
        count = has_label.sum(1).clamp(min=1)[:, None, None]  # [B, 1, 1]
        mean = mapped.sum(1, keepdim=True) / count  # [B, 1, A]
        return mean.expand_as(mapped)

    def forward(  # type: ignore[override]
        self, video: torch.Tensor, anchors: Anchors, noise: torch.Tensor
    ) -> torch.Tensor:
        """video [B, T, V], anchors, noise [B, T, N] -> standardised audio features [B, T, A]."""
        return self.predict(video, anchors, noise).mean

    def predict(  # type: ignore[override]
        self, video: torch.Tensor, anchors: Anchors, noise: torch.Tensor
    ) -> Prediction:
        """Return features and, where they are predicted, variances."""
        frame = self.scale_video(video)
        label_audio = self.label_audio(frame, anchors)
        if self.visual == "representative":
            share, _ = nearest_anchor(anchors.present)
            frame = share @ frame
        inputs = torch.cat([frame, label_audio, noise], dim=-1)  # [B, T, V + A + N]
        prediction = self._of_states(self.project(inputs))
        return replace(prediction, mean=prediction.mean + self.injection * label_audio)

"""The audio that stands in a classifier's input: a clip's own, another one, or a filler."""

from dataclasses import dataclass

import torch

from audio_from_video.classification.data import ActionData
from audio_from_video.classification.settings import GENERATOR_OF, STORED_AUDIO, FusionParams
from audio_from_video.runtime.errors import UserError

CLIPS_PER_READ = 256  # bounds memory
ESTIMATED_AUDIO = ("retrieved", *GENERATOR_OF)  # kinds that stand for a clip's own sound
FROM_NETWORK = ("real", "token", "reconstructed")  # missing audio is left to the network


@dataclass(frozen=True)
class AudioScale:
    """Mean and standard deviation [A] of audio features."""

    mean: torch.Tensor
    std: torch.Tensor


def audio_scale(data: ActionData, training_indices: torch.Tensor) -> AudioScale:
    """Return the scale of the audio that a training learns from.

    It is 0 and 1 where no training clip has audio: a gate may reject all clips.
    """
    kind = data.condition.train_audio
    sound = data.sounds[kind if kind in STORED_AUDIO else "real"]
    places = sound.row[training_indices]
    mean, std = sound.file.moments(places[places >= 0].tolist())
    return AudioScale(mean, std)


def component_weights(
    data: ActionData, fusion: FusionParams, training_indices: torch.Tensor, seed: int
) -> torch.Tensor:
    """Return the weights [A] of audio components that are standardised by `audio_scale`.

    dimension: all the same, so that a component that hardly varies counts as much as the first.
    global: their deviations, divided by the root of the mean variance, as if all components had
    been divided by one deviation. confidence: the same; `AudioReader` weighs each clip's.
    reliability: their out-of-fold R2 on the training clips (`out_of_fold_r2`), divided by the root
    of its mean square; all the same where the audio is real.
    Those from `fusion.components` on get 0.
    """
    std = audio_scale(data, training_indices).std
    weights = torch.ones_like(std)
    if fusion.audio_scale in ("global", "confidence"):
        weights = std
    elif fusion.audio_scale == "reliability":
        weights = out_of_fold_r2(data, training_indices, seed)
    size = weights.square().mean().sqrt()
    if size > 0:
        weights = weights / size
    if fusion.components:
        weights = weights.clone()
        weights[fusion.components :] = 0.0
    return weights


def out_of_fold_r2(data: ActionData, training_indices: torch.Tensor, seed: int) -> torch.Tensor:
    """Return which share [A], 0 to 1, of each component's variance its estimates explain.

    The estimates are the generated or retrieved features of the training clips [n], which come from
    models that have not seen the clips' sources. Clips without estimate or without sound of their
    own do not count. Real audio explains itself; without clips nothing is known: 1.
    """
    condition = data.condition
    kinds = [condition.test_audio, condition.train_audio]
    estimated = [kind for kind in kinds if kind in ESTIMATED_AUDIO]
    width = data.sounds["real"].file.shape[-1]
    if not estimated:
        return torch.ones(width)

    estimates = data.sounds[estimated[0]]
    known = (estimates.row[training_indices] >= 0) & (
        data.sounds["real"].row[training_indices] >= 0
    )
    clips = training_indices[known]
    if not len(clips):
        return torch.ones(width)
    _, std = data.sounds["real"].file.moments(data.sounds["real"].row[clips].tolist())
    errors = torch.zeros(width, dtype=torch.float64)
    steps = 0
    for part in clips.split(CLIPS_PER_READ):
        own = data.sounds["real"].read(part)[0].double()  # [n, T, A]
        error = own - estimates.read(part, seed)[0].double()
        errors += error.square().sum((0, 1))
        steps += own.shape[0] * own.shape[1]
    share = 1 - errors / steps / std.double().square()
    return share.clamp(0, 1).float()


def audio_reader(
    data: ActionData, fusion: FusionParams, training_indices: torch.Tensor, seed: int
) -> "AudioReader":
    """Return what reads a condition's audio for a training on the given clips [n].

    Raises UserError where generated audio shall count by its generator's confidence, and this
    predicts none.
    """
    scale = audio_scale(data, training_indices)
    if fusion.audio_scale != "confidence":
        return AudioReader(data, seed, scale)
    generated = [kind for kind in data.sounds if kind in GENERATOR_OF]
    if generated and data.deviations is None:
        raise UserError(
            f"fusion.audio_scale: confidence needs predicted deviations, and "
            f"{data.condition.generated_audio} has none: set generator.lstm.variance to predicted"
        )
    real = data.sounds["real"]
    places = real.row[training_indices]
    _, std = real.file.moments(places[places >= 0].tolist())
    return AudioReader(data, seed, scale, std.square())


@dataclass(frozen=True)
class AudioInput:
    """Audio of n clips.

    features [n, T, A]: zeros where a clip has none.
    present [n] bool: whether they stand in the input.
    is_real [n] bool: whether they are the clip's own real audio, in the input or not.
    """

    features: torch.Tensor
    present: torch.Tensor
    is_real: torch.Tensor


@dataclass
class AudioReader:
    """Reads audio as a condition has it, for the training of one seed.

    real_variance [A]: of real sound, with which generated audio counts for as much as its generator
    trusts in it (`_own`); None: all of it counts in full.
    """

    data: ActionData
    seed: int
    scale: AudioScale
    real_variance: torch.Tensor | None = None

    def read(
        self,
        clip_indices: torch.Tensor,
        kind: str,
        missing: torch.Tensor,
        generator: torch.Generator | None = None,
    ) -> AudioInput:
        """Return the audio of clips [n], with the condition's filler where it is missing.

        kind: the kind of audio of clips that do not lack it.
        missing [n] bool: the clips that lack it.
        generator: noise is drawn from it; without one, noise depends on clip and seed alone.
        """
        features, present = self._own(kind, clip_indices)
        is_real = present & (kind == "real")
        gaps = torch.nonzero(missing)[:, 0]
        filler = self.data.condition.test_audio
        if not len(gaps) or filler in FROM_NETWORK:
            return AudioInput(features, present & ~missing, is_real)

        shape = (len(gaps), *features.shape[1:])
        if filler == "zeros":
            features[gaps] = 0.0
            present[gaps] = True
        elif filler == "mean":
            features[gaps] = self.scale.mean
            present[gaps] = True
        elif filler == "noise":
            noise = self._noise(clip_indices[gaps], shape, generator)
            features[gaps] = self.scale.mean + self.scale.std * noise
            present[gaps] = True
        else:
            other_features, other_present = self._own(filler, clip_indices[gaps])
            features[gaps] = other_features
            present[gaps] = other_present
        return AudioInput(features, present, is_real)

    def _own(self, kind: str, clip_indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Stored audio [n, T, A] of a kind, and which clips have it [n] bool.

        Generated audio is shrunk towards the mean, to the share of the variance that its generator
        expects to explain: 1 - predicted variance / variance of real sound, at least 0.
        """
        features, present = self.data.sounds[kind].read(clip_indices, self.seed)
        if self.real_variance is None or kind not in GENERATOR_OF or self.data.deviations is None:
            return features, present
        deviation, _ = self.data.deviations.read(clip_indices, self.seed)
        share = (1 - deviation.square() / self.real_variance).clamp(min=0)
        shrunk = self.scale.mean + share * (features - self.scale.mean)
        return torch.where(present[:, None, None], shrunk, features), present

    def _noise(
        self,
        clip_indices: torch.Tensor,
        shape: tuple[int, ...],
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        """Standard normal noise of the given shape [n, T, A]."""
        if generator is None:
            return self.data.noise(clip_indices, shape[1:], self.seed)
        return torch.randn(*shape, generator=generator)

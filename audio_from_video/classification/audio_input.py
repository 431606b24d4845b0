"""The audio that stands in a classifier's input: a clip's own, another one, or a filler."""

from dataclasses import dataclass

import torch

from audio_from_video.classification.data import ActionData
from audio_from_video.classification.settings import STORED_AUDIO

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
    """Reads audio as a condition has it, for the training of one seed."""

    data: ActionData
    seed: int
    scale: AudioScale

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
        features, present = self.data.sounds[kind].read(clip_indices, self.seed)
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
            other = self.data.sounds[filler]
            other_features, other_present = other.read(clip_indices[gaps], self.seed)
            features[gaps] = other_features
            present[gaps] = other_present
        return AudioInput(features, present, is_real)

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

"""The networks of the architectures with what they read: clip indices in, audio features out."""

from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from audio_from_video.backbones import hub
from audio_from_video.generation.conditioning import (
    Conditioning,
    TextEncoder,
    TunedConditioning,
)
from audio_from_video.generation.networks import (
    ActionSound,
    Anchors,
    AudioGenerator,
    GeneratorSizes,
    MappedAudioGenerator,
    MappedGeneratorSizes,
    Prediction,
)
from audio_from_video.generation.settings import (
    GeneratorNetwork,
    GeneratorParams,
    MappingNetwork,
)
from audio_from_video.learning.features import Features
from audio_from_video.runtime.digests import digest, new_hash
from audio_from_video.runtime.errors import UserError
from audio_from_video.storage.predictions import Predictions

# The name of the text encoder within the network: its parameters are `text.<name>`.
TEXT_ENCODER = "text"
# The same for the mean sound of the actions.
ACTION_SOUND = "action_sound"


def generator_sizes(lstm: GeneratorNetwork, video_width: int, audio_width: int) -> GeneratorSizes:
    """Return the sizes that the networks of both architectures have."""
    return GeneratorSizes(
        video_width=video_width,
        audio_width=audio_width,
        hidden=lstm.hidden,
        projection=lstm.projection,
        dropout=lstm.dropout,
        bidirectional=lstm.bidirectional,
        variance=lstm.variance,
    )


def mapped_sizes(
    sizes: GeneratorSizes, mapping: MappingNetwork, text_width: int
) -> MappedGeneratorSizes:
    """Return the sizes of architecture 2's network; sizes: those that both have."""
    return MappedGeneratorSizes(
        **asdict(sizes),
        text_width=text_width,
        noise=mapping.noise,
        propagation=mapping.propagation,
        anchors=mapping.anchors,
        visual=mapping.visual,
        temperature=mapping.temperature,
    )


@dataclass(frozen=True)
class PredictedActions:
    """How probable a classifier thinks each action of each clip.

    actions: their names; probabilities [N, actions]: means over its trainings.
    """

    actions: list[str]
    probabilities: torch.Tensor


def predicted_actions(data: Features, predictions: Predictions) -> PredictedActions:
    """Return the predictions by the clips' indices.

    Raises UserError where they do not hold all clips.
    """
    ensemble = predictions.ensemble()
    position = {clip_id: row for row, clip_id in enumerate(ensemble.clips.clip_id)}
    rows = [position.get(clip_id, -1) for clip_id in data.clips.clip_id]
    if -1 in rows:
        raise UserError(
            f"{rows.count(-1)} clips have no predicted action: generator.lstm.residual: "
            "action_mean needs answers_pool and out_of_fold of the condition video_only"
        )
    return PredictedActions(ensemble.actions, torch.from_numpy(ensemble.probabilities[0][rows]))


@dataclass
class Inputs:
    """What all trainings of an architecture share.

    data: the clips' features; fold [N]: their folds.
    conditioning: captions and labels, which only architecture 2 reads.
    shuffled: whether clips learn from the sound of others (the control).
    predicted: the actions whose mean sound generators add to; None: they add to nothing.
    """

    data: Features
    fold: np.ndarray
    conditioning: Conditioning | None = None
    shuffled: bool = False
    predicted: PredictedActions | None = None

    def key(self) -> str:
        """Return a digest of what all trainings read: part of a checkpoint's key."""
        conditioning = self.conditioning.key() if self.conditioning else None
        predicted = None
        if self.predicted:
            probabilities = self.predicted.probabilities.numpy().tobytes()
            predicted = [self.predicted.actions, new_hash(probabilities).hexdigest()]
        clips = [
            self.data.audio_row.tolist(),
            self.fold.tolist(),
            self.data.clips.clip_id.tolist(),
        ]
        return digest(
            self.data.video.digest(),
            self.data.audio.digest(),
            clips,
            conditioning,
            self.shuffled,
            predicted,
        )


class Generator:
    """Architecture 1 and the control: audio features from video features alone.

    model: the network. slower_parts: learning rates of parts of it, by prefix of parameter names.
    noise_generator: what noise is drawn from in training.
    """

    def __init__(self, inputs: Inputs, seed: int, p: GeneratorParams):
        self.data = inputs.data
        self.seed = seed
        self.device = hub.device()
        # Apart from PyTorch's own generator: the initial weights do not depend on the noise.
        self.noise_generator = torch.Generator().manual_seed(seed)
        self.slower_parts: dict[str, float] = {}
        self.model = self._build(p)
        self.predicted = inputs.predicted
        self.action_sound: ActionSound | None = None
        if self.predicted:
            width = self.data.audio.shape[-1]
            self.action_sound = ActionSound(len(self.predicted.actions), width)
            self.model.add_module(ACTION_SOUND, self.action_sound)
        self.model.to(self.device)

    def _build(self, p: GeneratorParams) -> AudioGenerator:
        """The network with random weights."""
        return AudioGenerator(self._sizes(p))

    def _sizes(self, p: GeneratorParams) -> GeneratorSizes:
        """The sizes that both architectures have."""
        return generator_sizes(p.lstm, self.data.video.shape[-1], self.data.audio.shape[-1])

    def __call__(self, clip_indices: torch.Tensor) -> torch.Tensor:
        """Standardised audio features [n, T, A] of clips [n]."""
        return self.predict(clip_indices).mean

    def predict(self, clip_indices: torch.Tensor) -> Prediction:
        """Return what the network says of clips [n], added to the sound of their actions."""
        prediction = self._answer(clip_indices)
        if self.action_sound is None or self.predicted is None:
            return prediction
        probabilities = self.predicted.probabilities[clip_indices].to(self.device)
        return replace(prediction, mean=prediction.mean + self.action_sound(probabilities))

    def _answer(self, clip_indices: torch.Tensor) -> Prediction:
        """What the network says of clips [n]."""
        return self.model.predict(self.video(clip_indices))

    def refresh(self) -> None:
        """Bring constants up to date with the weights; needed before features are generated."""

    def video(self, clip_indices: torch.Tensor) -> torch.Tensor:
        """Video features [n, T, V] of clips."""
        video = self.data.video.read(clip_indices.tolist())
        return video.to(self.device)


class MappedGenerator(Generator):
    """Architecture 2: audio features from video, the labels of captions, and noise.

    stored: captions and labels as the mapping stage left them; conditioning: as the text encoder
    has them now, where it learns.
    """

    model: MappedAudioGenerator

    def __init__(self, inputs: Inputs, seed: int, p: GeneratorParams):
        if inputs.conditioning is None:
            raise ValueError("architecture 2 needs its conditioning")
        self.stored = inputs.conditioning
        self.conditioning: Conditioning | TunedConditioning = self.stored
        self.noise_width = p.caption_mapping.noise
        super().__init__(inputs, seed, p)

    def _build(self, p: GeneratorParams) -> MappedAudioGenerator:
        """The network with random weights and, where it learns, the text encoder in it."""
        mapping = p.caption_mapping
        sizes = mapped_sizes(self._sizes(p), mapping, self.stored.caption_text.shape[-1])
        model = MappedAudioGenerator(sizes)
        if mapping.finetune_text != "off" and mapping.condition == "mapped":
            self._tune_text(model, mapping.finetune_text)
            self.slower_parts = {f"{TEXT_ENCODER}.": mapping.text_learning_rate}
        return model

    def _tune_text(self, model: MappedAudioGenerator, trained: str) -> None:
        """Let the text encoder learn with the network, and the mapping follow it."""
        texts = self.stored.captions + self.stored.labels
        name = self.stored.settings["model"]
        encoder = TextEncoder(name, texts, trained).to(self.device)
        self.conditioning = TunedConditioning(self.stored, encoder)
        model.add_module(TEXT_ENCODER, encoder)

    def _answer(self, clip_indices: torch.Tensor) -> Prediction:
        """What the network says of clips [n].

        Noise is drawn anew in training; else it is the clip's and the seed's own.
        """
        video = self.video(clip_indices)
        if self.model.training:
            shape = (len(clip_indices), video.shape[1], self.noise_width)
            noise = torch.randn(*shape, generator=self.noise_generator)
            noise = noise.to(self.device)
        else:
            noise = self.own_noise(clip_indices, 0)
        return self.model.predict(video, self.anchors(clip_indices), noise)

    def refresh(self) -> None:
        """Encode all texts by the text encoder as it is, where it learns."""
        if isinstance(self.conditioning, TunedConditioning):
            self.conditioning.refresh()

    def anchors(self, clip_indices: torch.Tensor) -> Anchors:
        """Return the anchors of clips [n], on the device."""
        return self.conditioning.read(clip_indices).to(self.device)

    def own_noise(self, clip_indices: torch.Tensor, draw: int) -> torch.Tensor:
        """Noise [n, T, N] that depends on clip, seed and number of the draw alone."""
        shape = (self.data.video.shape[0], self.noise_width)
        noise = self.data.noise(clip_indices, shape, self.seed, draw)
        return noise.to(self.device)


def make_generator(inputs: Inputs, seed: int, p: GeneratorParams) -> Generator:
    """Return the generator of the architecture that the inputs are for, with random weights."""
    if inputs.conditioning is None:
        return Generator(inputs, seed, p)
    return MappedGenerator(inputs, seed, p)

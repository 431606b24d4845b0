"""The trained networks of a bundle: generators, heads from sound to labels, and classifiers."""

from collections.abc import Iterator

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from audio_from_video.classification.head_weights import KeptHead
from audio_from_video.classification.networks import (
    ActionClassifier,
    ClassifierSizes,
    network_class,
)
from audio_from_video.generation.generator import generator_sizes, mapped_sizes
from audio_from_video.generation.networks import (
    Anchors,
    AudioGenerator,
    MappedAudioGenerator,
)
from audio_from_video.learning.features import own_noise
from audio_from_video.meaning.mel_head import MelAst, MelDecoder
from audio_from_video.meaning.pooled_head import PooledHead
from audio_from_video.prediction.bundle import (
    DECODER,
    LABEL_MAP,
    LABELLER,
    Bundle,
    classifier_file,
    generator_file,
)

# A single row goes through other kernels, whose sums are rounded differently: it is doubled.
SMALLEST_BATCH = 2


def as_stored(features: torch.Tensor) -> torch.Tensor:
    """Return features rounded to float16, as the stages store them."""
    return features.half().float()


def _doubled(batch: torch.Tensor) -> torch.Tensor:
    """A batch of at least SMALLEST_BATCH rows: the first one stands again at its end."""
    missing = SMALLEST_BATCH - len(batch)
    if missing <= 0:
        return batch
    return torch.cat([batch, batch[:1].expand(missing, *batch.shape[1:])])


class Generators:
    """The generators of an architecture, one for each seed."""

    def __init__(self, bundle: Bundle, architecture: str):
        self.settings = bundle.settings.generators[architecture]
        self.models: list[AudioGenerator] = []
        for seed in range(self.settings.seeds):
            model = self._network()
            model.load_state_dict(load_file(bundle.folder / generator_file(architecture, seed)))
            self.models.append(model.eval())

    def _network(self) -> AudioGenerator:
        each = self.settings
        sizes = generator_sizes(each.lstm, each.video_width, each.audio_width)
        if each.mapping is None:
            return AudioGenerator(sizes)
        return MappedAudioGenerator(mapped_sizes(sizes, each.mapping, each.text_width))

    def __call__(
        self, video: torch.Tensor, anchors: Anchors | None, clip_ids: list[str]
    ) -> torch.Tensor:
        """Return audio features [n, seeds, T, A] of video features [n, T, V].

        anchors: what architecture 2 is conditioned on.  clip_ids [n]: decide its noise.
        """
        with torch.inference_mode():
            features = [
                self._features(seed, video, anchors, clip_ids) for seed in range(len(self.models))
            ]
            return as_stored(torch.stack(features, 1))

    def _features(
        self, seed: int, video: torch.Tensor, anchors: Anchors | None, clip_ids: list[str]
    ) -> torch.Tensor:
        model = self.models[seed]
        inputs = _doubled(video)
        if not isinstance(model, MappedAudioGenerator):
            return model.unscale(model(inputs))[: len(video)]
        if anchors is None or self.settings.mapping is None:
            raise ValueError("architecture 2 needs its anchors")
        shape = (video.shape[1], self.settings.mapping.noise)
        noise = torch.stack([own_noise(clip_id, shape, seed, 0) for clip_id in clip_ids])
        doubled = Anchors(
            _doubled(anchors.present),
            _doubled(anchors.caption),
            anchors.text,
            _doubled(anchors.label),
            _doubled(anchors.audio),
            _doubled(anchors.valid),
        )
        return model.unscale(model(inputs, doubled, _doubled(noise)))[: len(video)]


class LabelHeads:
    """What leads from audio features to AudioSet labels, and to a log-mel to look at."""

    def __init__(self, bundle: Bundle):
        self.head = bundle.settings.label_predictor.head
        model = str(bundle.models.get(LABELLER, bundle.models["audio"]))
        self.pooled = PooledHead(load_file(bundle.folder / LABEL_MAP)["weights"], model)
        self.ast = MelAst(model) if self.head == "mel" else None
        self.decoder = self._decoder(bundle)

    @staticmethod
    def _decoder(bundle: Bundle) -> MelDecoder:
        sizes = bundle.settings.label_predictor
        weights = load_file(bundle.folder / DECODER)
        steps = bundle.settings.frames.count
        width = len(weights["mean"])
        decoder = MelDecoder(steps, width, sizes.hidden, sizes.frames, sizes.mel_bins)
        decoder.load_state_dict(weights)
        return decoder.eval()

    def scores(self, features: torch.Tensor) -> np.ndarray:
        """Return label scores [n, L] of audio features [n, seeds, T, A], mean over seeds.

        They are rounded to float16, as the stages store them.
        """
        flat = features.flatten(0, 1)
        if self.ast is None:
            scores = self.pooled.scores(flat)
        else:
            scores = self.ast.scores(self.log_mels(flat))
        means = scores.reshape(*features.shape[:2], -1).mean(1)
        return means.astype(np.float16).astype(np.float32)

    def log_mels(self, features: torch.Tensor) -> np.ndarray:
        """Return log-mels [n, frames, mel bins], as AST reads them, of features [n, T, A]."""
        with torch.inference_mode():
            return self.decoder(features).numpy()


class Classifiers:
    """The classifiers of a condition, one for each seed."""

    def __init__(self, bundle: Bundle, condition: str):
        self.settings = bundle.settings.classifiers[condition]
        actions = len(bundle.settings.actions)
        self.models = list(self._load(bundle, condition, actions))

    def _load(self, bundle: Bundle, condition: str, actions: int) -> Iterator[nn.Module | KeptHead]:
        each = self.settings
        if each.model != "lstm":
            for seed in range(each.seeds):
                yield KeptHead(load_file(bundle.folder / classifier_file(condition, seed)), actions)
            return
        network = network_class(each.learns, each.gate, each.test_audio)
        for seed in range(each.seeds):
            weights = load_file(bundle.folder / classifier_file(condition, seed))
            sizes = ClassifierSizes(
                video_width=len(weights["video_mean"]),
                audio_width=len(weights["audio_mean"]),
                actions=actions,
                hidden=each.hidden,
                projection=each.projection,
                dropout=0.0,
                steps=bundle.settings.frames.count,
            )
            model: ActionClassifier = network(sizes)
            model.load_state_dict(weights)
            yield model.eval()

    def __call__(
        self,
        video: torch.Tensor,
        audio: torch.Tensor | None,
        present: torch.Tensor,
        clip_ids: list[str],
    ) -> np.ndarray:
        """Return probabilities [n, seeds, actions] of video features [n, T, V].

        audio [n, seeds of the generator, T, A], or [n, 1, T, A] of real audio; None where the
        condition reads none.  present [n] bool: whose audio stands in the input.
        """
        with torch.inference_mode():
            probabilities = []
            for seed, model in enumerate(self.models):
                sound, heard = self._sound(model, seed, video, audio, present, clip_ids)
                probabilities.append(_answers(model, video, sound, heard))
            return torch.stack(probabilities, 1).numpy()

    def _sound(
        self,
        model: nn.Module | KeptHead,
        seed: int,
        video: torch.Tensor,
        audio: torch.Tensor | None,
        present: torch.Tensor,
        clip_ids: list[str],
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Audio [n, T, A] of a seed, None where it hears nothing, and where it is in the input."""
        width = len(model.audio_mean)
        if not width or self.settings.learns == "audio":
            return None, present
        if audio is None:
            audio = torch.zeros(len(video), 1, video.shape[1], width)
        features = audio[:, seed % audio.shape[1]]
        return self._filled(model, seed, features, present, clip_ids)

    def _filled(
        self,
        model: nn.Module | KeptHead,
        seed: int,
        features: torch.Tensor,
        present: torch.Tensor,
        clip_ids: list[str],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features [n, T, A] and where they stand in the input, with the condition's filler.

        A token or a reconstruction is the network's own affair.
        """
        everywhere = torch.ones_like(present)
        filler = self.settings.test_audio
        if filler == "zeros":
            return torch.zeros_like(features), everywhere
        if filler == "mean":
            return model.audio_mean.expand_as(features), everywhere
        if filler == "noise":
            shape = tuple(features.shape[1:])
            noise = torch.stack([own_noise(clip_id, shape, seed) for clip_id in clip_ids])
            return model.audio_mean + model.audio_std * noise, everywhere
        return features, present


def _answers(
    model: nn.Module | KeptHead,
    video: torch.Tensor,
    audio: torch.Tensor | None,
    present: torch.Tensor,
) -> torch.Tensor:
    """Probabilities [n, actions] of a classifier.

    audio [n, T, A]: None where it hears nothing.  present [n] bool: whose audio is in the input.
    """
    if isinstance(model, KeptHead):
        summary = model.video_summary(video)
        return torch.from_numpy(model.probabilities(summary, audio, present[:, None])).float()
    inputs = _doubled(video)
    if audio is None:
        logits = model(inputs)
    else:
        logits = model(inputs, _doubled(audio), _doubled(present))
    return logits[: len(video)].softmax(1)

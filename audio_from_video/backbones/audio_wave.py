"""wav2vec 2, HuBERT and WavLM: transformers on the waveform itself.

Baevski et al. 2020, Hsu et al. 2021, Chen et al. 2022.  Published models know no labels of sounds.
Some were fine-tuned on AudioSet, and `python -m tools.fit_label_head` gives any of them a head.
"""

import numpy as np

from audio_from_video.backbones import audio_labels, hub
from audio_from_video.backbones.audio_interface import (
    RATE_HZ,
    AudioInputs,
    Heard,
    cut,
    no_labels,
    resample,
    side_by_side,
    to_numpy,
)
from audio_from_video.backbones.audio_whisper import mean_of_valid
from audio_from_video.runtime.errors import UserError

CLASSES = {"wav2vec2": "Wav2Vec2Model", "hubert": "HubertModel", "wavlm": "WavLMModel"}
# The same with a head: a projection, the mean over time and a linear layer.
CLASSIFIERS = {
    "wav2vec2": "Wav2Vec2ForSequenceClassification",
    "hubert": "HubertForSequenceClassification",
    "wavlm": "WavLMForSequenceClassification",
}
# The last layers of convolutions norm over time, so a sound's features would depend on its padding.
# Sounds of one length pass together, others apart, and none is padded.


class WaveBackbone:
    """The encoder of a wav2vec 2, HuBERT or WavLM (see audio_interface.AudioBackbone).

    A frame is an output of its last layer, 20 ms as published.  Lengths are in samples.  Pooled is
    the mean over the frames.  It knows labels where it has a head for AudioSet's, whose sigmoids
    are the scores; those that the head lacks score 0.
    """

    HEARS = "wav2vec 2, HuBERT or WavLM"

    def __init__(self, name: str, device: str | None = None):
        """Load a model by directory or hub name onto a device (default: `hub.device()`).

        Raises UserError when it cannot be found, is no such model, or has a head of several layers.
        """
        import transformers

        self.device = device or hub.device()
        with_head = self.has_labels(name)
        if with_head and hub.read_config(name).get("use_weighted_layer_sum"):
            raise UserError(
                f"'{name}' has a head for the outputs of several layers, which is not supported: "
                "name a model whose config.json has use_weighted_layer_sum false"
            )
        classes = CLASSIFIERS if with_head else CLASSES
        loader = getattr(transformers, classes[hub.model_type_of(name)])
        unused = ("pooler.", "masked_spec_embed")  # the latter is of training alone
        model = hub.load_frozen_model(loader, name, self.HEARS, self.device, unused=unused)
        self.config = model.config
        self.model = model.base_model
        self._head = model if with_head else None
        self._places = audio_labels.positions(hub.labels_of(name) if with_head else [])
        self.extractor = hub.load_pretrained(
            transformers.Wav2Vec2FeatureExtractor, name, "a feature extractor"
        )
        self.width, _ = self.widths(self.config)
        self.rate_hz = RATE_HZ
        self.max_s = 30.0  # attention takes the square of it
        self.fill_s = 0.0
        self._hop_samples = int(np.prod(self.config.conv_stride))
        self._frame_samples = _receptive_field(self.config.conv_kernel, self.config.conv_stride)

    @staticmethod
    def has_labels(name: str) -> bool:
        """Return whether a model has a head for AudioSet's labels, by its config alone."""
        names = hub.read_config(name).get("id2label") or {}
        return audio_labels.are_audioset(list(names.values()))

    @staticmethod
    def widths(config) -> tuple[int, int]:
        """Return D and P, the widths of frames and pooled outputs, from a model's config."""
        return config.hidden_size, config.hidden_size

    def prepare(self, waveforms: list[np.ndarray]) -> AudioInputs:
        """Return normalised waveforms [N, samples]; zeros fill the shorter ones.

        A sound shorter than one frame is padded to it first.
        """
        rate_hz = self.extractor.sampling_rate
        sounds = []
        for wave in waveforms:
            sound = resample(wave, rate_hz)
            missing = max(0, self._frame_samples - len(sound))
            features = self.extractor(np.pad(sound, (0, missing)), sampling_rate=rate_hz)
            sounds.append(np.asarray(features["input_values"][0], np.float32))
        return side_by_side(sounds)

    def prepare_windows(self, wave: np.ndarray, starts: list[int], length: int) -> AudioInputs:
        """Return windows of a sound in the form of `prepare`."""
        return self.prepare(cut(wave, starts, length))

    def hear(self, inputs: AudioInputs) -> Heard:
        """Return the last layer's outputs of prepared sounds."""
        import torch

        valid = [self._frames(samples) for samples in inputs.lengths]
        frames = np.zeros((len(valid), max(valid), self.width), np.float32)
        lengths = np.array(inputs.lengths)
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            values = torch.from_numpy(inputs.values[rows, :length]).to(self.device)
            with torch.inference_mode(), hub.autocast(self.device):
                output = to_numpy(self.model(values).last_hidden_state)
            frames[rows, : output.shape[1]] = output
        pooled = mean_of_valid(frames, valid)
        return Heard(frames, valid, pooled, self.scores(pooled) if self._head else None)

    def frame_times_s(self, count: int) -> np.ndarray:
        """Return start and end [count, 2] of the first `count` frames, in seconds."""
        start = np.arange(count) * self._hop_samples
        times = np.stack([start, start + self._frame_samples], axis=1)
        return times / self.extractor.sampling_rate

    def scores(self, pooled: np.ndarray) -> np.ndarray:
        """Return the label scores [n, 527] of pooled outputs [n, D]; UserError without a head."""
        import torch

        if self._head is None:
            raise no_labels(self.HEARS)
        with torch.inference_mode():
            # The projection is linear: that of the mean is the mean of projected frames.
            projected = self._head.projector(torch.from_numpy(pooled).to(self.device))
            scores = to_numpy(self._head.classifier(projected).sigmoid())
        return audio_labels.reorder(scores, self._places)

    def _frames(self, samples: int) -> int:
        for kernel, stride in zip(self.config.conv_kernel, self.config.conv_stride, strict=True):
            samples = (samples - kernel) // stride + 1
        return samples


def _receptive_field(kernels: list[int], strides: list[int]) -> int:
    """Return how many samples one output of a chain of convolutions sees."""
    samples = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        samples = (samples - 1) * stride + kernel
    return samples

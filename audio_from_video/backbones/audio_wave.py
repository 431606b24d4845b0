"""wav2vec 2, HuBERT and WavLM: transformers on the waveform itself.

Baevski et al. 2020, Hsu et al. 2021, Chen et al. 2022.
"""

import numpy as np

from audio_from_video.backbones import hub
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

CLASSES = {"wav2vec2": "Wav2Vec2Model", "hubert": "HubertModel", "wavlm": "WavLMModel"}
# The last layers of convolutions norm over time, so a sound's features would depend on its padding.
# Sounds of one length pass together, others apart, and none is padded.


class WaveBackbone:
    """The encoder of a wav2vec 2, HuBERT or WavLM (see audio_interface.AudioBackbone).

    A frame is an output of its last layer, 20 ms as published.  Lengths are in samples.  It knows
    no labels; pooled is the mean over the frames.
    """

    HEARS = "wav2vec 2, HuBERT or WavLM"
    HAS_LABELS = False

    def __init__(self, name: str, device: str | None = None):
        """Load a model by directory or hub name onto a device (default: `hub.device()`).

        Raises UserError when it cannot be found or is no such model.
        """
        import transformers

        self.device = device or hub.device()
        loader = getattr(transformers, CLASSES[hub.model_type_of(name)])
        unused = ("pooler.", "masked_spec_embed")  # the latter is of training alone
        self.model = hub.load_frozen_model(loader, name, self.HEARS, self.device, unused=unused)
        self.config = self.model.config
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
        return Heard(frames, valid, mean_of_valid(frames, valid), None)

    def frame_times_s(self, count: int) -> np.ndarray:
        """Return start and end [count, 2] of the first `count` frames, in seconds."""
        start = np.arange(count) * self._hop_samples
        times = np.stack([start, start + self._frame_samples], axis=1)
        return times / self.extractor.sampling_rate

    def scores(self, pooled: np.ndarray) -> np.ndarray:
        """Raise UserError: it knows no labels."""
        raise no_labels(self.HEARS)

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

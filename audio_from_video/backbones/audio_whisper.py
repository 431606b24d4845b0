"""Whisper's encoder: sound as a recogniser of speech hears it (Radford et al. 2023)."""

import numpy as np

from audio_from_video.backbones import hub
from audio_from_video.backbones.audio_interface import (
    RATE_HZ,
    AudioInputs,
    Heard,
    cut,
    no_labels,
    resample,
    to_numpy,
)


class WhisperBackbone:
    """The encoder of transformers.WhisperModel (see audio_interface.AudioBackbone).

    A frame is an output of the encoder, 20 ms.  Each pass takes `max_s`, 30 s as published, however
    short the sound: `segments: windows` costs 18 such passes a clip.  Padding is seen by attention,
    as in Whisper's training, but no frame of it counts.  Lengths are in samples.  It knows no
    labels; pooled is the mean over the frames that count.
    """

    HEARS = "Whisper's encoder"

    def __init__(self, name: str, device: str | None = None):
        """Load a model by directory or hub name onto a device (default: `hub.device()`).

        Raises UserError when it cannot be found or is no such model.
        """
        from transformers import WhisperFeatureExtractor, WhisperModel

        self.device = device or hub.device()
        model = hub.load_frozen_model(WhisperModel, name, "Whisper", self.device)
        self.encoder = model.encoder
        self.config = model.config
        self.extractor = hub.load_pretrained(WhisperFeatureExtractor, name, "a feature extractor")
        self.width, _ = self.widths(self.config)
        self.rate_hz = RATE_HZ
        strides = self.encoder.conv1.stride[0] * self.encoder.conv2.stride[0]
        self._hop_samples = self.extractor.hop_length * strides
        self._samples = self.config.max_source_positions * self._hop_samples
        self.max_s = self._samples / self.extractor.sampling_rate
        self.fill_s = 0.0

    @staticmethod
    def has_labels(name: str) -> bool:
        """Return that it knows no labels."""
        return False

    @staticmethod
    def widths(config) -> tuple[int, int]:
        """Return D and P, the widths of frames and pooled outputs, from a model's config."""
        return config.d_model, config.d_model

    def prepare(self, waveforms: list[np.ndarray]) -> AudioInputs:
        """Return sounds as log-mels [N, mel bins, frames], padded to `max_s`."""
        rate_hz = self.extractor.sampling_rate
        sounds = [resample(wave, rate_hz) for wave in waveforms]
        features = self.extractor(
            sounds, sampling_rate=rate_hz, max_length=self._samples, return_tensors="np"
        )
        values = features["input_features"].astype(np.float32)
        return AudioInputs(values, [len(sound) for sound in sounds])

    def prepare_windows(self, wave: np.ndarray, starts: list[int], length: int) -> AudioInputs:
        """Return windows of a sound in the form of `prepare`."""
        return self.prepare(cut(wave, starts, length))

    def hear(self, inputs: AudioInputs) -> Heard:
        """Return the encoder's outputs of prepared sounds."""
        import torch

        with torch.inference_mode(), hub.autocast(self.device):
            values = torch.from_numpy(inputs.values).to(self.device)
            frames = to_numpy(self.encoder(values).last_hidden_state)
        valid = []
        for samples in inputs.lengths:
            heard = -(-samples // self._hop_samples)  # rounded up
            valid.append(max(1, min(heard, frames.shape[1])))
        pooled = mean_of_valid(frames, valid)
        return Heard(frames, valid, pooled, None)

    def frame_times_s(self, count: int) -> np.ndarray:
        """Return start and end [count, 2] of the first `count` frames, in seconds."""
        edges = np.arange(count + 1) * self._hop_samples / self.extractor.sampling_rate
        return np.stack([edges[:-1], edges[1:]], axis=1)

    def scores(self, pooled: np.ndarray) -> np.ndarray:
        """Raise UserError: it knows no labels."""
        raise no_labels(self.HEARS)


def mean_of_valid(frames: np.ndarray, valid: list[int]) -> np.ndarray:
    """Return the mean [N, D] of the frames [N, time, D] of each sound that hold it."""
    return np.stack([sound[:count].mean(0) for sound, count in zip(frames, valid, strict=True)])

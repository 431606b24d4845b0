"""The audio tower of PE-AV, the audiovisual Perception Encoder, beside its text tower.

transformers.PeAudioModel (config type pe_audio).  A checkpoint with the video tower, of config type
pe_audio_video, needs the package timm, which is no requirement here.
"""

from functools import cached_property

import numpy as np

from audio_from_video.audioset.labels import load_labels
from audio_from_video.backbones import hub
from audio_from_video.backbones.audio_interface import (
    RATE_HZ,
    AudioInputs,
    Heard,
    cut,
    resample,
    side_by_side,
    to_numpy,
)

TEXTS_PER_BATCH = 32


class PeAudioBackbone:
    """PE-AV's audio tower, and its text tower for labels (see audio_interface.AudioBackbone).

    A frame is an output of the tower, 40 ms as published.  Sounds of one length pass together,
    others apart, so that none is padded but to a whole frame, by reflection as in training.
    Label scores are the sigmoid that the towers were trained with, of the labels' names in small
    letters.  Lengths are in samples at the model's rate.
    """

    HEARS = "the audio tower of PE-AV (pe_audio)"

    def __init__(self, name: str, device: str | None = None):
        """Load a model by directory or hub name onto a device (default: `hub.device()`).

        Raises UserError when it cannot be found or is no such model.
        """
        from transformers import AutoTokenizer, PeAudioFeatureExtractor, PeAudioModel

        self.device = device or hub.device()
        self.model = hub.load_frozen_model(PeAudioModel, name, "PE-AV", self.device, unused=())
        self.extractor = hub.load_pretrained(PeAudioFeatureExtractor, name, "a feature extractor")
        self.tokenizer = hub.load_pretrained(AutoTokenizer, name, "a tokenizer")
        self.width, _ = self.widths(self.model.config)
        self.rate_hz = RATE_HZ
        self.max_s = 30.0  # attention takes the square of it
        self.fill_s = 0.0
        self._hop_samples = self.extractor.hop_length

    @staticmethod
    def has_labels(name: str) -> bool:
        """Return that it knows labels."""
        return True

    @staticmethod
    def widths(config) -> tuple[int, int]:
        """Return D and P, the widths of frames and pooled outputs, from a model's config."""
        return config.audio_config.hidden_size, config.text_config.hidden_size

    def prepare(self, waveforms: list[np.ndarray]) -> AudioInputs:
        """Return waveforms [N, samples] at the model's rate; zeros fill the shorter ones."""
        rate_hz = self.extractor.sampling_rate
        sounds = []
        for wave in waveforms:
            features = self.extractor(resample(wave, rate_hz), sampling_rate=rate_hz)
            sounds.append(np.asarray(features["input_values"][0], np.float32).reshape(-1))
        return side_by_side(sounds)

    def prepare_windows(self, wave: np.ndarray, starts: list[int], length: int) -> AudioInputs:
        """Return windows of a sound in the form of `prepare`."""
        return self.prepare(cut(wave, starts, length))

    def hear(self, inputs: AudioInputs) -> Heard:
        """Return the tower's outputs, embeddings and label scores of prepared sounds."""
        import torch

        lengths = np.array(inputs.lengths)
        valid = (lengths // self._hop_samples).tolist()
        frames = np.zeros((len(valid), max(valid), self.width), np.float32)
        pooled = np.zeros((len(valid), self.model.config.text_config.hidden_size), np.float32)
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            values = torch.from_numpy(inputs.values[rows, None, :length]).to(self.device)
            with torch.inference_mode(), hub.autocast(self.device):
                output = self.model.audio_encoder(input_values=values)
                pooled[rows] = to_numpy(self.model.audio_head(output.pooler_output))
            of_rows = to_numpy(output.last_hidden_state)
            frames[rows, : of_rows.shape[1]] = of_rows
        return Heard(frames, valid, pooled, self.scores(pooled))

    def frame_times_s(self, count: int) -> np.ndarray:
        """Return start and end [count, 2] of the first `count` frames, in seconds."""
        edges = np.arange(count + 1) * self._hop_samples / self.extractor.sampling_rate
        return np.stack([edges[:-1], edges[1:]], axis=1)

    def scores(self, pooled: np.ndarray) -> np.ndarray:
        """Return the label scores [n, 527] of embeddings [n, P]."""
        scale = self.model.text_audio_logit_scale.item()
        bias = self.model.text_audio_logit_bias.item()
        logits = scale * (pooled @ self._labels.T) + bias
        return (1 / (1 + np.exp(-logits))).astype(np.float32)

    @cached_property
    def _labels(self) -> np.ndarray:
        """Embeddings [527, P] of the labels' names."""
        import torch

        texts = [label.display_name.lower() for label in load_labels()]
        parts = []
        with torch.inference_mode(), hub.autocast(self.device):
            for start in range(0, len(texts), TEXTS_PER_BATCH):
                batch = texts[start : start + TEXTS_PER_BATCH]
                tokens = self.tokenizer(batch, padding=True, return_tensors="pt").to(self.device)
                output = self.model.text_model(
                    input_ids=tokens["input_ids"],
                    attention_mask=tokens["attention_mask"],
                    output_hidden_states=True,
                )
                first_token = output.hidden_states[-1][:, 0]
                parts.append(to_numpy(self.model.text_audio_head(first_token)))
        return np.concatenate(parts)

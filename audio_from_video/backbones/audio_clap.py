"""CLAP: sound and text in one space (Wu et al. 2023; transformers.ClapModel)."""

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
    to_numpy,
)

PROMPT = "This is a sound of {}."  # of Wu et al. for zero-shot classification
TEXTS_PER_BATCH = 32


class ClapBackbone:
    """CLAP's audio tower, and its text tower for labels (see audio_interface.AudioBackbone).

    Its frames are the columns of the tower's last feature map, mean over frequency.  A short sound
    is repeated to the tower's length, as CLAP was trained; frames behind its end do not count.
    Label scores are cosines with the labels' names, 0 where negative.  Lengths are in samples.
    """

    HEARS = "CLAP"

    def __init__(self, name: str, device: str | None = None):
        """Load a model by directory or hub name onto a device (default: `hub.device()`).

        Raises UserError when it cannot be found or is no such model.
        """
        from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

        self.device = device or hub.device()
        self.model = hub.load_frozen_model(ClapModel, name, "CLAP", self.device, unused=())
        self.extractor = hub.load_pretrained(ClapFeatureExtractor, name, "a feature extractor")
        self.tokenizer = hub.load_pretrained(AutoTokenizer, name, "a tokenizer")
        self.width, _ = self.widths(self.model.config)
        self.rate_hz = RATE_HZ
        self.max_s = float(self.extractor.max_length_s)
        self.fill_s = 0.0
        self._frame_count = _frames(self.model.config.audio_config)

    @staticmethod
    def has_labels(name: str) -> bool:
        """Return that it knows labels."""
        return True

    @staticmethod
    def widths(config) -> tuple[int, int]:
        """Return D and P, the widths of frames and pooled outputs, from a model's config."""
        audio = config.audio_config
        return audio.patch_embeds_hidden_size * 2 ** (len(audio.depths) - 1), config.projection_dim

    def prepare(self, waveforms: list[np.ndarray]) -> AudioInputs:
        """Return sounds as log-mels [N, 1 or 4, frames, mel bins]."""
        rate_hz = self.extractor.sampling_rate
        longest = self.extractor.nb_max_samples
        sounds = [resample(wave, rate_hz)[:longest] for wave in waveforms]
        features = self.extractor(sounds, sampling_rate=rate_hz, return_tensors="np")
        values = features["input_features"].astype(np.float32)
        return AudioInputs(values, [len(wave) for wave in waveforms])

    def prepare_windows(self, wave: np.ndarray, starts: list[int], length: int) -> AudioInputs:
        """Return windows of a sound in the form of `prepare`."""
        return self.prepare(cut(wave, starts, length))

    def hear(self, inputs: AudioInputs) -> Heard:
        """Return columns, embeddings and label scores of prepared sounds."""
        import torch

        with torch.inference_mode(), hub.autocast(self.device):
            values = torch.from_numpy(inputs.values).to(self.device)
            # No sound is longer than the tower takes.  The extractor of a fused CLAP calls one of
            # them longer, drawn at random.
            is_longer = torch.zeros(len(values), 1, dtype=torch.bool, device=self.device)
            output = self.model.get_audio_features(values, is_longer=is_longer)
            frames = output.last_hidden_state.mean(2).transpose(1, 2)  # [N, time, D]
            pooled = to_numpy(output.pooler_output)
        seconds = self.max_s / self._frame_count
        valid = []
        for samples in inputs.lengths:
            whole_frames = int(samples / self.rate_hz / seconds)
            valid.append(max(1, min(whole_frames, self._frame_count)))
        return Heard(to_numpy(frames), valid, pooled, self.scores(pooled))

    def frame_times_s(self, count: int) -> np.ndarray:
        """Return start and end [count, 2] of the first `count` columns, in seconds."""
        edges = np.arange(count + 1) * self.max_s / self._frame_count
        return np.stack([edges[:-1], edges[1:]], axis=1)

    def scores(self, pooled: np.ndarray) -> np.ndarray:
        """Return the cosines [n, 527], at least 0, of embeddings [n, P] with the labels' names."""
        lengths = np.linalg.norm(pooled, axis=1, keepdims=True)
        cosines = pooled / np.maximum(lengths, 1e-9) @ self._labels.T
        return cosines.clip(0, 1).astype(np.float32)

    @cached_property
    def _labels(self) -> np.ndarray:
        """Embeddings [527, P] of the labels' names, of length 1."""
        import torch

        texts = [PROMPT.format(label.display_name.lower()) for label in load_labels()]
        parts = []
        with torch.inference_mode(), hub.autocast(self.device):
            for start in range(0, len(texts), TEXTS_PER_BATCH):
                batch = texts[start : start + TEXTS_PER_BATCH]
                tokens = self.tokenizer(batch, padding=True, return_tensors="pt").to(self.device)
                output = self.model.get_text_features(
                    input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
                )
                parts.append(to_numpy(output.pooler_output))
        vectors = np.concatenate(parts)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _frames(audio) -> int:
    """Return how many columns the tower's last feature map has (ClapAudioConfig)."""
    ratio = audio.spec_size // audio.num_mel_bins  # stretches of time stand above each other
    side = audio.spec_size // 2 ** (len(audio.depths) - 1) // audio.patch_stride[1]
    return side * ratio

"""Audio models, frozen: waveforms to patch outputs and AudioSet label scores."""

import numpy as np

from audio_from_video.backbones.hub import _load, _load_model, device


class AudioBackbone:
    """AST (Gong et al. 2021; transformers.ASTForAudioClassification): log-mel patches to vectors, and label scores."""

    FRAME_S, HOP_S = 0.025, 0.010  # Kaldi's filter bank, as in ASTFeatureExtractor

    def __init__(self, name: str):
        self.device = device()
        self.model = _load_model(
            name, "ASTForAudioClassification", "an Audio Spectrogram Transformer"
        )
        self.extractor = _load(name, "ASTFeatureExtractor", "a feature extractor")
        self.config = self.model.config
        self.width: int = self.config.hidden_size
        self.labels: list[str] = [self.config.id2label[i] for i in range(self.config.num_labels)]
        self.rate_hz: int = self.extractor.sampling_rate
        self.max_s = self.config.max_length * self.HOP_S  # what one pass can hear

    def log_mel(self, waveforms: list[np.ndarray]) -> tuple[np.ndarray, list[int]]:
        """float32 waveforms -> normalised log-mel [N, max_length, mel bins], zero-padded, and their numbers of frames."""
        shortest = round(self.FRAME_S * self.rate_hz)
        padded = [np.pad(wave, (0, max(0, shortest - len(wave)))) for wave in waveforms]
        frames = [
            min(
                1 + round((len(wave) - shortest) // (self.HOP_S * self.rate_hz)),
                self.config.max_length,
            )
            for wave in padded
        ]
        return np.stack(
            self.extractor(padded, sampling_rate=self.rate_hz, return_tensors="np")["input_values"]
        ), frames

    def encode(self, log_mel: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """log-mel [N, max_length, mel bins] -> patch outputs [N, time, D] (mean over frequency), pooled [N, D] (mean of
        the two special tokens, which the head expects) and label scores [N, 527] (sigmoid)."""
        import torch

        with (
            torch.inference_mode(),
            torch.autocast("cuda", torch.bfloat16, enabled=self.device.startswith("cuda")),
        ):
            values = torch.from_numpy(log_mel).to(self.device)
            output = self.model.audio_spectrogram_transformer(values)
            scores = self.model.classifier(output.pooler_output).sigmoid()
            high, wide = self.model.audio_spectrogram_transformer.embeddings.get_shape(self.config)
            patches = (
                output.last_hidden_state[:, 2:].unflatten(1, (high, wide)).mean(1)
            )  # [N, time, D]
            return tuple(
                part.float().cpu().numpy() for part in (patches, output.pooler_output, scores)
            )

    def valid_patches(self, frames: int) -> int:
        """How many of the time patches lie within `frames` real frames (at least one): the others see padding."""
        return max(1, (frames - self.config.patch_size) // self.config.time_stride + 1)

    def patch_times_s(self, count: int) -> np.ndarray:
        """Start and end [count, 2] in seconds of the first `count` time patches."""
        start = np.arange(count) * self.config.time_stride * self.HOP_S
        return np.stack(
            [start, start + (self.config.patch_size - 1) * self.HOP_S + self.FRAME_S], axis=1
        )

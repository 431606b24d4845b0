"""The sound that a caption stands for: attention to the audio labels that are closest to it in meaning."""

import numpy as np

from audio_from_video.backbones import text as text_backbone
from audio_from_video.meaning.attention import mapped_audio


class Reward:
    """How well the audio that a caption stands for meets what is heard, as a cosine."""

    def __init__(
        self,
        text_model: str,
        labels: list[str],
        label_audio: np.ndarray,
        top_k: int,
        temperature: float,
    ):
        self.text_model, self.label_audio, self.top_k, self.temperature = (
            text_model,
            label_audio,
            top_k,
            temperature,
        )
        self.labels = text_backbone.embed(text_model, labels)
        self._known: dict[str, np.ndarray] = {}  # embeddings of captions

    def __call__(self, captions: list[str], heard: np.ndarray) -> np.ndarray:
        """Cosines [N] of N captions with the centred audio features [N, A] of their frames; 0 where one of the two is 0."""
        fresh = [text for text in dict.fromkeys(captions) if text not in self._known]
        self._known.update(zip(fresh, text_backbone.embed(self.text_model, fresh), strict=True))
        embeddings = np.stack([self._known[text] for text in captions])
        audio = mapped_audio(
            embeddings, self.labels, self.label_audio, self.top_k, self.temperature
        )
        norms = np.linalg.norm(audio, axis=1) * np.linalg.norm(heard, axis=1)
        return (audio * heard).sum(1) / np.maximum(norms, 1e-9)

"""The sound that a caption stands for: attention to the audio labels that are closest to it in meaning."""

import numpy as np

from stages.common import text_embedding


def mapped_audio(
    caption_embeddings: np.ndarray,
    label_embeddings: np.ndarray,
    label_audio: np.ndarray,
    top_k: int,
    temperature: float,
) -> np.ndarray:
    """Audio features [N, A] of captions: the mean of their `top_k` closest labels' features, weighted by softmax.

    caption_embeddings [N, D] and label_embeddings [L, D] are normalised, label_audio is [L, A]; the softmax is over the
    chosen labels' cosines, divided by `temperature`.
    """
    similarity = text_embedding.cosines(caption_embeddings, label_embeddings)
    labels = text_embedding.closest(similarity, top_k)  # [N, k]
    chosen = np.take_along_axis(similarity, labels, 1)
    weights = np.exp((chosen - chosen.max(1, keepdims=True)) / temperature)
    weights /= weights.sum(1, keepdims=True)
    return (weights[..., None] * label_audio[labels]).sum(1)


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
        self.labels = text_embedding.embed(text_model, labels)
        self._known: dict[str, np.ndarray] = {}  # embeddings of captions

    def __call__(self, captions: list[str], heard: np.ndarray) -> np.ndarray:
        """Cosines [N] of N captions with the centred audio features [N, A] of their frames; 0 where one of the two is 0."""
        fresh = [text for text in dict.fromkeys(captions) if text not in self._known]
        self._known.update(zip(fresh, text_embedding.embed(self.text_model, fresh), strict=True))
        embeddings = np.stack([self._known[text] for text in captions])
        audio = mapped_audio(
            embeddings, self.labels, self.label_audio, self.top_k, self.temperature
        )
        norms = np.linalg.norm(audio, axis=1) * np.linalg.norm(heard, axis=1)
        return (audio * heard).sum(1) / np.maximum(norms, 1e-9)

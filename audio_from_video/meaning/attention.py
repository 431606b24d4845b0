"""Attention of captions over AudioSet labels."""

import numpy as np

from audio_from_video.meaning import similarity


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
    cosine = similarity.cosines(caption_embeddings, label_embeddings)
    labels = similarity.closest(cosine, top_k)  # [N, k]
    chosen = np.take_along_axis(cosine, labels, 1)
    weights = np.exp((chosen - chosen.max(1, keepdims=True)) / temperature)
    weights /= weights.sum(1, keepdims=True)
    return (weights[..., None] * label_audio[labels]).sum(1)


def attention(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Softmax over the last axis; -inf takes no part (all of them: zeros)."""
    best = np.maximum(scores.max(-1, keepdims=True), -1e30)
    weights = np.exp((scores - best) / temperature)
    return weights / np.maximum(weights.sum(-1, keepdims=True), 1e-30)

"""Attention of captions over AudioSet labels."""

from dataclasses import dataclass

import numpy as np

from audio_from_video.meaning import similarity


@dataclass(frozen=True)
class CaptionReader:
    """How captions are mapped to labels: to the `top_k` whose names are closest in meaning.

    names: of the labels, by index.  text_model: embeds captions and names.  temperature: of the
    softmax that weights the labels.
    """

    text_model: str
    names: list[str]
    top_k: int
    temperature: float


def mapped_audio(
    caption_embeddings: np.ndarray,
    label_embeddings: np.ndarray,
    label_audio: np.ndarray,
    top_k: int,
    temperature: float,
) -> np.ndarray:
    """Return the audio features [N, A] that captions stand for.

    They are the mean of the features of a caption's `top_k` closest labels, weighted by the
    softmax of the cosines / temperature.  caption_embeddings [N, D] and label_embeddings [L, D]
    are normalised; label_audio is [L, A].
    """
    cosines = similarity.cosines(caption_embeddings, label_embeddings)
    labels = similarity.closest(cosines, top_k)  # [N, k]
    weights = similarity.softmax(np.take_along_axis(cosines, labels, 1), temperature)
    return (weights[..., None] * label_audio[labels]).sum(1)

"""The reward of a caption: how well the sound that it stands for meets the real one."""

import numpy as np

from audio_from_video.backbones import text as text_backbone
from audio_from_video.meaning import similarity
from audio_from_video.meaning.attention import CaptionReader, mapped_audio


class Reward:
    """Cosine of the audio features that a caption stands for with the real ones.

    A caption stands for the audio of the labels that are closest to it in meaning.
    """

    def __init__(self, reader: CaptionReader, label_audio: np.ndarray):
        """Embed the labels' names; label_audio [L, A] are their centred audio features."""
        self.reader = reader
        self.label_audio = label_audio
        self.labels = text_backbone.embed(reader.text_model, reader.names)  # [L, D]
        self._embeddings: dict[str, np.ndarray] = {}  # of captions met so far

    def __call__(self, captions: list[str], sound: np.ndarray) -> np.ndarray:
        """Return the rewards [N] of N captions; 0 where one of the two features is 0.

        sound [N, A]: centred real audio features around the captions' frames.
        """
        new = [text for text in dict.fromkeys(captions) if text not in self._embeddings]
        vectors = text_backbone.embed(self.reader.text_model, new)
        self._embeddings.update(zip(new, vectors, strict=True))
        audio = mapped_audio(
            np.stack([self._embeddings[text] for text in captions]),
            self.labels,
            self.label_audio,
            self.reader.top_k,
            self.reader.temperature,
        )
        return similarity.paired_cosine(audio, sound)

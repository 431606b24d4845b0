"""Captions of training clips as keys, the labels of their sound as values."""

import numpy as np
import pandas as pd

from audio_from_video.meaning import similarity
from audio_from_video.meaning.attention import attention


class KeyCaptions:
    """`key_captions`: distinct captions of audible training clips with the summed label scores of the clips they describe."""

    def __init__(self, captions: pd.DataFrame, scores: dict[str, np.ndarray]):
        self.labels = len(next(iter(scores.values())))
        self.values: dict[
            int, dict[str, tuple[np.ndarray, int]]
        ] = {}  # text: source: sum over clips, number of clips
        keys = captions[
            captions.split.isin(["training", "unlabelled"]) & captions.clip_id.isin(scores)
        ]
        for row in keys.drop_duplicates(
            ["row", "text"]
        ).itertuples():  # a clip counts once, however often its frames say the same
            total, n = self.values.setdefault(row.text, {}).get(row.source_id, (0.0, 0))
            self.values[row.text][row.source_id] = (total + scores[row.clip_id], n + 1)
        self.keys = np.array(sorted(self.values), int)

    def attend(
        self,
        embeddings: np.ndarray,
        captions: pd.DataFrame,
        key_captions: int,
        temperature: float,
    ) -> np.ndarray:
        """Label scores [N, L] that the captions attend to (embeddings [U, D] of all texts): softmax of the cosines with the
        closest key captions, each valued by the mean label scores of other sources' clips."""
        answers: dict[tuple[int, str], np.ndarray] = {}
        for text, group in captions.groupby("text"):
            cosine = similarity.cosines(embeddings[[text]], embeddings[self.keys])[0]
            ranked = np.argsort(-cosine, kind="stable")
            for source in group.source_id.unique():
                answers[text, source] = self._answer(
                    cosine, ranked, source, key_captions, temperature
                )
        return np.stack(
            [answers[key] for key in zip(captions.text, captions.source_id, strict=True)]
        )

    def _answer(
        self,
        cosine: np.ndarray,
        ranked: np.ndarray,
        source: str,
        key_captions: int,
        temperature: float,
    ) -> np.ndarray:
        cosines, values = [], []
        for place in ranked.tolist():
            others = [
                value for name, value in self.values[self.keys[place]].items() if name != source
            ]
            if others:
                cosines.append(cosine[place])
                values.append(sum(total for total, _ in others) / sum(n for _, n in others))
            if len(values) == key_captions:
                break
        if not values:
            return np.zeros(self.labels)
        return attention(np.array(cosines)[None], temperature)[0] @ np.stack(values)

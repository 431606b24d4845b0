"""Captions of training clips as keys, the labels of their sound as values."""

import numpy as np
import pandas as pd

from audio_from_video.meaning import similarity

KEY_SPLITS = ["training", "unlabelled"]


class KeyCaptions:
    """A dictionary from captions to the label scores of the clips that they describe.

    Its keys are the distinct captions of audible training and unlabelled clips.  A key's value is
    kept apart by source, as the sum [L] over the source's clips and their number: a caption must
    not learn from its own source.
    """

    def __init__(self, captions: pd.DataFrame, scores: dict[str, np.ndarray]):
        """Collect the keys and their values.

        captions: a row per caption with clip_index, clip_id, split, source_id and text (its
        number among the distinct texts).  scores: AST's label scores [L] of audible clips, by
        clip_id.
        """
        self.label_count = len(next(iter(scores.values())))
        self.values: dict[int, dict[str, tuple[np.ndarray, int]]] = {}  # by text, then by source
        is_key = captions.split.isin(KEY_SPLITS) & captions.clip_id.isin(scores)

        # A clip counts once for a text, however many of its frames have that caption.
        for row in captions[is_key].drop_duplicates(["clip_index", "text"]).itertuples():
            by_source = self.values.setdefault(row.text, {})
            total, clips = by_source.get(row.source_id, (0.0, 0))
            by_source[row.source_id] = (total + scores[row.clip_id], clips + 1)
        self.keys = np.array(sorted(self.values), int)

    def means(self) -> np.ndarray:
        """Return each key's mean label scores [K, L] over all sources, in the order of `keys`."""
        sums = []
        for text in self.keys.tolist():
            by_source = self.values[text].values()
            total = sum(value for value, _ in by_source)
            sums.append(total / sum(clips for _, clips in by_source))
        return np.stack(sums)

    def attend(
        self,
        embeddings: np.ndarray,
        captions: pd.DataFrame,
        key_captions: int,
        temperature: float,
    ) -> np.ndarray:
        """Return the label scores [N, L] that N captions attend to; zeros where there is no key.

        A caption attends to its `key_captions` closest keys by the softmax of the cosines /
        temperature.  A key's value is the mean over the clips of other sources than the caption's.
        embeddings [U, D] of all U texts, normalised; captions: N rows as in the constructor.
        """
        # Captions with the same text and source have the same answer.
        answers: dict[tuple[int, str], np.ndarray] = {}
        for text, group in captions.groupby("text"):
            cosines = similarity.cosines(embeddings[[text]], embeddings[self.keys])[0]
            ranking = np.argsort(-cosines, kind="stable")
            for source in group.source_id.unique():
                answers[text, source] = self._attend_from(
                    cosines, ranking, source, key_captions, temperature
                )
        keys = zip(captions.text, captions.source_id, strict=True)
        return np.stack([answers[key] for key in keys])

    def _attend_from(
        self,
        cosines: np.ndarray,
        ranking: np.ndarray,
        source: str,
        key_captions: int,
        temperature: float,
    ) -> np.ndarray:
        """Return the label scores [L] that a caption of a source attends to.

        cosines: of the caption with each key; ranking: positions of the keys, closest first.
        """
        nearest: list[float] = []
        values: list[np.ndarray] = []
        for position in ranking.tolist():
            value = self._mean_of_other_sources(self.keys[position], source)
            if value is None:
                continue
            nearest.append(cosines[position])
            values.append(value)
            if len(values) == key_captions:
                break
        if not values:
            return np.zeros(self.label_count)
        weights = similarity.softmax(np.array(nearest)[None], temperature)[0]
        return weights @ np.stack(values)

    def _mean_of_other_sources(self, text: int, source: str) -> np.ndarray | None:
        """Return the mean label scores [L] of a key, without a source's clips.

        None where there are no other sources.
        """
        others = [value for name, value in self.values[text].items() if name != source]
        if not others:
            return None
        total = sum(sums for sums, _ in others)
        return np.asarray(total / sum(clips for _, clips in others))

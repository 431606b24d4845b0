"""Captions of training clips as keys, the labels of their sound as values."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from audio_from_video.meaning import similarity

KEY_SPLITS = ["training", "unlabelled"]
TEXTS_PER_BLOCK = 256  # whose cosines with all keys are held at a time
SPARE = 32  # closest keys that are ranked beside those that are asked for
MOST_VALUES = 200_000  # sums that are remembered: 0.4 GB for 527 labels

BySource = dict[str, tuple[np.ndarray, int]]  # sum of label scores [L] and number of clips


class KeyCaptions:
    """A dictionary from captions to the label scores of the clips that they describe.

    Its keys are the distinct captions of audible training and unlabelled clips.  A key's value is
    kept apart by source, as the sum [L] over the source's clips and their number: a caption must
    not learn from its own source.  Values are summed when they are asked for, so that memory does
    not grow with the clips.
    """

    def __init__(self, captions: pd.DataFrame, scores: Mapping[str, np.ndarray]):
        """Collect the keys.

        captions: a row per caption with clip_index, clip_id, split, source_id and text (its
        number among the distinct texts).  scores: AST's label scores [L] of audible clips, by
        clip_id.
        """
        self.scores = scores
        self.label_count = len(next(iter(scores.values())))
        is_key = captions.split.isin(KEY_SPLITS) & captions.clip_id.isin(list(scores))
        # A clip counts once for a text, however many of its frames have that caption.
        said = captions[is_key].drop_duplicates(["clip_index", "text"])
        said = said.sort_values("text", kind="stable")
        self.keys, starts = np.unique(said.text.to_numpy(int), return_index=True)
        self._ends = [*starts[1:], len(said)]
        self._starts = starts
        self._clip_ids = said.clip_id.to_numpy()
        self._source_ids = said.source_id.to_numpy()
        self._values: dict[int, BySource] = {}
        self._remembered = 0

    def means(self) -> np.ndarray:
        """Return each key's mean label scores [K, L] over all sources, in the order of `keys`."""
        means = np.zeros((len(self.keys), self.label_count))
        for position in range(len(self.keys)):
            by_source = self._by_source(position).values()
            total = sum(value for value, _ in by_source)
            means[position] = total / sum(clips for _, clips in by_source)
        return means

    def attend(
        self,
        embeddings: np.ndarray,
        captions: pd.DataFrame,
        key_captions: int,
        temperature: float,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield rows [n] of N captions, and the label scores [n, L] that these attend to.

        A caption attends to its `key_captions` closest keys by the softmax of the cosines /
        temperature; without any key the scores are zeros.  A key's value is the mean over the clips
        of other sources than the caption's.  embeddings [U, D] of all U texts, normalised;
        captions: N rows as in the constructor, whose index is 0..N-1.
        """
        key_embeddings = embeddings[self.keys]
        groups = list(captions.groupby("text"))
        for start in range(0, len(groups), TEXTS_PER_BLOCK):
            block = groups[start : start + TEXTS_PER_BLOCK]
            texts = [text for text, _ in block]
            cosines = similarity.cosines(embeddings[texts], key_embeddings)
            rows: list[int] = []
            answers: list[np.ndarray] = []
            for own, (_, group) in zip(cosines, block, strict=True):
                # Captions with the same text and source have the same answer.
                for source, of_source in group.groupby("source_id", sort=False):
                    answer = self._attend_from(own, source, key_captions, temperature)
                    rows += of_source.index.tolist()
                    answers += [answer] * len(of_source)
            yield np.array(rows), np.stack(answers)

    def _attend_from(
        self, cosines: np.ndarray, source: str, key_captions: int, temperature: float
    ) -> np.ndarray:
        """Return the label scores [L] that a caption of a source attends to.

        cosines [K]: of the caption with each key.
        """
        for count in (key_captions + SPARE, len(cosines)):
            nearest: list[float] = []
            values: list[np.ndarray] = []
            for position in closest(cosines, count).tolist():
                value = self._mean_of_other_sources(position, source)
                if value is None:
                    continue
                nearest.append(cosines[position])
                values.append(value)
                if len(values) == key_captions:
                    break
            if len(values) == key_captions:
                break
        if not values:
            return np.zeros(self.label_count)
        weights = similarity.softmax(np.array(nearest)[None], temperature)[0]
        return weights @ np.stack(values)

    def _mean_of_other_sources(self, position: int, source: str) -> np.ndarray | None:
        """Return the mean label scores [L] of a key, without a source's clips.

        None where there are no other sources.
        """
        by_source = self._by_source(position)
        others = [value for name, value in by_source.items() if name != source]
        if not others:
            return None
        total = sum(sums for sums, _ in others)
        return np.asarray(total / sum(clips for _, clips in others))

    def _by_source(self, position: int) -> BySource:
        """Return a key's sums by source."""
        found = self._values.get(position)
        if found is not None:
            return found
        by_source: BySource = {}
        for place in range(self._starts[position], self._ends[position]):
            source = self._source_ids[place]
            total, clips = by_source.get(source, (np.float32(0), 0))
            by_source[source] = (total + self.scores[self._clip_ids[place]], clips + 1)
        if self._remembered > MOST_VALUES:
            self._values.clear()
            self._remembered = 0
        self._values[position] = by_source
        self._remembered += len(by_source)
        return by_source


def closest(cosines: np.ndarray, count: int) -> np.ndarray:
    """Return the positions of the `count` highest cosines [K] or more, highest first.

    Equal ones keep their order, and all that equal the last one are among them.
    """
    if count >= len(cosines):
        return np.argsort(-cosines, kind="stable")
    lowest = np.partition(cosines, len(cosines) - count)[len(cosines) - count]
    positions = np.flatnonzero(cosines >= lowest)
    return positions[np.argsort(-cosines[positions], kind="stable")]

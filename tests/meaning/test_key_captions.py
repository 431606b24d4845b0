"""Key captions against a loop over all of them."""

import numpy as np
import pandas as pd
import pytest

from audio_from_video.meaning import key_captions
from audio_from_video.meaning.key_captions import KeyCaptions
from audio_from_video.meaning.similarity import unit

TEXTS = 6
LABELS = 4
KEYS = 2
TEMPERATURE = 0.05


def make(seed: int) -> tuple[np.ndarray, pd.DataFrame, dict[str, np.ndarray]]:
    """Return embeddings [TEXTS, D], a row per caption, and label scores by clip."""
    rng = np.random.default_rng(seed)
    embeddings = unit(rng.normal(size=(TEXTS, 8))).astype(np.float32)
    rows = []
    for clip_index in range(20):
        split = ("training", "unlabelled", "validation", "test")[clip_index % 4]
        for text in rng.choice(TEXTS - 1, 3):  # the last text is nobody's
            rows.append((clip_index, f"clip{clip_index}", split, f"source{clip_index // 5}", text))
    columns = ["clip_index", "clip_id", "split", "source_id", "text"]
    captions = pd.DataFrame(rows, columns=columns)
    audible = [f"clip{i}" for i in range(20) if i % 7]
    return embeddings, captions, {clip_id: rng.random(LABELS) for clip_id in audible}


def attended(
    embeddings: np.ndarray,
    captions: pd.DataFrame,
    scores: dict[str, np.ndarray],
    text: int,
    source: str,
) -> np.ndarray:
    """The reference: label scores [L] that a caption of a source attends to."""
    values = {}
    for key in range(TEXTS):
        says = captions[(captions.text == key) & (captions.source_id != source)]
        says = says[says.split.isin(["training", "unlabelled"])]
        clips = [clip_id for clip_id in says.clip_id.unique() if clip_id in scores]
        if clips:
            values[key] = np.mean([scores[clip_id] for clip_id in clips], axis=0)
    nearest = sorted(values, key=lambda key: -float(embeddings[text] @ embeddings[key]))[:KEYS]
    weights = np.exp([float(embeddings[text] @ embeddings[key]) / TEMPERATURE for key in nearest])
    return weights / weights.sum() @ np.stack([values[key] for key in nearest])


def attend(keys: KeyCaptions, embeddings: np.ndarray, captions: pd.DataFrame) -> np.ndarray:
    """Return the label scores of all captions."""
    found = np.full((len(captions), LABELS), np.nan)
    for places, scores in keys.attend(embeddings, captions, KEYS, TEMPERATURE):
        found[places] = scores
    return found


# Blocks smaller than the texts, and so few spare keys that all of them must be ranked after all.
@pytest.mark.parametrize(("block", "spare", "most_values"), [(256, 32, 1000), (2, 0, 0)])
def test_a_caption_attends_to_the_closest_keys_of_other_sources(
    monkeypatch, block, spare, most_values
):
    monkeypatch.setattr(key_captions, "TEXTS_PER_BLOCK", block)
    monkeypatch.setattr(key_captions, "SPARE", spare)
    monkeypatch.setattr(key_captions, "MOST_VALUES", most_values)
    for seed in range(3):
        embeddings, captions, scores = make(seed)
        keys = KeyCaptions(captions, scores)
        found = attend(keys, embeddings, captions)
        for row, caption in zip(found, captions.itertuples(), strict=True):
            expected = attended(embeddings, captions, scores, caption.text, caption.source_id)
            assert np.allclose(row, expected, atol=1e-5)


def test_validation_and_test_clips_are_no_keys():
    embeddings, captions, scores = make(0)
    before = attend(KeyCaptions(captions, scores), embeddings, captions)
    for clip_id in captions.clip_id[captions.split.isin(["validation", "test"])]:
        if clip_id in scores:
            scores[clip_id] = 1 - scores[clip_id]
    after = attend(KeyCaptions(captions, scores), embeddings, captions)
    assert np.array_equal(before, after)


def test_where_only_the_own_source_has_keys_nothing_is_attended_to():
    embeddings, captions, scores = make(0)
    one_source = captions[captions.source_id == "source0"]
    found = attend(KeyCaptions(one_source, scores), embeddings, one_source)
    assert len(found) == len(one_source) > 0
    assert (found == 0).all()


def test_closest_keys_are_those_of_a_whole_sort_and_ties_keep_their_order():
    rng = np.random.default_rng(0)
    cosines = rng.integers(0, 20, 300) / np.float32(20)
    whole = np.argsort(-cosines, kind="stable")
    for count in (1, 7, 299, 300, 1000):
        found = key_captions.closest(cosines, count)
        assert len(found) >= min(count, 300)
        assert found.tolist() == whole[: len(found)].tolist()

"""Embeddings from the item store against those of the model."""

import numpy as np

from audio_from_video.backbones import text as text_backbone
from audio_from_video.meaning import stored_embeddings

TEXTS = ["rain", "a dog barks", "rain"]


def test_embeddings_are_the_models_and_are_kept(workspace, bert, monkeypatch):
    expected = text_backbone.embed(bert, TEXTS)
    assert np.array_equal(stored_embeddings.embed(bert, TEXTS), expected)

    def must_not_load(model: str, texts: list[str]) -> np.ndarray:
        raise AssertionError(f"{texts} are stored")

    monkeypatch.setattr(text_backbone, "embed", must_not_load)
    assert np.array_equal(stored_embeddings.embed(bert, TEXTS[::-1]), expected[::-1])


def test_workers_change_nothing(workspace, bert, in_process):
    expected = text_backbone.embed(bert, TEXTS)
    assert np.array_equal(stored_embeddings.embed(bert, TEXTS, workers=2), expected)


def test_no_text_has_no_embedding(workspace, bert):
    width = text_backbone.embed(bert, TEXTS).shape[1]
    assert stored_embeddings.embed(bert, []).shape == (0, width)

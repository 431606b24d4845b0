"""Figures of captions, counted by hand."""

import pytest

from audio_from_video.evaluation.captions import (
    caption_figures,
    caption_warnings,
    captions_tell_actions_apart,
    quality,
)
from audio_from_video.meaning.attention import CaptionReader
from tests.support.text_models import MINILM

NAMES = ["Drum", "Tap", "Water"]


def test_quality_counts():
    texts = ["drum, tap with a pot", "a jar"]
    originals = ["a blue pot", "a jar"]
    heard = [{0, 2}, {1}]
    found = quality(texts, originals, heard, NAMES, mapped=[[2, 1], [0, 2]])
    assert found["captions"] == 2
    assert found["named_labels"] == 1
    assert found["named_precision"] == 1 / 2
    assert found["named_recall"] == pytest.approx(1 / 3)
    assert found["mapped_hits"] == 0.5
    assert found["kept_words"] == pytest.approx((2 / 3 + 1) / 2)


def test_figures_are_over_the_original_steps_of_clips_with_sound():
    reader = CaptionReader(MINILM, NAMES, top_k=1, temperature=0.05)
    clips = [
        {"clip_id": "a", "split": "validation", "source_id": "s"},
        {"clip_id": "b", "split": "validation", "source_id": "s"},
        {"clip_id": "c", "split": "test", "source_id": "t"},
        {"clip_id": "silent", "split": "validation", "source_id": "u"},
    ]
    captions = {
        "a": {1: "drum with a pot", 4: "a pot"},
        "b": {2: "water in a pot"},
        "c": {0: "a pot"},
        "silent": {0: "a jar"},
    }
    originals = {"a": {1: "a pot"}, "b": {2: "a pot"}, "c": {0: "a pot"}, "silent": {0: "a jar"}}
    found = caption_figures(clips, captions, originals, {"a": {0}, "b": {2}, "c": {0}}, reader)
    assert (found["frames"], found["frames_per_clip"], found["distinct_captions"]) == (5, 1.25, 4)
    assert set(found["before"]) == set(found["after"]) == {"validation"}
    before = found["before"]["validation"]
    after = found["after"]["validation"]
    assert (after["captions"], after["clips"], after["sources"]) == (2, 2, 1)
    assert (before["named_recall"], after["named_recall"]) == (0, 1)
    assert (before["kept_words"], after["kept_words"]) == (1, 1)
    assert after["mapped_hits"] == 1


def apart(captions_of: dict[str, list[str]], sources: int = 6) -> dict:
    """Figures of clips whose captions depend on the action; test clips would contradict them."""
    clips = []
    captions = {}
    for action, texts in captions_of.items():
        for i in range(sources):
            for split in ("training", "test"):
                clip_id = f"{split}/{action}{i}"
                source = f"{split} {action} {i}"
                clips.append(
                    {"clip_id": clip_id, "split": split, "action": action, "source_id": source}
                )
                text = "a red car" if split == "test" else texts[i % len(texts)]
                captions[clip_id] = {0: text, 3: "a street"}
    return captions_tell_actions_apart(clips, captions, MINILM)


def test_captions_of_their_action_tell_actions_apart():
    found = apart({"drumming": ["a man with a drum"], "pouring": ["water in a glass"]})
    assert (found["clips"], found["sources"]) == (12, 12)
    assert found["difference"] == pytest.approx(2, abs=1e-5)  # opposite sides of the mean
    assert found["difference_low"] > 0
    assert caption_warnings(found) == []


@pytest.mark.parametrize("texts", [["a room"], ["a man with a drum", "water in a glass"]])
def test_captions_that_say_the_same_of_every_action_are_a_warning(texts):
    found = apart({"drumming": texts, "pouring": texts})
    assert found["difference_low"] <= 0 <= found["difference_high"]
    sentence = caption_warnings(found)[0]
    assert "do not tell the training clips' actions apart" in sentence
    assert "choose another captions.model" in sentence

"""Actions that are short of clips or sources are counted and named."""

from audio_from_video.clipset.shortage import shortage


def clips(action: str, sources: dict[str, tuple[int, int]]) -> list[dict]:
    """Clips of an action: of each source so many in training and in validation."""
    rows = []
    for source, (training, validation) in sources.items():
        for split, count in (("training", training), ("validation", validation)):
            row = {"action": action, "source_id": source, "split": split, "status": "ok"}
            rows += [row] * count
    return rows


def test_each_action_is_named_for_what_it_is_short_of():
    rows = clips("plenty", {"a": (10, 0), "b": (0, 3)})
    rows += clips("one", {"c": (12, 0)})
    rows += clips("unchosen", {"d": (6, 0), "e": (6, 0)})
    rows += clips("few", {"f": (9, 0), "g": (0, 20)})
    found = shortage(rows)
    assert found.actions == ["few", "one", "plenty", "unchosen"]
    assert found.one_source == ["one"]
    assert found.no_validation_clip == ["unchosen"]
    assert found.few_training_clips == ["few"]
    assert found.figures() == {"sources": 1, "validation_clips": 1, "training_clips": 1}
    one, unchosen, few = found.sentences()
    assert "1 of 4 actions have clips of one source only, so none for validation (one)" in one
    assert "1 of 4 actions have no validation clip (unchosen)" in unchosen
    assert "1 of 4 actions have fewer than 10 training clips (few)" in few


def test_refused_clips_count_for_nothing():
    rows = clips("a", {"a": (10, 0), "b": (0, 3)})
    refused = [row | {"status": "unreadable"} for row in rows if row["split"] == "validation"]
    kept = [row for row in rows if row["split"] == "training"]
    assert shortage(rows).sentences() == []
    assert shortage(kept + refused).one_source == ["a"]


def test_many_actions_are_told_in_one_line():
    rows = [row for i in range(8) for row in clips(f"action{i}", {f"s{i}": (20, 0)})]
    (sentence,) = shortage(rows).sentences()
    assert "(action0, action1, action2, action3, action4 and 3 more)" in sentence

"""Lists of the clips that models are fitted on: what later clips change, and what they do not."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from audio_from_video.clipset import fit_list, folds
from audio_from_video.clipset.settings import SplitParams
from audio_from_video.clipset.splits import assign_splits
from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import fit_on, layout, shards
from stages import clips as clips_stage
from tests.support.workspace import Workspace

ACTIONS = ("clapping", "knocking")


def parameters() -> SplitParams:
    return SplitParams(
        root="root",
        seed=0,
        validation_fraction=0.2,
        source_pattern=r"^(.+)_\d+$",
        test_list="",
        clip_list="",
    )


def found_clips(sources: int) -> list[dict]:
    """Training clips, two of each source and action, as the scan finds them."""
    found = []
    for action in ACTIONS:
        for source in range(sources):
            for number in range(2):
                stem = f"{action[0]}{source:03d}_{number}"
                found.append(
                    {
                        "action": action,
                        "stem": stem,
                        "name": stem,
                        "source_id": "",
                        "folder": "training",
                        "path": f"training/{action}/{stem}.mp4",
                        "content_hash": f"content of {stem}",
                        "start_s": None,
                        "end_s": None,
                        "status": "ok",
                        "reason": "",
                    }
                )
    return found


def split_clips(sources: int, listed: fit_list.FitList | None = None) -> list[dict]:
    """The same after the splits, in the order of data/clips.parquet."""
    found = found_clips(sources)
    assign_splits(found, parameters(), listed.splits if listed else None)
    return sorted(found, key=lambda clip: clips_stage.order(clip, listed))


@pytest.fixture
def listed(tmp_path: Path) -> fit_list.FitList:
    """A list of the clips of 20 sources an action."""
    path = tmp_path / "fit_on.csv"
    pd.DataFrame(split_clips(20))[list(fit_list.COLUMNS)].to_csv(path, index=False)
    return fit_list.read(str(path))


def test_later_clips_move_no_listed_clip_and_stand_behind_them(listed):
    before = split_clips(20)
    after = split_clips(26, listed)
    old = [clip for clip in after if clip["clip_id"] in listed.contents]
    assert [(c["clip_id"], c["split"]) for c in old] == [(c["clip_id"], c["split"]) for c in before]
    assert {clip["split"] for clip in before} == {"training", "validation"}
    for action in ACTIONS:
        row = [c["clip_id"] in listed.contents for c in after if c["action"] == action]
        # Within a split and action all that is new comes last.
        assert row == sorted(row, reverse=True) or row.count(False) == 12
    assert {c["split"] for c in after if c["clip_id"] not in listed.contents} == {"training"}


def test_without_a_list_the_same_growth_does_move_clips():
    before = {c["clip_id"]: c["split"] for c in split_clips(20)}
    after = {c["clip_id"]: c["split"] for c in split_clips(26)}
    assert any(after[name] != split for name, split in before.items())


def test_fitted_clips_are_those_listed(listed):
    later = split_clips(26, listed)
    names = fit_list.fitted_clip_ids(later, listed)
    assert names == [c["clip_id"] for c in later if c["clip_id"] in listed.contents]
    assert len(fit_list.fitted_clip_ids(later, None)) == len(later)


def test_sources_without_fitted_clips_have_no_fold_and_the_others_keep_theirs(listed):
    before = pd.DataFrame(split_clips(20))
    after = pd.DataFrame(split_clips(26, listed))
    fitted = after.clip_id.isin(listed.contents).to_numpy()
    fold_before = dict(zip(before.clip_id, folds.of_clips(before, 3), strict=True))
    fold_after = dict(zip(after.clip_id, folds.of_clips(after, 3, fitted), strict=True))
    assert {name: fold_after[name] for name in fold_before} == fold_before
    assert {fold_after[name] for name in after.clip_id[~fitted]} == {folds.NO_FOLD}
    # A new clip of a known source has that source's fold: the other models have met the source.
    same_source = after.assign(split=after.split)
    one_new = fitted & (after.clip_id != before.clip_id[before.split == "training"].iloc[0])
    again = dict(zip(after.clip_id, folds.of_clips(same_source, 3, one_new), strict=True))
    assert {name: again[name] for name in fold_before} == fold_before


def test_a_changed_or_missing_clip_is_told(listed):
    clips = split_clips(20, listed)
    clips[3]["content_hash"] = "another"
    with pytest.raises(UserError, match=f"1 of the 80 clips .*{clips[3]['clip_id']}"):
        fit_list.check(clips, listed)
    with pytest.raises(UserError, match="2 of the 80 clips"):
        fit_list.check(clips[:2] + clips[3:], listed)


def test_a_list_that_is_none_is_told(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        fit_list.read(str(tmp_path / "none.csv"))
    (tmp_path / "other.csv").write_text("clip_id,action\na,b\n")
    with pytest.raises(UserError, match="needs the columns clip_id, content_hash"):
        fit_list.read(str(tmp_path / "other.csv"))
    (tmp_path / "other.parquet").write_text("no table")
    with pytest.raises(UserError, match="is no list"):
        fit_list.read(str(tmp_path / "other.parquet"))


def test_stages_see_which_clips_are_fitted(workspace: Workspace, listed):
    assert fit_on.fitted(["a", "b"]).tolist() == [True, True]
    later = split_clips(26, listed)
    shards.write_table(clips_stage.fit_on_table(later, listed), layout.FIT_ON)
    names = [clip["clip_id"] for clip in later]
    expected = np.array([name in listed.contents for name in names])
    assert (fit_on.fitted(names) == expected).all()
    assert 0 < expected.sum() < len(expected)

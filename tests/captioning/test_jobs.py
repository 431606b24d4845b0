"""The fine-tunings: which frames each of them learns from."""

import pytest

from audio_from_video.captioning.jobs import TuningClip, fine_tunings, spread_steps
from audio_from_video.clipset.folds import WHOLE
from audio_from_video.meaning.attention import CaptionReader
from audio_from_video.runtime import params
from audio_from_video.runtime.errors import UserError
from stages.captions import CaptionsParams

READER = CaptionReader("no model", ["Drum", "Tap"], top_k=1, temperature=0.05)
FOLDS = {"a": 0, "b": 1, "c": -1}


def clip(clip_id: str, split: str) -> TuningClip:
    return TuningClip(
        clip_id=clip_id,
        split=split,
        input_key=f"key of {clip_id}",
        steps=[0, 3],
        captions=["a jar", "a red jar"],
        labels=[[1, 0], []],
    )


CLIPS = [clip("a", "training"), clip("b", "unlabelled"), clip("c", "validation")]


@pytest.fixture
def p(workspace) -> CaptionsParams:
    workspace.set(captions={"finetune": "tags"})
    return params.load("captions", CaptionsParams)


def test_steps_are_spread_evenly():
    assert spread_steps([1, 4, 6, 9], 2) == [4, 9]
    assert spread_steps([3], 2) == [3]
    assert spread_steps([2, 5], 9) == [2, 5]
    assert spread_steps(list(range(10)), 1) == [5]


def test_each_fold_is_left_out_once_and_validation_always_stops(p):
    jobs = fine_tunings(p, CLIPS, FOLDS, 2, READER)
    assert set(jobs) == {WHOLE, 0, 1}
    rows = {fold: [example.row for example in job.learned] for fold, job in jobs.items()}
    assert rows == {WHOLE: [0, 1, 2, 3], 0: [2, 3], 1: [0, 1]}
    for job in jobs.values():
        assert [example.row for example in job.held_out] == [4, 5]
    first, second = jobs[WHOLE].learned[:2]
    assert (first.caption, first.tagged) == ("a jar", "tap, drum with a jar")
    assert (second.caption, second.tagged) == ("a red jar", "a red jar")
    assert len({job.key() for job in jobs.values()}) == 3


def test_the_key_names_what_the_examples_come_from(p):
    before = fine_tunings(p, CLIPS, FOLDS, 2, READER)
    changed = TuningClip(**{**vars(CLIPS[0]), "input_key": "other frames"})
    after = fine_tunings(p, [changed, *CLIPS[1:]], FOLDS, 2, READER)
    assert before[0].key() == after[0].key()  # it leaves the clip's fold out
    assert before[1].key() != after[1].key()
    assert before[WHOLE].key() != after[WHOLE].key()


@pytest.mark.parametrize("missing", [0, 2])
def test_without_clips_to_learn_from_or_to_stop_by_it_is_a_sentence(p, missing):
    clips = [CLIPS[i] for i in range(3) if i not in (missing, 1)]
    with pytest.raises(UserError, match="captions.finetune: tags needs audible validation clips"):
        fine_tunings(p, clips, FOLDS, 2, READER)

"""The door to data/truth.parquet: what each function returns of known rows."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from audio_from_video.clipset import truth
from audio_from_video.clipset.truth import TRUTH_SCHEMA
from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import layout, shards

NOTHING_KNOWN = dict.fromkeys(TRUTH_SCHEMA.names)
ROWS = [
    NOTHING_KNOWN
    | {
        "clip_id": "sawing/a_1",
        "split": "training",
        "action": "sawing",
        "sound_kind": "own",
        "audible": True,
        "sound_belongs": True,
        "audio_labels": ["Sawing", "Wood"],
        "event_times_s": [0.5, 1.5],
    },
    NOTHING_KNOWN
    | {
        "clip_id": "sawing/b_1",
        "split": "validation",
        "action": "sawing",
        "sound_kind": "own",
        "audible": True,
        "sound_belongs": True,
        "audio_labels": ["Sawing"],
    },
    NOTHING_KNOWN
    | {
        "clip_id": "unlabelled/c_1",
        "split": "unlabelled",
        "action": "waving",
        "sound_kind": "silent",
        "audible": False,
        "sound_belongs": False,
        "audio_labels": [],
        "event_times_s": [],
    },
]


def write_truth(rows: list[dict]) -> None:
    shards.write_table(pa.Table.from_pylist(rows, schema=TRUTH_SCHEMA), layout.TRUTH)


@pytest.fixture
def known(workspace):
    write_truth(ROWS)
    return workspace


def test_unlabelled_clips_have_their_true_action(known):
    assert truth.actions() == {
        "sawing/a_1": "sawing",
        "sawing/b_1": "sawing",
        "unlabelled/c_1": "waving",
    }


def test_whether_sound_belongs(known):
    belongs = {"sawing/a_1": True, "sawing/b_1": True, "unlabelled/c_1": False}
    assert truth.sound_belongs() == belongs


def test_a_clip_without_known_events_has_none(known):
    times_s = truth.event_times_s()
    assert times_s["sawing/a_1"].tolist() == [0.5, 1.5]
    assert times_s["sawing/b_1"].shape == times_s["unlabelled/c_1"].shape == (0,)


def test_labels_of_audible_clips_alone(known):
    assert truth.audible_labels() == {"sawing/a_1": ["Sawing", "Wood"], "sawing/b_1": ["Sawing"]}


def test_own_sounds_of_training_clips_alone(known):
    assert truth.own_sound_labels() == [("sawing", ["Sawing", "Wood"])]


def test_rows_have_the_columns_that_are_asked_for(known):
    assert truth.rows(["split"])["sawing/b_1"] == {"clip_id": "sawing/b_1", "split": "validation"}


def test_of_clips_that_were_not_rendered_nothing_is_known(workspace):
    Path("data").mkdir(exist_ok=True)
    truth.pass_on("nowhere")
    assert pq.read_table(layout.TRUTH).schema.names == TRUTH_SCHEMA.names
    assert truth.actions() == truth.sound_belongs() == truth.audible_labels() == {}
    assert truth.own_sound_labels() == []


def test_the_roots_file_is_passed_on_as_it_is(workspace):
    Path("data").mkdir(exist_ok=True)
    source = Path("root/truth.parquet")
    shards.write_table(pa.Table.from_pylist(ROWS, schema=TRUTH_SCHEMA), source)
    truth.pass_on(str(source.parent))
    assert layout.TRUTH.read_bytes() == source.read_bytes()


def test_a_root_with_other_columns_is_refused(workspace):
    source = Path("root/truth.parquet")
    table = pa.Table.from_pylist(ROWS, schema=TRUTH_SCHEMA)
    numbers = pa.array(np.arange(len(table)))
    shards.write_table(table.drop(["audible"]).set_column(1, "split", numbers), source)
    with pytest.raises(UserError, match="lacks split, audible, or has other types there"):
        truth.pass_on(str(source.parent))
    source.write_text("no Parquet")
    with pytest.raises(UserError, match="is no Parquet file"):
        truth.pass_on(str(source.parent))

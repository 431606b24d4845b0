"""One clip's way: a summary, then a line for every stage, with the decoder's own words.

Nothing that a name holds reaches the terminal raw.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from audio_from_video.audioset.labels import load_labels
from audio_from_video.runtime import stage_run
from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import layout, predictions, shards
from stages import audio, clips, frames
from tests.support.closure import ROOT
from tests.support.media_files import sine, write_video
from tests.support.workspace import prepared
from tools import explain


@pytest.fixture(scope="module")
def explained(tmp_path_factory) -> Path:
    """A folder with clips that end in different stages, through the stages that open files."""
    folder = tmp_path_factory.mktemp("explained")
    with prepared(folder) as workspace, pytest.MonkeyPatch.context() as patch:
        # They could make no experiment.
        patch.setattr("stages.clips.require_splits", lambda clips, p: None)
        write_media(folder)
        workspace.set(clips={"root": "media", "max_failed_fraction": 1.0})
        for stage in (clips, frames, audio):
            stage.main(stage_run.StageRun(stage.__name__.split(".")[1], "", 1))
        answer = {
            "clip_id": "ringing/loud_1",
            "split": "training",
            "kept": True,
            "score": 0.51234,
            "scores": [1.0],
        }
        kept = pa.Table.from_pylist([answer])
        shards.write_table(kept, Path("data/filter/semantic_validation.parquet"))
    shutil.copy(ROOT / "dvc.yaml", folder)
    return folder


def write_media(folder: Path) -> None:
    place = folder / "media/training/ringing"
    place.mkdir(parents=True)
    write_video(place / "loud_1.mp4", 72, "24", "-c:a", "aac", sound=sine(440, 3, -6))
    write_video(place / "faint_1.mp4", 72, "24", "-c:a", "aac", sound=sine(440, 3, -80))
    write_video(place / "mute\x1b[31m_1.mp4", 60)
    (place / "text_1.mp4").write_text("no video")
    cut = write_video(folder / "whole.mp4", 72, "24", "-movflags", "faststart").read_bytes()
    (place / "cut_1.mp4").write_bytes(cut[: len(cut) * 2 // 3])


@pytest.fixture
def clip_files(explained, workspace):
    shutil.copytree(explained, workspace.folder, dirs_exist_ok=True)
    return workspace


def account_of(clip: str) -> dict[str, str]:
    head, *rest = explain.account(explain.find_clip(clip))
    by_stage = {line.split()[0]: " ".join(line.split()[1:]) for line in rest}
    return {"": head} | by_stage


def test_each_clip_ends_where_it_was_refused(clip_files):
    assert (
        account_of("ringing/text_1")["clips"]
        == "unreadable Invalid data found when processing input (moov atom not found)"
    )
    assert (
        account_of("ringing/text_1")["frames"]
        == account_of("ringing/text_1")["audio"]
        == "- did not get here"
    )
    cut = account_of("ringing/cut_1")
    assert cut["clips"] == "ok"
    assert cut["frames"].startswith("unreadable the file breaks off: ")
    assert cut["audio"] == "- did not get here"
    assert account_of("faint")["audio"].startswith("silent -83.")
    assert account_of("faint")["audio"].endswith(" dBFS, below -50")
    loud = account_of("training/ringing/loud_1.mp4")
    assert loud[""].startswith("ringing/loud_1: path training/ringing/loud_1.mp4, split ")
    assert loud["frames"] == "ok frame_count 18, duration_s 3, start_s 0"
    assert loud["audio"].startswith("ok rms_dbfs -9.0")
    assert loud["filter/semantic_validation"] == "kept True, score 0.512"


def test_the_summary_says_where_a_clip_was_refused(clip_files):
    (first, refused) = explain.summary(explain.find_clip("text"))
    assert first == "ringing/text_1 is a training clip of ringing."
    assert refused.startswith("clips refused it: unreadable: Invalid data found")
    (_, refused) = explain.summary(explain.find_clip("cut"))
    assert refused.startswith("frames refused it: unreadable: the file breaks off: ")
    (_, silent) = explain.summary(explain.find_clip("faint"))
    assert silent.startswith("It has no sound to learn from: silent -83.")
    assert len(explain.summary(explain.find_clip("loud"))) == 1


def write_scores(output: Path, clip: dict, column: str, scores: dict[str, float]) -> None:
    """An output of a clip alone, with scores of AudioSet's labels by name."""
    names = [label.display_name for label in load_labels()]
    values = np.zeros(len(names), np.float16)
    for name, score in scores.items():
        values[names.index(name)] = score
    row = {key: clip[key] for key in ("clip_id", "split", "action", "source_id")}
    index = [row | {"item_key": None, "status": "ok", "reason": ""}]
    schema = pa.schema([(column, shards.tensor(pa.float16(), len(names)))])
    shards.write(output, schema, [row | {column: values}], index, "v")


def write_answers(condition: str, clip: dict, probabilities: list[list[float]]) -> None:
    """Predictions for a clip alone; probabilities: of ringing and of sawing, by seed."""
    clips = pd.DataFrame([{key: clip[key] for key in predictions.CLIP_COLUMNS}])
    values = np.array(probabilities, np.float32)[:, None]
    answers = predictions.Predictions(clips, ["ringing", "sawing"], values)
    predictions.write(condition, answers)


def test_the_summary_says_what_was_heard_generated_and_answered(clip_files):
    clip = explain.find_clip("loud")
    write_scores(layout.AUDIO_FEATURES, clip, "label_scores", {"Bell": 0.75, "Speech": 0.25})
    labels = layout.predicted_labels("semantic_validation")
    write_scores(labels, clip, "generated", {"Sawing": 0.5, "Music": 0.25, "Speech": 0.125})
    decision = {"clip_id": clip["clip_id"], "predicted_action": "sawing", "score": 0.4}
    decisions = pa.Table.from_pylist([decision | {"keep": False}])
    shards.write_table(decisions, layout.decisions("semantic_validation"))
    write_answers("video_only", clip, [[0.4, 0.6], [0.9, 0.1]])
    write_answers("real_audio", clip, [[0.8, 0.2]])
    write_answers("mapped", clip, [[0.3, 0.7]])
    _, sound, generated, video_only, real_audio, right = explain.summary(clip)
    assert sound.startswith("Its sound: Bell 0.75, Speech 0.25, ")
    assert generated == (
        "Generated by semantic_validation: Sawing 0.50, Music 0.25, Speech 0.12; "
        "the filter rejects it for sawing (score 0.40)"
    )
    assert video_only == "video_only answers ringing, with probability 0.65."
    assert real_audio == "real_audio answers ringing, with probability 0.80."
    assert right == "2 of the 3 conditions that answer it are right."


def test_unlabelled_clips_get_an_answer_that_is_neither_right_nor_wrong(clip_files):
    clip = explain.find_clip("loud") | {"action": None, "split": "unlabelled"}
    write_answers("video_only", clip, [[0.4, 0.6]])
    assert explain.summary(clip) == [
        "ringing/loud_1 is an unlabelled clip.",
        "video_only answers sawing, with probability 0.60.",
    ]


def test_names_and_reasons_cannot_command_the_terminal(clip_files):
    lines = explain.account(explain.find_clip("mute"))
    assert all(line.isprintable() for line in lines)
    assert "mute\\x1b[31m_1" in lines[0]


def test_what_names_no_clip_or_several_is_a_sentence(clip_files):
    with pytest.raises(UserError, match="no clip among 5 has 'nobody' in its id or path"):
        explain.find_clip("nobody")
    with pytest.raises(
        UserError, match="5 clips have 'ringing' in their id or path: ringing/.+_1, "
    ):
        explain.find_clip("ringing")
    Path("data/clips.parquet").unlink()
    with pytest.raises(UserError, match="run `dvc repro` first"):
        explain.find_clip("loud")


def test_the_command(clip_files):
    command = [sys.executable, "-m", "tools.explain", "faint"]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=clip_files.folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stdout.startswith("ringing/faint_1 is a training clip of ringing.\nIt has no sound")
    command[-1] = "nobody"
    done = subprocess.run(
        command, cwd=clip_files.folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("explain: error: no clip among 5")

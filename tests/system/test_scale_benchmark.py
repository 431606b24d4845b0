"""benchmarks.scale: its tables follow from its measurements, and its copies are a data set."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from audio_from_video.storage import layout, predictions, shards
from benchmarks import scale
from benchmarks.scale_parts import evaluation, files, tables, timetable
from benchmarks.scale_parts.measuring import Measurement


@pytest.fixture
def results(tmp_path: Path) -> scale.Results:
    found = scale.Results(tmp_path / "scale.json")
    for clips, cpu_s in ((100, 1.0), (1000, 4.0), (10_000, 40.0)):
        found.record(Measurement("files", "frames", clips, cpu_s, 200))
    found.record(Measurement("files", "frames" + files.INCREMENT, 10_000, 1.0, 100))
    found.record(Measurement("real", "frames", 100, 16.0, 100, size_bytes=50_000_000))
    return found


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_exponent_is_that_of_the_two_largest_sizes(results):
    lines = scale.scale_table(results, "files").splitlines()
    assert len(lines) == 2 + 3
    assert cells(lines[-1]) == ["frames", "10,000", "40.0", "4.00", "200", "20.0", "1.00"]
    assert cells(lines[-2])[-1] == ""


def test_increments_are_shares_of_the_first_run(results):
    lines = scale.increment_table(results).splitlines()
    assert cells(lines[2]) == ["frames", "10,000", "40.0", "1.0", "2.5%"]
    assert cells(lines[3])[-1] == "2.5%"
    results.record(Measurement("files", "frames" + files.INCREMENT, 1000, 0.6, 100))
    last = scale.increment_table(results).splitlines()[-1]
    # 0.4 s more for 36 s more.
    assert cells(last) == ["of which beyond 1,000 clips", "10,000", "36.0", "0.4", "1.1%"]


def test_a_size_that_is_measured_again_takes_the_place_of_the_old_figure(results):
    count = len(results.rows)
    results.record(Measurement("files", "frames", 1000, 5.0, 200))
    assert len(results.rows) == count
    stored = json.loads(results.path.read_text())["measurements"]
    assert [row["cpu_s"] for row in stored if row["clips"] == 1000] == [5.0]
    again = scale.Results(results.path)
    assert again.rows == results.rows


def test_the_timetable_multiplies_measured_costs(results):
    rows = {}
    for line in timetable.table(results.rows).splitlines()[2:]:
        name, *values = cells(line)
        rows[name] = values
    # 16 s for 100 clips on one core are 10 ms a clip on 16; half a MB a clip.
    milliseconds, hours, shared_hours, terabytes, *_, source = rows["frames"]
    assert (milliseconds, hours, terabytes) == ("10.00", f"{60_000 * 0.01 / 3600:.1f}", "0.03")
    assert float(shared_hours) == pytest.approx(60_000 * 0.01 / 3600 / 8, abs=0.05)
    assert "100 real clips" in source
    images = timetable.rate("the stage video_features, JPEG in Parquet to written features")
    assert float(rows["video_features, rgb and flow"][0]) == pytest.approx(36e3 / images, abs=0.01)
    parts = [float(values[0]) for name, values in rows.items() if name != "all of these"]
    assert float(rows["all of these"][0]) == pytest.approx(sum(parts), abs=0.05)


def test_trainings_share_what_a_device_makes(monkeypatch):
    rates = {
        "classifier, the training loop, one seed, batches of 48": 10.0,
        "classifier, a step as CUDA graph, batches of 48": 170.0,
    }
    monkeypatch.setattr(timetable, "rate", rates.get)
    assert timetable.trainings_rate("classifier", 48) == 160
    rates["classifier, a step as CUDA graph, batches of 48"] = 50.0
    assert timetable.trainings_rate("classifier", 48) == 50
    cost = timetable.training_cost("c", 6, 10, 50.0)
    assert cost.seconds == pytest.approx(6 * 10 / 50)
    assert "6 trainings of 10 epochs" in cost.source


def test_marks_that_are_missing_are_told():
    page = "a\n<!-- x -->\nold\n<!-- end of x -->\nb\n"
    assert scale.write_between(page, "x", "new") == "a\n<!-- x -->\nnew\n<!-- end of x -->\nb\n"
    with pytest.raises(ValueError, match="has no <!-- y -->"):
        scale.write_between(page, "y", "new")


def test_the_page_has_all_marks_and_is_up_to_date():
    """The tables in docs/scale.md are those of docs/scale.json.

    The timetable also depends on params.yaml, which may be another one.
    """
    results = scale.Results()
    text = scale.PAGE.read_text()
    for name, content in scale.contents(results).items():
        rewritten = scale.write_between(text, name, content)
        assert name == "timetable" or rewritten == text


def test_copies_are_clips_of_their_own(workspace):
    rows = [
        {
            "clip_id": f"a/s{i}_0",
            "split": "training" if i % 3 else "test",
            "action": "a",
            "source_id": f"s{i}",
            "item_key": None,
            "status": "ok",
            "reason": "",
            "features": np.full((2, 4), i, np.float16) + np.arange(4, dtype=np.float16),
        }
        for i in range(7)
    ]
    name = "data/video_features/rgb"
    schema = pa.schema([("features", shards.tensor(pa.float16(), 2, 4))])
    rows.sort(key=lambda row: (row["split"], row["action"], row["clip_id"]))
    shards.write(workspace.folder / "run" / name, schema, rows, rows, "v")
    folders = (workspace.folder / "run", workspace.folder / "copies")
    count = tables.copy_output(*folders, name, 3, {"features"})
    assert count == 21
    found = list(shards.iter_rows(workspace.folder / "copies" / name, ["features"]))
    index = shards.ok_rows(workspace.folder / "copies" / name)
    assert [row["clip_id"] for row in found] == [row["clip_id"] for row in index]
    assert len({row["clip_id"] for row in found}) == 21
    assert len({row["source_id"] for row in index}) == 21
    original = {row["clip_id"]: row["features"] for row in rows}
    for row in found:
        clip_id = row["clip_id"].partition("~")[0]
        assert np.abs(row["features"] - original[clip_id]).max() < 1
        assert not np.array_equal(row["features"], original[clip_id])


def test_copies_of_answers_are_answers(workspace):
    clips = pd.DataFrame(
        {
            "clip_id": ["a/s0_0", "a/s1_0"],
            "split": "test",
            "action": "a",
            "source_id": ["s0", "s1"],
        }
    )
    probabilities = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    original = predictions.Predictions(clips, ["a", "b"], probabilities)
    predictions.write("once", original)
    once, twice = layout.predictions("once"), layout.predictions("twice")
    evaluation.copy_table(once, twice, 2)
    found = predictions.read("twice")
    assert found.clips.clip_id.tolist() == ["a/s0_0~0", "a/s1_0~0", "a/s0_0~1", "a/s1_0~1"]
    assert found.clips.source_id.tolist() == ["s0~0", "s1~0", "s0~1", "s1~1"]
    assert np.array_equal(found.probabilities, np.concatenate([probabilities] * 2, axis=1))


def test_a_stage_that_would_take_too_long_is_left_out(tmp_path, results, capsys):
    class Place:
        path = tmp_path / "place"

        def run(self, stage: str) -> tuple[float, int]:
            return {"quick": 1.0, "slow": 30.0}[stage], 100

    def prepare(copies: int) -> tuple[Place, int]:
        Place.path.mkdir()
        return Place(), 10 * copies

    tables.measure_stages(("quick", "slow"), prepare, [1, 10], 240.0, "evaluation", results.record)
    measured = results.by_stage("evaluation")
    assert [row["clips"] for row in measured["quick"]] == [10, 100]
    assert [row["clips"] for row in measured["slow"]] == [10]
    assert "slow: left out at 100 clips" in capsys.readouterr().out
    assert not Place.path.exists()


@pytest.mark.slow
def test_files_are_measured_and_an_increment_computes_the_new_clips_alone(tmp_path):
    found = scale.Results(tmp_path / "scale.json")
    # Whoever measures may have other children, whose end is not waited for.
    with subprocess.Popen(["sleep", "infinity"]) as other:
        try:
            files.measure(tmp_path, [40], [], found.record)
            assert other.poll() is None
        finally:
            other.kill()
    measured = {row["stage"]: row for row in found.rows}
    stages = {stage + more for stage in files.STAGES for more in ("", files.INCREMENT)}
    assert set(measured) == stages
    assert all(row["cpu_s"] > 0 and row["memory_mib"] > 0 for row in measured.values())
    assert measured["frames"]["clips"] == 40

"""The report's figures from hand-made predictions, and that nothing missing passes for a result."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from stages import clips, report
from stages.common import predictions, run, shards, tables
from stages.common.errors import UserError
from tests.test_shards import index_row

ACTIONS = ["knocking", "hammering", "waving"]
# clip: action, source, has audible sound, sound belongs, then for each condition how many of the two seeds are right
CLIPS = {
    "k1": ("knocking", "s1", True, True, {"video_only": 0, "real_audio": 2}),
    "k2": ("knocking", "s1", True, True, {"video_only": 1, "real_audio": 2}),
    "h1": ("hammering", "s2", True, False, {"video_only": 1, "real_audio": 1}),
    "h2": ("hammering", "s3", False, False, {"video_only": 2, "real_audio": 0}),
    "w1": ("waving", "s4", False, False, {"video_only": 2, "real_audio": 2}),
}  # fmt: skip
ROW = {"model": "lstm", "train_audio": "none", "test_audio": "none", "depends_on": "data/audio_features"}
CONDITIONS = {"video_only": ROW, "real_audio": ROW | {"train_audio": "real", "test_audio": "real"}}


def frame() -> pd.DataFrame:
    return pd.DataFrame([
        {"clip_id": f"{action}/{name}", "split": "test", "action": action, "source_id": source}
        for name, (action, source, *_) in CLIPS.items()
    ])  # fmt: skip


def write(condition: str, seeds: int = 2, drop: int = 0) -> None:
    probabilities = np.zeros((seeds, len(CLIPS), 3), np.float32)
    for i, (action, _, _, _, right) in enumerate(CLIPS.values()):
        true = ACTIONS.index(action)
        for seed in range(seeds):
            probabilities[seed, i, true if seed < right.get(condition, 0) else (true + 1) % 3] = 1
    table = frame().iloc[: len(CLIPS) - drop]
    predictions.write(condition, predictions.Predictions(table, ACTIONS, probabilities[:, : len(table)]))
    run.write_json(Path(f"metrics/classifier/{condition}.json"), predictions.score(predictions.read(condition)) | {"parameters": 12_345})


@pytest.fixture(autouse=True)
def results(workspace, monkeypatch):
    monkeypatch.setattr(predictions, "score", score)
    pairs = [["knocking", "hammering"]]
    workspace.set(classifier={"seeds": 2, "conditions": CONDITIONS}, report={"look_alike_pairs": pairs}, clips={"root": "my|media"})
    for condition in CONDITIONS:
        write(condition)
    index = [index_row(f"{action}/{name}", "test", "ok" if heard else "silent") for name, (action, _, heard, _, _) in CLIPS.items()]
    index.sort(key=lambda row: row["clip_id"])
    rows = [row | {"features": np.zeros((2, 3))} for row in index if row["status"] == "ok"]
    shards.write(Path("data/audio_features"), pa.schema([("features", shards.tensor(pa.float16(), 2, 3))]), rows, index, "v")
    truth([{"clip_id": f"{action}/{name}", "sound_belongs": belongs} for name, (action, _, _, belongs, _) in CLIPS.items()])
    keep({"k1", "h2"})
    Path("metrics/experiments").mkdir(parents=True)
    monkeypatch.setattr(tables, "of_stages", lambda: ["a table"])  # of other stages' metrics
    return workspace


REAL_SCORE = predictions.score


def score(made: predictions.Predictions) -> dict:
    """As `predictions.score`, with validation figures of test clips, of which there are no others here."""
    both = pd.concat([made.clips, made.clips.assign(split="validation")], ignore_index=True)
    return REAL_SCORE(predictions.Predictions(both, made.actions, np.concatenate([made.probabilities] * 2, axis=1)))


def truth(rows: list[dict]) -> None:
    shards.write_table(
        pa.Table.from_pylist([dict.fromkeys(clips.TRUTH.names) | row for row in rows], schema=clips.TRUTH), Path("data/truth.parquet")
    )


def keep(names: set[str]) -> None:
    rows = [{"clip_id": f"{action}/{name}", "keep": name in names} for name, (action, *_) in CLIPS.items()]
    shards.write_table(pa.Table.from_pylist(rows), Path("data/filter.parquet"))


def make() -> tuple[dict, str]:
    report.main(run.StageRun("report", None, 1))
    return json.loads(Path("metrics/report.json").read_text()), Path("metrics/tables.md").read_text()


def figures() -> dict[str, dict[str, dict]]:
    """The rows of metrics/subsets.csv: by condition and `measure_subset`."""
    found: dict[str, dict[str, dict]] = {}
    for row in pd.read_csv("metrics/subsets.csv").to_dict("records"):
        name = row["measure"] + ("" if pd.isna(row["subset"]) else f"_{row['subset']}")
        found.setdefault(row["condition"], {})[name] = row
    return found


def test_figures_are_those_counted_by_hand():
    metrics, _ = make()
    means = metrics["conditions"]
    video, real = figures()["video_only"], figures()["real_audio"]
    assert {name: value["mean"] for name, value in real.items()} == pytest.approx(
        {name: value for name, value in means["real_audio"].items() if name != "smallest_detectable_difference"}, abs=2e-6
    )
    by_hand = {  # right answers of two seeds, over twice the clips
        "accuracy": (6 / 10, 7 / 10, 5), "accuracy_with_audio": (2 / 6, 5 / 6, 3), "accuracy_without_audio": (4 / 4, 2 / 4, 2),
        "accuracy_kept": (2 / 4, 2 / 4, 2), "accuracy_rejected": (4 / 6, 5 / 6, 3), "accuracy_own_sound": (1 / 4, 4 / 4, 2),
        "accuracy_foreign_sound": (1 / 2, 1 / 2, 1),
    }  # fmt: skip
    for name, (one, other, n) in by_hand.items():
        assert (video[name]["mean"], real[name]["mean"]) == (pytest.approx(one, abs=1e-5), pytest.approx(other, abs=1e-5)), name
        assert video[name]["n"] == real[name]["n"] == n
        assert video[name]["ci95_low"] <= one <= video[name]["ci95_high"]
        difference = real[name.replace("accuracy", "difference")]
        assert difference["mean"] == pytest.approx(other - one, abs=1e-5) and 0 < difference["p"] <= 1
    assert not any(name.startswith("difference") for name in video)
    assert (metrics["test_clips"], metrics["test_sources"]) == (5, 4)
    pairs = metrics["look_alike_pairs"]["video_only"]
    assert pairs == {"knocking / hammering": 0.5, "all pairs": 0.5, "other actions": 1.0}


def table_after(text: str, heading: str) -> list[list[str]]:
    lines = text.split(f"## {heading}")[1].split("\n## ")[0].splitlines()
    return [[cell.strip() for cell in line.replace("\\|", "¦").strip("|").split("|")] for line in lines if line.startswith("|")]


def test_tables_show_the_same_figures_and_are_well_formed():
    _, text = make()
    main = table_after(text, "Main table")
    assert {len(row) for row in main} == {len(main[0])} and len(main) == 4
    video, real = main[2:]
    assert video[0] == "`video_only`" and video[2].startswith("60.0 [") and real[2].startswith("70.0 [")
    assert real[3].startswith("+10.0 [") and video[3] == "" and "17.79" in video[-1] and "34.32" in real[-1]
    assert "12,345" in video and "5 / 4 / 2" in video
    assert "cannot be compared" in text and "`my|media`; 5 test clips of 4 sources and 3 actions; 3 of them (2 sources)" in text
    subsets = table_after(text, "On subsets of the test clips")
    assert subsets[0][1:] == [
        "audible sound (n = 3)",
        "no audible sound (n = 2)",
        "kept (n = 2)",
        "rejected (n = 3)",
        "its own sound (n = 2)",
        "foreign sound (n = 1)",
    ]
    assert [cell.split(" [")[0] for cell in subsets[3][1:]] == ["83.3", "50.0", "50.0", "83.3", "100.0", "50.0"]
    pairs = table_after(text, "Within look-alike pairs")
    assert [cell.split(" [")[0] for cell in pairs[2]] == ["`video_only`", "50.0", "50.0", "100.0"]


def test_architectures_are_compared_on_the_same_clips(results, monkeypatch):
    kinds = [name for kind in report.ARCHITECTURES.values() for name in kind]
    results.set(classifier={"conditions": {**CONDITIONS, **{name: ROW for name in kinds}}})
    for name in kinds:
        write(name)
    for name, right in (("mapped", "real_audio"), ("generated", "video_only")):
        predictions.write(name, predictions.read(right))
    monkeypatch.setattr(tables, "architecture_figures", lambda names: [["a measure", *names]])
    found = table_after(make()[1], "The two architectures")
    assert found[0][1:] == ["`validation`", "`mapping`"] and found[2] == ["a measure", "validation", "mapping"]
    assert found[3][1].startswith("60.0 [") and found[3][2].startswith("70.0 [")
    assert found[5][2].startswith("+10.0 [")


def test_without_truth_or_pairs_their_tables_are_left_out(results):
    truth([])
    results.set(report={"look_alike_pairs": []})
    metrics, text = make()
    assert "its own sound" not in text and "look-alike" not in text
    assert "accuracy_own_sound" not in metrics["conditions"]["video_only"] and "look_alike_pairs" not in metrics


def test_a_missing_condition_is_an_error_not_a_gap():
    Path("data/predictions/real_audio.parquet").unlink()
    with pytest.raises(UserError, match="real_audio.parquet is missing: run `dvc repro classifier@real_audio`"):
        make()


def test_a_missing_seed_is_an_error_not_a_gap(results):
    write("real_audio", seeds=1)
    with pytest.raises(UserError, match="holds 1 seeds, params.yaml asks for 2: run `dvc repro classifier@real_audio`"):
        make()
    results.set(classifier={"conditions": {**CONDITIONS, "logistic": ROW | {"model": "logistic"}}})
    write("real_audio")
    write("logistic", seeds=1)
    assert "logistic" in make()[0]["conditions"]  # it has one by nature


def test_other_clips_than_the_baselines_are_an_error():
    write("real_audio", drop=1)
    with pytest.raises(UserError, match="real_audio answers other test clips than video_only"):
        make()


def test_a_row_of_kept_clips_only_is_compared_on_its_clips(results):
    results.set(classifier={"conditions": {**CONDITIONS, "published": ROW | {"kept_only": True}}})
    keep({"k1", "k2", "h1", "h2"})
    write("published", drop=1)
    make()
    row = figures()["published"]
    assert row["accuracy"]["n"] == row["difference"]["n"] == 4
    assert row["difference"]["mean"] == pytest.approx(0 - 4 / 8)  # no seed of it is right, and video_only is in 4 of 8


def test_predictions_of_dropped_conditions_are_not_shown(results):
    write("old_row")
    assert "old_row" not in make()[1]


def test_a_subset_without_clips_says_so(results):
    index = [index_row(f"{action}/{name}", "test", "silent") for name, (action, *_) in CLIPS.items()]
    shards.write(Path("data/audio_features"), pa.schema([]), [], index, "v")
    metrics, text = make()
    assert "no clips" in text and figures()["video_only"]["accuracy_with_audio"]["n"] == 0
    assert metrics["conditions"]["video_only"]["accuracy_with_audio"] is None


def test_experiments_are_shown_as_they_stand(results):
    Path("metrics/experiments/rates.csv").write_text("condition,accuracy\nreal|audio,0.10\nvideo,007\n")
    Path("metrics/experiments/statistics.csv").write_text("simulated\nours\n")
    _, text = make()
    assert "| real\\|audio | 0.10 |" in text and "| video | 007 |" in text
    assert "`python -m stages.experiments rates`" in text and "`python -m benchmarks.statistics`" in text


def test_markdown_and_percent():
    assert report.markdown(["a", "b|c"], [["1", "2"]]) == "| a | b\\|c |\n| --- | --- |\n| 1 | 2 |"
    figure = {"mean": 0.12345, "ci95_low": -0.01, "ci95_high": 0.5}
    assert report.percent(figure) == "12.3 [-1.0, 50.0]" and report.percent(figure, True) == "+12.3 [-1.0, +50.0]"
    assert report.percent({"mean": None}) == "no clips"


def test_reported_figures_are_those_of_the_description():
    assert report.REPORTED["video_only"].startswith("17.79") and report.REPORTED["real_audio"].startswith("34.32")

"""The report's figures from hand-made predictions, and that nothing missing passes for a result."""

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from audio_from_video.clipset.truth import TRUTH_SCHEMA
from audio_from_video.evaluation import curves, intervals, read_out
from audio_from_video.evaluation import filter as filter_evaluation
from audio_from_video.evaluation import rows as condition_evaluation
from audio_from_video.reporting import (
    figures,
    missingness_tables,
    page,
    row_tables,
    stage_tables,
    stamps,
)
from audio_from_video.runtime import atomic, stage_run, vocabulary
from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import predictions, shards
from stages import report
from tests.support.conditions import condition_keys
from tests.support.shard_rows import index_row

ACTIONS = ["knocking", "hammering", "waving"]
# clip: action, source, has audible sound, sound belongs, right seeds of two by condition
CLIPS = {
    "k1": ("knocking", "s1", True, True, {"video_only": 0, "real_audio": 2}),
    "k2": ("knocking", "s1", True, True, {"video_only": 1, "real_audio": 2}),
    "h1": ("hammering", "s2", True, False, {"video_only": 1, "real_audio": 1}),
    "h2": ("hammering", "s3", False, False, {"video_only": 2, "real_audio": 0}),
    "w1": ("waving", "s4", False, False, {"video_only": 2, "real_audio": 2}),
}
PUBLISHED = condition_keys(kept_only=True)
CONDITIONS = {
    "video_only": condition_keys(),
    "real_audio": condition_keys(train_audio="real", test_audio="real"),
}


RATES = pa.schema(
    [
        ("seed", pa.int32()),
        ("missing_rate", pa.float32()),
        ("clip_id", pa.string()),
        ("source_id", pa.string()),
        ("hit", pa.bool_()),
    ]
)


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"clip_id": f"{action}/{name}", "split": "test", "action": action, "source_id": source}
            for name, (action, source, *_) in CLIPS.items()
        ]
    )


def write(condition: str, seeds: int = 2, drop: int = 0) -> None:
    probabilities = np.zeros((seeds, len(CLIPS), 3), np.float32)
    for i, (action, _, _, _, right) in enumerate(CLIPS.values()):
        true = ACTIONS.index(action)
        for seed in range(seeds):
            probabilities[seed, i, true if seed < right.get(condition, 0) else (true + 1) % 3] = 1
    table = frame().iloc[: len(CLIPS) - drop]
    predictions.write(
        condition, predictions.Predictions(table, ACTIONS, probabilities[:, : len(table)])
    )
    atomic.write_json(
        Path(f"metrics/classifier/{condition}.json"),
        condition_evaluation.classifier_figures(predictions.read(condition))
        | {"parameters": 12_345},
    )
    write_rates(condition)


def write_rates(condition: str) -> None:
    """As the predictions without missing audio; with rate 1 no clip of the second half is right."""
    found = predictions.read(condition)
    hits = found.answers == found.labels  # [seeds, clips]
    rows = [
        {
            "seed": seed,
            "missing_rate": rate,
            "clip_id": clip,
            "source_id": source,
            "hit": bool(hits[seed, i]) and (rate < 1 or i < 2),
        }
        for seed in range(len(hits))
        for rate in (0.0, 0.25, 0.5, 0.75, 1.0)
        for i, (clip, source) in enumerate(
            zip(found.clips.clip_id, found.clips.source_id, strict=True)
        )
    ]
    shards.write_table(
        pa.Table.from_pylist(rows, schema=RATES), Path(f"data/missing_rates/{condition}.parquet")
    )


REAL = {  # centred audio features [T, A] of audible clips
    "knocking/k1": [[1, 0, 0], [1, 0, 0]],
    "knocking/k2": [[0, 1, 0], [0, 2, 0]],
    "hammering/h1": [[1, 1, 1], [1, 1, 1]],
}
MADE = {  # generated ones [seeds, T, A]
    "knocking/k1": [[[1, 0, 0], [0, 3, 0]], [[1, 0, 0], [1, 0, 0]]],
    "knocking/k2": [[[0, 1, 0], [1, 0, 0]], [[1, 0, 0], [1, 0, 0]]],
}


@pytest.fixture(autouse=True)
def results(workspace, monkeypatch):
    monkeypatch.setattr(condition_evaluation, "classifier_figures", score)
    pairs = [["knocking", "hammering"]]
    workspace.set(
        classifier={"seeds": 2, "conditions": CONDITIONS},
        report={"look_alike_pairs": pairs},
        clips={"root": "my|media"},
        generator={"architectures": {"caption_mapping": None, "shuffled": None}},
    )
    for condition in CONDITIONS:
        write(condition)
    index = [
        index_row(f"{action}/{name}", "test", "ok" if heard else "silent")
        for name, (action, _, heard, _, _) in CLIPS.items()
    ]
    index.sort(key=lambda row: row["clip_id"])
    rows = [row | {"features": REAL[row["clip_id"]]} for row in index if row["status"] == "ok"]
    shards.write(
        Path("data/audio_features"),
        pa.schema([("features", shards.tensor(pa.float16(), 2, 3))]),
        rows,
        index,
        "v",
    )
    generated = [
        row | {"status": "ok", "features": MADE.get(row["clip_id"], np.zeros((2, 2, 3)))}
        for row in index
    ]
    schema = pa.schema([("features", shards.tensor(pa.float16(), 2, 2, 3))])
    shards.write(
        Path("data/generated/semantic_validation"),
        schema,
        generated,
        [row | {"status": "ok"} for row in index],
        "v",
    )
    truth(
        [
            {"clip_id": f"{action}/{name}", "sound_belongs": belongs}
            for name, (action, _, _, belongs, _) in CLIPS.items()
        ]
    )
    keep({"k1", "h2"})
    Path("metrics/experiments").mkdir(parents=True)
    # What has tests of its own: other stages' metrics, figures, the page and read-outs.
    monkeypatch.setattr(stage_tables, "stage_tables", lambda seeds: [])
    monkeypatch.setattr(missingness_tables, "missingness_tables", lambda: [])
    monkeypatch.setattr(figures, "save_figure", lambda *_: None)
    monkeypatch.setattr(page, "report_html", lambda *_: "")
    monkeypatch.setattr(read_out, "read_out_figures", lambda pairs: {})
    thresholds = {name: {"threshold": 0.5} for name in vocabulary.ARCHITECTURES}
    atomic.write_json(Path("metrics/filter.json"), thresholds)
    Path("metrics/plots/filter").mkdir(parents=True)
    shares = {"kept_fraction": 1.0, "precision": 1.0, "recall": 1.0}
    sweep = pd.DataFrame({"threshold": filter_evaluation.THRESHOLDS}).assign(**shares)
    sweep.to_csv("metrics/plots/filter/semantic_validation.csv", index=False)
    return workspace


REAL_SCORE = condition_evaluation.classifier_figures
REAL_SAVE = figures.save_figure


def score(made: predictions.Predictions) -> dict:
    """As `classifier_figures`; validation figures are of test clips: there are no others."""
    both = pd.concat([made.clips, made.clips.assign(split="validation")], ignore_index=True)
    return REAL_SCORE(
        predictions.Predictions(
            both, made.actions, np.concatenate([made.probabilities] * 2, axis=1)
        )
    )


def truth(rows: list[dict]) -> None:
    shards.write_table(
        pa.Table.from_pylist(
            [dict.fromkeys(TRUTH_SCHEMA.names) | row for row in rows], schema=TRUTH_SCHEMA
        ),
        Path("data/truth.parquet"),
    )


def keep(names: set[str]) -> None:
    rows = [
        {
            "clip_id": f"{action}/{name}",
            "split": "test",
            "score": float(name in names),
            "keep": name in names,
        }
        for name, (action, *_) in CLIPS.items()
    ]
    shards.write_table(pa.Table.from_pylist(rows), Path("data/filter/semantic_validation.parquet"))


def make() -> tuple[dict, str]:
    report.main(stage_run.StageRun("report", None, 1))
    return json.loads(Path("metrics/report.json").read_text()), Path(
        "metrics/tables.md"
    ).read_text()


def subset_figures() -> dict[str, dict[str, dict]]:
    """The rows of metrics/subsets.csv: by condition and `measure_subset`."""
    found: dict[str, dict[str, dict]] = {}
    for row in pd.read_csv("metrics/subsets.csv").to_dict("records"):
        name = row["measure"] + ("" if pd.isna(row["subset"]) else f"_{row['subset']}")
        found.setdefault(row["condition"], {})[name] = row
    return found


def test_figures_are_those_counted_by_hand():
    metrics, _ = make()
    means = metrics["conditions"]
    video, real = subset_figures()["video_only"], subset_figures()["real_audio"]
    assert {name: value["mean"] for name, value in real.items()} == pytest.approx(
        {
            name: value
            for name, value in means["real_audio"].items()
            if name != "smallest_detectable_difference"
        },
        abs=2e-6,
    )
    by_hand = {  # right answers of two seeds, over twice the clips
        "accuracy": (6 / 10, 7 / 10, 5),
        "accuracy_with_audio": (2 / 6, 5 / 6, 3),
        "accuracy_without_audio": (4 / 4, 2 / 4, 2),
        "accuracy_kept": (2 / 4, 2 / 4, 2),
        "accuracy_rejected": (4 / 6, 5 / 6, 3),
        "accuracy_own_sound": (1 / 4, 4 / 4, 2),
        "accuracy_foreign_sound": (1 / 2, 1 / 2, 1),
    }
    for name, (one, other, n) in by_hand.items():
        assert (video[name]["mean"], real[name]["mean"]) == (
            pytest.approx(one, abs=1e-5),
            pytest.approx(other, abs=1e-5),
        ), name
        assert video[name]["n"] == real[name]["n"] == n
        assert video[name]["ci95_low"] <= one <= video[name]["ci95_high"]
        difference = real[name.replace("accuracy", "difference")]
        assert difference["mean"] == pytest.approx(other - one, abs=1e-5)
        assert 0 < difference["p"] <= 1
    assert not any(name.startswith("difference") for name in video)
    assert (metrics["test_clips"], metrics["test_sources"]) == (5, 4)
    pairs = metrics["look_alike_pairs"]["video_only"]
    assert pairs == {"knocking / hammering": 0.5, "all pairs": 0.5, "other actions": 1.0}
    with open("metrics/tables/look_alike_differences.csv") as lines:
        (row,) = csv.DictReader(lines)
    for group, accuracy in metrics["look_alike_pairs"]["real_audio"].items():
        assert float(row[group]) == pytest.approx(100 * (accuracy - pairs[group]), abs=0.06)
        assert float(row[f"{group}_low"]) <= float(row[group]) <= float(row[f"{group}_high"])


def test_conditions_are_compared_with_others_than_the_baseline(workspace):
    # Right answers of the new condition, of 10: 8.  Real audio has 7 and video_only 6.
    for name in ("k1", "k2", "h1", "w1"):
        CLIPS[name][4]["taught"] = 2
    write("taught")
    asked = [
        {"condition": "taught", "minus": "real_audio", "bound": "absent"},
        {"condition": "absent", "minus": "real_audio"},
    ]
    pairs = [["knocking", "hammering"]]
    workspace.set(
        classifier={"seeds": 2, "conditions": CONDITIONS | {"taught": condition_keys()}},
        report={"look_alike_pairs": pairs, "contrasts": asked},
    )
    metrics, text = make()
    assert metrics["contrasts"] == {"taught minus real_audio": pytest.approx(0.1, abs=1e-5)}
    (row,) = table_after(text, "Compared with other conditions")[2:]
    assert row[:2] == ["`taught`", "`real_audio`"]
    assert row[2].startswith("+10.0 [")
    assert row[4:] == ["", ""]
    page = Path("docs/results.md").read_text()
    assert "No difference between `taught` and `real_audio` can be shown: +10.0 [" in page


def test_a_contrast_tells_its_share_of_the_gap():
    index = pd.Index(["a", "b", "c", "d"], name="clip_id")
    clips = pd.DataFrame({"source_id": ["s", "t", "u", "v"]}, index=index)

    def answers(right: list[int]) -> condition_evaluation.ConditionAnswers:
        hits = pd.DataFrame({0: right}, index=index, dtype=float)
        return condition_evaluation.ConditionAnswers(
            clips.assign(hit=hits[0]), hits, 1, 0.0, None, pd.DataFrame()
        )

    known = {"low": answers([0] * 4), "half": answers([1, 1, 0, 0]), "high": answers([1] * 4)}
    found = condition_evaluation.contrast(known, "half", "low", "high")
    assert found.difference["mean"] == 0.5
    assert found.gap_share is not None
    assert found.gap_share["mean"] == 0.5
    assert condition_evaluation.contrast(known, "half", "low").gap_share is None


def table_after(text: str, heading: str) -> list[list[str]]:
    lines = text.split(f"## {heading}")[1].split("\n## ")[0].splitlines()
    return [
        [cell.strip() for cell in line.replace("\\|", "¦").strip("|").split("|")]
        for line in lines
        if line.startswith("|")
    ]


def test_tables_show_the_same_figures_and_are_well_formed():
    _, text = make()
    main = table_after(text, "Main table")
    assert {len(row) for row in main} == {len(main[0])}
    assert len(main) == 4
    video, real = main[2:]
    assert video[0] == "`video_only`"
    assert video[2].startswith("60.0 [")
    assert real[2].startswith("70.0 [")
    assert real[3].startswith("+10.0 [")
    assert video[3] == ""
    assert "17.79" in video[-1]
    assert "34.32" in real[-1]
    assert "12,345" in video
    assert "5 / 4 / 2" in video
    assert "cannot be compared" in text
    assert "`my|media`; 5 test clips of 4 sources and 3 actions; 3 of them (2 sources)" in text
    subsets = table_after(text, "On subsets of the test clips")
    assert subsets[0][1:] == [
        "audible sound (n = 3)",
        "no audible sound (n = 2)",
        "kept (n = 2)",
        "rejected (n = 3)",
        "its own sound (n = 2)",
        "foreign sound (n = 1)",
        "clips / sources / seeds",
    ]
    assert [cell.split(" [")[0] for cell in subsets[3][1:]] == [
        "83.3",
        "50.0",
        "50.0",
        "83.3",
        "100.0",
        "50.0",
        "5 / 4 / 2",
    ]
    pairs = table_after(text, "Within look-alike pairs")
    assert [cell.split(" [")[0] for cell in pairs[2]] == [
        "`video_only`",
        "50.0",
        "50.0",
        "100.0",
        "5 / 4 / 2",
    ]


def test_architectures_are_compared_on_the_same_clips(results, monkeypatch):
    kinds = []
    for architecture in vocabulary.ARCHITECTURES.values():
        kinds += [architecture.generated, architecture.filtered]
    both = dict.fromkeys(kinds, condition_keys())
    results.set(classifier={"conditions": {**CONDITIONS, **both}})
    for name in kinds:
        write(name)
    for name, right in (("mapped", "real_audio"), ("generated", "video_only")):
        predictions.write(name, predictions.read(right))
    measured = ["a measure", "of the first", "of the second"]
    monkeypatch.setattr(stage_tables, "architecture_lines", lambda: [measured])
    lines = table_after(make()[1], "The two architectures")
    assert lines[0][1:] == ["`semantic_validation`", "`caption_mapping`"]
    assert lines[2] == measured
    assert lines[3][1].startswith("60.0 [")
    assert lines[3][2].startswith("70.0 [")
    assert lines[5][2].startswith("+10.0 [")


def test_without_truth_or_pairs_their_tables_are_left_out(results):
    truth([])
    results.set(report={"look_alike_pairs": []})
    metrics, text = make()
    assert "its own sound" not in text
    assert "look-alike" not in text
    assert "accuracy_own_sound" not in metrics["conditions"]["video_only"]
    assert "look_alike_pairs" not in metrics


def test_a_missing_condition_is_an_error_not_a_gap():
    Path("data/predictions/real_audio.parquet").unlink()
    with pytest.raises(
        UserError, match="real_audio.parquet is missing: run `dvc repro classifier@real_audio`"
    ):
        make()


def test_a_missing_seed_is_an_error_not_a_gap(results):
    write("real_audio", seeds=1)
    with pytest.raises(
        UserError,
        match="holds 1 seeds, params.yaml asks for 2: run `dvc repro classifier@real_audio`",
    ):
        make()
    logistic = condition_keys(model="logistic")
    results.set(classifier={"conditions": {**CONDITIONS, "logistic": logistic}})
    write("real_audio")
    write("logistic", seeds=1)
    assert "logistic" in make()[0]["conditions"]  # it has one by nature


def test_other_clips_than_the_baselines_are_an_error():
    write("real_audio", drop=1)
    with pytest.raises(UserError, match="real_audio answers other test clips than video_only"):
        make()


def test_a_condition_of_kept_clips_only_is_compared_on_its_clips(results):
    results.set(classifier={"conditions": {**CONDITIONS, "published": PUBLISHED}})
    keep({"k1", "k2", "h1", "h2"})
    write("published", drop=1)
    make()
    row = subset_figures()["published"]
    assert row["accuracy"]["n"] == row["difference"]["n"] == 4
    assert row["difference"]["mean"] == pytest.approx(
        0 - 4 / 8
    )  # no seed of it is right, and video_only is in 4 of 8


def test_predictions_of_dropped_conditions_are_not_shown(results):
    write("old_row")
    assert "old_row" not in make()[1]


def test_a_subset_without_clips_says_so(results):
    index = [
        index_row(f"{action}/{name}", "test", "silent") for name, (action, *_) in CLIPS.items()
    ]
    shards.write(Path("data/audio_features"), pa.schema([]), [], index, "v")
    metrics, text = make()
    assert "no clips" in text
    assert subset_figures()["video_only"]["accuracy_with_audio"]["n"] == 0
    assert metrics["conditions"]["video_only"]["accuracy_with_audio"] is None


def test_experiments_are_shown_as_they_stand(results):
    Path("metrics/experiments/rates.csv").write_text(
        "condition,accuracy\nreal|audio,0.10\nvideo,007\n"
    )
    Path("metrics/experiments/interval_coverage.csv").write_text("simulated\nours\n")
    _, text = make()
    assert "| real\\|audio | 0.10 |" in text
    assert "| video | 007 |" in text
    assert "`python -m tools.experiments rates`" in text
    assert "`python -m benchmarks.interval_coverage`" in text


def test_experiments_of_another_run_stand_behind_a_banner(results):
    Path("metrics/experiments/rates.csv").write_text("condition,accuracy\nvideo,0.1\n")
    stamp = stamps.finish(stamps.begin("2 cores", []), None, {})
    stamps.write("rates", {"rates": stamp})
    assert "Of another run" not in make()[1]

    results.set(filter={"threshold": 0.33})
    _, text = make()
    section = text.split("## Experiment: rates")[1]
    assert section.strip().startswith("> Of another run (commit unknown, ")
    assert "other parameters. These are no figures of this run." in section
    assert "Of another run" in Path("metrics/tables/experiment_rates.tex").read_text()
    (row,) = csv.DictReader(Path("metrics/tables/experiment_rates.csv").read_text().splitlines())
    assert row["of another run"].startswith("Of another run")


def test_pages_say_which_run_their_figures_are_of():
    _, text = make()
    for page_text in (text, Path("docs/results.md").read_text()):
        facts = page_text.split("## This run\n")[1].split("\n## ")[0]
        for title in ("date", "commit", "data set", "processor", "libraries"):
            assert f"- Run, {title}: " in facts


def test_reported_figures_are_those_of_the_description():
    assert row_tables.REPORTED["video_only"].startswith("17.79")
    assert row_tables.REPORTED["real_audio"].startswith("34.32")


def test_every_action_has_its_own_figures():
    actions = table_after(make()[1], "Per action")
    assert actions[0] == ["action", "`video_only` (2)", "`real_audio` (2)", "clips", "sources"]
    by_hand = {
        "knocking": (25, 100, 2, 1),
        "hammering": (75, 25, 2, 2),
        "waving": (100, 100, 1, 1),
    }  # per cent, clips, sources
    assert {
        row[0]: tuple(float(cell.split(" [")[0]) for cell in row[1:]) for row in actions[2:]
    } == by_hand


def test_a_list_of_audio_visual_actions_splits_clips(results):
    Path("avmit.csv").write_text("action,clips\nHammering,60\nplaying music,60\n")
    results.set(report={"audio_visual_actions": "avmit.csv"})
    _, text = make()
    subsets = table_after(text, "On subsets of the test clips")
    assert subsets[0][-3:-1] == ["audio-visual actions (n = 2)", "other actions (n = 3)"]
    assert [cell.split(" [")[0] for cell in subsets[2][-3:-1]] == ["75.0", "50.0"]
    assert [row[:2] for row in table_after(text, "Per action")[2:]] == [
        ["hammering", "yes"],
        ["knocking", "no"],
        ["waving", "no"],
    ]


def test_names_on_the_list_are_matched_as_people_write_them():
    Path("list.csv").write_text("\ufeffPlaying_Music\n", encoding="utf-8")
    assert report.audio_visual_actions("list.csv", ["playing+music", "waving"]) == {"playing+music"}


@pytest.mark.parametrize(
    "content, message",
    [(None, "avmit.csv does not exist"), ("barking\n", "names none of the actions")],
)
def test_a_list_that_is_missing_or_of_another_set_is_an_error(results, content, message):
    if content:
        Path("avmit.csv").write_text(content)
    results.set(report={"audio_visual_actions": "avmit.csv"})
    with pytest.raises(UserError, match=message):
        make()


def test_differences_are_adjusted_for_the_number_of_comparisons(results, monkeypatch):
    others = dict.fromkeys(("zero_fill", "mapped"), condition_keys())
    results.set(classifier={"conditions": {**CONDITIONS, **others}})
    for name in ("zero_fill", "mapped"):
        write(name)
    asked = {}
    monkeypatch.setattr(intervals, "holm", lambda p: asked.update(p) or {name: 0.5 for name in p})
    checks = table_after(make()[1], "Main table: tests and calibration")
    assert set(asked) == {"real_audio", "zero_fill", "mapped"}
    assert checks[0][4] == "p, Holm"
    assert [row[4] for row in checks[2:]] == ["", "0.5", "0.5", "0.5"]
    assert checks[3][3] == f"{asked['real_audio']:.2g}"


def test_differences_are_shown_with_the_luck_of_trainings_too(results):
    """The first interval draws trainings; the one beside it takes them as they are."""
    metrics, text = make()
    checks = table_after(text, "Main table: tests and calibration")
    both, alone = (
        tuple(map(float, cell.replace("]", "").replace("[", "").replace(",", "").split()))
        for cell in checks[3][1:3]
    )
    answered = [predictions.read(name).of("test") for name in ("real_audio", "video_only")]
    sources = answered[0].clips.source_id.to_numpy()
    assert answered[0].clips.clip_id.tolist() == answered[1].clips.clip_id.tolist()
    by_training = intervals.paired_difference(
        *(each.hits_by_seed().T for each in answered), sources
    )
    by_clip = intervals.paired_difference(*(each.hits() for each in answered), sources)
    for cell, figure in ((both, by_training), (alone, by_clip)):
        expected = [100 * figure[part] for part in ("mean", "ci95_low", "ci95_high")]
        assert cell == pytest.approx(expected, abs=0.051)
    assert both[0] == alone[0] and both[2] - both[1] > alone[2] - alone[1]


def test_the_gap_share_needs_a_gap(results):
    """real_audio is no better beyond doubt; where it is, half of its gain is half."""
    assert table_after(make()[1], "Main table: tests and calibration")[3][6] == ""
    results.set(classifier={"conditions": {**CONDITIONS, "generated": condition_keys()}})
    sure = {
        name: (*clip[:4], {"video_only": 0, "generated": 1, "real_audio": 2})
        for name, clip in CLIPS.items()
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.test_report.CLIPS", sure)
        for name in ("video_only", "generated", "real_audio"):
            write(name)
    checks = table_after(make()[1], "Main table: tests and calibration")
    assert [row[6] for row in checks[2:]] == ["", "", "50.0 [50.0, 50.0]"]


def test_calibration_error_is_that_of_the_probabilities():
    """Every answer is given with probability 1, so the error is the share of wrong ones."""
    metrics, text = make()
    assert [row[7] for row in table_after(text, "Main table: tests and calibration")[2:]] == [
        "0.400",
        "0.300",
    ]
    assert metrics["checks"]["video_only"]["calibration_error"] == pytest.approx(0.4)


def test_missing_rates_are_those_of_the_files():
    metrics, text = make()
    rates = table_after(text, "Missing rates")
    assert rates[0] == [
        "condition",
        *(f"{rate} % missing" for rate in (0, 25, 50, 75, 100)),
        "clips / sources / seeds",
    ]
    assert [cell.split(" [")[0] for cell in rates[3]] == [
        "`real_audio`",
        "70.0",
        "70.0",
        "70.0",
        "70.0",
        "40.0",
        "5 / 4 / 2",
    ]
    assert metrics["missing_rates"]["video_only"]["100"] == pytest.approx(0.1)
    sources = np.array([source for _, source, *_ in CLIPS.values()])
    # Of two seeds so many are right, the first ones first.
    hits = np.array([np.arange(2) < right["real_audio"] for *_, right in CLIPS.values()])
    expected = intervals.interval(hits, sources)
    assert (
        rates[3][1] == f"70.0 [{100 * expected['ci95_low']:.1f}, {100 * expected['ci95_high']:.1f}]"
    )


@pytest.mark.parametrize("lost", ["file", "clip", "seed", "rate", "everything"])
def test_a_missing_rate_clip_or_seed_is_an_error(lost):
    path = Path("data/missing_rates/real_audio.parquet")
    table = shards.pq.read_table(path).to_pandas()
    keep = {
        "clip": table.clip_id != "waving/w1",
        "seed": table.seed == 0,
        "rate": table.missing_rate != 0.5,
        "everything": table.seed > 9,
        "file": table.seed >= 0,
    }[lost]
    shards.write_table(pa.Table.from_pandas(table[keep], schema=RATES, preserve_index=False), path)
    if lost == "file":
        path.unlink()
    with pytest.raises(
        UserError, match="real_audio.parquet (is missing|lacks).*dvc repro classifier@real_audio"
    ):
        make()


def test_a_condition_of_kept_clips_only_may_be_without_missing_rates(results):
    results.set(classifier={"conditions": {**CONDITIONS, "published": PUBLISHED}})
    write("published", drop=1)
    shards.write_table(RATES.empty_table(), Path("data/missing_rates/published.parquet"))
    metrics, text = make()
    assert "`published`" not in str(table_after(text, "Missing rates"))
    assert "published" not in metrics["missing_rates"]
    assert "keeps 4 of 5 test clips, 80.0 %" in text


@pytest.mark.slow
def test_a_condition_that_answers_no_clip_says_so(results, monkeypatch):
    monkeypatch.setattr(figures, "save_figure", REAL_SAVE)
    results.set(classifier={"conditions": {**CONDITIONS, "published": PUBLISHED}})
    write("published", drop=5)
    _, text = make()
    assert table_after(text, "Main table")[4][2] == "no clips"
    assert table_after(text, "Main table: tests and calibration")[4][1:] == [
        "no clips",
        "no clips",
        "",
        "",
        "",
        "",
        "",
        "0 / 0 / 1",
    ]


def test_each_table_is_there_as_csv_and_latex_and_old_ones_go():
    Path("metrics/tables").mkdir(parents=True)
    Path("metrics/tables/old.csv").write_text("x")
    make()
    names = {
        "main",
        "tests_and_calibration",
        "missing_rates",
        "subsets",
        "actions",
        "look_alike_pairs",
        "look_alike_differences",
    }
    files = {f"{name}.{kind}" for name in names for kind in ("csv", "tex")} | {"readme.md"}
    assert {path.name for path in Path("metrics/tables").iterdir()} == files
    with open("metrics/tables/main.csv") as lines:
        rows = {row["condition"]: row for row in csv.DictReader(lines)}
    assert float(rows["real_audio"]["accuracy"]) == pytest.approx(70)
    assert (
        float(rows["real_audio"]["accuracy_low"])
        <= 70
        <= float(rows["real_audio"]["accuracy_high"])
    )
    assert rows["real_audio"]["parameters"] == "12345"
    assert rows["video_only"]["minus video_only, same clips"] == ""


DIFFERENCE = "accuracy_minus_video_only"
BUDGET = (
    f"setting,condition,accuracy,{DIFFERENCE},{DIFFERENCE}_low,{DIFFERENCE}_high\n"
    "5,video_only,0.4,,,\nall,video_only,0.6,,,\n"
    "5,real_audio,0.5,0.1,0.05,0.2\nall,real_audio,0.8,0.2,0.1,0.3\n"
)


@pytest.mark.slow
def test_figures_are_the_same_bytes_every_time(monkeypatch):
    monkeypatch.setattr(figures, "save_figure", REAL_SAVE)
    predictions.write("generated", predictions.read("video_only"))  # what the filter is about
    Path("metrics/experiments/label_budget.csv").write_text(BUDGET)
    folder = Path("metrics/figures/report")
    folder.mkdir(parents=True)
    (folder / "old.png").write_text("x")
    drawn = []
    for _ in range(2):
        _, text = make()
        drawn.append({path.name: path.read_bytes() for path in folder.iterdir()})
    names = {
        "main_comparison",
        "missing_rates",
        "label_budget",
        "threshold",
        "similarity_over_time",
        "confusion_difference",
    }
    assert set(drawn[0]) == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    assert drawn[0] == drawn[1]
    assert all(f"(figures/report/{name}.png)" in text for name in names)


def test_a_label_budget_of_another_run_says_so_in_picture_and_caption(results, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        figures,
        "save_figure",
        lambda folder, name, size_in, draw, *content: drawn.update({name: content}),
    )
    Path("metrics/experiments/label_budget.csv").write_text(BUDGET)
    stamp = stamps.finish(stamps.begin("2 cores", []), None, {})
    stamps.write("label_budget", {"5": stamp, "all": stamp})
    _, text = make()
    picture = "![label_budget](figures/report/label_budget.png)\n\n"
    assert drawn["label_budget"][-1] == ""
    assert "Of another run" not in text.split(picture)[1]

    results.set(filter={"threshold": 0.33})
    _, text = make()
    assert drawn["label_budget"][-1] == "Of another run"
    assert text.split(picture)[1].startswith("Of another run (commit unknown, ")


@pytest.mark.slow
def test_label_budget_is_drawn_only_where_it_was_measured(monkeypatch):
    monkeypatch.setattr(figures, "save_figure", REAL_SAVE)
    make()
    assert not Path("metrics/figures/report/label_budget.png").exists()
    path = Path("metrics/experiments/label_budget.csv")
    path.write_text(BUDGET)
    assert curves.label_budget(path, ["video_only", "mapped", "real_audio"]) == (
        ["5", "all"],
        {
            "real_audio": [
                {"mean": 0.1, "ci95_low": 0.05, "ci95_high": 0.2},
                {"mean": 0.2, "ci95_low": 0.1, "ci95_high": 0.3},
            ]
        },
    )
    path.write_text(BUDGET.rsplit("all,real_audio")[0])
    with pytest.raises(UserError, match="has real_audio at 5, not at all of 5, all"):
        make()


def test_confusion_is_counted_by_hand():
    shares = condition_evaluation.confusion(predictions.read("video_only"))
    assert shares.loc["knocking"].to_dict() == {
        "knocking": 0.25,
        "hammering": 0.75,
        "waving": 0,
    }  # 1 of 4 answers; the next action else
    assert shares.loc["hammering"].to_dict() == {"knocking": 0, "hammering": 0.75, "waving": 0.25}


def test_similarity_over_time_is_that_computed_by_hand():
    found = curves.similarity_over_time(Path("data/generated/semantic_validation"))
    means = {key: [figure["mean"] for figure in curve] for key, curve in found.items()}
    # Cosines of both seeds at the first step, then at the second one.
    # Own: k1's 1, 1 then 0, 1; k2's 1, 0 then 0, 0.
    # Of the other clip: k1's sound with k2's 0, 1 then 1, 1; k2's with k1's 0, 0 then 1, 0.
    assert means["own"] == pytest.approx([(1 + 0.5) / 2, (0.5 + 0) / 2])
    assert means["other"] == pytest.approx([(0.5 + 0) / 2, (1 + 0.5) / 2])
    assert means["difference"] == pytest.approx([0.5, -0.5])
    assert found["own"][0]["n"] == 2  # h1 has no other of its action


def test_experiments_with_bounds_show_intervals():
    bounds = "{0},{0}_low,{0}_high".format
    figures = f"{bounds('accuracy')},{bounds('centred_cosine_test')},r2_out_of_fold"
    header = f"setting,condition,{figures},clips\n"
    Path("metrics/experiments/rates.csv").write_text(
        header + "5,mapped,0.41234,0.3,0.5,0.5,0.4,0.6,0.31,480\nall,mapped,0.5,0.4,0.6,,,,,480\n"
    )
    shown = table_after(make()[1], "Experiment: rates")
    names = ["accuracy (%)", "centred cosine test", "r2 out of fold", "clips"]
    assert shown[0] == ["setting", "condition", *names]
    assert shown[2] == ["5", "mapped", "41.2 [30.0, 50.0]", "0.500 [0.400, 0.600]", "0.310", "480"]
    assert shown[3] == ["all", "mapped", "50.0 [40.0, 60.0]", "", "", "480"]
    assert (
        "5,mapped,41.234,30,50,0.5,0.4,0.6,0.31,480"
        in Path("metrics/tables/experiment_rates.csv").read_text()
    )


def test_the_figures_of_a_run_that_is_kept_stand_behind_its_banner():
    differences = {"video_only": (0, 0, 0), "svm_real": (0.095, 0.059, 0.133)}
    differences["published"] = (np.nan, np.nan, np.nan)  # answers no clip
    write_confirmation(differences, "real")
    _, text = make()
    kept = table_after(text, "Experiment: real")
    assert kept[2:] == [
        ["`video_only`", "50.0 [0.0, 0.0]", "+0.0 [+0.0, +0.0]", "10 / 5"],
        ["`svm_real`", "50.0 [5.9, 13.3]", "+9.5 [+5.9, +13.3]", "10 / 5"],
        ["`published`", "no clips", "no clips", "10 / 5"],
    ]
    assert "> Of another run (commit unknown, " in text.split("## Experiment: real")[1]
    assert "`python -m tools.experiments real`" in text


# The results in words


def write_confirmation(
    differences: dict[str, tuple[float, float, float]], name: str = "confirmation"
) -> None:
    """The figures of a run that is kept; differences in fractions: mean and bounds by condition."""
    rows = []
    for condition, (mean, low, high) in differences.items():
        interval = {"mean": mean, "ci95_low": low, "ci95_high": high, "n": 10, "sources": 5}
        key = {"condition": condition, "subset": ""}
        rows.append(key | {"measure": "accuracy"} | interval | {"mean": 0.5})
        rows.append(key | {"measure": "difference"} | interval)
    folder = Path("metrics/experiments") / name
    folder.mkdir(parents=True)
    pd.DataFrame(rows).to_csv(folder / "subsets.csv", index=False)
    stamps.write(name, {name: stamps.begin("2 cores", ["sample.seed 3"])})


def results_section(heading: str) -> str:
    """What docs/results.md says below a heading."""
    return Path("docs/results.md").read_text().split(f"## {heading}\n")[1].split("\n## ")[0]


def test_results_hold_the_main_table_and_the_data_set_sentence():
    _, text = make()
    page_text = Path("docs/results.md").read_text()
    assert page_text.startswith("# Results\n")
    assert table_after(page_text, "Main table") == table_after(text, "Main table")
    assert "`my|media`; 5 test clips of 4 sources and 3 actions" in page_text
    assert "(../metrics/tables.md)" in page_text


def test_results_say_where_no_difference_can_be_shown():
    make()
    expected = "No difference between `real_audio` and `video_only` can be shown: +10.0 ["
    assert expected in results_section("Real audio")


@pytest.mark.parametrize(
    ("right", "outcome"),
    [
        ({"video_only": 0, "real_audio": 2}, "more accurate than `video_only`: +100.0 [+100.0"),
        ({"video_only": 2, "real_audio": 0}, "less accurate than `video_only`: -100.0 [-100.0"),
    ],
)
def test_results_say_whether_a_difference_is_more_or_less(monkeypatch, right, outcome):
    clips = {name: (*clip[:4], right) for name, clip in CLIPS.items()}
    monkeypatch.setattr("tests.test_report.CLIPS", clips)
    for name in CONDITIONS:
        write(name)
    make()
    assert f"`real_audio` is {outcome}" in results_section("Real audio")


def test_results_name_missing_rates_and_leaky_conditions(results):
    oracle = condition_keys(train_audio="generated", test_audio="generated", gate="keep_oracle")
    results.set(classifier={"conditions": {**CONDITIONS, "validated_oracle": oracle}})
    write("validated_oracle")
    make()
    rates = results_section("Missing rates")
    assert "`real_audio`: 70.0 [" in rates
    assert "where 0 % of the test clips lack" in rates
    assert "40.0 [" in rates
    assert "where 100 % do" in rates
    leaky = results_section("Leaky conditions")
    assert "`validated_oracle`" in leaky
    assert "`real_audio`" not in leaky


def test_results_have_the_confirmatory_run_where_it_exists():
    make()
    assert "Confirmation" not in Path("docs/results.md").read_text()
    write_confirmation({"real_audio": (0.095, 0.059, 0.133)})
    _, text = make()
    expected = "`real_audio` is more accurate than `video_only`: +9.5 [+5.9, +13.3] points."
    assert expected in results_section("Confirmation on fresh data")
    confirmed = table_after(text, "Confirmatory run")[2]
    assert confirmed == ["`real_audio`", "50.0 [5.9, 13.3]", "+9.5 [+5.9, +13.3]", "10 / 5"]
    assert "sample.seed 3 (2 cores)" in text
    banner = "> Of another run (commit unknown, "
    assert banner in text.split("## Confirmatory run")[1].split("|")[0]
    assert banner in results_section("Confirmation on fresh data")


def test_the_readmes_table_has_its_conditions_alone(results):
    others = dict.fromkeys(("logistic", "zero_fill"), condition_keys())
    results.set(classifier={"conditions": {**CONDITIONS, **others}})
    for name in others:
        write(name)
    _, text = make()
    lines = Path("metrics/tables/readme.md").read_text().splitlines()
    assert lines[0] == "| condition | training / at test | accuracy | minus `video_only` |"
    assert [line.split("`")[1] for line in lines[2:]] == ["video_only", "real_audio", "logistic"]
    main = {line[0]: line[:4] for line in table_after(text, "Main table")}
    for line in lines[2:]:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells == main[cells[0]]

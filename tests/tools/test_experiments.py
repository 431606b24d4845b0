"""Experiments: what is run again, what is kept, and the figures that are read."""

import io
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.stats
import yaml

from audio_from_video.reporting import stamps
from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import shards
from tests.support.closure import ROOT
from tools import experiments

BUDGET = {"conditions": ["video_only", "mapped"], "settings": {"5": {"a.b": 5}, "all": {"a.b": 0}}}


@pytest.fixture
def ran(workspace, monkeypatch) -> list[tuple]:
    """Settings that the pipeline was run with; it answers its own number of runs."""
    workspace.set(experiments={"named": {"budget": BUDGET}})
    found: list[tuple] = []
    monkeypatch.setattr(
        experiments,
        "run_pipeline",
        lambda revision, changes, targets: found.append((revision, changes, targets)),
    )
    monkeypatch.setattr(
        experiments,
        "figure_columns",
        lambda revision, condition, experiment: {"accuracy": len(found), "seeds": 3},
    )
    monkeypatch.setattr(
        experiments,
        "finish_stamp",
        lambda stamp, *_: stamps.finish(stamp, f"data of {len(found)}", {}),
    )
    return found


def table() -> pd.DataFrame:
    return pd.read_csv("metrics/experiments/budget.csv", dtype={"setting": str})


def test_a_row_per_setting_and_condition(ran):
    experiments.run("budget", False)
    targets = ["classifier@video_only", "classifier@mapped"]
    assert ran == [("budget-0", {"a.b": 5}, targets), ("budget-1", {"a.b": 0}, targets)]
    found = table()
    assert list(zip(found.setting, found.condition, found.accuracy, strict=True)) == [
        ("5", "video_only", 1),
        ("5", "mapped", 1),
        ("all", "video_only", 2),
        ("all", "mapped", 2),
    ]
    assert found.machine.str.contains("torch").all()


def test_conditions_of_the_full_set_are_added_for_the_run(ran, workspace):
    shutil.copytree(ROOT / "params", "params")
    settings = {"5": {"classifier.conditions.svm_real.out_of_fold": 5}}
    entry = {"conditions": ["video_only", "svm_real", "mapped_described"], "settings": settings}
    workspace.set(experiments={"named": {"heads": entry}})
    experiments.run("heads", False)

    [(_, changes, targets)] = ran
    assert targets == [f"classifier@{name}" for name in entry["conditions"]]
    own = list(changes)[-1]  # what the setting changes comes after what it changes it of
    assert (own, changes[own]) == ("classifier.conditions.svm_real.out_of_fold", 5)
    assert changes["++classifier.conditions.svm_real.out_of_fold"] == 3
    assert changes["++classifier.conditions.svm_real.decisions"] == "data/fit_on.parquet"
    assert changes["++classifier.conditions.mapped_described.fusion.audio_scale"] == "dimension"
    assert not any("video_only" in key for key in changes)
    assert stamps.read("heads")["5"].changes == [f"{own} 5"]


def test_a_condition_that_is_nowhere_is_named(ran, workspace):
    shutil.copytree(ROOT / "params", "params")
    entry = {"conditions": ["svn"], "settings": {"5": {"a.b": 5}}}
    workspace.set(experiments={"named": {"heads": entry}})
    with pytest.raises(UserError, match="'svn' is no condition of params.yaml or params/full.yaml"):
        experiments.run("heads", False)
    assert ran == []


def test_every_setting_has_a_stamp_of_its_own_run(ran):
    experiments.run("budget", False)
    stamped = stamps.read("budget")
    assert {setting: stamp.data for setting, stamp in stamped.items()} == {
        "5": "data of 1",
        "all": "data of 2",
    }
    assert stamped["5"].changes == ["a.b 5"]
    assert stamped["5"].machine == table().machine[0]

    table().iloc[:2].to_csv("metrics/experiments/budget.csv", index=False)
    experiments.run("budget", False)
    again = stamps.read("budget")
    assert (again["5"].data, again["all"].data) == ("data of 1", "data of 3")


def test_the_stamp_is_of_the_runs_own_data_and_code(workspace, monkeypatch):
    import dvc.api

    row = dict.fromkeys(("clip_id", "split", "action", "source_id", "content_hash"), "x")
    clips = shards.with_clip_set(pa.Table.from_pylist([row | {"status": "ok"}]))
    content = io.BytesIO()
    pq.write_table(clips, content)
    dependency = {"path": "data/code/classifier.json", "md5": "3"}
    lock = {"stages": {"classifier@mapped": {"deps": [dependency]}}}
    files = {"dvc.lock": yaml.safe_dump(lock), "data/clips.parquet": content.getvalue()}
    monkeypatch.setattr(dvc.api, "read", lambda path, rev, mode="r": files[path])

    begun = experiments.begin_stamp({"a.b": True})
    assert (begun.data, begun.code) == (stamps.UNKNOWN, stamps.UNKNOWN)
    stamp = experiments.finish_stamp(begun, "budget-0", ["classifier@mapped"], {"a.b": True})
    assert stamp.changes == ["a.b true"]
    assert stamp.data == shards.clip_set(clips.schema)
    assert stamp.code_files == ["data/code/classifier.json"]
    assert stamp.code != stamps.UNKNOWN

    of_other_sample = experiments.finish_stamp(
        begun, "budget-0", ["classifier@mapped"], {"sample.cue": 0.5}
    )
    assert (of_other_sample.data, of_other_sample.code) == (None, stamp.code)


def test_settings_with_rows_are_not_run_again_unless_asked(ran):
    experiments.run("budget", False)
    pd.concat([table().iloc[2:]]).to_csv("metrics/experiments/budget.csv", index=False)
    experiments.run("budget", False)
    assert [revision for revision, _, _ in ran] == ["budget-0", "budget-1", "budget-0"]
    assert table().setting.tolist() == ["5", "5", "all", "all"]  # in the order of params.yaml
    experiments.run("budget", True)
    assert len(ran) == 5


def answers_of(monkeypatch, hits: dict[tuple[str, str], list]) -> None:
    """Let runs answer: hits [trainings, clips] by (revision, condition); two clips a source."""
    monkeypatch.setattr(
        experiments,
        "read_answers",
        lambda revision, condition: experiments.Answers(
            np.array(hits[revision, condition], bool).T,
            np.repeat([f"{revision}-{i}" for i in range(4)], 2),
        ),
    )


def compared(**changes) -> experiments.Experiment:
    entry = {
        "conditions": ["head", "control", "heard", "real"],
        "baselines": {"heard": "head", "real": "head", "control": "head"},
        "controls": {"heard": "control"},
        "upper_bounds": {"heard": "real"},
        "settings": {"one": {"a.b": 1}, "two": {"a.b": 2}},
    }
    return experiments.Experiment(**{**entry, **changes})


HITS = {
    "head": [[1, 0, 0, 0, 1, 0, 0, 0]],
    "control": [[1, 0, 0, 0, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0]],
    "heard": [[1, 0, 1, 0, 1, 0, 1, 0], [1, 0, 1, 0, 1, 0, 1, 0]],
    "real": [[1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 1]],
}


def test_gains_are_over_the_named_baseline_and_control_and_a_share_of_the_gap(monkeypatch):
    answers = {
        name: experiments.Answers(np.array(hits, bool).T, np.repeat(range(4), 2))
        for name, hits in HITS.items()
    }
    figures = experiments.comparisons("heard", answers, compared())
    assert set(figures) == {"gain", "gain_over_control", "gap_share"}
    assert figures["gain"]["mean"] == pytest.approx(2 / 8)
    assert figures["gain_over_control"]["mean"] == pytest.approx(4 / 8 - 3 / 16)
    assert figures["gap_share"]["mean"] == pytest.approx(2 / 6)
    assert set(experiments.comparisons("real", answers, compared())) == {"gain"}
    assert experiments.comparisons("head", answers, compared()) == {}


def test_a_generators_figures_out_of_fold_stand_in_a_row(monkeypatch):
    accuracy = {"mean": 0.6, "ci95_low": 0.5, "ci95_high": 0.7, "n": 8, "sources": 4, "seeds": 2}
    cosine = {"centred_cosine": {"mean": 0.4, "ci95_low": 0.3, "ci95_high": 0.5}}
    chosen_by = {"r2": 0.31, "r2_first_components": 0.32, "own_minus_same_action": 0.02}
    metrics = {
        "metrics/classifier/head.json": {"validation_accuracy": accuracy, "accuracy": accuracy},
        "metrics/generator/caption_mapping.json": {
            "validation": {"generated": cosine},
            "test": {"generated": cosine | {"r2": 0.9}},
            "out_of_fold": {"generated": cosine | chosen_by},
        },
    }
    monkeypatch.setattr(experiments, "read_metrics", lambda path, revision: metrics[path])
    experiment = experiments.Experiment(
        conditions=["head"], generator="caption_mapping", settings={"one": {"a.b": 1}}
    )
    columns = experiments.figure_columns("some-0", "head", experiment)
    assert {name: columns[f"{name}_out_of_fold"] for name in chosen_by} == chosen_by
    assert (columns["centred_cosine_test_low"], columns["seeds"]) == (0.3, 2)


def test_the_last_rows_count_the_clips_of_all_settings_together(ran, workspace, monkeypatch):
    workspace.set(classifier={"conditions": dict.fromkeys(HITS, {})})
    hits = {("pair-0", name): values for name, values in HITS.items()}
    # In the second run nothing is right but what hears.
    hits |= {("pair-1", name): np.zeros_like(values) for name, values in HITS.items()}
    hits["pair-1", "heard"] = np.ones_like(HITS["heard"])
    answers_of(monkeypatch, hits)
    path = Path("metrics/experiments/pair.csv")
    path.parent.mkdir(parents=True)
    experiments.run_settings("pair", compared(together="both"), path, False)
    rows = pd.read_csv(path)
    assert rows.setting.tolist() == ["one"] * 4 + ["two"] * 4 + ["both"] * 4
    both = rows[rows.setting == "both"].set_index("condition")
    assert (both.clips == 16).all() and (both.sources == 8).all()
    assert both.seeds.tolist() == [1, 2, 2, 2]
    assert both.accuracy["heard"] == pytest.approx(12 / 16)
    assert both.gain["heard"] == pytest.approx((2 + 8) / 16)
    assert stamps.read("pair").keys() == {"one", "two", "both"}
    experiments.run_settings("pair", compared(together="both"), path, False)
    assert len(ran) == 2 and pd.read_csv(path).equals(rows)


def test_what_always_changes_gives_way_to_the_setting(ran, workspace):
    workspace.set(classifier={"conditions": dict.fromkeys(HITS, {})})
    path = Path("metrics/experiments/pair.csv")
    path.parent.mkdir(parents=True)
    experiments.run_settings("pair", compared(always={"a.b": 0, "c": 3}), path, False)
    assert [changes for _, changes, _ in ran] == [{"a.b": 1, "c": 3}, {"a.b": 2, "c": 3}]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"controls": {"heard": "hert"}}, "hert: not among its conditions"),
        ({"baselines": {}, "upper_bounds": {}}, "heard: no baseline"),
        ({"samples": [2, 2]}, "samples: one of them stands there twice"),
        ({"samples": [2], "together": "both"}, "together: counts clips of settings"),
    ],
)
def test_an_experiment_compares_conditions_that_it_has(changes, message):
    with pytest.raises(ValueError, match=message):
        compared(**changes)


SAMPLED = {
    "conditions": ["logistic", "logistic_mapped"],
    "baselines": {"logistic_mapped": "logistic"},
    "samples": [2, 9, 10],
    "settings": {"cue 1": {}, "cue 0": {"sample.cue": 0.0}},
}


@pytest.fixture
def sampled(ran, workspace, monkeypatch) -> list[tuple]:
    """Runs of an experiment on three samples; a condition's gain is the number of runs so far."""
    workspace.set(
        classifier={"conditions": dict.fromkeys(SAMPLED["conditions"], {})},
        experiments={"named": {"levels": SAMPLED}},
    )

    def columns(revision: str, condition: str, experiment: experiments.Experiment) -> dict:
        figures = {"accuracy": 0.5, "clips": 8, "sources": 4, "seeds": 3}
        return figures | ({"gain": len(ran) ** 2} if condition in experiment.baselines else {})

    monkeypatch.setattr(experiments, "figure_columns", columns)
    return ran


def level_rows() -> pd.DataFrame:
    return pd.read_csv("metrics/experiments/levels.csv", dtype={"sample_seed": str})


def test_every_setting_is_run_on_every_sample(sampled):
    experiments.run("levels", False)
    assert [(revision, changes) for revision, changes, _ in sampled] == [
        ("levels-0-sample-2", {"sample.seed": 2}),
        ("levels-1-sample-2", {"sample.seed": 2, "sample.cue": 0.0}),
        ("levels-0-sample-9", {"sample.seed": 9}),
        ("levels-1-sample-9", {"sample.seed": 9, "sample.cue": 0.0}),
        ("levels-0-sample-10", {"sample.seed": 10}),
        ("levels-1-sample-10", {"sample.seed": 10, "sample.cue": 0.0}),
    ]
    rows = level_rows()
    assert rows.setting.tolist() == ["cue 1"] * 8 + ["cue 0"] * 8
    assert rows.sample_seed[:8].tolist() == ["2", "2", "9", "9", "10", "10", "all", "all"]
    assert stamps.read("levels").keys() == {
        f"cue {cue}, sample {sample}" for cue in (0, 1) for sample in (2, 9, 10)
    }


def test_rows_over_all_samples_have_intervals_whose_unit_is_the_sample(sampled):
    experiments.run("levels", False)
    rows = level_rows()
    summary = rows[(rows.sample_seed == "all") & (rows.condition == "logistic_mapped")]
    for row, gains in zip(summary.itertuples(), ([1, 9, 25], [4, 16, 36]), strict=True):
        # One sample against zero: SciPy's test gives the same interval by another way.
        expected = scipy.stats.ttest_1samp(gains, 0).confidence_interval(0.95)
        assert row.gain == pytest.approx(np.mean(gains))
        assert (row.gain_low, row.gain_high) == pytest.approx(tuple(expected), rel=1e-5)
        assert (row.samples, row.clips, row.sources) == (3, 24, 12)
    without_gain = rows[(rows.sample_seed == "all") & (rows.condition == "logistic")]
    assert without_gain.gain.isna().all() and (without_gain.accuracy == 0.5).all()


def test_samples_are_added_one_by_one(sampled):
    experiments.run("levels", False, [9])
    assert [changes["sample.seed"] for _, changes, _ in sampled] == [9, 9]
    assert level_rows().sample_seed.tolist() == ["9"] * 4  # one sample has no mean over samples
    experiments.run("levels", False, [2, 9])
    assert [changes["sample.seed"] for _, changes, _ in sampled] == [9, 9, 2, 2]
    rows = level_rows()
    assert rows.sample_seed.tolist() == ["2", "2", "9", "9", "all", "all"] * 2
    experiments.run("levels", False, [9])
    assert len(sampled) == 4 and level_rows().equals(rows)


def test_a_sample_that_is_not_named_is_a_sentence(sampled):
    with pytest.raises(UserError, match=r"--samples 11: not among .* 'levels' .* \(2, 9, 10\)"):
        experiments.run("levels", False, [11])
    assert sampled == []


def test_an_unknown_name_is_a_sentence(ran):
    with pytest.raises(
        UserError, match="'bugdet' is not an experiment of params.yaml; there are .*budget"
    ):
        experiments.run("bugdet", False)


def test_a_failed_run_is_a_sentence(workspace, monkeypatch):
    workspace.set(experiments={"named": {"budget": BUDGET}})
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    with pytest.raises(
        UserError,
        match="dvc exp run --temp --name budget-0 -S a.b=5 classifier@video_only .* failed; its",
    ):
        experiments.run("budget", False)


def test_a_confirmation_keeps_its_own_tables_only(ran, monkeypatch):
    import dvc.api

    texts = {
        "metrics/tables.md": (
            "# Results\n\n## Main\n\n| a |\n\n"
            "## Confirmatory run\n\n| of an earlier one |\n\n"
            "## Experiment: search\n\n| of other data |\n\n## Experiment: budget\n\n| b |\n"
        ),
        "metrics/f.json": "{}\n",
    }
    monkeypatch.setattr(dvc.api, "read", lambda file, rev: texts[file])
    experiments.confirm(
        "fresh", experiments.Confirmation(setting={"sample.seed": 3}, files=list(texts))
    )
    kept = Path("metrics/experiments/fresh")
    assert (kept / "tables.md").read_text() == "# Results\n\n## Main\n\n| a |\n" and (
        kept / "f.json"
    ).read_text() == "{}\n"
    assert ran[-1] == ("fresh-0", {"sample.seed": 3}, [])
    assert stamps.read("fresh")["fresh"].changes == ["sample.seed 3"]


def test_sections_after_those_of_experiments_stay():
    text = "# R\n\n## Experiment: a\n\n| 1 |\n\n## Experiment: b\n\n| 2 |\n\n## Notes\n\nlast\n"
    assert experiments.without_experiments(text) == "# R\n\n## Notes\n\nlast\n"

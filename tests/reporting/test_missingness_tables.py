"""Tables of missing sound: every figure in its place."""

from pathlib import Path

import pytest

from audio_from_video.reporting.missingness_tables import missingness_tables
from audio_from_video.reporting.tables import Table
from audio_from_video.runtime.atomic import write_json
from audio_from_video.runtime.errors import UserError


def estimate(mean: float, **others) -> dict:
    return {"mean": mean, "ci95_low": mean - 0.1, "ci95_high": mean + 0.1, "n": 40} | {
        "sources": 30,
        **others,
    }


def cell(mean: float, sign: str = "") -> str:
    """Return an estimate as a table shows it, in per cent or, with the sign +, in points."""
    mean, low, high = (f"{100 * value:{sign}.1f}" for value in (mean, mean - 0.1, mean + 0.1))
    return f"{mean} [{low}, {high}]"


def metrics() -> dict:
    """What the stage writes of one condition that adapts and one that does not."""
    rates = {"0": 0.6, "50": 0.5, "100": 0.4}
    of_class = {
        rate: {"accuracy": estimate(accuracy + 0.01), "minus_random": estimate(0.01)}
        for rate, accuracy in rates.items()
    }
    found = {
        subset: {"accuracy": estimate(accuracy), "difference": estimate(accuracy - 0.3)}
        for subset, accuracy in (("all", 0.6), ("audible", 0.65), ("inaudible", 0.45))
    }
    segments = {"0": estimate(0.6), "25": estimate(0.55), "100": estimate(0.4)}
    hurts = {
        "0": {"gain": estimate(0.2), "loss_rises": estimate(0.3)},
        "25": {"gain": estimate(0.15), "loss_rises": estimate(0.25)},
    }
    gains = {"unweighted": estimate(0.2), "weighted": estimate(0.25, effective_n=33.4)}
    names = ("token", "made")
    return {
        "trainings": 3,
        "left_out": {},
        "baselines": {"token": "video_only", "made": "logistic"},
        "audible": {"waving": estimate(0.5, silent_in_training=0.375)},
        "as_found": dict.fromkeys(names, found),
        "random": dict.fromkeys(names, {rate: estimate(value) for rate, value in rates.items()}),
        "class_dependent": dict.fromkeys(names, of_class),
        "segments": dict.fromkeys(names, segments),
        "never_hurts": dict.fromkeys(names, hurts),
        "value": {
            "propensity": {"log_loss": 0.4, "log_loss_of_share": 0.5, "largest_weight": 3.5},
            "gains": {"token": gains},
        },
        "adaptation": {"token": {"50": {"accuracy": estimate(0.52), "difference": estimate(0.02)}}},
    }


def tables(figures: dict) -> dict[str, Table]:
    write_json(Path("metrics/missingness.json"), figures)
    return {table.name: table for table in missingness_tables()}


def lines(table: Table) -> list[list[str]]:
    return [[str(content) for content in row] for row in table.rows]


@pytest.fixture
def made(workspace) -> dict[str, Table]:
    return tables(metrics())


def test_patterns_stand_under_how_much_is_missing(made):
    table = made["missingness"]
    assert table.header[2:] == ["0 % missing", "25 % missing", "50 % missing", "100 % missing"]
    found = lines(table)
    assert [line[0] for line in found] == 6 * ["`token`"] + 4 * ["`made`"]
    by_pattern = {line[1]: line[2:] for line in found if line[0] == "`token`"}
    assert by_pattern["random clips"] == [cell(0.6), "", cell(0.5), cell(0.4)]
    assert by_pattern["clips by action"] == [cell(0.61), "", cell(0.51), cell(0.41)]
    difference = cell(0.01, "+")
    assert by_pattern["clips by action, minus random clips"] == [
        difference,
        "",
        difference,
        difference,
    ]
    assert by_pattern["a part of every clip"] == [cell(0.6), cell(0.55), "", cell(0.4)]
    assert by_pattern["random clips, adapting"] == ["", "", cell(0.52), ""]
    assert by_pattern["adapting, minus not adapting"] == ["", "", cell(0.02, "+"), ""]
    assert "Clips / sources / seeds: 40 / 30 / 3." in table.note


def test_audible_and_inaudible_clips_stand_apart(made):
    size = "40 / 30 / 3"
    row = [cell(0.65), cell(0.35, "+"), size, cell(0.45), cell(0.15, "+"), size]
    assert lines(made["missingness_as_found"]) == [["`token`", *row], ["`made`", *row]]
    assert "`video_only` for `token`; `logistic` for `made`." in made["missingness_as_found"].note
    header = made["missingness_as_found"].header
    assert len(set(header)) == len(header)
    assert lines(made["missingness_actions"]) == [["waving", cell(0.5), "37.5", "40 / 30"]]


def test_gains_and_rising_losses_stand_side_by_side(made):
    row = [cell(0.2, "+"), cell(0.3), cell(0.15, "+"), cell(0.25), "40 / 30 / 3"]
    assert lines(made["missingness_never_hurts"]) == [["`token`", *row], ["`made`", *row]]


def test_gains_reweighted_stand_beside_those_as_they_are(made):
    row = [cell(0.2, "+"), cell(0.25, "+"), "33", "40 / 30 / 3"]
    assert lines(made["missingness_value"]) == [["`token`", *row]]
    assert "on validation is 0.400, that of the share of audible clips 0.500" in (
        made["missingness_value"].note
    )


def test_what_is_left_out_stands_with_its_reason_in_the_note(workspace, made):
    assert "left out" not in made["missingness"].note
    left_out = tables(metrics() | {"left_out": {"late": "its network hears clips"}})
    assert "`late` is left out: its network hears clips." in left_out["missingness"].note


def test_without_conditions_the_actions_are_left(workspace):
    figures = metrics()
    for name in ("as_found", "random", "class_dependent", "segments", "never_hurts", "adaptation"):
        figures[name] = {}
    assert list(tables(figures)) == ["missingness_actions"]


def test_a_stage_that_has_not_run_is_named(workspace):
    with pytest.raises(UserError, match="missingness.json is missing: run `dvc repro missingness`"):
        missingness_tables()

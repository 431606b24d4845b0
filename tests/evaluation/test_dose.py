"""The experiment over the sample's knobs: panels of its table, their figure and the table shown."""

import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from audio_from_video.evaluation import curves
from audio_from_video.evaluation.curves import DosePanel
from audio_from_video.reporting import experiment_tables, figure_captions, figures

DEFAULT = "labelled_looks 0.4, cue 1"
GAINS = {DEFAULT: 0.1, "labelled_looks 1": 0.02, "cue 0": 0.0}


def row_of_sample(setting: str, condition: str, sample: int, gain: float | None) -> dict:
    """A row of one sample, whose interval resamples its sources and trainings."""
    return {
        "setting": setting,
        "condition": condition,
        "sample_seed": sample,
        "accuracy": 0.6,
        "accuracy_low": 0.55,
        "accuracy_high": 0.65,
        "gain": gain,
        "gain_low": None if gain is None else gain - 0.03,
        "gain_high": None if gain is None else gain + 0.03,
        "machine": "2 cores",
    }


def row_over_samples(setting: str, condition: str, gains: list[float]) -> dict:
    """The row over samples, with the interval of SciPy's t test of their mean."""
    interval = stats.ttest_1samp(gains, 0).confidence_interval(0.95)
    return {
        "setting": setting,
        "condition": condition,
        "sample_seed": "all",
        "gain": np.mean(gains),
        "gain_low": interval.low,
        "gain_high": interval.high,
        "samples": len(gains),
    }


@pytest.fixture
def table(tmp_path) -> Path:
    """The experiment of one sample."""
    rows = []
    for setting, gain in GAINS.items():
        rows.append(row_of_sample(setting, "logistic", 2, None))
        rows.append(row_of_sample(setting, "logistic_real", 2, gain))
        rows.append(row_of_sample(setting, "logistic_shuffled", 2, -gain))
    return written(rows, tmp_path)


def written(rows: list[dict], folder: Path) -> Path:
    path = folder / "dose.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def of_samples(samples: dict[str, int], folder: Path) -> tuple[Path, dict[str, list[float]]]:
    """An experiment with so many samples of each setting, and the gains of these."""
    random = np.random.default_rng(0)
    rows = []
    gains = {}
    for setting, count in samples.items():
        gains[setting] = (GAINS[setting] + 0.02 * random.standard_normal(count)).tolist()
        for sample, gain in enumerate(gains[setting], start=2):
            rows.append(row_of_sample(setting, "logistic_real", sample, gain))
        if count > 1:
            rows.append(row_over_samples(setting, "logistic_real", gains[setting]))
    return written(rows, folder), gains


def drawn(panels: list[DosePanel], folder: Path) -> tuple[int, int]:
    """Draw the figure; return its width and height in pixels."""
    size_in = (figures.TWO_COLUMNS, 2.8)
    figures.save_figure(folder, "dose", size_in, figures.draw_dose, panels, "Of another run")
    return struct.unpack(">II", (folder / "dose.png").read_bytes()[16:24])


def test_the_default_stands_in_every_panel_at_its_own_level(table):
    looks, cue = curves.dose(table)
    assert (looks.knob, looks.levels) == ("labelled_looks", ["0.4", "1"])
    assert (cue.knob, cue.levels) == ("cue", ["0", "1"])
    assert set(cue.curves) == {"logistic_real", "logistic_shuffled"}
    assert [gain["mean"] for gain in looks.curves["logistic_real"]] == [0.1, 0.02]
    assert [gain["mean"] for gain in cue.curves["logistic_real"]] == [0.0, 0.1]
    assert cue.curves["logistic_shuffled"][1]["ci95_high"] == pytest.approx(-0.07)


def test_a_knob_with_one_level_has_no_panel(table):
    rows = pd.read_csv(table)
    rows[rows.setting != "cue 0"].to_csv(table, index=False)
    assert [panel.knob for panel in curves.dose(table)] == ["labelled_looks"]


def test_three_samples_count_by_their_mean_and_fewer_by_the_first(tmp_path):
    path, gains = of_samples({DEFAULT: 5, "labelled_looks 1": 3, "cue 0": 2}, tmp_path)
    looks, cue = curves.dose(path)
    curve = looks.curves["logistic_real"]
    assert [estimate["samples"] for estimate in curve] == [5, 3]
    for estimate, setting in zip(curve, (DEFAULT, "labelled_looks 1"), strict=True):
        mean = np.mean(gains[setting])
        error = np.std(gains[setting], ddof=1) / np.sqrt(len(gains[setting]))
        bound = stats.t.ppf(0.975, len(gains[setting]) - 1)
        assert estimate["mean"] == pytest.approx(mean)
        assert estimate["ci95_low"] == pytest.approx(mean - bound * error)
        assert estimate["ci95_high"] == pytest.approx(mean + bound * error)
    assert looks.sample_gains["logistic_real"] == [gains[DEFAULT], gains["labelled_looks 1"]]

    of_two = cue.curves["logistic_real"][0]
    first = gains["cue 0"][0]
    assert of_two == pytest.approx(
        {"mean": first, "ci95_low": first - 0.03, "ci95_high": first + 0.03, "samples": 1}
    )
    assert cue.sample_gains["logistic_real"][0] == gains["cue 0"]


def test_the_caption_names_what_surely_gains_and_the_figure_has_two_columns(table, tmp_path):
    panels = curves.dose(table)
    caption = figure_captions.dose(panels)
    assert "Points are of one sample, lines 95 % intervals over its sources" in caption
    assert "nothing may gain: surely above 0 is none." in caption
    assert "real sound: labelled_looks 0.4, cue 1; control: sound of other clips: " in caption
    assert "Samples differ" not in caption
    assert caption.endswith("nowhere.")
    assert drawn(panels, tmp_path) == (2100, 840)


def test_what_gains_where_nothing_may_is_named(table):
    rows = pd.read_csv(table)
    rows.loc[(rows.setting == "cue 0") & (rows.condition == "logistic_real"), "gain_low"] = 0.01
    rows.to_csv(table, index=False)
    caption = figure_captions.dose(curves.dose(table))
    assert "nothing may gain: surely above 0 is real sound." in caption


def test_the_caption_says_how_many_samples_there_are_and_what_an_interval_is_over(tmp_path):
    path, gains = of_samples({DEFAULT: 5, "labelled_looks 1": 3, "cue 0": 1}, tmp_path)
    panels = curves.dose(path)
    caption = figure_captions.dose(panels)
    assert "means over 3 to 5 samples" in caption
    assert "intervals over samples (Student's t), small dots the samples" in caption
    assert "Hollow points are of one sample, with 95 % intervals over its" in caption
    assert "trainings: cue 0. " in caption
    widest = max((DEFAULT, "labelled_looks 1"), key=lambda setting: np.ptp(gains[setting]))
    level = widest.removeprefix("labelled_looks ").removesuffix(", cue 1")
    span = f"from {100 * min(gains[widest]):+.1f} to {100 * max(gains[widest]):+.1f}."
    assert f"Samples differ most in real sound at labelled_looks {level}: {span}" in caption
    assert drawn(panels, tmp_path) == (2100, 840)

    path, _ = of_samples(dict.fromkeys(GAINS, 4), tmp_path)
    caption = figure_captions.dose(curves.dose(path))
    assert "means over 4 samples" in caption
    assert "Hollow" not in caption


def test_the_table_has_rows_over_samples_and_of_what_has_one_sample(tmp_path):
    path, gains = of_samples({DEFAULT: 3, "labelled_looks 1": 1}, tmp_path)
    table = experiment_tables.experiment_table(path)
    shown = [dict(zip(table.header, map(str, row), strict=True)) for row in table.rows]
    assert [(row["setting"], row["sample_seed"]) for row in shown] == [
        (DEFAULT, "all"),
        ("labelled_looks 1", "2"),
    ]
    interval = stats.ttest_1samp(gains[DEFAULT], 0).confidence_interval(0.95)
    mean, low, high = (100 * value for value in (np.mean(gains[DEFAULT]), *interval))
    assert shown[0]["gain (%)"] == f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
    assert float(shown[0]["samples"]) == 3
    assert "intervals over samples" in table.note
    assert str(path) in table.note


def test_a_table_of_single_samples_stands_as_it_is(table):
    shown = experiment_tables.experiment_table(table)
    assert len(shown.rows) == 9
    assert "over samples" not in shown.note


def test_columns_that_no_row_over_samples_fills_are_left_out(tmp_path):
    path, _ = of_samples(dict.fromkeys(GAINS, 3), tmp_path)
    assert experiment_tables.experiment_table(path).header == [
        "setting",
        "condition",
        "sample_seed",
        "gain (%)",
        "samples",
    ]

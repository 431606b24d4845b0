"""The experiment over the sample's knobs: panels of its table, and their figure."""

import struct
from pathlib import Path

import pandas as pd
import pytest

from audio_from_video.evaluation import curves
from audio_from_video.reporting import figure_captions, figures

DEFAULT = "labelled_looks 0.4, cue 1"


@pytest.fixture
def table(tmp_path) -> Path:
    rows = []
    for setting, gain in ((DEFAULT, 0.1), ("labelled_looks 1", 0.02), ("cue 0", 0.0)):
        for condition in ("logistic", "logistic_real", "logistic_shuffled"):
            known = condition != "logistic"
            sign = -1 if condition == "logistic_shuffled" else 1
            rows.append(
                {
                    "setting": setting,
                    "condition": condition,
                    "gain": sign * gain if known else None,
                    "gain_low": sign * gain - 0.03 if known else None,
                    "gain_high": sign * gain + 0.03 if known else None,
                }
            )
    path = tmp_path / "dose.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


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


def test_the_caption_names_what_surely_gains_and_the_figure_has_two_columns(table, tmp_path):
    panels = curves.dose(table)
    caption = figure_captions.dose(panels)
    assert "real sound: labelled_looks 0.4, cue 1; control: sound of other clips: " in caption
    assert caption.endswith("nowhere.")
    size_in = (figures.TWO_COLUMNS, 2.8)
    figures.save_figure(tmp_path, "dose", size_in, figures.draw_dose, panels, "Of another run")
    width, height = struct.unpack(">II", (tmp_path / "dose.png").read_bytes()[16:24])
    assert (width, height) == (2100, 840)

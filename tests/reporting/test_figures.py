"""How the figures are laid out: what they show is tested where it is computed."""

import struct

import matplotlib
import numpy as np
import pandas as pd
import pytest

from audio_from_video.reporting import figures

CURVE = [{"mean": mean, "ci95_low": mean - 0.1, "ci95_high": mean + 0.1} for mean in (0.5, 0.6)]


def test_labels_keep_their_distance_and_their_order():
    places = figures.spread([1.0, 5.0, 1.1, 1.0], 0.5)
    ordered = sorted(places)
    assert min(np.diff(ordered)) >= 0.5 - 1e-6
    assert places[1] == pytest.approx(5)
    assert places[0] < places[3] < places[2]
    assert np.mean(np.array(places)[[0, 2, 3]]) == pytest.approx(
        3.1 / 3
    )  # no label is pushed off for another


def test_a_figure_fits_the_column_at_300_dots_per_inch(tmp_path):
    figures.save_figure(
        tmp_path,
        "a",
        (figures.COLUMN, 2.0),
        figures.draw_curves,
        ["0", "1"],
        {"x": CURVE},
        "rate",
        ["x"],
    )
    width, height = struct.unpack(">II", (tmp_path / "a.png").read_bytes()[16:24])
    assert (width, height) == (1020, 600)
    assert 'width="244.8pt" height="144pt"' in (tmp_path / "a.svg").read_text()


def test_a_users_own_settings_change_nothing(tmp_path):
    drawn = []
    for size in (10, 30):
        with matplotlib.rc_context(
            {"font.size": size, "axes.facecolor": "red", "svg.hashsalt": str(size)}
        ):
            figures.save_figure(
                tmp_path,
                "a",
                (3.4, 2.0),
                figures.draw_curves,
                ["0", "1"],
                {"x": CURVE},
                "rate",
                ["x"],
            )
        drawn.append([(tmp_path / f"a.{kind}").read_bytes() for kind in ("png", "svg")])
    assert drawn[0] == drawn[1]


def test_letters_are_readable_and_a_condition_keeps_its_colour():
    assert (
        min(
            value
            for key, value in figures.STYLE.items()
            if "size" in key and key != "lines.markersize"
        )
        >= 7
    )
    colours = []
    for lines in ({"b": CURVE}, {"a": CURVE, "b": CURVE}):
        drawing = figures.Figure((3.4, 2))
        figures.draw_curves(drawing, ["0", "1"], lines, "rate", ["a", "b"])
        colours.append(
            [text.get_color() for text in drawing.axes[0].texts if text.get_text() == "b"]
        )
    assert colours[0] == colours[1]
    assert len(colours[0]) == 1


def test_of_many_actions_those_that_change_are_shown():
    names = [f"action {i:02d}" for i in range(40)]
    change = pd.DataFrame(0.0, index=names, columns=names)
    change.loc["action 33", "action 07"] = -0.5
    drawing = figures.Figure((3.4, 3))
    figures.draw_confusion_difference(drawing, change, "points")
    shown = [label.get_text() for label in drawing.axes[0].get_yticklabels()]
    assert len(shown) == figures.SHOWN_ACTIONS
    assert {"action 33", "action 07"} <= set(shown)
    assert shown == sorted(shown)
    values = drawing.axes[0].images[0].get_array()
    assert values[shown.index("action 33"), shown.index("action 07")] == -50


def test_names_are_no_formulas(tmp_path):
    names = ["$_{", "a$b$c"]
    figures.save_figure(
        tmp_path,
        "a",
        (3.4, 3),
        figures.draw_confusion_difference,
        pd.DataFrame(np.eye(2), names, names),
        "points ($",
    )
    assert (tmp_path / "a.png").stat().st_size > 1000

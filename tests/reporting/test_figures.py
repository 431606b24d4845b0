"""How the figures are laid out: what they show is tested where it is computed."""

import struct

import matplotlib
import numpy as np
import pandas as pd
import pytest

from audio_from_video.evaluation.filter_gains import FilterGains
from audio_from_video.reporting import figure_captions, figures

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
    for lines in ({"mapped": CURVE}, {"a": CURVE, "mapped": CURVE}):
        drawing = figures.Figure((7, 2))
        figures.draw_curves(drawing, ["0", "1"], lines, "rate")
        (panel,) = [axis for axis in drawing.axes if axis.get_title() == "mapped"]
        colours += [panel.title.get_color(), panel.lines[-1].get_color()]
    assert set(colours) == {figures.colour_of("mapped")}
    assert figures.colour_of("mapped") != figures.colour_of("generated")
    assert figures.colour_of("any other") == figures.GREY


def test_every_condition_has_a_panel_of_its_own():
    lines = {f"c{i}": CURVE for i in range(figures.PANELS_PER_ROW + 1)}
    drawing = figures.Figure(figures.curves_size(len(lines)))
    figures.draw_curves(drawing, ["0", "1"], lines, "rate")
    panels = [axis for axis in drawing.axes if axis.get_visible()]
    assert [panel.get_title() for panel in panels] == list(lines)
    for panel in panels:
        assert panel.lines[-1].get_ydata() == pytest.approx([50, 60])
    assert figures.curves_size(len(lines))[1] > figures.curves_size(1)[1]


def test_the_filter_is_drawn_as_its_gain():
    sweep = pd.DataFrame(
        {
            "threshold": [-1.0, 0.0, 0.5, 1.0],
            "kept_fraction": [1.0, 0.8, 0.4, 0.0],
            "precision": [0.5, 0.6, 0.7, np.nan],
            "recall": [1.0, 0.9, 0.5, 0.0],
        }
    )
    gains = FilterGains({}, {}, {}, {}, [*CURVE, *CURVE], [0.4, 0.3, 0.2, 0.0])
    drawing = figures.Figure((3.4, 3.2))
    figures.draw_threshold(drawing, sweep, 0.5, gains)
    drawn = {line.get_label(): line for line in drawing.axes[1].lines}
    assert drawn["this filter"].get_ydata() == pytest.approx([60, 50, 60])  # from 0 on
    assert drawn["keeps as many at random"].get_ydata() == pytest.approx([30, 20, 0])
    assert "points" in drawing.axes[1].get_ylabel()


def test_a_share_that_is_unknown_everywhere_is_not_drawn():
    """Recall, where no test clip's audio fits, as in a small data set."""
    sweep = pd.DataFrame(
        {
            "threshold": [0.0, 1.0],
            "kept_fraction": [1.0, 0.0],
            "precision": [0.0, np.nan],
            "recall": [np.nan, np.nan],
        }
    )
    gains = FilterGains({}, {}, {}, {}, CURVE, [0.4, 0.3])
    drawing = figures.Figure((3.4, 3.2))
    figures.draw_threshold(drawing, sweep, 0.5, gains)
    named = [text.get_text() for text in drawing.axes[0].texts]
    assert "kept" in named and "precision" in named and "recall" not in named


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
    row, column = shown.index("action 33"), shown.index("action 07")
    assert values[row, column] == -50
    (number,) = drawing.axes[0].texts
    assert number.get_text() == "-50"
    assert number.get_position() == (column, row)


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


def test_captions_say_what_is_seen():
    unclear = {"mean": 0.1, "ci95_low": -0.1, "ci95_high": 0.3}
    curves = {
        "a": {"0": CURVE[0], "100": unclear},
        "b": {"0": CURVE[1], "100": unclear},
    }
    text = figure_captions.missing_rates(curves)
    assert "Intervals without 0: at 0 % a and b; at 100 % none." in text
    budgets = {"a": [unclear, CURVE[0]], "b": [unclear, unclear]}
    text = figure_captions.label_budget(["5", "all"], budgets)
    assert "Intervals without 0: with 5 clips none; with all clips a." in text

    names = ["sawing", "sanding"]
    change = pd.DataFrame([[0.3, -0.25], [0.1, -0.1]], names, names)
    text = figure_captions.confusion_difference(change)
    assert "gained for sawing (+30 points); sawing is less often taken for sanding (-25)" in text

    gains = FilterGains({}, CURVE[0], {}, {}, CURVE, [])
    text = figure_captions.threshold(0.4, gains)
    assert (
        "0.4, it gains +50.0 [+40.0, +60.0]; the highest gain over all thresholds is +60.0" in text
    )


def test_captions_of_other_stages_hold_their_measures():
    thresholds = {
        "1.1": {"event_recall": 0.74, "event_recall_random": 0.7},
        "1.2": {"event_recall": 0.62, "event_recall_random": 0.6},
        "1.3": {},
    }
    text = figure_captions.representative_frames({"thresholds": thresholds})
    assert "1.1 / 1.2, 74 / 62 % of the events" in text
    assert "it is 70 / 60 %" in text
    scores = {"real_path_mel": {"f1": 0.9}, "generated_mel": {"f1": 0.2}}
    assert "0.900; from generated ones: 0.200" in figure_captions.mel({"test": scores})

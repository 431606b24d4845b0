"""Overlays change the settings that they name and nothing else, or nothing at all."""

from pathlib import Path

import pytest
import yaml

from audio_from_video.runtime import params
from audio_from_video.runtime.errors import UserError
from stages.code import SECTIONS
from tests.support.closure import ROOT
from tools import settings

OVERLAYS = sorted((ROOT / "params").glob("*.yaml"))


def write_overlay(text: str) -> Path:
    path = Path("overlay.yaml")
    path.write_text(text)
    return path


@pytest.fixture
def file(workspace) -> Path:
    """The shipped params.yaml, with its comments."""
    return workspace.folder / "params.yaml"


def merged(document: dict, changes: dict) -> dict:
    result = dict(document)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(document.get(key), dict)
        result[key] = merged(document[key], value) if both else value
    return result


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_every_overlay_of_the_repository_fits_and_changes_what_it_names(overlay, file):
    before = yaml.safe_load(file.read_text())
    lines = settings.apply(overlay)
    assert lines
    assert yaml.safe_load(file.read_text()) == merged(before, yaml.safe_load(overlay.read_text()))
    params.check(SECTIONS)
    assert settings.apply(overlay) == []


def test_all_else_stays_as_it_was_written(file):
    before = file.read_text()
    overlay = write_overlay(
        "audio: {silence_db: -60.5}\n"
        "captions: {training: {learning_rate: 0.00001}}\n"
        "report: {look_alike_pairs: []}\n"
    )
    assert settings.apply(overlay) == [
        "audio.silence_db: -50.0 -> -60.5",
        "captions.training.learning_rate: 0.002 -> 0.00001",
        "report.look_alike_pairs: "
        "[[knocking, hammering], [sawing, sanding], [boiling, frying]] -> []",
    ]
    expected = before.replace("silence_db: -50.0  ", "silence_db: -60.5  ")
    expected = expected.replace("learning_rate: 0.002           # AdamW; 0.00001", "LEARNING_RATE")
    expected = expected.replace("LEARNING_RATE", "learning_rate: 0.00001         # AdamW; 0.00001")
    expected = expected.replace(
        "[[knocking, hammering], [sawing, sanding], [boiling, frying]]", "[]"
    )
    assert file.read_text() == expected != before


def test_a_list_of_several_lines_gives_way_to_one_line(file):
    """`dvc exp run -S` writes all lists so."""
    text = file.read_text()
    flow = "    [[knocking, hammering], [sawing, sanding], [boiling, frying]]\n"
    block = "  - - knocking\n    - hammering\n  # a remark\n  - - sawing\n    - sanding  # both\n"
    assert flow in text
    file.write_text(text.replace(flow, block))
    pairs = [["clapping", "slapping"]]
    settings.apply(write_overlay(f"report: {{look_alike_pairs: {pairs}}}"))
    after = file.read_text()
    assert yaml.safe_load(after)["report"]["look_alike_pairs"] == pairs
    assert "  look_alike_pairs: [[clapping, slapping]]  " in after
    assert "# actions that look alike" in after
    settings.apply(write_overlay("report: {look_alike_pairs: [[a, b]]}"))
    assert yaml.safe_load(file.read_text())["report"]["look_alike_pairs"] == [["a", "b"]]


def test_a_condition_is_added_with_the_keys_that_it_merges_in(file):
    before = file.read_text()
    conditions = yaml.safe_load(before)["classifier"]["conditions"]
    nothing = yaml.safe_load(before)["classifier"]["nothing"]
    overlay = write_overlay(
        f"classifier:\n"
        f"  nothing: &nothing {nothing}\n"
        f"  conditions:\n"
        f"    token_always: {{<<: *nothing, model: lstm, train_audio: real, test_audio: token,\n"
        f"      missing_rate: 0.9, real_audio: data/audio_features}}\n"
        f"    mapped: {{missing_rate: 0.5}}\n"
    )
    assert len(settings.apply(overlay)) == 2
    after = yaml.safe_load(file.read_text())["classifier"]["conditions"]
    assert after.pop("token_always") == nothing | {
        "model": "lstm",
        "train_audio": "real",
        "test_audio": "token",
        "missing_rate": 0.9,
        "real_audio": "data/audio_features",
    }
    assert after == conditions | {"mapped": conditions["mapped"] | {"missing_rate": 0.5}}
    # Other lines are those of before, each in its place.
    kept = [line for line in file.read_text().splitlines() if line in before.splitlines()]
    assert len(kept) == len(before.splitlines()) - 1  # the last one of `mapped`


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("filter: {tresh: 0.5}", "does not fit.*did you mean 'threshold'?"),
        ("filter: {threshold: 7}", "does not fit.*less than or equal to 1"),
        ("filtre: {threshold: 0.5}", "does not fit.*did you mean 'filter'?"),
        ("filter: 3", "filter is a group of keys"),
        (
            "classifier: {conditions: {mine: {model: lstm}}}",
            "does not fit.*mine.train_audio is mis",
        ),
        ("- filter", "holds no sections"),
        ("filter: [", "is not valid YAML"),
        ("", "holds no sections"),
    ],
)
def test_what_does_not_fit_changes_nothing(file, text, sentence):
    before = file.read_text()
    with pytest.raises(UserError, match=f"(?s){sentence}"):
        settings.apply(write_overlay(text))
    assert file.read_text() == before


def test_an_overlay_that_is_not_there_is_a_sentence(file):
    with pytest.raises(UserError, match="nowhere.yaml is no file; the overlays of this repository"):
        settings.apply(Path("nowhere.yaml"))

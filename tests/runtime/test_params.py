"""Every mistake in params.yaml is one clear sentence."""

import pytest
import yaml

from audio_from_video.media.settings import FramesParams
from audio_from_video.runtime import params
from audio_from_video.runtime.errors import UserError
from stages.code import SECTIONS
from tests.support.closure import ROOT


@pytest.mark.parametrize("section", SECTIONS)
def test_the_shipped_file_is_valid(section, monkeypatch):
    monkeypatch.chdir(ROOT)
    loaded = params.load(section, SECTIONS[section])
    assert (
        loaded.model_dump(exclude_unset=True)
        == yaml.safe_load((ROOT / "params.yaml").read_text())[section]
    )


WRONG = [
    (
        {"frames": {"fpss": 6.0}},
        "frames.fpss is not a parameter; did you mean 'fps'? "
        "allowed are count, fps, jpeg_quality, keep, size_px",
    ),
    ({"frames": {"zebra": 1}}, "frames.zebra is not a parameter; allowed are count, fps"),
    ({"frames": {"fps": -1.0}}, "frames.fps = -1.0: input should be greater than 0"),
    (
        {"frames": {"jpeg_quality": 101}},
        "frames.jpeg_quality = 101: input should be less than or equal to 100",
    ),
    (
        {"frames": {"count": "eighteen"}},
        "frames.count = 'eighteen': input should be a valid integer",
    ),
    ({"frames": {"count": 18.5}}, "frames.count = 18.5: input should be a valid integer"),
    ({"frames": {"count": True}}, "frames.count = True: input should be a valid integer"),
    ({"frames": {"keep": "some"}}, "frames.keep = 'some': input should be 'exact' or 'all'"),
    ({"frames": {"keep": None}}, "frames.keep is missing"),
    (
        {"clips": {"source_pattern": "yt-.*"}},
        "clips.source_pattern = 'yt-.*': must have exactly one group, which is the source id",
    ),
    (
        {"clips": {"source_pattern": "(a"}},
        "clips.source_pattern = '(a': must be a regular expression",
    ),
    ({"clips": {"actions": True}}, "clips.actions = True: "),
    (
        {"clips": {"actions": "some"}},
        "clips.actions = 'some': input should be 'all', or input should be a valid integer, or",
    ),
    ({"clips": {"actions": ["a", 3]}}, "clips.actions"),
    (
        {"optical_flow": {"full_scale_px": float("inf")}},
        "optical_flow.full_scale_px = inf: input should be 'auto', or input should be a finite",
    ),
    (
        {"optical_flow": {"polynomial_sigma": float("nan")}},
        "optical_flow.polynomial_sigma = nan: input should be",
    ),
    (
        {"classifier": {"lstm": {"hiden": 3}}},
        "classifier.lstm.hiden is not a parameter; did you mean 'hidden'?",
    ),
    (
        {"classifier": {"lstm": {"dropout": 1.0}}},
        "classifier.lstm.dropout = 1.0: input should be less than 1",
    ),
    (
        {"classifier": {"conditions": {"x": {"model": "tree"}}}},
        "classifier.conditions.x.model = 'tree': input should be 'lstm', 'logistic' or",
    ),
    (
        {"audio": {"silence_db": 5.0}},
        "audio.silence_db = 5.0: input should be less than or equal to 0",
    ),
    ({"audio": None}, "params.yaml has no section 'audio'"),
    (
        {"filter": {"threshold": 7}},
        "filter.threshold = 7: input should be less than or equal to 1, or input should be 'auto'",
    ),
    (
        {"filter": {"threshold": "abc"}},
        "filter.threshold = 'abc': input should be a valid number, or input should be 'auto'",
    ),
    (
        {"generator": {"semantic_validation": {"noise": 8}}},
        "generator.semantic_validation.noise is not a parameter; allowed are none",
    ),
    (
        {"classifier": {"lstm": 3}},
        "classifier.lstm = 3: it must hold keys of its own",
    ),
    (
        {"classifier": {"missing_rates": [0.0, 25]}},
        "classifier.missing_rates.1 = 25: input should be less than or equal to 1",
    ),
    (
        {"clips": {"max_duration_s": 0.1}},
        "clips.max_duration_s = 0.1: must not be below clips.min_duration_s, which is 0.5",
    ),
    (
        {"search": {"space": {"hiden": [32]}}},
        "classifier.lstm has no hiden; it has averaging",
    ),
    (
        {"experiments": {"named": {"training": {"stages": [], "stage": ["frames"]}}}},
        "experiments.named.training.stage is not a parameter; did you mean 'stages'?",
    ),
    (
        {"experiments": {"named": {"segments": {"conditionz": []}}}},
        "experiments.named.segments.conditionz is not a parameter; did you mean 'conditions'?",
    ),
]


@pytest.mark.parametrize("change, sentence", WRONG, ids=lambda value: str(value)[:50])
def test_mistakes_are_sentences(workspace, change, sentence):
    workspace.set(**change)
    section = next(iter(change))
    with pytest.raises(UserError) as caught:
        params.load(section, SECTIONS[section])
    message = str(caught.value)
    assert sentence in message and "\n" not in message and message.startswith("params.yaml")
    assert (
        "literal" not in message and "list[" not in message
    )  # pydantic's names for the types of a union


def test_all_mistakes_are_named_at_once(workspace):
    workspace.set(frames={"fps": -1.0, "keep": "some"})
    with pytest.raises(UserError, match="frames.fps.*; .*frames.keep"):
        params.load("frames", FramesParams)


def test_a_check_of_the_file_names_the_mistakes_of_all_sections(workspace):
    params.check(SECTIONS)
    workspace.set(filter={"threshold": 7}, frames={"fpss": 6.0}, audoi={"silence_db": -50.0})
    with pytest.raises(UserError) as caught:
        params.check(SECTIONS)
    sections, frames, threshold = str(caught.value).splitlines()
    assert "'audoi' is not a section; did you mean 'audio'?" in sections
    assert "frames.fpss is not a parameter; did you mean 'fps'?" in frames
    assert "filter.threshold = 7: input should be less than or equal to 1" in threshold


def test_whole_numbers_serve_as_real_ones(workspace):
    workspace.set(frames={"fps": 6})
    assert params.load("frames", FramesParams).fps == 6.0


def test_single_values_are_checked_as_whole_sections_are(workspace):
    assert params.read("frames", "count", int) == 18
    assert "caption_mapping" in params.read("generator", "architectures", dict[str, str])
    workspace.set(frames={"count": "eighteen", "keep": 3}, audio_features={"window_s": 1})
    for key, kind, sentence in (
        ("count", int, "frames.count = 'eighteen': input should be a valid integer"),
        ("size", int, "frames.size is missing"),
        ("keep", str, "frames.keep = 3: input should be a valid string"),
    ):
        with pytest.raises(UserError, match=f"^params.yaml: {sentence}"):
            params.read("frames", key, kind)
    assert params.read("audio_features", "window_s", float) == 1.0
    with pytest.raises(UserError, match="has no section 'nothing'"):
        params.read("nothing", "count", int)


def test_the_environment_names_another_file_at_any_time(workspace, monkeypatch):
    (workspace.folder / "other.yaml").write_text("frames: {count: 3}")
    monkeypatch.setenv("PARAMS_FILE", "other.yaml")
    assert params.read("frames", "count", int) == 3
    with pytest.raises(UserError, match="^other.yaml: frames.fps is missing"):
        params.load("frames", FramesParams)


def test_file_problems_are_sentences(workspace):
    path = workspace.folder / "params.yaml"
    for text, sentence in (
        ("frames: [", "is not valid YAML"),
        ("", "has no section 'frames'"),
        ("- a\n", "has no section 'frames'"),
        ("frames: 3", "has no section"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=sentence):
            params.load("frames", FramesParams)
    path.unlink()
    with pytest.raises(UserError, match="run stages from the repository root"):
        params.load("frames", FramesParams)


def test_parameters_cannot_be_changed(workspace):
    with pytest.raises(ValueError, match="frozen"):
        params.load("frames", FramesParams).fps = 8.0

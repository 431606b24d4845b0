"""dvc.yaml against the code: what a stage imports, reads and is called stands in its entry."""

import ast

import pytest
import yaml

from tests.support.closure import ROOT

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
BODIES = {name: entry.get("do", entry) for name, entry in STAGES.items() if name != "code"}


@pytest.mark.parametrize("stage", BODIES)
def test_a_stage_depends_on_its_own_code(stage):
    assert [
        path for path in BODIES[stage]["deps"] if "code" in path or path.startswith("stages")
    ] == [f"data/code/{stage}.json"]


@pytest.mark.parametrize("stage", BODIES)
def test_declared_params_are_those_read(stage):
    script = ROOT / f"stages/{stage}.py"
    tree = ast.parse(script.read_text())
    read = set()
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        if ast.unparse(call.func) == "params.load":
            read.add(call.args[0].value)
        if ast.unparse(call.func) == "params.read":
            read.add(f"{call.args[0].value}.{call.args[1].value}")
    declared = set()
    for name in BODIES[stage][
        "params"
    ]:  # `generator.${key}` is what an item adds, `generator.architectures.${key}` a part of a key
        section, _, rest = name.partition(".")
        own = PARAMS[section]["architectures"] if rest == "${key}" else ()
        declared |= {f"{section}.{item}" for item in own} or {name.replace(".${key}", "")}
    whole = {name for name in read if "." not in name}
    for section in whole & {
        name.split(".")[0] for name in declared if "." in name
    }:  # a section declared key by key
        read = read - {section} | {f"{section}.{field}" for field in PARAMS[section]}
    assert declared == read


@pytest.mark.parametrize("stage", BODIES)
def test_one_name_for_script_section_metrics_and_test(stage):
    body = BODIES[stage]
    assert body["cmd"].split()[:3] == ["python", "-m", f"stages.{stage}"]
    assert stage in PARAMS
    metrics = [path for entry in body["metrics"] for path in entry]
    assert (
        metrics == [f"metrics/{stage}/${{key}}.json"]
        if "foreach" in STAGES[stage]
        else [f"metrics/{stage}.json"]
    )
    assert (ROOT / f"tests/test_{stage}.py").is_file()
    assert body["desc"]


def test_metrics_and_plots_are_in_git():
    for body in BODIES.values():
        for entry in body["metrics"] + body.get("plots", []):
            assert all(options["cache"] is False for options in entry.values())


def test_only_stages_read_params():
    callers = [
        path.name
        for path in (ROOT / "stages/common").rglob("*.py")
        if "params.load(" in path.read_text()
    ]
    assert callers == []


def test_only_stages_with_metrics_on_it_depend_on_the_truth():
    readers = {name for name, body in BODIES.items() if "data/truth.parquet" in body["deps"]}
    assert readers == {"dictionary", "filter", "mapping", "report", "representative_frames"}


def test_every_condition_names_what_it_reads():
    nothing, real = "data/video_features/rgb", "data/audio_features"
    made_for = {
        "generated": "data/generated/semantic_validation",
        "mapped": "data/generated/caption_mapping",
        "shuffled": "data/generated/shuffled",
    }
    for name, condition in PARAMS["classifier"]["conditions"].items():
        kinds, gate = (
            {condition["train_audio"], condition["test_audio"]},
            condition.get("gate", "none"),
        )
        hears = (
            kinds != {"none"}
            or condition.get("learns") == "audio"
            or condition.get("match_parameters", False)
        )
        assert condition["audio"] == (real if hears else nothing), name
        made = [made_for[kind] for kind in kinds if kind in made_for]
        if condition.get("teacher"):
            made = [f"data/predictions/{condition['teacher']}.parquet"]
        assert [condition["made"]] == (made or [nothing]), name
        filters = {"mapped": "data/filter/caption_mapping.parquet"}.get(
            condition["train_audio"], "data/filter/semantic_validation.parquet"
        )
        assert condition["decided"] == {
            "none": nothing,
            "dictionary": "data/dictionary.parquet",
        }.get(gate, filters), name


def test_worker_count_device_and_store_are_not_tracked():
    text = (ROOT / "dvc.yaml").read_text()
    assert not any(word in text for word in ("--workers", "WORKERS", "DEVICE", "ITEM_STORE"))

"""dvc.yaml against the code: what a stage imports, reads and is called stands in its entry."""

import ast

import pytest
import yaml
from dvc.repo import Repo

from audio_from_video.classification.settings import ClassifierParams
from tests.support.closure import ROOT

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
ARCHITECTURES = PARAMS["generator"]["architectures"]
BODIES = {name: entry.get("do", entry) for name, entry in STAGES.items() if name != "code"}


@pytest.mark.parametrize("stage", BODIES)
def test_a_stage_depends_on_its_own_code(stage):
    deps = BODIES[stage].get("deps", [])
    code = [path for path in deps if path.startswith(("data/code", "stages"))]
    # In a fresh clone a frozen stage may come before the one that makes data/code.
    assert code == ([] if BODIES[stage].get("frozen") else [f"data/code/{stage}.json"])


def declared_params(stage: str) -> set[str]:
    """Return the sections and keys that dvc.yaml declares for all items of a stage.

    `generator.architectures.${key}` is a part of a key, and `generator.${key}` what one item adds.
    `${item.x}` is named by the items.
    """
    names = set()
    for name in BODIES[stage]["params"]:
        if name.startswith("${item."):
            part = name.removeprefix("${item.").removesuffix("}")
            names |= {item[part] for item in STAGES[stage]["foreach"].values()}
            continue
        section, _, key = name.partition(".")
        if key == "${key}":
            names |= {f"{section}.{item}" for item in ARCHITECTURES}
        else:
            names.add(name.removesuffix(".${key}"))
    return names


def params_read(stage: str) -> set[str]:
    """Return the sections that a stage's script loads, and the keys of others that it reads."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / f"stages/{stage}.py").read_text())):
        if not isinstance(node, ast.Call):
            continue
        function = ast.unparse(node.func)
        if function in ("params.load", "params.read"):
            words = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            names.add(".".join(words))
    return names


@pytest.mark.parametrize("stage", BODIES)
def test_declared_params_are_those_read(stage):
    declared = declared_params(stage)
    read = params_read(stage)
    # A section that is loaded whole may be declared key by key.
    for section in {name for name in read if "." not in name} - declared:
        read.remove(section)
        read |= {f"{section}.{key}" for key in PARAMS[section]}
    assert declared == read


def test_only_stages_and_commands_read_params():
    for path in (ROOT / "audio_from_video").rglob("*.py"):
        text = path.read_text()
        assert "params.load(" not in text, path
        assert "params.read(" not in text, path


@pytest.mark.parametrize("stage", BODIES)
def test_one_name_for_script_section_metrics_and_test(stage):
    body = BODIES[stage]
    assert body["cmd"].split()[:3] == ["python", "-m", f"stages.{stage}"]
    assert stage in PARAMS
    has_items = "foreach" in STAGES[stage]
    metrics = f"metrics/{stage}/${{key}}.json" if has_items else f"metrics/{stage}.json"
    assert metrics in git_outputs(stage)
    assert (ROOT / f"tests/test_{stage}.py").is_file()
    assert body["desc"]


def git_outputs(stage: str) -> set[str]:
    """Return the outputs of a stage that git holds and DVC's cache does not."""
    body = BODIES[stage]
    outputs = set()
    for entry in body.get("outs", []) + body.get("metrics", []) + body.get("plots", []):
        if isinstance(entry, dict):
            outputs |= {path for path, options in entry.items() if options.get("cache") is False}
    return outputs


@pytest.mark.parametrize("stage", BODIES)
def test_metrics_and_plots_are_in_git(stage):
    for entry in BODIES[stage].get("metrics", []) + BODIES[stage].get("plots", []):
        assert set(entry) <= git_outputs(stage)


@pytest.mark.parametrize("stage", BODIES)
def test_dvc_keeps_runs_of_stages_whose_metrics_are_in_git(stage):
    """DVC brings a run back only where the outputs in git are metrics or plots."""
    kind = "metrics" if stage == "summary" else "plots"
    paths = [path for entry in BODIES[stage][kind] for path in entry]
    has_items = "foreach" in STAGES[stage]
    expected = f"metrics/{stage}/${{key}}.json" if has_items else f"metrics/{stage}.json"
    assert paths[0] == expected


def test_only_the_summary_is_shown_by_dvc():
    """`dvc exp show` has a column for every number of a stage's metrics."""
    assert [stage for stage, body in BODIES.items() if "metrics" in body] == ["summary"]


def test_only_stages_with_metrics_on_it_depend_on_the_truth():
    deps = {name: body.get("deps", []) for name, body in BODIES.items()}
    readers = {name for name in BODIES if "data/truth.parquet" in deps[name]}
    assert readers == {"dictionary", "filter", "mapping", "report", "representative_frames"}


def test_every_condition_tracks_the_files_that_it_names():
    conditions = ClassifierParams.model_validate(PARAMS["classifier"]).conditions
    stages = {stage.addressing: stage for stage in Repo(str(ROOT)).index.stages}
    for name, condition in conditions.items():
        dependencies = {dep.def_path for dep in stages[f"classifier@{name}"].deps}
        paths = {
            condition.real_audio,
            condition.generated_audio,
            condition.teacher_predictions,
            condition.decisions,
        }
        assert paths <= dependencies, name


def test_worker_count_device_and_store_are_not_tracked():
    text = (ROOT / "dvc.yaml").read_text()
    assert not any(word in text for word in ("--workers", "WORKERS", "DEVICE", "ITEM_STORE"))

"""The whole pipeline, tiny: `dvc repro` in a fresh repository, and what a change reruns."""

import json

import pytest

from tests.support.repository import CONDITIONS, Repository

pytestmark = pytest.mark.slow

CLIP_STAGES = (  # stages that work clip by clip; video_features has two items
    "clips",
    "frames",
    "optical_flow",
    "audio",
    "video_features/rgb",
    "video_features/flow",
    "audio_features",
)
LOGGED = {"seconds", "items_per_s", "reading_s", "computing_s", "peak_memory_mib"}


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Repository:
    """A repository after its first run; `first` names the stages that ran."""
    repository = Repository(tmp_path_factory.mktemp("two"), workers=2)
    repository.first = repository.stages_run(repository.run("dvc", "repro"))
    return repository


def metrics(repository: Repository, stage: str) -> dict:
    return json.loads((repository.folder / f"metrics/{stage}.json").read_text())


def test_first_run_makes_tables_and_accounts_for_every_clip(repository):
    assert "pretrain" not in repository.first
    assert {"missingness", "bundle", "report", "summary"} <= set(repository.first)
    folder = repository.folder / "metrics"
    tables = (folder / "tables.md").read_text()
    assert all(f"`{name}`" in tables for name in CONDITIONS)
    latex = {path.stem for path in (folder / "tables").glob("*.tex")}
    assert latex >= {"main", "missing_rates", "filter", "subsets"}
    assert (folder / "report.html").stat().st_size < 10 * 2**20
    for stage in CLIP_STAGES:
        counts = metrics(repository, stage)["clips"]
        assert counts["in"] == counts["ok"] + sum(counts["refused"].values()) > 0
        log = repository.log(stage)
        assert log["computed"] == counts["in"]
        assert log["reused"] == 0
        assert set(log) >= LOGGED


def test_one_worker_gives_the_same_bytes_as_two(repository, tmp_path):
    """Generators are left out here: tests/test_generator.py and tests/generation compare theirs."""
    one = Repository(tmp_path, workers=1)
    one.run("dvc", "repro", "classifier@real_audio", "mapping")
    hashes = one.hashes()
    two = repository.hashes()
    assert hashes == {path: two[path] for path in hashes}
    assert {
        "data/frames",
        "models/classifier/real_audio",
        "models/captions",
        "data/mapping",
    } <= set(hashes)


def test_second_run_only_scans(repository):
    output = repository.run("dvc", "repro")
    assert repository.stages_run(output) == ["clips"]
    assert repository.log("clips")["computed"] == 0


def stages_run_with(repository: Repository, change: str, *targets: str) -> set[str]:
    """Run an experiment with one changed parameter; return the stages that ran."""
    output = repository.run("dvc", "exp", "run", "-S", change, *targets)
    return set(repository.stages_run(output))


def test_a_filter_threshold_reruns_the_filter_and_what_follows(repository):
    ran = stages_run_with(repository, "filter.threshold=0.1")
    always = {"code", "clips", "filter", "missingness", "report", "bundle", "summary"}
    gated = {f"classifier@{name}" for name in ("validated", "mapped_validated")}
    assert always | {"classifier@validated"} <= ran <= always | gated
    assert metrics(repository, "filter")["semantic_validation"]["threshold"] == 0.1


def test_more_labels_per_caption_rerun_the_mapping_and_what_follows(repository):
    targets = ("generator@caption_mapping", "generator@semantic_validation")
    ran = stages_run_with(repository, "mapping.top_k=5", *targets)
    assert ran == {"code", "clips", "mapping", "generator@caption_mapping"}
    repository.run("git", "checkout", "-q", "params.yaml")


def test_a_silence_threshold_reruns_audio_and_what_follows(repository):
    targets = ("classifier@real_audio", "classifier@video_only", "optical_flow")
    ran = stages_run_with(repository, "audio.silence_db=-24", *targets)
    assert ran == {"code", "clips", "audio", "audio_features", "classifier@real_audio"}
    assert repository.log("audio")["computed"] == 0
    repository.run("git", "checkout", "-q", "params.yaml")


@pytest.mark.parametrize(
    ("stage", "named"),
    [
        ("optical_flow", "data/frames"),
        ("captions", "data/representative_frames"),
        ("filter", "data/predicted_labels/semantic_validation"),
        ("classifier video_only", "data/video_features/rgb"),
        ("report", "data/predictions/generated.parquet"),
    ],
)
def test_outputs_of_another_data_set_are_told_of(repository, stage, named):
    path = repository.folder / "params.yaml"
    before = path.read_text()
    repository.set("clips", max_per_action=5)
    repository.run("python", "-m", "stages.clips")
    output = repository.run("python", "-m", *f"stages.{stage}".split(), fails=True)
    assert f"{named} is of another data set than data/clips.parquet: run `dvc repro`" in output
    assert "Traceback" not in output
    path.write_text(before)
    repository.run("python", "-m", "stages.clips")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("clips.root=/nowhere", "clips: error: clips.root = '/nowhere' is not a folder"),
        ("frames.fps=-6", "code: error: params.yaml: frames.fps = -6"),
        ("frames.keep=some", "'exact' or 'all'"),
        ("clips.actions=[juggling]", "clips: error: clips.actions names juggling"),
        ("video_features.model=no/such-model", "neither as a local directory"),
    ],
)
def test_bad_input_ends_in_a_sentence(repository, change, sentence):
    path = repository.folder / "params.yaml"
    before = path.read_text()
    try:
        output = repository.run("dvc", "exp", "run", "-S", change, fails=True)
    finally:
        path.write_text(before)
    assert sentence in output
    assert "Traceback" not in output

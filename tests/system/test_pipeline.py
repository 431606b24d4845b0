"""The whole pipeline, tiny: `dvc repro` in a fresh repository, what a change reruns, and bytes that depend on nothing else."""

import json

import pytest

from tests.support.repository import ROWS, Repository


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Repository:
    repository = Repository(tmp_path_factory.mktemp("two"), workers=2)
    repository.first = repository.stages_run(repository.run("dvc", "repro"))
    return repository


def test_first_run_makes_tables_and_accounts_for_every_clip(repository):
    assert "pretrain" not in repository.first and repository.first[-1] == "report"
    tables = (repository.folder / "metrics/tables.md").read_text()
    assert all(f"`{name}`" in tables for name in ROWS)
    assert {path.stem for path in (repository.folder / "metrics/tables").glob("*.tex")} >= {
        "main",
        "missing_rates",
        "filter",
        "subsets",
    }
    assert (repository.folder / "metrics/report.html").stat().st_size < 10 * 2**20
    for stage in (
        "clips",
        "frames",
        "optical_flow",
        "audio",
        "video_features/rgb",
        "video_features/flow",
        "audio_features",
    ):
        counts = json.loads((repository.folder / f"metrics/{stage}.json").read_text())["clips"]
        assert counts["in"] == counts["ok"] + sum(counts["refused"].values()) > 0
        log = repository.log(stage)
        assert log["computed"] == counts["in"] and log["reused"] == 0
        assert {"seconds", "items_per_s", "reading_s", "computing_s", "peak_memory_mib"} <= set(log)


def test_one_worker_gives_the_same_bytes_as_two(repository, tmp_path):
    one = Repository(tmp_path, workers=1)
    one.run(
        "dvc", "repro", "classifier@real_audio", "mapping"
    )  # generators: tests/test_generator.py, test_mapping_generator.py
    hashes = repository.hashes()
    assert one.hashes() == {path: hashes[path] for path in one.hashes()}
    made = {"data/frames", "models/classifier/real_audio", "models/captions", "data/mapping"}
    assert made <= set(one.hashes())


def test_second_run_only_scans(repository):
    output = repository.run("dvc", "repro")
    assert repository.stages_run(output) == ["clips"]
    assert repository.log("clips")["computed"] == 0


def test_a_filter_threshold_reruns_the_filter_and_what_follows(repository):
    ran = repository.stages_run(repository.run("dvc", "exp", "run", "-S", "filter.threshold=0.1"))
    gated = {f"classifier@{name}" for name in ("validated", "mapped_validated", "published")}
    assert (
        {"clips", "filter", "report", "classifier@validated"}
        <= set(ran)
        <= {"clips", "filter", "report"} | gated
    )
    assert json.loads((repository.folder / "metrics/filter.json").read_text())["threshold"] == 0.1


def test_more_labels_per_caption_rerun_the_mapping_and_what_follows(repository):
    ran = repository.stages_run(
        repository.run(
            "dvc",
            "exp",
            "run",
            "-S",
            "mapping.top_k=5",
            "generator@caption_mapping",
            "generator@semantic_validation",
        )
    )
    assert set(ran) == {"clips", "mapping", "generator@caption_mapping"}
    repository.run("git", "checkout", "-q", "params.yaml")


def test_a_silence_threshold_reruns_audio_and_what_follows(repository):
    targets = ["classifier@real_audio", "classifier@video_only", "optical_flow"]
    ran = repository.stages_run(
        repository.run("dvc", "exp", "run", "-S", "audio.silence_db=-24", *targets)
    )
    assert set(ran) == {"clips", "audio", "audio_features", "classifier@real_audio"}
    assert repository.log("audio")["computed"] == 0
    repository.run("git", "checkout", "-q", "params.yaml")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("clips.root=/nowhere", "is not a folder"),
        ("frames.fps=-6", "frames.fps = -6"),
        ("frames.keep=some", "'exact' or 'all'"),
        ("clips.actions=[juggling]", "clips.actions names juggling"),
        ("video_features.model=no/such-model", "neither as a local directory"),
    ],
)
def test_bad_input_ends_in_a_sentence(repository, change, says):
    stage = change.split(".")[0]
    before = (repository.folder / "params.yaml").read_text()
    output = repository.run("dvc", "exp", "run", "-S", change, fails=True)
    assert says in output and f"{stage}: error:" in output and "Traceback" not in output
    (repository.folder / "params.yaml").write_text(before)

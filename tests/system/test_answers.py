"""Answers for new clips against the pipeline's own: a test clip gets what data/ holds of it."""

import dvc.api
import numpy as np
import pytest

from audio_from_video import Pipeline
from audio_from_video.prediction.bundle import read_bundle
from audio_from_video.runtime.vocabulary import ARCHITECTURES
from audio_from_video.storage import layout, predictions, shards
from tests.support.repository import AUTHOR, Repository

pytestmark = pytest.mark.slow

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Repository:
    repository = Repository(tmp_path_factory.mktemp("answers"), workers=2)
    repository.run("dvc", "repro", "bundle")
    return repository


@pytest.fixture(scope="module")
def answered(repository):
    """The window of every test clip, by clip_id."""
    pipeline = Pipeline.from_pretrained(repository.folder / layout.BUNDLE)
    paths = sorted((repository.folder / layout.SAMPLE / "validation").glob("*/*.mp4"))
    windows = {}
    for path, video in zip(paths, pipeline.predict(paths), strict=True):
        [windows[f"{path.parent.name}/{path.stem}"]] = video.windows
    return windows


@pytest.fixture(autouse=True)
def in_the_repository(repository, monkeypatch):
    monkeypatch.setenv("DEVICE", "cpu")
    monkeypatch.chdir(repository.folder)


def stored(directory, column: str) -> dict[str, np.ndarray]:
    """Return a column of the test clips by clip_id."""
    columns = shards.read_columns(directory, [column], ["test"])
    return dict(zip(columns["clip_id"], columns[column], strict=True))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_generated_features_labels_and_decisions_are_those_of_the_stages(answered, architecture):
    features = stored(layout.generated(architecture), "features")
    labels = stored(layout.predicted_labels(architecture), "generated")
    decisions = shards.read_table(layout.decisions(architecture)).to_pandas().set_index("clip_id")
    assert set(features) == set(answered)
    for clip_id, window in answered.items():
        sound = window.generated[architecture]
        assert sound.features == pytest.approx(features[clip_id].astype(float), abs=TOLERANCE)
        assert sound.label_scores == pytest.approx(labels[clip_id].astype(float), abs=TOLERANCE)
        assert sound.score == pytest.approx(decisions.score[clip_id], abs=TOLERANCE)
        assert sound.keep == decisions.keep[clip_id]


def test_real_sound_is_heard_as_by_the_stages(answered):
    features = stored(layout.AUDIO_FEATURES, "features")
    decisions = shards.read_table(layout.decisions("semantic_validation")).to_pandas()
    decisions = decisions.set_index("clip_id")
    assert {clip_id for clip_id, window in answered.items() if window.real.audible} == set(features)
    for clip_id, expected in features.items():
        real = answered[clip_id].real
        assert real.features == pytest.approx(expected.astype(float), abs=TOLERANCE)
        assert real.score == pytest.approx(decisions.score_real[clip_id], abs=TOLERANCE)
        assert real.fits == decisions.keep_real[clip_id]


def test_captions_are_those_of_the_stage(answered):
    rows = shards.iter_rows(layout.CAPTIONS, ["steps", "captions"], ["test"])
    for row in rows:
        captions = dict(zip(row["steps"], row["captions"], strict=True))
        assert answered[row["clip_id"]].captions == captions


def test_probabilities_are_those_of_the_classifiers(answered):
    conditions = {name for window in answered.values() for name in window.answers}
    assert conditions == {"video_only", "real_audio", "validated", "mapped_validated"}
    for condition in conditions:
        expected = predictions.read(condition).of("test")
        for place, clip_id in enumerate(expected.clips.clip_id):
            by_seed = answered[clip_id].answers[condition].by_seed
            assert by_seed == pytest.approx(expected.probabilities[:, place], abs=TOLERANCE)


def test_the_command_answers_from_the_repository(repository):
    answers = repository.folder / "answers.parquet"
    repository.run("cp", "-r", str(layout.SAMPLE / "unlabelled"), "new")
    command = ("python", "-m", "tools.predict", "new", "--out", str(answers))
    printed = repository.run(*command)
    rows = shards.read_table(answers).to_pylist()
    assert len(rows) == 12
    assert all(row["status"] == "ok" for row in rows)
    assert "recommended" in printed


@pytest.fixture(scope="module")
def clone(repository, tmp_path_factory) -> Repository:
    """A clone of the repository, whose outputs lie in a folder that is its remote."""
    remote = tmp_path_factory.mktemp("remote")
    repository.run("dvc", "remote", "add", "--default", "shared", str(remote))
    repository.commit("results")
    repository.run("git", *AUTHOR, "tag", "-a", "bundle@v1.0.0", "-m", "first")
    repository.run("dvc", "push")
    return repository.clone(tmp_path_factory.mktemp("clone") / "clone")


def test_a_clone_knows_that_nothing_is_to_be_computed_before_it_pulls(clone):
    output = clone.run("dvc", "repro", "--dry", "--allow-missing", "bundle")
    assert set(clone.stages_run(output)) <= {"clips"}  # it always runs


def test_a_clone_pulls_results_and_answers_without_computing(clone):
    clone.run("dvc", "pull", "bundle", "sample")
    clip = next((clone.folder / layout.SAMPLE / "validation").glob("*/*.mp4"))
    printed = clone.run("python", "-m", "tools.predict", str(clip))
    assert clip.name in printed
    assert (clone.folder / layout.BUNDLE / "README.md").is_file()

    clone.run("dvc", "pull", "--allow-missing")
    status = clone.run("dvc", "status", "bundle")
    changed = [line.rstrip(":") for line in status.splitlines() if line.endswith(":")]
    assert set(changed) <= {"clips"}


def test_the_bundle_is_an_artifact_that_dvc_finds(clone, tmp_path):
    shown = dvc.api.artifacts_show("bundle", repo=str(clone.folder))
    assert shown["path"] == str(layout.BUNDLE)
    clone.run("dvc", "artifacts", "get", str(clone.folder), "bundle", "-o", str(tmp_path / "got"))
    assert read_bundle(tmp_path / "got").settings.actions

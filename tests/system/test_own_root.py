"""One's own clips need no rendered data set, and DVC brings either data set's outputs back."""

import json

import pytest

from tests.support.repository import Repository
from tests.support.workspace import write_clip_set

pytestmark = pytest.mark.slow


def rendered(repository: Repository) -> list[str]:
    return sorted(path.name for path in (repository.folder / "data/sample").rglob("*.mp4"))


def test_another_root_renders_nothing_and_the_way_back_is_kept(tmp_path):
    own = tmp_path / "own"
    write_clip_set(own, training=4, validation=2)
    (tmp_path / "repository").mkdir()
    repository = Repository(tmp_path / "repository", workers=2)
    repository.set("sample", training_per_action=2, test_per_action=1, unlabelled_per_action=1)

    repository.set("clips", root=str(own))
    repository.run("dvc", "repro", "clips")
    assert rendered(repository) == []
    sample = repository.folder / "data/sample"
    assert [path.name for path in sample.iterdir()] == ["not_used.txt"]
    metrics = json.loads((repository.folder / "metrics/sample.json").read_text())
    assert metrics == {"rendered": "not used: clips.root names other clips"}
    assert (repository.folder / "metrics/figures/sample.png").is_file()
    assert "Stage 'sample' didn't change, skipping" in repository.run("dvc", "repro", "clips")

    repository.set("clips", root="data/sample")
    repository.run("dvc", "repro", "clips")
    clips = rendered(repository)
    assert len(clips) == 48

    for root, expected in ((str(own), []), ("data/sample", clips)):
        repository.set("clips", root=root)
        said = repository.run("dvc", "repro", "clips")
        assert "Stage 'sample' is cached - skipping run" in said
        assert rendered(repository) == expected

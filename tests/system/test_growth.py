"""A root that grows: only new clips are computed, and the outputs equal a run from scratch."""

import json
import sys
from pathlib import Path

import pytest

from audio_from_video.media import untrusted
from audio_from_video.runtime import stage_run
from audio_from_video.storage import layout, shards
from stages import audio, audio_features, clips, frames, optical_flow, video_features
from tests.support.closure import ROOT
from tests.support.workspace import Workspace, write_clip_set
from tools import fit_list

STAGES = (
    (clips, ""),
    (frames, ""),
    (optical_flow, ""),
    (audio, ""),
    (video_features, "rgb"),
    (video_features, "flow"),
    (audio_features, ""),
)


@pytest.fixture
def root(workspace, in_process, monkeypatch) -> Path:
    """A folder of clips that params.yaml names."""
    # Its limit of memory would be this process's for good.
    monkeypatch.setattr(untrusted, "decoding_process", lambda: None)
    write_clip_set(workspace.folder / "root", training=8, validation=4)
    tiny = ROOT / "models/tiny"
    workspace.set(
        clips={"root": "root"},
        video_features={"model": str(tiny / "vit")},
        audio_features={"model": str(tiny / "ast"), "components": 16},
    )
    return workspace.folder / "root"


def run_all(
    monkeypatch: pytest.MonkeyPatch, store: str
) -> tuple[dict[str, int], dict[Path, bytes]]:
    """Run the stages that work clip by clip, with an item store of that name.

    Returns how many items each stage computed, and the files.
    """
    monkeypatch.setenv("ITEM_STORE", str(Path(store).absolute()))
    computed = {}
    for module, item in STAGES:
        stage = stage_run.StageRun(module.__name__.split(".")[1], item, 1)
        module.main(stage)
        computed[stage.name] = stage.log["computed"]
    return computed, {path: path.read_bytes() for path in Path("data").rglob("*.parquet")}


@pytest.mark.slow
def test_five_new_clips_compute_five_items_and_equal_a_run_from_scratch(
    root, workspace: Workspace, monkeypatch
):
    paths = sorted((root / "training").rglob("*.mp4"))[::3][:5]
    added = {path: workspace.folder / path.name for path in paths}
    for path, aside in added.items():
        path.rename(aside)
    run_all(monkeypatch, "grown")
    for path, aside in added.items():
        aside.rename(path)
    computed, grown = run_all(monkeypatch, "grown")
    audible = {row["clip_id"] for row in shards.ok_rows(Path("data/audio"))}
    new = {f"{path.parent.name}/{path.stem}" for path in added}
    assert len(new & audible) > 0
    assert computed == dict.fromkeys(computed, 5) | {"audio_features": len(new & audible)}
    everything, scratch = run_all(monkeypatch, "scratch")
    assert everything["frames"] == 24
    assert len(grown) > len(STAGES)
    assert scratch == grown


@pytest.mark.slow
def test_clips_that_come_after_the_list_change_no_model_and_no_other_clip(
    root, workspace: Workspace, monkeypatch
):
    paths = sorted((root / "training").rglob("*.mp4"))[::3][:5]
    added = {path: workspace.folder / path.name for path in paths}
    for path, aside in added.items():
        path.rename(aside)
    run_all(monkeypatch, "items")
    monkeypatch.setattr(sys, "argv", ["fit_list", "fit_on.csv"])
    fit_list.main()
    workspace.set(clips={"fit_on": "fit_on.csv"})
    run_all(monkeypatch, "items")
    projection = layout.AUDIO_PROJECTION.read_bytes()
    features = feature_rows()
    shards_before = {path.stat().st_ino for path in shards.shard_paths(layout.AUDIO_FEATURES)}
    splits = {row["clip_id"]: row["split"] for row in shards.ok_rows(layout.FRAMES)}

    for path, aside in added.items():
        aside.rename(path)
    computed, _ = run_all(monkeypatch, "items")
    assert computed["frames"] == 5
    assert layout.AUDIO_PROJECTION.read_bytes() == projection
    grown = feature_rows()
    assert len(grown) > len(features) > 0
    assert {name: grown[name] for name in features} == features
    new_splits = {row["clip_id"]: row["split"] for row in shards.ok_rows(layout.FRAMES)}
    assert {name: new_splits[name] for name in splits} == splits
    assert {split for name, split in new_splits.items() if name not in splits} == {"training"}
    metrics = json.loads(Path("metrics/clips.json").read_text())
    assert metrics["fit_on"]["clips"] == sum(split != "test" for split in splits.values())
    # Most shards are the same files as before.
    shards_after = {path.stat().st_ino for path in shards.shard_paths(layout.AUDIO_FEATURES)}
    assert shards_before & shards_after

    # A fit anew is that of a run without a list, but for the splits that are kept.
    fit_list.main()
    run_all(monkeypatch, "items")
    assert layout.AUDIO_PROJECTION.read_bytes() != projection


def feature_rows() -> dict[str, bytes]:
    rows = shards.iter_rows(layout.AUDIO_FEATURES, ["features"])
    return {row["clip_id"]: row["features"].tobytes() for row in rows}

"""A root that grows: only new clips are computed, and the outputs equal a run from scratch."""

from pathlib import Path

import pytest

from audio_from_video.media import untrusted
from audio_from_video.runtime import stage_run
from audio_from_video.storage import shards
from stages import audio, audio_features, clips, frames, optical_flow, video_features
from tests.support.closure import ROOT
from tests.support.workspace import Workspace, write_clip_set

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

"""Clips behind a URL give what the same clips in a folder give, and what fails is told."""

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from fsspec.registry import known_implementations

from audio_from_video.clipset import discovery
from audio_from_video.media import sound, untrusted, workers
from audio_from_video.media.frames import extract
from audio_from_video.media.pictures import Part
from audio_from_video.media.settings import FramesParams
from audio_from_video.media.workers import map_files
from audio_from_video.runtime import remote, stage_run
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.remote import RemoteFile
from audio_from_video.runtime.worker import Failure
from audio_from_video.storage import shards
from stages import audio, clips, frames
from tests.support.closure import ROOT
from tests.support.media_files import broken_files, sine, write_video
from tests.support.workspace import Workspace, write_clip_set

URL = "memory://bucket/clips"
FRAMES = FramesParams(**yaml.safe_load((ROOT / "params.yaml").read_text())["frames"])


@pytest.fixture
def store() -> Iterator[fsspec.AbstractFileSystem]:
    """An empty store behind `memory://`."""
    memory = fsspec.filesystem("memory")
    yield memory
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def upload(store: fsspec.AbstractFileSystem, folder: Path) -> None:
    """Copy the files of a folder to URL."""
    for path in folder.rglob("*"):
        if path.is_file():
            store.pipe_file(f"/bucket/clips/{path.relative_to(folder)}", path.read_bytes())


@pytest.fixture(scope="module")
def clip_set(tmp_path_factory) -> Path:
    """A folder of clips, among them a broken one, one without a source apart, and other files."""
    root = tmp_path_factory.mktemp("clips")
    write_clip_set(root, training=3, validation=1)
    (root / "training/clapping/text_1.mp4").write_text("no video")
    (root / "training/clapping/.hidden_1.mp4").write_text("hidden")
    (root / "training/clapping/notes.txt").write_text("no clip")
    (root / "unlabelled/deep").mkdir(parents=True)
    write_video(root / "unlabelled/deep/a::file:___etc_passwd_1.mp4", 72)
    return root


def run_stages(root: str, clips_settings: dict, folder: Path) -> dict[str, bytes]:
    """Run the stages that read clips, with a new item store; return their outputs by path."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("ITEM_STORE", str(folder / "items"))
        Workspace(folder).set(clips={"root": root, "max_failed_fraction": 0.3, **clips_settings})
        for name, stage in (("clips", clips), ("frames", frames), ("audio", audio)):
            stage.main(stage_run.StageRun(name, None, 1))
    outputs = [path for path in (folder / "data").rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in outputs}


def test_a_url_gives_the_bytes_that_the_folder_gives(in_process, clip_set, store, tmp_path):
    upload(store, clip_set)
    of_folder = run_stages(str(clip_set), {}, tmp_path / "folder")
    of_url = run_stages(URL, {}, tmp_path / "url")
    table = pq.read_table(tmp_path / "url/data/clips.parquet").to_pylist()
    refused = {row["path"]: row["status"] for row in table if row["status"] != "ok"}
    assert len(table) == 10 and refused == {"training/clapping/text_1.mp4": "unreadable"}
    assert len(of_folder) > 10 and of_url == of_folder


def test_lists_behind_a_url_are_read(in_process, clip_set, store, tmp_path):
    upload(store, clip_set)
    rows = ["path,action,start_s,end_s,split"]
    for action, letter in (("clapping", 0), ("knocking", 1)):
        for split, name in (("training", "t"), ("test", "v")):
            folder = "training" if split == "training" else "validation"
            path = f"{folder}/{action}/{name}{letter}0_1.mp4"
            rows.append(f"{path},{action},0.5,2,{split}")
        rows.append(f"training/{action}/t{letter}1_1.mp4,{action},,,training")
    rows.append("training/clapping/gone_1.mp4,clapping,,,training")
    lines = "\n".join(rows)
    (tmp_path / "list.csv").write_text(lines)
    store.pipe_file("/bucket/clips/list.csv", lines.encode())

    local = str(tmp_path / "list.csv")
    of_folder = run_stages(str(clip_set), {"clip_list": local}, tmp_path / "folder")
    of_url = run_stages(URL, {"clip_list": "list.csv"}, tmp_path / "url")
    table = pq.read_table(tmp_path / "url/data/clips.parquet").to_pylist()
    assert [row["status"] for row in table].count("ok") == 6
    of_folder.pop("data/clips.parquet"), of_url.pop("data/clips.parquet")  # reasons differ
    assert of_url == of_folder
    assert [row["status"] for row in table if row["path"].endswith("gone_1.mp4")] == ["missing"]
    with pytest.raises(UserError, match="the clip list memory://.*nowhere.csv does not exist"):
        discovery.find_clips(URL, {}, "nowhere.csv")

    store.pipe_file("/bucket/clips/training.csv", b"clapping/t00_1.mp4,x\n")
    found = discovery.find_clips(URL, {"training": "training.csv"})
    paths = [clip["path"] for clip in found if clip["folder"] == "training"]
    assert paths == ["training/clapping/t00_1.mp4"]


def test_bytes_decode_as_files_do(store, tmp_path):
    paths = [path for path in broken_files(tmp_path).values() if path.is_file()]
    for suffix, options in ((".ts", ()), (".avi", ("-c:v", "mpeg4")), (".mkv", ())):
        path = tmp_path / f"good{suffix}"
        paths.append(write_video(path, 72, "24", *options, sound=sine(440, 3, -6)))
    for path in paths:
        store.pipe_file(f"/bucket/clips/{path.name}", path.read_bytes())
        file = RemoteFile(URL, path.name)
        assert clips.examine(file) == clips.examine(path), path.name
        for part in (None, Part(0.5, 1.5)):
            ours = extract((file, part, FRAMES))
            theirs = extract((path, part, FRAMES))
            assert ours.pop("times_s").tolist() == theirs.pop("times_s").tolist()
            assert ours == theirs, path.name
    for suffix in (".ts", ".avi", ".mkv"):
        path = tmp_path / f"good{suffix}"
        fetched = untrusted.of_place(RemoteFile(URL, path.name))
        ours = sound.decode_sound(fetched, 0.5, 1.0, seek=True)
        assert np.array_equal(ours, sound.decode_sound(path, 0.5, 1.0, seek=True))
        assert np.abs(ours).max() > 1000


def described() -> dict[str, dict]:
    return {row["path"]: row for row in pq.read_table("data/clips.parquet").to_pylist()}


@pytest.fixture
def at_url(workspace, in_process, clip_set, store) -> fsspec.AbstractFileSystem:
    """The clips in a store, and a workspace with their URL."""
    upload(store, clip_set)
    workspace.set(clips={"root": URL, "max_failed_fraction": 0.3})
    return store


def test_only_changed_files_are_fetched_again(at_url):
    clips.main(stage_run.StageRun("clips", None, 1))
    clips.main(stage := stage_run.StageRun("clips", None, 1))
    assert stage.log["computed"] == 0
    path = "training/clapping/t00_1.mp4"
    before = described()[path]["content_hash"]
    at_url.pipe_file(
        f"/bucket/clips/{path}", at_url.cat("/bucket/clips/training/knocking/t10_1.mp4")
    )
    clips.main(stage := stage_run.StageRun("clips", None, 1))
    assert stage.log["computed"] == 1 and described()[path]["content_hash"] != before


def test_clips_that_move_from_a_folder_to_a_url_keep_their_items(at_url, workspace, clip_set):
    for root, computed in ((str(clip_set), 9), (URL, 0)):
        workspace.set(clips={"root": root})
        clips.main(stage_run.StageRun("clips", None, 1))
        frames.main(stage := stage_run.StageRun("frames", None, 1))
        assert stage.log["computed"] == computed


def test_what_cannot_be_fetched_now_is_tried_again(at_url, monkeypatch):
    unreachable = "training/clapping/t00_1.mp4"
    read_bytes = RemoteFile.read_bytes

    def fail(file: RemoteFile) -> bytes:
        if file.path == unreachable:
            raise remote.Unreachable(f"{file}: cannot be read (the network is down)")
        return read_bytes(file)

    monkeypatch.setattr(RemoteFile, "read_bytes", fail)
    clips.main(stage_run.StageRun("clips", None, 1))
    row = described()[unreachable]
    assert row["status"] == "unreachable" and "the network is down" in row["reason"]
    monkeypatch.setattr(RemoteFile, "read_bytes", read_bytes)
    clips.main(stage := stage_run.StageRun("clips", None, 1))
    assert stage.log["computed"] == 1 and described()[unreachable]["status"] == "ok"

    monkeypatch.setattr(RemoteFile, "read_bytes", fail)
    frames.main(stage_run.StageRun("frames", None, 1))
    index = shards.read_index(Path("data/frames")).to_pylist()
    assert [row["status"] for row in index].count("unreachable") == 1
    monkeypatch.setattr(RemoteFile, "read_bytes", read_bytes)
    frames.main(stage := stage_run.StageRun("frames", None, 1))
    assert stage.log["computed"] == 1


def test_a_network_that_is_gone_ends_the_stage_and_loses_nothing(at_url, monkeypatch):
    monkeypatch.setattr(workers, "GIVE_UP_AFTER", 3)
    last = 4  # files that are read before the network goes
    read_bytes = RemoteFile.read_bytes

    def fail(file: RemoteFile) -> bytes:
        nonlocal last
        if file.path.endswith(".mp4"):
            last -= 1
            if last < 0:
                raise remote.Unreachable(f"{file}: cannot be read (the network is down)")
        return read_bytes(file)

    monkeypatch.setattr(RemoteFile, "read_bytes", fail)
    with pytest.raises(UserError, match="3 files in a row gave no result.*the network is down"):
        clips.main(stage_run.StageRun("clips", None, 1))
    monkeypatch.setattr(RemoteFile, "read_bytes", read_bytes)
    clips.main(stage := stage_run.StageRun("clips", None, 1))
    assert stage.log["computed"] == 10 - 4


def test_a_file_too_large_to_be_held_is_refused(at_url, monkeypatch):
    monkeypatch.setattr(remote, "MAX_BYTES", 1000)
    found = discovery.find_clips(URL, {})
    taken = clips._refuse_unlisted(found)
    assert [clip["path"] for clip in taken] == ["training/clapping/text_1.mp4"]
    large = next(clip for clip in found if clip not in taken)
    assert large["status"] == "too_large" and "of a URL, files of at most" in large["reason"]


# What is no root


def test_roots_that_cannot_be_listed_are_sentences(store, monkeypatch):
    with pytest.raises(UserError, match="clips.root = 'memory://nowhere': nothing is there"):
        discovery.find_clips("memory://nowhere", {})
    with pytest.raises(UserError, match="'nonsense://x' is no URL that fsspec knows"):
        discovery.find_clips("nonsense://x", {})
    package = {"class": "not_installed.Files", "err": "Install not_installed to access Somewhere"}
    monkeypatch.setitem(known_implementations, "somewhere", package)
    with pytest.raises(UserError, match="Install not_installed to access Somewhere; `pip install`"):
        discovery.find_clips("somewhere://x", {})
    store.pipe_file("/bucket/clips/other/a_1.mp4", b"x")
    with pytest.raises(UserError, match="holds no clip below training/<action>/"):
        discovery.find_clips(URL, {})

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(type(store), "ls", forbidden)
    with pytest.raises(UserError, match=r"cannot be listed \(PermissionError: Access Denied\)"):
        discovery.find_clips(URL, {})


def test_a_listing_that_tells_no_change_is_no_root(store, monkeypatch):
    entry = {"name": "/bucket/clips/training", "type": "file", "size": 3}
    monkeypatch.setattr(type(store), "ls", lambda *_, **__: [entry])
    with pytest.raises(UserError, match="tells neither a version nor a time of its files"):
        discovery.find_clips(URL, {})


def test_a_file_url_is_its_folder(workspace, in_process, clip_set):
    assert discovery.is_sample(f"file://{workspace.folder}/data/sample")
    for root, computed in ((str(clip_set), 10), (f"file://{clip_set}", 0)):
        workspace.set(clips={"root": root, "max_failed_fraction": 0.3})
        clips.main(stage := stage_run.StageRun("clips", None, 1))
        assert stage.log["computed"] == computed
    frames.main(stage := stage_run.StageRun("frames", None, 1))
    assert stage.log["computed"] == 9


# Worker processes fetch


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server of a folder's files."""

    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Silent, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.slow
def test_decoding_processes_fetch_within_their_limits(clip_set):
    names = [f"training/clapping/t0{i}_1.mp4" for i in range(3)]
    with served(clip_set) as address:
        files = [RemoteFile(address, name) for name in [*names, "training/gone_1.mp4"]]
        *examined, gone = map_files(clips.examine, files, 2, address)
    assert examined == [clips.examine(clip_set / name) for name in names]
    assert isinstance(gone, Failure) and gone.kind == "unreachable"
    assert gone.reason.startswith(f"{address}/training/gone_1.mp4: cannot be read (")

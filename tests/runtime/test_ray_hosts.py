"""ENGINE=ray on two hosts, each with a network address and a folder of its own."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from audio_from_video.runtime.parallel import map_items
from tests.support.closure import ROOT
from tests.support.frames_on_hosts import frames_and_host
from tests.support.hosts import Host, NotPermitted, two_hosts
from tests.support.media_files import write_video

pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-ray.txt")
pytestmark = pytest.mark.slow  # a cluster takes seconds to start

PORT = 6379
WEB_PORT = 8000
START_S = 180.0  # that a busy machine may take for what takes seconds
RAY = str(Path(sys.executable).parent / "ray")
# `ray start` refuses whoever brings no token; docs/cluster.md has its commands.
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex}
OPTIONS = ("--num-cpus=1", "--num-gpus=0", f"--object-store-memory={80 * 2**20}", "--block")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder with a short path: Ray's sockets lie in it, whose paths may have 107 characters."""
    path = Path(tempfile.mkdtemp(prefix="hosts-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def clips(folder) -> list[str]:
    """The names of clips, in `shared`, which both hosts see, and in `private`, empty for one."""
    names = [f"{count}.mp4" for count in (72, 73, 74, 20)]
    for place in ("shared", "private"):
        (folder / place).mkdir()
        for name in names:
            write_video(folder / place / name, int(Path(name).stem))
    return names


@pytest.fixture(scope="module")
def hosts(folder, clips) -> Iterator[tuple[Host, Host]]:
    """Two hosts with a Ray node of one core each; the second one does not see `private`."""
    nodes: list[subprocess.Popen] = []
    try:
        with two_hosts() as (first, second):
            give_folders(folder, first, second)
            head = f"{first.address}:{PORT}"
            options = ("--head", f"--port={PORT}", f"--temp-dir={folder / 'ray'}")
            nodes.append(start(first, folder, *options))
            wait_for_head(first, head)
            nodes.append(start(second, folder, f"--address={head}"))
            yield first, second
    except NotPermitted as error:
        pytest.skip(f"network namespaces cannot be made here: {error}")
    finally:
        for node in nodes:
            node.wait()


def give_folders(folder: Path, first: Host, second: Host) -> None:
    """Give each host a folder of its own for Ray, and the second one an empty `private`."""
    (folder / "ray").mkdir()
    for host in (first, second):
        own = folder / host.name
        own.mkdir()
        host.folders[folder / "ray"] = own
    empty = folder / "empty"
    empty.mkdir()
    second.folders[folder / "private"] = empty


def start(host: Host, folder: Path, *options: str) -> subprocess.Popen:
    """Start a Ray node on a host; it ends with the host."""
    command = host.command(RAY, "start", f"--node-ip-address={host.address}", *OPTIONS, *options)
    environment = os.environ | TOKEN | {"RAY_USAGE_STATS_ENABLED": "0"}
    with open(folder / f"{host.name}.log", "wb") as log:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )


def wait_for_head(host: Host, address: str) -> None:
    """Wait until a cluster answers at an address."""
    deadline = time.monotonic() + START_S
    command = host.command(RAY, "health-check", "--address", address)
    environment = os.environ | TOKEN
    while subprocess.run(command, env=environment, capture_output=True).returncode:
        assert time.monotonic() < deadline, f"no Ray cluster at {address}"
        time.sleep(0.5)


def run(host: Host, root: str, folder: Path, clips: list[str]) -> list[tuple]:
    """Have both hosts make frames of clips; return what `frames_and_host` gave."""
    module = ("-m", "tests.support.frames_on_hosts")
    cluster = {"ENGINE": "ray", "RAY_ADDRESS": f"{host.address}:{PORT}"}
    environment = os.environ | TOKEN | cluster
    environment.pop("WORKERS", None)
    done = subprocess.run(
        host.command(sys.executable, *module, root, str(folder), *clips),
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [tuple(answer) for answer in json.loads(done.stdout.splitlines()[-1])]


def local_frames(folder: Path, clips: list[str], monkeypatch) -> dict[str, str]:
    """Return the digests of the clips' frames as ENGINE=local gives them."""
    monkeypatch.setenv("ENGINE", "local")
    tasks = [(str(folder), str(folder), name) for name in clips]
    return {name: frames for name, frames, _, _ in map_items(frames_and_host, tasks, 1)}


def test_two_hosts_give_the_bytes_of_one(hosts, folder, clips, monkeypatch):
    expected = local_frames(folder / "shared", clips, monkeypatch)
    answers = run(hosts[0], str(folder / "shared"), folder / "shared", clips)
    assert len(set(expected.values())) == len(clips)
    assert {(name, frames) for name, frames, _, _ in answers} == set(expected.items())
    assert {address for _, _, address, _ in answers} == {host.address for host in hosts}
    order = [name for name, *_ in answers]
    assert order == [clips[i % len(clips)] for i in range(len(answers))]


def test_a_host_that_does_not_see_the_clips_reads_them_from_a_url(
    hosts, folder, clips, monkeypatch
):
    expected = local_frames(folder / "private", clips, monkeypatch)
    server = ("-m", "http.server", str(WEB_PORT), "--bind", hosts[0].address)
    command = hosts[0].command(sys.executable, *server, "--directory", str(folder / "private"))
    web = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://{hosts[0].address}:{WEB_PORT}"
        answers = run(hosts[0], url, folder / "private", clips)
    finally:
        web.kill()
        web.wait()
    assert {(name, frames) for name, frames, _, _ in answers} == set(expected.items())
    seen = {(address, sees) for _, _, address, sees in answers}
    assert seen == {(hosts[0].address, True), (hosts[1].address, False)}

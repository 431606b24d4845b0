"""Kills, full and read-only disks, damage and two runs at once: the outputs end as those of an undisturbed run."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml

from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import shards
from benchmarks.kills import candidates, mended, processes, stage_of
from tests.support.closure import ROOT
from tests.support.privileges import drop_overrides
from tests.support.repository import Repository, hear_ctrl_c
from tests.support.shard_rows import SCHEMA, full_row
from tests.support.workspace import write_clip_set

STAGES = ("code", "clips", "frames", "optical_flow", "audio")
SENTENCE = "run the same command again; finished items are stored, and `git checkout metrics; dvc checkout` brings the earlier results back"


@pytest.fixture(scope="module")
def clip_set(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("set")
    write_clip_set(root, training=12, validation=4)
    return root


def small(folder: Path, clip_set: Path) -> Repository:
    """A repository of the stages up to sound, on a few clips."""
    repository = Repository(folder, workers=2)
    shutil.copytree(clip_set, folder / "data/sample")
    document = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    document["stages"] = {name: document["stages"][name] for name in STAGES}
    document["stages"]["clips"]["deps"].remove("data/sample")
    (folder / "dvc.yaml").write_text(yaml.safe_dump(document))
    return repository


def outputs(repository: Repository) -> dict[str, bytes]:
    return {
        path: data
        for path, data in repository.files().items()
        if path.startswith(("data/", "metrics/")) and "sample" not in path
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, clip_set) -> Repository:
    repository = small(tmp_path_factory.mktemp("undisturbed"), clip_set)
    repository.run("dvc", "repro")
    return repository


def wait_for(condition: Callable[[], object], seconds: float = 30):
    """The first true value of `condition`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen")


def running(
    repository: Repository, dvc: subprocess.Popen, stage: str, victim: str
) -> psutil.Process | None:
    """The victim, once that stage runs and has workers."""
    found = candidates(repository, dvc)
    return (
        found.get(victim)
        if "worker" in found and "stage" in found and stage_of(found["stage"]).startswith(stage)
        else None
    )


def test_three_kills_change_no_byte_and_leave_no_process(tmp_path, clip_set, undisturbed):
    repository = small(tmp_path, clip_set)
    for stage, victim in (("frames", "stage"), ("audio", "dvc"), ("optical_flow", "worker")):
        dvc = repository.start("dvc", "repro")
        wait_for(
            lambda dvc=dvc, stage=stage, victim=victim: running(repository, dvc, stage, victim)
        ).send_signal(signal.SIGKILL)
        assert (dvc.wait(60) == 0) == (victim == "worker")
        wait_for(
            lambda: not processes(repository)
        )  # the stage that a killed dvc leaves behind ends by itself
    repository.run("dvc", "repro")
    assert outputs(repository) == outputs(undisturbed)
    assert not list((repository.folder / "data").rglob("*.tmp"))


def test_dvcs_own_lock_that_a_kill_cut_off_is_deleted_by_hand(undisturbed):
    (undisturbed.folder / ".dvc/tmp/rwlock").write_text("")
    text = undisturbed.run("dvc", "repro", fails=True)
    assert (
        "Unable to read RWLock-file '.dvc/tmp/rwlock'. JSON structure is corrupted" in text
        and "Traceback" not in text
    )
    assert mended(undisturbed) and not mended(undisturbed)
    assert undisturbed.stages_run(undisturbed.run("dvc", "repro")) == ["clips"]


def test_two_runs_at_once_do_not_disturb_each_other(tmp_path, clip_set, undisturbed):
    repository = small(tmp_path, clip_set)

    def start():
        return subprocess.Popen(
            ["dvc", "repro"],
            cwd=tmp_path,
            env=repository.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    runs = [start(), start()]
    texts = [run.communicate(timeout=120)[0] for run in runs]
    codes = [run.returncode for run in runs]
    assert 0 in codes
    for code, text in zip(codes, texts, strict=True):
        assert code == 0 or "Unable to acquire lock" in text or "is busy" in text
        assert "Traceback" not in text
    repository.run("dvc", "repro")
    assert outputs(repository) == outputs(undisturbed)


def stage_command(name: str) -> list[str]:
    return [sys.executable, "-m", f"stages.{name}"]


def test_ctrl_c_ends_soon_with_a_sentence_and_without_orphans(tmp_path, clip_set):
    repository = small(tmp_path, clip_set)
    repository.run(*stage_command("clips"))
    process = subprocess.Popen(
        stage_command("frames"),
        cwd=tmp_path,
        env=repository.environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=hear_ctrl_c,
    )
    wait_for(lambda: "worker" in candidates(repository, process))
    start = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    _, text = process.communicate(timeout=20)
    assert time.monotonic() - start < 5 and process.returncode == 1
    assert (
        "frames: interrupted; finished items are stored: the same command goes on from there"
        in text
        and "Traceback" not in text
    )
    wait_for(lambda: not processes(repository), 5)


def test_ctrl_c_of_dvc_ends_it_and_its_stage(tmp_path, clip_set, undisturbed):
    repository = small(tmp_path, clip_set)
    dvc = repository.start("dvc", "repro")
    wait_for(lambda: running(repository, dvc, "frames", "worker"))
    start = time.monotonic()
    os.killpg(dvc.pid, signal.SIGINT)
    assert dvc.wait(20) != 0 and time.monotonic() - start < 10
    wait_for(lambda: not processes(repository), 5)
    repository.run("dvc", "repro")
    assert outputs(repository) == outputs(undisturbed)


# Disks


def mounted(folder: Path, size: str) -> bool:
    """Whether a small file system could be mounted there."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
    return os.geteuid() == 0 and subprocess.run(command, capture_output=True).returncode == 0


def failing(
    repository: Repository, stage: str, preparation: Callable[[], None] | None = None
) -> str:
    done = subprocess.run(
        stage_command(stage),
        cwd=repository.folder,
        env=repository.environment,
        capture_output=True,
        text=True,
        preexec_fn=preparation,
    )
    assert done.returncode == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize("place", ["data", ".items"])
def test_a_full_disk_is_a_sentence_and_the_run_goes_on_when_there_is_room(
    tmp_path, clip_set, undisturbed, place
):
    repository = small(tmp_path, clip_set)
    repository.run(*stage_command("clips"))
    full = tmp_path / place
    moved = full.rename(tmp_path / "moved")
    if not mounted(full, "32k" if place == "data" else "200k"):
        pytest.skip("no file system can be mounted here")
    try:
        if place == "data":
            shutil.copy(moved / "clips.parquet", full)
            (full / "sample").symlink_to(moved / "sample")
            document = yaml.safe_load((tmp_path / "params.yaml").read_text())
            document["clips"]["links"] = "all"
            (tmp_path / "params.yaml").write_text(yaml.safe_dump(document))
        text = failing(repository, "frames")
        assert (
            "frames: error: no space left (" in text
            and SENTENCE in text
            and "Traceback" not in text
        )
        assert place == ".items" or not (full / "frames").exists()
    finally:
        subprocess.run(["umount", full], check=True)
        full.rmdir()
    moved.rename(full)
    repository.run(*stage_command("frames"))
    assert (tmp_path / "data/frames" / shards.INDEX).read_bytes() == (
        undisturbed.folder / "data/frames" / shards.INDEX
    ).read_bytes()


def test_a_limit_on_files_is_the_same_sentence(tmp_path, clip_set):
    repository = small(tmp_path, clip_set)
    repository.run(*stage_command("clips"))
    text = failing(
        repository, "frames", lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
    )
    assert "frames: error: " in text and SENTENCE in text and "Traceback" not in text


def test_a_read_only_output_is_a_sentence(tmp_path, clip_set):
    repository = small(tmp_path, clip_set)
    repository.run(*stage_command("clips"))
    (tmp_path / "data").chmod(0o555)
    text = failing(repository, "frames", drop_overrides)
    (tmp_path / "data").chmod(0o755)
    assert (
        "frames: error: it may not be written (data/.frames.tmp): see to its permissions" in text
        and SENTENCE in text
    )


def test_earlier_results_come_back_after_a_failure(tmp_path, clip_set, undisturbed):
    repository = small(tmp_path, clip_set)
    repository.environment["ITEM_STORE"] = undisturbed.environment["ITEM_STORE"]
    repository.run("dvc", "repro")
    repository.run("git", "add", "-A")
    repository.run(
        "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "results"
    )
    before = outputs(repository)
    document = yaml.safe_load((tmp_path / "params.yaml").read_text())
    document["frames"]["fps"] = -6.0
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(document))
    assert "frames.fps = -6.0" in repository.run("dvc", "repro", fails=True)
    assert not (tmp_path / "data/frames").exists()  # DVC deletes outputs before a stage runs
    repository.run("git", "checkout", "-q", "params.yaml", "dvc.lock", "metrics")
    repository.run("dvc", "checkout", "--force")
    assert outputs(repository) == before


# Damage


def flip(path: Path, place: float, keep_times: bool) -> None:
    """Change one byte of a file, at a part of its length."""
    stat = path.stat()
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 0x55
    path.chmod(0o644)
    path.write_bytes(data)
    if keep_times:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_a_damaged_shard_is_made_anew_or_told(tmp_path, clip_set, undisturbed):
    """DVC notices a file that was written to; what it cannot know (a bad disk) the next reader notices."""
    repository = small(tmp_path, clip_set)
    repository.environment["ITEM_STORE"] = undisturbed.environment["ITEM_STORE"]
    repository.run("dvc", "repro")
    shard = next((tmp_path / "data/frames").rglob("part-*.parquet"))
    flip(shard, 0.4, keep_times=False)
    assert "Stage 'frames' is cached - skipping run, checking out outputs" in repository.run(
        "dvc", "repro"
    )
    assert outputs(repository) == outputs(undisturbed)
    flip(shard, 0.4, keep_times=True)
    repository.environment["ITEM_STORE"] = str(
        tmp_path / "empty"
    )  # so that optical flow has to read
    text = failing(repository, "optical_flow")
    assert (
        "is damaged" in text
        and "delete data/frames; `dvc repro` then brings it back or makes it anew" in text
    )
    shutil.rmtree(tmp_path / "data/frames")
    repository.run("dvc", "repro")
    assert outputs(repository) == outputs(undisturbed)


def test_a_damaged_item_store_is_told_and_computed_anew(tmp_path, clip_set, undisturbed):
    repository = small(tmp_path, clip_set)
    repository.run("dvc", "repro")
    (store,) = (tmp_path / ".items/frames").glob("*.sqlite")
    shutil.rmtree(tmp_path / "data/frames")
    store.write_bytes(b"no database" * 1000)
    text = repository.run(*stage_command("frames"))
    assert (
        "was damaged (file is not a database) and is set aside as" in text
        and "its items are computed anew" in text
    )
    assert repository.log("frames")["computed"] == 32
    flip(store, 0.5, keep_times=False)
    ends = subprocess.run(
        stage_command("frames"),
        cwd=tmp_path,
        env=repository.environment,
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in ends.stderr and ("damaged" in ends.stderr)
    repository.run(*stage_command("frames"))
    assert outputs(repository) == outputs(undisturbed)


def test_any_flipped_byte_of_a_shard_is_told_or_does_no_harm(tmp_path):
    rows = [full_row(f"a/s_{i:02d}", "training") for i in range(20)]
    shards.write(tmp_path / "out", SCHEMA, rows, rows, "v")
    (shard,) = (tmp_path / "out").rglob("part-*.parquet")
    good, whole = (
        shard.read_bytes(),
        repr(list(shards.iter_rows(tmp_path / "out", ["features", "jpegs", "level"]))),
    )
    draw, told = random.Random(0), 0
    for _ in range(300):
        flip(shard, draw.random(), keep_times=True)
        try:
            assert (
                repr(list(shards.iter_rows(tmp_path / "out", ["features", "jpegs", "level"])))
                == whole
            )
        except UserError as error:
            assert "is damaged" in str(error)
            told += 1
        shard.write_bytes(good)
    assert told > 200

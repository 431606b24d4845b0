"""Kills, full disks, damage and two runs at once: the outputs end as those of a quiet run."""

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

import pytest
import yaml

from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import shards
from tests.support.closure import ROOT
from tests.support.privileges import drop_overrides
from tests.support.processes import delete_broken_lock, processes, victims
from tests.support.repository import Repository, hear_ctrl_c
from tests.support.shard_rows import SCHEMA, full_row
from tests.support.workspace import write_clip_set

STAGES = ("code", "clips", "frames", "optical_flow", "audio")
SENTENCE = (
    "run the same command again; finished items are stored, "
    "and `git checkout metrics; dvc checkout` brings the earlier results back"
)
INTERRUPTED = "frames: interrupted; finished items are stored: the same command goes on from there"


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


def wait_for(condition: Callable[[], object], seconds: float = 600) -> None:
    """Wait until `condition` holds; the limit is for a machine that is far too busy."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def wait_until_held(process: subprocess.Popen, folder: Path) -> None:
    """Wait until a worker of the stage is held in its work (`Repository.hold`)."""

    def is_held() -> bool:
        assert process.poll() is None, "it ended before its stage was held"
        return any(folder.glob("*.*"))

    wait_for(is_held)


@pytest.mark.slow
def test_three_kills_change_no_byte_and_leave_no_process(tmp_path, clip_set, undisturbed):
    repository = small(tmp_path, clip_set)
    for stage, victim in (("frames", "stage"), ("audio", "dvc"), ("optical_flow", "worker")):
        with repository.hold(stage) as folder:
            dvc = repository.start("dvc", "repro")
            wait_until_held(dvc, folder)
            victims(repository, dvc)[victim].send_signal(signal.SIGKILL)
        assert (dvc.wait() == 0) == (victim == "worker")
        # The stage that a killed dvc leaves behind ends by itself.
        wait_for(lambda: not processes(repository))
    repository.run("dvc", "repro")
    assert outputs(repository) == outputs(undisturbed)
    assert not list((repository.folder / "data").rglob("*.tmp"))


@pytest.mark.slow
def test_dvcs_own_lock_that_a_kill_cut_off_is_deleted_by_hand(undisturbed):
    (undisturbed.folder / ".dvc/tmp/rwlock").write_text("")
    text = undisturbed.run("dvc", "repro", fails=True)
    assert "Unable to read RWLock-file '.dvc/tmp/rwlock'. JSON structure is corrupted" in text
    assert "Traceback" not in text
    assert delete_broken_lock(undisturbed)
    assert not delete_broken_lock(undisturbed)
    assert undisturbed.stages_run(undisturbed.run("dvc", "repro")) == ["clips"]


@pytest.mark.slow
def test_two_runs_at_once_do_not_disturb_each_other(tmp_path, clip_set, undisturbed):
    repository = small(tmp_path, clip_set)

    def start() -> subprocess.Popen:
        return subprocess.Popen(
            ["dvc", "repro"],
            cwd=tmp_path,
            env=repository.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    runs = [start(), start()]
    texts = [run.communicate()[0] for run in runs]
    codes = [run.returncode for run in runs]
    assert 0 in codes
    for code, text in zip(codes, texts, strict=True):
        assert code == 0 or "Unable to acquire lock" in text or "is busy" in text
        assert "Traceback" not in text
    repository.run("dvc", "repro")
    assert outputs(repository) == outputs(undisturbed)


def stage_command(name: str) -> list[str]:
    return [sys.executable, "-m", f"stages.{name}"]


@pytest.mark.slow
def test_ctrl_c_ends_with_a_sentence_and_without_orphans(tmp_path, clip_set):
    """It does not wait for the clips at work: they would never end, as their workers are held."""
    repository = small(tmp_path, clip_set)
    repository.run(*stage_command("clips"))
    with repository.hold("frames") as folder:
        process = subprocess.Popen(
            stage_command("frames"),
            cwd=tmp_path,
            env=repository.environment,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=hear_ctrl_c,
        )
        wait_until_held(process, folder)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
        _, text = process.communicate(timeout=600)
        wait_for(lambda: not processes(repository))
    assert process.returncode == 1
    assert INTERRUPTED in text
    assert "Traceback" not in text


@pytest.mark.slow
def test_ctrl_c_of_dvc_ends_it_and_its_stage(tmp_path, clip_set, undisturbed):
    repository = small(tmp_path, clip_set)
    with repository.hold("frames") as folder:
        dvc = repository.start("dvc", "repro")
        wait_until_held(dvc, folder)
        os.killpg(dvc.pid, signal.SIGINT)
        assert dvc.wait(600) != 0
        wait_for(lambda: not processes(repository))
    repository.run("dvc", "repro")
    assert outputs(repository) == outputs(undisturbed)


# Disks


def mounted(folder: Path, size: str) -> bool:
    """Whether a small file system could be mounted there."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
    return os.geteuid() == 0 and subprocess.run(command, capture_output=True).returncode == 0


def error_of(
    repository: Repository, stage: str, preparation: Callable[[], None] | None = None
) -> str:
    """Run a stage, which fails; return what it prints. `preparation` runs in its process first."""
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


@pytest.mark.slow
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
            repository.set("clips", links="all")
        text = error_of(repository, "frames")
        assert "frames: error: no space left (" in text
        assert SENTENCE in text
        assert "Traceback" not in text
        assert place == ".items" or not (full / "frames").exists()
    finally:
        subprocess.run(["umount", full], check=True)
        full.rmdir()
    moved.rename(full)
    repository.run(*stage_command("frames"))
    index = Path("data/frames", shards.INDEX)
    assert (tmp_path / index).read_bytes() == (undisturbed.folder / index).read_bytes()


@pytest.mark.slow
def test_a_limit_on_files_is_the_same_sentence(tmp_path, clip_set):
    repository = small(tmp_path, clip_set)
    repository.run(*stage_command("clips"))

    def limit_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    text = error_of(repository, "frames", limit_files)
    assert "frames: error: " in text
    assert SENTENCE in text
    assert "Traceback" not in text


@pytest.mark.slow
def test_a_read_only_output_is_a_sentence(tmp_path, clip_set):
    repository = small(tmp_path, clip_set)
    repository.run(*stage_command("clips"))
    (tmp_path / "data").chmod(0o555)
    text = error_of(repository, "frames", drop_overrides)
    (tmp_path / "data").chmod(0o755)
    assert "frames: error: it may not be written (data/.frames.tmp): see to its permissions" in text
    assert SENTENCE in text


@pytest.mark.slow
def test_earlier_results_come_back_after_a_failure(tmp_path, clip_set, undisturbed):
    repository = small(tmp_path, clip_set)
    repository.environment["ITEM_STORE"] = undisturbed.environment["ITEM_STORE"]
    repository.run("dvc", "repro")
    repository.commit("results")
    before = outputs(repository)
    repository.environment["ITEM_STORE"] = "/dev/null/items"
    assert "the item store's folder" in repository.run("dvc", "repro", fails=True)
    # DVC deletes outputs before a stage runs.
    assert not (tmp_path / "data/clips.parquet").exists()
    repository.run("git", "checkout", "-q", "dvc.lock", "metrics")
    repository.run("dvc", "checkout", "--force")
    assert outputs(repository) == before


# Damage


def flip(path: Path, place: float, keep_times: bool) -> None:
    """Change one byte of a file, at a part of its length; its other names keep their content."""
    stat = path.stat()
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 0x55
    path.unlink()
    path.write_bytes(data)
    if keep_times:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.slow
def test_a_damaged_shard_is_made_anew_or_told(tmp_path, clip_set, undisturbed):
    """DVC notices a file that was written to. A bad disk it cannot know; the next reader does."""
    repository = small(tmp_path, clip_set)
    repository.environment["ITEM_STORE"] = undisturbed.environment["ITEM_STORE"]
    repository.run("dvc", "repro")
    shard = next((tmp_path / "data/frames").rglob("part-*.parquet"))
    flip(shard, 0.4, keep_times=False)
    text = repository.run("dvc", "repro")
    assert "Stage 'frames' is cached - skipping run, checking out outputs" in text
    assert outputs(repository) == outputs(undisturbed)
    flip(shard, 0.4, keep_times=True)
    # With an empty store optical flow has to read.
    repository.environment["ITEM_STORE"] = str(tmp_path / "empty")
    text = error_of(repository, "optical_flow")
    assert "is damaged" in text
    assert "delete data/frames; `dvc repro` then brings it back or makes it anew" in text
    shutil.rmtree(tmp_path / "data/frames")
    repository.run("dvc", "repro")
    assert outputs(repository) == outputs(undisturbed)


@pytest.mark.slow
def test_a_damaged_item_store_is_told_and_computed_anew(tmp_path, clip_set, undisturbed):
    repository = small(tmp_path, clip_set)
    repository.run("dvc", "repro")
    facts, *_, other = sorted((tmp_path / ".items/frames").glob("*/*.facts"))
    facts.write_bytes(b"no facts" * 1000)
    text = repository.run(*stage_command("frames"))
    assert "1 files of the item store" in text
    assert "their items are computed anew" in text
    assert 0 < repository.log("frames")["computed"] < 32
    # A shard is hit, which is noticed while it is linked.
    flip(other.with_suffix(".parquet"), 0.5, keep_times=False)
    text = repository.run(*stage_command("frames"))
    assert "of the item store" in text
    assert 0 < repository.log("frames")["computed"] < 32
    assert outputs(repository) == outputs(undisturbed)


@pytest.mark.slow
def test_damage_that_an_output_shares_with_its_other_names_is_made_good(
    tmp_path, clip_set, undisturbed
):
    """With hard links, who writes into an output writes into DVC's cache and the item store."""
    repository = small(tmp_path, clip_set)
    repository.run("dvc", "repro")
    shard = next((tmp_path / "data/frames").rglob("part-*.parquet"))
    assert shard.stat().st_nlink == 3
    assert shard.stat().st_mode & 0o222 == 0
    shard.chmod(0o644)
    with open(shard, "r+b") as file:
        file.seek(shard.stat().st_size // 2)
        file.write(b"damage")
    text = repository.run("dvc", "repro")
    assert "are set aside" in text
    assert outputs(repository) == outputs(undisturbed)


@pytest.mark.slow
def test_parts_at_the_same_time_and_a_plain_run_equal_the_whole(tmp_path, clip_set, undisturbed):
    """As a SLURM array does it, one task after the other named by its environment."""
    repository = small(tmp_path, clip_set)
    repository.run("dvc", "repro", "clips")
    for stage in ("frames", "audio"):
        parts = []
        for task in ("1", "2"):
            array = {"ID": task, "MIN": "1", "COUNT": "2"}
            variables = {f"SLURM_ARRAY_TASK_{name}": value for name, value in array.items()}
            parts.append(
                subprocess.Popen(
                    [*stage_command(stage), "--part"],
                    cwd=tmp_path,
                    env=repository.environment | variables,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        for part in parts:
            text = part.communicate(timeout=120)[1]
            assert part.returncode == 0 and "a run without --part packs them" in text
        assert not (tmp_path / "data" / stage).exists()
        repository.run("dvc", "repro", stage)
        assert repository.log(stage)["computed"] == 0
    repository.run("dvc", "repro")
    assert outputs(repository) == outputs(undisturbed)


def test_any_flipped_byte_of_a_shard_is_told_or_does_no_harm(tmp_path):
    folder = tmp_path / "out"

    def contents() -> str:
        return repr(list(shards.iter_rows(folder, ["features", "jpegs", "level"])))

    rows = [full_row(f"a/s_{i:02d}", "training") for i in range(20)]
    shards.write(folder, SCHEMA, rows, rows, "v")
    (shard,) = folder.rglob("part-*.parquet")
    good = shard.read_bytes()
    whole = contents()
    draw = random.Random(0)
    errors = 0
    for _ in range(300):
        flip(shard, draw.random(), keep_times=True)
        try:
            assert contents() == whole
        except UserError as error:
            assert "is damaged" in str(error)
            errors += 1
        shard.write_bytes(good)
    assert errors > 200

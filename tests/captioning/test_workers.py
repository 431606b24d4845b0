"""Sound around a frame, and tasks on CPU and in batches of a device."""

import numpy as np
import pytest

from audio_from_video.backbones import hub
from audio_from_video.backbones.settings import CaptionerSettings
from audio_from_video.captioning import workers
from audio_from_video.captioning.workers import Setup, SoundWindows, Task
from audio_from_video.media import codecs
from audio_from_video.runtime import parallel
from audio_from_video.runtime.worker import Failure
from tests.support.map_items import without_processes
from tests.support.tiny_backbones import LABELS, images, write_ast, write_blip
from tests.support.tiny_captioners import write_smolvlm

RATE_HZ = 16_000
FAILED = Failure("timeout", "too slow")


def test_windows_lie_around_their_frames_and_fill_the_pass():
    wave = np.arange(3 * RATE_HZ, dtype=np.float32)
    times_s = np.array([0.1, 1.5, 2.9], np.float32)
    first, middle, last = workers.windows(wave, times_s, 1.0, RATE_HZ, 4.0)
    assert all(len(window) == 4 * RATE_HZ for window in (first, middle, last))
    assert (first[0], middle[0], last[0]) == (0, RATE_HZ, 2 * RATE_HZ)
    assert (middle.reshape(4, RATE_HZ) == middle[:RATE_HZ]).all()
    (short,) = workers.windows(wave[:100], np.array([1.0]), 1.0, RATE_HZ, 0.0625)
    assert (short == np.resize(wave[:100], 1000)).all()


@pytest.fixture(scope="module")
def setup(tmp_path_factory) -> Setup:
    folder = tmp_path_factory.mktemp("models")
    captioner = CaptionerSettings(str(write_blip(folder / "blip")), beams=1, max_tokens=10)
    ast = str(write_ast(folder / "ast"))
    return Setup(captioner, frames_per_batch=4, workers=1, ast=ast)


@pytest.fixture
def tasks() -> list[Task]:
    """Nine clips of one to four frames, with sound."""
    clips = []
    for i in range(9):
        steps = list(range(1 + i % 4))
        jpegs = [codecs.encode_jpeg(picture, 95) for picture in images(len(steps), 40, 56, i)]
        wave = (8000 * np.sin(np.arange(RATE_HZ) * (0.02 + 0.01 * i))).astype(np.int16)
        sound = SoundWindows(codecs.encode_flac(wave), np.arange(len(steps)) / 6, 0.5)
        clips.append(Task(steps, jpegs, sound=sound))
    return clips


def test_batches_of_a_device_give_the_clips_in_order(setup, tasks, in_process, monkeypatch):
    """The batching for a GPU, run on the CPU; then two clips fail."""
    monkeypatch.setenv("DEVICE", "cpu")
    alone = list(workers.results(workers.describe, tasks, setup))
    assert [row["steps"] for row in alone] == [task.steps for task in tasks]
    assert all(row["scores"].shape == (len(row["steps"]), LABELS) for row in alone)

    monkeypatch.setattr(hub, "device", lambda: "cpu:0")  # a device that is not "cpu"
    batched = list(workers.results(workers.describe, tasks, setup))
    for row, expected in zip(batched, alone, strict=True):
        assert row["captions"] == expected["captions"]
        assert np.allclose(row["scores"], expected["scores"], atol=1e-5)

    def failing(*arguments, **options):
        for i, result in enumerate(without_processes(*arguments, **options)):
            yield FAILED if i in (2, 8) else result

    monkeypatch.setattr(parallel, "map_items", failing)
    with_failures = list(workers.results(workers.describe, tasks, setup))
    for i, row in enumerate(with_failures):
        if i in (2, 8):
            assert row == FAILED
        else:
            assert row["captions"] == alone[i]["captions"]


def test_jobs_of_some_clips_on_cpu_give_what_each_clip_alone_gives(
    setup, tasks, in_process, monkeypatch
):
    """A job that fails is done again clip by clip: only the clip at fault is lost."""
    monkeypatch.setenv("DEVICE", "cpu")
    monkeypatch.setattr(workers, "CLIPS_PER_JOB", 1)
    alone = list(workers.results(workers.describe, tasks, setup))
    monkeypatch.setattr(workers, "CLIPS_PER_JOB", 4)
    monkeypatch.setattr(workers, "FRAMES_AT_ONCE", 3)
    together = list(workers.results(workers.describe, tasks, setup))
    for row, expected in zip(together, alone, strict=True):
        assert row["steps"] == expected["steps"] and row["captions"] == expected["captions"]
        assert np.array_equal(row["scores"], expected["scores"])
    assert len({text for row in alone for text in row["captions"]}) > 3

    def failing(function, jobs, *arguments, **options):
        for job in jobs:
            _, some = job
            at_fault = any(task is tasks[5] for task in some)
            yield FAILED if at_fault else workers.decode_and_compute(job)

    monkeypatch.setattr(parallel, "map_items", failing)
    with_failure = list(workers.results(workers.describe, tasks, setup))
    assert with_failure[5] == FAILED
    for i in (*range(5), *range(6, 9)):
        assert with_failure[i]["captions"] == alone[i]["captions"]


def test_stored_outputs_are_a_row_per_frame(setup, tasks, in_process, monkeypatch):
    monkeypatch.setenv("DEVICE", "cpu")
    outputs = list(workers.results(workers.encode_to_store, tasks, setup))
    assert [len(rows) for rows in outputs] == [len(task.steps) for task in tasks]
    assert all(rows.dtype == np.float16 for rows in outputs)


def test_frames_of_other_sizes_are_batches_of_their_own(tmp_path, in_process, monkeypatch):
    """A chat model has as many places for a picture as its shape asks for."""
    captioner = CaptionerSettings(str(write_smolvlm(tmp_path / "smolvlm")), beams=1, max_tokens=6)
    setup = Setup(captioner, frames_per_batch=100, workers=1)
    tasks = []
    for i, (height, width) in enumerate([(40, 56), (64, 16), (40, 56), (16, 64)]):
        pictures = images(2, height, width, seed=i)
        tasks.append(Task([0, 1], [codecs.encode_jpeg(picture, 95) for picture in pictures]))
    monkeypatch.setenv("DEVICE", "cpu")
    alone = [row["captions"] for row in workers.results(workers.describe, tasks, setup)]
    monkeypatch.setattr(hub, "device", lambda: "cpu:0")  # a device that is not "cpu"
    batched = [row["captions"] for row in workers.results(workers.describe, tasks, setup)]
    assert batched == alone
    assert len({text for texts in alone for text in texts}) > 4

"""Parts of a stage: named by hand or by SLURM's job array."""

import pytest

from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.parts import SLURM_ARRAY, Part


def test_a_part_by_hand():
    assert Part.parse("0/1") == Part(0, 1)
    assert Part.parse("3/12") == Part(3, 12)
    for wrong in ("1", "2/2", "-1/2", "0/0", "a/b", "1/2/3"):
        with pytest.raises(UserError, match="--part .*: give part I of N as I/N, from 0/N to"):
            Part.parse(wrong)


def array(monkeypatch, task: str, first: str, count: str) -> None:
    for name, value in (("ID", task), ("MIN", first), ("COUNT", count)):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)


def test_a_part_of_slurms_job_array(monkeypatch):
    for first in (0, 1):
        array(monkeypatch, str(first + 2), str(first), "4")
        assert Part.parse(SLURM_ARRAY) == Part(2, 4)
    array(monkeypatch, "6", "0", "4")
    with pytest.raises(UserError, match="must be without gaps, such as 0-3"):
        Part.parse(SLURM_ARRAY)
    monkeypatch.delenv("SLURM_ARRAY_TASK_COUNT")
    with pytest.raises(UserError, match="takes the part from SLURM's job array, and this is none"):
        Part.parse(SLURM_ARRAY)

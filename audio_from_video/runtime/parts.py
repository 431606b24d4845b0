"""Parts of a stage's clips, which several machines compute at the same time: `--part 1/4`."""

import os
import re
from dataclasses import dataclass

from audio_from_video.runtime.errors import UserError

SLURM_ARRAY = "slurm"  # stands for the part that SLURM's job array names


class PartDone(Exception):
    """The items of a part are stored: its run ends before the output is written."""


@dataclass(frozen=True)
class Part:
    """Every `count`-th clip, from number `number` on."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Return the part that "1/4" names, or for SLURM_ARRAY that of this task.

        Raises UserError where it is none.
        """
        if text == SLURM_ARRAY:
            return cls._of_slurm()
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if not match or int(match[1]) >= int(match[2]):
            raise UserError(f"--part {text}: give part I of N as I/N, from 0/N to N-1/N")
        return cls(int(match[1]), int(match[2]))

    @classmethod
    def _of_slurm(cls) -> "Part":
        try:
            task, first, count = (
                int(os.environ[f"SLURM_ARRAY_TASK_{name}"]) for name in ("ID", "MIN", "COUNT")
            )
        except (KeyError, ValueError):
            raise UserError(
                "--part without I/N takes the part from SLURM's job array, and this is none: "
                "give it, such as --part 0/4, or submit the job with --array=0-3"
            ) from None
        if task - first >= count:
            raise UserError(f"--part: SLURM's array must be without gaps, such as 0-{count - 1}")
        return cls(task - first, count)

"""Print what each stage of the last `dvc repro` took, and its share of the whole.

    python -m benchmarks.default_run [--save]

Run it after `dvc repro` of everything in a fresh clone with an empty item store (ITEM_STORE).
Seconds are those of the stages' logs; what is left of the time from the first stage's start to the
last one's end lies between stages: starts of Python, and DVC.  `--save` writes
benchmarks/default_run.json, from which a first run elsewhere foretells its end.
"""

import argparse
import json
import os
from pathlib import Path

from audio_from_video.reporting.provenance import processor_model
from audio_from_video.runtime import countdown
from audio_from_video.runtime.atomic import write_json
from audio_from_video.runtime.stage_run import LOGS


def seconds_by_stage(ran: list[str]) -> dict[str, float]:
    """Return the seconds of stages in the order in which they ran."""
    seconds = {}
    for name in ran:
        log = json.loads((LOGS / f"{name.replace('@', '/')}.json").read_text())
        seconds[name] = log["seconds"]
    return seconds


def end_of(name: str) -> float:
    """Return when a stage ended, in seconds since 1970: its log is the last file that it writes."""
    return (LOGS / f"{name.replace('@', '/')}.json").stat().st_mtime


def family_seconds(seconds: dict[str, float]) -> dict[str, float]:
    """Return the seconds of each kind of stage; `foreach` items count together."""
    families: dict[str, float] = {}
    for name, value in seconds.items():
        family = name.split("@")[0]
        families[family] = families.get(family, 0) + value
    return families


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    state = json.loads((LOGS / "run.json").read_text())
    seconds = seconds_by_stage(state["ran"])
    whole_s = end_of(state["ran"][-1]) - state["start"]
    families = family_seconds(seconds)
    families["between stages"] = whole_s - sum(seconds.values())

    print(f"{len(seconds)} stages in {whole_s:.0f} s on {os.cpu_count()} cores\n")
    print("| stage | seconds | share |\n| --- | --- | --- |")
    for family, value in sorted(families.items(), key=lambda pair: -pair[1]):
        print(f"| {family} | {value:.1f} | {100 * value / whole_s:.1f} % |")
    if arguments.save:
        machine = {"cores": os.cpu_count(), "processor": processor_model()}
        write_json(
            Path(countdown.KNOWN_SECONDS),
            {"machine": machine, "whole_s": whole_s, "seconds": seconds},
        )


if __name__ == "__main__":
    main()

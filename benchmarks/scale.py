"""Measure how time and memory grow with the number of clips; project what Moments in Time takes.

    python -m benchmarks.scale [--parts files tables evaluation ...] [--files 500 2000 ...]
                               [--copies 1 10 ...] [--rows 1000 ...] [--clips CLIPS]
                               [--stages STAGE ...] [--limit-s 240] [--run FOLDER]

    files        the stages that work clip by clip, on so many small files, then with 1 % more
    tables       stages after the features, on the outputs of a run (FOLDER, else this repository's)
                 with every clip so many times
    evaluation   the stages that judge and tell, on the outputs of a run as before
    training     the training loop on so many rows in a file
    real         the stages that decode, on a folder of real clips (CLIPS), for the timetable

It needs no network. Figures of a size that was measured before are replaced, the others stay, so
that the parts may be run one by one. They stand in docs/scale.json, with date and machine of each,
and the tables in docs/scale.md are written from them and from docs/gpu/gpu.json; without `--parts`
nothing is measured and only the tables are written.
"""

import argparse
import datetime
import json
import os
import platform
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np

from audio_from_video.runtime.atomic import write_json, write_text
from benchmarks.scale_parts import evaluation, files, real, tables, timetable, training
from benchmarks.scale_parts.measuring import ROOT, Measurement

MEASURED = ROOT / "docs/scale.json"
PAGE = ROOT / "docs/scale.md"
PARTS = ("files", "tables", "evaluation", "training", "real")


class Results:
    """The measurements of docs/scale.json, which are written as soon as there is another one."""

    def __init__(self, path: Path = MEASURED):
        self.path = path
        self.rows: list[dict] = []
        if path.is_file():
            self.rows = json.loads(path.read_text())["measurements"]

    def record(self, measurement: Measurement) -> None:
        """Put a measurement in the place of an earlier one of the same size, and print it.

        There is one folder of real clips: its size does not count.
        """
        key = ("part", "stage") if measurement.part == "real" else ("part", "stage", "clips")
        row = {
            **measurement.__dict__,
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        }
        self.rows = [old for old in self.rows if any(old[name] != row[name] for name in key)]
        self.rows.append(row)
        self.rows.sort(key=lambda old: (PARTS.index(old["part"]), old["stage"], old["clips"]))
        write_json(self.path, {"measurements": self.rows})
        print(f"{row['stage']}: {row['clips']} clips, {row['cpu_s']:.1f} s", flush=True)

    def by_stage(self, part: str) -> dict[str, list[dict]]:
        """Return the measurements of a part by stage, small sizes first."""
        found: dict[str, list[dict]] = {}
        for row in self.rows:
            if row["part"] == part:
                found.setdefault(row["stage"], []).append(row)
        return found


def exponent(rows: list[dict]) -> str:
    """Return the exponent by which time grows with the clips, of the two largest sizes."""
    if len(rows) < 2:
        return ""
    (first, second) = rows[-2:]
    growth = np.log(second["cpu_s"] / first["cpu_s"])
    return f"{growth / np.log(second['clips'] / first['clips']):.2f}"


def scale_table(results: Results, part: str) -> str:
    """Return a table of a part: a row per stage and size."""
    lines = [
        "| stage | clips | CPU s | CPU s per 1,000 | peak MiB | MiB per 1,000 | exponent |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for stage, rows in results.by_stage(part).items():
        if stage.endswith(files.INCREMENT):
            continue
        for row in rows:
            thousands = row["clips"] / 1000
            last = exponent(rows) if row is rows[-1] else ""
            lines.append(
                f"| {stage} | {row['clips']:,} | {row['cpu_s']:.1f} "
                f"| {row['cpu_s'] / thousands:.2f} | {row['memory_mib']:,} "
                f"| {row['memory_mib'] / thousands:.1f} | {last} |"
            )
    return "\n".join(lines)


def increment_table(results: Results) -> str:
    """Return a table of what 1 % more clips cost, against the first run of all."""
    measured = results.by_stage("files")
    lines = [
        "| stage | clips | first run, CPU s | 1 % more, CPU s | share |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    totals: dict[int, list[float]] = {}
    for stage in files.STAGES:
        more = {row["clips"]: row["cpu_s"] for row in measured.get(stage + files.INCREMENT, [])}
        for row in measured.get(stage, []):
            if row["clips"] in more:
                pair = [row["cpu_s"], more[row["clips"]]]
                lines.append(increment_line(stage, row["clips"], *pair))
                totals.setdefault(row["clips"], []).extend(pair)
    sums = {clips: (sum(values[::2]), sum(values[1::2])) for clips, values in totals.items()}
    for clips, (first_s, more_s) in sums.items():
        lines.append(increment_line("all of these", clips, first_s, more_s))
    # What is left without the start of stages and workers.
    for smaller, larger in pairwise(sums):
        if len(totals[smaller]) == len(totals[larger]):
            first_s, more_s = np.subtract(sums[larger], sums[smaller])
            name = f"of which beyond {smaller:,} clips"
            lines.append(increment_line(name, larger, first_s, more_s))
    return "\n".join(lines)


def increment_line(stage: str, clips: int, first_s: float, more_s: float) -> str:
    """Return a row of the table of increments."""
    return f"| {stage} | {clips:,} | {first_s:.1f} | {more_s:.1f} | {more_s / first_s:.1%} |"


def real_table(results: Results) -> str:
    """Return a table of what a real clip takes."""
    lines = [
        "| stage | clips | CPU ms per clip | KB per clip | peak MiB |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for stage, (row,) in results.by_stage("real").items():
        clips = row["clips"]
        milliseconds = 1000 * row["cpu_s"] / clips
        kilobytes = row["size_bytes"] / clips / 1000
        lines.append(
            f"| {stage} | {clips} | {milliseconds:.0f} | {kilobytes:.0f} | {row['memory_mib']} |"
        )
    return "\n".join(lines)


def source_line(results: Results) -> str:
    """Return when and where all was measured."""
    places = sorted({f"{row['date']} on {row['machine']}" for row in results.rows})
    return f"Measured by `python -m benchmarks.scale`: {'; '.join(places)}."


def write_between(text: str, name: str, content: str) -> str:
    """Return a page's text with other content between the marks of this name."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"docs/scale.md has no {begin} ... {end}")
    return f"{before}{begin}\n{content}\n{end}{after}"


def contents(results: Results) -> dict[str, str]:
    """Return what stands between the marks of docs/scale.md, by their names."""
    return {
        "source": source_line(results),
        "files": scale_table(results, "files"),
        "increments": increment_table(results),
        "tables": scale_table(results, "tables"),
        "evaluation": scale_table(results, "evaluation"),
        "training": scale_table(results, "training"),
        "real": real_table(results),
        "timetable": timetable.table(results.rows),
    }


def write_page(results: Results) -> None:
    """Write all tables into docs/scale.md."""
    text = PAGE.read_text()
    for name, content in contents(results).items():
        text = write_between(text, name, content)
    write_text(PAGE, text)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[])
    parser.add_argument("--files", nargs="+", type=int, default=[500, 2000, 20_000])
    parser.add_argument("--copies", nargs="+", type=int, default=[1, 10, 85])
    parser.add_argument("--rows", nargs="+", type=int, default=[1000, 1_000_000])
    parser.add_argument(
        "--stages", nargs="+", default=[], help="of `files`, `tables`, `evaluation`; default: all"
    )
    parser.add_argument(
        "--limit-s", type=float, default=240.0, help="per stage of `tables`, `evaluation`"
    )
    parser.add_argument("--clips", type=Path, help="folder of real clips, for `real`")
    parser.add_argument("--run", type=Path, default=ROOT, help="folder of a complete run")
    arguments = parser.parse_args()
    results = Results()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "files" in arguments.parts:
            files.measure(folder, arguments.files, arguments.stages, results.record)
        run = arguments.run.absolute()
        of_copies = (arguments.copies, arguments.stages, arguments.limit_s, results.record)
        if "tables" in arguments.parts:
            tables.measure(folder, run, *of_copies)
        if "evaluation" in arguments.parts:
            evaluation.measure(folder, run, *of_copies)
        if "training" in arguments.parts:
            training.measure(folder, arguments.rows, results.record)
        if "real" in arguments.parts:
            real.measure(folder, arguments.clips, results.record)
    write_page(results)


if __name__ == "__main__":
    main()

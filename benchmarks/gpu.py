"""Measure what a GPU makes of the stages, from stored JPEG or FLAC to written features.

    python -m benchmarks.gpu [--out DIR] [--parts vision audio ...] [--size tiny] [--device cpu]

It needs no network, no data and no trained model: ViT-base, AST-base and BLIP-base have random
weights, which changes no speed, and pictures and sounds are made up. Each part runs in a process of
its own with a time limit, so that one that fails leaves the others alone. A line is printed as soon
as something is measured. DIR gets `gpu.json` and `gpu.md`, a table.

    device     the largest rate of bf16 matrix products, to which shares refer, and of copies
    vision     ViT-base at 224 px, frames of 455 x 256 px
    audio      AST-base, 19 passes of 1,024 frames per clip of 3 s
    captions   BLIP-base at 384 px, 28 tokens a caption
    training   generator and classifier: 2 x 768 video features, hidden 512, 18 steps

Shares are those of the operations that the model's products need, counted from their shapes.
"""

import argparse
import datetime
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from audio_from_video.runtime.atomic import write_json

PARTS = ("device", "vision", "audio", "captions", "training")
TIME_LIMITS_S = {"device": 20, "vision": 70, "audio": 65, "captions": 45, "training": 40}
LIBRARIES = ("torch", "transformers", "numpy", "pyarrow")
JSON_NAME = "gpu.json"
TABLE_NAME = "gpu.md"


def run_part(name: str, arguments: argparse.Namespace, rows: Path) -> None:
    """Measure a part in this process."""
    # Imported here: the parent process starts the parts and needs none of it.
    from audio_from_video.runtime import parallel
    from audio_from_video.storage import item_store
    from benchmarks.gpu_parts.measuring import Setup, set_environment

    workers = parallel.default_workers()
    with tempfile.TemporaryDirectory() as folder:
        set_environment(arguments.device, workers, Path(folder))
        os.chdir(folder)
        # Versions name releases of libraries by pip's names, which differ between GPU images.
        item_store.version = lambda *_, **__: "benchmark"  # type: ignore[assignment]
        parallel.one_thread()
        tiny = arguments.size == "tiny"
        setup = Setup(tiny, arguments.device, workers, Path(folder), rows)
        part = importlib.import_module(f"benchmarks.gpu_parts.{name}")
        part.measure(setup)


def start_part(name: str, arguments: argparse.Namespace, rows: Path) -> str | None:
    """Measure a part in a process of its own; return what went wrong, if anything."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--part", name, "--rows", str(rows)]
    command += ["--size", arguments.size, "--device", arguments.device]
    print(f"-- {name}", flush=True)
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), *sys.path[1:]])}
    # The small size is for trying things, on machines of any speed.
    limit_s = TIME_LIMITS_S[name] if arguments.size == "base" else None
    try:
        code = subprocess.run(command, cwd=root, env=environment, timeout=limit_s).returncode
    except subprocess.TimeoutExpired:
        return f"stopped after {limit_s} s"
    return f"ended with exit code {code}" if code else None


def facts(device: str) -> dict[str, Any]:
    """Return date, device, processor cores and versions."""
    import torch

    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or "cpu"
    versions = {"python": platform.python_version()}
    for library in LIBRARIES:
        versions[library] = importlib.import_module(library).__version__
    return {
        "date": datetime.date.today().isoformat(),
        "device": name,
        "cores": len(os.sched_getaffinity(0)),
        "versions": versions,
    }


def with_shares(rows: list[dict]) -> list[dict]:
    """Return the measurements with their rate, and their share of the measured peak.

    Rows that failed stay as they are.
    """
    finished = [row for row in rows if "failed" not in row]
    products = [row for row in finished if row["part"] == "device" and row["flops"]]
    peak = max((row["flops"] * row["items"] / row["seconds"] for row in products), default=None)
    results = []
    for row in rows:
        if "failed" in row:
            results.append(row)
            continue
        rate = row["items"] / row["seconds"]
        share = row["flops"] * rate / peak if peak and row["flops"] else None
        results.append(row | {"rate": rate, "share_of_peak": share})
    return results


def table(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    lines = [
        f"Measured on {report['date']} by `python -m benchmarks.gpu`: {report['device']}, "
        f"{report['cores']} cores, {versions}.",
        "",
        "| part | what | rate | ms each | share of peak | device memory |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in report["measurements"]:
        if "failed" in row:
            lines.append(f"| {row['part']} | {row['what']} | failed: {row['failed']} | | | |")
            continue
        share = "" if row["share_of_peak"] is None else f"{100 * row['share_of_peak']:.1f} %"
        memory = f"{row['peak_memory_gib']:.1f} GiB" if row["peak_memory_gib"] else ""
        each_ms = 1000 / row["rate"]
        lines.append(
            f"| {row['part']} | {row['what']} | {row['rate']:,.1f} {row['unit']}/s "
            f"| {each_ms:.3g} | {share} | {memory} |"
        )
    for part, trouble in report["troubles"].items():
        lines += ["", f"The part {part} {trouble}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, help="folder for gpu.json and gpu.md")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--size", choices=("base", "tiny"), default="base")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        run_part(arguments.part, arguments, arguments.rows)
        return

    troubles = {}
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        rows.touch()
        for name in arguments.parts:
            trouble = start_part(name, arguments, rows)
            if trouble:
                troubles[name] = trouble
                print(f"the part {name} {trouble}", flush=True)
        measured = [json.loads(line) for line in rows.read_text().splitlines()]
    report = facts(arguments.device)
    report |= {"measurements": with_shares(measured), "troubles": troubles}
    print(table(report))
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        write_json(arguments.out / JSON_NAME, report)
        (arguments.out / TABLE_NAME).write_text(table(report))


if __name__ == "__main__":
    main()

"""Host time and bytes per clip of real video, stored at the size that full-size models see.

The folder of clips is in the layout that `clips.root` describes.
"""

from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.scale_parts.measuring import Folder, Measurement, Record

SIZE_PX = 256  # for models that see 224
# A stage and the output whose bytes are counted.
STAGES = {
    "clips": "",
    "frames": "data/frames",
    "optical_flow": "data/optical_flow",
    "representative_frames": "data/representative_frames",
    "audio": "data/audio",
}


def measure(folder: Path, root: Path, record: Record) -> None:
    """Measure the stages that decode and draw."""
    changes: dict[str, dict] = {
        "clips": {"root": str(root.absolute()), "max_failed_fraction": 1.0},
        "frames": {"size_px": SIZE_PX},
    }
    place = Folder(folder / "real", changes)
    for stage, output in STAGES.items():
        cpu_s, memory_mib = place.run(stage)
        clips = clip_count(place.path)
        size = sum(path.stat().st_size for path in (place.path / output).rglob("*.parquet"))
        size_bytes = size if output else 0
        record(Measurement("real", stage, clips, cpu_s, memory_mib, size_bytes))


def clip_count(folder: Path) -> int:
    """Return how many clips were found sound."""
    statuses = pq.read_table(folder / "data/clips.parquet")["status"].to_pylist()
    return statuses.count("ok")

"""What Moments in Time takes on machines with one H100 and 16 cores each, projected stage by stage.

Every figure is a measured one times a number of clips: from docs/gpu/gpu.json (one H200, which has
the same matrix units as an H100) or from docs/scale.json. Nothing is assumed to overlap, and a
stage of several machines is taken to be as many times as fast, but for trainings, which run on one.
"""

import json
from dataclasses import dataclass

import yaml

from benchmarks.scale_parts.measuring import ROOT, merge

CORES = 16
MACHINES = 8
DATA_SETS = {"20 actions": 60_000, "all 305": 1_000_000}  # clips
GPU = ROOT / "docs/gpu/gpu.json"
OVERLAYS = ("params/real.yaml", "params/moments_in_time.yaml")
# With published models: 18 steps of 768 numbers of 2 bytes, twice for video.
VIDEO_FEATURE_BYTES = 2 * 18 * 768 * 2
AUDIO_FEATURE_BYTES = 18 * (768 + 128) * 2 + (768 + 527) * 2
PATCHES_OF_A_CLIP = 18
IMAGES_OF_A_CLIP = 2 * PATCHES_OF_A_CLIP  # frames and flow
CAPTIONS_OF_A_CLIP = 5  # frames that move more than 1.2 times the mean of their clip


@dataclass(frozen=True)
class Cost:
    """What a stage takes per clip, and where that was measured.

    spreads: whether several machines share the work.
    """

    stage: str
    seconds: float
    size_bytes: float
    source: str
    spreads: bool = True


def table(rows: list[dict]) -> str:
    """Return the timetable; rows: of docs/scale.json."""
    columns = []
    for name in DATA_SETS:
        columns += [f"{name}, h", f"{name}, {MACHINES} machines, h", f"{name}, TB"]
    header = ["stage", "ms per clip", *columns, "projected from"]
    lines = [line(header), line(["---", *["---:"] * (len(header) - 2), "---"])]
    found = [*host_costs(rows), *gpu_costs(), *training_costs()]
    total = Cost(
        "all of these", sum(c.seconds for c in found), sum(c.size_bytes for c in found), "the sum"
    )
    shared_s = sum(cost.seconds for cost in found if cost.spreads)
    for cost in [*found, total]:
        cells = [cost.stage, f"{1000 * cost.seconds:.2f}"]
        for clips in DATA_SETS.values():
            spread_s = cost.seconds / MACHINES if cost.spreads else cost.seconds
            if cost is total:
                spread_s = shared_s / MACHINES + cost.seconds - shared_s
            cells += [
                f"{clips * cost.seconds / 3600:.1f}",
                f"{clips * spread_s / 3600:.1f}",
                f"{clips * cost.size_bytes / 1e12:.2f}",
            ]
        lines.append(line([*cells, cost.source]))
    return "\n".join(lines)


def line(cells: list[str]) -> str:
    """Return a row of a table."""
    return "| " + " | ".join(cells) + " |"


def host_costs(rows: list[dict]) -> list[Cost]:
    """Return the costs of the stages that decode and draw, on real clips."""
    costs = []
    for row in rows:
        if row["part"] == "real":
            seconds = row["cpu_s"] / row["clips"] / CORES
            source = f"scale.json: {row['clips']} real clips, {CORES} cores"
            costs.append(Cost(row["stage"], seconds, row["size_bytes"] / row["clips"], source))
    return costs


def gpu_costs() -> list[Cost]:
    """Return the costs of the stages with full-size models on a GPU."""
    images = rate("the stage video_features, JPEG in Parquet to written features")
    sounds = rate("the stage audio_features, FLAC in Parquet to written features")
    captions = rate("captions of the stage captions, JPEG in Parquet to written captions")
    return [
        Cost(
            "video_features, rgb and flow",
            IMAGES_OF_A_CLIP / images,
            VIDEO_FEATURE_BYTES,
            f"gpu.json: {images:,.0f} images/s",
        ),
        Cost("audio_features", 1 / sounds, AUDIO_FEATURE_BYTES, f"gpu.json: {sounds:,.1f} clips/s"),
        Cost(
            "captions, frozen",
            CAPTIONS_OF_A_CLIP / captions,
            0,
            f"gpu.json: {captions:,.0f} captions/s, {CAPTIONS_OF_A_CLIP} a clip",
        ),
    ]


def training_costs() -> list[Cost]:
    """Return the costs of the LSTMs' trainings, each with as many epochs as it may have at most."""
    p = yaml.safe_load((ROOT / "params.yaml").read_text())
    for overlay in OVERLAYS:
        merge(p, yaml.safe_load((ROOT / overlay).read_text()))
    generator, classifier = p["generator"], p["classifier"]
    conditions = [c for c in classifier["conditions"].values() if c["model"] == "lstm"]
    with_folds = sum(1 + condition.get("out_of_fold", 0) for condition in conditions)
    return [
        training_cost(
            "generator, both architectures",
            2 * generator["seeds"] * (1 + generator["folds"]),
            generator["lstm"]["epochs"],
            trainings_rate("generator", 32),
        ),
        training_cost(
            f"classifier, {len(conditions)} conditions with an LSTM",
            classifier["seeds"] * with_folds,
            classifier["lstm"]["epochs"],
            trainings_rate("classifier", 48),
        ),
    ]


def training_cost(name: str, trainings: int, epochs: int, clips_per_s: float) -> Cost:
    """Return the cost of so many trainings of so many epochs over all clips."""
    source = (
        f"gpu.json: {clips_per_s:,.0f} clips/s, {CORES} trainings at a time; "
        f"{trainings} trainings of {epochs} epochs at most"
    )
    return Cost(name, trainings * epochs / clips_per_s, 0, source, spreads=False)


def trainings_rate(kind: str, batch: int) -> float:
    """Return how many clips per s pass through the trainings on one GPU, a training per core.

    Each of them takes the time of the measured loop, until the device itself is what bounds them:
    it then makes what it makes of a CUDA graph, in which it never waits.
    """
    loop = rate(f"{kind}, the training loop, one seed, batches of {batch}")
    device = rate(f"{kind}, a step as CUDA graph, batches of {batch}")
    return min(CORES * loop, device)


def rate(what: str) -> float:
    """Return a measured rate of docs/gpu/gpu.json."""
    measurements = json.loads(GPU.read_text())["measurements"]
    return next(row["rate"] for row in measurements if row["what"] == what)

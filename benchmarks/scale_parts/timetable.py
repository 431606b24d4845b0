"""What Moments in Time takes on machines with one H100 and 16 cores each, projected stage by stage.

Every figure is a measured one times a number of clips: from docs/gpu/gpu.json (one H200, which has
the same matrix units as an H100) or from docs/scale.json. Nothing is assumed to overlap, and a
stage of several machines is taken to be as many times as fast, but for trainings, which run on one.
"""

import json
from dataclasses import dataclass

import yaml

from benchmarks.scale_parts.measuring import ROOT

CORES = 16
MACHINES = 8
DATA_SETS = {"20 actions": 60_000, "all 305": 1_000_000}  # clips
GPU = ROOT / "docs/gpu/gpu.json"
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
    """Return the costs of the LSTMs' trainings, each as long as it may last at most.

    So many trainings run at the same time as there are cores.
    """
    p = yaml.safe_load((ROOT / "params.yaml").read_text())
    overlay = yaml.safe_load((ROOT / "params/moments_in_time.yaml").read_text())
    seeds = overlay["generator"]["seeds"]
    folds = overlay["generator"]["folds"]
    epochs = p["generator"]["lstm"]["epochs"]
    speed = rate("generator, the training loop, one seed, batches of 32")
    generator_passes = 2 * seeds * (1 + folds) * epochs
    conditions = [c for c in p["classifier"]["conditions"].values() if c["model"] == "lstm"]
    trainings = sum(1 + condition.get("out_of_fold", 0) for condition in conditions)
    classifier_speed = rate("classifier, the training loop, one seed, batches of 48")
    classifier_epochs = p["classifier"]["lstm"]["epochs"]
    classifier_passes = trainings * overlay["classifier"]["seeds"] * classifier_epochs
    return [
        training_cost("generator, both architectures", generator_passes, speed),
        training_cost(
            f"classifier, {len(conditions)} conditions with an LSTM",
            classifier_passes,
            classifier_speed,
        ),
    ]


def training_cost(name: str, passes: int, clips_per_s: float) -> Cost:
    """Return the cost of passing so many times over all clips."""
    source = f"gpu.json: {clips_per_s:,.0f} clips/s a training, {CORES} at a time, {passes} epochs"
    return Cost(name, passes / clips_per_s / CORES, 0, source, spreads=False)


def rate(what: str) -> float:
    """Return a measured rate of docs/gpu/gpu.json."""
    measurements = json.loads(GPU.read_text())["measurements"]
    return next(row["rate"] for row in measurements if row["what"] == what)

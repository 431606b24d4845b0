"""How much slower are the stages than the bare work they are for?  Ratios measured in one run.

    python -m benchmarks.overhead [--clips-per-action 40] [--repeats 3]

    frames           the whole stage against decoding every frame of the same files with cv2.VideoCapture.read
    optical_flow     the whole stage against bare calcOpticalFlowFarneback calls on ready grey images
    video_features   the whole stage (item rgb) against the bare model on ready float tensors, a clip at a time

A stage's time is its log's `seconds`: workers' start, item store and Parquet included.  The bare work runs in the same
number of processes, through the same pool, its inputs made beforehand.  The best of the repeats counts, alternating.
Run it from the repository root, after `dvc repro`, on a quiet machine.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import yaml

from audio_from_video.media import codecs
from audio_from_video.runtime import parallel
from audio_from_video.runtime.parallel import default_workers, one_thread
from audio_from_video.storage import shards

_grey: np.ndarray  # these three: one per worker process
_model: Any
_tensors: np.ndarray


def decode_all(path: str) -> int:
    """Decode every frame of a file; their number."""
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
    frames = 0
    while capture.read()[0]:
        frames += 1
    return frames


def load_grey(path: str) -> None:
    one_thread()
    global _grey
    _grey = np.load(path, mmap_mode="r")


def farneback(clip: int) -> int:
    """All flows of one clip of ready grey images."""
    flow = yaml.safe_load(Path("params.yaml").read_text())["optical_flow"]
    knobs = [
        flow[key]
        for key in (
            "pyramid_scale",
            "levels",
            "window_px",
            "iterations",
            "polynomial_px",
            "polynomial_sigma",
        )
    ]
    images = np.asarray(_grey[clip])
    for first, second in zip(images, images[1:], strict=False):
        cv2.calcOpticalFlowFarneback(first, second, None, *knobs, 0)
    return len(images)


def load_model(path: str, tensors: str) -> None:
    one_thread()
    import torch
    from transformers import AutoModel

    global _model, _tensors
    _model, _tensors = AutoModel.from_pretrained(path).eval(), np.load(tensors, mmap_mode="r")
    torch.set_num_threads(1)


def infer(clip: int) -> int:
    """The plain model on one clip's ready tensors [T, 3, h, w]."""
    import torch

    with torch.inference_mode():
        return len(_model(torch.from_numpy(np.array(_tensors[clip]))).last_hidden_state)


def seconds(function, items, **options) -> float:
    start = time.perf_counter()
    for _ in parallel.map_items(function, items, **options):
        pass
    return time.perf_counter() - start


def run_stage(folder: Path, *arguments: str) -> float:
    """Run a stage with an empty item store; the seconds it logs."""
    with tempfile.TemporaryDirectory(dir=folder) as store:
        environment = os.environ | {"ITEM_STORE": store, "PYTHONPATH": str(Path.cwd())}
        command = [sys.executable, "-m", f"stages.{arguments[0]}", *arguments[1:]]
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return json.loads((folder / "logs" / ("/".join(arguments) + ".json")).read_text())["seconds"]


def prepare(folder: Path, clips_per_action: int) -> dict:
    """A folder in which stages run on some clips of the current root."""
    p = yaml.safe_load(Path("params.yaml").read_text())
    p["clips"] |= {
        "root": str(Path(p["clips"]["root"]).absolute()),
        "max_per_action": clips_per_action,
    }
    for section in ("video_features", "audio_features"):
        p[section]["model"] = (
            str(Path(p[section]["model"]).absolute())
            if Path(p[section]["model"]).is_dir()
            else p[section]["model"]
        )
    (folder / "params.yaml").write_text(yaml.safe_dump(p))
    for stage in (["clips"], ["frames"], ["optical_flow"]):
        run_stage(folder, *stage)
    return p


def ready_inputs(folder: Path, p: dict) -> int:
    """Write grey images and float tensors of the clips; the number of clips."""
    from audio_from_video.backbones.vision import VisionBackbone

    backbone = VisionBackbone(p["video_features"]["model"])
    grey, tensors = [], []
    for row in shards.iter_rows(folder / "data/frames", ["jpegs"]):
        images = [codecs.decode_jpeg(jpeg) for jpeg in row["jpegs"]]
        grey.append(np.stack([cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) for image in images]))
        tensors.append(backbone.resize(images).astype(np.float32) / 255)
    np.save(folder / "grey.npy", np.stack(grey))
    np.save(folder / "tensors.npy", np.stack(tensors))
    return len(grey)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--clips-per-action", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        p = prepare(folder, arguments.clips_per_action)
        clips = pq.read_table(folder / "data/clips.parquet").to_pylist()
        files = [
            str(Path(p["clips"]["root"]) / clip["path"]) for clip in clips if clip["status"] == "ok"
        ]
        count = ready_inputs(folder, p)
        model = p["video_features"]["model"]
        pairs = {
            "frames": (lambda: run_stage(folder, "frames"), lambda: seconds(decode_all, files)),
            "optical_flow": (
                lambda: run_stage(folder, "optical_flow"),
                lambda: seconds(
                    farneback,
                    range(count),
                    initializer=load_grey,
                    initargs=(str(folder / "grey.npy"),),
                ),
            ),
            "video_features": (
                lambda: run_stage(folder, "video_features", "rgb"),
                lambda: seconds(
                    infer,
                    range(count),
                    initializer=load_model,
                    initargs=(model, str(folder / "tensors.npy")),
                ),
            ),
        }
        print(f"{count} clips, {default_workers()} processes, best of {arguments.repeats}")
        for stage, (whole, bare) in pairs.items():
            times = [(whole(), bare()) for _ in range(arguments.repeats)]
            best, base = (min(column) for column in zip(*times, strict=True))
            print(f"{stage:16s} {best:7.2f} s   bare {base:7.2f} s   ratio {best / base:.2f}")


if __name__ == "__main__":
    main()

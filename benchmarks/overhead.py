"""Compare stages with the bare work that they are for: ratios measured in one run.

    python -m benchmarks.overhead [--clips-per-action 40] [--repeats 3]

    frames           the whole stage against decoding all frames with cv2.VideoCapture.read
    optical_flow     the whole stage against calcOpticalFlowFarneback on ready grey images
    video_features   the whole stage (item rgb) against the model on ready tensors, clip by clip

A stage's time is its log's `seconds`: the start of workers, item store and Parquet included. The
bare work runs in the same number of processes, through the same pool, its inputs made beforehand.
The best of the repeats counts; stage and bare work alternate. Run it from the repository root, on
a quiet machine.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import chdir
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import yaml

from audio_from_video.media import codecs
from audio_from_video.runtime import parallel
from audio_from_video.storage import layout, shards

FARNEBACK = (  # in the order of OpenCV's arguments
    "pyramid_scale",
    "levels",
    "window_px",
    "iterations",
    "polynomial_px",
    "polynomial_sigma",
)

# What a worker process loads once.
_grey: np.ndarray  # [clips, T, H, W] uint8
_model: Any
_tensors: np.ndarray  # [clips, T, 3, h, w] float32


def decode_all(path: str) -> int:
    """Decode every frame of a file; return how many there are."""
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
    frames = 0
    while capture.read()[0]:
        frames += 1
    return frames


def load_grey(path: str) -> None:
    """Load the grey images of all clips into this worker."""
    global _grey
    parallel.one_thread()
    _grey = np.load(path, mmap_mode="r")


def flows_of(clip_index: int) -> int:
    """Compute all flows of one clip; return the number of images."""
    flow = yaml.safe_load(Path("params.yaml").read_text())["optical_flow"]
    values = [flow[key] for key in FARNEBACK]
    images = np.asarray(_grey[clip_index])
    for first, second in zip(images[:-1], images[1:], strict=True):
        cv2.calcOpticalFlowFarneback(first, second, None, *values, 0)
    return len(images)


def load_model(path: str, tensors: str) -> None:
    """Load the model and the tensors of all clips into this worker."""
    # Imported here: only these workers need them, and they take seconds.
    import torch
    from transformers import AutoModel

    global _model, _tensors
    parallel.one_thread()
    _model = AutoModel.from_pretrained(path).eval()
    _tensors = np.load(tensors, mmap_mode="r")
    torch.set_num_threads(1)


def infer(clip_index: int) -> int:
    """Run the plain model on one clip; return the number of images."""
    import torch

    with torch.inference_mode():
        tensors = torch.from_numpy(np.array(_tensors[clip_index]))
        return len(_model(tensors).last_hidden_state)


def seconds(function: Callable, items: Iterable, **options) -> float:
    """Return how long `parallel.map_items` takes, the start of its workers included."""
    start = time.perf_counter()
    for _ in parallel.map_items(function, items, **options):
        pass
    return time.perf_counter() - start


def run_stage(folder: Path, *arguments: str) -> float:
    """Run a stage, and its item if any, with an empty item store; return the seconds it logs."""
    with tempfile.TemporaryDirectory(dir=folder) as store:
        environment = os.environ | {"ITEM_STORE": store, "PYTHONPATH": str(Path.cwd())}
        command = [sys.executable, "-m", f"stages.{arguments[0]}", *arguments[1:]]
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    log = folder / "logs" / ("/".join(arguments) + ".json")
    return json.loads(log.read_text())["seconds"]


def prepare(folder: Path, clips_per_action: int) -> dict:
    """Run the stages before those that are timed, on some clips; return the parameters."""
    p = yaml.safe_load(Path("params.yaml").read_text())
    p["clips"]["root"] = str(Path(p["clips"]["root"]).absolute())
    p["clips"]["max_per_action"] = clips_per_action
    for section in ("video_features", "audio_features"):
        model = Path(p[section]["model"])
        if model.is_dir():  # else it is a name on the hub
            p[section]["model"] = str(model.absolute())
    (folder / "params.yaml").write_text(yaml.safe_dump(p))
    for stage in ("clips", "frames", "optical_flow"):
        run_stage(folder, stage)
    return p


def write_inputs(folder: Path, model: str) -> int:
    """Write the clips' grey images and the model's tensors; return the number of clips."""
    from audio_from_video.backbones.vision import VisionBackbone

    backbone = VisionBackbone(model)
    grey = []
    tensors = []
    # Outputs are compared with the data set of the current folder.
    with chdir(folder):
        rows = list(shards.iter_rows(layout.FRAMES, ["jpegs"]))
    for row in rows:
        images = [codecs.decode_jpeg(jpeg) for jpeg in row["jpegs"]]
        grey.append(np.stack([cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) for image in images]))
        tensors.append(backbone.fit(np.stack(images)).numpy().astype(np.float32) / 255)
    np.save(folder / "grey.npy", np.stack(grey))
    np.save(folder / "tensors.npy", np.stack(tensors))
    return len(grey)


class Comparison:
    """The three stages and their bare work, each timed by a method that returns seconds."""

    def __init__(self, folder: Path, clips_per_action: int):
        self.folder = folder
        p = prepare(folder, clips_per_action)
        root = Path(p["clips"]["root"])
        clips = pq.read_table(folder / "data/clips.parquet").to_pylist()
        self.files = [str(root / clip["path"]) for clip in clips if clip["status"] == "ok"]
        self.model = p["video_features"]["model"]
        self.clips = write_inputs(folder, self.model)

    def decoding(self) -> float:
        return seconds(decode_all, self.files)

    def flow(self) -> float:
        grey = str(self.folder / "grey.npy")
        return seconds(flows_of, range(self.clips), initializer=load_grey, initargs=(grey,))

    def inference(self) -> float:
        inputs = (self.model, str(self.folder / "tensors.npy"))
        return seconds(infer, range(self.clips), initializer=load_model, initargs=inputs)

    def ratio(self, stage: str, bare_work: Callable[[], float], repeats: int) -> str:
        """Return a line with the best times of a stage and of its bare work."""
        stage_s = []
        bare_s = []
        for _ in range(repeats):
            stage_s.append(run_stage(self.folder, *stage.split()))
            bare_s.append(bare_work())
        best_s = min(stage_s)
        best_bare_s = min(bare_s)
        name = stage.split()[0]
        ratio = best_s / best_bare_s
        return f"{name:16s} {best_s:7.2f} s   bare {best_bare_s:7.2f} s   ratio {ratio:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--clips-per-action", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    repeats = arguments.repeats
    with tempfile.TemporaryDirectory() as name:
        comparison = Comparison(Path(name), arguments.clips_per_action)
        processes = parallel.default_workers()
        print(f"{comparison.clips} clips, {processes} processes, best of {repeats}")
        print(comparison.ratio("frames", comparison.decoding, repeats))
        print(comparison.ratio("optical_flow", comparison.flow, repeats))
        print(comparison.ratio("video_features rgb", comparison.inference, repeats))


if __name__ == "__main__":
    main()

"""Compare stages with the bare work that they are for: ratios measured in one run.

    python -m benchmarks.overhead [--clips-per-action 40] [--repeats 3]

    frames           the whole stage against decoding all frames with cv2.VideoCapture.read
    optical_flow     the whole stage against calcOpticalFlowFarneback on ready grey images
    video_features   the whole stage (item rgb) against the model on ready tensors, clip by clip

Times are those of the processors of all processes: the start of Python, of workers and libraries,
item store and Parquet included.  The bare work runs in the same number of processes, through the
same pool, its inputs made beforehand.  The best of the repeats counts; stage and bare work
alternate.  It prints a table.  Run it from the repository root.
"""

import argparse
import shutil
import tempfile
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
from benchmarks.scale_parts.measuring import ROOT, Folder, processor_time_s

GREY = "grey.npy"
TENSORS = "tensors.npy"
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


def run_all(function: Callable, items: Iterable, **options) -> None:
    """Compute `function` of all items in workers."""
    for _ in parallel.map_items(function, items, **options):
        pass


def decode_files() -> None:
    """Do the bare work of `frames` for the clips of this folder."""
    root = Path(yaml.safe_load(Path("params.yaml").read_text())["clips"]["root"])
    clips = pq.read_table(layout.CLIPS).to_pylist()
    run_all(decode_all, [str(root / clip["path"]) for clip in clips if clip["status"] == "ok"])


def compute_flow() -> None:
    """Do the bare work of `optical_flow` for the clips of this folder."""
    clips = len(np.load(GREY, mmap_mode="r"))
    run_all(flows_of, range(clips), initializer=load_grey, initargs=(GREY,))


def encode_pictures() -> None:
    """Do the bare work of `video_features` for the clips of this folder."""
    model = yaml.safe_load(Path("params.yaml").read_text())["video_features"]["model"]
    clips = len(np.load(TENSORS, mmap_mode="r"))
    run_all(infer, range(clips), initializer=load_model, initargs=(model, TENSORS))


BARE_WORK = {
    "frames": decode_files,
    "optical_flow": compute_flow,
    "video_features rgb": encode_pictures,
}


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
    np.save(folder / GREY, np.stack(grey))
    np.save(folder / TENSORS, np.stack(tensors))
    return len(grey)


def compare(folder: Path, clips_per_action: int, repeats: int) -> None:
    """Time the stages and their bare work in turn, and print a table."""
    p = yaml.safe_load(Path("params.yaml").read_text())
    root = str(Path(p["clips"]["root"]).absolute())
    place = Folder(folder, {"clips": {"root": root, "max_per_action": clips_per_action}})
    for stage in ("clips", "frames", "optical_flow"):
        place.run(stage)
    clips = write_inputs(folder, str(ROOT / p["video_features"]["model"]))

    print(f"{clips} clips, {parallel.default_workers()} processes, best of {repeats}\n")
    print("| stage | CPU ms per clip | bare work | ratio |")
    print("| --- | ---: | ---: | ---: |")
    for stage in BARE_WORK:
        stage_s = []
        bare_s = []
        for _ in range(repeats):
            shutil.rmtree(folder / "items")
            stage_s.append(place.run(*stage.split())[0])
            bare_s.append(processor_time_s("benchmarks.overhead", "--bare", stage, folder=folder))
        best_s, best_bare_s = min(stage_s), min(bare_s)
        ratio = best_s / best_bare_s
        cells = f"{1000 * best_s / clips:.1f} | {1000 * best_bare_s / clips:.1f} | {ratio:.2f}"
        print(f"| {stage} | {cells} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--clips-per-action", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--bare", choices=BARE_WORK, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        BARE_WORK[arguments.bare]()
        return
    with tempfile.TemporaryDirectory() as name:
        compare(Path(name), arguments.clips_per_action, arguments.repeats)


if __name__ == "__main__":
    main()

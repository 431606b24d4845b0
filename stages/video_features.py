"""Encode RGB frames or flow images with a pretrained vision model.

Reads    data/frames (item rgb) or data/optical_flow (item flow)
Writes   data/video_features/<item>, a row per clip:
             features   tensor float16 [count, D]   mean of the patch outputs of each frame; D = 768 for ViT-base
ViT: Dosovitskiy et al. 2021.  Tokens -> encoder -> patch outputs: see common/backbones.py.
"""

from collections.abc import Iterator
from itertools import chain
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from audio_from_video.backbones.hub import device, revision, width_of
from audio_from_video.backbones.vision import VisionBackbone
from audio_from_video.media import codecs
from audio_from_video.runtime import parallel, params, stage_run
from audio_from_video.runtime.parallel import one_thread
from audio_from_video.runtime.worker import Failure
from audio_from_video.storage import accounting, item_store, layout, shards
from audio_from_video.storage.clip_items import ClipItems

CODE_VERSION = 1  # of `decode` and VisionBackbone; raise it when the output for the same input and parameters changes
LIBRARIES = ("numpy", "opencv-contrib-python-headless", "torch", "transformers")
INPUTS = {"rgb": layout.FRAMES, "flow": layout.OPTICAL_FLOW}


class VideoFeaturesParams(params.Section):
    model: str
    attention: Literal["frame", "joint"]
    temporal_scale: float = Field(ge=0, le=1)
    clips_per_batch: int = Field(ge=1, le=1024)


_backbone: VisionBackbone  # one per worker process


def load_backbone(p: VideoFeaturesParams) -> None:
    global _backbone
    one_thread()
    _backbone = VisionBackbone(p.model, p.attention, p.temporal_scale)


def decode(jpegs: list[bytes]) -> np.ndarray:
    """One clip's JPEGs as the model's input [T, 3, h, w] uint8."""
    return _backbone.resize([codecs.decode_jpeg(jpeg) for jpeg in jpegs])


def encode_clip(jpegs: list[bytes]) -> dict:
    """One clip's features (runs in a worker)."""
    return _row(_backbone.encode(decode(jpegs)[None])[0])


def _row(features: np.ndarray) -> dict:
    return {"features": features, "status": "ok", "reason": ""}


def encode_on_cpu(
    clips: Iterator[list[bytes]], p: VideoFeaturesParams, workers: int
) -> Iterator[dict | Failure]:
    """A clip at a time in each worker: the composition of a batch, and so every bit, does not depend on the others."""
    return parallel.map_items(encode_clip, clips, workers, initializer=load_backbone, initargs=(p,))


def encode_on_gpu(
    clips: Iterator[list[bytes]], p: VideoFeaturesParams, workers: int
) -> Iterator[dict | Failure]:
    """Workers decode and resize while the device computes batches of `video_features.clips_per_batch` clips."""
    if (first := next(clips, None)) is None:  # all clips are stored: nothing to load a model for
        return
    load_backbone(p)
    batch: list[np.ndarray | Failure] = []

    def flush() -> Iterator[dict | Failure]:
        good = [clip for clip in batch if not isinstance(clip, Failure)]
        encoded = iter(_backbone.encode(np.stack(good)) if good else [])
        yield from (clip if isinstance(clip, Failure) else _row(next(encoded)) for clip in batch)
        batch.clear()

    for clip in parallel.map_items(
        decode, chain([first], clips), workers, initializer=load_on_cpu, initargs=(p,)
    ):
        batch.append(clip)
        if len(batch) == p.clips_per_batch:
            yield from flush()
    yield from flush()


def load_on_cpu(p: VideoFeaturesParams) -> None:
    """For workers that only decode and resize: they must not take the device's memory."""
    import os

    os.environ["DEVICE"] = "cpu"
    load_backbone(p)


def main(stage: stage_run.StageRun) -> None:
    p = params.load("video_features", VideoFeaturesParams)
    source = INPUTS[stage.item]
    clips = shards.inputs(source)
    knobs = p.model_dump(exclude={"model", "clips_per_batch"})
    version = item_store.version(
        "video_features", CODE_VERSION, revision(p.model), knobs, libraries=LIBRARIES
    )
    encode = encode_on_cpu if device() == "cpu" else encode_on_gpu
    steps, width = params.read("frames", "count", int), width_of(p.model)
    columns = pa.schema([("features", shards.tensor(pa.float16(), steps, width))])
    with ClipItems(f"video_features_{stage.item}", version, columns) as items:
        rows = shards.iter_rows(source, ["jpegs"])
        images = ((row["clip_id"], row["jpegs"]) for row in rows)
        items.fill(stage, clips, images, lambda todo: encode(todo, p, stage.workers))
        index = items.pack(layout.DATA / "video_features" / stage.item, clips)
    stage.write_metrics(
        {"clips": accounting.status_counts(index), "shape": {"steps": steps, "width": width}}
    )


if __name__ == "__main__":
    stage_run.main(main, __doc__, "video_features", "modality", lambda: INPUTS)

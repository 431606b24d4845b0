"""Encode RGB frames or flow images with a pretrained vision model.

Reads    data/frames (item rgb) or data/optical_flow (item flow); with `optical_flow.store:
         thumbnails`, item flow draws the images of data/frames itself, the same ones
Writes   data/video_features/<item>, a row per clip:
             features   tensor float16 [count, D]   mean of the patch outputs of each frame;
                                                    D = 768 for ViT-base
ViT: Dosovitskiy et al. 2021.  How models of pictures and of clips come to a vector per frame: see
audio_from_video/backbones/image_models.py and clip_models.py.
"""

import json
from collections.abc import Callable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from audio_from_video.backbones import hub
from audio_from_video.backbones.batches import Copies, results_of_device
from audio_from_video.backbones.settings import VideoFeaturesParams
from audio_from_video.backbones.vision import VisionBackbone
from audio_from_video.media import codecs
from audio_from_video.media.optical_flow import draw_clip
from audio_from_video.media.settings import FlowParams, OpticalFlowParams
from audio_from_video.runtime import parallel, params, stage_run
from audio_from_video.runtime.parallel import one_thread
from audio_from_video.runtime.worker import Failure
from audio_from_video.storage import accounting, item_store, layout, shards
from audio_from_video.storage.clip_items import ClipItems

if TYPE_CHECKING:
    import torch

# Of `decode` and VisionBackbone; raise it when the output for the same input and parameters
# changes.
CODE_VERSION = 2
LIBRARIES = ("numpy", "opencv-contrib-python-headless", "torch", "transformers")
INPUTS = {"rgb": layout.FRAMES, "flow": layout.OPTICAL_FLOW}
OUTPUTS = {"rgb": layout.RGB_FEATURES, "flow": layout.FLOW_FEATURES}


# Of this process; `load_backbone` sets both, as a worker's initializer.
_backbone: VisionBackbone
_flow: FlowParams | None


def load_backbone(p: VideoFeaturesParams, flow: FlowParams | None = None) -> None:
    """Load the model of this process onto its device.

    flow: how flow is drawn, where the pictures are to be flow images of those that are read.
    """
    global _backbone, _flow
    one_thread()
    _backbone = VisionBackbone(p.model, p.attention, p.temporal_scale)
    _flow = flow


def flow_to_draw(item: str) -> FlowParams | None:
    """Return how this stage is to draw flow; None where all its pictures are stored."""
    if item != "flow":
        return None
    settings = params.load("optical_flow", OpticalFlowParams)
    if settings.store == "full":
        return None
    flow = settings.drawing()
    if flow.full_scale_px == "auto":
        metrics = json.loads(layout.metrics("optical_flow").read_text())
        return flow.with_scale(metrics["full_scale_px"])
    return flow


def decode(jpegs: list[bytes]) -> list[np.ndarray]:
    """Return one clip's JPEGs, or the flow between them, as T BGR images [H, W, 3] uint8."""
    if _flow is not None:
        # By way of JPEG, as stored flow images have it: the features are the same.
        jpegs = draw_clip((jpegs, _flow))["jpegs"]
    return [codecs.decode_jpeg(jpeg) for jpeg in jpegs]


def encode_clip(jpegs: list[bytes]) -> dict:
    """Return one clip's row, with features [T, D] (runs in a worker)."""
    # Not stacked as a batch is: another memory layout could change the last bits.
    fitted = _backbone.fit(np.stack(decode(jpegs)))
    return _row(_backbone.encode(fitted[None])[0])


def start_batch(clips: list["torch.Tensor"], copies: Copies) -> Callable[[], list[dict]]:
    """Have the device encode clips [T, H, W, 3]; it takes those of equal size together.

    Return a function that waits for their rows.
    """
    by_shape: dict[tuple, list[int]] = {}
    for i, clip in enumerate(clips):
        by_shape.setdefault(clip.shape, []).append(i)
    under_way = []
    for positions in by_shape.values():
        images = copies.to_device([clips[i] for i in positions])  # [B, T, H, W, 3]
        fitted = _backbone.fit(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        under_way.append((positions, copies.to_host(_backbone.vectors(fitted))))

    def rows() -> list[dict]:
        found: list[dict] = [{}] * len(clips)
        for positions, wait in under_way:
            for i, features in zip(positions, wait(), strict=True):
                found[i] = _row(features)
        return found

    return rows


def _row(features: np.ndarray) -> dict:
    return {"features": features, "status": "ok", "reason": ""}


def encode_in_workers(
    clips: Iterator[list[bytes]],
    p: VideoFeaturesParams,
    workers: int,
    flow: FlowParams | None = None,
) -> Iterator[dict | Failure]:
    """Yield the rows of clips, of which each worker takes one at a time.

    A batch would be composed of other clips, and every bit would depend on them.
    """
    return parallel.map_items(
        encode_clip, clips, workers, initializer=load_backbone, initargs=(p, flow), gpu=True
    )


def encode_on_gpu(
    clips: Iterator[list[bytes]],
    p: VideoFeaturesParams,
    workers: int,
    flow: FlowParams | None = None,
) -> Iterator[dict | Failure]:
    """Yield the rows of clips: threads decode while the device resizes and encodes batches.

    Threads, because a decoded clip of 256 px has 6 MB, which processes would have to send.
    """
    first = next(clips, None)
    if first is None:  # all clips are stored: nothing to load a model for
        return
    load_backbone(p, flow)
    copies = Copies(_backbone.device)
    yield from results_of_device(
        chain([first], clips),
        prepare=lambda jpegs: copies.host_tensor(decode(jpegs)),
        start=lambda batch: start_batch(batch, copies),
        batch_size=p.clips_per_batch,
        threads=workers,
    )


def main(stage: stage_run.StageRun) -> None:
    parallel.preload("stages.video_features", hub.PRELOADED)
    p = params.load("video_features", VideoFeaturesParams)
    clips = shards.inputs(INPUTS[stage.item])
    flow = flow_to_draw(stage.item)
    pictures = layout.FRAMES if flow else INPUTS[stage.item]
    knobs = p.model_dump(exclude={"model", "clips_per_batch"})
    version = item_store.version(
        "video_features", CODE_VERSION, hub.revision(p.model), knobs, libraries=LIBRARIES
    )
    steps = params.read("frames", "count", int)
    width = hub.width_of(p.model)
    columns = pa.schema([("features", shards.tensor(pa.float16(), steps, width))])
    in_workers = hub.device() == "cpu" or parallel.workers_have_gpus()
    encode_all = encode_in_workers if in_workers else encode_on_gpu

    def compute(images: Iterator[list[bytes]]) -> Iterator[dict | Failure]:
        return encode_all(images, p, stage.workers, flow)

    with ClipItems(f"video_features_{stage.item}", version, columns) as items:
        rows = shards.iter_rows(pictures, ["jpegs"], clip_ids=items.missing(clips))
        images = ((row["clip_id"], row["jpegs"]) for row in rows)
        items.fill(stage, clips, images, compute)
        index = items.pack(OUTPUTS[stage.item], clips)
    stage.write_metrics(
        {"clips": accounting.status_counts(index), "shape": {"steps": steps, "width": width}}
    )


if __name__ == "__main__":
    stage_run.main(main, __doc__, "video_features", "modality", lambda: INPUTS, in_parts=True)

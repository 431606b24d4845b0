"""Encode the sound of each audible clip with AST and project it to 128 dimensions by PCA.

Reads    data/audio
Writes   data/audio_features, a row per audible clip:
             features      tensor float16 [count, components]   PCA projection of `patches`: what generators predict
             patches       tensor float16 [count, D]      mean patch outputs of AST per time step; D = 768 for AST-base
             pooled        tensor float16 [D]             what AST's classification head reads, whole clip
             label_scores  tensor float16 [527]           AST's sigmoid scores of the AudioSet labels, whole clip
         models/audio_projection.safetensors: mean [D], components [components, D] of the PCA, fitted on training clips
AST: Gong et al. 2021.  `segments` decides what a time step is:
    pooled      one pass over the clip; patches are averaged into the steps by how long they overlap with them
    windows     one pass per step over `window_s` around it
    eighteenth  one pass per step over just its 1/count of the clip (2,666 samples: 15 spectrogram frames, less than the
                16 of one patch, so that its single patch sees one frame of padding)
Only time patches that see real sound count: padding to AST's 1,024 frames would fill 72 of 101 patches of a 3 s clip.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from audio_from_video.backbones.audio import AudioBackbone
from audio_from_video.backbones.hub import label_count_of, revision, width_of
from audio_from_video.media import codecs
from audio_from_video.runtime import parallel, params, stage_run
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.parallel import one_thread
from audio_from_video.storage import accounting, item_store, layout, shards
from audio_from_video.storage.clip_items import ClipItems

CODE_VERSION = (
    1  # of `encode_clip` and AudioBackbone; raise it when the output for the same input changes
)
LIBRARIES = ("numpy", "soundfile", "torch", "transformers")
SOURCE = layout.AUDIO


class AudioFeaturesParams(params.Section):
    model: str
    segments: Literal["pooled", "windows", "eighteenth"]
    window_s: float = Field(gt=0, le=10)
    components: int = Field(ge=1, le=1024)


_backbone: AudioBackbone  # one per worker process


def load_backbone(model: str) -> None:
    global _backbone
    one_thread()
    _backbone = AudioBackbone(model)


def encode_clip(task: tuple[bytes, int, AudioFeaturesParams]) -> dict:
    """patches, pooled and label_scores of one clip (runs in a worker)."""
    flac, count, p = task
    wave = codecs.decode_flac(flac)
    pieces = np.array_split(wave, int(np.ceil(len(wave) / (_backbone.max_s * _backbone.rate_hz))))
    log_mel, frames = _backbone.log_mel(pieces)
    outputs, pooled, scores = _backbone.encode(log_mel)
    if p.segments == "pooled":
        patches = pool_over_time(
            outputs, frames, [len(piece) / _backbone.rate_hz for piece in pieces], count
        )
    else:
        patches = encode_segments(wave, count, p)
    return {
        "patches": patches,
        "pooled": pooled.mean(0),
        "label_scores": scores.mean(0),
        "status": "ok",
        "reason": "",
    }


def pool_over_time(
    outputs: np.ndarray, frames: list[int], lengths_s: list[float], count: int
) -> np.ndarray:
    """Patch outputs [N pieces, time, D] of a clip's consecutive pieces -> [count, D]."""
    starts_s = np.concatenate([[0.0], np.cumsum(lengths_s)])
    times, values = [], []
    for piece, (output, n) in enumerate(zip(outputs, frames, strict=True)):
        valid = _backbone.valid_patches(n)
        times.append(_backbone.patch_times_s(valid) + starts_s[piece])
        values.append(output[:valid])
    return step_weights(np.concatenate(times), starts_s[-1], count) @ np.concatenate(values)


def step_weights(patch_times_s: np.ndarray, duration_s: float, count: int) -> np.ndarray:
    """Weights [count, P], rows summing to 1: how long each patch overlaps with each of `count` equal time steps.

    A step that no patch touches takes the nearest one.
    """
    edges = np.linspace(0, duration_s, count + 1)
    start = np.maximum(edges[:-1, None], patch_times_s[None, :, 0])
    end = np.minimum(edges[1:, None], patch_times_s[None, :, 1])
    overlap = np.maximum(end - start, 0)
    centres = (edges[:-1] + edges[1:]) / 2
    nearest = np.abs(centres[:, None] - patch_times_s.mean(1)[None]).argmin(1)
    untouched = overlap.sum(1) <= 1e-9
    overlap[untouched, nearest[untouched]] = 1
    return overlap / overlap.sum(1, keepdims=True)


def encode_segments(wave: np.ndarray, count: int, p: AudioFeaturesParams) -> np.ndarray:
    """One AST pass per time step, averaged over its valid patches: [count, D]."""
    length = len(wave) / count
    if p.segments == "windows":
        length = min(
            max(length, p.window_s * _backbone.rate_hz), _backbone.max_s * _backbone.rate_hz
        )
    centres = (np.arange(count) + 0.5) * len(wave) / count
    starts = np.clip(np.floor(centres - length / 2), 0, max(0, len(wave) - int(length))).astype(int)
    log_mel, frames = _backbone.log_mel([wave[start : start + int(length)] for start in starts])
    outputs, _, _ = _backbone.encode(log_mel)
    return np.stack(
        [
            output[: _backbone.valid_patches(n)].mean(0)
            for output, n in zip(outputs, frames, strict=True)
        ]
    )


def fit_projection(patches, width: int, components: int) -> dict[str, np.ndarray]:
    """PCA of an iterable of [count, D] arrays from their summed moments: mean [D], components [k, D], explained [k].

    Signs are fixed (largest loading positive), so the same clips give the same projection.
    """
    n, total, products = 0, np.zeros(width), np.zeros((width, width))
    for clip in patches:
        clip = clip.astype(np.float64)
        n, total, products = n + len(clip), total + clip.sum(0), products + clip.T @ clip
    if n <= components:
        raise UserError(
            f"audio_features.components = {components} needs more than {components} time steps of audible training clips; "
            f"there are {n}: lower it or add clips"
        )
    mean = total / n
    values, vectors = np.linalg.eigh((products - n * np.outer(mean, mean)) / (n - 1))
    order = np.argsort(values)[::-1][:components]
    axes = vectors[:, order].T
    axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])[:, None]
    return {
        "mean": mean,
        "components": axes,
        "explained": np.maximum(values[order], 0) / np.maximum(values, 0).sum(),
    }


def main(stage: stage_run.StageRun) -> None:
    from safetensors.numpy import save_file

    p = params.load("audio_features", AudioFeaturesParams)
    count, width = params.read("frames", "count", int), width_of(p.model)
    if p.components > width:
        raise UserError(
            f"params.yaml: audio_features.components = {p.components}, but '{p.model}' gives only {width} dimensions"
        )
    clips = shards.inputs(SOURCE)
    version = item_store.version(
        "audio_features",
        CODE_VERSION,
        revision(p.model),
        count,
        p.model_dump(exclude={"model", "components"}),
        libraries=LIBRARIES,
    )
    stored = pa.schema(
        [
            ("patches", shards.tensor(pa.float16(), count, width)),
            ("pooled", shards.tensor(pa.float16(), width)),
            ("label_scores", shards.tensor(pa.float16(), label_count_of(p.model))),
        ]
    )
    columns = pa.schema([("features", shards.tensor(pa.float16(), count, p.components)), *stored])
    with ClipItems("audio_features", version, stored) as items:
        rows = shards.iter_rows(SOURCE, ["flac"])
        sounds = ((row["clip_id"], (row["flac"], count, p)) for row in rows)
        items.fill(
            stage,
            clips,
            sounds,
            lambda todo: parallel.map_items(
                encode_clip, todo, stage.workers, initializer=load_backbone, initargs=(p.model,)
            ),
        )
        training = (
            row
            for row in map(items.row, (c for c in clips if c["split"] == "training"))
            if row["status"] == "ok"
        )
        pca = fit_projection((row["patches"] for row in training), width, p.components)
        index = items.pack(
            layout.AUDIO_FEATURES,
            clips,
            columns,
            finish=lambda row: (
                row
                | {
                    "features": (row["patches"].astype(np.float64) - pca["mean"])
                    @ pca["components"].T
                }
            ),
        )
    Path("models").mkdir(exist_ok=True)
    save_file(
        {name: pca[name].astype(np.float32) for name in ("mean", "components")},
        layout.AUDIO_PROJECTION,
    )
    explained = pca["explained"].cumsum()
    stage.write_metrics(
        {
            "clips": accounting.status_counts(index),
            "shape": {"steps": count, "width": width, "components": p.components},
            "explained_variance": {
                str(k): float(explained[k - 1])
                for k in (8, 32, 64, p.components)
                if k <= p.components
            },
        }
    )


if __name__ == "__main__":
    stage_run.main(main, __doc__, "audio_features")

"""Encode the sound of each audible clip with AST and project it to 128 dimensions by PCA.

Reads    data/audio
Writes   data/audio_features, a row per audible clip:
             features      tensor float16 [count, components]   PCA projection of `patches`: what
                                                                generators predict
             patches       tensor float16 [count, D]   mean patch outputs of AST per time step;
                                                       D = 768 for AST-base
             pooled        tensor float16 [D]          what AST's classification head reads, whole
                                                       clip
             label_scores  tensor float16 [527]        AST's sigmoid scores of the AudioSet labels,
                                                       whole clip
         models/audio_projection.safetensors: mean [D], components [components, D] of the PCA,
         fitted on training clips
AST: Gong et al. 2021.  `segments` decides what a time step is:
    pooled      one pass over the clip; patches are averaged into the steps by how long they overlap
                with them
    windows     one pass per step over `window_s` around it
    eighteenth  one pass per step over just its 1/count of the clip (2,666 samples: 15 spectrogram
                frames, less than the 16 of one patch, so that its single patch sees one frame of
                padding)
Only time patches that see real sound count: padding to AST's 1,024 frames would fill 72 of 101
patches of a 3 s clip.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from audio_from_video.backbones import hub
from audio_from_video.backbones.audio import AudioBackbone
from audio_from_video.backbones.settings import AudioFeaturesParams
from audio_from_video.media import codecs
from audio_from_video.runtime import parallel, params, stage_run
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.parallel import one_thread
from audio_from_video.runtime.worker import Failure
from audio_from_video.storage import accounting, item_store, layout, shards
from audio_from_video.storage.clip_items import ClipItems

# Of `encode_clip` and AudioBackbone; raise it when the output for the same input changes.
CODE_VERSION = 1
LIBRARIES = ("numpy", "soundfile", "torch", "transformers")
SOURCE = layout.AUDIO
EXPLAINED_BY = (8, 32, 64)  # numbers of components whose explained variance the metrics name


class Projection(NamedTuple):
    """A PCA from D dimensions to k."""

    mean: np.ndarray  # [D]
    components: np.ndarray  # [k, D]
    explained: np.ndarray  # [k] share of the variance that each component explains

    def project(self, patches: np.ndarray) -> np.ndarray:
        """Return the projection [T, k] float64 of patches [T, D]."""
        return (patches.astype(np.float64) - self.mean) @ self.components.T


_backbone: AudioBackbone  # of this process; `load_backbone` sets it, as a worker's initializer


def load_backbone(model: str) -> None:
    """Load the model of this process."""
    global _backbone
    one_thread()
    _backbone = AudioBackbone(model)


def encode_clip(task: tuple[bytes, int, AudioFeaturesParams]) -> dict:
    """Return patches [count, D], pooled [D] and label_scores [L] of a clip (runs in a worker).

    task: the clip's FLAC, the number of time steps and the parameters.  A clip longer than what
    AST hears in one pass is cut into equal pieces, whose pooled outputs and scores are averaged.
    """
    flac, count, p = task
    wave = codecs.decode_flac(flac)
    passes = int(np.ceil(len(wave) / (_backbone.max_s * _backbone.rate_hz)))
    pieces = np.array_split(wave, passes)
    log_mel, frames = _backbone.log_mel(pieces)
    outputs, pooled, scores = _backbone.encode(log_mel)
    if p.segments == "pooled":
        lengths_s = [len(piece) / _backbone.rate_hz for piece in pieces]
        patches = pool_over_time(outputs, frames, lengths_s, count)
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
    """Return the means [count, D] over equal time steps of patch outputs [pieces, time, D].

    The pieces are consecutive; frames: how many spectrogram frames of each are sound; lengths_s:
    their lengths.
    """
    starts_s = np.concatenate([[0.0], np.cumsum(lengths_s)])
    times_s = []
    values = []
    for piece, (output, n) in enumerate(zip(outputs, frames, strict=True)):
        valid = _backbone.valid_patches(n)
        times_s.append(_backbone.patch_times_s(valid) + starts_s[piece])
        values.append(output[:valid])
    weights = step_weights(np.concatenate(times_s), starts_s[-1], count)
    return weights @ np.concatenate(values)


def step_weights(patch_times_s: np.ndarray, duration_s: float, count: int) -> np.ndarray:
    """Return how long each of P patches overlaps with each of `count` equal time steps.

    patch_times_s [P, 2]: start and end.  The weights [count, P] of a step sum to 1; a step that no
    patch touches takes the nearest one.
    """
    edges = np.linspace(0, duration_s, count + 1)
    start = np.maximum(edges[:-1, None], patch_times_s[None, :, 0])
    end = np.minimum(edges[1:, None], patch_times_s[None, :, 1])
    overlap = np.maximum(end - start, 0)
    centres = (edges[:-1] + edges[1:]) / 2
    patch_centres = patch_times_s.mean(1)
    nearest = np.abs(centres[:, None] - patch_centres[None]).argmin(1)
    untouched = overlap.sum(1) <= 1e-9
    overlap[untouched, nearest[untouched]] = 1
    return overlap / overlap.sum(1, keepdims=True)


def encode_segments(wave: np.ndarray, count: int, p: AudioFeaturesParams) -> np.ndarray:
    """Return patch means [count, D] of one AST pass per time step, over its valid patches."""
    length = len(wave) / count  # samples
    if p.segments == "windows":
        longest = _backbone.max_s * _backbone.rate_hz
        length = min(max(length, p.window_s * _backbone.rate_hz), longest)
    centres = (np.arange(count) + 0.5) * len(wave) / count
    latest = max(0, len(wave) - int(length))
    starts = np.clip(np.floor(centres - length / 2), 0, latest).astype(int)
    log_mel, frames = _backbone.log_mel([wave[start : start + int(length)] for start in starts])
    outputs, _, _ = _backbone.encode(log_mel)
    means = [
        output[: _backbone.valid_patches(n)].mean(0)
        for output, n in zip(outputs, frames, strict=True)
    ]
    return np.stack(means)


def fit_projection(patches: Iterable[np.ndarray], width: int, components: int) -> Projection:
    """Return the PCA of clips [count, D] to this number of components, from summed moments.

    width: D.  Signs are fixed (largest loading positive), so that the same clips give the same
    projection.  Raises UserError when there are too few time steps.
    """
    n = 0  # time steps
    total = np.zeros(width)
    products = np.zeros((width, width))
    for clip in patches:
        values = clip.astype(np.float64)
        n += len(values)
        total = total + values.sum(0)
        products = products + values.T @ values
    if n <= components:
        raise UserError(
            f"audio_features.components = {components} needs more than {components} time steps "
            f"of audible training clips; there are {n}: lower it or add clips"
        )
    mean = total / n
    # Moments, not the clips, are held in memory: it does not grow with their number.
    covariance = (products - n * np.outer(mean, mean)) / (n - 1)
    variances, vectors = np.linalg.eigh(covariance)
    order = np.argsort(variances)[::-1][:components]
    axes = vectors[:, order].T
    largest = axes[np.arange(len(axes)), np.abs(axes).argmax(1)]
    axes *= np.sign(largest)[:, None]
    explained = np.maximum(variances[order], 0) / np.maximum(variances, 0).sum()
    return Projection(mean, axes, explained)


def main(stage: stage_run.StageRun) -> None:
    p = params.load("audio_features", AudioFeaturesParams)
    count = params.read("frames", "count", int)
    width = hub.width_of(p.model)
    if p.components > width:
        raise UserError(
            f"params.yaml: audio_features.components = {p.components}, "
            f"but '{p.model}' gives only {width} dimensions"
        )
    clips = shards.inputs(SOURCE)
    stored = item_columns(p, count, width)
    features = shards.tensor(pa.float16(), count, p.components)

    def compute(missing: Iterator[tuple]) -> Iterator[dict | Failure]:
        return parallel.map_items(
            encode_clip, missing, stage.workers, initializer=load_backbone, initargs=(p.model,)
        )

    with ClipItems("audio_features", item_version(p, count), stored) as items:
        rows = shards.iter_rows(SOURCE, ["flac"])
        sounds = ((row["clip_id"], (row["flac"], count, p)) for row in rows)
        items.fill(stage, clips, sounds, compute)
        pca = fit_projection(training_patches(items, clips), width, p.components)

        def with_features(row: dict) -> dict:
            # A clip whose worker failed has no patches.
            if row["status"] != "ok":
                return row
            return row | {"features": pca.project(row["patches"])}

        columns = pa.schema([("features", features), *stored])
        index = items.pack(layout.AUDIO_FEATURES, clips, columns, finish=with_features)
    save_projection(pca)
    stage.write_metrics(
        {
            "clips": accounting.status_counts(index),
            "shape": {"steps": count, "width": width, "components": p.components},
            "explained_variance": explained_variance(pca),
        }
    )


def item_version(p: AudioFeaturesParams, count: int) -> str:
    """Return the version of items; the projection is no part of it: it is computed from them."""
    return item_store.version(
        "audio_features",
        CODE_VERSION,
        hub.revision(p.model),
        count,
        p.model_dump(exclude={"model", "components"}),
        libraries=LIBRARIES,
    )


def item_columns(p: AudioFeaturesParams, count: int, width: int) -> pa.Schema:
    """Return the columns of items: patches [count, width], pooled [width], label_scores [L]."""
    labels = hub.label_count_of(p.model)
    return pa.schema(
        [
            ("patches", shards.tensor(pa.float16(), count, width)),
            ("pooled", shards.tensor(pa.float16(), width)),
            ("label_scores", shards.tensor(pa.float16(), labels)),
        ]
    )


def explained_variance(pca: Projection) -> dict[str, float]:
    """Return the share of the variance that the first k components explain, by k."""
    explained = pca.explained.cumsum()
    counts = [k for k in (*EXPLAINED_BY, len(explained)) if k <= len(explained)]
    return {str(k): float(explained[k - 1]) for k in counts}


def training_patches(items: ClipItems, clips: list[dict]) -> Iterator[np.ndarray]:
    """Yield the patches [count, D] of training clips, one clip after the other."""
    for clip in clips:
        if clip["split"] == "training":
            row = items.row(clip)
            if row["status"] == "ok":
                yield row["patches"]


def save_projection(pca: Projection) -> None:
    """Write models/audio_projection.safetensors."""
    from safetensors.numpy import save_file

    tensors = {
        "mean": pca.mean.astype(np.float32),
        "components": pca.components.astype(np.float32),
    }
    layout.AUDIO_PROJECTION.parent.mkdir(exist_ok=True)
    save_file(tensors, layout.AUDIO_PROJECTION)


if __name__ == "__main__":
    stage_run.main(main, __doc__, "audio_features")

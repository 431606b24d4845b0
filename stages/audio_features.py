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
         fitted on training clips, and the share of the variance that each explains [components]
AST: Gong et al. 2021.  What a time step hears: audio_from_video/backbones/audio_steps.py.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from audio_from_video.backbones import hub
from audio_from_video.backbones.audio import AudioBackbone
from audio_from_video.backbones.audio_steps import Projection, encode_sound
from audio_from_video.backbones.settings import AudioFeaturesParams
from audio_from_video.media import codecs
from audio_from_video.runtime import parallel, params, stage_run
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.parallel import one_thread
from audio_from_video.runtime.worker import Failure
from audio_from_video.storage import accounting, item_store, layout, shards
from audio_from_video.storage.clip_items import ClipItems

# Of `encode_sound` and AudioBackbone; raise it when the output for the same input changes.
CODE_VERSION = 1
LIBRARIES = ("numpy", "soundfile", "torch", "transformers")
SOURCE = layout.AUDIO
EXPLAINED_BY = (8, 32, 64)  # numbers of components whose explained variance the metrics name


_backbone: AudioBackbone  # of this process; `load_backbone` sets it, as a worker's initializer


def load_backbone(model: str) -> None:
    """Load the model of this process."""
    global _backbone
    one_thread()
    _backbone = AudioBackbone(model)


def encode_clip(task: tuple[bytes, int, AudioFeaturesParams]) -> dict:
    """Return patches [count, D], pooled [D] and label_scores [L] of a clip (runs in a worker).

    task: the clip's FLAC, the number of time steps and the parameters.
    """
    flac, count, p = task
    heard = encode_sound(_backbone, codecs.decode_flac(flac), count, p)
    return {**heard._asdict(), "status": "ok", "reason": ""}


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
    """Write models/audio_projection.safetensors.

    In double precision: rounded, it would give some features another last bit.
    """
    from safetensors.numpy import save_file

    tensors = {
        "mean": pca.mean,
        "components": pca.components,
        "explained": pca.explained,
    }
    layout.AUDIO_PROJECTION.parent.mkdir(exist_ok=True)
    save_file(tensors, layout.AUDIO_PROJECTION)


if __name__ == "__main__":
    stage_run.main(main, __doc__, "audio_features", in_parts=True)

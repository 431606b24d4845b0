"""Encode the sound of each audible clip with AST and project it to 128 dimensions by PCA.

Reads    data/audio
Writes   data/audio_features, a row per audible clip:
             features      tensor float16 [count, components]   PCA projection of `patches`: what
                                                                generators predict
             patches       tensor float16 [count, D]   mean patch outputs of AST per time step;
                                                       D = 768 for AST-base
             pooled        tensor float16 [P]          what AST's classification head reads, whole
                                                       clip
             label_scores  tensor float16 [527]        AST's sigmoid scores of the AudioSet labels,
                                                       whole clip
         models/audio_projection.safetensors: mean [D], components [components, D] of the PCA,
         fitted on training clips, and the share of the variance that each explains [components]
AST: Gong et al. 2021.  Other audio models take its place by name (backbones/audio.py); one that
knows no labels leaves `pooled` and `label_scores` to `label_model`.  What a time step hears:
audio_from_video/backbones/audio_steps.py.
"""

import sys
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from audio_from_video.backbones import hub
from audio_from_video.backbones.audio import (
    has_labels,
    label_count_of,
    load_audio,
    widths_of,
)
from audio_from_video.backbones.audio_interface import AudioBackbone
from audio_from_video.backbones.audio_steps import Projection, encode_sound
from audio_from_video.backbones.settings import AudioFeaturesParams
from audio_from_video.evaluation.told_apart import told_apart
from audio_from_video.meaning.label_cut import label_cut
from audio_from_video.media import codecs
from audio_from_video.runtime import parallel, params, stage_run
from audio_from_video.runtime.digests import digest
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.parallel import one_thread
from audio_from_video.runtime.worker import Failure
from audio_from_video.storage import accounting, fit_on, item_store, layout, shards
from audio_from_video.storage.clip_items import ClipItems
from audio_from_video.storage.item_store import ItemStore

# Of `encode_sound` and the backbones; raise it when the output for the same input changes.
# 2: an AST hears windows without the padding behind them.
CODE_VERSION = 2
LIBRARIES = ("numpy", "soundfile", "torch", "transformers")
SOURCE = layout.AUDIO
EXPLAINED_BY = (8, 32, 64)  # numbers of components whose explained variance the metrics name
MOST_CLIPS = 10_000  # whose labels are compared
PROJECTION = pa.schema([(name, pa.list_(pa.float64())) for name in Projection._fields])
ALL_VARIANCE = 0.9999  # the share from which on further components hold next to nothing


_backbone: AudioBackbone  # of this process; `load_backbone` sets both, as a worker's initializer
_labeller: AudioBackbone | None = None


def load_backbone(model: str, label_model: str = "") -> None:
    """Load the models of this process; label_model: "" where `model` gives the labels, too."""
    global _backbone, _labeller
    one_thread()
    _backbone = load_audio(model)
    _labeller = load_audio(label_model) if label_model else None


def encode_clip(task: tuple[bytes, int, AudioFeaturesParams]) -> dict:
    """Return patches [count, D], pooled [P] and label_scores [L] of a clip (runs in a worker).

    task: the clip's FLAC, the number of time steps and the parameters.
    """
    flac, count, p = task
    heard = encode_sound(_backbone, codecs.decode_flac(flac), count, p, _labeller)
    return {**heard._asdict(), "status": "ok", "reason": ""}


def fit_projection(
    patches: Iterable[np.ndarray], width: int, components: int | float
) -> Projection:
    """Return the PCA of clips [count, D] to this number of components, from summed moments.

    width: D.  components: their number, or the share of the variance, below 1, that as few as
    possible are to explain.  Signs are fixed (largest loading positive), so that the same clips
    give the same projection.  Raises UserError when there are too few time steps.
    """
    n = 0  # time steps
    total = np.zeros(width)
    products = np.zeros((width, width))
    for clip in patches:
        values = clip.astype(np.float64)
        n += len(values)
        total = total + values.sum(0)
        products = products + values.T @ values
    fewest = max(1, int(components))
    if n <= fewest:
        raise UserError(
            f"audio_features.components = {components} needs more than {fewest} time steps "
            f"of audible training clips; there are {n}: lower it or add clips"
        )
    mean = total / n
    # Moments, not the clips, are held in memory: it does not grow with their number.
    covariance = (products - n * np.outer(mean, mean)) / (n - 1)
    variances, vectors = np.linalg.eigh(covariance)
    order = np.argsort(variances)[::-1]
    shares = np.maximum(variances[order], 0) / np.maximum(variances, 0).sum()
    if components < 1:
        components = int(np.searchsorted(shares.cumsum(), components)) + 1
    order = order[: int(components)]
    axes = vectors[:, order].T
    largest = axes[np.arange(len(axes)), np.abs(axes).argmax(1)]
    axes *= np.sign(largest)[:, None]
    return Projection(mean, axes, shares[: len(order)])


def main(stage: stage_run.StageRun) -> None:
    parallel.preload("stages.audio_features", hub.PRELOADED)
    p = params.load("audio_features", AudioFeaturesParams)
    count = params.read("frames", "count", int)
    require_labels(p)
    width, _ = widths_of(p.model)
    if p.components > width:
        raise UserError(
            f"params.yaml: audio_features.components = {p.components}, "
            f"but '{p.model}' gives only {width} dimensions"
        )
    clips = shards.inputs(SOURCE)
    stored = item_columns(p, count, width)
    models = (p.model, p.label_model)

    def compute(missing: Iterator[tuple]) -> Iterator[dict | Failure]:
        return parallel.map_items(
            encode_clip,
            missing,
            stage.workers,
            initializer=load_backbone,
            initargs=models,
            gpu=True,
        )

    with ClipItems("audio_features", item_version(p, count), stored) as items:
        rows = shards.iter_rows(SOURCE, ["flac"], clip_ids=items.missing(clips))
        sounds = ((row["clip_id"], (row["flac"], count, p)) for row in rows)
        items.fill(stage, clips, sounds, compute)
        pca = stored_projection(items, clips, width, p.components)

        def with_features(row: dict) -> dict:
            # A clip whose worker failed has no patches.
            if row["status"] != "ok":
                return row
            return row | {"features": pca.project(row["patches"])}

        features = shards.tensor(pa.float16(), count, len(pca.components))
        columns = pa.schema([("features", features), *stored])
        index = items.pack(
            layout.AUDIO_FEATURES, clips, columns, finish=with_features, packed_by=(digest_of(pca),)
        )
    save_projection(pca)
    by_labels = labels_tell_actions_apart(index)
    for sentence in [*component_warnings(p, pca, width), *label_warnings(by_labels)]:
        print(f"audio_features: warning: {sentence}", file=sys.stderr)
    stage.write_metrics(
        {
            "clips": accounting.status_counts(index),
            "shape": {"steps": count, "width": width, "components": len(pca.components)},
            "explained_variance": explained_variance(pca),
            "label_cut": label_cut("auto"),
            "labels_tell_actions_apart": by_labels,
        }
    )


def require_labels(p: AudioFeaturesParams) -> None:
    """Raise UserError when no model is named that scores AudioSet's labels."""
    if p.label_model and not has_labels(p.label_model):
        raise UserError(
            f"audio_features.label_model: '{p.label_model}' knows no AudioSet labels: "
            "name an AST, YAMNet or CLAP"
        )
    if not p.label_model and not has_labels(p.model):
        raise UserError(
            f"audio_features.model: '{p.model}' knows no AudioSet labels, which the filter and the "
            "captions' mapping need: name a model that does (an AST, YAMNet or CLAP) in "
            "audio_features.label_model"
        )


def item_version(p: AudioFeaturesParams, count: int) -> str:
    """Return the version of items; the projection is no part of it: it is computed from them."""
    labeller = (hub.revision(p.label_model),) if p.label_model else ()
    return item_store.version(
        "audio_features",
        CODE_VERSION,
        hub.revision(p.model),
        count,
        p.model_dump(exclude={"model", "components", "label_model"}),
        *labeller,
        libraries=LIBRARIES,
    )


def item_columns(p: AudioFeaturesParams, count: int, width: int) -> pa.Schema:
    """Return the columns of items: patches [count, width], pooled [P], label_scores [L]."""
    named_by = p.label_model or p.model
    _, pooled = widths_of(named_by)
    labels = label_count_of(named_by)
    return pa.schema(
        [
            ("patches", shards.tensor(pa.float16(), count, width)),
            ("pooled", shards.tensor(pa.float16(), pooled)),
            ("label_scores", shards.tensor(pa.float16(), labels)),
        ]
    )


def explained_variance(pca: Projection) -> dict[str, float]:
    """Return the share of the variance that the first k components explain, by k."""
    explained = pca.explained.cumsum()
    counts = [k for k in (*EXPLAINED_BY, len(explained)) if k <= len(explained)]
    return {str(k): float(explained[k - 1]) for k in counts}


def component_warnings(p: AudioFeaturesParams, pca: Projection, width: int) -> list[str]:
    """Return what is to be said where the components are more than the sound needs."""
    count = len(pca.components)
    enough = int(np.searchsorted(pca.explained.cumsum(), ALL_VARIANCE)) + 1
    if count == width:
        return [
            f"audio_features.components = {p.components} keeps all {width} dimensions of "
            f"'{p.model}': the projection only turns them"
        ]
    if enough < count:
        return [
            f"audio_features.components = {p.components}: {enough} components explain "
            f"{ALL_VARIANCE:.2%} of the variance, so the others hold next to nothing"
        ]
    return []


def labels_tell_actions_apart(index: list[dict]) -> dict[str, Any]:
    """Return whether the label scores of training clips tell their actions apart (`told_apart`).

    index: rows of data/audio_features.  Of many clips, every n-th is taken.
    """
    training = [row for row in index if row["split"] == "training" and row["status"] == "ok"]
    every = max(1, len(training) // MOST_CLIPS)
    measured = {row["clip_id"]: row for row in training[::every]}
    scores = []
    actions = []
    sources = []
    for row in shards.iter_rows(layout.AUDIO_FEATURES, ["label_scores"], ["training"]):
        clip = measured.get(row["clip_id"])
        if clip is not None:
            scores.append(row["label_scores"].astype(np.float32))
            actions.append(clip["action"])
            sources.append(clip["source_id"])
    return told_apart(np.stack(scores), np.array(actions), np.array(sources))


def label_warnings(figures: dict[str, Any]) -> list[str]:
    """Return what is to be said where labels are no better than shuffled ones."""
    low = figures["difference_low"]
    if low is None or low > 0:
        return []
    return [
        "the audio model's labels do not tell the training clips' actions apart "
        f"(difference of similarity {figures['difference']:+.3f}, against shuffled actions "
        f"[{low:+.3f}, {figures['difference_high']:+.3f}]): what rests "
        "on labels (filter, mapping, captions' tags) has nothing to go by; "
        "choose another audio_features.model or label_model"
    ]


def stored_projection(
    items: ClipItems, clips: list[dict], width: int, components: int | float
) -> Projection:
    """Return the PCA of the training clips to fit on; it is an item of what they are.

    Later clips (`clips.fit_on`) then cost no pass over those that were fitted on.
    """
    fitted = fit_on.fitted(clip["clip_id"] for clip in clips)
    failed = items.missing(clips)
    training = [
        clip
        for clip, is_fitted in zip(clips, fitted, strict=True)
        if clip["split"] == "training" and is_fitted and clip["clip_id"] not in failed
    ]
    key = digest([clip["input_key"] for clip in training], width, components)
    with ItemStore("audio_projection", items.version, PROJECTION) as store:
        if key not in store:
            pca = fit_projection(training_patches(items, training), width, components)
            arrays = pca._asdict()
            store.put([(key, {name: array.ravel().tolist() for name, array in arrays.items()})])
        row = store[key]
    mean = np.array(row["mean"])
    explained = np.array(row["explained"])
    axes = np.array(row["components"]).reshape(len(explained), len(mean))
    return Projection(mean, axes, explained)


def training_patches(items: ClipItems, clips: list[dict]) -> Iterator[np.ndarray]:
    """Yield the patches [count, D] of clips, one after the other."""
    for clip in clips:
        row = items.row(clip)
        if row["status"] == "ok":
            yield row["patches"]


def digest_of(pca: Projection) -> str:
    """Return the digest of a PCA's numbers."""
    return digest(*(array.tolist() for array in pca))


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

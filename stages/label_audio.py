"""Give each AudioSet label an audio feature in the space of the targets: what it sounds like, relative to the mean sound.

Reads    data/audio_features (features and AST's label scores), the indices of data/video_features/{rgb,flow}, whose clips
         are dealt into folds as for the generator; with `source: audioset` also the *.tfrecord files below `audioset_root`
Writes   data/label_audio/features.safetensors, L labels in the order of AudioSet, K = generator.folds:
             whole    float32 [L, A]     learned from all audible training and unlabelled clips: for validation and test
             folds    float32 [K, L, A]  [k] learned without the clips of fold k: for the training clips of fold k
         data/label_audio/labels.parquet, a row per label, in the same order and of `whole`:
             label       string
             mid         string        the label's id in AudioSet's ontology
             evidence    float32       sum of AST's scores from `min_score` on, over clips; with `audioset`: its clips there
             borrowed    bool          evidence < min_evidence
             neighbours  list<string>  those it borrows from, closest first; empty where not borrowed
A clip counts by its mean over time, in units of data/audio_features; no action label is needed.  `source`:
    clips      the clips' mean, weighted by AST's score of the label, minus the mean over all clips of the part
    audioset   AudioSet's label means minus its mean, through a ridge map that is fitted to the former, part by part, on
               the labels with evidence in both: the published features live in another space (common/audioset_features.py)
A label without evidence borrows: the mean of its `neighbours` closest labels in text that have evidence, weighted by
cosine, those with a cosine above 0; zeros, the mean sound, without any.  A folder outside the repository is no dependency
for DVC: after a change there, `dvc repro --force label_audio`.
"""

from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import Field

from audio_from_video.audioset import published_features
from audio_from_video.audioset.labels import load_labels
from audio_from_video.backbones.text import embed
from audio_from_video.clipset import folds
from audio_from_video.evaluation import intervals
from audio_from_video.meaning.similarity import closest, cosines
from audio_from_video.runtime import params, stage_run
from audio_from_video.runtime.atomic import replace_directory
from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import layout, shards

SOURCE = layout.AUDIO_FEATURES
RGB, FLOW = layout.RGB_FEATURES, layout.FLOW_FEATURES
OUTPUT = layout.LABEL_AUDIO
LEARNED = ("training", "unlabelled")
WHOLE = -1  # instead of a fold that is left out: none
PRESENT = 0.3  # AST score from which on a validation clip has a label, in the metrics
LABELS = load_labels()


class LabelAudioParams(params.Section):
    source: Literal["clips", "audioset"]
    min_score: float = Field(gt=0, lt=1)
    min_evidence: float = Field(gt=0)
    neighbours: int = Field(ge=1, le=527)
    model: str
    audioset_root: str
    ridge_penalty: float = Field(gt=0)


class Moments(NamedTuple):
    """Sums over the clips of each fold."""

    clips: np.ndarray  # [K]
    features: np.ndarray  # [K, A]
    weights: np.ndarray  # [K, L]
    weighted: np.ndarray  # [K, L, A]


class Part(NamedTuple):
    """What a part of the clips says of the labels."""

    features: np.ndarray  # [L, A] zeros without evidence, as long as nothing is borrowed
    evidence: np.ndarray  # [L]
    known: np.ndarray  # [L] enough evidence
    mean: np.ndarray  # [A] of the clips


def population() -> pd.DataFrame:
    """The clips with both video features, as the generator takes them: clip_id, split, source_id."""
    both = {row["clip_id"] for row in shards.ok_rows(FLOW)}
    return pd.DataFrame(
        [row for row in shards.ok_rows(RGB) if row["clip_id"] in both],
        columns=["clip_id", "split", "source_id"],
    )


def sum_clips(
    stage: stage_run.StageRun, clips: pd.DataFrame, count: int, min_score: float
) -> Moments:
    """Moments of the audible clips to learn from, in one pass."""
    fold = dict(zip(clips.clip_id, folds.of_clips(clips, count), strict=True))
    width, labels = shards.tensor_shape(SOURCE, "features")[1], len(LABELS)
    sums = Moments(
        np.zeros(count),
        np.zeros((count, width)),
        np.zeros((count, labels)),
        np.zeros((count, labels, width)),
    )
    total = sum(row["split"] in LEARNED for row in shards.ok_rows(SOURCE))
    for row in stage.progress(
        shards.iter_rows(SOURCE, ["features", "label_scores"], LEARNED), total
    ):
        if (k := fold.get(row["clip_id"], WHOLE)) == WHOLE:
            continue  # no video features
        feature, scores = row["features"].mean(0, dtype=float), row["label_scores"].astype(float)
        heard = np.flatnonzero(scores >= min_score)
        sums.clips[k] += 1
        sums.features[k] += feature
        sums.weights[k, heard] += scores[heard]
        sums.weighted[k, heard] += scores[heard, None] * feature
    return sums


def from_clips(moments: Moments, left_out: int, p: LabelAudioParams) -> Part:
    """Weighted means of the clips outside a fold, relative to their mean.  The fold's own sums are not touched: taking them
    off a total would leave their rounding behind."""
    used = [k for k in range(len(moments.clips)) if k != left_out]
    clips, features, weights, weighted = (sums[used].sum(0) for sums in moments)
    known = weights >= p.min_evidence
    if not known.any():
        where = "" if left_out == WHOLE else f" outside fold {left_out}"
        raise UserError(
            f"no label has evidence in the {clips:.0f} audible training clips{where}: AST's scores of {p.min_score:g} and more "
            f"(label_audio.min_score) nowhere add up to {p.min_evidence:g} (label_audio.min_evidence); lower them or add clips"
        )
    mean = features / clips
    return Part(
        np.where(known[:, None], weighted / np.where(known, weights, 1)[:, None] - mean, 0),
        weights,
        known,
        mean,
    )


def from_audioset(
    clips: Part, published: published_features.Published, p: LabelAudioParams
) -> tuple[Part, np.ndarray]:
    """AudioSet's label means in the space of `clips`, and the labels [L] that the map was fitted on."""
    known = published.clips >= p.min_evidence
    both = known & clips.known
    if not both.any():
        raise UserError(
            f"no label has evidence in both the clips ({clips.known.sum()} have) and AudioSet's files ({known.sum()}), so there is "
            "nothing to fit a map on: get more of the files, or set label_audio.source to clips"
        )
    weights = published_features.fit_map(
        published.means[both], clips.features[both], p.ridge_penalty
    )
    return Part(
        np.where(known[:, None], published.means @ weights, 0), published.clips, known, clips.mean
    ), both


def borrow(
    part: Part, similarity: np.ndarray, neighbours: int
) -> tuple[np.ndarray, list[list[int]]]:
    """Features [L, A] of all labels, and from which labels each one borrows; similarity [L, L] in text."""
    near = closest(
        np.where(part.known, similarity, -np.inf), min(neighbours, part.known.sum())
    )  # [L, k]
    weights = np.take_along_axis(similarity, near, 1).astype(float).clip(0)
    borrowed = (weights[..., None] * part.features[near]).sum(1) / np.maximum(weights.sum(1), 1e-9)[
        :, None
    ]
    lenders = [
        [] if known else row[weight > 0].tolist()
        for known, row, weight in zip(part.known, near, weights, strict=True)
    ]
    return np.where(part.known[:, None], part.features, borrowed), lenders


def write(
    whole: np.ndarray, by_fold: list[np.ndarray], part: Part, lenders: list[list[int]]
) -> None:
    """The output directory (see the module's docstring), which appears at once."""
    from safetensors.numpy import save_file

    tensors = {"whole": whole.astype(np.float32), "folds": np.stack(by_fold).astype(np.float32)}
    table = pa.table(
        {
            "label": [label.display_name for label in LABELS],
            "mid": [label.mid for label in LABELS],
            "evidence": pa.array(part.evidence, pa.float32()),
            "borrowed": ~part.known,
            "neighbours": pa.array(
                [[LABELS[i].display_name for i in row] for row in lenders], pa.list_(pa.string())
            ),
        }
    )
    with replace_directory(OUTPUT) as folder:
        save_file(tensors, folder / layout.LABEL_AUDIO_FEATURES.name)
        shards.write_table(table, folder / layout.LABEL_AUDIO_LABELS.name)


def cosine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Along the last axis; 0 where one of them is 0."""
    norms = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    return (first * second).sum(-1) / np.maximum(norms, 1e-12)


def mean_pairwise_cosine(vectors: np.ndarray) -> float | None:
    """Over all pairs of [n, A]; None without a pair."""
    first, second = np.triu_indices(len(vectors), 1)
    return float(cosine(vectors[first], vectors[second]).mean()) if len(first) else None


def prediction_cosine(whole: np.ndarray, mean: np.ndarray, clips: pd.DataFrame) -> dict:
    """How far label audio can go where the labels are known: cosine between a validation clip's feature, relative to the
    training mean, and the features of the labels that AST hears in it, weighted by score.  `without_label` clips have none."""
    source_of = dict(zip(clips.clip_id, clips.source_id, strict=True))
    values, sources, without = [], [], 0
    for row in shards.iter_rows(SOURCE, ["features", "label_scores"], ["validation"]):
        scores = row["label_scores"].astype(float)
        heard = scores >= PRESENT
        if row["clip_id"] not in source_of:
            continue
        if not heard.any():
            without += 1
            continue
        values.append(
            cosine(scores[heard] @ whole[heard], row["features"].mean(0, dtype=float) - mean)
        )
        sources.append(source_of[row["clip_id"]])
    return intervals.interval(np.array(values), np.array(sources)) | {"without_label": without}


def measure(whole: np.ndarray, part: Part, clips: pd.DataFrame) -> dict:
    """Coverage, and whether the labels with evidence sound different: their mean pairwise cosine, and the same with the mean
    sound left in, which hardly differs where the PCA behind the features has centred them."""
    own, known = part.features[part.known], int(part.known.sum())
    return {
        "labels": len(whole),
        "with_evidence": known,
        "borrowed": len(whole) - known,
        "coverage": known / len(whole),
        "mean_pairwise_cosine": mean_pairwise_cosine(own),
        "mean_pairwise_cosine_uncentred": mean_pairwise_cosine(own + part.mean),
        "prediction_cosine": prediction_cosine(whole, part.mean, clips),
    }


def main(stage: stage_run.StageRun) -> None:
    p = params.load("label_audio", LabelAudioParams)
    count = params.read("generator", "folds", int)
    if (found := shards.tensor_shape(SOURCE, "label_scores")[0]) != len(LABELS):
        raise UserError(
            f"audio_features.model gives {found} label scores, not AudioSet's {len(LABELS)}: choose an AST trained on AudioSet"
        )
    clips = population()
    moments = sum_clips(stage, clips, count, p.min_score)
    parts = [from_clips(moments, left_out, p) for left_out in (WHOLE, *range(count))]
    metrics: dict = {"source": p.source, "clips": int(moments.clips.sum())}
    if p.source == "audioset":
        published = published_features.read(
            p.audioset_root, len(LABELS), lambda paths: stage.progress(paths, len(paths), "file")
        )
        learned = parts[0].features
        mapped = [from_audioset(part, published, p) for part in parts]
        parts, fitted = [part for part, _ in mapped], mapped[0][1]
        predicted = published_features.leave_one_out(
            published.means[fitted], learned[fitted], p.ridge_penalty
        )
        fit = {
            "labels": int(fitted.sum()),
            "leave_one_out_cosine": float(cosine(predicted, learned[fitted]).mean()),
        }
        metrics |= {"audioset": {"clips": published.total, **fit}}
    names = embed(p.model, [label.display_name for label in LABELS])
    (whole, lenders), *by_fold = (
        borrow(part, cosines(names, names), p.neighbours) for part in parts
    )
    write(whole, [features for features, _ in by_fold], parts[0], lenders)
    stage.write_metrics(metrics | measure(whole, parts[0], clips))


if __name__ == "__main__":
    stage_run.main(main, __doc__, "label_audio")

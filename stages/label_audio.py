"""Give each AudioSet label an audio feature: what it sounds like, relative to the mean sound.

Reads    data/audio_features (features and AST's label scores), the indices of
         data/video_features/{rgb,flow}, whose clips are dealt into folds as for the generator; with
         `source: audioset` also the *.tfrecord files below `audioset_root`
Writes   data/label_audio/features.safetensors, L labels in the order of AudioSet,
         K = generator.folds:
             whole    float32 [L, A]     learned from all audible training and unlabelled clips: for
                                         validation and test
             folds    float32 [K, L, A]  [k] learned without the clips of fold k: for the training
                                         clips of fold k
         data/label_audio/labels.parquet, a row per label, in the same order and of `whole`:
             label       string
             mid         string        the label's id in AudioSet's ontology
             evidence    float32       sum of AST's scores from `min_score` on, over clips; with
                                       `audioset`: its clips there
             borrowed    bool          evidence < min_evidence
             neighbours  list<string>  those it borrows from, closest first; empty where not
                                       borrowed
A clip counts by its mean over time, in units of data/audio_features, the space of the generators'
targets; no action label is needed.  `source`:
    clips      the clips' mean, weighted by AST's score of the label, minus the mean over all clips
               of the part
    audioset   AudioSet's label means minus its mean, through a ridge map that is fitted to the
               former, part by part, on the labels with evidence in both: the published features
               live in another space (audio_from_video/audioset/published_features.py)
`min_score: auto` is the label cut of the audio model (audio_from_video/meaning/label_cut.py), and
`min_evidence: auto` what EVIDENCE_CLIPS clips give that just reach it, with `audioset` this number
of clips there: models differ in how high they score, and a sum of scores with them.  Where no label
has evidence in all clips, or outside a fold, what `auto` found is halved until one has, HALVINGS
times at most: with few clips the highest scores may all be those of one source.
A label without evidence borrows: the mean of its `neighbours` closest labels in text that have
evidence, weighted by cosine, those with a cosine above 0; zeros, the mean sound, without any.  A
folder outside the repository is no dependency for DVC: after a change there, `dvc repro --force
label_audio`.
"""

import sys
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from audio_from_video.audioset import published_features
from audio_from_video.audioset.labels import load_labels
from audio_from_video.clipset import folds
from audio_from_video.clipset.folds import WHOLE
from audio_from_video.evaluation import intervals
from audio_from_video.meaning.label_cut import label_cut
from audio_from_video.meaning.settings import LABEL_CUT, LabelAudioParams
from audio_from_video.meaning.similarity import closest, cosines, paired_cosine
from audio_from_video.meaning.stored_embeddings import embed
from audio_from_video.runtime import params, stage_run
from audio_from_video.runtime.atomic import replace_directory
from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import fit_on, layout, shards

SOURCE = layout.AUDIO_FEATURES
LEARNED = ("training", "unlabelled")
LABELS = load_labels()
EVIDENCE_CLIPS = 3.0  # from which on, with `auto`, a label has a feature of its own
HALVINGS = 6


class Thresholds(NamedTuple):
    """From where on a score counts, and a label has evidence."""

    score: float
    evidence: float  # sum of scores over clips
    audioset_clips: float  # clips of AudioSet


class Moments(NamedTuple):
    """Sums over the audible clips of each fold."""

    clips: np.ndarray  # [K] their number
    features: np.ndarray  # [K, A]
    weights: np.ndarray  # [K, L] AST's scores
    weighted: np.ndarray  # [K, L, A] features, weighted by score


class Part(NamedTuple):
    """What the labels sound like by a part of the clips."""

    features: np.ndarray  # [L, A] zeros without evidence, as long as nothing is borrowed
    evidence: np.ndarray  # [L]
    known: np.ndarray  # [L] whether there is enough evidence
    mean: np.ndarray  # [A] of the clips


def main(stage: stage_run.StageRun) -> None:
    p = params.load("label_audio", LabelAudioParams)
    require_audioset_labels()
    fold_count = params.read("generator", "folds", int)
    clips = population()
    at_least, moments = sum_with_evidence(stage, clips, fold_count, p)
    parts = [from_clips(moments, left_out, at_least) for left_out in (WHOLE, *range(fold_count))]
    metrics: dict[str, Any] = {"source": p.source, "clips": int(moments.clips.sum())}
    if "auto" in (p.min_score, p.min_evidence):
        metrics["thresholds"] = at_least._asdict()
    if p.source == "audioset":
        published = published_features.read(
            p.audioset_root, len(LABELS), lambda paths: stage.progress(paths, len(paths), "file")
        )
        parts, metrics["audioset"] = through_map(
            parts, published, at_least.audioset_clips, p.ridge_penalty
        )

    names = embed(p.model, [label.display_name for label in LABELS])
    similarity = cosines(names, names)
    whole, lenders = borrow(parts[0], similarity, p.neighbours)
    by_fold = [borrow(part, similarity, p.neighbours)[0] for part in parts[1:]]
    write_label_audio(whole, by_fold, parts[0], lenders)
    present = label_cut(params.read("label_predictor", "threshold", LABEL_CUT))
    stage.write_metrics(metrics | label_audio_figures(whole, parts[0], clips, present))


def require_audioset_labels() -> None:
    """Raise UserError where data/audio_features has scores of other labels than AudioSet's."""
    (scores,) = shards.tensor_shape(SOURCE, "label_scores")
    if scores != len(LABELS):
        raise UserError(
            f"audio_features.model gives {scores} label scores, not AudioSet's {len(LABELS)}: "
            "name a model that knows AudioSet's labels, there or in audio_features.label_model"
        )


def thresholds(p: LabelAudioParams, halvings: int) -> Thresholds:
    """Return `min_score` and `min_evidence` as numbers; what `auto` finds is halved so often.

    Raises UserError where `auto` finds nothing, as with a CLAP whose cosines are all negative.
    """
    share = 0.5**halvings
    score = label_cut(p.min_score)
    if p.min_score == "auto":
        score *= share
    if p.min_evidence == "auto":
        evidence = EVIDENCE_CLIPS * label_cut("auto") * share
        audioset_clips = EVIDENCE_CLIPS
    else:
        evidence = audioset_clips = p.min_evidence
    if score == 0 or evidence == 0:
        raise UserError(
            "label_audio.min_score or min_evidence: auto looks for the score that leaves training "
            "clips two labels on average, and the audio model scores fewer than two above 0: name "
            "another one in audio_features.label_model"
        )
    return Thresholds(score, evidence, audioset_clips)


def population() -> pd.DataFrame:
    """Return the clips with both video features, as the generator takes them.

    Columns clip_id, split, source_id.
    """
    with_flow = {row["clip_id"] for row in shards.ok_rows(layout.FLOW_FEATURES)}
    rows = [row for row in shards.ok_rows(layout.RGB_FEATURES) if row["clip_id"] in with_flow]
    return pd.DataFrame(rows, columns=["clip_id", "split", "source_id"])


def sum_with_evidence(
    stage: stage_run.StageRun, clips: pd.DataFrame, fold_count: int, p: LabelAudioParams
) -> tuple[Thresholds, Moments]:
    """Return the thresholds and the moments of the clips to learn from.

    Where `auto` is halved (see the module's docstring), a line on stderr says so.
    """
    most_halvings = HALVINGS if "auto" in (p.min_score, p.min_evidence) else 0
    for halvings in range(most_halvings + 1):
        at_least = thresholds(p, halvings)
        moments = sum_clips(stage, clips, fold_count, at_least.score)
        if has_evidence(moments, at_least.evidence):
            break
    if halvings:
        print(halving_message(p, halvings, at_least), file=sys.stderr)
    return at_least, moments


def halving_message(p: LabelAudioParams, halvings: int, at_least: Thresholds) -> str:
    """Return what `auto` was lowered to, and why; a threshold set as a number stays as it is."""
    times = "once" if halvings == 1 else f"{halvings} times"
    lowered = []
    if p.min_score == "auto":
        lowered.append(f"a score of {at_least.score:.3g}")
    if p.min_evidence == "auto":
        lowered.append(f"an evidence of {at_least.evidence:.3g}")
    return (
        f"label_audio: what auto found was halved {times}, to {' and '.join(lowered)}: with more, "
        "no label has evidence in all clips, or in those outside a fold"
    )


def has_evidence(moments: Moments, evidence: float) -> bool:
    """Return whether some label has so much in all clips, and outside each fold."""
    parts = (WHOLE, *range(len(moments.clips)))
    return all(moments.weights[outside(moments, part)].sum(0).max() >= evidence for part in parts)


def outside(moments: Moments, left_out: int) -> list[int]:
    """Return the folds but for one."""
    return [fold for fold in range(len(moments.clips)) if fold != left_out]


def sum_clips(
    stage: stage_run.StageRun, clips: pd.DataFrame, fold_count: int, min_score: float
) -> Moments:
    """Return the moments of the audible clips to learn from, in one pass over them."""
    fitted = fit_on.fitted(clips.clip_id)
    fold = np.where(fitted, folds.of_clips(clips, fold_count, fitted), WHOLE)
    fold_of = dict(zip(clips.clip_id, fold, strict=True))
    width = shards.tensor_shape(SOURCE, "features")[1]
    sums = Moments(
        clips=np.zeros(fold_count),
        features=np.zeros((fold_count, width)),
        weights=np.zeros((fold_count, len(LABELS))),
        weighted=np.zeros((fold_count, len(LABELS), width)),
    )
    total = sum(row["split"] in LEARNED for row in shards.ok_rows(SOURCE))
    rows = shards.iter_rows(SOURCE, ["features", "label_scores"], LEARNED)
    for row in stage.progress(rows, total):
        fold = fold_of.get(row["clip_id"], WHOLE)
        if fold == WHOLE:
            continue  # no video features, or a later clip
        feature = row["features"].mean(0, dtype=float)
        scores = row["label_scores"].astype(float)
        heard = np.flatnonzero(scores >= min_score)
        sums.clips[fold] += 1
        sums.features[fold] += feature
        sums.weights[fold, heard] += scores[heard]
        sums.weighted[fold, heard] += scores[heard, None] * feature
    return sums


def from_clips(moments: Moments, left_out: int, at_least: Thresholds) -> Part:
    """Return the weighted means of the clips outside a fold, relative to their mean.

    The fold's own sums are not touched: taking them off a total would leave their rounding behind.
    Raises UserError when no label has evidence.
    """
    used = outside(moments, left_out)
    clips = moments.clips[used].sum(0)
    weights = moments.weights[used].sum(0)
    weighted = moments.weighted[used].sum(0)
    known = weights >= at_least.evidence
    if not known.any():
        where = "" if left_out == WHOLE else f" outside fold {left_out}"
        raise UserError(
            f"no label has evidence in the {clips:.0f} audible training clips{where}: scores "
            f"of {at_least.score:g} and more (label_audio.min_score) nowhere add up to "
            f"{at_least.evidence:g} (label_audio.min_evidence); lower them or add clips"
        )
    mean = moments.features[used].sum(0) / clips
    label_means = weighted / np.where(known, weights, 1)[:, None]
    features = np.where(known[:, None], label_means - mean, 0)
    return Part(features, weights, known, mean)


def through_map(
    parts: list[Part], published: published_features.Published, min_clips: float, penalty: float
) -> tuple[list[Part], dict[str, Any]]:
    """Return AudioSet's label means in the space of each part, and figures of the map.

    parts: of the clips; the figures are those of the first one.  min_clips: of AudioSet, from which
    on a label has evidence there.
    """
    mapped = [from_audioset(part, published, min_clips, penalty) for part in parts]
    _, fitted = mapped[0]
    learned = parts[0].features[fitted]
    predicted = published_features.leave_one_out(published.means[fitted], learned, penalty)
    figures = {
        "clips": published.total,
        "labels": int(fitted.sum()),
        "leave_one_out_cosine": float(paired_cosine(predicted, learned).mean()),
    }
    return [part for part, _ in mapped], figures


def from_audioset(
    clips: Part, published: published_features.Published, min_clips: float, penalty: float
) -> tuple[Part, np.ndarray]:
    """Return AudioSet's label means in the space of `clips`, and the labels [L] fitted on.

    Raises UserError when no label has evidence in both.
    """
    known = published.clips >= min_clips
    both = known & clips.known
    if not both.any():
        raise UserError(
            f"no label has evidence in both the clips ({clips.known.sum()} have) and AudioSet's "
            f"files ({known.sum()}), so there is nothing to fit a map on: get more of the files, "
            "or set label_audio.source to clips"
        )
    weights = published_features.fit_map(published.means[both], clips.features[both], penalty)
    features = np.where(known[:, None], published.means @ weights, 0)
    return Part(features, published.clips, known, clips.mean), both


def borrow(
    part: Part, similarity: np.ndarray, neighbours: int
) -> tuple[np.ndarray, list[list[int]]]:
    """Return the features [L, A] of all labels, and from which labels each one borrows.

    similarity [L, L]: of the labels' names.
    """
    among_known = np.where(part.known, similarity, -np.inf)
    near = closest(among_known, min(neighbours, part.known.sum()))  # [L, k]
    weights = np.take_along_axis(similarity, near, 1).astype(float).clip(0)
    sums = (weights[..., None] * part.features[near]).sum(1)
    borrowed = sums / np.maximum(weights.sum(1), 1e-9)[:, None]
    lenders: list[list[int]] = []
    for known, row, weight in zip(part.known, near, weights, strict=True):
        lenders.append([] if known else row[weight > 0].tolist())
    return np.where(part.known[:, None], part.features, borrowed), lenders


def write_label_audio(
    whole: np.ndarray, by_fold: list[np.ndarray], part: Part, lenders: list[list[int]]
) -> None:
    """Write the output directory (see the module's docstring), which appears at once."""
    from safetensors.numpy import save_file

    tensors = {
        "whole": whole.astype(np.float32),
        "folds": np.stack(by_fold).astype(np.float32),
    }
    neighbours = [[LABELS[i].display_name for i in row] for row in lenders]
    table = pa.table(
        {
            "label": [label.display_name for label in LABELS],
            "mid": [label.mid for label in LABELS],
            "evidence": pa.array(part.evidence, pa.float32()),
            "borrowed": ~part.known,
            "neighbours": pa.array(neighbours, pa.list_(pa.string())),
        }
    )
    with replace_directory(layout.LABEL_AUDIO) as folder:
        save_file(tensors, folder / layout.LABEL_AUDIO_FEATURES.name)
        shards.write_table(table, folder / layout.LABEL_AUDIO_LABELS.name)


def mean_pairwise_cosine(vectors: np.ndarray) -> float | None:
    """Return the mean cosine over all pairs of [n, A]; None without a pair."""
    first, second = np.triu_indices(len(vectors), 1)
    if not len(first):
        return None
    return float(paired_cosine(vectors[first], vectors[second]).mean())


def prediction_cosine(
    whole: np.ndarray, mean: np.ndarray, clips: pd.DataFrame, present: float
) -> dict[str, Any]:
    """Return how far label audio [L, A] can go where the labels are known.

    That is the cosine between a validation clip's feature, relative to the training mean [A], and
    the features of the labels that AST hears in it, weighted by score: those of `present` and more.
    Clips `without_label` have none.
    """
    source_of = dict(zip(clips.clip_id, clips.source_id, strict=True))
    values = []
    sources = []
    without_label = 0
    for row in shards.iter_rows(SOURCE, ["features", "label_scores"], ["validation"]):
        if row["clip_id"] not in source_of:
            continue
        scores = row["label_scores"].astype(float)
        heard = scores >= present
        if not heard.any():
            without_label += 1
            continue
        predicted = scores[heard] @ whole[heard]
        real = row["features"].mean(0, dtype=float) - mean
        values.append(paired_cosine(predicted, real))
        sources.append(source_of[row["clip_id"]])
    figures = intervals.interval(np.array(values), np.array(sources))
    return figures | {"without_label": without_label}


def label_audio_figures(
    whole: np.ndarray, part: Part, clips: pd.DataFrame, present: float
) -> dict[str, Any]:
    """Return coverage, and whether the labels with evidence sound different.

    The latter is their mean pairwise cosine, also with the mean sound left in, which hardly
    differs where the PCA behind the features has centred them.
    """
    own = part.features[part.known]
    known = int(part.known.sum())
    return {
        "labels": len(whole),
        "with_evidence": known,
        "borrowed": len(whole) - known,
        "coverage": known / len(whole),
        "mean_pairwise_cosine": mean_pairwise_cosine(own),
        "mean_pairwise_cosine_uncentred": mean_pairwise_cosine(own + part.mean),
        "prediction_cosine": prediction_cosine(whole, part.mean, clips, present),
    }


if __name__ == "__main__":
    stage_run.main(main, __doc__, "label_audio")

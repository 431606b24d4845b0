"""Map the captions of representative frames to AudioSet labels, by meaning.

Reads    data/captions, data/audio_features (AST's label scores: values of the key captions, and
         for metrics), data/label_audio (with the labels' names), the text model; for metrics alone
         data/truth.parquet
Writes   data/mapping: all that architecture 2's generator is conditioned on; a row per clip:
             caption      tensor int32 [T]          number of the caption in `_captions.parquet`;
                                                    -1: the step is no anchor
             labels       tensor int32 [T, top_k]   labels it was mapped to, best first; -1: none
             similarity   tensor float32 [T, top_k] cosine (`labels`) or attended score
                                                    (`key_captions`) of each; 0: none
         beside the shards
             `_captions.parquet`, a row per distinct caption: caption string, embedding tensor
             float32 [D]
             `_labels.safetensors`: text [L, D], embeddings of the labels' names; audio
             [folds + 1, L, A], their audio features (fold k's without the clips of fold k; the
             last one of all training clips); as metadata the labels' names and how they were chosen
Two ways (`mapping.via`), both measured:
    labels         the labels whose names are closest to the caption, by cosine of sentence
                   embeddings (Reimers & Gurevych 2019)
    key_captions   a dictionary whose keys are the captions of audible training clips and whose
                   values are the labels AST hears there: a caption attends to its closest key
                   captions, those of its own source excluded
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from safetensors.numpy import load_file, save_file

from audio_from_video.clipset import folds
from audio_from_video.evaluation import mapping as mapping_evaluation
from audio_from_video.meaning import similarity, stored_embeddings
from audio_from_video.meaning.key_captions import KeyCaptions
from audio_from_video.meaning.label_cut import label_cut
from audio_from_video.meaning.label_ranking import LOWEST_ATTENDED, Ranking, rank
from audio_from_video.meaning.settings import LABEL_CUT, MappingParams
from audio_from_video.meaning.stored_scores import StoredScores
from audio_from_video.runtime import params, stage_run
from audio_from_video.storage import accounting, fit_on, layout, shards
from audio_from_video.storage.row_file import scratch

TEXTS_PER_BLOCK = 4096  # whose cosines with all labels are held at a time


class Captioned:
    """All captions of all clips.

    clips: a dict per clip, as in the shards' index.  table: a row per clip with clip_id, split,
    source_id.  captions: a row per caption, in the clips' order, with clip_index, step, text (its
    number among the distinct `texts`) and the columns of `table`.
    """

    def __init__(self) -> None:
        self.clips = shards.ok_rows(layout.CAPTIONS)
        self.table = pd.DataFrame(self.clips, columns=["clip_id", "split", "source_id"])
        index_of = {clip_id: i for i, clip_id in enumerate(self.table.clip_id)}
        text_number: dict[str, int] = {}
        rows = []
        for row in shards.iter_rows(layout.CAPTIONS, ["steps", "captions"]):
            for step, text in zip(row["steps"], row["captions"], strict=True):
                number = text_number.setdefault(text, len(text_number))
                rows.append((index_of[row["clip_id"]], step, number))
        self.captions = pd.DataFrame(rows, columns=["clip_index", "step", "text"])
        self.captions[list(self.table)] = self.table.to_numpy()[self.captions.clip_index]
        self.texts = list(text_number)


class Mapped(NamedTuple):
    """What one way maps captions to.

    rows [n]: the captions.  ranking: of their labels [n, top_k + 1].  labels [n, top_k]: those that
    count; -1 where there is none.
    """

    rows: np.ndarray
    ranking: Ranking
    labels: np.ndarray


class Labels(NamedTuple):
    """The AudioSet labels that captions are mapped to."""

    names: list[str]
    text: np.ndarray  # [L, D] embeddings of the names
    audio: np.ndarray  # [folds + 1, L, A], the last one of all training clips


def main(stage: stage_run.StageRun) -> None:
    p = params.load("mapping", MappingParams)
    captioned = Captioned()
    names = shards.read_table(layout.LABEL_AUDIO_LABELS)["label"].to_pylist()
    vectors = stored_embeddings.embed(p.model, captioned.texts + names, stage.workers)
    embeddings = vectors[: len(captioned.texts)]
    labels = Labels(names, vectors[len(captioned.texts) :], read_label_audio())
    with scratch() as folder:
        ast_scores = StoredScores(folder / "label_scores", layout.AUDIO_FEATURES)
        measured = mapping_evaluation.measured_rows(captioned.captions, set(ast_scores))
        # Both ways are measured, whichever `via` names; one of them is written.  What is not
        # written is computed for what is measured alone.
        everything = np.arange(len(captioned.captions))
        asked = everything if p.via == "key_captions" else measured
        key_captions = KeyCaptions(captioned.captions, ast_scores)
        mapped = {
            "labels": map_by_names(captioned, embeddings, labels, p),
            "key_captions": map_by_key_captions(key_captions, captioned, embeddings, asked, p),
        }
        write_mapping(captioned, embeddings, labels, mapped[p.via], p)
        figures = mapping_figures(captioned, embeddings, labels, mapped, measured, ast_scores, p)
    for sentence in mapping_evaluation.hit_warnings(figures[p.via]):
        print(f"mapping: warning: {sentence}", file=sys.stderr)
    stage.write_metrics(
        {
            "clips": accounting.status_counts(shards.read_index(layout.CAPTIONS).to_pylist()),
            "via": p.via,
            "captions": len(captioned.captions),
            "distinct_captions": len(captioned.texts),
            **figures,
        }
    )


def read_label_audio() -> np.ndarray:
    """Return the labels' audio features [folds + 1, L, A], the last one of all training clips."""
    audio = load_file(layout.LABEL_AUDIO_FEATURES)
    return np.concatenate([audio["folds"], audio["whole"][None]])


def ranked_labels(labels: Labels, p: MappingParams) -> int:
    """Return how many labels of a caption are ranked: one more than count, to tell the margin."""
    return min(p.top_k + 1, len(labels.names))


def map_by_names(
    captioned: Captioned, embeddings: np.ndarray, labels: Labels, p: MappingParams
) -> Mapped:
    """Map captions to the labels of the closest names, by cosine; embeddings [U, D]."""
    width = ranked_labels(labels, p)
    numbers = np.zeros((len(embeddings), width), int)
    scores = np.zeros((len(embeddings), width), np.float32)
    for start in range(0, len(embeddings), TEXTS_PER_BLOCK):
        block = slice(start, start + TEXTS_PER_BLOCK)
        ranking = rank(similarity.cosines(embeddings[block], labels.text), width)
        numbers[block] = ranking.labels
        scores[block] = ranking.scores
    text = captioned.captions.text.to_numpy()
    ranking = Ranking(numbers[text], scores[text])
    return Mapped(np.arange(len(text)), ranking, ranking.best(p.top_k, p.min_similarity))


def map_by_key_captions(
    key_captions: KeyCaptions,
    captioned: Captioned,
    embeddings: np.ndarray,
    rows: np.ndarray,
    p: MappingParams,
) -> Mapped:
    """Map captions in some rows [n] to the labels that they attend to."""
    width = min(p.top_k + 1, key_captions.label_count)
    captions = captioned.captions.iloc[rows].reset_index(drop=True)
    numbers = np.zeros((len(rows), width), int)
    scores = np.zeros((len(rows), width))
    answers = key_captions.attend(embeddings, captions, p.key_captions, p.temperature)
    for places, attended in answers:
        ranking = rank(attended, width)
        numbers[places] = ranking.labels
        scores[places] = ranking.scores
    ranking = Ranking(numbers, scores)
    return Mapped(rows, ranking, ranking.best(p.top_k, LOWEST_ATTENDED))


def mapping_figures(
    captioned: Captioned,
    embeddings: np.ndarray,
    labels: Labels,
    mapped: dict[str, Mapped],
    measured: np.ndarray,
    ast_scores: StoredScores,
    p: MappingParams,
) -> dict[str, dict[str, Any]]:
    """Return the measures of each way, by split.

    measured: the rows of captions that count.  ast_scores: AST's label scores [L] by clip.
    """
    fold_count = params.read("generator", "folds", int)
    fitted = fit_on.fitted(captioned.table.clip_id)
    clip_folds = folds.of_clips(captioned.table, fold_count, fitted)
    captions = captioned.captions.iloc[measured].reset_index(drop=True)
    # Fold -1, of validation and test clips, is the last row of the labels' audio: the whole one.
    caption_folds = clip_folds[captions.clip_index]
    vectors = embeddings[captions.text.to_numpy()]  # [n, D]
    cut = label_cut(params.read("label_predictor", "threshold", LABEL_CUT))
    clip_ids = captions.clip_id.unique().tolist()
    references = mapping_evaluation.References(
        heard=mapping_evaluation.heard_labels({name: ast_scores[name] for name in clip_ids}, cut),
        true=mapping_evaluation.true_labels(labels.names),
        real=mapping_evaluation.centred_features(set(clip_ids)),
    )
    figures: dict[str, dict[str, Any]] = {}
    for way, found in mapped.items():
        places = np.searchsorted(found.rows, measured)
        numbers = found.labels[places]
        weights = label_weights(vectors, numbers, labels, p.temperature)
        audio = attended_audio(weights, numbers, labels, caption_folds)
        scores = found.ranking.scores[places]
        figures[way] = mapping_evaluation.figures_by_split(
            captions,
            mapping_evaluation.MappedCaptions(numbers, scores, weights, audio),
            references,
        )
    return figures


def label_weights(
    vectors: np.ndarray, numbers: np.ndarray, labels: Labels, temperature: float
) -> np.ndarray:
    """Return the attention [N, top_k] of captions [N, D] over their labels [N, top_k].

    It is the softmax of the cosines / temperature; 0 where there is no label.
    """
    cosines = (vectors[:, None] * labels.text[numbers]).sum(-1)
    return similarity.softmax(np.where(numbers >= 0, cosines, -np.inf), temperature)


def attended_audio(
    weights: np.ndarray, numbers: np.ndarray, labels: Labels, caption_folds: np.ndarray
) -> np.ndarray:
    """Return the audio features [N, A] of captions: those of their labels, weighted.

    caption_folds [N]: the labels' audio is the one that was made without this fold.
    """
    audio = labels.audio[caption_folds[:, None], numbers]  # [N, top_k, A]
    return (weights[..., None] * audio).sum(1)


def mapping_rows(captioned: Captioned, labels: np.ndarray, scores: np.ndarray) -> Iterator[dict]:
    """Yield the output's row of each clip; labels [N, top_k] and scores [N, top_k + 1]."""
    steps = params.read("frames", "count", int)
    top_k = labels.shape[1]
    of_clip = dict(tuple(captioned.captions.groupby("clip_index")))
    no_captions = captioned.captions.iloc[:0]
    for clip_index, clip in enumerate(captioned.clips):
        own = of_clip.get(clip_index, no_captions)
        caption = np.full(steps, -1)
        caption[own.step] = own.text
        clip_labels = np.full((steps, top_k), -1)
        clip_labels[own.step] = labels[own.index]
        clip_scores = np.zeros((steps, top_k), np.float32)
        own_scores = scores[own.index, :top_k]
        clip_scores[own.step] = np.where(labels[own.index] >= 0, own_scores, 0)
        yield {**clip, "caption": caption, "labels": clip_labels, "similarity": clip_scores}


def write_mapping(
    captioned: Captioned,
    embeddings: np.ndarray,
    labels: Labels,
    mapped: Mapped,
    p: MappingParams,
) -> None:
    """Write the output directory (see the module's docstring).

    embeddings [U, D] of the distinct captions; mapped: all captions.
    """

    def write_extras(folder: Path) -> None:
        embedding = shards.tensor(pa.float32(), embeddings.shape[1])
        schema = pa.schema([("caption", pa.string()), ("embedding", embedding)])
        rows = [
            {"caption": text, "embedding": vector}
            for text, vector in zip(captioned.texts, embeddings, strict=True)
        ]
        shards.write_table(shards.to_table(rows, schema), folder / "_captions.parquet")
        settings = p.model_dump(include={"model", "via", "top_k", "min_similarity"})
        # One entry of metadata: several would be written in an order that varies.
        about = {"mapping": json.dumps({"names": labels.names, **settings})}
        tensors = {"text": labels.text, "audio": labels.audio.astype(np.float32)}
        save_file(tensors, folder / "_labels.safetensors", about)

    steps = params.read("frames", "count", int)
    top_k = mapped.labels.shape[1]
    schema = pa.schema(
        [
            ("caption", shards.tensor(pa.int32(), steps)),
            ("labels", shards.tensor(pa.int32(), steps, top_k)),
            ("similarity", shards.tensor(pa.float32(), steps, top_k)),
        ]
    )
    rows = mapping_rows(captioned, mapped.labels, mapped.ranking.scores)
    index = [{**clip, "item_key": None} for clip in captioned.clips]
    version = stored_embeddings.version(p.model)
    shards.write(layout.MAPPING, schema, rows, index, version, extras=write_extras)


if __name__ == "__main__":
    stage_run.main(main, __doc__, "mapping")

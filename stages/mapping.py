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
from audio_from_video.runtime import params, stage_run
from audio_from_video.storage import accounting, fit_on, layout, shards


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
    ast_scores = {
        row["clip_id"]: row["label_scores"].astype(np.float32)
        for row in shards.iter_rows(layout.AUDIO_FEATURES, ["label_scores"])
    }

    # Both ways are measured, whichever `via` names; one of them is written.
    rankings = {"labels": rank_by_names(captioned, embeddings, labels, p)}
    width = rankings["labels"].labels.shape[1]
    key_captions = KeyCaptions(captioned.captions, ast_scores)
    rankings["key_captions"] = rank_by_key_captions(key_captions, captioned, embeddings, width, p)
    mapped = {
        "labels": rankings["labels"].best(p.top_k, p.min_similarity),
        "key_captions": rankings["key_captions"].best(p.top_k, LOWEST_ATTENDED),
    }
    write_mapping(captioned, embeddings, labels, mapped[p.via], rankings[p.via].scores, p)
    figures = mapping_figures(captioned, embeddings, labels, mapped, rankings, ast_scores, p)
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


def rank_by_names(
    captioned: Captioned, embeddings: np.ndarray, labels: Labels, p: MappingParams
) -> Ranking:
    """Rank the labels by the cosine of their names with the caption; embeddings [U, D]."""
    cosines = similarity.cosines(embeddings, labels.text)
    ranking = rank(cosines, min(p.top_k + 1, len(labels.names)))  # [U, top_k + 1]
    text = captioned.captions.text.to_numpy()
    return Ranking(ranking.labels[text], ranking.scores[text])


def rank_by_key_captions(
    key_captions: KeyCaptions,
    captioned: Captioned,
    embeddings: np.ndarray,
    width: int,
    p: MappingParams,
) -> Ranking:
    """Rank the labels by what the caption attends to; `width` labels a caption."""
    attended = key_captions.attend(
        embeddings, captioned.captions, p.key_captions, p.temperature
    )  # [N, L]
    return rank(attended, width)


def mapping_figures(
    captioned: Captioned,
    embeddings: np.ndarray,
    labels: Labels,
    mapped: dict[str, np.ndarray],
    rankings: dict[str, Ranking],
    ast_scores: dict[str, np.ndarray],
    p: MappingParams,
) -> dict[str, dict[str, Any]]:
    """Return the measures of each way, by split; ast_scores: AST's label scores [L] by clip."""
    fold_count = params.read("generator", "folds", int)
    fitted = fit_on.fitted(captioned.table.clip_id)
    clip_folds = folds.of_clips(captioned.table, fold_count, fitted)
    # Fold -1, of validation and test clips, is the last row of the labels' audio: the whole one.
    caption_folds = clip_folds[captioned.captions.clip_index]
    vectors = embeddings[captioned.captions.text.to_numpy()]  # [N, D]
    cut = label_cut(params.read("label_predictor", "threshold", LABEL_CUT))
    references = mapping_evaluation.References(
        heard=mapping_evaluation.heard_labels(ast_scores, cut),
        true=mapping_evaluation.true_labels(labels.names),
        real=mapping_evaluation.centred_features(),
    )
    figures: dict[str, dict[str, Any]] = {}
    for way, numbers in mapped.items():
        weights = label_weights(vectors, numbers, labels, p.temperature)
        audio = attended_audio(weights, numbers, labels, caption_folds)
        figures[way] = mapping_evaluation.figures_by_split(
            captioned.captions,
            mapping_evaluation.MappedCaptions(numbers, rankings[way].scores, weights, audio),
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
    mapped: np.ndarray,
    scores: np.ndarray,
    p: MappingParams,
) -> None:
    """Write the output directory (see the module's docstring).

    embeddings [U, D] of the distinct captions; mapped [N, top_k] and scores [N, top_k + 1].
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
    top_k = mapped.shape[1]
    schema = pa.schema(
        [
            ("caption", shards.tensor(pa.int32(), steps)),
            ("labels", shards.tensor(pa.int32(), steps, top_k)),
            ("similarity", shards.tensor(pa.float32(), steps, top_k)),
        ]
    )
    rows = mapping_rows(captioned, mapped, scores)
    index = [{**clip, "item_key": None} for clip in captioned.clips]
    version = stored_embeddings.version(p.model)
    shards.write(layout.MAPPING, schema, rows, index, version, extras=write_extras)


if __name__ == "__main__":
    stage_run.main(main, __doc__, "mapping")

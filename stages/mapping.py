"""Map the captions of representative frames to AudioSet labels, by meaning.

Reads    data/captions, data/audio_features (AST's label scores: values of the key captions, and for metrics),
         data/label_audio (with the labels' names), the text model; for metrics alone data/truth.parquet
Writes   data/mapping: all that architecture 2's generator is conditioned on; a row per clip:
             caption      tensor int32 [T]          number of the caption in `_captions.parquet`; -1: the step is no anchor
             labels       tensor int32 [T, top_k]   labels it was mapped to, best first; -1: none
             similarity   tensor float32 [T, top_k] cosine (`labels`) or attended score (`key_captions`) of each; 0: none
         beside the shards `_captions.parquet`: caption string, embedding tensor float32 [D], a row per distinct caption;
         `_labels.safetensors`: text [L, D] embeddings of the labels' names, audio [folds + 1, L, A] their audio features (fold
         k's without the clips of fold k; the last one of all training clips), and as metadata the labels' names and how they were chosen
Two ways (`mapping.via`), both measured:
    labels         the labels whose names are closest to the caption, by cosine of sentence embeddings (Reimers & Gurevych 2019)
    key_captions   a dictionary whose keys are the captions of audible training clips and whose values are the labels AST
                   hears there: a caption attends to its closest key captions, those of its own source excluded
"""

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import Field
from safetensors.numpy import load_file, save_file

from audio_from_video.backbones import text as text_backbone
from audio_from_video.clipset import folds
from audio_from_video.evaluation import mapping as mapping_evaluation
from audio_from_video.meaning import similarity
from audio_from_video.meaning.attention import attention
from audio_from_video.meaning.key_captions import KeyCaptions
from audio_from_video.runtime import parallel, params, stage_run
from audio_from_video.runtime.digests import digest
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.parallel import one_thread
from audio_from_video.runtime.worker import Failure
from audio_from_video.storage import accounting, item_store, layout, shards
from audio_from_video.storage.item_store import ItemStore

CAPTIONS, AUDIO, LABEL_AUDIO = (
    layout.CAPTIONS,
    layout.AUDIO_FEATURES,
    layout.LABEL_AUDIO,
)
CODE_VERSION = 1  # of backbones/text.py; raise it when a text gets another embedding
LIBRARIES = ("numpy", "sentence-transformers", "tokenizers", "torch", "transformers")
TEXTS_PER_TASK = 32


class MappingParams(params.Section):
    via: Literal["labels", "key_captions"]
    model: str
    top_k: int = Field(ge=1, le=527)
    min_similarity: float = Field(ge=-1, le=1)
    key_captions: int = Field(ge=1, le=1000)
    temperature: float = Field(gt=0)


class Captioned:
    """All captions.  clips: a dict per clip, as in the shards' index (`table`: as columns); captions: a row per caption, in the
    clips' order, with clip_id, split, source_id, row (the clip's), step, and text (its number among the distinct `texts`)."""

    def __init__(self) -> None:
        self.clips = shards.ok_rows(CAPTIONS)
        self.table = pd.DataFrame(self.clips, columns=["clip_id", "split", "source_id"])
        position = {name: i for i, name in enumerate(self.table.clip_id)}
        number: dict[str, int] = {}
        found = [
            (position[row["clip_id"]], step, number.setdefault(text, len(number)))
            for row in shards.iter_rows(CAPTIONS, ["steps", "captions"])
            for step, text in zip(row["steps"], row["captions"], strict=True)
        ]
        self.captions = pd.DataFrame(found, columns=["row", "step", "text"])
        self.captions[list(self.table)] = self.table.to_numpy()[self.captions.row]
        self.texts = list(number)


def embed_texts(task: tuple[str, list[str]]) -> dict:
    """Embeddings [n, D] of some texts (runs in a worker)."""
    return {"embeddings": text_backbone.embed(*task)}


def embed(stage: stage_run.StageRun, model: str, texts: list[str]) -> tuple[np.ndarray, str]:
    """Normalised embeddings [N, D], each text through the model once, ever: they are kept in the item store, whose version
    comes with them."""
    version = item_store.version(
        "text_embeddings", CODE_VERSION, text_backbone.revision(model), libraries=LIBRARIES
    )
    width = text_backbone.embed(model, texts[:1]).shape[1]
    with ItemStore(
        "text_embeddings", version, pa.schema([("embedding", shards.tensor(pa.float32(), width))])
    ) as store:

        def compute(payloads):
            payloads = list(payloads)
            parts = [
                (model, payloads[i : i + TEXTS_PER_TASK])
                for i in range(0, len(payloads), TEXTS_PER_TASK)
            ]
            for found in parallel.map_items(
                embed_texts, parts, stage.workers, initializer=one_thread
            ):
                if isinstance(found, Failure):
                    raise UserError(
                        f"embedding the captions failed: {found.reason}; the machine may lack memory, try --workers 1"
                    )
                yield from ({"embedding": vector} for vector in found["embeddings"])

        keys = [digest(text) for text in texts]
        stage.fill(store, list(zip(keys, texts, strict=True)), len(texts), compute)
        return np.stack([store[key]["embedding"] for key in keys]), version


def closest_labels(
    captions: np.ndarray, labels: np.ndarray, p: MappingParams
) -> tuple[np.ndarray, np.ndarray]:
    """`labels`: for caption embeddings [U, D] and label embeddings [L, D] the top_k + 1 closest labels and their cosines
    [U, top_k + 1] (the last one is there to tell the margin)."""
    cosine = similarity.cosines(captions, labels)
    best = similarity.closest(cosine, min(p.top_k + 1, len(labels)))
    return best, np.take_along_axis(cosine, best, 1)


def main(stage: stage_run.StageRun) -> None:
    p = params.load("mapping", MappingParams)
    found = Captioned()
    names = shards.read_table(LABEL_AUDIO / "labels.parquet")["label"].to_pylist()
    everything, version = embed(stage, p.model, found.texts + names)
    embeddings, label_text = everything[: len(found.texts)], everything[len(found.texts) :]
    scores = {
        row["clip_id"]: row["label_scores"].astype(np.float32)
        for row in shards.iter_rows(AUDIO, ["label_scores"])
    }
    text = found.captions.text.to_numpy()
    best, cosine = closest_labels(embeddings, label_text, p)
    attended = KeyCaptions(found.captions, scores).attend(
        embeddings, found.captions, p.key_captions, p.temperature
    )
    keyed = similarity.closest(attended, best.shape[1])
    ranked = {
        "labels": (best[text], cosine[text]),
        "key_captions": (keyed, np.take_along_axis(attended, keyed, 1)),
    }
    chosen = {
        way: np.where(
            values[:, : p.top_k] >= (p.min_similarity if way == "labels" else 1e-6),
            labels[:, : p.top_k],
            -1,
        )
        for way, (labels, values) in ranked.items()
    }
    audio = load_file(LABEL_AUDIO / "features.safetensors")
    label_audio = np.concatenate([audio["folds"], audio["whole"][None]])
    write(
        found,
        embeddings,
        names,
        label_text,
        label_audio,
        chosen[p.via],
        ranked[p.via][1],
        version,
        p,
    )
    fold = folds.of_clips(found.table, params.read("generator", "folds", int))[found.captions.row]
    heard, true = mapping_evaluation.heard_labels(scores), mapping_evaluation.true_labels(names)
    real = mapping_evaluation.centred_features()
    measured = {}
    for way, labels in chosen.items():
        cosines = (embeddings[text][:, None] * label_text[labels]).sum(-1)
        weights = attention(np.where(labels >= 0, cosines, -np.inf), p.temperature)
        condition = (weights[..., None] * label_audio[fold[:, None], labels]).sum(1)
        measured[way] = mapping_evaluation.measure(
            found.captions, labels, ranked[way][1], weights, heard, true, condition, real
        )
    stage.write_metrics(
        {
            "clips": accounting.status_counts(shards.read_index(CAPTIONS).to_pylist()),
            "via": p.via,
            "captions": len(text),
            "distinct_captions": len(found.texts),
            **measured,
        }
    )


def write(
    found: Captioned,
    embeddings: np.ndarray,
    names: list[str],
    label_text: np.ndarray,
    label_audio: np.ndarray,
    labels: np.ndarray,
    similarity: np.ndarray,
    version: str,
    p: MappingParams,
) -> None:
    """The output directory (see the module's docstring)."""
    steps, top_k = params.read("frames", "count", int), labels.shape[1]
    groups, nothing = dict(tuple(found.captions.groupby("row"))), found.captions.iloc[:0]

    def rows():
        for i, clip in enumerate(found.clips):
            mine = groups.get(i, nothing)
            row = {
                "caption": np.full(steps, -1),
                "labels": np.full((steps, top_k), -1),
                "similarity": np.zeros((steps, top_k), np.float32),
            }
            row["caption"][mine.step] = mine.text
            row["labels"][mine.step] = labels[mine.index]
            row["similarity"][mine.step] = np.where(
                labels[mine.index] >= 0, similarity[mine.index, :top_k], 0
            )
            yield {**clip, **row}

    def extras(folder: Path) -> None:
        schema = pa.schema(
            [
                ("caption", pa.string()),
                ("embedding", shards.tensor(pa.float32(), embeddings.shape[1])),
            ]
        )
        texts = [
            {"caption": text, "embedding": vector}
            for text, vector in zip(found.texts, embeddings, strict=True)
        ]
        shards.write_table(shards.to_table(texts, schema), folder / "_captions.parquet")
        tensors = {"text": label_text, "audio": label_audio.astype(np.float32)}
        settings = p.model_dump(include={"model", "via", "top_k", "min_similarity"})
        about = json.dumps(
            {"names": names, **settings}
        )  # one entry: several would be written in an order that varies
        save_file(tensors, folder / "_labels.safetensors", {"mapping": about})

    schema = pa.schema(
        [
            ("caption", shards.tensor(pa.int32(), steps)),
            ("labels", shards.tensor(pa.int32(), steps, top_k)),
            ("similarity", shards.tensor(pa.float32(), steps, top_k)),
        ]
    )
    index = [{**clip, "item_key": None} for clip in found.clips]
    shards.write(layout.MAPPING, schema, rows(), index, version, extras=extras)


if __name__ == "__main__":
    stage_run.main(main, __doc__, "mapping")

"""Sentence embeddings that the item store keeps: a text goes through a model once, ever.

Several stages need the embeddings of AudioSet's label names, and loading a text model takes longer
than a hundred texts.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from audio_from_video.backbones import text as text_backbone
from audio_from_video.runtime import parallel
from audio_from_video.runtime.digests import digest
from audio_from_video.runtime.parallel import one_thread
from audio_from_video.runtime.worker import require_result
from audio_from_video.storage import item_store
from audio_from_video.storage.item_store import ItemStore

CODE_VERSION = 1  # of backbones/text.py; raise it when a text gets another embedding
LIBRARIES = ("numpy", "sentence-transformers", "tokenizers", "torch", "transformers")
STORE = "embeddings"
SCHEMA = pa.schema([("embedding", pa.list_(pa.float32()))])
TEXTS_PER_TASK = 32


def version(model: str) -> str:
    """Return the version of a text model's embeddings in the item store."""
    return item_store.version(
        STORE, CODE_VERSION, text_backbone.revision(model), libraries=LIBRARIES
    )


def embed(model: str, texts: list[str], workers: int = 1) -> np.ndarray:
    """Return L2-normalised embeddings [N, D] float32 of N texts, as `backbones.text.embed` does.

    workers: processes for texts that are not stored yet.  Raises UserError when one fails.
    """
    if not texts:
        return text_backbone.embed(model, texts)
    keys = [digest(text) for text in texts]

    def compute(missing: Iterator[str]) -> Iterator[dict]:
        for vectors in _embed_in_parts(model, list(missing), workers):
            for vector in vectors:
                yield {"embedding": vector.tolist()}

    with ItemStore(STORE, version(model), SCHEMA) as store:
        # A key may occur twice, and is looked up before it is stored.
        distinct = dict(zip(keys, texts, strict=True))
        store.fill(distinct.items(), compute)
        vectors = {key: store[key]["embedding"] for key in distinct}
    return np.array([vectors[key] for key in keys], np.float32)


def _embed_in_parts(model: str, texts: list[str], workers: int) -> Iterator[np.ndarray]:
    """Yield the embeddings [n, D] of consecutive parts of the texts."""
    parts = [texts[i : i + TEXTS_PER_TASK] for i in range(0, len(texts), TEXTS_PER_TASK)]
    if workers == 1:
        for part in parts:
            yield text_backbone.embed(model, part)
        return
    tasks = [(model, part) for part in parts]
    for result in parallel.map_items(_embed_part, tasks, workers, initializer=one_thread):
        yield require_result(result, "embedding texts")


def _embed_part(task: tuple[str, list[str]]) -> np.ndarray:
    """Return the embeddings [n, D] of some texts (runs in a worker)."""
    model, texts = task
    return text_backbone.embed(model, texts)

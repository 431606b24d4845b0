"""What the generator of architecture 2 is conditioned on, as training needs it: files of rows with random access.

Reads data/mapping (see stages/mapping.py for its contents).
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from stages.common import shards
from stages.common.features import Features, noted
from stages.common.item_store import digest
from stages.common.networks.mapping_generator import Anchors
from stages.common.training import RowFile

MAPPING = Path("data/mapping")


class Conditions:
    """Anchors of clips by row number, as in `Features`; what training clips get was made without their fold.

    captions: the distinct captions; embedding [captions, D]; label_text [L, D]; label_audio [folds + 1, L, A], the last one
    made of all training clips.  Not `mapped`: anchors without labels, for the ablation.
    """

    def __init__(self, folder: Path, data: Features, fold: np.ndarray, mapped: bool = True):
        names: list[str] = []
        columns = {"caption": "int32", "labels": "int32"}
        self._files = {
            name: RowFile(folder / name, shards.tensor_shape(MAPPING, name), dtype).write(
                noted(names if name == "caption" else [], shards.iter_rows(MAPPING, [name]), name)
            )
            for name, dtype in columns.items()
        }
        position = {name: i for i, name in enumerate(names)}
        self._mapped = mapped
        self._position = np.array([position[name] for name in data.clips.clip_id])
        self._fold = torch.from_numpy(fold)  # -1, validation and test, is label_audio's last
        table = shards.read_table(MAPPING / "_captions.parquet")
        self.captions: list[str] = table["caption"].to_pylist()
        self.embedding = torch.from_numpy(shards.as_array(table["embedding"]).astype(np.float32))
        with safe_open(MAPPING / "_labels.safetensors", "pt") as file:
            self.settings: dict = json.loads(
                file.metadata()["mapping"]
            )  # model, via, top_k and min_similarity of the mapping
            self.labels: list[str] = self.settings.pop("names")
            self.label_text, self.label_audio = file.get_tensor("text"), file.get_tensor("audio")

    def key(self) -> str:
        """Digest of everything that a training reads from here: part of a checkpoint's key."""
        tensors = (self.embedding, self.label_text, self.label_audio)
        contents = [
            hashlib.blake2b(tensor.numpy().tobytes(), digest_size=16).hexdigest()
            for tensor in tensors
        ]
        files = [file.digest() for file in self._files.values()]
        return digest(
            contents, files, self._position.tolist(), self._mapped, self.settings, self.captions
        )

    def read(self, rows: torch.Tensor) -> Anchors:
        """The anchors of the given rows."""
        caption, labels = self.numbers(rows)
        return self.anchors(rows, caption, labels, self.embedding, self.label_text)

    def numbers(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The caption [B, T] and the labels [B, T, k] of each step by number; -1 where there is none."""
        where = self._position[rows.numpy()].tolist()
        labels = self._files["labels"].read(where)
        return self._files["caption"].read(where), labels if self._mapped else torch.full_like(
            labels, -1
        )

    def anchors(
        self,
        rows: torch.Tensor,
        caption: torch.Tensor,
        labels: torch.Tensor,
        embedding: torch.Tensor,
        label_text: torch.Tensor,
    ) -> Anchors:
        """Anchors with the given text embeddings of all captions and all labels."""
        present = caption >= 0
        known = labels.clamp(min=0)
        audio = self.label_audio[self._fold[rows][:, None, None], known]
        return Anchors(
            present,
            embedding[caption.clamp(min=0)],
            label_text[known],
            audio,
            (labels >= 0) & present[..., None],
        )

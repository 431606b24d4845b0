"""What the generator of architecture 2 is conditioned on, as training needs it: files of rows with random access.

Reads data/mapping (see stages/mapping.py for its contents).
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import nn

from audio_from_video.backbones import text as text_backbone
from audio_from_video.generation.networks import Anchors
from audio_from_video.learning.features import Features, noted
from audio_from_video.runtime.digests import digest
from audio_from_video.storage import layout, shards
from audio_from_video.storage.row_file import RowFile

MAPPING = layout.MAPPING


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


BATCH = 128  # texts encoded at a time where no gradient is wanted


class TextEncoder(nn.Module):
    """A sentence-transformers model over a fixed list of texts, whose `trained` part (its embedding layer, or all of it)
    learns; normalised embeddings as in `text_embedding.embed`, up to the rounding that comes with batches."""

    def __init__(self, name: str, texts: list[str], trained: str):
        super().__init__()
        self.model = text_backbone.load(name)
        self.texts = texts
        self.requires_grad_(False)
        part = self.model[0].model.embeddings if trained == "embeddings" else self.model
        part.requires_grad_(True)

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        """Embeddings [n, D] of the texts of these numbers [n], with gradient where one is wanted."""
        device = next(self.model.parameters()).device
        features = {
            key: value.to(device)
            for key, value in self.model.preprocess(
                [self.texts[i] for i in numbers.tolist()]
            ).items()
            if isinstance(value, torch.Tensor)
        }
        return nn.functional.normalize(self.model(features)["sentence_embedding"], dim=-1)

    @torch.no_grad()
    def all(self) -> torch.Tensor:
        """Embeddings [texts, D] of all texts, as constants."""
        return torch.cat([self(part) for part in torch.arange(len(self.texts)).split(BATCH)])


class TunedConditions:
    """Conditions whose text embeddings, and with them the mapping to labels, follow a text encoder that learns.

    In training a batch's captions and labels are encoded with gradient; `refresh` encodes all texts anew and maps captions
    to labels again (only with `via: labels`: with key captions the labels stay those of the mapping stage).
    """

    def __init__(
        self,
        conditions: Conditions,
        encoder: TextEncoder,
        via: str,
        top_k: int,
        min_similarity: float,
    ):
        self.conditions, self.encoder = conditions, encoder
        self.remaps, self.top_k, self.min_similarity = via == "labels", top_k, min_similarity
        self.refresh()

    def refresh(self) -> None:
        """To be called whenever the encoder has changed and a constant answer is wanted."""
        everything = self.encoder.all()
        captions = len(self.conditions.captions)
        self.embedding, self.label_text = everything[:captions], everything[captions:]
        similarity, labels = (self.embedding @ self.label_text.T).topk(self.top_k, dim=1)
        self.labels = labels.masked_fill(
            similarity < self.min_similarity, -1
        ).cpu()  # [captions, k]

    def numbers(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        caption, labels = self.conditions.numbers(rows)
        if self.remaps:
            labels = self.labels[caption.clamp(min=0)].masked_fill((caption < 0)[..., None], -1)
        return caption, labels

    def read(self, rows: torch.Tensor) -> Anchors:
        """The anchors of the given rows; their texts carry gradient while the encoder is in training."""
        caption, labels = self.numbers(rows)
        if not self.encoder.training:
            return self.conditions.anchors(
                rows, caption, labels, self.embedding.cpu(), self.label_text.cpu()
            )
        wanted, place = caption.clamp(min=0).unique(return_inverse=True)
        named, label_place = labels.clamp(min=0).unique(return_inverse=True)
        texts = self.encoder(torch.cat([wanted, named + len(self.conditions.captions)]))
        anchors = self.conditions.anchors(
            rows, caption, labels, self.embedding.cpu(), self.label_text.cpu()
        )
        return Anchors(
            anchors.present,
            texts[: len(wanted)][place],
            texts[len(wanted) :][label_place],
            anchors.audio,
            anchors.valid,
        )

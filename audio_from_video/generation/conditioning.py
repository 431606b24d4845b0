"""What architecture 2's generator is conditioned on: captions and the labels they are mapped to.

`Conditioning` reads data/mapping into files of rows with random access (see stages/mapping.py for
its contents). `TunedConditioning` follows a text encoder that is fine-tuned inside the generator,
through the attention weights.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import nn

from audio_from_video.backbones import text as text_backbone
from audio_from_video.generation.networks import Anchors
from audio_from_video.learning.features import Features, iter_column
from audio_from_video.runtime.digests import digest, new_hash
from audio_from_video.storage import layout, shards
from audio_from_video.storage.row_file import RowFile

TEXTS_PER_BATCH = 128  # where no gradient is needed


@dataclass(frozen=True)
class MappedCaptions:
    """Captions and labels of clips' steps, as indices; -1 where there is none.

    captions [B, T]: of `Conditioning.captions`.
    labels [B, T, k]: of `Conditioning.labels`.
    """

    captions: torch.Tensor
    labels: torch.Tensor


class Conditioning:
    """Anchors of clips by index, as in `Features`.

    What training clips get was made without their fold. Not `mapped`: anchors without labels, for
    the ablation.

    captions: the distinct captions; caption_text [captions, D]: their embeddings.
    labels: names of AudioSet labels; label_text [L, D]: their embeddings.
    label_audio [folds + 1, L, A]: the last one is made of all training clips.
    settings: model, via, top_k and min_similarity of the mapping.
    """

    def __init__(self, folder: Path, data: Features, fold: np.ndarray, mapped: bool = True):
        names: list[str] = []
        caption_rows = iter_column(shards.iter_rows(layout.MAPPING, ["caption"]), "caption", names)
        label_rows = iter_column(shards.iter_rows(layout.MAPPING, ["labels"]), "labels", [])
        self._captions = self._row_file(folder, "caption").write(caption_rows)
        self._labels = self._row_file(folder, "labels").write(label_rows)

        position = {name: i for i, name in enumerate(names)}
        # The mapping also holds clips whose video could not be read.
        self._position = np.array([position[name] for name in data.clips.clip_id])
        self._fold = torch.from_numpy(fold)  # -1, validation and test, is label_audio's last
        self._mapped = mapped

        table = shards.read_table(layout.MAPPING / "_captions.parquet")
        self.captions: list[str] = table["caption"].to_pylist()
        self.caption_text = torch.from_numpy(shards.as_array(table["embedding"]).astype(np.float32))
        with safe_open(layout.MAPPING / "_labels.safetensors", "pt") as file:
            self.settings: dict = json.loads(file.metadata()["mapping"])
            self.labels: list[str] = self.settings.pop("names")
            self.label_text = file.get_tensor("text")
            self.label_audio = file.get_tensor("audio")

    @staticmethod
    def _row_file(folder: Path, column: str) -> RowFile:
        """A file for a column of indices."""
        return RowFile(folder / column, shards.tensor_shape(layout.MAPPING, column), "int32")

    def key(self) -> str:
        """Return a digest of all that a training reads from here: part of a checkpoint's key."""
        contents = []
        for tensor in (self.caption_text, self.label_text, self.label_audio):
            content = tensor.numpy().tobytes()
            contents.append(new_hash(content).hexdigest())
        files = [self._captions.digest(), self._labels.digest()]
        positions = self._position.tolist()
        return digest(contents, files, positions, self._mapped, self.settings, self.captions)

    def mapped_captions(self, clip_indices: torch.Tensor) -> MappedCaptions:
        """The caption and the labels of each step of clips [B]."""
        positions = self._position[clip_indices.numpy()].tolist()
        captions = self._captions.read(positions)
        labels = self._labels.read(positions)
        if not self._mapped:
            labels = torch.full_like(labels, -1)
        return MappedCaptions(captions, labels)

    def read(self, clip_indices: torch.Tensor) -> Anchors:
        """Return the anchors of clips [B]."""
        mapped = self.mapped_captions(clip_indices)
        caption = self.caption_text[mapped.captions.clamp(min=0)]
        labels, places = mapped.labels.clamp(min=0).unique(return_inverse=True)
        return self.anchors(clip_indices, mapped, caption, self.label_text[labels], places)

    def anchors(
        self,
        clip_indices: torch.Tensor,
        mapped: MappedCaptions,
        caption: torch.Tensor,
        text: torch.Tensor,
        places: torch.Tensor,
    ) -> Anchors:
        """Anchors with text embeddings of captions [B, T, D] and of the labels that occur [L, D].

        places [B, T, k]: of each step's labels in `text`.
        """
        present = mapped.captions >= 0
        fold = self._fold[clip_indices][:, None, None]
        audio = self.label_audio[fold, mapped.labels.clamp(min=0)]
        valid = (mapped.labels >= 0) & present[..., None]
        return Anchors(present, caption, text, places, audio, valid)


class TextEncoder(nn.Module):
    """A sentence-transformers model over a fixed list of texts, of which a part learns.

    trained: `embeddings`, its embedding layer, or `all` of it. Embeddings are normalised, as in
    `backbones.text.embed`, up to the rounding that comes with batches.
    """

    def __init__(self, name: str, texts: list[str], trained: str):
        super().__init__()
        self.model = text_backbone.load(name)
        self.texts = texts
        self.requires_grad_(False)
        part = self.model[0].model.embeddings if trained == "embeddings" else self.model
        part.requires_grad_(True)

    def forward(self, text_indices: torch.Tensor) -> torch.Tensor:
        """Embeddings [n, D] of texts [n], with gradient unless it is switched off."""
        device = next(self.model.parameters()).device
        texts = [self.texts[i] for i in text_indices.tolist()]
        inputs = {}
        for key, value in self.model.preprocess(texts).items():
            if isinstance(value, torch.Tensor):
                inputs[key] = value.to(device)
        embeddings = self.model(inputs)["sentence_embedding"]
        return nn.functional.normalize(embeddings, dim=-1)

    @torch.no_grad()
    def all(self) -> torch.Tensor:
        """Return embeddings [texts, D] of all texts, as constants."""
        parts = torch.arange(len(self.texts)).split(TEXTS_PER_BATCH)
        return torch.cat([self(part) for part in parts])


class TunedConditioning:
    """Conditioning whose text embeddings, and the mapping to labels, follow an encoder that learns.

    In training a batch's captions and labels are encoded with gradient. `refresh` encodes all texts
    anew and maps captions to labels again; with `via: key_captions` the labels stay those of the
    mapping stage.
    """

    def __init__(self, conditioning: Conditioning, encoder: TextEncoder):
        settings = conditioning.settings
        self.conditioning = conditioning
        self.encoder = encoder
        self.maps_again = settings["via"] == "labels"
        self.top_k: int = settings["top_k"]
        self.min_similarity: float = settings["min_similarity"]
        self.refresh()

    def refresh(self) -> None:
        """Encode all texts by the encoder as it is; needed before constants are read."""
        embeddings = self.encoder.all()
        captions = len(self.conditioning.captions)
        self.caption_text = embeddings[:captions]
        self.label_text = embeddings[captions:]
        cosines = (
            self.caption_text @ self.label_text.T
        )  # [captions, L]: embeddings are unit vectors
        similarity, labels = cosines.topk(self.top_k, dim=1)
        dissimilar = similarity < self.min_similarity
        self.labels_of_caption = labels.masked_fill(dissimilar, -1).cpu()  # [captions, k]

    def mapped_captions(self, clip_indices: torch.Tensor) -> MappedCaptions:
        """The caption and, as `refresh` mapped it, the labels of each step of clips [B]."""
        mapped = self.conditioning.mapped_captions(clip_indices)
        if not self.maps_again:
            return mapped
        labels = self.labels_of_caption[mapped.captions.clamp(min=0)]
        absent = (mapped.captions < 0)[..., None]
        return MappedCaptions(mapped.captions, labels.masked_fill(absent, -1))

    def read(self, clip_indices: torch.Tensor) -> Anchors:
        """Return the anchors of clips [B].

        While the encoder is in training, their texts carry gradient.
        """
        mapped = self.mapped_captions(clip_indices)
        captions = mapped.captions.clamp(min=0)
        labels, places = mapped.labels.clamp(min=0).unique(return_inverse=True)
        if not self.encoder.training:
            caption = self.caption_text.cpu()[captions]
            text = self.label_text.cpu()[labels]
            return self.conditioning.anchors(clip_indices, mapped, caption, text, places)

        # A text that stands at several steps is encoded once.
        unique_captions, caption_places = captions.unique(return_inverse=True)
        label_texts = labels + len(self.conditioning.captions)
        embeddings = self.encoder(torch.cat([unique_captions, label_texts]))
        caption = embeddings[: len(unique_captions)][caption_places]
        text = embeddings[len(unique_captions) :]
        return self.conditioning.anchors(clip_indices, mapped, caption, text, places)

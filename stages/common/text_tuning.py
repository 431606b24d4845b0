"""Fine-tuning of the mapping's text encoder inside the generator, through the attention weights."""

import torch
from torch import nn

from stages.common import text_embedding
from stages.common.conditions import Conditions
from stages.common.networks.mapping_generator import Anchors

BATCH = 128  # texts encoded at a time where no gradient is wanted


class TextEncoder(nn.Module):
    """A sentence-transformers model over a fixed list of texts, whose `trained` part (its embedding layer, or all of it)
    learns; normalised embeddings as in `text_embedding.embed`, up to the rounding that comes with batches."""

    def __init__(self, name: str, texts: list[str], trained: str):
        super().__init__()
        self.model = text_embedding.load(name)
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

"""GIT, frozen or with fine-tuned weights: images to captions.

Wang et al. 2022; transformers.GitForCausalLM.  One decoder reads the picture outputs, a start
token, the prompt and the caption in a row.  A fine-tuned decoder (captioning/fine_tuning.py) is a
file of weights beside the model.  It is asked with TAGS_PROMPT, the published model with the prompt
of its settings, or without one.
"""

import copy
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from audio_from_video.backbones import hub
from audio_from_video.backbones.prompted_captioners import FixedSizeCaptioner
from audio_from_video.backbones.settings import (
    PUBLISHED_WEIGHTS,
    TAGS_PROMPT,
    CaptionerSettings,
)
from audio_from_video.backbones.tuned_weights import load_weights
from audio_from_video.runtime.errors import UserError

IGNORED = -100  # a label that cross-entropy leaves out
WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json")


class EncoderOutput(NamedTuple):
    """What GIT reads of its picture encoder's answer."""

    last_hidden_state: torch.Tensor  # [N, P, D]


class StoredOutputs(torch.nn.Module):
    """Takes the picture encoder's place in a decoder, whose pictures are the encoder's outputs."""

    def forward(
        self, outputs: torch.Tensor, interpolate_pos_encoding: bool = False
    ) -> EncoderOutput:
        """Return outputs [N, 1, P, D], four axes like those of pictures, as [N, P, D]."""
        return EncoderOutput(outputs[:, 0])


class GitCaptioner(FixedSizeCaptioner):
    """GIT: a caption follows the picture and a start token, with a prompt after both."""

    published = "microsoft/git-base-coco"

    def __init__(self, settings: CaptionerSettings, device: str | None = None):
        """See PromptedCaptioner."""
        super().__init__(settings, device)
        self._decoders: dict[str, torch.nn.Module] = {}

    @property
    def pad_id(self) -> int:
        """The id of padding behind captions."""
        return self.model.config.pad_token_id

    @cached_property
    def prompt_ids(self) -> list[int]:
        return self._start_ids(self.settings.prompt)

    def _start_ids(self, prompt: str) -> list[int]:
        """Return the ids that a caption begins with: the start token and the prompt."""
        prompt_tokens = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        return [self.model.config.bos_token_id, *prompt_tokens]

    def captions(
        self, pictures: dict[str, np.ndarray], weights: str = PUBLISHED_WEIGHTS
    ) -> list[str]:
        """See `captioners.Captioner`."""
        if weights == PUBLISHED_WEIGHTS:
            return super().captions(pictures)
        ids = self.generate(
            self.decoder(weights),
            self.encode(pictures),
            TAGS_PROMPT,
            num_beams=self.settings.beams,
            do_sample=False,
        )
        return self.texts(ids, TAGS_PROMPT)

    def encode(self, pictures: dict[str, np.ndarray]) -> torch.Tensor:
        """Return picture outputs [N, P, D] float32, which the decoder reads."""
        with torch.inference_mode(), hub.autocast(self.device):
            values = self._preprocessor.normalise(pictures["pixels"])
            return self.model.git.image_encoder(values).last_hidden_state.float()

    def decoder(self, weights: str = PUBLISHED_WEIGHTS) -> torch.nn.Module:
        """Return a copy of the model without its picture encoder, kept for the next call.

        Its weights are the published ones, or those of a file.
        """
        if weights not in self._decoders:
            decoder = copy.deepcopy(self.model)
            decoder.git.image_encoder = StoredOutputs()
            if weights != PUBLISHED_WEIGHTS:
                load_weights(decoder, Path(weights).read_bytes())
            self._decoders[weights] = decoder
        return self._decoders[weights]

    @torch.no_grad()
    def generate(self, decoder, outputs: torch.Tensor, prompt: str, **search) -> torch.Tensor:
        """Return token ids [N, tokens] of captions, the prompt included.

        outputs: of the pictures [N, P, D].  search: options of transformers' generate, such as
        num_beams.
        """
        start = self._start_ids(prompt)
        most = self.model.config.max_position_embeddings
        if len(start) >= most:
            raise UserError(
                f"captions.prompt = '{prompt}': it has {len(start)} tokens, and "
                f"'{self.settings.model}' reads {most} at most, the caption included"
            )
        ids = torch.tensor([start] * len(outputs), device=self.device)
        with hub.autocast(self.device):
            return decoder.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                pixel_values=outputs[:, None].to(self.device),
                max_new_tokens=min(self.settings.max_tokens, most - len(start)),
                **search,
            )

    def texts(self, ids: torch.Tensor, prompt: str) -> list[str]:
        """Return the captions of token ids [N, tokens], in lower case and without the prompt."""
        after_prompt = ids[:, len(self._start_ids(prompt)) :]
        decoded = self.tokenizer.batch_decode(after_prompt, skip_special_tokens=True)
        return [" ".join(text.lower().split()) for text in decoded]

    def loss(self, decoder, outputs: torch.Tensor, texts: list[str], prompt: str) -> torch.Tensor:
        """Return the cross-entropy of N captions given picture outputs [N, P, D], a scalar.

        It is the mean over all tokens after the prompt, each caption's end included.
        """
        config = self.model.config
        start = self._start_ids(prompt)
        rows = []
        for tokens in self.tokenizer(texts, add_special_tokens=False)["input_ids"]:
            row = [*start, *tokens, config.eos_token_id]
            rows.append(torch.tensor(row[: config.max_position_embeddings]))
        ids = pad_sequence(rows, batch_first=True, padding_value=self.pad_id)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        return self.loss_of_ids(decoder, outputs, ids, mask, prompt)

    def loss_of_ids(
        self,
        decoder,
        outputs: torch.Tensor,
        ids: torch.Tensor,
        mask: torch.Tensor,
        prompt: str,
        reduction: str = "mean",
    ) -> torch.Tensor:
        """Return the cross-entropy of token ids [N, tokens] given picture outputs [N, P, D].

        mask [N, tokens] is 0 at padding.  With reduction `mean` a scalar, with `none` each
        caption's sum over its tokens [N].
        """
        ids = ids.to(self.device)
        mask = mask.to(self.device)
        # The prompt is given, not learned.
        labels = ids.masked_fill(mask == 0, IGNORED)
        labels[:, : len(self._start_ids(prompt))] = IGNORED
        with hub.autocast(self.device):
            logits = decoder(
                input_ids=ids,
                attention_mask=mask,
                pixel_values=outputs[:, None].to(self.device),
                use_cache=False,
            ).logits  # [N, P + tokens, words]
        before = logits[:, -ids.shape[1] : -1]  # what comes before a token predicts it
        surprise = functional.cross_entropy(
            before.transpose(1, 2).float(), labels[:, 1:], ignore_index=IGNORED, reduction=reduction
        )
        return surprise if reduction == "mean" else surprise.sum(1)

    def save(self, folder: Path, weights: str = PUBLISHED_WEIGHTS) -> None:
        """Write a Hugging Face directory of the model with these decoder weights."""
        super().save(folder)
        if weights == PUBLISHED_WEIGHTS:
            return
        for pattern in WEIGHT_FILES:
            for path in folder.glob(pattern):
                path.unlink()
        tuned = copy.deepcopy(self.model)
        load_weights(tuned, Path(weights).read_bytes())
        tuned.save_pretrained(folder)

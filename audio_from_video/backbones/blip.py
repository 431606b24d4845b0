"""BLIP, frozen or with fine-tuned weights: images to captions.

Li et al. 2022; transformers.BlipForConditionalGeneration.  A fine-tuned decoder
(captioning/fine_tuning.py) is a file of weights beside the model.  It is asked with TAGS_PROMPT,
the published model with the prompt of its settings, or without one.
"""

import copy
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from audio_from_video.backbones import hub, pixels
from audio_from_video.backbones.settings import (
    PUBLISHED_WEIGHTS,
    TAGS_PROMPT,
    CaptionerSettings,
)
from audio_from_video.backbones.tuned_weights import dump_weights, load_weights
from audio_from_video.runtime.errors import UserError

if TYPE_CHECKING:
    from transformers import BlipForConditionalGeneration

IGNORED = -100  # a label that cross-entropy leaves out


class BlipCaptioner:
    """A BLIP model with its processor.

    The weights are loaded when they are needed first: resizing pictures takes the processor alone.
    """

    def __init__(self, settings: CaptionerSettings, device: str | None = None):
        """Load the processor; the model will run on `device` (default: `hub.device()`).

        Raises UserError when the model cannot be found.
        """
        from transformers import BlipProcessor

        self.settings = settings
        self.device = device or hub.device()
        self.processor = hub.load_pretrained(BlipProcessor, settings.model, "a BLIP processor")
        self._decoders: dict[str, torch.nn.Module] = {}

    @cached_property
    def model(self) -> "BlipForConditionalGeneration":
        """The model on its device; UserError when its weights are pickled, missing or damaged."""
        from transformers import BlipForConditionalGeneration

        name = self.settings.model
        hub.require_safetensors(name, BlipForConditionalGeneration)
        return hub.load_frozen_model(
            BlipForConditionalGeneration, name, "a BLIP captioning model", self.device
        )

    @cached_property
    def _text_config(self):
        return self.model.config.text_config

    @property
    def pad_id(self) -> int:
        """The id of padding behind captions."""
        return self._text_config.pad_token_id

    @cached_property
    def _preprocessor(self) -> pixels.Preprocessor:
        return pixels.Preprocessor(pixels.read_settings(self.settings.model), self.device)

    def prepare(self, images: list[np.ndarray]) -> dict[str, np.ndarray]:
        """See `captioners.Captioner`: RGB pixels [N, 3, h, w] uint8."""
        rgb = [image[..., ::-1] for image in images]
        return {"pixels": self._preprocessor.fit_all(rgb).cpu().numpy()}

    def captions(
        self, pictures: dict[str, np.ndarray], weights: str = PUBLISHED_WEIGHTS
    ) -> list[str]:
        """See `captioners.Captioner`.

        The published weights give original captions, fine-tuned ones captions that name sounds.
        """
        prompt = self.settings.prompt if weights == PUBLISHED_WEIGHTS else TAGS_PROMPT
        ids = self.generate(
            self.decoder(weights),
            self.encode(pictures),
            prompt,
            num_beams=self.settings.beams,
            do_sample=False,
        )
        return self.texts(ids, prompt)

    def encode(self, pictures: dict[str, np.ndarray]) -> torch.Tensor:
        """Return picture outputs [N, P, D] float32, which the decoder attends to."""
        with torch.inference_mode(), hub.autocast(self.device):
            values = self._preprocessor.normalise(pictures["pixels"])
            return self.model.vision_model(values).last_hidden_state.float()

    def decoder(self, weights: str = PUBLISHED_WEIGHTS) -> torch.nn.Module:
        """Return the text decoder, or a copy with the weights of a file, kept for the next call."""
        if weights == PUBLISHED_WEIGHTS:
            return self.model.text_decoder
        if weights not in self._decoders:
            decoder = copy.deepcopy(self.model.text_decoder)
            load_weights(decoder, Path(weights).read_bytes())
            self._decoders[weights] = decoder
        return self._decoders[weights]

    def prompt_ids(self, prompt: str) -> list[int]:
        """Return the ids that a caption begins with: the start token and the prompt."""
        prompt_tokens = self.processor.tokenizer(prompt)["input_ids"][1:-1]
        return [self._text_config.bos_token_id, *prompt_tokens]

    @torch.no_grad()
    def generate(self, decoder, outputs: torch.Tensor, prompt: str, **search) -> torch.Tensor:
        """Return token ids [N, tokens] of captions, the prompt included.

        They equal those of BlipForConditionalGeneration.generate for the pictures of `outputs`
        [N, P, D].  search: options of transformers' generate, such as num_beams.
        """
        config = self._text_config
        start = self.prompt_ids(prompt)
        attention_mask = torch.ones(outputs.shape[:2], dtype=torch.long, device=self.device)
        positions_left = config.max_position_embeddings - len(start)
        if positions_left < 1:
            raise UserError(
                f"captions.prompt = '{prompt}': it has {len(start)} tokens, and "
                f"'{self.settings.model}' reads {config.max_position_embeddings} at most, the "
                "caption included"
            )
        with hub.autocast(self.device):
            return decoder.generate(
                input_ids=torch.tensor([start] * len(outputs), device=self.device),
                encoder_hidden_states=outputs,
                encoder_attention_mask=attention_mask,
                eos_token_id=config.sep_token_id,
                pad_token_id=config.pad_token_id,
                max_new_tokens=min(self.settings.max_tokens, positions_left),
                **search,
            )

    def texts(self, ids: torch.Tensor, prompt: str) -> list[str]:
        """Return the captions of token ids [N, tokens], in lower case and without the prompt."""
        after_prompt = ids[:, len(self.prompt_ids(prompt)) :]
        decoded = self.processor.tokenizer.batch_decode(after_prompt, skip_special_tokens=True)
        return [" ".join(text.lower().split()) for text in decoded]

    def loss(self, decoder, outputs: torch.Tensor, texts: list[str], prompt: str) -> torch.Tensor:
        """Return the cross-entropy of N captions given picture outputs [N, P, D], a scalar.

        It is the mean over all tokens after the prompt.
        """
        prompted = [f"{prompt} {text}".strip() for text in texts]
        tokens = self.processor.tokenizer(
            prompted,
            padding=True,
            truncation=True,
            max_length=self._text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(self.device)
        # The tokeniser begins with [CLS]; BLIP's decoder was trained on [DEC] in its place.
        ids = tokens["input_ids"]
        ids[:, 0] = self._text_config.bos_token_id
        return self.loss_of_ids(decoder, outputs, ids, tokens["attention_mask"], prompt)

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
        # The prompt is given, not learned.
        labels = ids.masked_fill(mask == 0, IGNORED)
        labels[:, : len(self.prompt_ids(prompt))] = IGNORED
        with hub.autocast(self.device):
            return decoder(
                input_ids=ids,
                attention_mask=mask,
                labels=labels,
                reduction=reduction,
                encoder_hidden_states=outputs.to(self.device),
            ).loss

    def save(self, folder: Path, weights: str = PUBLISHED_WEIGHTS) -> None:
        """Write a Hugging Face directory of the model with these decoder weights."""
        load_weights(self.model.text_decoder, dump_weights(self.decoder(weights)))
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)

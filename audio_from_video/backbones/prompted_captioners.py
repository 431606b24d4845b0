"""Captioning models beside BLIP: BLIP-2, Florence-2, SmolVLM and Qwen-VL, frozen; GIT: git.py.

    BLIP-2      Li et al. 2023      the prompt begins the caption (OPT) or asks for it (T5)
    Florence-2  Xiao et al. 2023    the prompt names a task, such as <DETAILED_CAPTION>
    SmolVLM     Marafioti et al. 2025, and Qwen2-VL, Qwen2.5-VL (Wang et al. 2024, Bai et al. 2025):
                the prompt is a user's message in the model's own chat template

transformers' processors for SmolVLM and Qwen-VL cannot be made without torchvision, which reads
videos there.  Their image processors by Pillow and their tokenisers can, and are put together here.
"""

import shutil
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from audio_from_video.backbones import hub, pixels
from audio_from_video.backbones.settings import PUBLISHED_WEIGHTS, CaptionerSettings
from audio_from_video.runtime.errors import UserError

# Chat models have no caption without a question.  A short answer, as `captions.max_tokens` ends it.
QUESTION = "Describe this image in one short sentence."
PIECE_TOKENS = 169  # for a piece of a picture, where the processor's config is silent
CAPTION_TASK = "<CAPTION>"  # Florence-2's shortest


class PromptedCaptioner(ABC):
    """A captioning model that is asked with one prompt for all images."""

    published = ""  # a published model of this kind, for error sentences

    def __init__(self, settings: CaptionerSettings, device: str | None = None):
        """Note what to load; the model will run on `device` (default: `hub.device()`)."""
        self.settings = settings
        self.device = device or hub.device()

    @cached_property
    def model(self):
        """The model on its device; UserError when its weights are pickled, missing or damaged."""
        from transformers import AutoModelForImageTextToText

        name = self.settings.model
        hub.require_safetensors(name, AutoModelForImageTextToText)
        description = f"a captioning model like {self.published}"
        return hub.load_frozen_model(AutoModelForImageTextToText, name, description, self.device)

    @cached_property
    def tokenizer(self):
        """The model's own tokeniser."""
        from transformers import AutoTokenizer

        return hub.load_pretrained(AutoTokenizer, self.settings.model, "a tokeniser")

    @abstractmethod
    def prepare(self, images: list[np.ndarray]) -> dict[str, np.ndarray]:
        """See `captioners.Captioner`."""

    @abstractmethod
    def inputs(self, pictures: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
        """Return what the model's `generate` reads, on its device."""

    def captions(
        self, pictures: dict[str, np.ndarray], weights: str = PUBLISHED_WEIGHTS
    ) -> list[str]:
        """See `captioners.Captioner`."""
        if weights != PUBLISHED_WEIGHTS:
            raise ValueError("this model has no weights but the published ones")
        with torch.inference_mode(), hub.autocast(self.device):
            inputs = self.inputs(pictures)
            ids = self.model.generate(
                **inputs,
                num_beams=self.settings.beams,
                do_sample=False,
                max_new_tokens=self.settings.max_tokens,
            )
        if not self._answers_alone:
            ids = ids[:, inputs["input_ids"].shape[1] :]
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [" ".join(text.lower().split()) for text in texts]

    @cached_property
    def _answers_alone(self) -> bool:
        """Does `generate` return the caption without the prompt?  An encoder read it, then."""
        language_model = getattr(self.model, "language_model", self.model)
        return self.model.config.is_encoder_decoder or language_model.config.is_encoder_decoder

    def save(self, folder: Path, weights: str = PUBLISHED_WEIGHTS) -> None:
        """Copy the model's directory: nothing in it has changed."""
        if weights != PUBLISHED_WEIGHTS:
            raise ValueError("this model has no weights but the published ones")
        directory = hub.locate(self.settings.model)
        for pattern in hub.HUB_FILES:
            for path in directory.glob(pattern):
                shutil.copy(path, folder / path.name)


# ---- models with pictures of one size ----


class FixedSizeCaptioner(PromptedCaptioner):
    """A model whose pictures all have the size that its preprocessor config names."""

    @cached_property
    def _preprocessor(self) -> pixels.Preprocessor:
        return pixels.Preprocessor(pixels.read_settings(self.settings.model), self.device)

    @property
    @abstractmethod
    def prompt_ids(self) -> list[int]:
        """The ids [tokens] that the model reads beside a picture, placeholders included."""

    def prepare(self, images: list[np.ndarray]) -> dict[str, np.ndarray]:
        rgb = [image[..., ::-1] for image in images]
        return {"pixels": self._preprocessor.fit_all(rgb).cpu().numpy()}  # [N, 3, h, w] uint8

    def inputs(self, pictures: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
        values = self._preprocessor.normalise(pictures["pixels"])
        ids = torch.tensor([self.prompt_ids] * len(values), device=self.device)
        return {
            "pixel_values": values,
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
        }


class ProcessedPromptCaptioner(FixedSizeCaptioner):
    """A model whose processor puts the prompt and places for the picture's outputs together."""

    default_prompt = ""

    @cached_property
    def prompt_ids(self) -> list[int]:
        from transformers import AutoProcessor

        processor = hub.load_pretrained(AutoProcessor, self.settings.model, "a processor")
        prompt = self.settings.prompt or self.default_prompt
        any_picture = np.zeros((8, 8, 3), np.uint8)
        try:
            inputs = processor(images=any_picture, text=[prompt])
        except ValueError as error:
            raise UserError(
                f"captions.prompt = '{prompt}' is none for '{self.settings.model}': {error}"
            ) from None
        return list(inputs["input_ids"][0])


class Blip2Captioner(ProcessedPromptCaptioner):
    """BLIP-2 with OPT or T5 as its language model."""

    published = "Salesforce/blip2-opt-2.7b"

    @cached_property
    def prompt_ids(self) -> list[int]:
        if self.model.config.image_token_index is None:
            raise UserError(
                f"the config.json of '{self.settings.model}' names no image_token_index, as older "
                f"BLIP-2 checkpoints do: take a newer one, such as {self.published}"
            )
        return super().prompt_ids


class Florence2Captioner(ProcessedPromptCaptioner):
    """Florence-2 in the form that transformers itself runs."""

    published = "florence-community/Florence-2-base"
    default_prompt = CAPTION_TASK


# ---- chat models, with pictures of many sizes ----


class ChatCaptioner(PromptedCaptioner):
    """A chat model: its processor cuts a picture into as many pieces as its size asks for.

    Images of one size give token sequences of one length, so that nothing is padded.
    """

    @cached_property
    def image_processor(self):
        """The model's own image processor, by Pillow."""
        from transformers import AutoImageProcessor

        return hub.load_pretrained(
            AutoImageProcessor, self.settings.model, "an image processor", backend="pil"
        )

    @cached_property
    def processor_settings(self) -> dict:
        """What the directory says of the whole processor: `chat_template` and others."""
        from transformers import ProcessorMixin

        directory = hub.locate(self.settings.model)
        settings, _ = ProcessorMixin.get_processor_dict(directory, local_files_only=True)
        return settings

    @cached_property
    def message(self) -> str:
        """The prompt as a user's message beside one picture, in the model's chat template."""
        template = self.processor_settings.get("chat_template") or self.tokenizer.chat_template
        if template is None:
            raise UserError(
                f"'{self.settings.model}' has no chat template, without which it cannot be asked: "
                f"give a model that was trained to answer, such as {self.published}"
            )
        question = {"type": "text", "text": self.settings.prompt or QUESTION}
        turn = {"role": "user", "content": [{"type": "image"}, question]}
        return self.tokenizer.apply_chat_template(
            [turn], chat_template=template, tokenize=False, add_generation_prompt=True
        )

    def inputs(self, pictures: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(value).to(self.device) for name, value in pictures.items()}


class SmolVlmCaptioner(ChatCaptioner):
    """SmolVLM2, and SmolVLM and Idefics3, which it descends from."""

    published = "HuggingFaceTB/SmolVLM2-256M-Video-Instruct"

    @cached_property
    def _processor(self):
        """Idefics3's processor, which prepares images and their places as SmolVLM's does."""
        from transformers import Idefics3Processor

        return Idefics3Processor(
            self.image_processor,
            self.tokenizer,
            image_seq_len=self.processor_settings.get("image_seq_len", PIECE_TOKENS),
        )

    def prepare(self, images: list[np.ndarray]) -> dict[str, np.ndarray]:
        rgb = [[np.ascontiguousarray(image[..., ::-1])] for image in images]
        texts = [self.message] * len(images)
        return dict(self._processor(images=rgb, text=texts, return_tensors="np"))


class QwenCaptioner(ChatCaptioner):
    """Qwen2-VL and Qwen2.5-VL."""

    published = "Qwen/Qwen2-VL-2B-Instruct"
    image_token = "<|image_pad|>"

    def prepare(self, images: list[np.ndarray]) -> dict[str, np.ndarray]:
        rgb = [np.ascontiguousarray(image[..., ::-1]) for image in images]
        patches = self.image_processor(rgb, return_tensors="np")
        # A token stands for the patches that the model merges.
        merged = self.image_processor.merge_size**2
        texts = []
        for grid in patches["image_grid_thw"]:
            places = self.image_token * (int(grid.prod()) // merged)
            texts.append(self.message.replace(self.image_token, places))
        tokens = self.tokenizer(texts, return_tensors="np")
        image_id = self.tokenizer.convert_tokens_to_ids(self.image_token)
        is_image = (tokens["input_ids"] == image_id).astype(np.int64)
        return {**patches, **tokens, "mm_token_type_ids": is_image}

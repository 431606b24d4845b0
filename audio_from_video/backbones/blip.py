"""BLIP, frozen or with fine-tuned weights: images to captions."""

import copy
from functools import cached_property
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from audio_from_video.backbones import hub
from audio_from_video.runtime.errors import UserError

PROMPT = "the sound of"
PUBLISHED = "Salesforce/blip-image-captioning-base"
AS_IT_IS = ""  # instead of a file of weights: the decoder that the model came with


class Captioner:
    """A BLIP model with its processor; the weights are loaded when they are needed, not for resizing pictures alone."""

    def __init__(self, name: str, beams: int, max_tokens: int):
        if (kind := hub._config_file(name).get("model_type", "blip")) != "blip":
            raise UserError(
                f"'{name}' is no BLIP model but of the kind '{kind}': captions.model takes {PUBLISHED} or a directory like it"
            )
        self.name, self.beams, self.max_tokens, self.device = (
            name,
            beams,
            max_tokens,
            hub.device(),
        )
        self.processor = hub._load(name, "BlipProcessor", "a BLIP processor")
        self._decoders: dict[str, torch.nn.Module] = {}

    @cached_property
    def model(self):
        if not any(hub.locate(self.name).glob("*.safetensors")):
            raise UserError(
                f"'{self.name}' has no weights in safetensors form, and pickled ones are not loaded: where you trust them, convert them "
                "once by BlipForConditionalGeneration.from_pretrained(...).save_pretrained(directory), and the processor likewise, "
                "and give that directory in params.yaml"
            )
        return hub._load_model(self.name, "BlipForConditionalGeneration", "a BLIP captioning model")

    @cached_property
    def _text(self):
        return self.model.config.text_config

    @cached_property
    def _scale(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Gain and offset [3, 1, 1] of the processor's rescaling and normalisation."""
        images = self.processor.image_processor
        mean, std = (
            torch.tensor(getattr(images, key)).view(3, 1, 1) for key in ("image_mean", "image_std")
        )
        return (images.rescale_factor / std).to(self.device), (mean / std).to(self.device)

    def _autocast(self):
        return torch.autocast("cuda", torch.bfloat16, enabled=self.device.startswith("cuda"))

    def resize(self, images: list[np.ndarray]) -> np.ndarray:
        """BGR images [H, W, 3] uint8 -> RGB [N, 3, h, w] uint8, resized by the model's own processor."""
        rgb = [np.ascontiguousarray(image[..., ::-1]) for image in images]
        pixels = self.processor.image_processor(
            rgb, do_rescale=False, do_normalize=False, return_tensors="np"
        )["pixel_values"]
        return np.stack(pixels).astype(np.uint8)

    def encode(self, pixels: np.ndarray) -> torch.Tensor:
        """RGB [N, 3, h, w] uint8 -> what the decoder attends to [N, P, D] float32."""
        gain, offset = self._scale
        with torch.inference_mode(), self._autocast():
            values = torch.from_numpy(pixels).to(self.device).float() * gain - offset
            return self.model.vision_model(values).last_hidden_state.float()

    def decoder(self, weights: str = AS_IT_IS) -> torch.nn.Module:
        """The text decoder, or one with other weights from a file; kept for the next call."""
        if weights == AS_IT_IS:
            return self.model.text_decoder
        if weights not in self._decoders:
            self._decoders[weights] = copy.deepcopy(self.model.text_decoder)
            load_weights(self._decoders[weights], Path(weights).read_bytes())
        return self._decoders[weights]

    def caption(self, outputs: torch.Tensor, weights: str = AS_IT_IS) -> list[str]:
        """Captions of picture outputs [N, P, D]: original ones by the model as it is, tagged ones by fine-tuned weights."""
        prompt = "" if weights == AS_IT_IS else PROMPT
        return self.texts(
            self.generate(
                self.decoder(weights), outputs, prompt, num_beams=self.beams, do_sample=False
            ),
            prompt,
        )

    def prompt_ids(self, prompt: str) -> list[int]:
        """What a caption begins with: the start token and the prompt."""
        return [self._text.bos_token_id, *self.processor.tokenizer(prompt)["input_ids"][1:-1]]

    @torch.no_grad()
    def generate(self, decoder, outputs: torch.Tensor, prompt: str, **search) -> torch.Tensor:
        """Token ids [N, tokens] with the prompt, as BlipForConditionalGeneration.generate gives them for pictures."""
        start = self.prompt_ids(prompt)
        with self._autocast():
            return decoder.generate(
                input_ids=torch.tensor([start] * len(outputs), device=self.device),
                encoder_hidden_states=outputs,
                encoder_attention_mask=torch.ones(
                    outputs.shape[:2], dtype=torch.long, device=self.device
                ),
                eos_token_id=self._text.sep_token_id,
                pad_token_id=self._text.pad_token_id,
                max_new_tokens=min(
                    self.max_tokens, self._text.max_position_embeddings - len(start)
                ),
                **search,
            )

    def texts(self, ids: torch.Tensor, prompt: str) -> list[str]:
        """The captions without the prompt, in lower case."""
        decoded = self.processor.tokenizer.batch_decode(
            ids[:, len(self.prompt_ids(prompt)) :], skip_special_tokens=True
        )
        return [" ".join(text.lower().split()) for text in decoded]

    def loss(self, decoder, outputs: torch.Tensor, texts: list[str], prompt: str) -> torch.Tensor:
        """Cross-entropy of captions given picture outputs [N, P, D], mean over the tokens after the prompt."""
        whole, longest = (
            [f"{prompt} {text}".strip() for text in texts],
            self._text.max_position_embeddings,
        )
        tokens = self.processor.tokenizer(
            whole, padding=True, truncation=True, max_length=longest, return_tensors="pt"
        ).to(self.device)
        tokens["input_ids"][:, 0] = self._text.bos_token_id
        return self.loss_of_ids(
            decoder, outputs, tokens["input_ids"], tokens["attention_mask"], prompt
        )

    def loss_of_ids(
        self,
        decoder,
        outputs: torch.Tensor,
        ids: torch.Tensor,
        mask: torch.Tensor,
        prompt: str,
        reduction: str = "mean",
    ) -> torch.Tensor:
        """The same of token ids [N, tokens]; with reduction `none` each caption's sum over its tokens [N]."""
        labels = ids.masked_fill(mask == 0, -100)
        labels[:, : len(self.prompt_ids(prompt))] = -100
        seen = {"encoder_hidden_states": outputs.to(self.device)}
        with self._autocast():
            return decoder(
                input_ids=ids, attention_mask=mask, labels=labels, reduction=reduction, **seen
            ).loss

    def save(self, folder: Path, weights: str = AS_IT_IS) -> None:
        """A Hugging Face directory of the model with these decoder weights."""
        load_weights(self.model.text_decoder, dump_weights(self.decoder(weights)))
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)


def dump_weights(decoder: torch.nn.Module) -> bytes:
    """A decoder's weights as safetensors; those tied to the word embeddings stand there once."""
    return safetensors.torch.save(
        {name: value.detach().cpu().contiguous() for name, value in decoder.named_parameters()}
    )


def load_weights(decoder: torch.nn.Module, weights: bytes) -> None:
    decoder.load_state_dict(
        safetensors.torch.load(weights), strict=False
    )  # not strict: tied names are missing

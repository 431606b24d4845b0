"""Captioning models of every kind against greedy decoding by the stock models of transformers."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import transformers

from audio_from_video.backbones import captioners, hub
from audio_from_video.backbones.captioners import TUNABLE, Captioner
from audio_from_video.backbones.prompted_captioners import QUESTION, PromptedCaptioner
from audio_from_video.backbones.settings import CaptionerSettings
from tests.support import conformance
from tests.support.stock_blip import stock_caption
from tests.support.tiny_backbones import images

TOKENS = 6
PICTURES = images(4, 48, 64)
BEGINS = "a caption begins with it"
CHAT = "a question, in the model's chat template"
ASKED = f'"{QUESTION}"'
# By model: an empty `captions.prompt`, and other ones.
PROMPTS = {
    "BLIP": ("no prompt", BEGINS),
    "BLIP-2 with OPT": ("no prompt", BEGINS),
    "BLIP-2 with T5": ("no prompt", "it is asked"),
    "GIT": ("no prompt", BEGINS),
    "Florence-2": (
        "`<CAPTION>`",
        "another task: `<DETAILED_CAPTION>` or `<MORE_DETAILED_CAPTION>`",
    ),
    "SmolVLM": (ASKED, CHAT),
    "SmolVLM2": (ASKED, CHAT),
    "Qwen2-VL": (ASKED, CHAT),
    "Qwen2.5-VL": (ASKED, CHAT),
}


def captioner(
    folder: Path | str, prompt: str = "", beams: int = 1, tokens: int = TOKENS
) -> Captioner:
    """Return the captioner of a folder."""
    return captioners.load(CaptionerSettings(str(folder), beams, tokens, prompt))


def captions(folder: Path | str, pictures: list[np.ndarray] = PICTURES, **settings) -> list[str]:
    """Return captions of pictures."""
    model = captioner(folder, **settings)
    return model.captions(model.prepare(pictures))


def prompts(folder: Path | str) -> list[str]:
    """Return an empty prompt and another one that a model takes."""
    return ["", "<DETAILED_CAPTION>" if str(folder).endswith("Florence-2") else "a photo of"]


# ---- the stock models ----


def greedy_captions(name: str, folder: Path, prompt: str) -> list[str]:
    """Return the captions of the highest logits, picture by picture, by the plain model."""
    if name == "BLIP":
        texts = [stock_caption(folder, picture, prompt, tokens=TOKENS) for picture in PICTURES]
        return [" ".join(text.lower().split()) for text in texts]
    own = captioner(folder, prompt)
    assert isinstance(own, PromptedCaptioner)
    return [greedy_caption(folder, own.inputs(own.prepare([picture]))) for picture in PICTURES]


def greedy_caption(folder: Path, inputs: dict[str, torch.Tensor]) -> str:
    """Return the caption of the highest logits, token by token and without a cache."""
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    language_model = getattr(model, "language_model", model)
    text_config = language_model.config if "t5" in str(folder).lower() else model.config
    start = getattr(text_config, "decoder_start_token_id", None)
    if "Florence" in folder.name:
        start = model.config.text_config.decoder_start_token_id
    answer: list[int] = []
    for _ in range(TOKENS):
        step = dict(inputs)
        if start is None:
            step = with_answer(inputs, answer)
        else:
            step["decoder_input_ids"] = torch.tensor([[start, *answer]])
        with torch.no_grad():
            token = int(model(**step).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            break
        answer.append(token)
    text = tokenizer.decode(answer, skip_special_tokens=True)
    return " ".join(text.lower().split())


def with_answer(inputs: dict[str, torch.Tensor], answer: list[int]) -> dict[str, torch.Tensor]:
    """Return the inputs of one picture with the answer so far behind the prompt."""
    added = {"input_ids": answer, "attention_mask": [1] * len(answer)}
    added["mm_token_type_ids"] = [0] * len(answer)
    longer = dict(inputs)
    for name, values in added.items():
        if name in inputs:
            addition = torch.tensor([values], dtype=inputs[name].dtype)
            longer[name] = torch.cat([inputs[name], addition], dim=1)
    return longer


# ---- what is found ----


class CaptionFindings(NamedTuple):
    """Captions of PICTURES by prompt: ours together, ours one by one, and the stock model's.

    bfloat16: ours with an empty prompt in the autocast of a GPU.
    """

    together: dict[str, list[str]]
    alone: dict[str, list[str]]
    stock: dict[str, list[str]]
    bfloat16: list[str]

    @property
    def as_stock(self) -> bool:
        return self.together == self.stock

    @property
    def as_alone(self) -> bool:
        return self.together == self.alone

    @property
    def runs_in_bfloat16(self) -> bool:
        """Pictures still matter; single words may differ."""
        return len(self.bfloat16) == len(PICTURES) and len(set(self.bfloat16)) > 1


def findings(name: str, folder: Path) -> CaptionFindings:
    """Return what a model in a folder says."""
    both = prompts(folder)
    autocast = hub.autocast
    hub.autocast = lambda device: torch.autocast("cpu", torch.bfloat16)
    try:
        bfloat16 = captions(folder)
    finally:
        hub.autocast = autocast
    return CaptionFindings(
        together={prompt: captions(folder, prompt=prompt) for prompt in both},
        alone={
            prompt: [captions(folder, [picture], prompt=prompt)[0] for picture in PICTURES]
            for prompt in both
        },
        stock={prompt: greedy_captions(name, folder, prompt) for prompt in both},
        bfloat16=bfloat16,
    )


def caption_table(found: dict[str, CaptionFindings], folders: dict[str, Path]) -> str:
    """Return the page's table of captioning models."""
    header = [
        "`model_type`",
        "models",
        "an empty `captions.prompt`",
        "other prompts",
        "fine-tuning",
        "as the stock model",
        "a batch of four as four alone",
        "bfloat16",
    ]
    rows = []
    for name, of_model in found.items():
        kind = hub.model_type_of(str(folders[name]))
        rows.append(
            [
                f"`{kind}`",
                name,
                *PROMPTS[name],
                "yes" if kind in TUNABLE else "`off`",
                conformance.yes(of_model.as_stock),
                conformance.yes(of_model.as_alone),
                conformance.yes(of_model.runs_in_bfloat16),
            ]
        )
    return conformance.table(header, rows)

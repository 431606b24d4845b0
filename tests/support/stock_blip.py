"""BLIP's own code from transformers, as the reference of captions."""

from pathlib import Path

import numpy as np
import transformers


def stock_blip(folder: Path | str):
    """Return the plain model and its processor."""
    model = transformers.BlipForConditionalGeneration.from_pretrained(folder).eval()
    return model, transformers.AutoProcessor.from_pretrained(folder)


def rgb(picture: np.ndarray) -> np.ndarray:
    """Return a BGR picture in the order that processors expect."""
    return np.ascontiguousarray(picture[..., ::-1])


def stock_caption(
    folder: Path | str, picture: np.ndarray, prompt: str = "", beams: int = 1, tokens: int = 12
) -> str:
    """Return the caption of a BGR picture by BLIP's own generation, the prompt cut off."""
    model, processor = stock_blip(folder)
    inputs = processor(rgb(picture), prompt or None, return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=tokens, num_beams=beams, do_sample=False)[0]
    start = len(inputs["input_ids"][0]) - 1 if prompt else 1
    return processor.tokenizer.decode(ids[start:], skip_special_tokens=True)

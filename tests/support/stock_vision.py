"""Vision models from transformers as they are, as the reference of video features."""

from pathlib import Path

import numpy as np
import torch
import transformers


def stock_features(folder: Path, pictures: list[np.ndarray]) -> np.ndarray:
    """Return patch means [T, D] of BGR pictures by the stock model and its own preprocessing."""
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    rgb = [np.ascontiguousarray(picture[..., ::-1]) for picture in pictures]
    values = processor(rgb, return_tensors="pt")["pixel_values"]
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        hidden = model(values).last_hidden_state
    if hidden.ndim == 4:  # [T, D, h, w]
        return hidden.mean((2, 3)).numpy()
    return hidden[:, 1:].mean(1).numpy()  # without [CLS]

"""Settings of a training, as they stand in params.yaml.

Apart from the loop: whoever reads settings need not import PyTorch, which takes 1.5 s.
"""

from typing import Literal

from pydantic import Field

from audio_from_video.runtime import params


class TrainingParams(params.Section):
    """Settings of a training.

    min_steps: training lasts `epochs`, or so many optimiser steps where these are more.
    patience_steps: the same of `patience`.
    averaging: decay of the moving average over the weights; 0 averages nothing.
    schedule: of the learning rate over the steps that training may take (`loop.rate_factor`).
    """

    learning_rate: float = Field(gt=0, le=1)
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: float = Field(ge=0, le=10)
    batch_size: int = Field(ge=1, le=65536)
    epochs: int = Field(ge=1, le=10_000)
    patience: int = Field(ge=1)
    min_steps: int = Field(default=0, ge=0)
    patience_steps: int = Field(default=0, ge=0)
    averaging: float = Field(default=0.0, ge=0, lt=1)

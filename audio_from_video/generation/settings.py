"""Settings of the generators, as they stand in params.yaml."""

from typing import Literal

from pydantic import Field, field_validator

from audio_from_video.learning.settings import TrainingParams
from audio_from_video.runtime import params
from audio_from_video.storage import layout

# What is read for each architecture beside the features and the predictions of video_only. Those
# stand for nothing here: DVC cannot leave a dependency out.
NOTHING = str(layout.predictions("video_only"))
READS = {
    "semantic_validation": NOTHING,
    "caption_mapping": str(layout.MAPPING),
    "shuffled": NOTHING,
}


class GeneratorNetwork(TrainingParams):
    """The LSTM of both architectures, its loss and its training."""

    hidden: int = Field(ge=1, le=4096)
    projection: int = Field(ge=1, le=4096)
    dropout: float = Field(ge=0, lt=1)
    bidirectional: bool
    mse_weight: float = Field(ge=0)
    cosine_weight: float = Field(ge=0)
    contrastive_weight: float = Field(ge=0)
    contrastive_temperature: float = Field(gt=0, le=100)
    target_scale: Literal["dimension", "global"]
    variance: Literal["none", "predicted"]
    variance_beta: float = Field(ge=0, le=1)
    residual: Literal["none", "action_mean"]


class MappingNetwork(params.Section):
    """What architecture 2 adds to the LSTM."""

    noise: int = Field(ge=0, le=1024)
    propagation: float = Field(ge=0, le=1000)
    anchors: bool
    condition: Literal["mapped", "none"]
    visual: Literal["step", "representative"]
    temperature: float = Field(gt=0, le=100)
    finetune_text: Literal["off", "embeddings", "all"]
    text_learning_rate: float = Field(gt=0, le=1)


class NoSettings(params.Section):
    """Of an architecture that adds nothing to the LSTM."""


class GeneratorParams(params.Section):
    """The section `generator` of params.yaml."""

    seeds: int = Field(ge=1, le=100)
    folds: int = Field(ge=2, le=20)
    pool: Literal["all", "labelled"]
    repeats: int = Field(ge=0, le=20)
    lstm: GeneratorNetwork
    semantic_validation: NoSettings
    caption_mapping: MappingNetwork
    shuffled: NoSettings
    architectures: dict[Literal["semantic_validation", "caption_mapping", "shuffled"], str]

    @field_validator("architectures")
    @classmethod
    def _check_paths(cls, paths: dict[str, str]) -> dict[str, str]:
        """DVC tracks these paths: they must be those that the stage reads."""
        for name, path in paths.items():
            if path != READS[name]:
                raise ValueError(f"{name} reads {READS[name]}, not {path}")
        return paths

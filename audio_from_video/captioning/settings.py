"""Settings of captions, as they stand in params.yaml.

Apart from the stage: whoever reads settings need not import PyTorch, which takes 1.5 s.
"""

from typing import Literal

from pydantic import Field

from audio_from_video.backbones.settings import CaptionerSettings
from audio_from_video.learning.settings import TrainingParams
from audio_from_video.meaning.settings import LabelCut
from audio_from_video.runtime import params


class TuningParams(params.Section):
    """The parameters of captions that its fine-tunings depend on."""

    model: str = Field(min_length=1)
    prompt: str = Field(max_length=300)
    beams: int = Field(ge=1, le=32)
    max_tokens: int = Field(ge=1, le=512)
    frames_per_batch: int = Field(ge=1, le=65536)
    finetune: Literal["off", "tags", "self_critical"]
    training: TrainingParams
    self_critical_steps: int = Field(ge=1, le=10_000_000)
    self_critical_learning_rate: float = Field(gt=0, le=1)

    @property
    def captioner(self) -> CaptionerSettings:
        return CaptionerSettings(self.model, self.beams, self.max_tokens, self.prompt)


class CaptionsParams(TuningParams):
    """The section `captions` of params.yaml."""

    finetune_frames: int = Field(ge=1, le=1000)
    tags: int = Field(ge=1, le=527)
    tag_score: LabelCut

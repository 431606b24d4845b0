"""Settings of the pretrained models, as they stand in params.yaml.

Apart from the stages: whoever reads settings need not import PyTorch, which takes 1.5 s.
"""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from audio_from_video.runtime import params


class VideoFeaturesParams(params.Section):
    """The section `video_features` of params.yaml."""

    model: str = Field(min_length=1)
    attention: Literal["frame", "joint"]
    temporal_scale: float = Field(ge=0, le=1)
    clips_per_batch: int = Field(ge=1, le=1024)


class AudioFeaturesParams(params.Section):
    """The section `audio_features` of params.yaml."""

    model: str = Field(min_length=1)
    segments: Literal["pooled", "windows", "eighteenth"]
    window_s: float = Field(gt=0, le=10)
    components: int = Field(ge=1, le=1024)


@dataclass(frozen=True)
class CaptionerSettings:
    """What captions depend on: the model, the beams of the search, the most tokens of a caption."""

    model: str
    beams: int
    max_tokens: int

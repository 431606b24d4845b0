"""Settings of the pretrained models, as they stand in params.yaml.

Apart from the stages: whoever reads settings need not import PyTorch, which takes 1.5 s.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

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
    segments: Literal["pooled", "windows", "padded_windows", "eighteenth"]
    window_s: float = Field(gt=0, le=10)
    components: Annotated[int, Field(ge=1, le=4096)] | Annotated[float, Field(gt=0, lt=1)]
    label_model: str = ""


TAGS_PROMPT = "the sound of"  # asks a fine-tuned model; published ones have their own
PUBLISHED_WEIGHTS = ""  # instead of a file of weights: those that a captioning model came with


@dataclass(frozen=True)
class CaptionerSettings:
    """What captions depend on.

    beams: candidates of the search.  max_tokens: of a caption, at most.  prompt: what the model is
    asked, or what a caption begins with, as its kind has it; "": the kind's own default.
    """

    model: str
    beams: int
    max_tokens: int
    prompt: str = ""

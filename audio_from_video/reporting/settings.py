"""Settings of the report, as they stand in params.yaml."""

from typing import Annotated

from pydantic import Field

from audio_from_video.runtime import params

Pair = Annotated[list[str], Field(min_length=2)]


class ReportParams(params.Section):
    """The section `report` of params.yaml."""

    clips: int = Field(ge=0, le=400)
    look_alike_pairs: list[Pair]
    audio_visual_actions: str
    curves: list[str]

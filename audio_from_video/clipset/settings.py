"""Settings of clips and their splits, as they stand in params.yaml."""

import re
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from audio_from_video.clipset import roots
from audio_from_video.runtime import params

Count = Annotated[int, Field(ge=1)]


class SplitParams(params.Section):
    """The parameters of clips that decide which clip stands in which split."""

    root: str = Field(min_length=1)
    seed: int
    validation_fraction: float = Field(gt=0, lt=1)
    source_pattern: str
    test_list: str
    clip_list: str

    @field_validator("root")
    @classmethod
    def _is_plain(cls, value: str) -> str:
        return roots.plain(value)

    @field_validator("source_pattern")
    @classmethod
    def _is_pattern(cls, value: str) -> str:
        try:
            groups = re.compile(value).groups
        except re.error as error:
            raise ValueError(f"must be a regular expression ({error})") from None
        if groups != 1:
            raise ValueError("must have exactly one group, which is the source id")
        return value


class ClipsParams(SplitParams):
    """The section `clips` of params.yaml."""

    actions: Literal["all"] | Count | list[str]
    max_per_action: int = Field(ge=0)
    training_list: str
    validation_list: str
    min_duration_s: float = Field(ge=0)
    max_duration_s: float = Field(gt=0)
    max_pixels: int = Field(gt=0)
    links: Literal["inside", "all"]
    fit_on: str
    max_failed_fraction: float = Field(ge=0, le=1)

    @model_validator(mode="after")
    def _names_clips_once(self) -> "ClipsParams":
        others = ("training_list", "validation_list", "test_list")
        named = [name for name in others if getattr(self, name)]
        if self.clip_list and named:
            raise ValueError(
                f"clips.clip_list names all clips: clips.{named[0]} must be '' beside it"
            )
        return self

    @field_validator("max_duration_s")
    @classmethod
    def _is_above_the_minimum(cls, value: float, info: ValidationInfo) -> float:
        shortest = info.data.get("min_duration_s")
        if shortest is not None and value < shortest:
            raise ValueError(f"must not be below clips.min_duration_s, which is {shortest:g}")
        return value

"""Settings of the report, as they stand in params.yaml."""

from typing import Annotated

from pydantic import Field, field_validator

from audio_from_video.runtime import params

Pair = Annotated[list[str], Field(min_length=2)]


class ContrastParams(params.Section):
    """Two conditions that are compared; the bound is what `condition` could reach, '' for none."""

    condition: str
    minus: str
    bound: str = ""


class ReportParams(params.Section):
    """The section `report` of params.yaml."""

    clips: int = Field(ge=0, le=400)
    look_alike_pairs: list[Pair]
    audio_visual_actions: str
    curves: list[str]
    groups: dict[str, dict[str, str]]
    contrasts: list[ContrastParams] = []

    @field_validator("groups")
    @classmethod
    def _check_groups(cls, groups: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
        names = [name for members in groups.values() for name in members]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} stands in more than one group")
        return groups

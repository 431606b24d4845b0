"""Settings of the search for hyper-parameters, as they stand in params.yaml."""

from typing import Annotated

from pydantic import Field, field_validator

from audio_from_video.classification.settings import NetworkParams, Positive
from audio_from_video.runtime import params

Candidates = Annotated[list[int | float], Field(min_length=1)]


class SearchParams(params.Section):
    """The section `search` of params.yaml."""

    draws: int = Field(ge=1, le=100_000)
    seed: int = Field(ge=0)
    space: dict[str, Candidates] = Field(min_length=1)
    inverse_regularisation: list[Positive]

    @field_validator("space")
    @classmethod
    def _names_settings_of_the_lstm(cls, space: dict[str, Candidates]) -> dict[str, Candidates]:
        known = sorted(NetworkParams.model_fields)
        unknown = sorted(set(space) - set(known))
        if unknown:
            raise ValueError(
                f"classifier.lstm has no {', '.join(unknown)}; it has {', '.join(known)}"
            )
        return space

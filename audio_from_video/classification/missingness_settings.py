"""Settings of the patterns of missing sound, as they stand in params.yaml."""

from typing import Annotated

from pydantic import Field, field_validator

from audio_from_video.classification.settings import Positive, Share
from audio_from_video.runtime import params


class PropensityParams(params.Section):
    """How the probability that a clip is audible is predicted from its video.

    inverse_regularisation: candidates, chosen by cross-validation over sources.
    smallest_probability: lower predictions count as this one, which bounds the weights.
    """

    inverse_regularisation: list[Positive] = Field(min_length=1)
    smallest_probability: float = Field(gt=0, le=1)


class AdaptationParams(params.Section):
    """The adaptation at test time (adaptation.py).

    condition: whose networks adapt; "" = none.
    """

    condition: str
    batch_size: int = Field(ge=1, le=65536)
    learning_rate: float = Field(gt=0, le=1)
    momentum: float = Field(ge=0, lt=1)
    information_weight: float = Field(ge=0)
    distillation_weight: float = Field(ge=0)


class MissingnessParams(params.Section):
    """The section `missingness` of params.yaml."""

    seed: int = Field(ge=0)
    conditions: list[str]
    segment_shares: Annotated[list[Share], Field(min_length=2)]
    propensity: PropensityParams
    adaptation: AdaptationParams

    @field_validator("segment_shares")
    @classmethod
    def _begins_with_nothing_and_ends_with_all(cls, shares: list[float]) -> list[float]:
        if shares != sorted(set(shares)) or shares[0] != 0 or shares[-1] != 1:
            raise ValueError("shares ascend from 0 to 1, as all are compared with these two")
        return shares

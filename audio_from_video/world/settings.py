"""Settings of the rendered data set and of the models trained on it, as they stand in params.yaml.

Apart from the stages: whoever reads settings need not import what the stages compute with.
"""

from typing import Annotated

from pydantic import Field, field_validator

from audio_from_video.runtime import params

MIX_KINDS = ("own", "mixed", "other_action", "music", "silent", "shifted")

Share = Annotated[float, Field(ge=0, le=1)]


class SampleParams(params.Section):
    """The section `sample` of params.yaml."""

    seed: int = Field(ge=0)
    size_px: int = Field(ge=32, le=128, multiple_of=2)
    training_per_action: int = Field(ge=1, le=50)
    test_per_action: int = Field(ge=1, le=10_000)
    unlabelled_per_action: int = Field(ge=0, le=100_000)
    clips_per_source: int = Field(ge=1, le=60)
    labelled_looks: float = Field(gt=0, le=1)
    cue: Share
    audio_mix: dict[str, Share]
    silent_action_silence: Share
    hidden_share: Share

    @field_validator("audio_mix")
    @classmethod
    def _is_whole(cls, mix: dict[str, float]) -> dict[str, float]:
        if set(mix) != set(MIX_KINDS) or abs(sum(mix.values()) - 1) > 1e-9:
            raise ValueError(f"it needs the shares of {', '.join(MIX_KINDS)}, which add up to 1")
        return mix


class PretrainParams(params.Section):
    """The section `pretrain` of params.yaml."""

    seed: int = Field(ge=0)
    scenes: int = Field(ge=64, le=10_000_000)
    sounds: int = Field(ge=64, le=10_000_000)
    test_items: int = Field(ge=8, le=1_000_000)
    batch_size: int = Field(ge=1, le=65_536)
    vit_steps: int = Field(ge=1, le=10_000_000)
    blip_steps: int = Field(ge=1, le=10_000_000)
    ast_steps: int = Field(ge=1, le=10_000_000)
    learning_rate: float = Field(gt=0, le=1)

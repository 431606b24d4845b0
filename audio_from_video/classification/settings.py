"""Settings of the classifiers, as they stand in params.yaml."""

from typing import Literal

from pydantic import Field

from audio_from_video.learning.features import AUDIO
from audio_from_video.learning.loop import TrainingParams
from audio_from_video.runtime import params
from audio_from_video.runtime.vocabulary import CAPTION_MAPPING, SEMANTIC_VALIDATION, SHUFFLED
from audio_from_video.storage import layout

Made = Literal["generated", "shuffled", "mapped", "retrieved"]
SOURCES = {
    "real": AUDIO,
    "generated": layout.generated(SEMANTIC_VALIDATION),
    "shuffled": layout.generated(SHUFFLED),
    "mapped": layout.generated(CAPTION_MAPPING),
    "retrieved": AUDIO,
}


class Condition(params.Section):
    """One row of the main table: what audio stands in training and at validation and test, and what else it learns."""

    model: Literal["lstm", "logistic"]
    train_audio: Literal["none", "real"] | Made
    test_audio: Literal["none", "real", "zeros", "mean", "noise", "token", "reconstructed"] | Made
    missing_rate: float | Literal["drawn"] = Field(default=0.0, union_mode="left_to_right")
    gate: Literal["none", "keep", "keep_oracle", "keep_real", "keep_published", "dictionary"] = (
        "none"
    )
    kept_only: bool = False
    learns: Literal["actions", "audio"] = "actions"
    teacher: str = ""
    teaching: Literal["soft", "hard"] = "soft"
    match_parameters: bool = False
    out_of_fold: int = Field(default=0, ge=0, le=20)
    answers_pool: bool = False
    audio: str
    made: str
    decided: str

    @property
    def kinds(self) -> set[str]:
        """The kinds of audio whose features it reads: where it hears any, also the real one of clips that do not lack it."""
        named = {self.train_audio, self.test_audio} & set(SOURCES)
        return named | {"real"} if named or self.learns == "audio" else set()

    @property
    def reads_pool(self) -> bool:
        """Whether unlabelled clips take part: it answers them, learns from them or borrows their sound."""
        return (
            self.answers_pool
            or bool(self.teacher)
            or self.learns == "audio"
            or "retrieved" in self.kinds
        )


class NetworkParams(TrainingParams):
    hidden: int = Field(ge=1, le=4096)
    projection: int = Field(ge=0, le=4096)
    dropout: float = Field(ge=0, lt=1)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)


class LogisticParams(params.Section):
    inverse_regularisation: list[float] = Field(min_length=1)


class ClassifierParams(params.Section):
    seeds: int = Field(ge=1, le=100)
    labels_per_action: int = Field(ge=0)
    missing_rates: list[float] = Field(min_length=1)
    lstm: NetworkParams
    logistic: LogisticParams
    extra_weight: float = Field(ge=0)
    teaching: dict[str, float]
    conditions: dict[str, Condition]

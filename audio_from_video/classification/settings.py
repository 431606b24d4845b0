"""Settings of the classifiers, as they stand in params.yaml, and the paths that a condition reads.

A condition names every file that it reads beside the video features. DVC tracks these paths as
dependencies of its stage, and the code opens the same ones, so the two cannot differ.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from audio_from_video.learning.settings import TrainingParams
from audio_from_video.runtime import params
from audio_from_video.runtime.vocabulary import CAPTION_MAPPING, SEMANTIC_VALIDATION, SHUFFLED
from audio_from_video.storage import layout

# DVC cannot leave a dependency out. Every condition reads the RGB features, so their path stands
# where a condition needs nothing.
NOTHING = str(layout.FIT_ON)

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
AudioWeighting = Literal["dimension", "global", "reliability", "confidence"]
GeneratedAudio = Literal["generated", "shuffled", "mapped"]
GENERATOR_OF = {
    "generated": SEMANTIC_VALIDATION,
    "shuffled": SHUFFLED,
    "mapped": CAPTION_MAPPING,
}
CONSTANT_FILLERS = ("zeros", "mean", "noise", "token")  # they say nothing of the clip
STORED_AUDIO = ("real", "retrieved", *GENERATOR_OF)  # kinds of audio whose features are read


class FusionParams(params.Section):
    """How a classifier uses audio beside video.

    how: concatenate the two, or late: two experts whose probabilities are multiplied.
    audio_scale: what its components are divided and weighted by (classification/audio_input.py).
    components: how many of them are used, from the first one on; 0 = all.
    """

    how: Literal["concatenate", "late"]
    audio_scale: AudioWeighting
    components: int = Field(ge=0, le=65536)


class FusionOverride(params.Section):
    """What a condition has instead of `classifier.fusion`; None: nothing of its own."""

    how: Literal["concatenate", "late"] | None = None
    audio_scale: AudioWeighting | None = None
    components: int | None = Field(default=None, ge=0, le=65536)


class Condition(params.Section):
    """A condition of the main table: the audio in training and at test, and what else it learns.

    params.yaml explains every key. The last four keys are paths; NOTHING stands where a condition
    needs none. A path that is needed and not named, or named and not needed, is an error.
    """

    model: Literal["lstm", "logistic", "svm"]
    train_audio: Literal["none", "real", "retrieved"] | GeneratedAudio
    test_audio: (
        Literal["none", "real", "retrieved", "zeros", "mean", "noise", "token", "reconstructed"]
        | GeneratedAudio
    )
    missing_rate: Share | Literal["drawn"] = Field(default=0.0, union_mode="left_to_right")
    gate: Literal["none", "keep", "keep_oracle", "keep_real", "keep_published", "dictionary"] = (
        "none"
    )
    kept_only: bool = False
    learns: Literal["actions", "audio"] = "actions"
    teaching: Literal["soft", "hard"] = "soft"
    teacher_seeds: Literal["own", "ensemble"] = "own"
    fusion: FusionOverride = FusionOverride()
    match_parameters: bool = False
    out_of_fold: int = Field(default=0, ge=0, le=20)
    answers_pool: bool = False
    # The validators of these four look at the keys above.
    real_audio: str
    generated_audio: str
    teacher_predictions: str
    decisions: str

    @field_validator("real_audio")
    @classmethod
    def _check_real_audio(cls, path: str, info: ValidationInfo) -> str:
        reason = ""
        if _stored_kinds(info.data):
            reason = f"audio of the kind {_stored_kinds(info.data)[0]!r}"
        elif info.data.get("learns") == "audio":
            reason = "learns: audio"
        elif info.data.get("match_parameters"):
            reason = "match_parameters"
        _check_need(path, reason, str(layout.AUDIO_FEATURES))
        return path

    @field_validator("generated_audio")
    @classmethod
    def _check_generated_audio(cls, path: str, info: ValidationInfo) -> str:
        kinds = [kind for kind in _stored_kinds(info.data) if kind in GENERATOR_OF]
        if len(kinds) > 1:
            raise ValueError(
                f"a condition reads the audio of one generator, not {' and '.join(kinds)}"
            )
        if not kinds:
            _check_need(path, "", "")
            return path

        generator = GENERATOR_OF[kinds[0]]
        reason = f"audio of the kind {kinds[0]!r}"
        _check_need(path, reason, str(layout.generated(generator)))
        if Path(path).name != generator:
            raise ValueError(f"{reason} comes from the generator {generator}")
        return path

    @field_validator("teacher_predictions")
    @classmethod
    def _check_teacher_predictions(cls, path: str) -> str:
        name = Path(path).stem
        if path not in (NOTHING, str(layout.predictions(name))):
            raise ValueError(
                f"a teacher's predictions lie in {layout.predictions('<condition>')}; "
                f"without a teacher name {NOTHING}"
            )
        return path

    @field_validator("decisions")
    @classmethod
    def _check_decisions(cls, path: str, info: ValidationInfo) -> str:
        gate = info.data.get("gate", "none")
        if gate == "none":
            _check_need(path, "", "")
            return path
        if gate == "dictionary":
            _check_need(path, "gate: dictionary", str(layout.DICTIONARY))
            return path

        # The filter decides on the audio of one generator; real audio is in the files of all.
        generators = [
            GENERATOR_OF[kind] for kind in _stored_kinds(info.data) if kind in GENERATOR_OF
        ]
        example = layout.decisions((generators or [SEMANTIC_VALIDATION])[0])
        _check_need(path, f"gate: {gate}", str(example))
        if generators and Path(path).stem != generators[0]:
            raise ValueError(f"gate: {gate} needs the filter's decisions on {generators[0]}")
        return path

    @model_validator(mode="after")
    def _check_heads(self) -> "Condition":
        if self.model == "lstm":
            return self
        if self.learns == "audio" or self.match_parameters or self.gate == "dictionary":
            raise ValueError(
                f"model: {self.model} has no hidden states: learns, match_parameters and "
                "gate: dictionary are the LSTM's"
            )
        if self.fusion.how == "late":
            raise ValueError(f"model: {self.model} concatenates; fusion.how: late is the LSTM's")
        return self

    def fusion_over(self, default: FusionParams) -> FusionParams:
        """Return how it uses audio: `default`, and what it has of its own instead."""
        own = self.fusion.model_dump(exclude_none=True)
        return default.model_copy(update=own)

    @property
    def draws_nothing(self) -> bool:
        """Return whether all its trainings are the same: one of them is enough."""
        own_teacher = bool(self.teacher) and self.teacher_seeds == "own"
        return self.model != "lstm" and not self.audio_kinds and not own_teacher

    @property
    def audio_kinds(self) -> list[str]:
        """Return the kinds of audio whose features it reads, sorted.

        Where it reads any there is also the real one: of clips that do not lack it.
        """
        kinds = set(_stored_kinds({"train_audio": self.train_audio, "test_audio": self.test_audio}))
        if kinds or self.learns == "audio":
            kinds.add("real")
        return sorted(kinds)

    def audio_path(self, kind: str) -> Path:
        """Return the directory of shards with the features of a kind of `audio_kinds`."""
        return Path(self.generated_audio if kind in GENERATOR_OF else self.real_audio)

    @property
    def gated_audio(self) -> str:
        """Return the kind of audio that the filter's gate takes away.

        That is the one at test, or in training where test has no stored audio.
        """
        return self.test_audio if self.test_audio in STORED_AUDIO else self.train_audio

    @property
    def teacher(self) -> str:
        """Return the condition whose predictions it learns from; "" without a teacher."""
        return "" if self.teacher_predictions == NOTHING else Path(self.teacher_predictions).stem

    @property
    def uses_unlabelled_clips(self) -> bool:
        """Return whether unlabelled clips take part.

        They do where it predicts their actions, learns from them or borrows their audio.
        """
        return (
            self.answers_pool
            or bool(self.teacher)
            or self.learns == "audio"
            or "retrieved" in self.audio_kinds
        )

    @property
    def leaky(self) -> bool:
        """Return whether its gate knows the true action of test clips: its figures are bounds."""
        return self.gate in ("keep_oracle", "keep_published")

    @property
    def audio_at_test(self) -> Literal["real", "generated", "none"]:
        """Return where the audio of test clips comes from.

        real: the clips themselves. generated: a generator, other clips or a reconstruction. none:
        there is none, or a filler that says nothing of the clip.
        """
        if self.test_audio == "real":
            return "real"
        if self.test_audio in ("none", *CONSTANT_FILLERS):
            return "none"
        return "generated"


def _stored_kinds(values: dict[str, Any]) -> list[str]:
    """The kinds of audio with stored features among `train_audio` and `test_audio`."""
    kinds = []
    for key in ("train_audio", "test_audio"):
        kind = values.get(key)
        if kind in STORED_AUDIO and kind not in kinds:
            kinds.append(kind)
    return kinds


def _check_need(path: str, reason: str, example: str) -> None:
    """Raise ValueError where `path` is not named although there is a `reason`, or the reverse."""
    if reason and path == NOTHING:
        raise ValueError(f"{reason} needs a path here, such as {example}")
    if not reason and path != NOTHING:
        raise ValueError(f"the condition reads no such file; name {NOTHING}, which means nothing")


class NetworkParams(TrainingParams):
    """The LSTM and its training."""

    hidden: int = Field(ge=1, le=4096)
    projection: int = Field(ge=0, le=4096)
    dropout: float = Field(ge=0, lt=1)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)


class HeadParams(params.Section):
    """Logistic regression or a support vector machine in the LSTM's place."""

    inverse_regularisation: list[Positive] = Field(min_length=1)


class HeadsParams(params.Section):
    """How the settings of these heads are chosen: by cross-validation over training sources."""

    learn_from: Literal["training", "labelled"]
    folds: int = Field(ge=2, le=20)
    audio_gains: list[Positive] = Field(min_length=1)


class TeachingParams(params.Section):
    """How a teacher's predictions become targets (see targets.py)."""

    weight: float = Field(ge=0, le=1)
    confidence: float = Field(ge=0, le=1)


Nothing = Literal["data/fit_on.parquet"]  # the literal of NOTHING


class NothingRead(params.Section):
    """What conditions merge into their keys, so that they name only the files that they read."""

    real_audio: Nothing
    generated_audio: Nothing
    teacher_predictions: Nothing
    decisions: Nothing


class ClassifierParams(params.Section):
    """The section `classifier` of params.yaml."""

    seeds: int = Field(ge=1, le=100)
    labels_per_action: int = Field(ge=0)
    missing_rates: list[Share] = Field(min_length=1)
    repeats: int = Field(ge=0, le=20)
    fusion: FusionParams
    lstm: NetworkParams
    logistic: HeadParams
    svm: HeadParams
    heads: HeadsParams
    extra_weight: float = Field(ge=0)
    teaching: TeachingParams
    nothing: NothingRead
    conditions: dict[str, Condition]

    def fusion_of(self, condition: Condition) -> FusionParams:
        """Return how a condition uses audio: `fusion`, and what it has of its own instead."""
        return condition.fusion_over(self.fusion)

"""Settings of a bundle: what params.yaml asks for, and what `bundle.json` says of its files."""

from pydantic import Field, field_validator

from audio_from_video.backbones.settings import AudioFeaturesParams, VideoFeaturesParams
from audio_from_video.generation.settings import GeneratorNetwork, MappingNetwork
from audio_from_video.meaning.settings import FilterParams, MappingParams
from audio_from_video.media.settings import (
    AudioParams,
    FlowParams,
    FramesParams,
    RepresentativeFramesParams,
)
from audio_from_video.runtime import params

SCHEMA_VERSION = 2  # of a bundle's files; raised when older software could not read them
BASELINE = "video_only"  # the condition whose answer the filter compares with


class BundleParams(params.Section):
    """The section `bundle` of params.yaml."""

    conditions: list[str] = Field(min_length=1)

    @field_validator("conditions")
    @classmethod
    def _has_the_baseline(cls, names: list[str]) -> list[str]:
        if BASELINE not in names:
            raise ValueError(f"must name {BASELINE}, with whose answer the filter compares")
        return names


class Backbone(params.Section):
    """A pretrained model.

    name: as in params.yaml.  folder: its directory within the bundle, "" where it is a published
    model that is found by its name.  digest: of its settings and weights (`hub.digest_of`).
    """

    name: str
    folder: str
    digest: str


class CaptionSettings(params.Section):
    """How the captions' model is asked (see `CaptionerSettings`)."""

    beams: int
    max_tokens: int
    prompt: str


class LabelHead(params.Section):
    """What leads from audio features to labels (`label_predictor.head`).

    hidden, frames, mel_bins: sizes of the decoder to log-mel.
    """

    head: str
    hidden: int
    frames: int
    mel_bins: int


class Classifier(params.Section):
    """A condition's classifiers; model, test_audio, gate and learns are keys of the condition.

    hidden, projection: of an LSTM; 0 of linear and kernel heads.
    """

    model: str
    test_audio: str
    gate: str
    learns: str
    hidden: int
    projection: int
    seeds: int


class Generator(params.Section):
    """An architecture's generators.

    mapping: what architecture 2 adds, else None.  threshold: of the filter on its audio, None
    where the filter does not judge it.
    """

    lstm: GeneratorNetwork
    mapping: MappingNetwork | None
    video_width: int
    audio_width: int
    text_width: int
    seeds: int
    threshold: float | None


class BundleSettings(params.Section):
    """The content of `bundle.json`.

    dictionary: each action's closest labels.
    left_out: conditions that new clips cannot be answered under, and why.
    files: the digest of every other file of the bundle but its model card.
    """

    schema_version: int
    actions: list[str]
    labels: list[str]
    dictionary: dict[str, list[str]]
    frames: FramesParams
    optical_flow: FlowParams
    representative_frames: RepresentativeFramesParams
    audio: AudioParams
    video_features: VideoFeaturesParams
    audio_features: AudioFeaturesParams
    captions: CaptionSettings
    mapping: MappingParams
    label_predictor: LabelHead
    filter: FilterParams
    backbones: dict[str, Backbone]
    classifiers: dict[str, Classifier]
    generators: dict[str, Generator]
    left_out: dict[str, str]
    files: dict[str, str]

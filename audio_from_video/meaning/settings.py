"""Settings of all that has to do with AudioSet's labels, as they stand in params.yaml.

Apart from the stages: whoever reads settings need not import PyTorch, which takes 1.5 s.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from audio_from_video.learning.settings import TrainingParams
from audio_from_video.runtime import params

LABELS = 527  # of AudioSet

# An audio model's score from which on a label counts; auto: meaning/label_cut.py.
Score = Annotated[float, Field(gt=0, lt=1)]
LabelCut = Score | Literal["auto"]
LABEL_CUT: Any = LabelCut  # for `params.read`, whose type knows no unions
Evidence = Annotated[float, Field(gt=0)]
Penalty = Annotated[float, Field(gt=0)]
# A cosine, or the percentile in 0..1 that `calibration: action` gives.
Threshold = Annotated[float, Field(ge=-1, le=1)]


class DictionaryParams(params.Section):
    """The section `dictionary` of params.yaml."""

    model: str = Field(min_length=1)
    top_k: int = Field(ge=1, le=LABELS)


class DecoderParams(TrainingParams):
    """Settings of the decoder's training; hidden: width of its hidden layer."""

    hidden: int = Field(ge=1, le=8192)


class LabelPredictorParams(params.Section):
    """The section `label_predictor` of params.yaml."""

    head: Literal["mel", "features"]
    threshold: LabelCut
    ridge_penalties: list[Penalty] = Field(min_length=1)
    decoder: DecoderParams


class FilterParams(params.Section):
    """The section `filter` of params.yaml."""

    threshold: Threshold | Literal["auto", "cross_fitted"]
    score: Literal["meaning", "confidence"]
    action: Literal["predicted", "label"]
    reference: Literal["action", "entry"]
    centre: bool
    calibration: Literal["none", "action"]
    labels: int = Field(ge=1, le=LABELS)
    entry_size: int = Field(ge=1, le=LABELS)


class LabelAudioParams(params.Section):
    """The section `label_audio` of params.yaml."""

    source: Literal["clips", "audioset"]
    min_score: LabelCut
    min_evidence: Evidence | Literal["auto"]
    neighbours: int = Field(ge=1, le=LABELS)
    model: str = Field(min_length=1)
    audioset_root: str
    ridge_penalty: float = Field(gt=0)


class MappingParams(params.Section):
    """The section `mapping` of params.yaml."""

    via: Literal["labels", "key_captions"]
    model: str = Field(min_length=1)
    top_k: int = Field(ge=1, le=LABELS)
    min_similarity: float = Field(ge=-1, le=1)
    key_captions: int = Field(ge=1, le=1000)
    temperature: float = Field(gt=0, le=100)

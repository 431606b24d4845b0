"""Audio models, frozen: from a name to a model of its kind (audio_interface.AudioBackbone)."""

from typing import Any

from audio_from_video.audioset.labels import load_labels
from audio_from_video.backbones import hub
from audio_from_video.backbones.audio_ast import AstBackbone, label_places
from audio_from_video.backbones.audio_clap import ClapBackbone
from audio_from_video.backbones.audio_interface import AudioBackbone
from audio_from_video.backbones.audio_pe import PeAudioBackbone
from audio_from_video.backbones.audio_wave import WaveBackbone
from audio_from_video.backbones.audio_whisper import WhisperBackbone
from audio_from_video.backbones.audio_yamnet import YamnetBackbone
from audio_from_video.runtime.errors import UserError

LABELS = 527  # of AudioSet
AST = "audio-spectrogram-transformer"
KINDS: dict[str, Any] = {  # by `model_type` of a model's config
    AST: AstBackbone,
    "clap": ClapBackbone,
    "whisper": WhisperBackbone,
    "wav2vec2": WaveBackbone,
    "hubert": WaveBackbone,
    "wavlm": WaveBackbone,
    "mobilenet_v1": YamnetBackbone,
    "pe_audio": PeAudioBackbone,
}


def load_audio(name: str, device: str | None = None) -> AudioBackbone:
    """Load an audio model by directory or hub name onto a device (default: `hub.device()`).

    Raises UserError when it cannot be found or is of no kind that is known here.
    """
    return _kind_of(name)(name, device)


def widths_of(name: str) -> tuple[int, int]:
    """Return D and P, the widths of a model's frames and pooled outputs, from its config alone.

    Raises UserError as `load_audio` does.
    """
    kind = _kind_of(name)
    if kind is AstBackbone:  # without importing transformers
        return hub.width_of(name), hub.width_of(name)
    return kind.widths(hub.transformers_config(name))


def label_count_of(name: str) -> int:
    """Return how many labels a model scores: AudioSet's, or an AST's own."""
    return hub.label_count_of(name) if is_ast(name) else LABELS


def label_names_of(name: str) -> list[str]:
    """Return the names of the labels that scores are of: AudioSet's in its order, or an AST's own.

    Models have them in an order of their own, and some have only a part of them.
    """
    if is_ast(name):
        own = hub.labels_of(name)
        if label_places(own) is None:
            return own
    return [label.display_name for label in load_labels()]


def is_ast(name: str) -> bool:
    """Return whether a model is an Audio Spectrogram Transformer."""
    return hub.model_type_of(name) == AST


def has_labels(name: str) -> bool:
    """Return whether a model scores AudioSet's labels; raises UserError as `load_audio` does."""
    return _kind_of(name).has_labels(name)


def _kind_of(name: str):
    model_type = hub.model_type_of(name)
    if model_type not in KINDS:
        known = ", ".join(dict.fromkeys(kind.HEARS for kind in KINDS.values()))
        raise UserError(
            f"'{name}' is a model of type {model_type}, which is no audio model known here: "
            f"audio_features.model may be {known}"
        )
    return KINDS[model_type]

"""A bundle: a folder with everything that answers new clips, and nothing else.

bundle.json                             settings, names, and the digest of every file
README.md                               the model card
classifier/<condition>/seed-<n>.safetensors
generator/<architecture>/seed-<n>.safetensors
audio_projection.safetensors            mean [D], components [A, D]
label_predictor/{map,decoder}.safetensors
meaning.safetensors                     see `Meaning`
captions/                               BLIP, fine-tuned
backbones/{vision,audio,text,labels}/   models that came as a directory; published ones are
                                        found by name
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError
from safetensors.numpy import load_file

from audio_from_video.backbones import hub
from audio_from_video.backbones import text as text_backbone
from audio_from_video.prediction.settings import SCHEMA_VERSION, Backbone, BundleSettings
from audio_from_video.runtime.digests import file_digest
from audio_from_video.runtime.errors import UserError

SETTINGS = "bundle.json"
CARD = "README.md"
PROJECTION = "audio_projection.safetensors"
MEANING = "meaning.safetensors"
LABEL_MAP = "label_predictor/map.safetensors"
DECODER = "label_predictor/decoder.safetensors"
CAPTIONS = "captions"
LABELLER = "labels"  # the backbone of audio_features.label_model, where that is another one
AGAIN = "copy the bundle again, or write it by `dvc repro bundle`"


def classifier_file(condition: str, seed: int) -> str:
    """Return where a condition's classifier lies within a bundle."""
    return f"classifier/{condition}/seed-{seed}.safetensors"


def generator_file(architecture: str, seed: int) -> str:
    """Return where an architecture's generator lies within a bundle."""
    return f"generator/{architecture}/seed-{seed}.safetensors"


def background_tensor(audio: str, action: int) -> str:
    """Return the name of the scores that calibrate an action's scores of a kind of audio."""
    return f"background/{audio}/{action}"


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files were found whole.

    folder: where it lies.  models: the directory of each backbone.
    """

    folder: Path
    settings: BundleSettings
    models: dict[str, Path]

    def tensors(self, name: str) -> dict[str, np.ndarray]:
        """Return the arrays of one of its files."""
        return load_file(self.folder / name)


def read_bundle(folder: Path | str) -> Bundle:
    """Read and check a bundle.

    Raises UserError where it is none, of another schema, damaged, or lacks a published backbone.
    """
    folder = Path(folder)
    settings = _read_settings(folder)
    _check_files(folder, settings.files)
    models = {kind: _locate(folder, kind, each) for kind, each in settings.backbones.items()}
    return Bundle(folder, settings, models)


def _read_settings(folder: Path) -> BundleSettings:
    path = folder / SETTINGS
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(
            f"{folder} is no bundle: it has no {SETTINGS}; `dvc repro bundle` writes models/bundle"
        ) from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}): {AGAIN}") from None

    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema version {version}, this software reads {SCHEMA_VERSION}: "
            "use the software that wrote the bundle, or write it anew by `dvc repro bundle`"
        )
    try:
        return BundleSettings.model_validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path} is damaged: {key}: {first['msg']}; {AGAIN}") from None


def _check_files(folder: Path, digests: dict[str, str]) -> None:
    for name, digest in digests.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing: {AGAIN}")
        if file_digest(path) != digest:
            raise UserError(f"{path} is damaged: its bytes are not those of the bundle; {AGAIN}")


def _locate(folder: Path, kind: str, backbone: Backbone) -> Path:
    """The directory of a backbone, in the bundle or as published; never from the network."""
    if backbone.folder:
        return folder / backbone.folder
    locate = text_backbone.locate if kind == "text" else hub.locate
    try:
        directory = locate(backbone.name, offline=True)
    except UserError:
        raise UserError(
            f"the bundle {folder} needs the published model '{backbone.name}' ({kind}), which is "
            f"not on this machine: fetch it once by `hf download {backbone.name}`"
        ) from None
    if hub.digest_of(directory) != backbone.digest:
        raise UserError(
            f"the bundle {folder} was made with other files of '{backbone.name}' ({kind}) than "
            f"those in {directory}: fetch the release that the bundle's {CARD} names"
        )
    return directory


class Meaning:
    """Embeddings of labels and actions, and the labels' sound, of a bundle.

    references [actions, D], labels [L, D]: what the filter compares.
    label_text [L, E], label_audio [L, A]: what captions are mapped to.
    key_captions [K, E], key_labels [K, L]: None unless `mapping.via` is key_captions.
    background: by kind of audio (an architecture, or `real`) and action, ascending scores; empty
    unless `filter.calibration` is action.
    """

    def __init__(self, bundle: Bundle):
        tensors = bundle.tensors(MEANING)
        self.references = tensors["references"]
        self.labels = tensors["labels"]
        self.label_text = tensors["label_text"]
        self.label_audio = tensors["label_audio"]
        self.key_captions = tensors.get("key_captions")
        self.key_labels = tensors.get("key_labels")
        self.background: dict[str, dict[str, np.ndarray]] = {}
        for audio in ("real", *bundle.settings.generators):
            scores = {}
            for number, action in enumerate(bundle.settings.actions):
                name = background_tensor(audio, number)
                if name in tensors:
                    scores[action] = tensors[name]
            if scores:
                self.background[audio] = scores

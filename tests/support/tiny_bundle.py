"""A bundle of random weights, with all that answers clips of a second: no training needed."""

import shutil
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_weights

from audio_from_video.backbones import hub
from audio_from_video.backbones.settings import AudioFeaturesParams, VideoFeaturesParams
from audio_from_video.classification.networks import ActionClassifier, ClassifierSizes
from audio_from_video.generation.generator import generator_sizes, mapped_sizes
from audio_from_video.generation.networks import AudioGenerator, MappedAudioGenerator
from audio_from_video.generation.settings import GeneratorNetwork, MappingNetwork
from audio_from_video.meaning.mel_head import MelDecoder
from audio_from_video.meaning.settings import FilterParams, MappingParams
from audio_from_video.media.settings import (
    AudioParams,
    FramesParams,
    OpticalFlowParams,
    RepresentativeFramesParams,
)
from audio_from_video.prediction import bundle
from audio_from_video.prediction.settings import (
    SCHEMA_VERSION,
    Backbone,
    BundleSettings,
    CaptionSettings,
    Classifier,
    Generator,
    LabelHead,
)
from audio_from_video.runtime.digests import file_digest
from tests.support.closure import ROOT
from tests.support.text_models import write_bert
from tests.support.tiny_backbones import LABELS, write_ast, write_blip, write_vit

ACTIONS = ["boiling", "clapping", "waving"]
STEPS = 6  # a clip is a second
VIDEO = 64  # frames and flow, 32 dimensions each
PATCHES = 24  # of AST
COMPONENTS = 5
TEXT = 32
HIDDEN = 8
SEEDS = 2
MEL_FRAMES = 98
MEL_BINS = 128
AUDIO_AT_TEST = {  # of each condition, and its gate
    "video_only": ("none", "none"),
    "real_audio": ("real", "none"),
    "missing_token": ("token", "none"),
    "validated": ("generated", "keep"),
    "mapped_validated": ("mapped", "keep"),
    "logistic_generated": ("generated", "none"),
    "svm": ("none", "none"),
}
HEADS = {"logistic_generated": "logistic", "svm": "svm"}  # models of those that are no LSTM
ARCHITECTURES = ("semantic_validation", "caption_mapping")


def write_bundle(folder: Path) -> Path:
    """Write the bundle and return its folder."""
    p = yaml.safe_load((ROOT / "params.yaml").read_text())
    torch.manual_seed(0)
    folder.mkdir(parents=True)
    write_vit(folder / "backbones/vision")
    write_ast(folder / "backbones/audio", num_mel_bins=MEL_BINS)
    write_bert(_made(folder / "backbones/text"))
    write_blip(folder / bundle.CAPTIONS)
    for kind in ("vision", "audio", "text"):
        for pickle in (folder / "backbones" / kind).glob("*.bin"):
            pickle.unlink()
    lstm = GeneratorNetwork.model_validate(
        p["generator"]["lstm"] | {"hidden": HIDDEN, "projection": HIDDEN}
    )
    mapping = MappingNetwork.model_validate(p["generator"]["caption_mapping"])
    _write_generators(folder, lstm, mapping)
    _write_classifiers(folder)
    _write_heads(folder)
    settings = BundleSettings(
        schema_version=SCHEMA_VERSION,
        actions=ACTIONS,
        labels=[f"label {i}" for i in range(LABELS)],
        dictionary={action: ["label 0"] for action in ACTIONS},
        frames=FramesParams.model_validate(p["frames"] | {"count": STEPS, "size_px": 32}),
        optical_flow=OpticalFlowParams.model_validate(p["optical_flow"]).drawing(),
        representative_frames=RepresentativeFramesParams.model_validate(p["representative_frames"]),
        audio=AudioParams.model_validate(p["audio"]),
        video_features=VideoFeaturesParams.model_validate(p["video_features"]),
        audio_features=AudioFeaturesParams.model_validate(
            p["audio_features"] | {"components": COMPONENTS}
        ),
        captions=CaptionSettings(beams=1, max_tokens=6, prompt=""),
        mapping=MappingParams.model_validate(p["mapping"]),
        label_predictor=LabelHead(
            head="features", hidden=HIDDEN, frames=MEL_FRAMES, mel_bins=MEL_BINS
        ),
        filter=FilterParams.model_validate(p["filter"]),
        backbones={
            kind: Backbone(
                name=kind,
                folder=f"backbones/{kind}",
                digest=hub.digest_of(folder / "backbones" / kind),
            )
            for kind in ("vision", "audio", "text")
        },
        classifiers={
            name: Classifier(
                model=HEADS.get(name, "lstm"),
                test_audio=audio,
                gate=gate,
                learns="actions",
                hidden=0 if name in HEADS else HIDDEN,
                projection=0 if name in HEADS else HIDDEN,
                seeds=SEEDS,
            )
            for name, (audio, gate) in AUDIO_AT_TEST.items()
        },
        generators={
            name: Generator(
                lstm=lstm,
                mapping=mapping if name == "caption_mapping" else None,
                video_width=VIDEO,
                audio_width=COMPONENTS,
                text_width=TEXT,
                seeds=SEEDS,
                threshold=0.0,
            )
            for name in ARCHITECTURES
        },
        left_out={},
        files={},
    )
    write_settings(folder, settings)
    return folder


def write_settings(folder: Path, settings: BundleSettings) -> None:
    """Write bundle.json with the digests of the files as they are."""
    (folder / bundle.SETTINGS).unlink(missing_ok=True)
    files = {
        str(path.relative_to(folder)): file_digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    settings = settings.model_copy(update={"files": files})
    (folder / bundle.SETTINGS).write_text(settings.model_dump_json(indent=1))


def copy_of(folder: Path, target: Path) -> Path:
    """Return a copy of a bundle that a test may change."""
    return Path(shutil.copytree(folder, target))


def _made(folder: Path) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    return folder


def _write_generators(folder: Path, lstm: GeneratorNetwork, mapping: MappingNetwork) -> None:
    sizes = generator_sizes(lstm, VIDEO, COMPONENTS)
    for seed in range(SEEDS):
        networks = (
            AudioGenerator(sizes),
            MappedAudioGenerator(mapped_sizes(sizes, mapping, TEXT)),
        )
        for name, network in zip(ARCHITECTURES, networks, strict=True):
            path = _made(folder / bundle.generator_file(name, seed))
            save_weights(network.state_dict(), path)


def _write_classifiers(folder: Path) -> None:
    for name, (audio, _) in AUDIO_AT_TEST.items():
        width = 0 if audio == "none" else COMPONENTS
        if name in HEADS:
            for seed in range(SEEDS):
                path = _made(folder / bundle.classifier_file(name, seed))
                save_weights(_head(HEADS[name], width, seed), path)
            continue
        sizes = ClassifierSizes(
            video_width=VIDEO,
            audio_width=width,
            actions=len(ACTIONS),
            hidden=HIDDEN,
            projection=HIDDEN,
            dropout=0.0,
        )
        for seed in range(SEEDS):
            path = _made(folder / bundle.classifier_file(name, seed))
            save_weights(ActionClassifier(sizes).state_dict(), path)


def _head(model: str, audio_width: int, seed: int) -> dict[str, torch.Tensor]:
    """The weights of a linear or kernel head that hears sound of this width, or none (0)."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    width = 2 * (VIDEO + audio_width)
    weights = {
        "classes": torch.arange(len(ACTIONS)),
        "audio_gain": torch.tensor(0.3),
        "temperature": torch.tensor(1.0),
        "video_mean": normal(2 * VIDEO),
        "video_std": torch.ones(2 * VIDEO),
    }
    if audio_width:
        of_audio = {"audio_mean": normal(audio_width), "audio_std": torch.ones(audio_width)}
        weights |= of_audio | {"audio_weight": normal(audio_width)}
    if model == "logistic":
        coefficients = {"coefficients": normal(len(ACTIONS), width)}
        return weights | coefficients | {"intercepts": normal(len(ACTIONS))}
    vectors = 2 * len(ACTIONS)
    return weights | {
        "support_vectors": normal(vectors, width),
        "support_counts": torch.tensor([2] * len(ACTIONS)),
        "dual_coefficients": normal(len(ACTIONS) - 1, vectors),
        "intercepts": normal(3),
        "gamma": torch.tensor(1 / width),
    }


def _write_heads(folder: Path) -> None:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    projection = {
        "mean": rng.normal(size=PATCHES),
        "components": rng.normal(size=(COMPONENTS, PATCHES)),
        "explained": np.full(COMPONENTS, 0.1),
    }
    save_file(projection, folder / bundle.PROJECTION)
    decoder = MelDecoder(STEPS, COMPONENTS, HIDDEN, MEL_FRAMES, MEL_BINS)
    save_weights(decoder.state_dict(), _made(folder / bundle.DECODER))
    save_file({"weights": normal(2 * COMPONENTS + 1, PATCHES)}, folder / bundle.LABEL_MAP)
    meaning = {
        "references": normal(len(ACTIONS), 7),
        "labels": normal(LABELS, 7),
        "label_text": normal(LABELS, TEXT),
        "label_audio": normal(LABELS, COMPONENTS),
    }
    meaning["label_text"] /= np.linalg.norm(meaning["label_text"], axis=1, keepdims=True)
    save_file(meaning, folder / bundle.MEANING)

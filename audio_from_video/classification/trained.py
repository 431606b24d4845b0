"""Trained networks and heads of a condition: their answers where sound lacks at some steps."""

from collections.abc import Sequence

import numpy as np
import torch
from safetensors.torch import load_file

from audio_from_video.classification.audio_input import AudioInput, AudioReader, AudioScale
from audio_from_video.classification.data import ActionData
from audio_from_video.classification.head_weights import KeptHead
from audio_from_video.classification.missing_patterns import Pattern
from audio_from_video.classification.networks import (
    ActionClassifier,
    ClassifierSizes,
    network_class,
)
from audio_from_video.classification.settings import GENERATOR_OF, Condition, FusionParams
from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import layout

CLIPS_PER_PART = 512  # bounds the memory of predictions


def why_not_by_step(condition: Condition, fusion: FusionParams) -> str:
    """Return why a condition's networks cannot take sound by step, as a phrase; '' if they can.

    fusion: how it uses audio, unless it has a way of its own.
    """
    if not condition.audio_kinds or condition.learns == "audio":
        return "it hears nothing"
    if condition.kept_only:
        return "it answers some clips only (kept_only)"
    if condition.model != "lstm":  # heads pool whatever steps there are
        return ""
    own_fusion = condition.fusion_over(fusion)
    by_confidence = own_fusion.audio_scale == "confidence"
    if by_confidence and any(kind in GENERATOR_OF for kind in condition.audio_kinds):
        return "its generated sound counts by confidence, which is not stored with the network"
    network = network_class(condition.learns, condition.gate, condition.test_audio, own_fusion.how)
    if network is not ActionClassifier:
        return f"its network, {network.__name__}, takes sound by clip"
    return ""


def read_weights(name: str, seed: int) -> dict[str, torch.Tensor]:
    """Return models/classifier/<name>/seed-<seed>.safetensors.

    Raises UserError where the classifier has not written it.
    """
    path = layout.classifier_model(name) / f"seed-{seed}.safetensors"
    if not path.is_file():
        raise UserError(f"{path} is missing: run `dvc repro classifier@{name}`")
    return load_file(path)


class TrainedClassifier:
    """The network of one training, and what it reads of each clip, on the CPU."""

    def __init__(self, name: str, data: ActionData, seed: int):
        """Read its weights (`read_weights`)."""
        weights = read_weights(name, seed)
        self.data = data
        self.model = _network(weights)
        scale = AudioScale(self.model.audio_mean, self.model.audio_std)
        self.audio = AudioReader(data, seed, scale)

    def video(self, clip_indices: torch.Tensor) -> torch.Tensor:
        """Return video features [n, T, V] of clips."""
        return self.data.video.read(clip_indices.tolist())

    def own_sound(self, clip_indices: torch.Tensor) -> AudioInput:
        """Return the clips' own sound."""
        nobody = torch.zeros(len(clip_indices), dtype=torch.bool)
        return self.audio.read(clip_indices, "real", nobody)

    def filler(self, clip_indices: torch.Tensor) -> AudioInput:
        """Return what the condition has in place of the clips' own sound."""
        everybody = torch.ones(len(clip_indices), dtype=torch.bool)
        return self.audio.read(clip_indices, "real", everybody)

    def probabilities(self, clip_indices: torch.Tensor, patterns: Sequence[Pattern]) -> np.ndarray:
        """Return the probabilities [patterns, n, actions] of clips [n] under patterns of them."""
        parts = []
        with torch.inference_mode():
            for places in torch.arange(len(clip_indices)).split(CLIPS_PER_PART):
                clips = clip_indices[places]
                video = self.video(clips)
                own = self.own_sound(clips)
                filler = self.filler(clips)
                of_part = []
                for pattern in patterns:
                    heard = pattern.heard[places] & own.present[:, None]
                    filled = pattern.filled[places] & filler.present
                    logits = step_logits(
                        self.model, video, own.features, heard, filler.features, filled
                    )
                    of_part.append(logits.softmax(1))
                parts.append(torch.stack(of_part))
        return torch.cat(parts, 1).numpy()


class TrainedHead:
    """The linear or kernel head of one training, and what it reads of each clip."""

    def __init__(self, name: str, data: ActionData, seed: int):
        """Read its weights (`read_weights`)."""
        weights = read_weights(name, seed)
        self.data = data
        self.head = KeptHead(weights, len(data.actions))
        scale = AudioScale(self.head.audio_mean, self.head.audio_std)
        self.audio = AudioReader(data, seed, scale, weights.get("audio_real_variance"))

    def probabilities(self, clip_indices: torch.Tensor, patterns: Sequence[Pattern]) -> np.ndarray:
        """Return the probabilities [patterns, n, actions] of clips [n] under patterns of them.

        Steps without sound count as 0, the mean of the sound that the head learned from, as whole
        clips without sound do.
        """
        parts = []
        for places in torch.arange(len(clip_indices)).split(CLIPS_PER_PART):
            clips = clip_indices[places]
            nobody = torch.zeros(len(clips), dtype=torch.bool)
            own = self.audio.read(clips, "real", nobody)
            filler = self.audio.read(clips, "real", ~nobody)
            video = self.head.video_summary(self.data.video.read(clips.tolist()))
            of_part = []
            for pattern in patterns:
                heard = pattern.heard[places] & own.present[:, None]
                filled = (pattern.filled[places] & filler.present)[:, None]
                features = torch.where(heard[..., None], own.features, filler.features)
                of_part.append(self.head.probabilities(video, features, heard | filled))
            parts.append(np.stack(of_part))
        return np.concatenate(parts, 1)


def step_logits(
    model: ActionClassifier,
    video: torch.Tensor,
    own: torch.Tensor,
    heard: torch.Tensor,
    other: torch.Tensor,
    filled: torch.Tensor,
) -> torch.Tensor:
    """Return logits [n, actions] of clips that have their own sound at some steps.

    video [n, T, V]; own, other [n, T, A]: their own sound, and what may stand in its place.
    heard [n, T] bool: steps with their own sound.  filled [n] bool: clips whose remaining steps
    get `other`; in the others the token stands there.
    """
    audio = torch.where(filled[:, None, None], model.scale("audio", other), model.token)
    audio = torch.where(heard[..., None], model.scale("audio", own), audio)
    features = torch.cat([model.scale("video", video), audio], dim=-1)  # [n, T, V + A]
    return model.classify(model.encode(features))


def _network(weights: dict[str, torch.Tensor]) -> ActionClassifier:
    """The network whose weights these are, without dropout."""
    is_projected = "project.0.weight" in weights
    sizes = ClassifierSizes(
        video_width=len(weights["video_mean"]),
        audio_width=len(weights["audio_mean"]),
        actions=len(weights["head.2.bias"]),
        hidden=weights["lstm.weight_hh_l0"].shape[1],
        projection=len(weights["project.0.weight"]) if is_projected else 0,
        dropout=0.0,
    )
    model = ActionClassifier(sizes)
    model.load_state_dict(weights)
    return model.eval()

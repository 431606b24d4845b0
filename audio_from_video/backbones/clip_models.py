"""Clip models, frozen: windows of frames to a vector per frame.

A clip model expects windows of L frames and answers with patches of space and time.  The T frames
of a clip reach it as follows.
    T > L    ceil(T / L) windows of L neighbouring frames, spread evenly from the first frame to the
             last; they overlap where L does not divide T
    T <= L   one window, whose L moments lie evenly over the clip, each with the frame that is shown
             then, so that frames are repeated; V-JEPA 2, whose positions are rotary, takes the T
             frames as they are, one of them twice where T is odd and a patch spans two
Patch outputs (without [CLS]) are averaged over space for each temporal patch, which lies at the
mean of its frames' times.  Vectors of frames are linear interpolations of these along time within a
window, constant before its first and after its last one, and the mean over the windows that have
the frame.
"""

from typing import NamedTuple

import numpy as np

from audio_from_video.backbones import hub
from audio_from_video.runtime.errors import UserError


class Kind(NamedTuple):
    """How models of a config's model_type are read.

    loader: the class of transformers.  tower: attributes that lead from it to the vision tower.
    special_tokens: in front of the patches.  time_first: patches come moment by moment, not place
    by place.  any_length: clips shorter than the expected length are no harm.
    """

    loader: str
    tower: tuple[str, ...] = ()
    special_tokens: int = 0
    time_first: bool = True
    any_length: bool = False


KINDS = {
    "videomae": Kind("VideoMAEModel"),
    "timesformer": Kind("TimesformerModel", special_tokens=1, time_first=False),
    "vivit": Kind("VivitModel", special_tokens=1),
    "vjepa2": Kind("VJEPA2Model", tower=("encoder",), any_length=True),
    "videoprism": Kind("VideoPrismClipModel", tower=("video_model", "vision_model")),
    "videoprism_vision_model": Kind("VideoPrismVisionModel"),
}


class Windows(NamedTuple):
    """Which frames a model sees, and how its answers become the frames' vectors.

    frames [W, L]: numbers of frames.  weights [T, W * L / tubelet]: of temporal patches.
    """

    frames: np.ndarray
    weights: np.ndarray


def windows(count: int, length: int, tubelet: int) -> Windows:
    """Return the windows of `length` frames of a clip of `count`; tubelet: frames of a patch."""
    moments = np.arange(length)
    if count <= length:
        times = ((moments + 0.5) * count / length - 0.5)[None]  # [1, L], in frames
        frames = np.floor((moments + 0.5) * count / length).astype(int)[None]
    else:
        starts = np.linspace(0, count - length, -(-count // length)).round()
        times = starts[:, None] + moments  # [W, L]
        frames = times.astype(int)
    patch_times = times.reshape(len(times), -1, tubelet).mean(2)  # [W, L / tubelet]
    weights = np.zeros((count, *patch_times.shape))
    for window, (own_frames, own_times) in enumerate(zip(frames, patch_times, strict=True)):
        seen = np.unique(own_frames)
        for patch, answer in enumerate(np.eye(len(own_times))):
            weights[seen, window, patch] = np.interp(seen, own_times, answer)
    weights = weights.reshape(count, -1)
    return Windows(frames, weights / weights.sum(1, keepdims=True))


class ClipModel:
    """A clip model that encodes clips of any number of frames (see the top of this file)."""

    def __init__(
        self, name: str, model_type: str, attention: str, temporal_scale: float, device: str
    ):
        """Raises UserError when the model cannot be loaded, and for settings of image models."""
        import transformers

        if attention == "joint" or temporal_scale:
            raise UserError(
                f"video_features.attention: {attention} and temporal_scale: {temporal_scale} are "
                f"for image models; '{name}' is of the kind {model_type}, which attends over time "
                "itself: use frame and 0"
            )
        self.model_type = model_type
        self.kind = KINDS[model_type]
        loader = getattr(transformers, self.kind.loader)
        model = hub.load_frozen_model(loader, name, "a model of clips", device)
        for attribute in self.kind.tower:
            model = getattr(model, attribute)
        self.model = model
        config = model.config
        if getattr(config, "attention_type", "") == "space_only":
            raise UserError(
                f"'{name}' attends over space only, so it is no model of clips; supported are "
                "attention_type divided_space_time and joint_space_time"
            )
        self.length: int = getattr(config, "num_frames", None) or config.frames_per_clip
        tubelet = getattr(config, "tubelet_size", 1)
        self.tubelet: int = tubelet if isinstance(tubelet, int) else tubelet[0]

    def __call__(self, values):
        """Return the vectors [B, T, D] float32 of frames [B, T, 3, h, w] float32."""
        import torch

        count = values.shape[1]
        length = self.length
        if self.kind.any_length and count < length:
            length = -(-count // self.tubelet) * self.tubelet
        frames, weights = windows(count, length, self.tubelet)
        seen = values[:, torch.from_numpy(frames).to(values.device)]  # [B, W, L, 3, h, w]
        hidden = self.model(seen.flatten(0, 1)).last_hidden_state
        patches = hidden[:, self.kind.special_tokens :].float()  # [B*W, S, D]
        moments = length // self.tubelet
        if self.kind.time_first:
            over_space = patches.unflatten(1, (moments, -1)).mean(2)
        else:
            over_space = patches.unflatten(1, (-1, moments)).mean(1)
        answers = over_space.unflatten(0, seen.shape[:2]).flatten(1, 2)  # [B, W * moments, D]
        with torch.autocast(answers.device.type, enabled=False):  # it would round to bfloat16
            return torch.from_numpy(weights).to(answers) @ answers

"""A clip's sound in time steps: what an audio model makes of each of them, and its projection.

The model's frames are called patches here, as AST's are (Gong et al. 2021).  `segments` decides
what a time step is:
    pooled      one pass over the clip; patches are averaged into the steps by how long they overlap
                with them
    windows     one pass per step over `window_s` around it
    padded_windows  the same with the padding that the model's processor adds
    eighteenth  one pass per step over just its 1/count of the clip (2,666 samples: 15 spectrogram
                frames, less than the 16 of one patch, so that its single patch sees one frame of
                padding)
Only patches that see real sound count: padding to AST's 1,024 frames would fill 72 of 101 patches
of a 3 s clip.  In windows and eighteenths AST hears no padding at all, which takes a third of the
time.  Its outputs are others then; whether they serve a published AST as well has not been
measured, so params/real.yaml pads.
"""

from typing import NamedTuple

import numpy as np

from audio_from_video.backbones.audio_interface import AudioBackbone, Heard
from audio_from_video.backbones.settings import AudioFeaturesParams


class HeardSound(NamedTuple):
    """What is heard in a clip's sound, float32.

    patches [T, D]: mean patch outputs of each time step.  pooled [P]: what label scores follow
    from.  label_scores [L]: 0..1.  The last two are of the whole clip.
    """

    patches: np.ndarray
    pooled: np.ndarray
    label_scores: np.ndarray


class Projection(NamedTuple):
    """A PCA from D dimensions to k."""

    mean: np.ndarray  # [D]
    components: np.ndarray  # [k, D]
    explained: np.ndarray  # [k] share of the variance that each component explains

    def project(self, patches: np.ndarray) -> np.ndarray:
        """Return the projection [T, k] float64 of patches [T, D]."""
        return (patches.astype(np.float64) - self.mean) @ self.components.T


def encode_sound(
    backbone: AudioBackbone,
    wave: np.ndarray,
    count: int,
    p: AudioFeaturesParams,
    labeller: AudioBackbone | None = None,
) -> HeardSound:
    """Return what a model makes of a sound [samples] float32 in `count` time steps.

    A clip longer than what a model hears in one pass is cut into equal pieces, whose pooled outputs
    and scores are averaged.  labeller: the model that gives these two, where it is another one.
    """
    named_by = labeller or backbone
    heard, lengths_s = hear_in_pieces(named_by, wave)
    assert heard.label_scores is not None, "audio_features refuses models without labels"
    pooled = heard.pooled.mean(0)
    scores = heard.label_scores.mean(0)
    if p.segments == "pooled":
        if labeller is not None:
            heard, lengths_s = hear_in_pieces(backbone, wave)
        patches = pool_over_time(backbone, heard.frames, heard.valid, lengths_s, count)
    else:
        patches = encode_segments(backbone, wave, count, p)
    return HeardSound(patches, pooled, scores)


def hear_in_pieces(backbone: AudioBackbone, wave: np.ndarray) -> tuple[Heard, list[float]]:
    """Return what a model makes of a sound [samples] in equal pieces, and their lengths in s."""
    passes = int(np.ceil(len(wave) / (backbone.max_s * backbone.rate_hz)))
    pieces = np.array_split(wave, passes)
    lengths_s = [len(piece) / backbone.rate_hz for piece in pieces]
    return backbone.hear(backbone.prepare(pieces)), lengths_s


def pool_over_time(
    backbone: AudioBackbone,
    outputs: np.ndarray,
    valid: list[int],
    lengths_s: list[float],
    count: int,
) -> np.ndarray:
    """Return the means [count, D] over equal time steps of patch outputs [pieces, time, D].

    The pieces are consecutive; valid: how many patches of each hold sound; lengths_s: their
    lengths.
    """
    starts_s = np.concatenate([[0.0], np.cumsum(lengths_s)])
    times_s = []
    values = []
    for piece, (output, n) in enumerate(zip(outputs, valid, strict=True)):
        times_s.append(backbone.frame_times_s(n) + starts_s[piece])
        values.append(output[:n])
    weights = step_weights(np.concatenate(times_s), starts_s[-1], count)
    return weights @ np.concatenate(values)


def step_weights(patch_times_s: np.ndarray, duration_s: float, count: int) -> np.ndarray:
    """Return how long each of P patches overlaps with each of `count` equal time steps.

    patch_times_s [P, 2]: start and end.  The weights [count, P] of a step sum to 1; a step that no
    patch touches takes the nearest one.
    """
    edges = np.linspace(0, duration_s, count + 1)
    start = np.maximum(edges[:-1, None], patch_times_s[None, :, 0])
    end = np.minimum(edges[1:, None], patch_times_s[None, :, 1])
    overlap = np.maximum(end - start, 0)
    centres = (edges[:-1] + edges[1:]) / 2
    patch_centres = patch_times_s.mean(1)
    nearest = np.abs(centres[:, None] - patch_centres[None]).argmin(1)
    untouched = overlap.sum(1) <= 1e-9
    overlap[untouched, nearest[untouched]] = 1
    return overlap / overlap.sum(1, keepdims=True)


def encode_segments(
    backbone: AudioBackbone, wave: np.ndarray, count: int, p: AudioFeaturesParams
) -> np.ndarray:
    """Return patch means [count, D] of one pass per time step, over its valid patches."""
    length = len(wave) / count  # samples
    if p.segments != "eighteenth":
        longest = backbone.max_s * backbone.rate_hz
        length = min(max(length, p.window_s * backbone.rate_hz), longest)
    samples = min(int(length), len(wave))
    centres = (np.arange(count) + 0.5) * len(wave) / count
    starts = np.clip(np.floor(centres - length / 2), 0, len(wave) - samples).astype(int)
    if p.segments == "padded_windows":
        windows = [wave[start : start + samples] for start in starts]
        inputs = backbone.prepare(windows)
    else:
        inputs = backbone.prepare_windows(wave, starts.tolist(), samples)
    heard = backbone.hear(inputs)
    means = [frames[:n].mean(0) for frames, n in zip(heard.frames, heard.valid, strict=True)]
    return np.stack(means)

"""The figure of representative frames: strips of frames, and curves of their motion."""

from pathlib import Path
from typing import Any

import numpy as np

from audio_from_video.media import codecs

WIDTH_IN = 11.5  # of a strip
CURVE_IN = 0.85  # height of a curve
LEFT_IN = 0.7  # of strips and curves
TITLE_IN = 0.25  # above a strip
GAP_IN = 0.05  # between a strip and its curve
CLIP_GAP_IN = 0.45  # all that is between two clips, titles included
CHOSEN_COLOUR = "#ff7f0e"
THRESHOLD_COLOUR = "#7b3fa0"
EVENT_COLOUR = "#2ca02c"


def write_motion_figure(
    path: Path, clips: list[dict], events: dict[str, np.ndarray], threshold: float
) -> None:
    """Write a figure of clips: a strip of frames each, and below it the curve of its magnitudes.

    clips: clip_id, jpegs [T], magnitudes [T] and chosen [T] each.
    events: steps of each clip's true events, by clip_id.
    threshold: relative to a clip's mean magnitude.
    """
    # Here, as it takes half a second that workers need not spend.
    from matplotlib.figure import Figure

    strips = [_rgb_images(clip["jpegs"]) for clip in clips]
    heights_in = [_strip_height_in(images) for images in strips]
    width_in = WIDTH_IN + 0.8
    height_in = sum(heights_in) + (CURVE_IN + CLIP_GAP_IN) * len(clips) + CLIP_GAP_IN
    figure = Figure(figsize=(width_in, height_in))

    def add_axes(bottom_in: float, axes_height_in: float) -> Any:
        return figure.add_axes(
            (
                LEFT_IN / width_in,
                bottom_in / height_in,
                WIDTH_IN / width_in,
                axes_height_in / height_in,
            )
        )

    top_in = height_in
    for clip, images, strip_in in zip(clips, strips, heights_in, strict=True):
        strip_axes = add_axes(top_in - (TITLE_IN + strip_in), strip_in)
        curve_axes = add_axes(top_in - (TITLE_IN + GAP_IN + strip_in + CURVE_IN), CURVE_IN)
        _draw_strip(strip_axes, images, clip)
        _draw_curve(curve_axes, clip, threshold, events[clip["clip_id"]])
        top_in -= strip_in + CURVE_IN + CLIP_GAP_IN
    if clips:
        curve_axes.set_xlabel("step", fontsize=10)
        handles, labels = curve_axes.get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="lower right", ncols=len(labels), fontsize=10, frameon=False
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the version of matplotlib, so that the file changes with its content alone.
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _rgb_images(jpegs: list[bytes]) -> list[np.ndarray]:
    """Return JPEGs as RGB images [H, W, 3] uint8."""
    return [codecs.decode_jpeg(jpeg)[..., ::-1] for jpeg in jpegs]


def _strip_height_in(images: list[np.ndarray]) -> float:
    """Return the height of a strip whose frames keep their proportions."""
    height, width = images[0].shape[:2]
    return WIDTH_IN / len(images) * height / width


def _draw_strip(axes: Any, images: list[np.ndarray], clip: dict) -> None:
    """Draw the frames [T] of [H, W, 3] side by side, chosen ones outlined."""
    for step, image in enumerate(images):
        axes.imshow(image, extent=(step - 0.49, step + 0.49, 0, 1), aspect="auto")
    for chosen in np.flatnonzero(clip["chosen"]):
        axes.axvspan(chosen - 0.47, chosen + 0.47, fill=False, edgecolor=CHOSEN_COLOUR, linewidth=3)
    axes.set(xlim=(-0.5, len(images) - 0.5), ylim=(0, 1), xticks=[], yticks=[])
    axes.set_title(clip["clip_id"], fontsize=10, loc="left", pad=3)


def _draw_curve(axes: Any, clip: dict, threshold: float, events: np.ndarray) -> None:
    """Draw magnitudes by step and the threshold; mark chosen steps and, below, true events."""
    magnitudes = clip["magnitudes"]
    chosen = np.array(clip["chosen"])
    steps = np.arange(len(chosen))
    axes.plot(steps, magnitudes, color="0.35", linewidth=1.2)
    axes.plot(steps[chosen], magnitudes[chosen], "o", color=CHOSEN_COLOUR, label="chosen")
    axes.axhline(
        threshold * magnitudes.mean(),
        color=THRESHOLD_COLOUR,
        linestyle="--",
        linewidth=1.2,
        label=f"{threshold:g} x mean",
    )
    if len(events):
        zeros = np.zeros(len(events))
        axes.plot(events, zeros, "^", color=EVENT_COLOUR, clip_on=False, label="true event")
    highest = max(magnitudes.max(), 1e-3)
    axes.set(xlim=(-0.5, len(chosen) - 0.5), ylim=(0, 1.15 * highest), xticks=steps)
    axes.set_ylabel("px per step", fontsize=9)
    axes.tick_params(labelsize=9)

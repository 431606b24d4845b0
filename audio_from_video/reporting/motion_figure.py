"""The figure of representative frames: strips of frames and their motion."""

from pathlib import Path

import numpy as np

from audio_from_video.evaluation.motion import event_steps
from audio_from_video.media import codecs

WIDTH_IN, CURVE_IN = 11.5, 0.85  # of a strip; height of a curve
CHOSEN, LIMIT, EVENT = "#ff7f0e", "#7b3fa0", "#2ca02c"


def draw_strips(path: Path, clips: list[dict], threshold: float) -> None:
    """A figure: each clip as a strip of its frames, chosen ones outlined, and below it the curve of its magnitudes.

    clips: clip_id, jpegs, times_s, magnitudes [T] and chosen [T].
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    events = event_steps({clip["clip_id"]: clip["times_s"] for clip in clips})
    images = [[codecs.decode_jpeg(jpeg)[..., ::-1] for jpeg in clip["jpegs"]] for clip in clips]
    strips_in = [WIDTH_IN / len(shown) * shown[0].shape[0] / shown[0].shape[1] for shown in images]
    width, height = WIDTH_IN + 0.8, sum(strips_in) + (CURVE_IN + 0.45) * len(clips) + 0.45
    figure, top = pyplot.figure(figsize=(width, height)), height
    for clip, shown, strip_in in zip(clips, images, strips_in, strict=True):
        strip, curve = (
            figure.add_axes((0.7 / width, (top - down) / height, WIDTH_IN / width, tall / height))
            for down, tall in ((0.25 + strip_in, strip_in), (0.3 + strip_in + CURVE_IN, CURVE_IN))
        )
        top -= strip_in + CURVE_IN + 0.45
        draw_strip(strip, shown, clip)
        draw_curve(curve, clip, threshold, events[clip["clip_id"]])
    if clips:
        curve.set_xlabel("step", fontsize=10)
        handles, labels = curve.get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="lower right", ncols=len(labels), fontsize=10, frameon=False
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def draw_strip(axis, images: list[np.ndarray], clip: dict) -> None:
    """The frames [T] of [H, W, 3] side by side, chosen ones outlined."""
    for step, image in enumerate(images):
        axis.imshow(image, extent=(step - 0.49, step + 0.49, 0, 1), aspect="auto")
    for chosen in np.flatnonzero(clip["chosen"]):
        axis.axvspan(chosen - 0.47, chosen + 0.47, fill=False, edgecolor=CHOSEN, linewidth=3)
    axis.set(xlim=(-0.5, len(images) - 0.5), ylim=(0, 1), xticks=[], yticks=[])
    axis.set_title(clip["clip_id"], fontsize=10, loc="left", pad=3)


def draw_curve(axis, clip: dict, threshold: float, events: np.ndarray) -> None:
    """Magnitudes by step with the threshold, the chosen ones marked; below them the steps of true events, where known."""
    magnitudes, chosen = clip["magnitudes"], np.array(clip["chosen"])
    steps = np.arange(len(chosen))
    axis.plot(steps, magnitudes, color="0.35", linewidth=1.2)
    axis.plot(steps[chosen], magnitudes[chosen], "o", color=CHOSEN, label="chosen")
    axis.axhline(
        threshold * magnitudes.mean(),
        color=LIMIT,
        linestyle="--",
        linewidth=1.2,
        label=f"{threshold:g} x mean",
    )
    if len(events):
        axis.plot(
            events, np.zeros(len(events)), "^", color=EVENT, clip_on=False, label="true event"
        )
    axis.set(
        xlim=(-0.5, len(chosen) - 0.5), ylim=(0, 1.15 * max(magnitudes.max(), 1e-3)), xticks=steps
    )
    axis.set_ylabel("px per step", fontsize=9)
    axis.tick_params(labelsize=9)

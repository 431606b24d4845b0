"""Do the frames that a threshold on motion chooses show events?  And what does it look like?"""

from math import comb
from pathlib import Path

import numpy as np

from stages.common import media, shards

NEAR = 1  # steps between a chosen frame and the one that shows an event
STRIPS = 5  # clips in the figure
WIDTH_IN, CURVE_IN = 11.5, 0.85  # of a strip; height of a curve
CHOSEN, LIMIT, EVENT = "#ff7f0e", "#7b3fa0", "#2ca02c"


def event_steps(times_s: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """By clip, in the order of `times_s` ([T] per clip): the steps whose frames show its true events.

    Events after the clip's end are left out; clips of which nothing is known, or without events, have none.
    """
    rows = shards.read_table("data/truth.parquet", ["clip_id", "event_times_s"]).to_pylist()
    events_s = {row["clip_id"]: row["event_times_s"] or [] for row in rows}
    return {
        name: shown_at(np.array(events_s.get(name, [])), grid) for name, grid in times_s.items()
    }


def shown_at(events_s: np.ndarray, times_s: np.ndarray) -> np.ndarray:
    """The step of the frame on screen at each event: the last one not after it; each is on screen for times_s[1]."""
    inside = events_s[(events_s >= 0) & (events_s < times_s[-1] + times_s[1])]
    return np.searchsorted(times_s, inside, side="right") - 1


def hits(chosen: np.ndarray, events: list[np.ndarray], tolerance: int = NEAR) -> dict[str, float]:
    """Recall of events and precision of chosen frames, within `tolerance` steps, of clips that have events; {} without any.

    chosen: bool [N, T]; events: steps [n] per clip.  The `_random` ones are expected of as many frames of the same clip
    drawn without replacement: of T frames q are near an event, so k frames miss it with probability C(T-q, k) / C(T, k).
    """
    steps, found = chosen.shape[1], np.zeros(6)
    for mask, shown in zip(chosen, events, strict=True):
        near = np.abs(shown[:, None] - np.arange(steps)) <= tolerance  # [n, T]
        k, by_event, by_frame = int(mask.sum()), near.sum(1), near.any(0)
        if not len(shown):
            continue
        missed = sum(comb(steps - int(q), k) for q in by_event) / comb(steps, k)
        found += [
            len(shown),
            (near & mask).any(1).sum(),
            len(shown) - missed,
            k,
            (by_frame & mask).sum(),
            k * by_frame.mean(),
        ]
    if not found[0]:
        return {}
    names = ("event_recall", "event_recall_random", "chosen_near_event", "chosen_near_event_random")
    return dict(zip(names, (found[[1, 2, 4, 5]] / found[[0, 0, 3, 3]]).tolist(), strict=True))


def draw_strips(path: Path, clips: list[dict], threshold: float) -> None:
    """A figure: each clip as a strip of its frames, chosen ones outlined, and below it the curve of its magnitudes.

    clips: clip_id, jpegs, times_s, magnitudes [T] and chosen [T].
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    events = event_steps({clip["clip_id"]: clip["times_s"] for clip in clips})
    images = [[media.decode_jpeg(jpeg)[..., ::-1] for jpeg in clip["jpegs"]] for clip in clips]
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

"""What a filter's decisions gain on test, with intervals over sources.

As in evaluation/filter.py two trained conditions are combined: where a clip's generated audio is
kept, the condition that hears it answers, else the baseline.  Differences are paired by clip.
"""

from dataclasses import dataclass

import numpy as np

from audio_from_video.evaluation import intervals
from audio_from_video.evaluation.curves import column_intervals
from audio_from_video.evaluation.filter import hit_shares
from audio_from_video.evaluation.rows import BASELINE
from audio_from_video.runtime.vocabulary import ARCHITECTURES
from audio_from_video.storage import layout, predictions, shards


@dataclass(frozen=True)
class FilterGains:
    """Estimates of an architecture's filter on all test clips, in fractions.

    accuracy: at the threshold that the filter used.  over_nothing, over_all, over_random: its
    accuracy minus that of keeping no clip, all clips, and as many clips at random (in expectation).
    by_threshold: `over_nothing` at each threshold that was asked for.  random_by_threshold: the
    same of keeping as many clips at random.
    """

    accuracy: dict
    over_nothing: dict
    over_all: dict
    over_random: dict
    by_threshold: list[dict]
    random_by_threshold: list[float]


def filter_gains(architecture: str, thresholds: np.ndarray) -> FilterGains | None:
    """Return what an architecture's filter gains; None where it has not run or no clip is there.

    thresholds: of the score [K].
    """
    path = layout.decisions(architecture)
    condition = ARCHITECTURES[architecture].generated
    if not path.is_file() or not layout.predictions(condition).is_file():
        return None
    decisions = shards.read_table(path, ["clip_id", "split", "score", "keep"]).to_pandas()
    clips = decisions[decisions.split == "test"]
    if clips.empty:
        return None
    answered = predictions.read(BASELINE).of("test").clips
    sources = answered.set_index("clip_id").source_id.loc[clips.clip_id].to_numpy()

    own = hit_shares(clips, condition)
    base = hit_shares(clips, BASELINE)
    gain = own - base  # of keeping a clip
    kept = clips.keep.to_numpy()
    passes = clips.score.to_numpy()[:, None] >= thresholds  # [clips, K]
    return FilterGains(
        accuracy=intervals.interval(base + kept * gain, sources),
        over_nothing=intervals.interval(kept * gain, sources),
        over_all=intervals.interval((kept - 1.0) * gain, sources),
        over_random=intervals.interval((kept - kept.mean()) * gain, sources),
        by_threshold=column_intervals(np.where(passes, gain[:, None], 0.0), sources),
        random_by_threshold=(passes.mean(0) * gain.mean()).tolist(),
    )

"""Figures along an axis, with intervals: missing rates, label budgets, time steps.

data/missing_rates/<condition>.parquet, written by the classifier, has a row per seed, rate and test
clip with columns
    seed int32; missing_rate float32; clip_id, source_id string; hit bool
"""

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd

from audio_from_video.evaluation import intervals
from audio_from_video.evaluation.rows import BASELINE
from audio_from_video.evaluation.settings import ALL_SAMPLES
from audio_from_video.meaning import similarity
from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import layout, shards

FEWEST_SAMPLES = 3  # of which an interval over samples is drawn; of two it is wider than any figure


def column_intervals(values: np.ndarray, sources: np.ndarray) -> list[dict]:
    """Return `intervals.interval` of each column of per-clip values [N, K].

    sources: of the clips [N].  All columns share one set of resamples.
    """
    sums = intervals.by_source(values, sources)
    sizes = intervals.by_source(np.ones(len(values)), sources)
    resampled = []
    for counts in intervals.resample_counts(len(sums), 0):
        resampled.append((counts @ sums) / (counts @ sizes)[:, None])
    bounds = np.percentile(np.concatenate(resampled), [2.5, 97.5], axis=0).T  # [K, 2]
    estimates = []
    for mean, (low, high) in zip(values.mean(0), bounds, strict=True):
        estimates.append(
            {
                "mean": float(mean),
                "ci95_low": float(low),
                "ci95_high": float(high),
                "n": len(values),
                "sources": len(sums),
            }
        )
    return estimates


def rate_hits(
    condition: str, clips: pd.DataFrame, seeds: int, rates: list[float], partial: bool = False
) -> dict[str, pd.DataFrame]:
    """Return, by rate in per cent as text, which clips (rows) each training (columns) has right.

    clips: what the condition answers on test, indexed by clip_id.  partial: whether it answers some
    clips only; {} where such a condition was not measured.

    Raises:
        UserError: the file is missing or holds other clips, rates or seeds.
    """
    path = layout.missing_rates(condition)
    advice = f"run `dvc repro classifier@{condition}`"
    if not path.is_file():
        raise UserError(f"{path} is missing: {advice}")
    table = shards.read_table(path).to_pandas()
    if partial and table.empty:
        return {}
    hits = table.pivot_table(
        index="clip_id", columns=["missing_rate", "seed"], values="hit", aggfunc="mean"
    )
    expected = sorted(float(np.float32(rate)) for rate in rates)
    complete = (
        len(table) > 0
        and list(hits.columns.unique("missing_rate")) == expected
        and set(hits.index) == set(clips.index)
        and hits.shape[1] == seeds * len(expected)
        and hits.notna().all(axis=None)
    )
    if not complete:
        raise UserError(f"{path} lacks clips, rates or seeds that {condition} answers: {advice}")
    hits = hits.loc[clips.index].astype(float)
    return {f"{100 * rate:.0f}": hits[rate] for rate in expected}


def rate_accuracies(by_rate: dict[str, pd.DataFrame], sources: pd.Series) -> dict[str, dict]:
    """Return the estimate of the accuracy at each rate.

    by_rate: see `rate_hits`.  sources: of the clips, indexed alike.
    """
    return {
        rate: intervals.interval(hits.to_numpy(), sources[hits.index].to_numpy())
        for rate, hits in by_rate.items()
    }


def rate_differences(
    by_rate: dict[str, pd.DataFrame], baseline: dict[str, pd.DataFrame], sources: pd.Series
) -> dict[str, dict]:
    """Return the paired difference to the baseline at each rate; arguments as above."""
    return {
        rate: intervals.paired_difference(
            hits.to_numpy(),
            baseline[rate].loc[hits.index].to_numpy(),
            sources[hits.index].to_numpy(),
        )
        for rate, hits in by_rate.items()
    }


def label_budget(path: Path, names: list[str]) -> tuple[list[str], dict[str, list[dict]]]:
    """Return the settings of the experiment and, by condition, the differences at each of them.

    path: its CSV file.  names: conditions; those that the experiment lacks are left out.  Settings
    are numbers of labelled clips per action; differences are paired, to `video_only`.

    Raises:
        UserError: a condition lacks a setting.
    """
    measure = f"accuracy_minus_{BASELINE}"
    columns = {measure: "mean", f"{measure}_low": "ci95_low", f"{measure}_high": "ci95_high"}
    table = pd.read_csv(path, dtype={"setting": str}).rename(columns=columns)
    table = table.set_index(["condition", "setting"])
    settings = list(table.index.unique("setting"))
    curves = {}
    for name in names:
        if name == BASELINE or name not in table.index.unique("condition"):
            continue
        rows = table.loc[name]
        if set(rows.index) != set(settings):
            raise UserError(
                f"{path} has {name} at {', '.join(rows.index)}, not at all of "
                f"{', '.join(settings)}: run the experiment"
            )
        curves[name] = rows.loc[settings, list(columns.values())].to_dict("records")
    return settings, curves


@dataclass(frozen=True)
class DosePanel:
    """Gains over the levels of one knob of the rendered sample.

    levels: as the settings name them, ascending.  curves: by condition an estimate at each level;
    its `samples` is the number of samples that it is the mean of.  Of several the interval is over
    samples, of one over its sources and trainings.
    sample_gains: by condition, at each level the gains of all its samples.
    """

    knob: str
    levels: list[str]
    curves: dict[str, list[dict]]
    sample_gains: dict[str, list[list[float]]]


def dose(path: Path) -> list[DosePanel]:
    """Return a panel for each knob of the experiment `dose`.

    path: its CSV file, whose settings are named after the knobs that they turn, such as `cue 0`;
    the setting of the defaults names all of them, with commas.  Gains are those over each
    condition's baseline.  A row is of one sample, or of all of them together (`sample_seed`).  A
    level with fewer than FEWEST_SAMPLES stands there with the first one.  A knob with one level is
    left out, and so are levels that are not measured yet.
    """
    columns = {"gain": "mean", "gain_low": "ci95_low", "gain_high": "ci95_high"}
    table = pd.read_csv(path, dtype={"setting": str, "sample_seed": str}).rename(columns=columns)
    table = table[table["mean"].notna()]
    if "samples" not in table:  # no sample but one
        table = table.assign(samples=1)
    settings_by_knob: dict[str, dict[str, str]] = {}
    for setting in table.setting.unique():
        for turned in setting.split(", "):
            knob, level = turned.rsplit(" ", 1)
            settings_by_knob.setdefault(knob, {})[level] = setting

    of_one = table[table.sample_seed != ALL_SAMPLES].assign(samples=1)
    of_all = table[table.sample_seed == ALL_SAMPLES]
    enough = of_all[of_all.samples >= FEWEST_SAMPLES]
    # The first row of a setting and condition counts: that of all samples, if they are enough.
    estimates = pd.concat([enough, of_one]).drop_duplicates(["condition", "setting"])
    estimates = estimates.set_index(["condition", "setting"])
    gains = of_one.groupby(["condition", "setting"])["mean"].apply(list).to_dict()
    panels = []
    for knob, settings in settings_by_knob.items():
        if len(settings) < 2:
            continue
        levels = sorted(settings, key=float)
        places = [settings[level] for level in levels]
        curves = {}
        sample_gains = {}
        for condition in table.condition.unique():
            rows = estimates.loc[condition].reindex(places)
            curves[condition] = rows[[*columns.values(), "samples"]].to_dict("records")
            sample_gains[condition] = [gains.get((condition, place), []) for place in places]
        panels.append(DosePanel(knob, levels, curves, sample_gains))
    return panels


def similarity_over_time(generated: Path) -> dict[str, list[dict]]:
    """Return the cosine of generated to real audio features at each of T time steps.

    generated: directory of the generated features.  Clips are the audible ones of test; cosines are
    averaged over seeds.  Both features are centred: PCA took the training clips' mean away.
    `own`: of the clip itself.  `other`: features generated for clips of the same action from other
    sources, averaged.  `difference`: own - other, paired.  Clips whose action has no other source
    are left out; {} where nothing remains.
    """
    clips = {row["clip_id"]: row for row in shards.ok_rows(layout.AUDIO_FEATURES)}
    rows = shards.iter_joined([layout.AUDIO_FEATURES, generated], ["features"], ["test"])
    own_parts = []
    other_parts = []
    source_parts = []
    # The shards hold the clips of an action one after the other.
    for _, group in groupby(rows, key=lambda pair: clips[pair[0]["clip_id"]]["action"]):
        pairs = list(group)
        sources = np.array([clips[row["clip_id"]]["source_id"] for row, _ in pairs])
        real = np.stack([row["features"] for row, _ in pairs]).astype(np.float32)  # [n, T, A]
        answers = np.stack([row["features"] for _, row in pairs]).astype(np.float32)  # [n, S, T, A]

        # Of clip n's sound with what was generated for clip m, averaged over seeds: [n, m, T].
        mean_answers = similarity.unit(answers).mean(1)
        cosines = np.einsum("nta,mta->nmt", similarity.unit(real), mean_answers, optimize=True)
        foreign = sources[:, None] != sources  # [n, m]
        comparable = foreign.any(1)
        foreign_sums = (cosines * foreign[..., None]).sum(1)[comparable]
        own_parts.append(cosines.diagonal().T[comparable])
        other_parts.append(foreign_sums / foreign.sum(1)[comparable, None])
        source_parts.append(sources[comparable])
    if not sum(len(sources) for sources in source_parts):
        return {}
    own = np.concatenate(own_parts)
    other = np.concatenate(other_parts)
    sources = np.concatenate(source_parts)
    return {
        "own": column_intervals(own, sources),
        "other": column_intervals(other, sources),
        "difference": column_intervals(own - other, sources),
    }

"""Figures along an axis, with intervals over sources: missing rates, label budgets, time steps.

data/missing_rates/<condition>.parquet, written by the classifier: a row per seed, rate and test clip with columns
    seed int32; missing_rate float32; clip_id, source_id string; hit bool
"""

from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd

from audio_from_video.evaluation import intervals
from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import layout, shards

MISSING = Path("data/missing_rates")
AUDIO = layout.AUDIO_FEATURES


def column_intervals(values: np.ndarray, sources: np.ndarray) -> list[dict]:
    """`intervals.interval` of each column of per-clip values [N, K], from one set of resamples."""
    sums, sizes = (
        intervals.by_source(values, sources),
        intervals.by_source(np.ones(len(values)), sources),
    )
    drawn = intervals.resample_counts(len(sums), 0)
    means = np.concatenate(
        [(counts @ sums) / (counts @ sizes)[:, None] for counts in drawn]
    )  # [resamples, K]
    bounds = np.percentile(means, [2.5, 97.5], axis=0).T
    return [
        {
            "mean": float(mean),
            "ci95_low": float(low),
            "ci95_high": float(high),
            "n": len(values),
            "sources": len(sums),
        }
        for mean, (low, high) in zip(values.mean(0), bounds, strict=True)
    ]


def missing_rates(
    condition: str, clips: pd.DataFrame, seeds: int, rates: list[float], partial: bool = False
) -> dict[str, dict]:
    """Accuracy of a condition at each of `rates` (per cent as text); {} where a `partial` row, which answers some clips only, was
    not measured.

    clips: what the condition answers on test, indexed by clip_id.
    """
    path = MISSING / f"{condition}.parquet"
    if not path.is_file():
        raise UserError(f"{path} is missing: run `dvc repro classifier@{condition}`")
    table = shards.read_table(path).to_pandas()
    if partial and table.empty:
        return {}
    hits = table.pivot_table(
        index="clip_id", columns="missing_rate", values="hit", aggfunc=["mean", "size"]
    )
    asked = sorted(float(np.float32(rate)) for rate in rates)
    same = (
        list(hits["mean"].columns) == asked and set(hits.index) == set(clips.index)
        if len(table)
        else False
    )
    if not same or (hits["size"] != seeds).any(axis=None):
        raise UserError(
            f"{path} lacks clips, rates or seeds that {condition} answers: run `dvc repro classifier@{condition}`"
        )
    found = column_intervals(hits["mean"].loc[clips.index].to_numpy(), clips.source_id.to_numpy())
    return {f"{100 * rate:.0f}": figure for rate, figure in zip(sorted(rates), found, strict=True)}


def label_budget(path: Path, names: list[str]) -> tuple[list[str], dict[str, list[dict]]]:
    """The settings of the experiment (labelled clips per action), and accuracies at each of them for `names` that it has."""
    columns = {"accuracy": "mean", "accuracy_low": "ci95_low", "accuracy_high": "ci95_high"}
    found = (
        pd.read_csv(path, dtype={"setting": str})
        .rename(columns=columns)
        .set_index(["condition", "setting"])
    )
    settings = list(found.index.unique("setting"))
    curves = {}
    for name in names:
        if name in found.index.unique("condition"):
            rows = found.loc[name]
            if set(rows.index) != set(settings):
                raise UserError(
                    f"{path} has {name} at {', '.join(rows.index)}, not at all of {', '.join(settings)}: run the experiment"
                )
            curves[name] = rows.loc[settings, list(columns.values())].to_dict("records")
    return settings, curves


def similarity_over_time(generated: Path) -> dict[str, list[dict]]:
    """Cosine of generated to real audio features at each of T time steps: audible test clips, averaged over seeds.

    Both are centred: PCA took the training clips' mean away.  `own`: of the clip itself; `other`: features generated for
    clips of the same action from other sources, averaged; `difference`: own - other, paired.  Clips whose action has no other
    source are left out; empty where nothing remains.
    """
    place = {row["clip_id"]: (row["action"], row["source_id"]) for row in shards.ok_rows(AUDIO)}
    rows = shards.iter_joined([AUDIO, generated], ["features"], ["test"])
    found: list[tuple[np.ndarray, ...]] = []
    for _, group in groupby(rows, key=lambda pair: place[pair[0]["clip_id"]][0]):
        pairs = list(group)
        sources = np.array([place[row["clip_id"]][1] for row, _ in pairs])
        real, made = (
            np.stack([pair[i]["features"] for pair in pairs]).astype(np.float32) for i in (0, 1)
        )  # [n, T, A], [n, S, T, A]
        cosines = np.einsum(
            "nta,mta->nmt", unit(real), unit(made).mean(1), optimize=True
        )  # of clip n's sound with what was made for m
        foreign = sources[:, None] != sources  # [n, m]
        some = foreign.any(1)
        others = (cosines * foreign[..., None]).sum(1)[some] / foreign.sum(1)[some, None]
        found.append((cosines.diagonal().T[some], others, sources[some]))
    if not sum(len(sources) for *_, sources in found):
        return {}
    own, other, sources = (np.concatenate(part) for part in zip(*found, strict=True))
    return {
        "own": column_intervals(own, sources),
        "other": column_intervals(other, sources),
        "difference": column_intervals(own - other, sources),
    }


def unit(features: np.ndarray) -> np.ndarray:
    """Features [..., A] at length 1."""
    return features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-9)

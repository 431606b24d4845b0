"""Do the intervals and tests of audio_from_video/evaluation/intervals.py hold what they promise?  Simulated test sets of known truth.

    python -m benchmarks.interval_coverage [--runs 2000]

Writes metrics/experiments/interval_coverage.csv: a row per simulated world and question, with the Monte Carlo error of the figure.
Four minutes of one core.  The pipeline takes 4,000 resamples.  Intervals of 1,000 cover 0.2 points less, of 400 0.5 points less;
the p-value is below 5 % as often with 400 (4.99 %, were it exact), so that tests can be simulated five times as often.

A simulated test set is shaped like the embedded one: 204 sources of 1 to 4 clips, two conditions that are both right on 63 % of
the clips, 3 trainings each.  An answer is right where a normal variable is above a threshold; it adds up what SHARES names, plus
in some worlds what all clips of one training have in common, its luck.  The shares give correlations near those of the
predictions on the embedded test set: between trainings of a clip 0.73, between conditions 0.61, between clips of a source 0.71.
Luck there has a deviation of about 1 point: over the seeds of 11 conditions accuracies deviate by 1.9 points (root mean square),
of which resampling sources explains 1.6.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import norm

from audio_from_video.evaluation.intervals import (
    RESAMPLES,
    holm,
    interval,
    over_trainings,
    paired_difference,
    smallest_detectable_difference,
)

INTERVAL_RESAMPLES, TEST_RESAMPLES, TEST_RUNS = 1000, 400, 5  # runs: of tests for each of intervals
OUTPUT = Path("metrics/experiments/interval_coverage.csv")
SHARES = {
    "source": 0.80,
    "source x condition": 0.09,
    "clip": 0.03,
    "source x training": 0.055,
    "clip x training": 0.025,
}  # of variance


@dataclass(frozen=True)
class World:
    """What a test set is drawn from."""

    sources: int = 204
    sizes: tuple[int, ...] = (
        (1,) * 59 + (2,) * 54 + (3,) * 51 + (4,) * 40
    )  # clips of a source are drawn from these
    size_effect: float = 0.0  # what a further clip adds to the normal variable of its source: larger sources are easier
    conditions: int = 2
    seeds: int = 3
    seed_sd: float = 0.0  # deviation of the true accuracy from training to training, a share
    accuracy: float = 0.63
    difference: float = 0.0  # true accuracy of the second condition minus the first

    @property
    def luck_sd(self) -> float:
        """Deviation of the normal variable over trainings that moves accuracy by `seed_sd` (first order)."""
        return self.seed_sd / norm.pdf(norm.ppf(self.accuracy))

    @property
    def thresholds(self) -> np.ndarray:
        """[conditions] below which an answer is wrong, negated."""
        accuracies = np.full(self.conditions, self.accuracy)
        accuracies[1:] += self.difference
        return norm.ppf(accuracies) * np.sqrt(1 + self.luck_sd**2)

    def true_accuracy(self) -> float:
        """Of the first condition, over clips, sources and trainings."""
        easier = self.size_effect * (np.asarray(self.sizes) - np.mean(self.sizes))
        return float(
            np.average(
                norm.cdf((self.thresholds[0] + easier) / np.sqrt(1 + self.luck_sd**2)),
                weights=self.sizes,
            )
        )


def draw(world: World, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Whether the answers are right [conditions, seeds, N] and the source of each clip [N]."""
    sizes = rng.choice(world.sizes, world.sources)
    sources = np.repeat(np.arange(world.sources), sizes)
    c, k, s, n = world.conditions, world.seeds, world.sources, len(sources)
    shapes = ((1, 1, s), (c, 1, s), (1, 1, n), (c, k, s), (c, k, n))
    parts = [
        np.sqrt(share) * rng.standard_normal(shape)
        for share, shape in zip(SHARES.values(), shapes, strict=True)
    ]
    of_sources = (
        parts[0] + parts[1] + parts[3] + world.size_effect * (sizes - np.mean(world.sizes))
    )  # [c, k, s]
    level = world.thresholds[:, None, None] + world.luck_sd * rng.standard_normal((c, k, 1))
    return level + of_sources[:, :, sources] + parts[2] + parts[4] > 0, sources


def drawn(world: World, runs: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """`runs` test sets, numbered: the number seeds their resamples, whose errors would otherwise not average out."""
    rng = np.random.default_rng(0)
    return ((run, *draw(world, rng)) for run in range(runs))


def covered(world: World, runs: int, resamples: int, by_clip: bool = False) -> np.ndarray:
    """Whether the first condition's interval, and the one over trainings, holds its true accuracy [runs, 2]."""
    truth, result = world.true_accuracy(), []
    for run, hits, sources in drawn(world, runs):
        figure = interval(
            hits[0].mean(0), np.arange(len(sources)) if by_clip else sources, run, resamples
        )
        result.append(
            [
                holds(figure, truth),
                holds(over_trainings(figure, training_variance(hits[:1])), truth),
            ]
        )
    return np.array(result)


def found(world: World, runs: int, resamples: int) -> np.ndarray:
    """Whether the second condition differs from the first at 5 %: by p, and by the interval over trainings [runs, 2]."""
    result = []
    for run, hits, sources in drawn(world, runs):
        figure = paired_difference(hits[1].mean(0), hits[0].mean(0), sources, run, resamples)
        result.append(
            [figure["p"] < 0.05, not holds(over_trainings(figure, training_variance(hits)), 0)]
        )
    return np.array(result)


def found_of_family(world: World, runs: int, resamples: int) -> np.ndarray:
    """Whether any further condition differs from the first at 5 %: by its own p, and by Holm's [runs, 2]."""
    result = []
    for run, hits, sources in drawn(world, runs):
        rows = hits.mean(1)
        p = {
            str(i): paired_difference(row, rows[0], sources, run, resamples)["p"]
            for i, row in enumerate(rows[1:])
        }
        result.append([min(values.values()) < 0.05 for values in (p, holm(p))])
    return np.array(result)


def smallest(world: World, runs: int) -> float:
    """The mean smallest detectable difference of the first two conditions, a share."""
    each = (
        smallest_detectable_difference(hits[1].mean(0), hits[0].mean(0), sources)
        for _, hits, sources in drawn(world, runs)
    )
    return float(np.mean(list(each)))


def holds(figure: dict, truth: float) -> bool:
    return figure["ci95_low"] <= truth <= figure["ci95_high"]


def training_variance(hits: np.ndarray) -> float:
    """Sum over conditions of the squared deviation over seeds / seeds."""
    return float((hits.mean(2).var(1, ddof=1) / hits.shape[1]).sum())


def table(runs: int) -> Iterator[dict]:
    """The rows of the CSV file, as they are computed."""
    ours = World()

    def held(world: World) -> np.ndarray:
        return covered(world, runs, INTERVAL_RESAMPLES)

    def tested(world: World) -> np.ndarray:
        return found(world, TEST_RUNS * runs, TEST_RESAMPLES)

    def row(simulated: str, question: str, wanted: str, outcomes: np.ndarray, world: World) -> dict:
        share = outcomes.mean()
        return {
            "simulated": simulated,
            "question": question,
            "wanted %": wanted,
            "measured %": f"{100 * share:.1f}",
            "Monte Carlo error, points": f"{100 * np.sqrt(share * (1 - share) / len(outcomes)):.1f}",
            "runs": len(outcomes),
            "sources": world.sources,
            "seeds": world.seeds,
        }

    accuracy, difference = (
        "interval holds the true accuracy",
        "paired test at 5 % finds a difference that is not there",
    )
    for name, world in {
        "as the embedded test set": ours,
        "half of the sources (as `published`)": replace(ours, sources=103),
        "34 sources (as a look-alike pair)": replace(ours, sources=34),
        "20 sources": replace(ours, sources=20),
        "one clip per source": replace(ours, sizes=(1,)),
        "a tenth of the sources hold 20 clips": replace(ours, sizes=(1,) * 9 + (20,)),
        "larger sources are easier": replace(ours, size_effect=0.3),
        "93 % are right (as top 5)": replace(ours, accuracy=0.93),
    }.items():
        yield row(name, accuracy, "95", held(world)[:, 0], world)
        yield row(name, difference, "5", tested(world)[:, 0], world)
    clips = covered(ours, runs, INTERVAL_RESAMPLES, by_clip=True)
    yield row("resampling clips instead of sources", accuracy, "95", clips[:, 0], ours)
    least = smallest(ours, runs)
    powerful = tested(replace(ours, difference=least))[:, 0]
    yield row(
        f"true difference {100 * least:.1f} points, the smallest detectable",
        "paired test at 5 % finds it",
        "80",
        powerful,
        ours,
    )
    family = replace(ours, conditions=13)
    any_found = found_of_family(
        family, runs // 4, RESAMPLES
    )  # Holm's smallest threshold, 5 / 12 %, needs all resamples
    for column, (by, wanted) in enumerate({"": "", ", by Holm": "at most 5"}.items()):
        name = "12 conditions that do not differ from the first"
        yield row(
            name, "paired tests at 5 % find at least one" + by, wanted, any_found[:, column], family
        )
    for world in (
        replace(ours, seeds=seeds, seed_sd=points / 100)
        for seeds in (3, 5)
        for points in (0, 1, 2, 3)
    ):
        name = f"trainings differ by luck: sd {100 * world.seed_sd:.0f} points"
        for question, wanted, outcomes in (
            (accuracy, "95", held(world)),
            (difference, "5", tested(world)),
        ):
            yield row(name, question, wanted, outcomes[:, 0], world)
            yield row(
                name, question + ", widened by `over_trainings`", wanted, outcomes[:, 1], world
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.interval_coverage",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--runs",
        type=int,
        default=2000,
        help="simulated test sets per interval's row; five times as many per test's",
    )
    arguments = parser.parse_args()
    rows = []
    for row in table(arguments.runs):
        print(*row.values(), sep="; ", flush=True)
        rows.append(row)
    pd.DataFrame(rows).to_csv(OUTPUT, index=False)


if __name__ == "__main__":
    main()

"""Check on simulated test sets that intervals and tests hold what they promise.

    python -m benchmarks.interval_coverage [--runs 2000]

Checks audio_from_video/evaluation/intervals.py. Writes metrics/experiments/interval_coverage.csv: a
row per simulated world and question, with the Monte Carlo error of the figure, and the stamp of its
run beside it (audio_from_video/reporting/stamps.py). Six minutes of one core.

The pipeline takes 4,000 resamples. Intervals of 1,000 cover 0.2 points less, of 400 0.5 points
less. The p-value needs none, so that tests can be simulated five times as often as intervals.

A simulated test set is shaped like the embedded one: 204 sources of 1 to 4 clips, two conditions
that are both right on 63 % of the clips, 3 trainings each. An answer is right where a normal
variable is above a threshold. The variable adds up what SHARES names, and in some worlds what all
clips of one training have in common, its luck. The shares give correlations near those of the
predictions on the embedded test set: 0.73 between trainings of a clip, 0.61 between conditions,
0.71 between clips of a source. Luck there has a deviation of about 1 point: over the seeds of 11
conditions accuracies deviate by 1.9 points (root mean square), of which resampling sources
explains 1.6.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import norm

from audio_from_video.evaluation.intervals import (
    holm,
    interval,
    p_value,
    paired_difference,
    smallest_detectable_difference,
)
from audio_from_video.reporting import stamps
from tools.experiments import machine

OUTPUT = Path("metrics/experiments/interval_coverage.csv")
CODE = ["audio_from_video/evaluation/intervals.py", "benchmarks/interval_coverage.py"]
INTERVAL_RESAMPLES = 1000
TEST_RESAMPLES = 400
TEST_RUNS = 5  # simulated tests for each simulated interval
SHARES = {  # of the normal variable's variance
    "source": 0.80,
    "source x condition": 0.09,
    "clip": 0.03,
    "source x training": 0.055,
    "clip x training": 0.025,
}
EMBEDDED_SIZES = (1,) * 59 + (2,) * 54 + (3,) * 51 + (4,) * 40

COVERAGE = "interval holds the true accuracy"
FALSE_ALARM = "paired test at 5 % finds a difference that is not there"
BY_P = ", p with the deviation over trainings"
TWO_LEVELS = ", resampling trainings too"


@dataclass(frozen=True)
class World:
    """What a test set is drawn from."""

    sources: int = 204
    sizes: tuple[int, ...] = EMBEDDED_SIZES  # numbers of clips, from which each source's is drawn
    # What a further clip adds to the normal variable of its source: larger sources are easier.
    size_effect: float = 0.0
    conditions: int = 2
    seeds: int = 3
    seed_sd: float = 0.0  # deviation of the true accuracy from training to training, a share
    accuracy: float = 0.63
    difference: float = 0.0  # true accuracy of the second condition minus the first

    @cached_property
    def luck_sd(self) -> float:
        """Deviation over trainings of the normal variable; moves accuracy by `seed_sd`."""
        return self.seed_sd / norm.pdf(norm.ppf(self.accuracy))  # to first order

    @cached_property
    def thresholds(self) -> np.ndarray:
        """[conditions] thresholds below which an answer is wrong, negated."""
        accuracies = np.full(self.conditions, self.accuracy)
        accuracies[1:] += self.difference
        return norm.ppf(accuracies) * np.sqrt(1 + self.luck_sd**2)

    def true_accuracy(self) -> float:
        """Return the first condition's accuracy over clips, sources and trainings."""
        easier = self.size_effect * (np.asarray(self.sizes) - np.mean(self.sizes))
        by_size = norm.cdf((self.thresholds[0] + easier) / np.sqrt(1 + self.luck_sd**2))
        return float(np.average(by_size, weights=self.sizes))


def draw_test_set(world: World, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return whether the answers are right [conditions, seeds, N], and the clips' sources [N]."""
    sizes = rng.choice(world.sizes, world.sources)
    sources = np.repeat(np.arange(world.sources), sizes)

    # How often each part of the variable is drawn: by condition, training, and source or clip.
    shapes = {
        "source": (1, 1, world.sources),
        "source x condition": (world.conditions, 1, world.sources),
        "clip": (1, 1, len(sources)),
        "source x training": (world.conditions, world.seeds, world.sources),
        "clip x training": (world.conditions, world.seeds, len(sources)),
    }
    parts = {}
    for name, share in SHARES.items():
        parts[name] = np.sqrt(share) * rng.standard_normal(shapes[name])

    easier = world.size_effect * (sizes - np.mean(world.sizes))
    of_sources = (  # [conditions, seeds, sources]
        parts["source"] + parts["source x condition"] + parts["source x training"] + easier
    )
    luck = world.luck_sd * rng.standard_normal((world.conditions, world.seeds, 1))
    level = world.thresholds[:, None, None] + luck
    variable = level + of_sources[:, :, sources] + parts["clip"] + parts["clip x training"]
    return variable > 0, sources


def test_sets(world: World, runs: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield `runs` test sets with their numbers.

    The number seeds the resamples of a test set, whose errors would otherwise not average out.
    """
    rng = np.random.default_rng(0)
    for run in range(runs):
        hits, sources = draw_test_set(world, rng)
        yield run, hits, sources


def coverage(
    world: World, runs: int, resamples: int = INTERVAL_RESAMPLES, by_clip: bool = False
) -> np.ndarray:
    """Return whether intervals hold the first condition's true accuracy [runs, 2].

    The columns are the interval over sources alone and the one over trainings, too. `by_clip`
    resamples clips, as if each were a source of its own.
    """
    truth = world.true_accuracy()
    outcomes = []
    for run, hits, sources in test_sets(world, runs):
        units = np.arange(len(sources)) if by_clip else sources
        over_sources = interval(hits[0].mean(0), units, run, resamples)
        over_both = interval(hits[0].T, units, run, resamples)
        outcomes.append([holds(over_sources, truth), holds(over_both, truth)])
    return np.array(outcomes)


def detections(world: World, runs: int, resamples: int = TEST_RESAMPLES) -> np.ndarray:
    """Return whether the second condition differs from the first at 5 % [runs, 3].

    The columns are by p over sources alone, by p over trainings, too, and by the interval over
    both.
    """
    outcomes = []
    for run, hits, sources in test_sets(world, runs):
        over_sources = p_value(hits[1].mean(0) - hits[0].mean(0), sources)
        over_both = paired_difference(hits[1].T, hits[0].T, sources, run, resamples)
        outcomes.append([over_sources < 0.05, over_both["p"] < 0.05, not holds(over_both, 0)])
    return np.array(outcomes)


def detections_in_family(world: World, runs: int) -> np.ndarray:
    """Return whether any further condition differs from the first at 5 % [runs, 2].

    The columns are by the conditions' own p-values, and by Holm's.
    """
    outcomes = []
    for _, hits, sources in test_sets(world, runs):
        first, *others = hits.mean(1)
        p_values: dict[str, float | None] = {}
        for i, other in enumerate(others):
            p_values[str(i)] = p_value(other - first, sources)
        outcomes.append([any_significant(p_values), any_significant(holm(p_values))])
    return np.array(outcomes)


def any_significant(p_values: dict[str, float | None]) -> bool:
    return any(p is not None and p < 0.05 for p in p_values.values())


def smallest_detectable(world: World, runs: int) -> float:
    """Return the mean smallest detectable difference of the first two conditions, a share."""
    differences = []
    for _, hits, sources in test_sets(world, runs):
        first = hits[0].mean(0)
        second = hits[1].mean(0)
        differences.append(smallest_detectable_difference(second, first, sources))
    return float(np.mean(np.array(differences, dtype=float)))


def holds(figure: dict, truth: float) -> bool:
    return figure["ci95_low"] <= truth <= figure["ci95_high"]


def csv_row(world: World, name: str, question: str, wanted: str, outcomes: np.ndarray) -> dict:
    """Return a row of the CSV file from the outcomes [runs] of one question in one world."""
    share = outcomes.mean()
    error = np.sqrt(share * (1 - share) / len(outcomes))
    return {
        "simulated": name,
        "question": question,
        "wanted %": wanted,
        "measured %": f"{100 * share:.1f}",
        "Monte Carlo error, points": f"{100 * error:.1f}",
        "runs": len(outcomes),
        "sources": world.sources,
        "seeds": world.seeds,
    }


def table(runs: int) -> Iterator[dict]:
    """Yield the rows of the CSV file, as they are computed."""
    yield from shape_rows(runs)
    yield from clip_rows(runs)
    yield from power_rows(runs)
    yield from family_rows(runs)
    yield from luck_rows(runs)


def shape_rows(runs: int) -> Iterator[dict]:
    """Yield rows on test sets of other shapes than the embedded one."""
    ours = World()
    worlds = {
        "as the embedded test set": ours,
        "half of the sources (as `published`)": replace(ours, sources=103),
        "34 sources (as a look-alike pair)": replace(ours, sources=34),
        "20 sources": replace(ours, sources=20),
        "one clip per source": replace(ours, sizes=(1,)),
        "a tenth of the sources hold 20 clips": replace(ours, sizes=(1,) * 9 + (20,)),
        "larger sources are easier": replace(ours, size_effect=0.3),
        "93 % are right (as top 5)": replace(ours, accuracy=0.93),
    }
    for name, world in worlds.items():
        yield csv_row(world, name, COVERAGE, "95", coverage(world, runs)[:, 0])
        alarms = detections(world, TEST_RUNS * runs)
        yield csv_row(world, name, FALSE_ALARM, "5", alarms[:, 0])


def clip_rows(runs: int) -> Iterator[dict]:
    """Yield the row that tells what resampling clips would cost."""
    world = World()
    outcomes = coverage(world, runs, by_clip=True)
    yield csv_row(world, "resampling clips instead of sources", COVERAGE, "95", outcomes[:, 0])


def power_rows(runs: int) -> Iterator[dict]:
    """Yield the row on a true difference of the smallest detectable size."""
    world = World()
    difference = smallest_detectable(world, runs)
    outcomes = detections(replace(world, difference=difference), TEST_RUNS * runs)
    name = f"true difference {100 * difference:.1f} points, the smallest detectable"
    yield csv_row(world, name, "paired test at 5 % finds it", "80", outcomes[:, 0])


def family_rows(runs: int) -> Iterator[dict]:
    """Yield rows on many comparisons at once."""
    world = World(conditions=13)
    name = "12 conditions that do not differ from the first"
    question = "paired tests at 5 % find at least one"
    outcomes = detections_in_family(world, runs // 4)
    yield csv_row(world, name, question, "", outcomes[:, 0])
    yield csv_row(world, name, f"{question}, by Holm", "at most 5", outcomes[:, 1])


def luck_rows(runs: int) -> Iterator[dict]:
    """Yield rows on trainings whose true accuracy differs by luck."""
    for seeds in (3, 5):
        for points in (0, 1, 2, 3):
            world = World(seeds=seeds, seed_sd=points / 100)
            name = f"trainings differ by luck: sd {points} points"
            covered = coverage(world, runs)
            alarms = detections(world, TEST_RUNS * runs)
            yield csv_row(world, name, COVERAGE, "95", covered[:, 0])
            yield csv_row(world, name, COVERAGE + TWO_LEVELS, "95", covered[:, 1])
            yield csv_row(world, name, FALSE_ALARM, "5", alarms[:, 0])
            yield csv_row(world, name, FALSE_ALARM + BY_P, "5", alarms[:, 1])
            yield csv_row(world, name, FALSE_ALARM + TWO_LEVELS, "5", alarms[:, 2])


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
    # Nothing here depends on a data set or on params.yaml.
    stamp = stamps.finish(stamps.begin(machine(), []), None, stamps.contents(CODE))
    stamps.write(OUTPUT.stem, {OUTPUT.stem: stamp.model_copy(update={"parameters": None})})


if __name__ == "__main__":
    main()

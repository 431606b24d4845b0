"""Intervals and tests by resampling sources, against SciPy, scikit-learn and simulation."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats
from sklearn.calibration import calibration_curve
from sklearn.metrics import f1_score

from audio_from_video.evaluation import intervals
from audio_from_video.evaluation.intervals import (
    calibration_error,
    holm,
    interval,
    macro_f1,
    paired_difference,
    smallest_detectable_difference,
    training_weights,
)
from benchmarks.interval_coverage import (
    World,
    coverage,
    detections,
    detections_in_family,
    draw_test_set,
    smallest_detectable,
)

FEWEST = 2  # resamples, for what depends on p-values alone: they need none


def hits(seed: int, n: int, share: float = 0.6) -> np.ndarray:
    return (np.random.default_rng(seed).random(n) < share).astype(float)


def test_with_one_clip_per_source_it_is_scipys_percentile_bootstrap():
    values = hits(1, 200)
    ours = interval(values, np.arange(200), resamples=20_000)
    theirs = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(2)
    ).confidence_interval
    assert (ours["mean"], ours["n"], ours["sources"]) == (pytest.approx(values.mean()), 200, 200)
    assert ours["ci95_low"] == pytest.approx(theirs.low, abs=0.006)
    assert ours["ci95_high"] == pytest.approx(theirs.high, abs=0.006)


def test_unequal_sources_follow_the_definition():
    """Drawn sources bring all their clips, and the mean is over clips."""
    values, sources = np.array([1.0, 1, 0, 0, 0, 1]), np.array(["b", "b", "a", "c", "c", "c"])
    rng, means = np.random.default_rng(5), []
    for _ in range(20_000):
        drawn = np.concatenate([values[sources == s] for s in rng.choice(["a", "b", "c"], 3)])
        means.append(drawn.mean())
    ours = interval(values, sources, resamples=20_000)
    assert [ours["ci95_low"], ours["ci95_high"]] == pytest.approx(
        np.percentile(means, [2.5, 97.5]), abs=0.02
    )
    assert ours["sources"] == 3


def test_clips_of_one_source_are_no_independent_observations():
    per_source = hits(3, 50, 0.5)
    values, sources = np.repeat(per_source, 4), np.repeat(np.arange(50), 4)
    by_source, by_clip = interval(values, sources), interval(values, np.arange(200))
    width = [figure["ci95_high"] - figure["ci95_low"] for figure in (by_source, by_clip)]
    assert width[0] / width[1] == pytest.approx(
        2, rel=0.12
    )  # four copies: half the effective deviation


def test_order_of_clips_and_names_of_sources_do_not_matter():
    values, sources = hits(4, 90), np.arange(90) // 3
    order = np.random.default_rng(0).permutation(90)
    assert interval(values, sources) == interval(values[order], sources[order])
    assert (
        interval(values, sources)["ci95_low"] == interval(values, sources)["ci95_low"]
    )  # the seed is fixed


def test_no_clips_no_figures():
    empty = np.array([])
    assert interval(empty, empty) == {
        "mean": None,
        "ci95_low": None,
        "ci95_high": None,
        "n": 0,
        "sources": 0,
    }
    assert paired_difference(empty, empty, empty)["p"] is None


def test_paired_difference_has_the_sign_of_the_better_one():
    sources = np.arange(300)
    worse = hits(6, 300, 0.5)
    better = np.maximum(worse, hits(7, 300, 0.3))
    up, down = paired_difference(better, worse, sources), paired_difference(worse, better, sources)
    assert up["mean"] == pytest.approx((better - worse).mean())
    assert up["mean"] == -down["mean"]
    assert 0 < up["ci95_low"] < up["mean"] < up["ci95_high"]
    assert up["p"] < 0.001
    assert down["p"] < 0.001
    same = paired_difference(worse, worse, sources)
    assert same["mean"] == 0
    assert same["p"] == 1


def test_p_agrees_with_the_t_test():
    rng = np.random.default_rng(8)
    difference = rng.normal(0.1, 0.7, 250)
    ours = paired_difference(difference, np.zeros(250), np.arange(250))
    assert ours["p"] == pytest.approx(stats.ttest_1samp(difference, 0).pvalue, abs=0.015)
    assert (ours["p"] < 0.05) == (ours["ci95_low"] > 0)


@pytest.mark.parametrize("shift", [0.02, 0.05, 0.08])
def test_p_agrees_with_flipping_the_signs_of_whole_sources(shift):
    """SciPy's permutation test for one sample: the sums of the sources' differences."""
    hits, sources = draw_test_set(World(), np.random.default_rng(12))
    difference = hits[1].mean(0) - hits[0].mean(0)
    difference += shift - difference.mean()
    ours = paired_difference(difference, np.zeros(len(difference)), sources)
    sums = np.bincount(sources, difference)
    theirs = stats.permutation_test(
        (sums,), np.sum, permutation_type="samples", n_resamples=9_999, rng=np.random.default_rng(1)
    )
    assert ours["p"] == pytest.approx(theirs.pvalue, abs=0.02)


def test_macro_f1_is_scikit_learns():
    rng = np.random.default_rng(9)
    true = rng.integers(0, 4, 120)
    predicted = np.where(rng.random(120) < 0.6, true, rng.integers(0, 4, 120))
    ours = macro_f1(true, predicted[None], 4, np.arange(120))
    assert ours["mean"] == pytest.approx(f1_score(true, predicted, average="macro"))
    drawn = rng.integers(0, 120, (3000, 120))
    means = [f1_score(true[d], predicted[d], average="macro") for d in drawn[:400]]
    assert [ours["ci95_low"], ours["ci95_high"]] == pytest.approx(
        np.percentile(means, [2.5, 97.5]), abs=0.03
    )


def test_macro_f1_leaves_out_actions_that_nobody_names():
    true = np.array([0, 0, 1, 1])
    assert macro_f1(true, true[None], 5, np.arange(4))["mean"] == 1
    assert macro_f1(true, np.stack([true, 1 - true]), 2, np.arange(4))["mean"] == pytest.approx(0.5)


def test_smallest_detectable_difference_is_found_with_80_per_cent_power():
    rng = np.random.default_rng(11)
    noise = rng.normal(0, 1, 400)
    smallest = smallest_detectable_difference(noise, np.zeros(400), np.arange(400))
    assert smallest == pytest.approx((1.96 + 0.8416) * noise.std() / np.sqrt(400), rel=0.001)
    found = [
        stats.ttest_1samp(rng.normal(smallest, noise.std(), 400), 0).pvalue < 0.05
        for _ in range(600)
    ]
    assert np.mean(found) == pytest.approx(0.8, abs=0.06)


# Simulation: 2,000 test sets shaped like the embedded one, of 204 sources of 1 to 4 clips and
# 3 trainings


def test_simulated_test_sets_are_right_as_often_as_they_say():
    world = World(size_effect=0.3, seed_sd=0.03, sources=2000, difference=0.05)
    rng = np.random.default_rng(0)
    accuracies = np.array(
        [draw_test_set(world, rng)[0].mean(2) for _ in range(150)]
    )  # [runs, conditions, seeds]
    assert accuracies[:, 0].mean() == pytest.approx(world.true_accuracy(), abs=0.008)
    assert world.true_accuracy() > world.accuracy + 0.02  # larger sources are easier
    assert (accuracies[:, 1] - accuracies[:, 0]).mean() == pytest.approx(0.05, abs=0.012)
    assert accuracies.std(2, ddof=1).mean() == pytest.approx(
        0.03 * 0.886, abs=0.004
    )  # 0.886: three draws' mean deviation


@pytest.mark.slow
def test_intervals_hold_the_true_accuracy_in_95_of_100_test_sets():
    assert 0.93 <= coverage(World(), 2000, 400)[:, 0].mean() <= 0.97
    assert (
        coverage(World(), 300, 400, by_clip=True)[:, 0].mean() < 0.85
    )  # clips of a source are alike: why sources are resampled


@pytest.mark.slow
def test_paired_test_finds_nothing_where_nothing_is():
    by_p = detections(World(), 8000, resamples=FEWEST)[:, 0]
    assert 0.04 <= by_p.mean() <= 0.06  # 8,000: a Monte Carlo error of 0.25 points


def test_answers_that_are_all_alike_say_nothing_of_what_could_be_found():
    hits = np.array([1.0, 0.0, 1.0])
    assert smallest_detectable_difference(hits, hits, np.arange(3)) is None
    assert smallest_detectable_difference(hits[:0], hits[:0], np.arange(0)) is None


def test_smallest_detectable_difference_of_such_test_sets():
    world = World(difference=smallest_detectable(World(), 200))
    by_p = detections(world, 600, resamples=FEWEST)[:, 0]
    assert by_p.mean() == pytest.approx(0.8, abs=0.05)


def test_holm_guards_a_whole_table():
    alone, adjusted = detections_in_family(World(conditions=7), 200).mean(0)
    assert alone > 0.15
    assert adjusted < 0.08


@pytest.mark.slow
def test_only_two_levels_hold_for_other_seeds():
    """The luck of a training moves all clips alike: resampling sources cannot see it."""
    sources_alone, both = coverage(World(seed_sd=0.03), 800, 400).mean(0)
    assert sources_alone < 0.93 <= both <= 0.97
    sources_alone, by_p, by_interval = detections(World(seed_sd=0.02), 1500, 400).mean(0)
    assert sources_alone > 0.09
    assert by_p < 0.06
    assert by_interval < 0.08


def test_weights_of_trainings_have_the_variance_of_means():
    """Of n trainings: sd / sqrt(n), which plain draws miss by (n - 1) / n in variance."""
    values = np.array([0.1, 0.5, 0.9])
    weights = training_weights(3, 100_000, np.random.default_rng(0))
    assert np.allclose(weights.sum(1), 1)
    means = weights @ values
    assert means.mean() == pytest.approx(values.mean(), abs=0.002)
    assert means.std() == pytest.approx(values.std(ddof=1) / np.sqrt(3), rel=0.01)
    assert np.array_equal(training_weights(1, 4, np.random.default_rng(0)), np.ones((4, 1)))


def test_equal_trainings_are_as_one():
    values, sources = np.random.default_rng(3).normal(size=200), np.arange(200) // 2
    repeated = np.tile(values[:, None], 3)
    assert interval(repeated, sources) == pytest.approx(interval(values, sources))
    difference = paired_difference(repeated, np.zeros(200), sources)
    assert difference == pytest.approx(paired_difference(values, np.zeros(200), sources))


def test_two_levels_add_the_variances_of_sources_and_trainings():
    rng = np.random.default_rng(5)
    values = rng.normal(0, 1, 900)[:, None] + np.array([-0.1, 0.0, 0.1])
    found = interval(values, np.arange(900))
    half = (found["ci95_high"] - found["ci95_low"]) / 2
    expected = np.hypot(values.mean(1).std() / 30, 0.1 / np.sqrt(3))
    assert half / 1.96 == pytest.approx(expected, rel=0.12)


def test_p_counts_the_deviation_over_trainings():
    rng = np.random.default_rng(16)
    difference = rng.normal(0.1, 0.5, 250)
    trainings = difference[:, None] + np.array([-0.05, 0.0, 0.05])
    found = paired_difference(trainings, np.zeros(250), np.arange(250))
    error = np.hypot(stats.sem(difference), 0.05 / np.sqrt(3))
    expected = 2 * stats.t.sf(difference.mean() / error, 249)
    assert found["p"] == pytest.approx(expected, rel=1e-6)
    same = paired_difference(trainings[:, :1], trainings[:, :1], np.arange(250))
    assert same["p"] == 1.0


# Holm


def test_holm_is_bonferroni_over_all_sets_of_hypotheses():
    """Holm closes Bonferroni's test (Marcus, Peritz & Gabriel 1976).

    The p of a hypothesis is the largest over the sets that hold it.
    """
    for p in np.random.default_rng(13).beta(0.3, 3, (30, 6)):
        sets = [list(chosen) for size in range(1, 7) for chosen in combinations(range(6), size)]
        closed = [
            max(min(1, len(chosen) * p[chosen].min()) for chosen in sets if row in chosen)
            for row in range(6)
        ]
        assert list(holm(dict(enumerate(p))).values()) == pytest.approx(closed)


def test_holm_by_hand():
    p = {"b": 0.01, "a": 0.04, "untested": None, "c": 0.03, "d": 0.005}
    assert holm(p) == {
        "b": pytest.approx(0.03),
        "a": pytest.approx(0.06),
        "untested": None,
        "c": pytest.approx(0.06),
        "d": 0.02,
    }
    assert list(holm(p)) == list(p)
    assert holm({"a": 0.7, "b": 0.7}) == {"a": 1, "b": 1}
    assert holm({"alone": 0.2}) == {"alone": 0.2}
    assert holm({"untested": None}) == {"untested": None}
    assert holm({}) == {}


# Calibration


def answers(n: int, sharpness: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [1, n, 4], and labels [n] drawn from them.

    Afterwards a `sharpness` above 1 makes the probabilities too sure of themselves.
    """
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(4), n)
    labels = (rng.random((n, 1)) > probabilities.cumsum(1)).sum(1)
    sharpened = probabilities**sharpness
    return (sharpened / sharpened.sum(1, keepdims=True))[None], labels


@pytest.mark.parametrize("bins", [10, 15])
def test_calibration_error_is_the_gap_of_scikit_learns_curve(bins):
    probabilities, labels = answers(500, 2.0, 14)
    confidence, hit = probabilities[0].max(1), probabilities[0].argmax(1) == labels
    right, sure = calibration_curve(hit, confidence, n_bins=bins)
    counts = np.histogram(confidence, bins, (0, 1))[0]
    expected = (counts[counts > 0] * np.abs(right - sure)).sum() / 500
    assert calibration_error(probabilities, labels, bins) == pytest.approx(expected)


def test_calibration_error_sees_overconfidence():
    honest, sure = (calibration_error(*answers(20_000, sharpness, 15)) for sharpness in (1.0, 3.0))
    assert honest < 0.015
    assert sure > 0.1


def test_calibration_error_by_hand():
    labels = np.array([0, 0, 1, 1])
    first = np.array(
        [[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.4, 0.6]]
    )  # 2 of 3 right at 0.9; one right at 0.6
    second = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    expected = (abs(2 - 2.7) + abs(1 - 0.6)) / 4
    assert calibration_error(first[None], labels) == pytest.approx(expected)
    both = np.stack([first, second]).astype(np.float32)
    assert calibration_error(both, labels) == pytest.approx(
        expected / 2
    )  # the mean over seeds, not of averaged answers
    edge = np.array(
        [[[0.6, 0.4], [0.5, 0.3]]]
    )  # bins are closed above: with 5 of them both answers stand in the third
    assert calibration_error(edge, np.array([0, 1]), bins=5) == pytest.approx(abs(0.4 - 0.5) / 2)
    assert calibration_error(np.zeros((2, 0, 3)), np.zeros(0, int)) is None


# Resamples


def drawn(sources: int, seed: int, resamples: int) -> np.ndarray:
    return np.concatenate(list(intervals.resample_counts(sources, seed, resamples)))


@pytest.mark.parametrize(("sources", "resamples"), [(1, 3), (7, 450), (60, 200), (250, 401)])
def test_resamples_draw_as_many_sources_as_there_are(sources, resamples):
    parts = list(intervals.resample_counts(sources, 0, resamples))
    assert all(len(part) == intervals.CHUNK for part in parts[:-1])
    assert len(parts[-1]) <= intervals.CHUNK
    counts = np.concatenate(parts)
    assert counts.shape == (resamples, sources)
    assert (counts.sum(1) == sources).all()
    assert counts.min() >= 0


@pytest.mark.parametrize("sources", [2, 7, 40])
def test_counts_are_those_of_a_multinomial(sources):
    """Each source as likely: mean 1, variance 1 - 1/S, covariance -1/S, and each count binomial."""
    counts = drawn(sources, 1, 40_000)
    reference = stats.multinomial(sources, np.full(sources, 1 / sources))
    assert np.allclose(counts.mean(0), 1, atol=0.025)  # 5 standard errors
    assert np.allclose(np.cov(counts.T), reference.cov(), atol=0.04)
    assert reference.cov()[0, 0] == pytest.approx(1 - 1 / sources)
    shares = np.stack([(counts == k).mean(0) for k in range(sources + 1)])  # [S + 1, S]
    expected = stats.binom(sources, 1 / sources).pmf(np.arange(sources + 1))
    assert np.allclose(shares, expected[:, None], atol=0.0125)
    values = np.arange(
        sources
    )  # a resample's mean, whose distribution is what intervals are made of
    theirs = np.random.default_rng(2).integers(sources, size=(40_000, sources)).mean(1)
    assert stats.ks_2samp((counts @ values) / sources, theirs).pvalue > 0.001


def test_resamples_are_independent_of_each_other():
    counts = drawn(30, 3, 4000)
    assert len(np.unique(counts, axis=0)) == 4000  # also over the chunks
    centred = counts - 1.0
    for lag in (1, 2, intervals.CHUNK):
        assert abs((centred[lag:] * centred[:-lag]).mean()) < 5 / np.sqrt(4000 * 30)


def test_resamples_follow_from_the_seed():
    assert np.array_equal(drawn(9, 5, 450), drawn(9, 5, 450))
    assert not np.array_equal(drawn(9, 5, 450), drawn(9, 6, 450))
    assert np.array_equal(drawn(9, 5, 450)[:400], drawn(9, 5, 400))

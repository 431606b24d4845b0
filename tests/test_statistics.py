"""Intervals and tests by resampling sources, against SciPy, scikit-learn and simulation."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from stages.common import statistics
from stages.common.statistics import interval, macro_f1, paired_difference, smallest_detectable_difference


def hits(seed: int, n: int, share: float = 0.6) -> np.ndarray:
    return (np.random.default_rng(seed).random(n) < share).astype(float)


def test_with_one_clip_per_source_it_is_scipys_percentile_bootstrap():
    values = hits(1, 200)
    ours = interval(values, np.arange(200), resamples=20_000)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(2)).confidence_interval
    assert (ours["mean"], ours["n"], ours["sources"]) == (pytest.approx(values.mean()), 200, 200)
    assert ours["ci95_low"] == pytest.approx(theirs.low, abs=0.006) and ours["ci95_high"] == pytest.approx(theirs.high, abs=0.006)


def test_unequal_sources_follow_the_definition():
    """Drawn sources bring all their clips, and the mean is over clips."""
    values, sources = np.array([1.0, 1, 0, 0, 0, 1]), np.array(["b", "b", "a", "c", "c", "c"])
    rng, means = np.random.default_rng(5), []
    for _ in range(20_000):
        drawn = np.concatenate([values[sources == s] for s in rng.choice(["a", "b", "c"], 3)])
        means.append(drawn.mean())
    ours = interval(values, sources, resamples=20_000)
    assert [ours["ci95_low"], ours["ci95_high"]] == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.02)
    assert ours["sources"] == 3


def test_clips_of_one_source_are_no_independent_observations():
    per_source = hits(3, 50, 0.5)
    values, sources = np.repeat(per_source, 4), np.repeat(np.arange(50), 4)
    by_source, by_clip = interval(values, sources), interval(values, np.arange(200))
    width = [figure["ci95_high"] - figure["ci95_low"] for figure in (by_source, by_clip)]
    assert width[0] / width[1] == pytest.approx(2, rel=0.12)  # four copies: half the effective deviation


def test_order_of_clips_and_names_of_sources_do_not_matter():
    values, sources = hits(4, 90), np.arange(90) // 3
    order = np.random.default_rng(0).permutation(90)
    assert interval(values, sources) == interval(values[order], sources[order])
    assert interval(values, sources)["ci95_low"] == interval(values, sources)["ci95_low"]  # the seed is fixed


def test_no_clips_no_figures():
    empty = np.array([])
    assert interval(empty, empty) == {"mean": None, "ci95_low": None, "ci95_high": None, "n": 0, "sources": 0}
    assert paired_difference(empty, empty, empty)["p"] is None


def test_paired_difference_has_the_sign_of_the_better_one():
    sources = np.arange(300)
    worse = hits(6, 300, 0.5)
    better = np.maximum(worse, hits(7, 300, 0.3))
    up, down = paired_difference(better, worse, sources), paired_difference(worse, better, sources)
    assert up["mean"] == pytest.approx((better - worse).mean()) and up["mean"] == -down["mean"]
    assert 0 < up["ci95_low"] < up["mean"] < up["ci95_high"] and up["p"] < 0.001 and down["p"] < 0.001
    same = paired_difference(worse, worse, sources)
    assert same["mean"] == 0 and same["p"] == 1


def test_p_agrees_with_the_t_test():
    rng = np.random.default_rng(8)
    difference = rng.normal(0.1, 0.7, 250)
    ours = paired_difference(difference, np.zeros(250), np.arange(250))
    assert ours["p"] == pytest.approx(stats.ttest_1samp(difference, 0).pvalue, abs=0.015)
    assert (ours["p"] < 0.05) == (ours["ci95_low"] > 0)


def test_macro_f1_is_scikit_learns():
    rng = np.random.default_rng(9)
    true = rng.integers(0, 4, 120)
    predicted = np.where(rng.random(120) < 0.6, true, rng.integers(0, 4, 120))
    ours = macro_f1(true, predicted[None], 4, np.arange(120))
    assert ours["mean"] == pytest.approx(f1_score(true, predicted, average="macro"))
    drawn = rng.integers(0, 120, (3000, 120))
    means = [f1_score(true[d], predicted[d], average="macro") for d in drawn[:400]]
    assert [ours["ci95_low"], ours["ci95_high"]] == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.03)


def test_macro_f1_leaves_out_actions_that_nobody_names():
    true = np.array([0, 0, 1, 1])
    assert macro_f1(true, true[None], 5, np.arange(4))["mean"] == 1
    assert macro_f1(true, np.stack([true, 1 - true]), 2, np.arange(4))["mean"] == pytest.approx(0.5)


def test_coverage_is_about_95_per_cent():
    """300 data sets of 80 clustered sources: the interval holds the truth in 91 to 98 of 100."""
    rng = np.random.default_rng(10)
    covered = 0
    for _ in range(300):
        sizes = rng.integers(1, 5, 80)
        level = rng.beta(2, 2, 80)
        sources = np.repeat(np.arange(80), sizes)
        values = (rng.random(len(sources)) < level[sources]).astype(float)
        figure = interval(values, sources, resamples=400)
        covered += figure["ci95_low"] <= 0.5 <= figure["ci95_high"]
    assert 0.91 <= covered / 300 <= 0.98


def test_smallest_detectable_difference_is_found_with_80_per_cent_power():
    rng = np.random.default_rng(11)
    noise = rng.normal(0, 1, 400)
    smallest = smallest_detectable_difference(noise, np.zeros(400), np.arange(400))
    assert smallest == pytest.approx((1.96 + 0.8416) * noise.std() / np.sqrt(400), rel=0.001)
    found = [stats.ttest_1samp(rng.normal(smallest, noise.std(), 400), 0).pvalue < 0.05 for _ in range(600)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.06)


# Resamples


def drawn(sources: int, seed: int, resamples: int) -> np.ndarray:
    return np.concatenate(list(statistics.resample_counts(sources, seed, resamples)))


@pytest.mark.parametrize(("sources", "resamples"), [(1, 3), (7, 450), (60, 200), (250, 401)])
def test_resamples_draw_as_many_sources_as_there_are(sources, resamples):
    parts = list(statistics.resample_counts(sources, 0, resamples))
    assert all(len(part) == statistics.CHUNK for part in parts[:-1]) and len(parts[-1]) <= statistics.CHUNK
    counts = np.concatenate(parts)
    assert counts.shape == (resamples, sources) and (counts.sum(1) == sources).all() and counts.min() >= 0


@pytest.mark.parametrize("sources", [2, 7, 40])
def test_counts_are_those_of_a_multinomial(sources):
    """Each source as likely: mean 1, variance 1 - 1/S, covariance -1/S, and each count binomial."""
    counts = drawn(sources, 1, 40_000)
    reference = stats.multinomial(sources, np.full(sources, 1 / sources))
    assert np.allclose(counts.mean(0), 1, atol=0.025)  # 5 standard errors
    assert np.allclose(np.cov(counts.T), reference.cov(), atol=0.04) and reference.cov()[0, 0] == pytest.approx(1 - 1 / sources)
    shares = np.stack([(counts == k).mean(0) for k in range(sources + 1)])  # [S + 1, S]
    expected = stats.binom(sources, 1 / sources).pmf(np.arange(sources + 1))
    assert np.allclose(shares, expected[:, None], atol=0.0125)
    values = np.arange(sources)  # a resample's mean, whose distribution is what intervals are made of
    theirs = np.random.default_rng(2).integers(sources, size=(40_000, sources)).mean(1)
    assert stats.ks_2samp((counts @ values) / sources, theirs).pvalue > 0.001


def test_resamples_are_independent_of_each_other():
    counts = drawn(30, 3, 4000)
    assert len(np.unique(counts, axis=0)) == 4000  # also over the chunks
    centred = counts - 1.0
    for lag in (1, 2, statistics.CHUNK):
        assert abs((centred[lag:] * centred[:-lag]).mean()) < 5 / np.sqrt(4000 * 30)


def test_resamples_follow_from_the_seed():
    assert np.array_equal(drawn(9, 5, 450), drawn(9, 5, 450)) and not np.array_equal(drawn(9, 5, 450), drawn(9, 6, 450))
    assert np.array_equal(drawn(9, 5, 450)[:400], drawn(9, 5, 400))


def test_holm_is_the_step_down_procedure_by_hand():
    """Sorted .01, .03, .04 of three: 3 x .01, 2 x .03, and .04 no less than the one before."""
    assert statistics.holm({"a": 0.04, "b": 0.01, "c": None, "d": 0.03}) == pytest.approx({"a": 0.06, "b": 0.03, "c": None, "d": 0.06})
    assert statistics.holm({"a": 0.6, "b": 0.9}) == {"a": 1.0, "b": 1.0} and statistics.holm({}) == {}


def test_calibration_error_by_hand():
    """Two clips at .9, one right, and one at .6, right: (2 x |.5 - .9| + |1 - .6|) / 3."""
    one = np.array([[[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]]])
    assert statistics.calibration_error(one, np.array([0, 1, 1])) == pytest.approx((2 * 0.4 + 0.4) / 3)
    both = np.concatenate([one, np.tile([[[1.0, 0.0]]], (1, 3, 1))])
    assert statistics.calibration_error(both, np.array([0, 1, 1])) == pytest.approx((0.4 + 2 / 3) / 2)  # the mean over seeds

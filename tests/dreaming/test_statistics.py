"""Statistics against numbers worked out by hand, and intervals against how often they are right."""

import numpy as np
import pytest

from dreaming.statistics import (
    bootstrap_interval,
    iqm,
    mean,
    stratified_interval,
    studentised_interval,
    summary,
)
from dreaming.statistics import t_interval as t


def test_iqm_leaves_out_the_lowest_and_highest_quarter():
    assert iqm(np.array([1.0, 2, 3, 4, 5, 6, 7, 1000])) == (3 + 4 + 5 + 6) / 4
    assert iqm(np.array([9.0, 0, 1, 2])) == 1.5  # sorted 0 1 2 9
    assert iqm(np.array([4.0, 5, 9])) == 6  # 0.75 of a value on each side is none
    assert iqm(np.array([[0.0, 1, 2, 9], [0, 3, 5, 6]])).tolist() == [1.5, 4]


def test_t_interval_by_hand():
    # mean 3, standard deviation 1.5811, t(4) at 97.5 % = 2.7764: 3 -+ 2.7764 * 1.5811 / sqrt(5)
    assert t(np.array([1.0, 2, 3, 4, 5])) == pytest.approx((1.03676, 4.96324), abs=1e-4)
    assert t(np.array([2.0, 2, 2])) == (2, 2)
    assert t(np.array([0.0, 2]), level=0.5) == pytest.approx((0, 2))  # t(1) at 75 % is 1
    with pytest.raises(ValueError, match="at least 2"):
        t(np.array([1.0]))


def test_the_bootstrap_agrees_with_all_resamples_of_two_values():
    # Of 0 and 1, the means of two draws are 0, 1/2, 1 with probability 1/4, 1/2, 1/4.
    x = np.array([0.0, 1.0])
    assert bootstrap_interval(x, level=0.4) == (0.5, 0.5)
    assert bootstrap_interval(x, level=0.6) == (0.0, 1.0)
    assert bootstrap_interval(np.full(5, 7.0)) == (7, 7)
    assert bootstrap_interval(np.array([7.0])) == (7, 7)


def test_the_same_seed_gives_the_same_interval():
    x = np.random.default_rng(0).normal(size=30)
    assert bootstrap_interval(x, seed=3) == bootstrap_interval(x, seed=3)
    assert bootstrap_interval(x, seed=3) != bootstrap_interval(x, seed=4)


def test_strata_are_never_mixed():
    scores = [np.zeros(3), np.full(3, 100.0)]  # no spread within a task
    assert stratified_interval(scores, mean) == (50, 50)
    assert stratified_interval(scores) == (50, 50)
    spread = [np.array([0.0, 2, 4]), np.array([100.0, 104, 108])]
    low, high = stratified_interval(spread, mean)
    assert 50 < low < 53 < high < 56


def test_tasks_may_have_different_numbers_of_runs():
    # Three runs at 0 and one at 8: always the mean 2, however the three are drawn.
    assert stratified_interval([np.zeros(3), np.array([8.0])], mean) == (2, 2)
    # Of 0 and 1 the two draws sum to 0, 1, 2 with probability 1/4, 1/2, 1/4; and 4 is always there.
    two = [np.array([0.0, 1.0]), np.array([4.0])]
    assert stratified_interval(two, mean, level=0.4) == pytest.approx((5 / 3, 5 / 3))
    assert stratified_interval(two, mean, level=0.6) == pytest.approx((4 / 3, 2))
    with pytest.raises(ValueError, match="at least one task"):
        stratified_interval([])
    with pytest.raises(ValueError, match="finite numbers"):
        stratified_interval([np.zeros(3), np.array([])])


def test_a_95_percent_interval_holds_the_mean_about_95_times_in_100():
    rng = np.random.default_rng(1)
    samples = rng.normal(size=(400, 20))
    inside = lambda interval: interval[0] <= 0 <= interval[1]
    assert 0.92 <= np.mean([inside(t(x)) for x in samples]) <= 0.98
    assert 0.88 <= np.mean([inside(bootstrap_interval(x, resamples=500)) for x in samples]) <= 0.97


def test_summary_has_the_keys_of_a_result():
    out = summary(np.array([10.0, 20, 30, 40]))
    assert (out["mean"], out["iqm"], out["episodes"]) == (25, 25, 4)
    assert 10 <= out["ci"][0] < 25 < out["ci"][1] <= 40
    assert list(out) == ["mean", "iqm", "ci", "episodes"]


@pytest.mark.parametrize("bad", [[], [np.nan], [1, np.inf]])
def test_what_is_not_a_row_of_numbers_is_refused(bad):
    with pytest.raises(ValueError, match="finite numbers"):
        summary(np.array(bad))


def test_the_studentised_interval_follows_the_data():
    x = np.random.default_rng(0).exponential(size=12)
    low, high = studentised_interval(x)
    assert studentised_interval(3 * x + 7) == pytest.approx((3 * low + 7, 3 * high + 7))
    assert studentised_interval(-x) == pytest.approx((-high, -low), rel=0.1)
    assert high - x.mean() > x.mean() - low  # the long tail is where the mean may be hidden
    assert studentised_interval(np.full(4, 2.5)) == (2.5, 2.5)
    with pytest.raises(ValueError, match="at least 2"):
        studentised_interval(np.array([1.0]))
    # Two values say next to nothing: the interval ends where they do.
    assert studentised_interval(np.array([0.0, 1.0])) == (0.0, 1.0)

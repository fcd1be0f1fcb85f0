"""Intervals of gains from real episodes: by hand, paired or not, and rarely fooled."""

import numpy as np
import pytest

from dreaming.gate.returns import paired_gain, separate_gain

ERROR = 0.025  # of each end


def test_a_paired_gain_by_hand():
    # Differences 409..416: mean 412.5; Student's: 412.5 -+ 2.3646 * 2.4495 / sqrt(8).
    gain = paired_gain(np.full(8, 500.0), 500.0 - np.arange(409, 417), ERROR)
    assert gain.mean == 412.5
    assert 410.2 < gain.lower < 410.4522 and 414.5478 < gain.upper < 414.8  # or wider


def test_a_separate_gain_by_hand():
    """Welch: means 12 and 7, squared errors 10 / 5 and 2.5 / 5; 2.5^2 / (4 / 4 + 0.25 / 4) = 5.88
    degrees of freedom, whose 97.5 % quantile is 2.459."""
    ours, theirs = np.array([8.0, 10, 12, 14, 16]), np.array([5.0, 6, 7, 8, 9])
    gain = separate_gain(ours, theirs, ERROR)
    assert gain.mean == 5
    assert gain.lower <= 5 - 2.459 * np.sqrt(2.5) + 1e-3
    assert gain.upper >= 5 + 2.459 * np.sqrt(2.5) - 1e-3
    assert gain.lower > 8 - 9 - 1 and gain.upper <= 16 - 5 + 1


def test_the_mean_alone_is_not_enough():
    gain = paired_gain(np.array([10.0, 0, 0, 0]), np.zeros(4), ERROR)
    assert gain.mean == 2.5 and gain.lower < 0


def test_pairing_removes_what_the_seeds_have_in_common():
    luck = np.random.default_rng(0).normal(0, 100, 20)
    ours = luck + np.random.default_rng(1).normal(3, 1, 20)
    assert paired_gain(ours, luck, ERROR).lower > 0
    assert separate_gain(ours, luck, ERROR).lower < 0


def test_without_variation_the_difference_itself_decides():
    for find in (paired_gain, separate_gain):
        gain = find(np.full(5, 10.0), np.full(5, 9.0), ERROR)
        assert (gain.lower, gain.mean, gain.upper) == (1, 1, 1)


@pytest.mark.parametrize("returns", [([1.0], [1.0]), ([1.0, 2], [1.0]), ([np.nan, 1], [1.0, 1])])
def test_what_cannot_be_compared_is_refused(returns):
    with pytest.raises(ValueError, match="paired|finite"):
        paired_gain.__wrapped__(*map(np.array, returns), ERROR)  # before shapes are checked
    with pytest.raises(ValueError, match="2 values|finite"):
        separate_gain(np.array(returns[0]), np.array([1.0]), ERROR)


def false_acceptances(draw, find, episodes: int) -> float:
    rng = np.random.default_rng(0)
    gain = lambda: find(draw(rng, episodes), draw(rng, episodes), ERROR)
    return float(np.mean([gain().lower > 0 for _ in range(300)]))


@pytest.mark.parametrize("find", [paired_gain, separate_gain])
@pytest.mark.parametrize("episodes", [10, 20])
def test_a_candidate_without_merit_rarely_passes(find, episodes):
    assert false_acceptances(lambda rng, n: rng.normal(size=n), find, episodes) <= 0.05
    assert false_acceptances(lambda rng, n: rng.exponential(size=n), find, episodes) <= 0.05
    # Mean 0, a little better in most episodes, much worse in some.
    left = lambda rng, n: 1 - rng.exponential(size=n)
    fixed = lambda ours, theirs, error: find(ours, 0 * theirs, error)
    assert false_acceptances(left, fixed, episodes) <= 0.08


def test_a_candidate_of_merit_passes():
    rng = np.random.default_rng(0)
    passed = [paired_gain(rng.normal(1, 1, 20), np.zeros(20), ERROR).lower > 0 for _ in range(100)]
    assert np.mean(passed) >= 0.9


def test_a_candidate_that_wins_every_episode_is_accepted_however_uneven_its_gains():
    # Steps that a student needed in 32 real episodes of MountainCar; the incumbent needed all 200.
    steps = [110, 110, 110, 111, 109, 113, 109, 112, 112, 111, 183, 109, 113, 110, 111, 111]
    steps += [111, 110, 111, 110, 110, 112, 110, 110, 110, 113, 110, 111, 111, 182, 110, 181]
    gain = paired_gain(-np.array(steps, float), np.full(32, -200.0), ERROR)
    assert 200 - 183 <= gain.lower < gain.mean < gain.upper


def test_one_tie_among_wins_does_not_hide_a_gain():
    # 31 episodes gain about 77, one nothing: 74.6 -+ 2.04 * 2.4 by Student.
    difference = np.append(77 + 3 * np.sin(np.arange(31)), 0.0)
    gain = paired_gain(difference, np.zeros(32), ERROR)
    assert 50 < gain.lower < 74.6 - 2.04 * 2.4 + 0.2

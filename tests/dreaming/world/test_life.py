"""How long episodes last: Kaplan and Meier by hand, and what a dream is told it gets wrong."""

from types import SimpleNamespace

import numpy as np
import pytest

from dreaming.world.life import (
    Life,
    dreamed_life,
    dreams_of,
    lengths_of,
    life_figures,
    limit_of,
    logged_life,
)
from dreaming.world.words import life_sentence
from envs.types import Trace


def trace(steps: int, ended: bool) -> Trace:
    """An episode of so many steps."""
    return Trace(np.zeros((steps + 1, 1)), np.zeros(steps, int), np.zeros(steps), ended, not ended)


def test_the_survival_curve_by_hand():
    """S(1) = 1, S(2) = 2/3 (one of three breaks), S(3) = 2/3 (one is cut off), S(4) = 0."""
    life = logged_life(np.array([2, 3, 4]), np.array([True, False, True]), limit=4)
    assert life.mean == pytest.approx(1 + 1 + 2 / 3 + 2 / 3)
    error = 4 / 3 * np.sqrt(1 / 6)  # Greenwood: of what comes from step 2 on, 1 of 3 at risk
    share = life.mean / 4
    assert life.odds == pytest.approx(np.log(share / (1 - share)))
    assert life.error == pytest.approx(error / (4 * share * (1 - share)))
    capped = logged_life(np.array([2, 3, 4]), np.array([True, False, True]), limit=3)
    assert capped.mean == pytest.approx(1 + 1 + 2 / 3)


def test_without_cut_off_episodes_it_is_the_mean():
    lengths = np.random.default_rng(0).integers(1, 50, 200)
    life = logged_life(lengths, np.ones(200, bool), 50)
    assert life.mean == pytest.approx(lengths.mean())
    error = lengths.std() / np.sqrt(200)
    low, high = life.interval
    assert (high - low) / (2 * 1.96) == pytest.approx(error, rel=0.02)


def test_its_interval_holds_the_true_mean_of_a_constant_rate():
    random, rate, limit = np.random.default_rng(0), 0.005, 300
    true = (1 - (1 - rate) ** limit) / rate
    held = []
    for _ in range(400):
        length = random.geometric(rate, 40)
        cut = random.integers(50, 400, 40)  # some are watched for a short time only
        low, high = logged_life(np.minimum(length, cut), length <= cut, limit).interval
        held.append(low <= true <= high)
    assert 0.92 < np.mean(held) < 0.98


def test_where_nothing_ended_it_may_still():
    low, high = logged_life(np.full(20, 100), np.zeros(20, bool), 100).interval
    assert 50 < low < 90 and high == 100


def test_in_doubt_by_the_steps_that_were_watched():
    """19 short episodes and a long one are not 20 long ones."""
    lengths = np.array([10] * 19 + [1000])
    low, high = logged_life(lengths, np.zeros(20, bool), 1000).interval
    assert low < 200 and high == 1000


def test_an_interval_holds_its_mean():
    """Of one episode, and where all end at the limit."""
    for ended in (True, False):
        life = logged_life(np.array([100]), np.array([ended]), 100)
        low, high = life.interval
        assert low < 50 and life.mean == high == 100
    low, high = logged_life(np.full(20, 9), np.ones(20, bool), 9).interval
    assert 6 < low < 9 and high == 9


def test_a_dream_is_in_doubt_as_its_log_is():
    logged = Life(80.0, 100, odds=np.log(4), error=0.3)
    lengths = np.tile([60, 100], 5000)
    dreamed = dreamed_life(lengths, logged)
    assert dreamed.mean == 80
    assert 0.3 < dreamed.error < 0.31  # 10,000 dreams add next to nothing


def test_figures_and_words():
    traces = [trace(steps, steps < 100) for steps in (20, 40, 60, 80, 100, 100)]
    assert limit_of(90, traces) == 90
    lengths, ended = lengths_of(traces)
    assert lengths.tolist() == [20, 40, 60, 80, 100, 100] and ended.sum() == 4
    figures = life_figures(np.full(64, 30), 90, traces)
    assert figures["life_dreamed"] == 30
    assert figures["life_logged"] == pytest.approx(np.mean([20, 40, 60, 80, 90, 90]))
    said = life_sentence(figures)
    assert said.startswith(" Its episodes end too soon: 30 steps for 63 [")
    assert "too late: 89 steps" in life_sentence(life_figures(np.full(64, 89), 90, traces))
    assert life_sentence(life_figures(np.full(64, 58), 90, traces)) == ""  # within 15 %
    assert life_sentence(life_figures(np.full(64, 51), 90, traces)) == ""  # within the interval
    assert life_sentence({}) == ""


def test_long_episodes_are_dreamed_less_often():
    assert [dreams_of(limit, None) for limit in (1, 200, 1000, 10**6)] == [512, 512, 131, 32]
    slow = SimpleNamespace(convolves=True)
    assert [dreams_of(limit, slow) for limit in (9, 100, 1000)] == [512, 81, 32]

"""The discount of a log: by how late what tells its returns apart is earned."""

import numpy as np
import pytest

from dreaming.world.discount import (
    DISCOUNTS,
    LEAST_WEIGHT,
    deciding_steps,
    discount_line,
    discount_of,
    discounted,
)
from envs.types import Trace
from worldmodels.config import FitConfig


def episode(r, is_closed: bool = True) -> Trace:
    """One that earned these rewards."""
    r = np.asarray(r, float)
    return Trace(np.zeros((len(r) + 1, 1)), np.zeros(len(r), int), r, False, is_closed)


def at(step: int, length: int, reward: float = 1.0) -> np.ndarray:
    """Rewards of an episode that is paid once."""
    r = np.zeros(length)
    r[step] = reward
    return r


def steps_of(*rewards) -> int | None:
    """`deciding_steps` of closed episodes."""
    return deciding_steps([episode(r) for r in rewards])


def test_what_decides_by_hand():
    assert steps_of(at(499, 500), np.zeros(500)) == 500  # the end alone
    assert steps_of(at(3, 500), np.zeros(500)) == 4  # long episodes, early decided
    assert steps_of(np.ones(30), np.ones(70)) == 68  # 0.95 of the 40 steps more: 38
    early_and_late = [at(9, 300, 10.0) + at(299, 300, x) for x in (-1.0, 1.0)]
    assert steps_of(*early_and_late, at(9, 300, -10.0)) == 10  # late rewards are small


def test_what_cancels_out_later_does_not_end_it():
    """A reward that is taken back tells nothing; the last step does."""
    fooled = at(2, 400, 5.0) + at(300, 400, -5.0)
    assert steps_of(fooled + at(399, 400), np.zeros(400)) == 400


def test_where_returns_are_alike_nothing_decides():
    """Also where they differ by rounding, and of one episode, however long."""
    assert steps_of([0.1, 0.2, 0.3], [0.3, 0.2, 0.1]) is None
    random = np.random.default_rng(0)
    for _ in range(200):
        r = random.integers(-9, 9, 12) / 10
        assert steps_of(r, random.permutation(r)) is None
    assert steps_of(random.normal(size=20_000)) is None
    assert discount_of(None) == 0.99
    assert "alike" in discount_line(FitConfig(), [episode(np.ones(9))] * 2)


def test_episodes_that_were_cut_off_say_nothing():
    """Their lengths are the recording's."""
    rewards = [np.ones(n) for n in (200, 400, 1000)]
    assert deciding_steps([episode(r, is_closed=False) for r in rewards]) is None
    assert (deciding_steps([episode(r) for r in rewards]) or 0) > 900


@pytest.mark.parametrize(
    ("steps", "expected"), [(1, 0.99), (298, 0.99), (299, 0.995), (597, 0.995), (10**6, 0.999)]
)
def test_the_least_discount_under_which_it_counts(steps, expected):
    assert discount_of(steps) == expected
    smaller = [x for x in DISCOUNTS if x < expected]
    assert all(x**steps < LEAST_WEIGHT for x in smaller)


def test_a_discount_that_was_asked_for_stays_and_is_warned_of():
    late = [episode(at(499, 500)), episode(np.zeros(500))]
    assert discounted(FitConfig(), late).discount == 0.995
    asked = FitConfig(discount=0.9)
    assert discounted(asked, late) is asked
    assert discount_line(FitConfig(), late).startswith("discount 0.995: ")
    assert "try fit.discount=0.995" in discount_line(asked, late)
    assert "0.7%" in discount_line(FitConfig(discount=0.99), late)
    beyond = [episode(at(5999, 6000)), episode(np.zeros(6000))]
    assert "fewer, longer steps" in discount_line(FitConfig(), beyond)

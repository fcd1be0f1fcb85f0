"""Who learns from what: judges and planner share no episode, or it is said."""

import jax
import numpy as np
import pytest

from dreaming.config import JudgeConfig
from dreaming.observe.split import split_log
from envs import tabular
from envs.types import Trace
from experiments.study.judges import tabular_log

KEY = jax.random.key(0)


def log(returns):
    """An episode of one step for each return."""
    one = lambda r: Trace(np.zeros(2, int), np.zeros(1, int), np.array([float(r)]), True, False)
    return tabular_log([one(r) for r in returns], tabular.corridor(3))


def ids(part):
    return {id(trace) for trace in part.traces}


@pytest.mark.parametrize("decides", [False, True])
def test_enough_episodes_are_shared_out(decides):
    whole = log(range(100))
    split = split_log(whole, JudgeConfig(), KEY, decides)
    ((fitted, tested),) = split.judged
    assert split.is_independent and fitted is tested
    assert len(fitted.traces) == 15 and len(split.seen.traces) == 85
    assert not ids(fitted) & ids(split.seen) and ids(fitted) | ids(split.seen) == ids(whole)


def test_where_the_judge_decides_more_is_held_out_if_it_takes_it():
    """25 episodes: 15 % are too few for a judge, ten of them are not."""
    whole = log(range(25))
    assert not split_log(whole, JudgeConfig(), KEY).is_independent
    split = split_log(whole, JudgeConfig(), KEY, decides=True)
    ((fitted, _),) = split.judged
    assert split.is_independent and 10 <= len(fitted.traces) <= 12
    assert not ids(fitted) & ids(split.seen)


@pytest.mark.parametrize("returns", [range(15), [0] * 200 + [1] * 9])
def test_a_short_log_is_judged_by_halves_and_not_independently(returns):
    """Fifteen episodes, or nine that are unlike the others: there are none to spare."""
    whole = log(returns)
    split = split_log(whole, JudgeConfig(), KEY, decides=True)
    assert not split.is_independent and split.seen is whole
    (one, other), (again, first) = split.judged
    assert one is first and other is again
    assert not ids(one) & ids(other) and ids(one) | ids(other) == ids(whole)


def test_one_episode_is_judged_by_nobody():
    split = split_log(log([1]), JudgeConfig(least=0), KEY, decides=True)
    assert not split.judged and not split.is_independent

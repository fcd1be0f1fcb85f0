"""A judge says what its model says, and knows how wrong it was on what it never saw."""

import math

import jax
import numpy as np
import pytest

from dreaming.judge import (
    Judge,
    blocks_needed,
    conformal_quantile,
    segment_errors,
    segments,
)
from dreaming.physics import make_world
from envs import tabular
from envs.types import Trace
from experiments.gate_cases import Task, record
from experiments.gate_judges import tabular_log, tabular_student

ROAD = tabular.corridor(5, slip=0.1)
STEEP = tabular.corridor(5, slip=0.5)  # another task: every move is a coin flip
TASK = Task("road", ROAD, ROAD, horizon=12, log_steps=3000)
HALF = np.full((5, 2), 0.5)
RIGHT = np.tile([0.1, 0.9], (5, 1))
LOG = tabular_log(record(TASK, RIGHT, 0), ROAD)


def judge(table=ROAD, clone=RIGHT):
    """A judge that believes in `table`."""
    model = tabular.TabularModel(table, 0.9)
    world = make_world(model, model.params, LOG, TASK.horizon, {"discount": 0.9})
    return Judge([world], [LOG], tabular_student(clone), jax.random.key(0))


def test_its_dreams_return_what_the_table_says():
    for policy in (HALF, RIGHT):
        returns, lengths = judge().returns(tabular_student(policy))
        error = returns.std() / math.sqrt(returns.size)
        assert abs(returns.mean() - tabular.evaluate(ROAD, policy, 12)) < 3.5 * error + 1e-9
        assert lengths.max() <= 12 and lengths.min() >= 4


def test_policies_dream_in_pairs():
    """The same keys for all: a policy against itself differs in no dream."""
    once, again = (judge().returns(tabular_student(RIGHT))[0] for _ in range(2))
    assert (once == again).all() and once.std() > 0


def test_a_right_judge_is_right_on_average_and_a_wrong_one_is_not():
    right, wrong = judge().errors(), judge(STEEP).errors()
    error = right.std() / math.sqrt(right.size)
    assert abs(right.mean()) < 3.5 * error
    assert wrong.mean() > 20 * error  # reality earned more than it dreamed


def test_without_models_it_has_no_opinion():
    nobody = Judge([], [], None, jax.random.key(0))
    assert nobody.returns(None)[0].size == nobody.errors().size == 0
    assert nobody.figures(None, None) == {}


def test_segments_by_hand():
    """The task ended the first episode in its second segment, the clock cut the second one."""
    ended = Trace(np.zeros(6, int), np.zeros(5, int), [1.0, 2, 4, 8, 16], True, False)
    cut = Trace(np.zeros(5, int), np.zeros(4, int), [1.0, 1, 1, 1], False, True)
    rows, limits, earned = segments(tabular_log([ended, cut], ROAD), 3)
    assert rows.tolist() == [0, 3, 6, 9]  # of a replay: an episode has a row more than steps
    assert limits.tolist() == [3, 3, 3, 1]
    assert earned.tolist() == [7, 24, 3, 1]


def test_errors_are_those_of_segments_in_order():
    found = segment_errors(judge().worlds[0], LOG, tabular_student(RIGHT), jax.random.key(1), 12)
    assert found.size == len(LOG.traces) and np.abs(found).max() <= 1


def test_conformal_quantiles_by_hand():
    errors = np.array([3.0, -7, 1, 2])
    assert conformal_quantile(errors, 0.8) == 7  # the 4th of 4: 5 * 0.8
    assert conformal_quantile(errors, 0.6) == 3
    assert conformal_quantile(errors, 0.95) == math.inf
    assert conformal_quantile(np.arange(1, 20.0), 0.95) == 19
    assert [blocks_needed(x) for x in (0.95, 0.5, 0.975)] == [19, 19, 39]


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_a_further_error_rarely_exceeds_the_quantile(level):
    random = np.random.default_rng(0)
    drawn = random.exponential(size=(4000, blocks_needed(level) + 1))
    exceeded = [abs(x[-1]) > conformal_quantile(x[:-1], level) for x in drawn]
    assert np.mean(exceeded) < 1 - level + 0.015

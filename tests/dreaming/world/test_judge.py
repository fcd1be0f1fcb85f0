"""A judge says what its model says, and knows how wrong it was on what it never saw."""

import math

import jax
import numpy as np

from dreaming.world.judge import (
    Dreamed,
    Judge,
    segment_errors,
    segments,
    spread_of_models,
    systematic_error,
)
from dreaming.world.physics import make_world
from envs import tabular
from envs.types import Trace
from experiments.study.cases import Task, record
from experiments.study.judges import tabular_log, tabular_student

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
        returns, lengths, *_ = judge().dreams(tabular_student(policy))
        error = returns.std() / math.sqrt(returns.size)
        assert abs(returns.mean() - tabular.evaluate(ROAD, policy, 12)) < 3.5 * error + 1e-9
        assert lengths.max() <= 12 and lengths.min() >= 4


def test_policies_dream_in_pairs():
    """The same keys for all: a policy against itself differs in no dream."""
    once, again = (judge().dreams(tabular_student(RIGHT)).returns for _ in range(2))
    assert (once == again).all() and once.std() > 0


def test_a_right_judge_is_right_on_average_and_a_wrong_one_is_not():
    right, wrong = judge().errors(), judge(STEEP).errors()
    error = right.std() / math.sqrt(right.size)
    assert abs(right.mean()) < 3.5 * error
    assert wrong.mean() > 20 * error  # reality earned more than it dreamed


def test_without_models_it_has_no_opinion():
    nobody = Judge([], [], None, jax.random.key(0))
    assert nobody.dreams(None).returns.size == nobody.errors().size == 0
    assert nobody.figures(None, None) == {}


def test_segments_by_hand():
    """The task ended the first episode in its second segment, the clock cut the second one."""
    rewards = np.array([1.0, 2, 4, 8, 16])
    ended = Trace(np.zeros(6, int), np.zeros(5, int), rewards, True, False)
    cut = Trace(np.zeros(5, int), np.zeros(4, int), np.ones(4), False, True)
    rows, limits, earned = segments(tabular_log([ended, cut], ROAD), 3)
    assert rows.tolist() == [0, 3, 6, 9]  # of a replay: an episode has a row more than steps
    assert limits.tolist() == [3, 3, 3, 1]
    assert earned.tolist() == [7, 24, 3, 1]


def test_errors_are_those_of_segments_in_order():
    found = segment_errors(judge().worlds[0], LOG, tabular_student(RIGHT), jax.random.key(1), 12)
    assert found.size == len(LOG.traces) and np.abs(found).max() <= 1


def test_a_systematic_error_is_bounded_and_chance_averages_out():
    """Twenty block means: Student's 2.093 s / sqrt(20) around their mean, the farther end."""
    blocks = np.tile([1.0, 3.0], 10)
    found = systematic_error(np.repeat(blocks, 5), 0.95)
    expected = 2 + 2.0930 * blocks.std(ddof=1) / math.sqrt(20)
    assert found is not None and abs(found - expected) < 1e-3
    assert systematic_error(np.repeat(-blocks, 5), 0.95) == found
    assert systematic_error(np.ones(19), 0.95) is None


def test_the_bound_holds_as_often_as_it_says():
    random = np.random.default_rng(0)
    missed = 0
    for _ in range(400):  # skewed: one segment in ten earns something
        errors = 0.05 + (random.random(400) < 0.1) - 0.1
        bound = systematic_error(errors, 0.95)
        missed += bound is None or bound < 0.05
    assert missed / 400 < 0.07


def dreamed(means, noise=0.0, each=64, models=1):
    """Dreams of members whose policies earn `means`, the members shared out among the models."""
    means, random = np.asarray(means, float), np.random.default_rng(0)
    member = np.tile(np.arange(means.size // models), models)
    rows = lambda x: np.repeat(x, each)
    returns = rows(means) + noise * random.normal(size=means.size * each)
    model = rows(np.repeat(np.arange(models), means.size // models))
    return Dreamed(returns, np.ones(returns.size, int), model, rows(member))


def test_members_that_differ_widen_what_a_judge_says():
    """Members are draws of what the log leaves open: their deviation is the error, by hand."""
    found = dreamed([1.0, 2, 3, 4, 5])
    spread, freedom = spread_of_models(found.returns, found)
    assert abs(spread - np.std([1, 2, 3, 4, 5], ddof=1)) < 1e-9 and freedom == 4
    two = dreamed([1.0, 2, 3, 1, 2, 3], models=2)  # of different episodes: by the root of two less
    assert abs(spread_of_models(two.returns, two)[0] - math.sqrt(0.8 / 2)) < 1e-9


def test_chance_in_dreams_is_not_taken_for_a_difference_of_members():
    found = dreamed(np.zeros(8), noise=1.0)
    spread, _ = spread_of_models(found.returns, found)
    assert spread < 3 / math.sqrt(8 * 64)


def test_two_members_do_not_show_how_much_they_differ():
    found = dreamed([1.0, 2.0])
    assert math.isnan(spread_of_models(found.returns, found)[0])

"""Latent-rule bandits: rules that stay, and rules that do not."""

import warnings

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from envs.processes.bandit import ANSWERS, CARDS, DAY, make_deployment, make_fickle


@pytest.mark.parametrize("make", [make_deployment, make_fickle])
def test_the_checker_has_nothing_to_say(make):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(3), skip_render_check=True)


@pytest.mark.parametrize("make", [make_deployment, make_fickle])
def test_the_oracle_is_always_right(make):
    task = make(3)
    o, over, outcomes = task.reset(seed=0)[0], False, []
    while not over:
        o, r, _, over, info = task.step(task.right_action(o))
        outcomes.append((r, info["outcome"]))
    assert outcomes == [(1.0, 0)] * DAY


def test_rules_stay_within_a_deployment_and_differ_between_them():
    every = np.arange(CARDS)

    def rules(task):
        return {tuple(task.right_action(every)) for _ in (task.reset(seed=s) for s in range(9))}

    assert len(rules(make_deployment(1))) == 1 and len(rules(make_fickle(1))) > 5
    assert len({tuple(make_deployment(n).right_action(every)) for n in range(40)}) > 30


def test_the_exact_score():
    task = make_deployment(5)
    oracle = np.eye(ANSWERS)[task.right_action(np.arange(CARDS))]
    assert task.right_share(oracle) == 1
    assert task.right_share(np.full((CARDS, ANSWERS), 1 / ANSWERS)) == pytest.approx(1 / ANSWERS)

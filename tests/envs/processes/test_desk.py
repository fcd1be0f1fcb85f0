"""The desks: rules worked by hand, the oracle, the exact score, and Gymnasium's contract."""

import math
import warnings
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from envs.processes.desk import DAY, Desk, make_delayed, make_deployment, make_large
from envs.processes.desk_score import right_share
from envs.processes.desks import (
    APPROVE,
    ASK,
    ASKED,
    DEPARTMENT,
    DESK,
    DESKS,
    ESCALATE,
    LARGE,
    REJECT,
    Rule,
    Sizes,
    all_items,
    bits,
    decide_right,
    desk_rules,
    draw_items,
    right,
)

SMALL = Sizes(vendors=2, departments=2, amounts=3, code_bits=1)
RULE = Rule(
    blocked=np.array([True, False]),
    treatment=np.array([REJECT, ESCALATE]),
    needs_order=np.array([True, False]),
    limit=np.array([2, 3]),
    above=np.array([ESCALATE, REJECT]),
    duplicate=np.array([APPROVE, REJECT]),
)
CASES = [  # vendor, department, amount, duplicate, order, asked -> right
    ((0, 1, 0, 0, 1, 0), REJECT, "a blocked vendor"),
    ((0, 0, 2, 1, 0, 1), REJECT, "a blocked vendor comes before all else"),
    ((1, 0, 2, 1, 0, 0), APPROVE, "a duplicate comes before a large amount"),
    ((1, 0, 2, 0, 1, 0), ESCALATE, "a large amount"),
    ((1, 1, 2, 0, 0, 0), APPROVE, "not large in the other department"),
    ((1, 0, 1, 0, 0, 0), ASK, "an order is missing"),
    ((1, 0, 1, 0, 0, 1), ESCALATE, "an order is missing, and was asked for"),
    ((1, 0, 1, 0, 1, 1), APPROVE, "the order has come"),
]


@pytest.mark.parametrize("item, answer, why", CASES, ids=[case[2] for case in CASES])
def test_the_right_decision_by_hand(item, answer, why):
    assert right(RULE, np.array([*item, 0, 0])) == answer


def test_a_rule_holds_as_many_bits_as_its_parts():
    coin = -(0.3 * math.log2(0.3) + 0.7 * math.log2(0.7))
    plain = 6 * (coin + 0.3) + 4 * (1 + math.log2(5)) + math.log2(3)
    assert bits(Sizes()) == pytest.approx(plain) and 20 < plain < 25
    assert bits(LARGE) > 60


def test_only_the_invoices_differ_between_deployments():
    rules = [desk_rules(number, Sizes()) for number in range(30)]
    items = draw_items(np.random.default_rng(0), Sizes(), 500, desk=0)
    answers = {tuple(decide_right(each, items)) for each in rules}
    assert len(answers) == 30
    for desk in (1, 2):
        items[:, DESK] = desk
        assert len({tuple(decide_right(each, items)) for each in rules}) == 1


@pytest.mark.parametrize("make", [make_deployment, make_large, make_delayed])
def test_the_checker_has_nothing_to_say(make):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(3), skip_render_check=True)


def day(task: Desk, policy, seed: int) -> list[tuple[Any, ...]]:
    """(o, a, r, outcome, o') of each step of a day."""
    o, _ = task.reset(seed=seed)
    steps, over = [], False
    while not over:
        a = policy(o)
        after, r, _, over, info = task.step(a)
        steps.append((o, a, r, info["outcome"], after))
        o = after
    return steps


def test_the_oracle_earns_everything_and_the_rest_is_told_apart():
    task = Desk(5, seen=1.0)
    assert [step[2:4] for step in day(task, task.right_action, 0)] == [(1.0, 0)] * DAY
    for o, a, r, outcome, _ in day(task, lambda o: ESCALATE, 1):
        answer = int(task.right_action(o))
        assert r == (answer == a) and outcome == (0 if r else 1 if a < answer else 2)


def test_an_item_that_was_asked_about_comes_back_once():
    steps = day(Desk(5), lambda o: ASK, 0)
    back = [(o, after) for o, _, _, _, after in steps[:-1] if not o[ASKED]]
    assert back
    for o, after in back:
        assert after[ASKED] and (after[[0, 1, 2, 3]] == o[[0, 1, 2, 3]]).all()
    assert all(not after[ASKED] for o, _, _, _, after in steps[:-1] if o[ASKED])


def test_outcomes_are_seen_as_often_as_said_and_a_delayed_reward_comes_at_the_end():
    task = Desk(0)
    shown = [step[3] >= 0 for seed in range(100) for step in day(task, lambda o: 0, seed)]
    assert abs(np.mean(shown) - 0.7) < 0.04
    late = make_delayed(0)
    steps = day(late, late.right_action, 0)
    assert [step[2] for step in steps] == [0.0] * (DAY - 1) + [DAY]
    assert {step[3] for step in steps} == {-1}


@pytest.mark.parametrize("desk", DESKS)
def test_the_exact_score_is_the_mean_of_many_days(desk):
    task, random = Desk(11, sizes=SMALL), np.random.default_rng(0)
    table = random.dirichlet(np.ones(4), SMALL.departments)
    decides = lambda items: table[items[:, DEPARTMENT]]
    earned = []
    for seed in range(1500):
        o, _ = task.reset(seed=seed, options={"skill": desk})
        over, total = False, 0.0
        while not over:
            o, r, _, over, _ = task.step(random.choice(4, p=table[o[DEPARTMENT]]))
            total += r
        earned.append(total / DAY)
    error = np.std(earned) / np.sqrt(len(earned))
    assert abs(right_share(task, decides, desk) - np.mean(earned)) < 4 * error


def test_the_oracle_scores_one_and_probabilities_of_items_add_up():
    task = Desk(2, sizes=SMALL)
    oracle = lambda items: np.eye(4)[task.right_action(items)]
    for desk in DESKS:
        assert right_share(task, oracle, desk) == pytest.approx(1.0, abs=1e-12)
    items, chance = all_items(SMALL, 0)
    assert len(items) == 2 * 2 * 3 * 2 * 2 * 2 and chance.sum() == pytest.approx(1.0)

"""The gate's study: what its cases claim is true, and its sums are right."""

import numpy as np
import pytest

from envs import tabular
from experiments.gate_study import cases_of, decide, grouped, main, options, rate, table
from experiments.study import cartpole, cases
from experiments.study.cases import Case


@pytest.mark.parametrize("name", ["lake", "open_lake", "corridor", "cab"])
@pytest.mark.parametrize("kind, effect", [("random", -0.05), ("flipped", -0.2), ("stale", 0.0),
                                          ("overrated", -0.1), ("good", 0.5)])  # fmt: skip
def test_true_effects_are_what_they_are_called(name, kind, effect):
    task, case = cases.tasks()[name], Case(name, 5, "uniform", kind, effect)
    traces = cases.record(task, cases.behaviour_of(case), case.seed)
    policies = cases.policies_of(case, traces)
    low, high = cases.value_range(task)
    found = task.value(policies.candidate) - task.value(policies.incumbent)
    assert abs(found / (high - low) - effect) < 1e-3
    assert low < task.value(policies.incumbent) < high
    for policy in (policies.candidate, policies.incumbent):
        assert np.allclose(policy.sum(1), 1) and (policy >= 0).all()


def test_the_cab_can_be_driven():
    """From anywhere: fetch, bring, put down; -1 per step and 20 for the delivery."""
    table = cases.cab(goal=15)
    assert tabular.evaluate(table, tabular.solve(table, 0.99)[2], 60) > 5
    only_pay = np.zeros(table.num_states, int)  # north for ever
    assert tabular.evaluate(table, only_pay, 60) == pytest.approx(-60)


def test_logs_have_their_steps_propensities_and_endings():
    task, case = cases.tasks()["lake"], Case("lake", 1, "exploring", "random", -0.1)
    behaviour = cases.behaviour_of(case)
    traces = cases.record(task, behaviour, 1)
    assert sum(map(len, traces)) == task.log_steps
    assert any(trace.terminated[-1] for trace in traces)
    for trace in traces[:20]:
        assert trace.propensities is not None
        expected = behaviour[trace.observations[:-1], trace.actions]
        np.testing.assert_allclose(trace.propensities, expected)
    again = cases.record(task, behaviour, 1)
    assert all((a.observations == b.observations).all() for a, b in zip(traces, again, strict=True))


def test_cartpole_policies_have_about_the_effect_they_are_called():
    candidate, incumbent, effect = cartpole.policies_of("flipped", -0.2)
    low, high = cartpole.value_range()
    assert abs(effect / (high - low) + 0.2) < 0.03
    assert sum(share for share, _ in candidate) == pytest.approx(1)
    assert cartpole.value(incumbent) == pytest.approx(low + 0.6 * (high - low), rel=0.02)


def test_the_suites_are_fixed():
    sabotage = cases_of("sabotage", 200, 0)
    assert len(sabotage) == 200 and {case.effect for case in sabotage} == {-0.05, -0.1, -0.2}
    assert {case.task for case in sabotage} == {"lake", "open_lake", "corridor", "cab", "cartpole"}
    pairs = {(case.task, case.behaviour, case.kind) for case in sabotage}
    assert len(pairs) == 4 * 2 * 4 + 2 * 3
    assert sabotage == cases_of("sabotage", 200, 0)
    seeds = [{x.seed for x in cases_of(x, 24, 0)} for x in ("sabotage", "known_good", "power")]
    assert not seeds[0] & seeds[1] and not seeds[1] & seeds[2]


def test_a_case_is_decided_the_same_way_twice():
    case = Case("corridor", 3, "uniform", "good", 0.5)
    once, again = decide(case), decide(case)
    assert once == again and once["true_effect"] == pytest.approx(0.5)
    assert once["accept"] and not decide(Case("corridor", 4, "uniform", "flipped", -0.2))["accept"]


def outcome(accept, effect, lower):
    return {
        "accept": accept, "share": 1.0 if accept else 0.0, "effect": effect, "task": "lake",
        "intervals": [[0.1, lower, 0.3], [None] * 3, [-0.1, -0.2, -0.05]],
    }  # fmt: skip


def test_rates_by_hand():
    """Four of 200: exactly 2 %, Clopper-Pearson 0.5 to 5.0 %."""
    outcomes = [outcome(i < 4, -0.1, 0.05) for i in range(200)]
    found = rate(outcomes)
    assert (found["accepted"], found["cases"], found["rate"]) == (4, 200, 0.02)
    assert found["ci"] == pytest.approx([0.00548, 0.05041], abs=1e-4)
    row = grouped([*outcomes, outcome(True, 0.5, 0.1)], "effect")[0]
    assert row["effect"] == -0.1 and row["fitted_q_above"] == 200 and row["doubly_robust"] == 0
    assert row["judge_below"] == 200
    text = table("title", [row])
    assert "4/200" in text and "0.5% to 5.0%" in text and "200/0 of 200" in text


def test_options_and_what_is_none(capsys):
    assert options(["count=3", "suite=power"]) | {"out": ""} == {
        "suite": "power", "count": 3, "seed": 1_000_000, "out": ""
    }  # fmt: skip
    assert main(["counts=3"]) == 2 and "not one of suite=" in capsys.readouterr().err
    assert main(["suite=nothing"]) == 2 and main(["--help"]) == 0

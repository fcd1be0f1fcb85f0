"""The gate's study: what its cases claim is true, and its sums are right."""

import itertools
import json

import numpy as np
import pytest

from dreaming.config import GateConfig
from envs import tabular
from experiments.gate_study import (
    COUNTS,
    GATES,
    OPTIONS,
    cases_of,
    decide,
    grouped,
    main,
    options,
    rate,
    table,
)
from experiments.study import cartpole, cases
from experiments.study.cases import Case
from experiments.study.episodes import play_cartpole, play_table


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
    seeds = [{x.seed for x in cases_of(suite, 24, 0)} for suite in COUNTS]
    assert not any(one & other for one, other in itertools.combinations(seeds, 2))
    lineages = cases_of("lineages", 40, 0)
    assert {case.effect for case in lineages} == {0.0}  # exactly: so without CartPole
    assert {case.task for case in lineages} == {"lake", "open_lake", "corridor", "cab"}


GOOD, BAD = Case("corridor", 3, "uniform", "good", 0.5), Case("corridor", 4, "uniform", "flipped",
                                                              -0.2)  # fmt: skip


@pytest.mark.parametrize("gate", GATES)
def test_a_case_is_decided_the_same_way_twice(gate):
    once, again = decide(gate, "known_good", GOOD), decide(gate, "known_good", GOOD)
    assert once == again and once["true_effect"] == pytest.approx(0.5)
    assert once["accept"] and not decide(gate, "sabotage", BAD)["accept"]
    json.dumps(once)


def test_the_log_alone_says_of_each_estimate_whether_it_held_the_truth():
    found = decide("offline", "known_good", GOOD)
    assert len(found["intervals"]) == len(found["covered"]) == 3
    for interval, held in zip(found["intervals"], found["covered"], strict=True):
        assert len(interval) == 3 and len(held) == 2  # over the policy, over the process
        assert interval[0] is not None or held == [None, None]
    assert any(held[0] is not None for held in found["covered"])


def test_the_real_gate_uses_no_more_episodes_than_it_needs():
    """The difference of a case is known long before the last look; what it would have seen then is
    kept, for a gate of a fixed number."""
    most = GateConfig().looks[-1]
    for case in (GOOD, BAD):
        found = decide("real", "power", case)
        assert found["episodes"] in GateConfig().looks[:2]
        assert len(found["differences"]) == most
        assert np.sign(np.mean(found["differences"])) == np.sign(case.effect)


def test_a_lineage_of_no_effect_is_tried_again_with_other_episodes():
    """Five trials, or as many as it takes to be fooled: the same episodes would say the same."""
    [case] = cases_of("lineages", 1, 0)
    found = decide("real", "lineages", case)
    assert found["true_effect"] == pytest.approx(0, abs=1e-12)
    assert not found["accept"] and decide("real", "lineages", case) == found


@pytest.mark.parametrize("name", ["lake", "cab"])
def test_episodes_of_a_table_earn_what_is_computed(name):
    task, seeds = cases.tasks()[name], list(range(4000))
    uniform = np.full(task.table.r.shape[:2], 1 / task.table.r.shape[1])
    returns, lengths = play_table(task, uniform, seeds)
    error = returns.std() / np.sqrt(len(seeds))
    assert abs(returns.mean() - task.value(uniform)) < 4 * error
    assert 1 <= lengths.min() and lengths.max() <= task.horizon
    few = play_table(task, uniform, seeds[7:9])[0]
    assert (few == returns[7:9]).all()  # an episode is that of its seed, whoever plays beside it


def test_episodes_of_cartpole_earn_what_was_measured():
    incumbent = cartpole.policies_of("flipped", -0.2)[1]
    returns, lengths = play_cartpole(incumbent, list(range(300)))
    assert (returns == lengths).all() and lengths.max() <= 500
    error = returns.std() / np.sqrt(300)
    assert abs(returns.mean() - cartpole.value(incumbent)) < 4 * error


def outcome(accept, effect, lower):
    return {
        "accept": accept, "share": 1.0 if accept else 0.0, "effect": effect, "task": "lake",
        "intervals": [[0.1, lower, 0.3], [None] * 3, [-0.1, -0.2, -0.05]],
        "covered": [[True, False], [None, None], [False, None]],
    }  # fmt: skip


def test_rates_by_hand():
    """Four of 200: exactly 2 %, Clopper-Pearson 0.5 to 5.0 %."""
    outcomes = [outcome(i < 4, -0.1, 0.05) for i in range(200)]
    found = rate(outcomes)
    assert (found["accepted"], found["cases"], found["rate"]) == (4, 200, 0.02)
    assert found["ci"] == pytest.approx([0.00548, 0.05041], abs=1e-4)
    row = grouped([*outcomes, outcome(True, 0.5, 0.1)], "effect")[0]
    assert row["effect"] == -0.1
    assert [row[f"G{k} +/-"] for k in (1, 2, 3)] == ["200/0 of 200", "0/0 of 0", "0/200 of 200"]
    assert [row[f"G{k} holds (policy)"] for k in (1, 2, 3)] == ["200/200", "0/0", "0/200"]
    assert [row[f"G{k} holds (log)"] for k in (1, 2, 3)] == ["0/200", "0/0", "0/0"]
    text = table("title", [row])
    assert "4/200" in text and "0.5% to 5.0%" in text and "200/0 of 200" in text


def test_a_gate_of_a_fixed_number_by_hand():
    """Two cases that took 32 and 64 episodes: 48 of each, of which one is clearly above zero."""
    sure, unsure = np.ones(128) + np.arange(128) % 2, np.where(np.arange(128) % 2, 1.0, -1.0)
    common = {"accept": True, "share": 1.0, "effect": 0.1}
    outcomes = [common | {"episodes": 32, "differences": sure.tolist()}]
    outcomes += [common | {"episodes": 64, "differences": unsure.tolist()}]
    [row] = grouped(outcomes, "effect")
    assert (row["mean episodes"], row["with so many"]) == ("48.0", "1/2")


def test_options_and_what_is_none(capsys):
    assert options(["count=3", "suite=power"]) == OPTIONS | {"count": 3, "suite": "power"}
    assert OPTIONS["suite"] == OPTIONS["gate"] == "all" and options([]) == OPTIONS
    assert main(["gate=both"]) == 2
    assert "choose all or ['offline', 'real']" in capsys.readouterr().err
    assert main(["counts=3"]) == 2 and "not one of suite=" in capsys.readouterr().err
    assert main(["suite=nothing"]) == 2 and main(["--help"]) == 0


def test_half_of_each_of_two_policies_may_earn_more_than_either():
    """So do the incumbent and this overrated policy: no mixture with it has no effect."""
    task, case = cases.tasks()["corridor"], cases_of("lineages", 400, 3_000_000)[90]
    assert (case.task, case.kind) == ("corridor", "overrated")
    traces = cases.record(task, cases.behaviour_of(case), case.seed)
    policies = cases.policies_of(case, traces)
    both = (policies.incumbent + cases.overrated(task, traces)) / 2
    assert task.value(both) > task.value(policies.incumbent)
    assert abs(policies.effect) < 1e-6

"""Recording as a verb: exactly the steps asked for, never over what stands already."""

import json

import gymnasium
import jax
import numpy as np
import pytest

from dreaming.student.network import init_student
from dreaming.student.policy import Policy, load_policy, save_policy
from envs.traces import TraceStore
from experiments.command.cli import main

CART = gymnasium.make("CartPole-v1")


def record(*argv):
    return main(["record", *map(str, argv)])


def same(left, right):
    pairs = zip(left, right, strict=True)
    return all(
        np.array_equal(x.observations, y.observations) and np.array_equal(x.actions, y.actions)
        for x, y in pairs
    )


def test_a_recorded_store_is_what_was_asked_for(tmp_path, capsys):
    assert record(f"path={tmp_path}/log", "env.real_steps=300", "seed=4") == 0
    store = TraceStore(tmp_path / "log")
    store.verify()
    traces = list(store)
    assert store.num_steps == 300 and sum(trace.is_open for trace in traces) <= 1
    assert all(trace.policy == "random" and (trace.propensities == 0.5).all() for trace in traces)
    assert store.schema()["observation_space"] == CART.observation_space
    assert store.provenance["env"] == "CartPole-v1" and store.provenance["seed"] == 4
    out, returns = capsys.readouterr().out, [x.rewards.sum() for x in traces if not x.is_open]
    assert f"{len(traces)} episodes, 300 steps" in out and str(tmp_path / "log") in out
    assert f"mean {np.mean(returns):.4g}" in out and f"best {max(returns):.4g}" in out
    assert f"ended by the task: {sum(x.terminated.any() for x in traces)}" in out


def test_the_same_seed_records_the_same_and_another_does_not(tmp_path):
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        assert record(f"path={tmp_path}/{name}", "env.real_steps=100", f"seed={seed}") == 0
    one, again, other = (list(TraceStore(tmp_path / x)) for x in ("one", "same", "other"))
    assert same(one, again)
    assert not np.array_equal(one[0].observations, other[0].observations)


def test_sticky_actions_and_options_of_the_task_arrive(tmp_path):
    words = ["env=mountaincar", "env.real_steps=200", "+env.options.max_episode_steps=50"]
    assert record(f"path={tmp_path}/log", "env.switch=0.25", *words) == 0
    traces = list(TraceStore(tmp_path / "log"))
    assert [len(trace) for trace in traces] == [50] * 4
    p = np.concatenate([trace.propensities for trace in traces if trace.propensities is not None])
    assert {round(float(x), 4) for x in p} == {0.3333, 0.8333, 0.0833}  # first, repeated, new


def test_more_is_added_only_when_asked_and_it_is_not_the_same_again(tmp_path, capsys):
    path = tmp_path / "log"
    assert record(f"path={path}", "env.real_steps=100") == 0
    before = TraceStore(path).digest()
    assert record(f"path={path}", "env.real_steps=100") == 2
    assert "append=true" in capsys.readouterr().err and TraceStore(path).digest() == before
    first = list(TraceStore(path))
    assert record(f"path={path}", "env.real_steps=60", "append=true") == 0
    store = TraceStore(path)
    assert store.num_steps == 160 and same(list(store)[: len(first)], first)
    assert not np.array_equal(list(store)[len(first)].observations, first[0].observations)
    assert f"{len(store)} episodes, 160 steps in all" in capsys.readouterr().out


def test_another_task_is_not_added(tmp_path, capsys):
    assert record(f"path={tmp_path}/log", "env.real_steps=50") == 0
    assert record(f"path={tmp_path}/log", "append=true", "env=mountaincar") == 1
    assert "observation space is Box([-4.8" in capsys.readouterr().err


def test_what_an_attempt_that_failed_left_behind_is_no_obstacle(tmp_path):
    TraceStore(tmp_path / "log").extend([])
    assert record(f"path={tmp_path}/log", "env.real_steps=50") == 0


@pytest.fixture
def policy_path(tmp_path):
    """A saved policy of CartPole that leans to the left."""
    with jax.numpy_rank_promotion("allow"):
        params = init_student(jax.random.key(0), 4, 2, 8, np.zeros(4), np.ones(4))
        params["layers"][-1]["b"] = np.array([2.0, 0.0], np.float32)
        params["greedy"] = np.array(False)
        spaces = CART.observation_space, CART.action_space
        save_policy(tmp_path / "policy", Policy(params, *spaces))
        yield tmp_path / "policy"


def test_a_saved_policy_records_with_its_own_propensities(policy_path, tmp_path):
    words = [f"path={tmp_path}/log", f"env.behaviour={policy_path}", "env.real_steps=300"]
    assert record(*words) == 0
    traces = list(TraceStore(tmp_path / "log"))
    policy = load_policy(policy_path)
    actions = np.concatenate([trace.actions for trace in traces])
    sha256 = json.loads((policy_path / "policy.json").read_text())["sha256"]
    assert policy.name == f"student-{sha256[:12]}"  # and not where it happened to lie
    assert 0.05 < actions.mean() < 0.25  # exp(0) / (exp(2) + exp(0)) is 0.12
    for trace in traces[:3]:
        assert trace.policy == policy.name and trace.propensities is not None
        for o, a, p in zip(trace.observations, trace.actions, trace.propensities, strict=False):
            taken, propensity = policy.behaviour()(o, None, np.random.default_rng(0))
            assert propensity is not None
            expected = propensity if taken == a else 1 - propensity
            assert p == pytest.approx(expected, rel=1e-6)


def test_a_policy_of_another_task_is_refused(policy_path, tmp_path, capsys):
    words = [f"path={tmp_path}/log", f"env.behaviour={policy_path}", "env=mountaincar"]
    assert record(*words) == 2
    assert "its observation space is Box" in capsys.readouterr().err

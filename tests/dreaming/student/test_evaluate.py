"""Evaluation against a plain loop over episodes: every episode once, whatever runs beside it."""

from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from dreaming.errors import EnvError
from dreaming.observe.replay import contexts, make_replay
from dreaming.student import evaluate as module
from dreaming.student.context import ContextBuffer
from dreaming.student.evaluate import evaluate
from envs.types import Features, Trace, action_features
from worldmodels.actions import make_head

CARTPOLE = gymnasium.make("CartPole-v1")
SPACES: dict[str, Any] = {
    "observation": Features(CARTPOLE.observation_space),
    "action": action_features(CARTPOLE.action_space),
}
W = jnp.array([0.1, 0.5, 1.0, 1.0])


@jax.jit
def balance(context, *_):
    """Holds the pole up for a long while."""
    return jnp.eye(2)[(context.o[:, -1] @ W > 0).astype(int)]


@jax.jit
def random_act(context, key, legal):
    return make_head((2,), 2).sample(jnp.zeros((len(key), 2)), key)


def reference(act, seeds):
    """One episode after the other, the policy asked about one row at a time."""
    env, returns = gymnasium.make("CartPole-v1"), []
    for seed in seeds:
        o, total, ended = env.reset(seed=int(seed))[0], 0.0, False
        while not ended:
            o, r, terminated, truncated, _ = env.step(int(act(o)))
            total, ended = total + float(r), terminated or truncated
        returns.append(total)
    return returns


def clumsy(context, *_):
    """Falls after a number of steps that differs from episode to episode."""
    return np.eye(2)[(context.o[:, -1, 2] > 0.02).astype(np.int32)]


@pytest.mark.parametrize("rows", [1, 7, 32, 64])
def test_returns_equal_a_plain_loop_in_the_order_of_the_seeds(monkeypatch, rows):
    monkeypatch.setattr(module, "ROWS", rows)
    seeds = range(1000, 1045)
    told = []
    out = evaluate("CartPole-v1", clumsy, seeds, **SPACES, update=told.append)
    expected = reference(lambda o: o[2] > 0.02, seeds)
    assert out.returns.tolist() == expected and len(set(expected)) > 5
    assert out.lengths.tolist() == expected and out.steps == sum(expected)
    assert sum(told) == 45 and min(told) > 0


def test_a_random_policy_does_not_depend_on_its_neighbours():
    seeds = list(range(40))
    run = lambda seeds: evaluate("CartPole-v1", random_act, seeds, **SPACES).returns
    together = run(seeds)
    assert len(set(together)) > 10
    assert run(seeds[::-1])[::-1].tolist() == together.tolist()
    assert run(seeds[5:8]).tolist() == together[5:8].tolist()


def test_long_episodes_end_at_the_limit_and_compile_once():
    traces = 0

    def count(context, *_):
        nonlocal traces
        traces += 1
        return balance(context)

    act = jax.jit(count)
    make_env = lambda: gymnasium.make("CartPole-v1", max_episode_steps=60)
    out = evaluate(make_env, act, range(40), **SPACES)
    assert out.returns.tolist() == [60.0] * 40
    evaluate(make_env, act, range(3), **SPACES)
    assert traces == 1
    assert evaluate("CartPole-v1", balance, [0, 1], **SPACES, max_steps=7).lengths.tolist() == [
        7,
        7,
    ]


class Cliff(gymnasium.Env):
    """Breaks in the way it is told to at its second step. Its actions begin at 5."""

    observation_space = Box(-1, 1, (2,), np.float32)
    action_space = Discrete(2, start=5)

    def __init__(self, fault):
        self.fault, self.steps = fault, 0

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.steps += 1
        late = self.steps == 2
        if late and self.fault == "raise":
            raise RuntimeError("the motor\nis off")
        o = np.full(2, np.nan if late and self.fault == "observation" else 0, np.float32)
        return o, np.inf if late and self.fault == "reward" else 1.0, self.steps == 3, False, {}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("raise", "motor is off"),
        ("observation", "not finite"),
        ("reward", "Cliff: the reward is inf"),
    ],
)
def test_a_task_that_fails_is_told_in_one_line(fault, words):
    spaces: dict[str, Any] = {
        "observation": Features(Cliff.observation_space),
        "action": action_features(Discrete(2, start=5)),
    }
    act = lambda context, *_: np.eye(2)[np.ones(len(context.o), np.int32)]
    assert evaluate(lambda: Cliff(None), act, [0], **spaces).returns.tolist() == [3]
    with pytest.raises(EnvError, match=words) as caught:
        evaluate(lambda: Cliff(fault), act, [0], **spaces)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("window", [1, 2, 4])
def test_running_contexts_equal_those_of_the_replay(window):
    rng = np.random.default_rng(0)
    lengths = (1, 3, 6)
    traces = [
        Trace(
            rng.normal(size=(steps + 1, 4)).astype(np.float32),
            rng.integers(2, size=steps),
            np.ones(steps),
            True,
            False,
        )
        for steps in lengths
    ]
    replay = make_replay(traces, SPACES["observation"], SPACES["action"], make_head((2,), 2))
    buffer = ContextBuffer(3, window, 4, 2)
    row = 0
    for trace in traces:
        o, a = np.asarray(trace.observations), SPACES["action"].flatten(trace.actions)
        buffer.reset(np.array([1]), o[:1])
        for t in range(len(trace) + 1):
            seen = jax.tree.map(lambda x: x[1], buffer.context())
            stored = contexts(replay, jnp.array(row), window)
            jax.tree.map(np.testing.assert_array_equal, seen, stored)
            row += 1
            if t < len(trace):
                buffer.push(np.array([1]), a[t : t + 1], o[t + 1 : t + 2])
    assert not buffer.context().o[[0, 2]].any()  # the other rows were left alone

"""Who is slower changes nothing: decision t has the params of update u(t), the ratio is exact."""

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from flax import struct

import dreaming  # noqa: F401 (registers Catch)
from dreaming.efficientzero.actors import Actors
from dreaming.efficientzero.config import AgentConfig, ReplayConfig, ResetConfig, TargetConfig
from dreaming.efficientzero.turns import (
    collect,
    copied,
    is_over,
    learn_due,
    take_turn,
    updates_due,
)
from dreaming.efficientzero.types import Acted
from dreaming.errors import LossError

ENVS, TICKS = 2, 3
CONFIG = AgentConfig(
    window=1,
    envs=ENVS,
    real_steps=120,
    learn_after=20,
    updates_per_step=0.5,
    updates_per_call=2,
    replay=ReplayConfig(capacity=200, batch=8),
    target=TargetConfig(every=4),
)


@pytest.fixture(scope="module", autouse=True)
def unchecked():
    """An agent that counts has states of its own."""
    was = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", was)


class Ring(struct.PyTreeNode):
    added: Any


class State(struct.PyTreeNode):
    """Of an agent that counts: params are the number of updates so far."""

    params: Any
    key: Any
    ring: Ring
    updates: Any
    real_steps: Any
    seen: Any  # a hash of the rows and when they came


@dataclass
class Counting:
    """Acts by its params alone, and remembers which ones; may be slow."""

    learns_in: float = 0.0
    acts_in: float = 0.0
    worth: float = 1.0

    def __post_init__(self):
        self.acted, self.refreshed, self.reset_at, self.late_at = [], [], [], []

    def init(self):
        zero = jnp.int32(0)
        return State(zero, jnp.zeros(2, jnp.uint32), Ring(zero), zero, zero, zero)

    def act(self, params, key, tick, stacks, updates):
        assert int(params) == updates
        time.sleep(self.acts_in)
        self.acted.append((tick, int(params)))
        a = (np.arange(ENVS) + int(params) + tick) % 3
        return Acted(jnp.asarray(a), *(jnp.zeros(x) for x in ((ENVS, 3), ENVS, ENVS)))

    def add(self, state, rows):
        steps = int(rows.o.sum()) + int(rows.a.sum())
        has_step = int(state.ring.added) // ENVS % 10 != 9  # an episode: 9 steps and a last row
        return state.replace(
            ring=Ring(state.ring.added + ENVS),
            real_steps=state.real_steps + ENVS * has_step,
            seen=(state.seen * 31 + steps) % 9973,
        )

    def refresh(self, state):
        self.refreshed.append(int(state.updates))
        return state

    def reset(self, state):
        assert self.refreshed[-1] == int(state.updates)
        self.reset_at.append(int(state.updates))
        return state

    def learn_late(self, state):
        self.late_at.append(int(state.updates))
        return self.learn(state)

    def learn(self, state):
        time.sleep(self.learns_in)
        updates = state.updates + CONFIG.updates_per_call
        seen = (state.seen * 31 + 7 * updates) % 9973
        state = state.replace(updates=updates, params=updates, seen=seen)
        return state, {
            "learn/value_loss": jnp.float32(self.worth),
            "learn/v": state.seen.astype(float),
        }


def play(agent, slow_env=0.0):
    """(state, metrics of each turn) of a whole run."""

    class Slow(gymnasium.Wrapper):
        def step(self, action):
            time.sleep(slow_env)
            return self.env.step(action)

    actors = Actors(lambda: Slow(gymnasium.make("dreaming/Catch-v0")), ENVS, 0, 1)
    actors.begin()
    state, told = agent.init(), []
    with ThreadPoolExecutor(1) as thread:
        while not is_over(CONFIG, state):
            before = int(state.real_steps)
            state, collected, metrics = take_turn(agent, CONFIG, actors, state, TICKS, thread)
            told.append((before, int(state.updates), collected.returns, metrics))
    state, metrics = learn_due(agent, CONFIG, state)
    actors.close()
    return state, [*told, metrics]


@pytest.fixture(scope="module")
def undisturbed():
    agent = Counting()
    return agent, *play(agent)


@pytest.mark.parametrize("slow", ["environment", "search", "learner"])
def test_a_slow_part_changes_nothing(slow, undisturbed):
    agent = Counting(0.02 * (slow == "learner"), 0.005 * (slow == "search"))
    state, told = play(agent, 0.003 * (slow == "environment"))
    fast, expected, metrics = undisturbed
    assert told == metrics and agent.acted == fast.acted
    jax.tree.map(np.testing.assert_array_equal, state, expected)


def test_updates_belong_to_real_steps_exactly(undisturbed):
    agent, state, told = undisturbed
    assert int(state.real_steps) == 120 and int(state.updates) == 50  # (120 - 20) / 2
    for before, updates, _, _ in told[:-1]:
        assert updates == updates_due(CONFIG, before)
    assert agent.refreshed == list(range(0, 50, 4))
    assert agent.late_at == list(range(40, 50, 2))  # after 0.8 of them


def test_every_decision_has_the_params_of_a_turn_before(undisturbed):
    agent, _, told = undisturbed
    assert [tick for tick, _ in agent.acted] == list(range(len(agent.acted)))
    begun_with = [0] + [updates for _, updates, _, _ in told[:-2]]
    assert [params for _, params in agent.acted[::TICKS]] == begun_with
    assert begun_with[-1] > 0


def test_resets_follow_the_refresh_of_their_update():
    """Every 12 of 50 updates, but for the last 12."""
    config = dataclasses.replace(CONFIG, reset=ResetConfig(every=12))
    agent: Any = Counting()
    state: Any = agent.init()
    for real_steps in (44, 45, 68, 69, 120):
        state, _ = learn_due(agent, config, state.replace(real_steps=jnp.int32(real_steps)))
    assert int(state.updates) == 50 and agent.reset_at == [12, 24, 36]


def test_a_copy_outlives_what_was_copied():
    tree = {"a": jnp.arange(3.0), "b": jnp.uint32(7)}
    copy = copied(tree)
    jax.tree.map(lambda x: x.delete(), tree)
    np.testing.assert_array_equal(copy["a"], [0, 1, 2])
    assert int(copy["b"]) == 7


def test_updates_come_in_whole_calls():
    assert [updates_due(CONFIG, n) for n in (0, 20, 23, 24, 27, 28)] == [0, 0, 0, 2, 2, 4]


def test_an_episode_of_the_ring_counts_as_that_of_the_environments(undisturbed):
    _, state, told = undisturbed
    assert sum(len(returns) for _, _, returns, _ in told[:-1]) == ENVS * (120 // (9 * ENVS))


def test_a_loss_that_is_no_number_stops_and_is_named():
    with pytest.raises(LossError, match="value_loss not finite by update 2"):
        play(Counting(worth=float("nan")))


def test_what_fails_while_collecting_is_not_lost():
    class Broken:
        stacks = np.zeros(1)

        def tick(self, *_):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        collect(partial(Counting().act, updates=0), 0, None, Broken(), range(1))  # type: ignore

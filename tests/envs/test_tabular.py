"""Exact solutions worked out by hand, and the oracle model against the table it stands for."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.dream import start_context
from envs.tabular import (
    TabularModel,
    corridor,
    evaluate,
    from_gym,
    from_traces,
    optimum,
    solve,
)
from envs.types import EnvError, Trace, TraceError


def test_values_of_a_corridor_by_hand():
    v, q, policy = solve(corridor(4), discount=0.9)
    np.testing.assert_allclose(v[:3], [0.81, 0.9, 1.0])
    np.testing.assert_allclose(q[:3, 0], [0.729, 0.729, 0.81])  # one step back, then forward
    np.testing.assert_array_equal(policy[:3], [1, 1, 1])


@pytest.mark.parametrize(
    ("policy", "horizon", "discount", "expected"),
    [
        ([1, 1], 1, 1.0, 0.75),
        ([1, 1], 2, 1.0, 0.75 + 0.25 * 0.75),
        ([1, 1], 2, 0.5, 0.75 + 0.5 * 0.25 * 0.75),
        ([0, 0], 1, 1.0, 0.25),
        ([[0.5, 0.5], [0.5, 0.5]], 1, 1.0, 0.5),
    ],
)
def test_policy_values_by_hand(policy, horizon, discount, expected):
    got = evaluate(corridor(2, slip=0.25), np.array(policy), horizon, discount)
    assert got == pytest.approx(expected)


def test_the_step_limit_cuts_the_return():
    table, right = corridor(4), np.ones(4, int)
    assert evaluate(table, right, horizon=2) == 0 and evaluate(table, right, horizon=3) == 1
    assert optimum(table, horizon=2) == 0 and optimum(table, horizon=3) == 1


def test_frozen_lake_is_worth_what_the_literature_says():
    table = from_gym("FrozenLake-v1")
    policy = solve(table, discount=0.99)[2]
    assert evaluate(table, policy, horizon=100) == pytest.approx(0.740, abs=5e-4)
    random = np.random.default_rng(0)
    best = optimum(table, horizon=100)
    for _ in range(20):
        assert evaluate(table, random.integers(4, size=16), 100) <= best


def test_the_table_agrees_with_episodes_of_the_real_task():
    env = gymnasium.make("FrozenLake-v1")
    random = np.random.default_rng(0)
    pi = random.dirichlet(np.ones(4), 16)
    returns = []
    for episode in range(1500):
        s, _ = env.reset(seed=episode)
        while True:
            s, r, terminated, truncated, _ = env.step(random.choice(4, p=pi[s]))
            if terminated or truncated:
                returns.append(float(r))
                break
    error = np.std(returns) / np.sqrt(len(returns))
    assert evaluate(from_gym(env), pi, 100) == pytest.approx(np.mean(returns), abs=4 * error)


def log():
    """Two episodes on three states: 0 -0-> 1 -1-> 2 (ends, reward 1), and 0 -0-> 0 -0-> 1 (cut)."""
    return [
        Trace(np.array([0, 1, 2]), np.array([0, 1]), np.array([0.0, 1.0]), True, False),
        Trace(np.array([0, 0, 1]), np.array([0, 0]), np.array([-1.0, 0.0]), False, True),
    ]


def test_the_count_model_counts():
    table = from_traces(log(), num_states=3, num_actions=2)
    np.testing.assert_allclose(table.p[0, 0], [1 / 3, 2 / 3, 0])
    assert table.r[0, 0, 0] == -1 and table.r[0, 0, 1] == 0 and table.r[1, 1, 2] == 1
    assert table.terminated[1, 1, 2] == 1 and table.terminated[0].max(0)[1] == 0
    np.testing.assert_array_equal(table.start, [1, 0, 0])


def test_pairs_never_taken_end_or_are_the_worst():
    ends = from_traces(log(), 3, 2, unseen="zero")
    assert solve(ends, 0.9)[1][0, 1] == 0
    stays = from_traces(log(), 3, 2, unseen="worst")
    assert solve(stays, 0.9)[1][2, 0] == pytest.approx(-1 / (1 - 0.9))


def test_what_cannot_be_a_table_is_told():
    with pytest.raises(TraceError, match="empty"):
        from_traces([], 3, 2)
    with pytest.raises(EnvError, match="transition table"):
        from_gym(gymnasium.make("CartPole-v1"))


def all_pairs(model):
    """A latent state and action features for each pair (s, a)."""
    s, a = np.divmod(np.arange(model.num_states * model.num_actions), model.num_actions)
    z = model.root(model.params, start_context(np.eye(model.num_states)[s], model.num_actions))
    return z, jnp.eye(model.num_actions)[a]


@pytest.mark.parametrize("table", [from_gym("FrozenLake-v1"), corridor(5, 0.1), corridor(3)])
def test_the_oracle_satisfies_the_bellman_equation(table):
    model = TabularModel(table, discount=0.9)
    z, a = all_pairs(model)
    chance_logits, y = model.afterstate(model.params, z, a)
    p = np.asarray(jax.nn.softmax(chance_logits))
    q, seen = 0, np.zeros((len(a), model.num_states))
    for c in range(model.num_codes):
        z_next, step = model.outcome(model.params, y, jnp.full(len(a), c))
        q = q + p[:, c] * (step.r + 0.9 * step.continuation * step.v)
        seen += p[:, [c]] * model.decode(model.params, z_next)
    np.testing.assert_allclose(seen, table.p.reshape(seen.shape), atol=1e-6)
    v = np.asarray(q).reshape(table.num_states, -1).max(-1)
    np.testing.assert_allclose(v, solve(table, 0.9)[0], atol=1e-5)


def test_the_oracle_has_as_many_codes_as_outcomes():
    lake = lambda slippery: from_gym(gymnasium.make("FrozenLake-v1", is_slippery=slippery))
    assert TabularModel(lake(True), 0.9).num_codes == 3
    assert TabularModel(lake(False), 0.9).num_codes == 1


def test_an_ended_state_stays_and_is_worth_nothing():
    model = TabularModel(corridor(2), discount=0.9)
    z = model.root(model.params, start_context(np.eye(2)[:1], 2))
    left, right = jnp.eye(2)[:, None]
    first = jnp.zeros(1, jnp.int32)
    z, step = model.outcome(model.params, model.afterstate(model.params, z, right)[1], first)
    assert step.r[0] == 1 and step.continuation[0] == 0 and step.v[0] == 0
    z, step = model.outcome(model.params, model.afterstate(model.params, z, left)[1], first)
    assert step.r[0] == 0 and step.continuation[0] == 0 and step.v[0] == 0 and z.s[0] == 1

"""Masks hold in a million searched nodes and a million dreamed steps. Illegal actions pay 1000."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Discrete

from dreaming.config import SearchConfig
from dreaming.search.teachers import make_teacher
from dreaming.student.network import act, head_of, init_student, with_uniform
from envs.dream import Dream, start_context
from envs.tabular import Table, TabularModel
from worldmodels.actions import make_head

S, A, ROWS, SIMULATIONS = 16, 4, 2048, 64
HEAD = make_head((A,), A)
LEGAL = np.random.default_rng(0).random((S, A)) < 0.5
LEGAL[np.arange(S), np.random.default_rng(1).integers(A, size=S)] = True  # something always is


class Masked(TabularModel):
    """A random walk in which what is legal depends on the state; `params["legal"]` says what."""

    def predict(self, params, z):
        v, pi, _ = super().predict(params, z)
        return v * 0, pi, params["legal"][z.s]

    def outcome(self, params, y, c):
        z, p = super().outcome(params, y, c)
        v, pi, legal = self.predict(params, z)
        return z, type(p)(p.r, p.continuation, v, pi, legal, p.uncertainty)


def model(slip):
    """Every action leads somewhere else, with `slip` to one of two places."""
    random = np.random.default_rng(2)
    p = np.zeros((S, A, S))
    for s in range(S):
        for a in range(A):
            here, there = random.choice(S, 2, replace=False)
            p[s, a, here] += 1 - slip
            p[s, a, there] += slip
    r = np.where(LEGAL, 0.0, 1000.0)[:, :, None] * np.ones(S)
    made = Masked(Table(p, r, np.zeros((S, A, S)), np.eye(S)[0]), 0.9)
    made.params = made.params | {"legal": jnp.asarray(np.where(LEGAL, 1.0, -1.0), jnp.float32)}
    return made


@pytest.mark.parametrize("slip", [0.0, 0.3])
def test_no_illegal_action_is_searched_in_a_million_nodes(slip):
    lake = model(slip)
    config = SearchConfig(num_simulations=SIMULATIONS, penalty=0.0)
    teach = jax.jit(make_teacher(lake, HEAD, config, 0.9))
    states = np.arange(ROWS) % S
    z = lake.root(lake.params, start_context(np.eye(S)[states], A))
    searched, best = 0, -np.inf
    while searched < 1_000_000:
        result = teach(lake.params, z, jax.random.key(searched), 1000.0)
        visits, illegal = np.asarray(result.visits), ~LEGAL[states]
        assert (visits[illegal] == 0).all() and (np.asarray(result.pi_search)[illegal] == 0).all()
        assert LEGAL[states, np.asarray(result.action)].all()
        best = max(best, float(result.v_search.max()))
        searched += int(visits.sum())
    assert best == 0.0  # whatever was tried anywhere in a tree is worth something at its root
    free = lake.params | {"legal": jnp.ones((S, A))}
    assert float(teach(free, z, jax.random.key(0), 1000.0).v_search.min()) > 500  # it would be seen


def test_no_illegal_action_is_taken_in_a_million_dreamed_steps():
    lake, steps = model(0.3), 512
    dream, head = Dream(lake), head_of(Discrete(A))
    greedy = init_student(jax.random.key(0), S, A, 8, np.zeros(S), np.ones(S))
    students = greedy, greedy | {"greedy": jnp.array(False)}, with_uniform(greedy, 0.5)
    context = jax.tree.map(jnp.asarray, start_context(np.eye(S)[np.arange(1024) % S], A))

    @jax.jit
    def walk(student, key):
        def step(carry, key):
            state, legal = carry
            keys = jax.random.key_data(jax.random.split(key, 1024))
            a = act(student, state.context, keys, head, legal)
            after, seen = dream.step(lake.params, state, a)
            taken = jnp.asarray(LEGAL)[state.z.s, jnp.argmax(a, -1)]
            return (after, seen.legal), (jnp.sum(~taken), jnp.sum(seen.r > 0))

        rows = jax.random.key_data(jax.random.split(key, 1024))
        state, begun = dream.initial(lake.params, context, rows)
        return jax.lax.scan(step, (state, begun.legal), jax.random.split(key, steps))[1]

    with jax.numpy_rank_promotion("allow"):
        for student in students:
            illegal, paid = walk(student, jax.random.key(1))
            assert int(illegal.sum()) == 0 and int(paid.sum()) == 0
    assert 1024 * steps * len(students) > 1_000_000

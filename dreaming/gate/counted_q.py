"""Fitted-Q evaluation for discrete observations: one feature per pair (observation, action).

Each regression is then a mean over the logged steps of a pair, so each member of the ensemble is a
count model of S observations and A actions.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from dreaming.gate.logged_steps import Steps, Valued, episode_weights
from dreaming.student.network import action_probabilities
from envs.types import Context
from worldmodels.precision import exact

# Weight of a member's prior belief, in logged steps. A step pays that share to the belief, so over
# a far horizon a larger weight would draw every value to it.
DOUBT = 0.001


class Counts(struct.PyTreeNode):
    """Count models of M members. A pair that was never taken has the value of the prior belief."""

    constant: Float[Array, "M S A"]  # mean reward
    onward: Float[Array, "M S A S"]  # probability of going on to each next observation
    start: Float[Array, "M S"]
    weights: Float[Array, "M E"]  # of the episodes
    legal: Bool[Array, "S A"]  # in at least half of the logged rows of an observation


@functools.partial(jax.jit, static_argnames="members")
def count(steps: Steps, key: jax.Array, members: int) -> Counts:
    """Count models of `members` bootstraps by episode. `key` is a typed key."""
    size, num_actions = steps.x.shape[-1], steps.a.shape[-1]
    s, n, a = (jnp.argmax(x, -1) for x in (steps.x, steps.x_next, steps.a))

    def one(key):
        weight_key, belief_key = jax.random.split(key)
        weights = episode_weights(steps, weight_key)
        w = weights[steps.episode] * steps.is_real
        table = jnp.zeros((size, num_actions))
        belief = steps.mean + steps.spread * jax.random.normal(belief_key, table.shape)
        total = table.at[s, a].add(w) + DOUBT
        constant = table.at[s, a].add(w * steps.r) + DOUBT * belief
        onward = jnp.zeros((size, num_actions, size)).at[s, a, n].add(w * steps.goes_on)
        start = jnp.zeros(size).at[jnp.argmax(steps.x_first, -1)].add(weights) / weights.sum()
        return constant / total, onward / total[..., None], start, weights

    constant, onward, start, weights = jax.lax.map(one, jax.random.split(key, members))
    return Counts(constant, onward, start, weights, legal_actions(steps))


def legal_actions(steps: Steps) -> Bool[Array, "S A"]:
    """What was legal in at least half of the rows of each observation; everything where none is."""
    votes = (steps.replay.legal[steps.rows] - 0.5) * steps.is_real[:, None]
    s = jnp.argmax(steps.x, -1)
    return jnp.zeros((steps.x.shape[-1], votes.shape[-1])).at[s].add(votes) >= 0


def _backwards(constant, onward, pi, horizon: int):
    """(v [S] with `horizon` steps left, (q [H, S, A] with 1, 2, ... and v [H, S] with 0, 1, ...)),
    backwards from the end of an episode."""

    def step(v, _):
        q = constant + onward @ v
        return jnp.sum(pi * q, -1), (q, v)

    return jax.lax.scan(step, jnp.zeros(len(constant)), length=horizon)


@jax.jit
@exact
def _solve(steps: Steps, counts: Counts, pi: Float[Array, "S A"]) -> Valued:
    s, n, a = (jnp.argmax(x, -1) for x in (steps.x, steps.x_next, steps.a))

    def one(member):
        constant, onward, start = member
        v, (q, later) = _backwards(constant, onward, pi, steps.horizon)
        v_now = jnp.concatenate([later[1:], v[None]])
        at = steps.left - 1
        return Valued(start @ v, q[at, s, a], v_now[at, s], later[at, n])

    return jax.lax.map(one, (counts.constant, counts.onward, counts.start))


def evaluate_counted(steps: Steps, counts: Counts, policy: Any) -> Valued:
    """The values of `policy` (parameters of a student) by the members."""
    size = steps.x.shape[-1]
    every = Context(
        o=jnp.eye(size)[:, None],
        a=jnp.zeros((size, 0, steps.a.shape[-1])),
        elapsed=jnp.zeros((size, 1), jnp.int32),
        valid=jnp.ones((size, 1), bool),
    )
    pi = action_probabilities(policy, every, steps.head, counts.legal)
    return _solve(steps, counts, pi)

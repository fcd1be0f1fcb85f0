"""Fitted-Q evaluation: the value of a policy by an ensemble of Q functions fitted on the log.

    Q_h = argmin sum_t w_t (r_t + (1 - terminated_t) sum_k p_k Q_{h-1}(o[t+1], a_k) - Q)^2

(Ernst et al., 2005; Le et al., 2019), for h = 1 up to the steps of an episode, from Q_0 = 0: the
undiscounted return of an episode. A Q network has one hidden layer that
is drawn and not trained (random Fourier features, Rahimi & Recht, 2007) under a fitted output
layer; where observations are categories, every pair of observation and action is a feature of its
own. So each regression is solved exactly, and all of it takes seconds. On logs of short episodes
sweeps to a far horizon diverge in some members; so every BOUNDED sweeps the values that the next
one regresses on are cut to what the rewards of the log allow in the steps that are left.

Members differ in the weight of each episode (Exp(1), the Bayesian bootstrap), in their hidden layer
and in their prior belief: where the log has no data, they disagree.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from dreaming.gate.logged_steps import ROWS, Steps, Valued, ask, episode_weights, possible
from worldmodels.precision import exact

GAIN = 2.0  # scale of the hidden weights; at 3 networks generalise less far than CartPole drifts
DOUBT = 0.3  # weight of a member's prior belief, in logged steps; with 0.01 the iteration diverges
# on random logs of CartPole, with 10 every value is drawn to the log's mean
BOUNDED = 20  # sweeps after which values are cut; in each: hardly less spread, ten times slower


def hidden(layer: Any, x: Float[Array, "*B X"], a: Float[Array, "*B A"]) -> Float[Array, "*B D"]:
    """Random Fourier features of one member, a vector of about unit length."""
    u = jnp.concatenate([x, a], -1) @ layer["w"] + layer["b"]
    return jnp.cos(u) * math.sqrt(2 / u.shape[-1])


def expected(
    layer: Any, x: Float[Array, "B X"], a: Float[Array, "B K A"], p: Float[Array, "B K"]
) -> Float[Array, "B D"]:
    """sum_k p_k hidden(x, a_k)."""
    one = lambda a, p: p[:, None] * hidden(layer, x, a)
    return jax.vmap(one, 1)(a, p).sum(0)


class Members(struct.PyTreeNode):
    """M networks without output layers, and the parts of their fits common to all policies."""

    layer: Any  # {"w": [M, X + A, D], "b": [M, D]}
    weights: Float[Array, "*M E"]  # of the episodes
    inverse: Float[Array, "*M D D"]  # (Phi^T W Phi + DOUBT)^-1
    first: Float[Array, "*M D"]  # Phi^T W (r - mean) + DOUBT * belief
    later: Float[Array, "*M D"]  # Phi^T W (r - (1 - goes_on) mean) + DOUBT * belief


def _rows(arrays: dict, each: Callable[[dict], Any]) -> Any:
    """`each` of the steps, ROWS at a time."""
    parts = jax.tree.map(lambda x: x.reshape(-1, ROWS, *x.shape[1:]), arrays)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), jax.lax.map(each, parts))


def _columns(steps: Steps, *names: str) -> dict[str, Array]:
    """Arrays of the steps by name."""
    return {name: getattr(steps, name) for name in names}


@functools.partial(jax.jit, static_argnames=("members", "width"))
@exact
def make_members(steps: Steps, key: jax.Array, members: int, width: int):
    """`members` networks of `width` hidden units."""
    one = lambda key: _member(steps, key, width)
    return jax.lax.map(one, jax.random.split(key, members))


def _member(steps: Steps, key: jax.Array, width: int) -> Members:
    w_key, b_key, weight_key, belief_key = jax.random.split(key, 4)
    size = steps.x.shape[-1] + steps.a.shape[-1]
    layer = {
        "w": GAIN * jax.random.normal(w_key, (size, width)),
        "b": jax.random.uniform(b_key, (width,), maxval=2 * math.pi),
    }
    weights = episode_weights(steps, weight_key)
    belief = steps.spread * jax.random.normal(belief_key, (width,))

    phi = _rows(_columns(steps, "x", "a"), lambda part: hidden(layer, part["x"], part["a"]))
    weighed = phi * (weights[steps.episode] * steps.is_real)[:, None]
    gram, last = phi.T @ weighed, steps.r - steps.mean
    first, later = last @ weighed, (last + steps.goes_on * steps.mean) @ weighed
    inverse = jnp.linalg.inv(gram + DOUBT * jnp.eye(width))
    return Members(layer, weights, inverse, first + DOUBT * belief, later + DOUBT * belief)


class Choices(NamedTuple):
    """(actions [., K, A], probabilities [., K]) of a policy before the N steps, after them, and at
    the first observations of the E episodes."""

    now: tuple[Array, Array]
    next: tuple[Array, Array]
    first: tuple[Array, Array]


@jax.jit
@exact
def _evaluate(steps: Steps, members: Members, choices: Choices) -> Valued:
    return jax.lax.map(lambda one: _valued(steps, one, choices), members)


def _valued(steps: Steps, member: Members, choices: Choices) -> Valued:
    """Values of a policy by one member."""

    def features(part):
        now = hidden(member.layer, part["x"], part["a"])
        after = expected(member.layer, part["x_next"], part["a_next"], part["p_next"])
        return now, after * part["goes_on"][:, None]

    arrays = _columns(steps, "x", "a", "x_next", "goes_on")
    now, after = _rows(
        arrays | dict(zip(("a_next", "p_next"), choices.next, strict=True)), features
    )
    weighed = now * (member.weights[steps.episode] * steps.is_real)[:, None]
    first, later = member.inverse @ member.first, member.inverse @ member.later
    linear = member.inverse @ (weighed.T @ after)

    def beyond(w, left):
        """What the values after the steps have too much, with `left` steps left."""
        v = after @ w + steps.goes_on * steps.mean
        return v - jnp.clip(v, *possible(steps.paid, left)) * steps.goes_on

    def sweep(w, left):
        """From `left` steps left to one more; every BOUNDED sweeps, values are cut to what rewards
        allow."""
        cut = lambda: member.inverse @ (weighed.T @ beyond(w, left))
        more = jax.lax.cond(left % BOUNDED == 0, cut, lambda: jnp.zeros_like(w))
        return later + linear @ w - more, w

    _, every = jax.lax.scan(sweep, first, jnp.arange(1, steps.horizon + 1))
    w = every[-1]
    value = lambda x, choice: expected(member.layer, x, *choice)
    begun = value(steps.x_first, choices.first) @ w + steps.mean
    of = lambda phi, left: jnp.sum(phi * every[jnp.maximum(left, 1) - 1], -1) + steps.mean
    q = of(hidden(member.layer, steps.x, steps.a), steps.left)
    v = of(value(steps.x, choices.now), steps.left)
    v_next = of(value(steps.x_next, choices.next), steps.left - 1) * (steps.left > 1)
    return Valued(member.weights @ begun / member.weights.sum(), q, v, v_next)


def evaluate_fitted(steps: Steps, members: Members, policy: Any) -> Valued:
    """The values of `policy` (parameters of a student) by the members."""
    at = functools.partial(ask, policy, steps)
    choices = Choices(at(steps.rows), at(steps.rows + 1), at(steps.begins))
    return _evaluate(steps, members, choices)

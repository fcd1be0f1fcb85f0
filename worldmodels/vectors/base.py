"""The closed-form base of the vector model: Bayesian regression of the change of an observation.

A linear map of features of a context x [D] (normalised) and an action a [A]: 1, x, a, their
products unless too many, and random Fourier features sqrt(2 / F) cos(omega [x, a] + phase), which
make it a Gaussian process with a squared-exponential kernel (Rahimi and Recht, 2007). The posterior
of its weights is Gaussian and known in closed form (Bishop, 2006, eq. 3.49); each member has a draw
of its own from it, so members differ by what the log leaves open.

`regression.py` fits it.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from worldmodels.contexts import context_rows
from worldmodels.precision import exact
from worldmodels.vectors.contacts import no_contacts

MOST_PRODUCTS = 512
ANY = 1e9  # a change without bound
FAR = 20.0  # most that networks tell: more than any change
RESERVE = 1  # the tag of its key
HIDDEN = 0.2  # weight of an episode below which a member's network does not learn from it


def init_base(
    key: jax.Array, features: int, context: int, action: int, members: int, observation: int
) -> dict[str, Any]:
    """Random draws for a base that knows nothing yet: `weights` [E, G, O] are standard normal, as
    are as many more in `reserve`, for members that nobody will rehearse in; `noise` [O] is what it
    usually leaves over of changes on held-out episodes, a deviation by the median; `low` and `high`
    [O] are the least and greatest change; `contacts` as in `contacts.py`.

    `context` is D, `features` is F; G = 1 + D + A + F + D A (`products_of`).
    """
    omega_key, phase_key, weight_key = jax.random.split(key, 3)
    size = 1 + context + action + features + products_of(context, action)
    reserve_key = jax.random.fold_in(weight_key, RESERVE)
    return {
        "omega": jax.random.normal(omega_key, (context + action, features)),
        "phase": jax.random.uniform(phase_key, (features,), maxval=2 * jnp.pi),
        "weights": jax.random.normal(weight_key, (members, size, observation)),
        "reserve": jax.random.normal(reserve_key, (members, size, observation)),
        "noise": jnp.ones(observation),
        "low": jnp.full(observation, -ANY),
        "high": jnp.full(observation, ANY),
        "contacts": jax.tree.map(jnp.asarray, no_contacts(observation)),
    }


@exact
def base_features(base: dict, x: Float[Array, "*B D"], a: Float[Array, "*B A"]):
    """Features [*B, G] of normalised contexts and actions."""
    both = jnp.concatenate([x, a], axis=-1)
    waves = cosine(both @ base["omega"] + base["phase"]) * np.sqrt(2 / base["phase"].size)
    found = [jnp.ones_like(x[..., :1]), both, waves]
    if products := products_of(x.shape[-1], a.shape[-1]):
        found.append((x[..., :, None] * a[..., None, :]).reshape(*x.shape[:-1], products))
    return jnp.concatenate(found, axis=-1)


def products_of(context: int, action: int) -> int:
    """How many products of x and a are features: all, or none where they are too many."""
    return context * action if context * action <= MOST_PRODUCTS else 0


def cosine(x: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """cos x to within 1e-5 for |x| < 50 (1e-4 for |x| < 500), four times as fast as XLA's on a CPU:
    the series of the sine (to x^11) within a quarter turn."""
    turns = x * (0.5 / np.pi)
    u = (0.25 - jnp.abs(turns - jnp.round(turns))) * (2 * np.pi)
    square, total = u * u, jnp.zeros_like(u)
    for k in range(11, 0, -2):
        total = (-1) ** (k // 2) / math.factorial(k) + square * total
    return u * total


@exact
def base_changes(base: dict, x: Float[Array, "*B D"], a: Float[Array, "*B A"]):
    """Changes [E, *B, O] that the members expect, in `o_step`; none is larger than was logged."""
    members, size, outputs = base["weights"].shape
    weights = jnp.moveaxis(base["weights"], 0, 1).reshape(size, members * outputs)
    found = base_features(base, x, a) @ weights
    found = jnp.moveaxis(found.reshape(*found.shape[:-1], members, outputs), -2, 0)
    return within(base, found)


def posterior_mean(base: dict) -> dict[str, Any]:
    """The base of one member, the mean of all."""
    return base | {"weights": base["weights"].mean(0, keepdims=True)}


def left_by(base: dict, told: Float[Array, "*B O"]) -> Float[Array, "*B O"]:
    """Changes, in `o_step`, of which networks tell the arsinh in the base's `noise`."""
    return base["noise"] * jnp.sinh(jnp.clip(told, -FAR, FAR))


def within(base: dict, change: Float[Array, "*B O"]) -> Float[Array, "*B O"]:
    """None larger than was logged."""
    return jnp.clip(change, base["low"], base["high"])


def flat_rows(o, a, valid, scale: dict) -> Float[Array, "*B D"]:
    """x: the rows of `context_rows`, one after the other."""
    rows = context_rows(o, a, valid, scale)
    return rows.reshape(*rows.shape[:-2], rows.shape[-2] * rows.shape[-1])


def shown_to(weights: Any) -> Any:
    """Whether a member's network learns what the base leaves over of an episode, bool [..., E], by
    its weights [..., E].

    What a member hardly weighs it does not see at all, so that its error there is one of prediction
    (out of the bag, as in bagging).
    """
    return weights >= HIDDEN

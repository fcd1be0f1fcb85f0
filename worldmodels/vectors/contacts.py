"""Contacts: numbers that stop at a bound which a smooth law would cross, and what that sets.

A wall, a full store, a clipped speed: the law of the base is right on both sides of such an
instant, and wrong in it. A contact is found where logged steps end at exactly the same extreme
value although the law leads beyond it; another number that is always the same after these hits (the
speed of a car at a wall), although the law says otherwise, is set to it.

Contacts are `{"bound": [2, O], "sets": [2, O, O], "value": [2, O, O]}`, in real units: the least
and the greatest value of number i, and whether reaching it sets number j, to what.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

LEAST_HITS = 3
MOST_MISSED = 1 / 3  # of the hits: steps that the law leads beyond and that end elsewhere
SURE = 3.0  # deviations of the law's error, by which it has to lead beyond


def no_contacts(observation: int) -> dict[str, Any]:
    """Nothing stops, of O numbers."""
    pairs = lambda: np.zeros((2, observation, observation), np.float32)
    bound = np.full((observation, 2), (-np.inf, np.inf), np.float32).T
    return {"bound": bound, "sets": pairs(), "value": pairs()}


def find_contacts(
    expected: Float[np.ndarray, "N O"],
    after: Float[np.ndarray, "N O"],
    noise: Float[np.ndarray, " O"],
    is_number: Bool[np.ndarray, " O"],
) -> dict[str, Any]:
    """The contacts of steps that the law expects to lead to `expected` to within `noise`, and that
    led to `after`."""
    found = no_contacts(after.shape[1])
    for side, sign in enumerate((-1, 1)):
        bound = after.min(0) if sign < 0 else after.max(0)
        crosses = sign * (expected - bound) > SURE * noise
        stops = after == bound
        hits, missed = crosses & stops, crosses & ~stops
        often, seldom = hits.sum(0) >= LEAST_HITS, missed.sum(0) <= MOST_MISSED * hits.sum(0)
        for at in np.flatnonzero(is_number & often & seldom):
            found["bound"][side, at] = bound[at]
            there, said = after[hits[:, at]], expected[hits[:, at]]
            surprises = np.median(np.abs(said - there), axis=0) > SURE * noise
            beyond = stops[:, at] & (sign * (expected[:, at] - bound[at]) > 0)  # as dreams will ask
            sets = is_number & surprises & (after[beyond] == there[0]).all(0)
            sets[at] = False  # its bound says so
            found["sets"][side, at] = sets
            found["value"][side, at] = sets * there[0]
    return found


def stopped(contacts: dict, o: Float[Array, "*B O"]) -> Float[Array, "*B O"]:
    """Where a step ends that a smooth law leads to `o`."""
    low, high = contacts["bound"]
    hit = jnp.stack([o < low, o > high], axis=-2).astype(o.dtype)
    count = jnp.einsum("...si,sij->...j", hit, contacts["sets"])
    total = jnp.einsum("...si,sij->...j", hit, contacts["value"])
    return jnp.where(count > 0, total / jnp.maximum(count, 1), jnp.clip(o, low, high))

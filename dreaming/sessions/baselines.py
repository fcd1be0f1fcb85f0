"""What else could be done with the log of a session: it is not dreamed, only learned from.

    clone            what was done
    right            what was done where its outcome was the first, or its reward high
    policy_gradient  more of what went better than the log's mean, weighed by propensities
    logged           the context teacher, at the states of the log instead of the student's own
All of them change the same weights, without rows, by the same optimiser.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from dreaming.errors import ConfigError
from dreaming.sessions.divergence import kl
from dreaming.sessions.network import ReaderShape
from dreaming.sessions.teacher_gap import advice_on
from dreaming.sessions.teachers import without_rows
from dreaming.sessions.types import Rows

ARMS = ("clone", "right", "policy_gradient", "logged")
MOST_RATIO = 5.0


def worth(rows: Rows) -> tuple[Any, Any]:
    """(what each decision was worth, 1 where that was seen): the outcome, else the reward."""
    has_outcomes = ((rows.outcome >= 0) & rows.valid).any()
    by_outcome = rows.outcome >= 0, rows.outcome == 0
    seen = jnp.where(has_outcomes, by_outcome[0], rows.known) & rows.valid
    y = jnp.where(has_outcomes, by_outcome[1].astype(jnp.float32), rows.r)
    return y, seen.astype(jnp.float32)


def arm_loss(
    arm: str, params: Any, shape: ReaderShape, rows: Rows, p: Any, advice: Any
) -> Float[Any, ""]:
    """The loss of an arm on the rows [M] of a session."""
    pi = jax.nn.log_softmax(without_rows(params, shape, rows.o))
    log_pi, valid = (pi * rows.a).sum(-1), rows.valid.astype(jnp.float32)
    y, seen = worth(rows)
    if arm == "logged":
        return (kl(advice, pi) * valid).sum() / valid.sum()
    if arm == "clone":
        return -(log_pi * valid).sum() / valid.sum()
    mean = (y * seen).sum() / (seen.sum() + 1e-6)
    if arm == "right":
        good = seen * (y > jnp.minimum(mean, 0.999))
        return -(log_pi * good).sum() / (good.sum() + 1e-6)
    ratio = jnp.minimum(jnp.exp(log_pi) / p, MOST_RATIO)
    return -(ratio * (y - mean) * seen).sum() / (seen.sum() + 1e-6)


@functools.lru_cache(maxsize=8)
def _program(arm: str, shape: ReaderShape, epochs: int, learning_rate: float) -> Callable:
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(learning_rate))

    @jax.jit
    def learn(params, rows, p):
        advice, _ = advice_on(params, shape, rows, "context", 0.1)

        def step(carry, _):
            weights, state = carry
            gradient = jax.grad(lambda w: arm_loss(arm, w, shape, rows, p, advice))(weights)
            change, state = optimiser.update(gradient, state, weights)
            return (optax.apply_updates(weights, change), state), None

        start = params, optimiser.init(params)
        new: Any = jax.lax.scan(step, start, None, length=epochs)[0][0]
        return new | {"r_scale": params["r_scale"]}

    return learn


def learn_from_log(
    params: Any,
    shape: ReaderShape,
    rows: Rows,
    propensities: np.ndarray,
    *,
    arm: str,
    epochs: int = 100,
    learning_rate: float = 1e-3,
) -> Any:
    """The weights after `epochs` steps on all rows. Raises `ConfigError` for an unknown arm, and
    for policy_gradient where propensities are missing."""
    if arm not in ARMS:
        raise ConfigError(f"arm={arm} does not exist; choose {' or '.join(ARMS)}")
    p = np.asarray(propensities, np.float32)
    if arm == "policy_gradient" and np.isnan(p).any():
        raise ConfigError("policy_gradient needs propensities, and some are missing")
    learn = _program(arm, shape, epochs, learning_rate)
    return learn(params, jax.tree.map(jnp.asarray, rows), np.where(np.isnan(p), 1.0, p))

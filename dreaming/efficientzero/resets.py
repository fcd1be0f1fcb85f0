"""Partial resets of the params, and annealing between them (BBF; Schwarzer et al., 2023).

A reset moves encoder and dynamics towards fresh weights (shrink and perturb; Ash and Adams, 2020)
and replaces all heads by fresh ones; the ring stays. After each reset n and the discount of the
value targets are annealed to their final values; both depend on the number of updates alone.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from dreaming.efficientzero.config import AgentConfig
from dreaming.efficientzero.types import AgentState
from worldmodels.types import Scalar

SHRUNK = ("encoder", "dynamics")  # all other networks are heads


def is_reset_due(config: AgentConfig, updates: int) -> bool:
    """Whether a reset comes before the next update. There is none within the last
    `config.reset.every` updates, which would be too few to recover in."""
    every = config.reset.every
    if every == 0 or updates == 0 or updates % every:
        return False
    return updates + every <= config.updates


def reset(state: AgentState, fresh: PyTree, keep: float) -> AgentState:
    """`state` with the heads of `fresh` params, `keep` * old + (1 - `keep`) * fresh encoder and
    dynamics, and an optimiser without moments whose learning rate schedule goes on."""
    shrink = lambda x, y: keep * x + (1 - keep) * y
    shrunk = {name: jax.tree.map(shrink, state.params[name], fresh[name]) for name in SHRUNK}
    return state.replace(params=fresh | shrunk, opt_state=without_moments(state.opt_state))


def without_moments(opt_state: optax.OptState) -> optax.OptState:
    """`opt_state` with all moments 0; the step count of the learning rate schedule stays."""
    has_moments = lambda x: isinstance(x, optax.ScaleByAdamState | optax.TraceState)
    forgotten = lambda x: jax.tree.map(jnp.zeros_like, x) if has_moments(x) else x
    return jax.tree.map(forgotten, opt_state, is_leaf=has_moments)


def annealed(
    config: AgentConfig, updates: Int[Any, ""] | int
) -> tuple[int | Int[Array, ""], Scalar]:
    """(n, discount) of the value targets at an update; the search uses the same discount.

    n and 1 - discount are interpolated geometrically; plain numbers if `config.reset.anneal` is 0.
    """
    rule = config.reset
    if rule.anneal == 0:
        return config.target.td_steps, config.discount
    since = updates % rule.every if rule.every else updates
    share = jnp.minimum(since / rule.anneal, 1.0)
    between = lambda first, last: first ** (1 - share) * last**share
    n = jnp.round(between(rule.td_steps, config.target.td_steps)).astype(jnp.int32)
    return n, 1 - between(1 - rule.discount, 1 - config.discount)

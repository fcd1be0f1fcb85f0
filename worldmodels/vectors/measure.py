"""What is measured on a log: normalisers and the base before a fit, the share of the networks
after it."""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from worldmodels.config import ModelConfig
from worldmodels.contexts import among_all, observation_scale
from worldmodels.protocol import RowChunk
from worldmodels.support import reward_support, value_bounds, value_support
from worldmodels.vectors.base import left_by, shown_to
from worldmodels.vectors.losses import left_over
from worldmodels.vectors.margins import margins
from worldmodels.vectors.model import VectorModel
from worldmodels.vectors.regression import fit_base, logged_rows, spaced

LEAST_HIDDEN = 10  # steps by which networks are judged


def measure_scale(
    o, change, rewards, terminated, *, config: ModelConfig, discount: float, is_number
) -> dict[str, Any]:
    """The normalisers of a log: every number the model needs to speak in real units.

    `o` [N, n] all numbers of observations, `change` [M, n] one-step changes; `rewards` [T] of each
    episode, and whether it `terminated`; `is_number` bool [O], n of them true: all other features
    keep their 0 and 1.
    `v_range`, the width of the range that values usually take, is the unit of temperatures.
    """
    usual = value_bounds(rewards, terminated, discount, window=round(1 / (1 - discount)))
    possible = value_bounds(rewards, terminated, discount)
    r_support = reward_support(np.concatenate(rewards), config.reward_bins)
    bounds = {"o_low": o.min(0), "o_high": o.max(0)}
    scale = among_all(observation_scale(o, change) | bounds, is_number) | {
        "margin": np.full((2, len(is_number)), config.clip_margin),
        "reward_support": r_support,
        "r_range": r_support[-1] - r_support[0],
        "v_range": usual[1] - usual[0],
        "value_support": value_support(usual, possible, config.value_bins),
    }
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), scale)


def measure_base(model: VectorModel, params, every: Iterable[RowChunk]):
    """`params` with the closed-form base of the log, and how far outside of it that is known."""
    if not model.has_base:
        return params
    scale, rows = params["scale"], logged_rows(every)
    base = fit_base(scale["base"], scale, rows, model.is_number)
    scale = scale | {"base": jax.tree.map(jnp.asarray, base)}
    margin = jnp.asarray(margins(scale, rows, model.is_number))
    return params | {"scale": scale | {"margin": margin}}


def measure_share(model: VectorModel, params, every: Iterable[RowChunk]):
    """`params` with the share of the networks in the change of each number."""
    if not model.has_base or model.num_codes > 1:  # codes say what chance leaves over
        return params

    def told(rows, count: int) -> tuple[np.ndarray, ...]:
        real = np.asarray(rows.is_real_step[:count, 0])
        guess, left = (np.asarray(x) for x in _told(model, params, rows))
        weights = np.asarray(rows.member_weights)[:count][real]
        return guess[:, :count][:, real], left[:count][real], weights

    guesses, lefts, weights = zip(*spaced(every, told)[0], strict=True)
    join = lambda parts, axis=0: np.concatenate(parts, axis=axis)
    share = share_of(join(lefts), join(guesses, 1), join(weights))
    return params | {"scale": params["scale"] | {"share": jnp.asarray(share)}}


def share_of(
    left: Float[np.ndarray, "N O"], guess: Float[np.ndarray, "E N O"], weights
) -> Float[np.ndarray, " O"]:
    """The share of the networks' `guess` that explains most of what is `left` where members had not
    seen it: least squares, in 0..1. Nothing if less than LEAST_HIDDEN were hidden from members that
    learned at all; a single member has seen all."""
    shown = np.asarray(shown_to(weights)).T
    hidden = ~shown & shown.any(1, keepdims=True)
    if len(guess) == 1:
        hidden = np.ones((1, len(left)), bool)
    elif hidden.sum() < LEAST_HIDDEN:
        return np.zeros(left.shape[1], np.float32)
    explained = np.einsum("eno,no,en->o", guess, left, hidden)
    size = np.einsum("eno,eno,en->o", guess, guess, hidden)
    return np.clip(explained / np.maximum(size, 1e-12), 0, 1).astype(np.float32)


@functools.partial(jax.jit, static_argnums=0)
def _told(model: VectorModel, params, rows):
    """(what the networks say that the base leaves over of each row's step [E, B, O], what it does
    [B, O])."""
    now = jax.tree.map(lambda x: x[:, 0], (rows.o, rows.a_past, rows.valid))
    z = model.encode(params, *now)
    z = jnp.broadcast_to(z, (model.num_members, *z.shape))
    hidden, _ = model.apply(params, "afterstate", z, rows.a[:, 0])
    code = jnp.zeros((len(rows.a), model.code_size))
    _, guess = model.apply(params, "outcome", hidden, code)
    left = left_over(model, params["scale"], rows, slice(0, 1))[:, 0]
    base = params["scale"]["base"]
    return left_by(base, guess), left_by(base, left)

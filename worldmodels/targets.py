"""Value targets per unrolled state; the only place that converts the time convention of logs."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from worldmodels.config import FitConfig
from worldmodels.types import Scalar, Windows


def n_step_values(
    r: Float[Array, "*B M"],
    terminated: Bool[Array, "*B M"],
    is_real_step: Bool[Array, "*B M"],
    v: Float[Array, "*B L"],
    discount: Scalar,
    n: int,
) -> Float[Array, "*B K1"]:
    """z[k] = sum_{i<n} discount^i r[k+i] + discount^n v[k+n], for k in 0..L-n-1.

    A termination ends the sum. Where the episode is cut (truncation, or the end of the log), it
    ends with the value of the last real observation. L = M + 1.
    """
    z = v
    goes_on = discount * (1 - terminated.astype(v.dtype))
    for _ in range(n):
        stepped = r + goes_on * z[..., 1:]
        z = jnp.concatenate([jnp.where(is_real_step, stepped, v[..., :-1]), z[..., -1:]], -1)
    return z[..., : v.shape[-1] - n]


def n_step_values_each(
    r: Float[Array, "B M"],
    terminated: Bool[Array, "B M"],
    is_real_step: Bool[Array, "B M"],
    v: Float[Array, "B L"],
    discount: Scalar,
    n: Int[Array, " B"],
    *,
    most: int,
) -> Float[Array, "B K1"]:
    """`n_step_values` with an n in 1..most of its own for every window; k in 0..L-most-1."""
    K1 = v.shape[-1] - most
    steps = r, terminated, is_real_step, v, discount
    each = jnp.stack([n_step_values(*steps, i + 1)[:, :K1] for i in range(most)])
    return jnp.take_along_axis(each, n[None, :, None] - 1, axis=0)[0]


def shortened_steps(
    age: Int[Array, " B"], td_steps: int | Int[Array, ""], per_step: int
) -> Int[Array, " B"]:
    """n = td_steps - floor(age / per_step), at least 1, since old actions are off-policy
    (EfficientZero's correction; `age` and `per_step` in real steps)."""
    return jnp.maximum(td_steps - age // per_step, 1)


def trusts_n_step(
    age: Int[Array, " B"], real_steps: Int[Array, ""], until: int, newest: int
) -> Bool[Array, " B"]:
    """Whether the target is the n-step return rather than the search value (EfficientZero V2's
    mixed target): for all data before `until` real steps, later for data younger than `newest`."""
    return (age < newest) | jnp.full_like(age, real_steps < until, dtype=bool)


def value_prefixes(r: Float[Array, "*B K"], horizon: int) -> Float[Array, "*B K"]:
    """Undiscounted sums of rewards from the last reset up to and including each step; the sum is
    reset before steps 0, horizon, 2 horizon, ..."""
    total = jnp.cumsum(r, axis=-1)
    before = jnp.concatenate([jnp.zeros_like(r[..., :1]), total], axis=-1)
    steps = jnp.arange(r.shape[-1])
    return total - before[..., steps - steps % horizon]


def lambda_returns(
    r: Float[Array, "H B"],
    discount_t: Float[Array, "H B"],
    v: Float[Array, "H1 B"],
    lam: float,
) -> Float[Array, "H B"]:
    """G[d] = r[d] + discount_t[d] * ((1 - lam) v[d+1] + lam G[d+1]), G[H] = v[H].

    `discount_t` is discount * continuation of step d (TD(lambda); Sutton and Barto, eq. 12.2).
    """

    def backward(g, step):
        r_d, discount_d, v_next = step
        g = r_d + discount_d * ((1 - lam) * v_next + lam * g)
        return g, g

    _, g = jax.lax.scan(backward, v[-1], (r, discount_t, v[1:]), reverse=True)
    return g


def n_step_targets(
    v: Float[Array, "B L"], batch: Windows, config: FitConfig
) -> Float[Array, "B K1"]:
    """n-step returns that bootstrap on values `v` of all rows."""
    v = jnp.where(batch.is_absorbing, 0.0, v)
    steps = batch.r, batch.terminated, batch.is_real_step
    n_step = n_step_values(*steps, v, config.discount, config.td_steps)
    ended = batch.is_absorbing[:, : n_step.shape[-1]]
    return jax.lax.stop_gradient(jnp.where(ended, 0.0, n_step))

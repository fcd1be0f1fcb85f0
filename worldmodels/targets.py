"""Value targets. Here alone the log's time convention is turned into targets per unrolled state."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def n_step_values(
    r: Float[Array, "*B M"],
    terminated: Bool[Array, "*B M"],
    is_real_step: Bool[Array, "*B M"],
    v: Float[Array, "*B L"],
    discount: float,
    n: int,
) -> Float[Array, "*B K1"]:
    """z[k] = sum_{i<n} discount^i r[k+i] + discount^n v[k+n], for k in 0..L-n-1.

    A termination ends the sum; where the episode is cut (truncation, or the end of the log) the
    value of the last real observation stands in earlier. L = M + 1.
    """
    z = v
    goes_on = discount * (1 - terminated.astype(v.dtype))
    for _ in range(n):
        stepped = r + goes_on * z[..., 1:]
        z = jnp.concatenate([jnp.where(is_real_step, stepped, v[..., :-1]), z[..., -1:]], -1)
    return z[..., : v.shape[-1] - n]


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

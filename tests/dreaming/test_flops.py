"""FLOPs counted by hand."""

import jax
import jax.numpy as jnp
import pytest

from dreaming.flops import count_flops

X, W = jnp.zeros((3, 4)), jnp.zeros((4, 4))


def looped(x):
    return jax.lax.scan(lambda x, _: (x @ W, None), x, length=7)[0]


def convolved(x):
    return jax.lax.conv_general_dilated(x, jnp.zeros((5, 2, 3, 3)), (2, 2), "SAME")


@pytest.mark.parametrize(
    ("function", "x", "expected"),
    [
        (lambda x: x @ W, X, 2 * 3 * 4 * 4),
        (jax.jit(lambda x: jnp.tanh(x @ W) + 1), X, 96),
        (looped, X, 7 * 96),
        (jax.vmap(looped), jnp.zeros((2, 3, 4)), 2 * 7 * 96),
        (lambda x: jax.lax.cond(x[0, 0] > 0, looped, lambda x: x, x), X, 7 * 96),
        (lambda x: jax.lax.fori_loop(0, 5, lambda _, x: x @ W, x), X, 5 * 96),
        (jax.grad(lambda x: jnp.sum(x @ W)), X, 96 + 96),
        (convolved, jnp.zeros((1, 2, 8, 8)), 2 * (5 * 4 * 4) * (2 * 3 * 3)),
        # Backward as dear as forward, whatever the stride.
        (jax.grad(lambda x: jnp.sum(convolved(x))), jnp.zeros((1, 2, 8, 8)), 2 * 2 * 80 * 18),
    ],
)
def test_by_hand(function, x, expected):
    assert count_flops(function, x) == expected


def test_a_loop_of_unknown_length_is_refused():
    with pytest.raises(ValueError, match="while loop"):
        count_flops(lambda x: jax.lax.while_loop(lambda x: x[0, 0] < 1, lambda x: x @ W, x), X)

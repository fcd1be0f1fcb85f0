"""Convolutions whose gradient is our own: the same numbers as XLA's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worldmodels.convolution import AXES, convolve


@pytest.mark.parametrize(("stride", "size", "pad"), [(1, 3, 1), (2, 3, 1), (1, 1, 0)])
def test_gradients_are_those_of_xla(stride, size, pad):
    x = jax.random.normal(jax.random.key(0), (2, 7, 6, 3))
    kernel = jax.random.normal(jax.random.key(1), (size, size, 3, 4))
    settings = (stride, stride), ((pad, pad), (pad, pad))
    theirs = lambda x, k: jax.lax.conv_general_dilated(x, k, *settings, dimension_numbers=AXES)
    loss = lambda f: lambda x, k: jnp.sum(jnp.sin(f(x, k)))
    ours = lambda x, k: convolve(x, k, *settings)
    np.testing.assert_array_equal(ours(x, kernel), theirs(x, kernel))
    for mine, known in zip(
        jax.grad(loss(ours), (0, 1))(x, kernel),
        jax.grad(loss(theirs), (0, 1))(x, kernel),
        strict=True,
    ):
        np.testing.assert_allclose(mine, known, rtol=1e-4, atol=1e-5)

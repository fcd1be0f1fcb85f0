"""Gradient steps one after the other: the same in one program as in many."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worldmodels.loops import avoids_loops, repeated


@pytest.mark.parametrize("convolves", [False, True])
def test_steps_follow_each_other_by_number(convolves):
    """x -> 2 x + given[i] from 1: 2 + 5, 14 - 1, 26 + 2; the metric is what a step began with."""
    step = lambda x, i, given: (2 * x + given[i], {"began": x})
    given = jnp.array([5.0, -1.0, 2.0])
    end, told = repeated(step, 3, convolves=convolves)(jnp.float32(1), given)
    assert float(end) == 28
    assert float(told["began"]) == pytest.approx((1 + 7 + 13) / 3)


def test_gradients_of_convolutions_stay_out_of_loops_on_a_cpu():
    assert avoids_loops(True) == (jax.default_backend() == "cpu")
    assert not avoids_loops(False)


def test_a_convolution_learns_the_same_in_either_way():
    x = jax.random.normal(jax.random.key(0), (4, 6, 6, 2))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 2, 2)) / 4
    axes = ("NHWC", "HWIO", "NHWC")
    conv = lambda k: jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=axes)
    loss_of = lambda k: jnp.mean(jnp.square(conv(k) - x))

    def step(kernel, _):
        loss, gradient = jax.value_and_grad(loss_of)(kernel)
        return kernel - 0.1 * gradient, loss

    one, alone = (repeated(step, 5, convolves=c)(kernel) for c in (False, True))
    np.testing.assert_allclose(one[0], alone[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(one[1], alone[1], rtol=1e-5)
    assert float(alone[1]) < float(loss_of(kernel))

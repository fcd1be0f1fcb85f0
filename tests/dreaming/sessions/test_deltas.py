"""Deltas: exact, on their own base alone, and taken back by leaving them out."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreaming.errors import CheckpointError
from dreaming.sessions.deltas import (
    AllWeights,
    LowRank,
    Masked,
    add_products,
    apply,
    difference,
    named,
    sha_of,
)


def test_values_come_back_bit_by_bit(params, other):
    delta = difference(params, other)
    made = apply(params, delta)
    assert sha_of(made) == sha_of(other) == delta.result != sha_of(params)
    for name, x in named(other).items():
        np.testing.assert_array_equal(named(made)[name], x)
    assert 0.05 < delta.share < 0.15


def test_a_difference_of_floats_would_not_be_exact():
    a, b = np.float32(0.1), np.float32(1e8)
    assert a + (b - a) == b and b + (a - b) != a  # why values are stored
    base, new = {"w": jnp.array([b, -0.0])}, {"w": jnp.array([a, 0.0])}
    delta = difference(base, new)
    assert sha_of(apply(base, delta)) == delta.result  # the sign of zero is a bit too
    assert delta.share == 1


def test_no_change_is_an_empty_delta(params):
    delta = difference(params, params)
    assert delta.arrays == {} and delta.share == 0 and delta.base == delta.result


def test_a_delta_for_other_weights_is_refused(params, other):
    delta = difference(params, other)
    with pytest.raises(CheckpointError, match="belongs on the weights .* these are"):
        apply(other, delta)
    name = next(name for name in delta.arrays if name.endswith("value"))
    damaged = delta.arrays | {name: delta.arrays[name] + 1}
    with pytest.raises(CheckpointError, match="damaged"):
        apply(params, dataclasses.replace(delta, arrays=damaged))


def test_a_mask_leaves_the_rest_as_it_was(params):
    random = np.random.default_rng(0)
    importance = jax.tree.map(lambda x: random.random(x.shape).astype(np.float32), params)
    form = Masked(0.1)
    state, mask = form.start(params, importance)
    count = sum(x.size for x in jax.tree.leaves(params))
    allowed = sum(int(np.sum(x)) for x in jax.tree.leaves(mask))
    assert allowed == pytest.approx(0.1 * count, abs=1)
    mask = jax.device_get(mask)
    gradient = form.allowed(jax.tree.map(np.ones_like, params), mask)
    new = jax.tree.map(lambda x, g: np.asarray(x) - np.float32(0.1) * g, state, gradient)
    delta = form.delta(new, mask, params)
    assert delta.share == pytest.approx(0.1, abs=0.01) and not mask["r_scale"].any()
    # The most important ones: the least of them is above the greatest of the rest.
    flat = lambda tree: np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])
    chosen, score = flat(mask) > 0, flat(importance | {"r_scale": np.float32(-1)})
    assert score[chosen].min() > score[~chosen].max()


def test_low_rank_changes_by_products_and_comes_back_exactly(params):
    form = LowRank(2)
    state, frozen = form.start(params)
    for name, x in named(form.weights(state, frozen, params)).items():
        np.testing.assert_array_equal(x, named(params)[name])  # at first nothing is added
    random = np.random.default_rng(0)
    state = jax.tree.map(lambda x: random.normal(size=x.shape).astype(np.float32), state)
    delta = form.delta(state, frozen, params)
    made = apply(params, delta)
    assert delta.kind == "low_rank" and sha_of(made) == delta.result
    name = next(iter(state))
    change = named(made)[name] - named(params)[name]
    assert np.linalg.matrix_rank(change, tol=1e-3) == 2
    close = named(form.weights(state, frozen, params))[name]
    np.testing.assert_allclose(named(made)[name], close, atol=1e-5)


def test_products_are_added_in_one_order():
    random = np.random.default_rng(0)
    w, u, v = (random.normal(size=s).astype(np.float32) for s in ((3, 4), (3, 2), (2, 4)))
    by_hand = (w + np.outer(u[:, 0], v[0])) + np.outer(u[:, 1], v[1])
    np.testing.assert_array_equal(add_products(w, u, v), by_hand)


def test_all_weights_may_change_but_units(params):
    form = AllWeights()
    _, free = form.start(params)
    gradient = form.allowed(jax.tree.map(np.ones_like, params), jax.device_get(free))
    assert gradient["r_scale"] == 0 and gradient["pi"][0]["w"].all()

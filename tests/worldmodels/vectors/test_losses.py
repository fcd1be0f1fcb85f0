"""Each term of the loss against its equation; no gradient where there must be none."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worldmodels.config import FitConfig, LossWeights
from worldmodels.loops import scale_gradient
from worldmodels.vectors.losses import (
    chance_terms,
    consistency_loss,
    decode_loss,
    disturbed,
    model_loss,
    outcome_terms,
    value_targets,
)

CONFIG = FitConfig(unroll_steps=2, td_steps=1, discount=0.9)


TERMS = {f"fit/{name}_loss" for name in vars(LossWeights())}


@functools.partial(jax.jit, static_argnums=1)
def loss_and_gradient(params, model, batch):
    """Loss, its terms and the gradient of the networks."""
    loss = lambda net: model_loss(
        {"net": net, "scale": params["scale"]}, params, model, batch, CONFIG, jax.random.key(0)
    )
    (loss, terms), gradient = jax.value_and_grad(loss, has_aux=True)(params["net"])
    return loss, terms, gradient


def largest(tree):
    """The largest absolute number in a tree."""
    return max(float(jnp.abs(x).max()) for x in jax.tree.leaves(tree))


def assert_same_bits(got, expected):
    """Equal trees, bit for bit."""
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(x, y)


def test_scale_gradient_changes_nothing_but_the_gradient():
    x = jnp.array([1.0, -2.0])
    np.testing.assert_allclose(scale_gradient(x, 0.5), x)
    gradient = jax.grad(lambda x: jnp.sum(scale_gradient(x, 0.5) ** 2))(x)
    np.testing.assert_allclose(gradient, 0.5 * 2 * x)


def test_consistency_is_one_minus_the_cosine(tiny):
    model, params = tiny()
    z, z_real = jax.random.normal(jax.random.key(0), (2, 5, 8))
    ours = model.apply(params, "predict_projection", model.apply(params, "project", z))
    theirs = model.apply(params, "project", z_real)
    length = lambda x: np.linalg.norm(x, axis=-1)
    cosine = np.sum(np.asarray(ours) * np.asarray(theirs), -1) / (length(ours) * length(theirs))
    np.testing.assert_allclose(consistency_loss(model, params, z, z_real), 1 - cosine, rtol=1e-4)


def test_no_gradient_reaches_the_encoder_through_the_target_of_consistency(tiny):
    model, params = tiny()
    z, z_real = jax.random.normal(jax.random.key(0), (2, 5, 8))
    loss = lambda z, z_real: jnp.sum(consistency_loss(model, params, z, z_real))
    ours, target = jax.grad(loss, argnums=(0, 1))(z, z_real)
    assert largest(ours) > 1e-3 and largest(target) == 0
    # The projector learns from our branch alone: with the target frozen its gradient is the same.
    gradient = lambda frozen: jax.grad(
        lambda net: jnp.sum(frozen({"net": net, "scale": {}}, z)), allow_int=True
    )(params["net"])
    theirs = model.apply(params, "project", z_real)

    def with_constant_target(params, z):
        ours = model.apply(params, "predict_projection", model.apply(params, "project", z))
        length = jnp.linalg.norm(ours, axis=-1) * jnp.linalg.norm(theirs, axis=-1)
        return 1 - jnp.sum(ours * theirs, -1) / length

    got = gradient(lambda params, z: consistency_loss(model, params, z, z_real))
    for x, y in zip(*map(jax.tree.leaves, (got, gradient(with_constant_target))), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-4)


def test_decode_loss_by_hand(tiny):
    model, params = tiny()
    scale = {"o_mean": jnp.array([1.0, 0.0]), "o_std": jnp.array([2.0, 1.0])}
    scale |= {"o_step": jnp.array([0.5, 1.0])}
    out, o = jnp.array([[0.0, 0.5]]), jnp.array([[2.0, 3.0]])  # o is [0.5, 3] in deviations
    # Errors in steps: (0 - 0.5) * 2 / 0.5 = -2 -> 1.5; (0.5 - 3) * 1 / 1 = -2.5 -> 2.0.
    np.testing.assert_allclose(decode_loss(model, out, o, scale), [(1.5 + 2.0) / 2])
    model, _ = tiny("discrete")
    loss = decode_loss(model, jnp.log(jnp.array([[0.2, 0.5, 0.3]])), jnp.eye(3)[1:2], {})
    np.testing.assert_allclose(loss, [-np.log(0.5)], rtol=1e-6)


def test_value_targets_know_ends(tiny, windows):
    model, params = tiny()
    batch = windows(model)
    # Row 0 terminates at step 1; the others go on.
    batch = batch.replace(
        terminated=batch.terminated.at[0, 1].set(True),
        is_absorbing=batch.is_absorbing.at[0, 2:].set(True),
        is_real_step=batch.is_real_step.at[0, 2:].set(False),
    )
    got = np.asarray(jax.jit(lambda batch: value_targets(model, params, batch, CONFIG))(batch))
    z = model.encode(params, batch.o, batch.a_past, batch.valid)
    v = jax.nn.softmax(model.apply(params, "value", jnp.stack([z, z])))
    v, r = np.asarray(v @ params["scale"]["value_support"]), np.asarray(batch.r)
    assert np.abs(v[0] - v[1]).max() > 0.1  # each member bootstraps from its own value
    np.testing.assert_allclose(got[:, 0, 0], r[0, 0] + 0.9 * v[:, 0, 1], rtol=1e-4)
    np.testing.assert_allclose(got[:, 0, 1], r[0, 1], rtol=1e-4)
    np.testing.assert_array_equal(got[:, 0, 2], 0)
    np.testing.assert_allclose(got[:, 2, 1], r[2, 1] + 0.9 * v[:, 2, 2], rtol=1e-4)


def cut(batch, steps, terminated):
    """All rows of `batch` end after `steps` steps."""
    batch = batch.replace(
        is_real_o=batch.is_real_o.at[:, steps + 1 :].set(False),
        is_real_step=batch.is_real_step.at[:, steps:].set(False),
    )
    if not terminated:
        return batch
    return batch.replace(
        terminated=batch.terminated.at[:, steps - 1].set(True),
        is_absorbing=batch.is_absorbing.at[:, steps:].set(True),
        pi=batch.pi.at[:, steps:].set(0.0),
    )


@pytest.mark.parametrize("terminated", [True, False])
def test_what_stands_behind_an_end_changes_neither_loss_nor_gradient(tiny, windows, terminated):
    model, params = tiny(codes=2)
    batch = cut(windows(model), 1, terminated)
    other = batch.replace(
        o=batch.o.at[:, 2:].add(3.0),
        r=batch.r.at[:, 1:].add(5.0),
        pi=batch.pi.at[:, 2:].set(1 - batch.pi[:, 2:]) if not terminated else batch.pi,
        legal=batch.legal.at[:, 2:].set(False),
    )
    first = loss_and_gradient(params, model, batch)
    assert_same_bits(loss_and_gradient(params, model, other), first)
    # The change is seen by a window that goes on: the test can fail.
    whole = windows(model)
    seen = loss_and_gradient(params, model, whole.replace(o=other.o))[0]
    assert abs(seen - loss_and_gradient(params, model, whole)[0]) > 1e-3


def test_absorbing_rows_earn_nothing_whatever_is_done(tiny, windows):
    """After an end the reward and value heads are taught 0; the other terms are silent."""
    model, params = tiny(codes=2)
    batch = cut(windows(model), 1, terminated=True)
    other = batch.replace(a=batch.a.at[:, 1].set(1 - batch.a[:, 1]))  # after the end
    _, terms, _ = loss_and_gradient(params, model, batch)
    _, others, _ = loss_and_gradient(params, model, other)
    changed = {name for name in terms if terms[name] != others[name]}
    assert changed == {"fit/reward_loss", "fit/value_loss"}


def test_a_truncation_is_never_learned_as_an_end(tiny, windows):
    """To say "it goes on" is right of every step before a cut, and wrong of one that ends."""
    model, params = tiny(codes=2)
    member = params["net"]["member"]
    bias = {"kernel": member["goes_on"]["kernel"] * 0, "bias": member["goes_on"]["bias"] * 0 + 20}
    sure = {"net": params["net"] | {"member": member | {"goes_on": bias}}, "scale": params["scale"]}
    loss = lambda batch: loss_and_gradient(sure, model, batch)[1]["fit/continuation_loss"]
    assert loss(windows(model)) < 1e-6
    assert loss(cut(windows(model), 1, terminated=False)) < 1e-6
    ended = loss(cut(windows(model), 1, terminated=True))
    np.testing.assert_allclose(ended, 20 / 2, rtol=1e-3)  # over K = 2 steps


def test_a_member_without_weight_learns_nothing(tiny, windows):
    model, params = tiny(codes=2)
    batch = windows(model)
    batch = batch.replace(member_weights=batch.member_weights.at[:, 1].set(0.0))
    gradient = loss_and_gradient(params, model, batch)[2]["member"]
    of = lambda k: largest(jax.tree.map(lambda x: x[k], gradient))
    assert of(0) > 1e-4 and of(1) == 0


def step_targets(model, rows=3):
    """Targets of one step, all of it known."""
    random = np.random.default_rng(0)
    names = ("r_known", "is_real_step", "o_known")
    known = {name: jnp.ones(rows) for name in names}
    return known | {
        "a": jnp.eye(2)[jnp.array([0, 1, 0])],
        "r": jnp.array([0.0, 1.0, 2.0]),
        "terminated": jnp.array([0.0, 0.0, 1.0]),
        "o": jnp.asarray(random.normal(size=(rows, 2)), jnp.float32),
        "z_real": jnp.asarray(random.normal(size=(rows, 8)), jnp.float32),
    }


@functools.partial(jax.jit, static_argnums=0)
def by_code(model, params, zs, step):
    """Terms [E, B] and latents of one step; log p(c) and the terms of each code, one by one."""
    hidden, logits = model.apply(params, "afterstate", zs, step["a"])
    each = []
    for code in jnp.eye(model.num_codes):
        rows = jnp.broadcast_to(code, (3, model.num_codes))
        each.append(outcome_terms(model, params, zs, hidden, rows, step, weights=LossWeights())[0])
    log_p = jnp.moveaxis(jax.nn.log_softmax(logits), -1, 0)
    return *chance_terms(model, params, zs, step, LossWeights()), log_p, each


def test_one_code_is_the_plain_sum(tiny):
    model, params = tiny()
    zs, step = jax.random.normal(jax.random.key(1), (2, 3, 8)), step_targets(model)
    got, latents, _, (expected,) = by_code(model, params, zs, step)
    assert got.keys() == expected.keys()
    for name in got:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-5)
    assert latents.shape == (2, 3, 8)


def test_members_share_the_responsibility_of_each_code(tiny):
    model, params = tiny(codes=3)
    zs, step = jax.random.normal(jax.random.key(1), (2, 3, 8)), step_targets(model)
    got, _, log_p, each = by_code(model, params, zs, step)
    cost = np.stack([sum(np.asarray(x) for x in terms.values()) for terms in each])
    score = np.exp((log_p - cost).mean(1))  # one opinion of all members
    share = (score / score.sum(0))[:, None]  # [C, 1, B]
    assert share.max() < 0.99  # the codes do compete
    for name in each[0]:
        expected = (share * np.stack([terms[name] for terms in each])).sum(0)
        np.testing.assert_allclose(got[name], expected, rtol=1e-4)
    np.testing.assert_allclose(got["chance"], -(share * log_p).sum(0), rtol=1e-4)


def test_jit_equals_no_jit(tiny, windows):
    model, params = tiny(codes=2)
    batch = windows(model)
    with jax.disable_jit():
        loss, terms = model_loss(params, params, model, batch, CONFIG, jax.random.key(0))
    fast_loss, fast_terms, _ = loss_and_gradient(params, model, batch)
    assert set(terms) == TERMS | {"fit/chance_loss"}
    np.testing.assert_allclose(loss, np.sum(list(terms.values())), rtol=1e-5)
    np.testing.assert_allclose(fast_loss, loss, rtol=1e-5)
    for name in terms:
        np.testing.assert_allclose(fast_terms[name], terms[name], rtol=1e-4)


def test_only_the_numbers_of_a_window_are_disturbed(tiny):
    model, params = tiny(window=3)
    model = dataclasses.replace(model, parts=(("box", 1), ("binary", 1)))
    step, key = jnp.array([0.5, 1.0]), jax.random.key(0)
    o = jnp.zeros((40, 5, 3, 2))
    seen = np.asarray(disturbed(model, o, step, 0.1, key))
    assert seen[..., 0].std() == pytest.approx(0.05, rel=0.1) and not seen[..., 1].any()
    for same in (dataclasses.replace(model, window=1), None):
        noise = 0.1 if same else 0.0
        np.testing.assert_array_equal(disturbed(same or model, o, step, noise, key), o)

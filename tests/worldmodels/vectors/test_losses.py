"""Each term of the loss against its equation; no gradient where there must be none."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.types import Context
from worldmodels.config import FitConfig, LossWeights
from worldmodels.loops import scale_gradient
from worldmodels.vectors.base import base_changes
from worldmodels.vectors.contacts import no_contacts
from worldmodels.vectors.losses import (
    chance_terms,
    disturbed,
    left_over,
    model_loss,
    observation_loss,
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


def test_observation_loss_by_hand(tiny):
    model, _ = tiny()
    told, left = jnp.array([[0.0, 0.5]]), jnp.array([[-2.0, 0.7]])
    loss = observation_loss(model, told, jnp.zeros((1, 2)), left)
    np.testing.assert_allclose(loss, [(1.5 + 0.02) / 2], rtol=1e-5)  # Huber, linear from 1 on
    model = dataclasses.replace(model, parts=(("categorical", 3), ("binary", 1)))
    told = jnp.log(jnp.array([[0.2, 0.5, 0.3, 3.0]]))  # a bit with probability 3 / 4
    o = jnp.array([[0.0, 1.0, 0.0, 1.0]])
    loss = observation_loss(model, told, o, jnp.zeros((1, 4)))
    np.testing.assert_allclose(loss, [-np.log(0.5) - np.log(0.75)], rtol=1e-5)


def test_what_the_base_leaves_over_is_the_real_change_less_its_mean(tiny, windows):
    model, params = tiny()
    scale, batch = params["scale"], windows(model)
    scale = scale | {"base": scale["base"] | {"noise": jnp.array([0.5, 2.0])}}
    got = left_over(model, scale, batch, slice(0, 2))
    for k in (0, 1):
        now, then = batch.o[:, k, -1], batch.o[:, k + 1, -1]
        x = (now - scale["o_mean"]) / scale["o_std"]
        expected = (then - now) / scale["o_step"] - base_changes(
            scale["base"], x, batch.a[:, k]
        ).mean(0)
        np.testing.assert_allclose(
            np.sinh(got[:, k]), expected / jnp.array([0.5, 2.0]), rtol=1e-3, atol=1e-4
        )


def test_nothing_is_left_over_at_a_wall_that_the_base_knows(tiny, windows):
    """The number that stops, and the one that is set; the others as without it."""
    model, params = tiny()
    scale, batch = params["scale"], windows(model)
    before = left_over(model, scale, batch, slice(0, 2))
    contacts = jax.tree.map(np.copy, no_contacts(2))
    wall = float(batch.o[0, 1, -1, 0])
    leads = wall - np.sinh(before[0, 0, 0]) * scale["o_step"][0]  # noise is 1
    side = int(leads > wall)
    contacts["bound"][side, 0], contacts["sets"][side, 0, 1] = wall, 1
    contacts["value"][side, 0, 1] = batch.o[0, 1, -1, 1]
    base = scale["base"] | {"contacts": contacts}
    after = left_over(model, scale | {"base": base}, batch, slice(0, 2))
    assert np.abs(before[0, 0]).min() > 1e-2
    np.testing.assert_allclose(after[0, 0], 0, atol=1e-5)
    assert (np.asarray(after) == np.asarray(before)).any()
    contacts["value"][side, 0, 1] += 1.0  # what really happened was something else
    other = left_over(model, scale | {"base": base}, batch, slice(0, 2))
    np.testing.assert_array_equal(other[0, 0], before[0, 0])


def test_ends_and_rewards_are_learned_of_the_states_that_dreams_reach(tiny, windows):
    """Not of the real ones, by which a crash is known only once it has happened."""
    model, params = tiny()
    batch = windows(model)
    crashed = batch.replace(o=batch.o.at[:, 2].add(10.0))  # the last row that a step leads to
    terms, others = (loss_and_gradient(params, model, each)[1] for each in (batch, crashed))
    assert abs(terms["fit/observation_loss"] - others["fit/observation_loss"]) > 0.1
    for name in ("fit/reward_loss", "fit/continuation_loss"):
        np.testing.assert_array_equal(terms[name], others[name])


def test_what_is_taught_of_an_end_is_what_dreams_say_of_it(tiny, windows):
    model, params = tiny()
    batch = windows(model)
    first = lambda x: x[:, 0]
    context = Context(
        first(batch.o), first(batch.a_past), jnp.zeros((3, 1), int), batch.valid[:, 0]
    )
    _, y = model.afterstate(params, model.root(params, context), first(batch.a))
    _, said = model.outcome(params, y, jnp.zeros(3, jnp.int32))
    one_step = dataclasses.replace(CONFIG, unroll_steps=1)
    for b in range(3):
        each = []
        for member in range(2):
            weights = jnp.eye(2)[jnp.full(3, member)] * 2
            only = batch.replace(weight=3 * jax.nn.one_hot(b, 3), member_weights=weights)
            _, terms = model_loss(params, params, model, only, one_step, jax.random.key(0))
            each.append(np.exp(-terms["fit/continuation_loss"]))  # none of the steps ends
        np.testing.assert_allclose(np.mean(each), said.continuation[b], rtol=1e-5)


def test_a_member_does_not_learn_changes_of_episodes_hidden_from_it(tiny, windows):
    """It still learns their rewards and ends, by its weight."""
    model, params = tiny()
    batch = windows(model)
    hidden = batch.replace(member_weights=batch.member_weights.at[:, 1].set(0.1))
    gradient = loss_and_gradient(params, model, hidden)[2]["member"]
    of = lambda name, k: largest(jax.tree.map(lambda x: x[k], gradient[name]))
    assert of("observation", 0) > 1e-4 and of("observation", 1) == 0
    assert of("reward", 1) > 1e-5


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
    np.testing.assert_allclose(ended, 20 / 2, rtol=1e-3)  # of K = 2 rows one is real


def test_a_member_without_weight_learns_nothing(tiny, windows):
    model, params = tiny(codes=2)
    batch = windows(model)
    batch = batch.replace(member_weights=batch.member_weights.at[:, 1].set(0.0))
    gradient = loss_and_gradient(params, model, batch)[2]["member"]
    of = lambda k: largest(jax.tree.map(lambda x: x[k], gradient))
    assert of(0) > 1e-4 and of(1) == 0


def test_windows_count_by_their_weight(tiny, windows):
    """A window that is drawn twice as often and weighs half is the window."""
    model, params = tiny()
    batch = windows(model)
    twice = lambda x: jnp.concatenate([x, x[:1]])
    often = jax.tree.map(twice, batch).replace(weight=jnp.array([0.5, 1, 1, 0.5]))
    loss, _, _ = loss_and_gradient(params, model, batch)
    again, _, _ = loss_and_gradient(params, model, often)
    np.testing.assert_allclose(again * 4, loss * 3, rtol=1e-5)


def step_targets(rows=3):
    """Targets of one step."""
    random = np.random.default_rng(0)
    normal = lambda: jnp.asarray(random.normal(size=(rows, 2)), jnp.float32)
    return {
        "shown": jnp.ones((2, rows)),
        "a": jnp.eye(2)[jnp.array([0, 1, 0])],
        "r": jnp.array([0.0, 1.0, 2.0]),
        "terminated": jnp.array([0.0, 0.0, 1.0]),
        "o": normal(),
        "left": normal(),
        "now": normal(),
        "change": normal(),
        "later": (normal()[:, None], jnp.zeros((rows, 0, 2)), jnp.ones((rows, 1), bool)),
    }


@functools.partial(jax.jit, static_argnums=0)
def by_code(model, params, zs, row):
    """Terms [E, B] of one step; log p(c) and the terms of each code, one by one."""
    hidden, logits = model.apply(params, "afterstate", zs, row["a"])
    each = []
    for code in jnp.eye(model.num_codes):
        rows = jnp.broadcast_to(code, (3, model.num_codes))
        each.append(outcome_terms(model, params, hidden, rows, row, weights=LossWeights()))
    log_p = jnp.moveaxis(jax.nn.log_softmax(logits), -1, 0)
    return chance_terms(model, params, zs, row, LossWeights()), log_p, each


def test_one_code_is_the_plain_sum(tiny):
    model, params = tiny()
    zs = jax.random.normal(jax.random.key(1), (2, 3, 10))
    got, _, (expected,) = by_code(model, params, zs, step_targets())
    assert got.keys() == expected.keys() == {"reward", "continuation", "observation"}
    for name in got:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-5)


def test_members_share_the_responsibility_of_each_code(tiny):
    model, params = tiny(codes=3)
    zs = jax.random.normal(jax.random.key(1), (2, 3, 10))
    got, log_p, each = by_code(model, params, zs, step_targets())
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

"""What the learned model promises behind the protocol: members, pessimism, grounding, ranges."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.types import Context, roll_context
from worldmodels.types import Windows
from worldmodels.vectors.base import base_changes
from worldmodels.vectors.contacts import no_contacts

ROWS = 3


@functools.partial(jax.jit, static_argnums=0)
def root(model, params, batch: Windows):
    """Root states of the first rows of windows."""
    elapsed = jnp.zeros(batch.valid[:, 0].shape, jnp.int32)
    return model.root(
        params, Context(batch.o[:, 0], batch.a_past[:, 0], elapsed, batch.valid[:, 0])
    )


@functools.partial(jax.jit, static_argnums=0)
def step(model, params, z, member=-1, code=0):
    """Log-probability of each code, and one step by the first action and `code`, by `member`."""
    z = z.replace(member=jnp.full(ROWS, member, jnp.int32))
    logits, y = model.afterstate(params, z, jnp.eye(2)[jnp.zeros(ROWS, int)])
    order = jnp.argsort(y.codes, axis=-1)  # the likeliest is offered first
    return jnp.take_along_axis(logits, order, -1), *model.outcome(params, y, order[:, code])


def everyone(model, params, batch):
    """Predictions of members 0 and 1, stacked, and that of member -1."""
    z = root(model, params, batch)
    each = [step(model, params, z, k) for k in (0, 1, -1)]
    stacked = jax.tree.map(lambda *x: np.stack(x), *each[:2])
    return stacked, each[2]


def with_scale(params, **normalisers):
    """`params` with other normalisers, each the same for all features."""
    scale = params["scale"]
    other = {name: jnp.full_like(scale[name], x) for name, x in normalisers.items()}
    return {"net": params["net"], "scale": scale | other}


def of_one_mind(params):
    """`params` whose members reach the same states; they still differ about rewards and ends."""
    base = params["scale"]["base"]
    base = base | {"weights": base["weights"].at[1].set(base["weights"][0])}
    scale = with_scale(params, share=0.0)["scale"] | {"base": base}
    return {"net": params["net"], "scale": scale}


def test_member_minus_one_is_the_mean_of_the_members(tiny, windows):
    model, params = tiny(codes=2)
    params = with_scale(params, o_low=-1e3, o_high=1e3)
    (logits, z, _), (mean_logits, mean_z, _) = everyone(model, params, windows(model))
    mean = lambda x: np.mean(x, axis=0)
    assert np.abs(z.o[0] - z.o[1]).max() > 0.1  # they do differ
    np.testing.assert_allclose(mean_z.o, mean(z.o), rtol=1e-5)
    (_, _, p), (_, _, mean_p) = everyone(model, of_one_mind(params), windows(model))
    assert np.abs(p.r[0] - p.r[1]).max() > 1e-2
    np.testing.assert_allclose(mean_p.r, mean(p.r), rtol=1e-5)
    np.testing.assert_allclose(mean_p.continuation, mean(p.continuation), rtol=1e-5)
    probabilities = mean(np.asarray(jax.nn.softmax(logits)))
    np.testing.assert_allclose(jax.nn.softmax(mean_logits), probabilities, rtol=1e-4)


def test_member_k_is_member_k(tiny, windows):
    """Rewriting member 1 changes what member 1 says, and nothing that member 0 says."""
    model, params = tiny(codes=2)
    batch = windows(model)
    other = {"member": jax.tree.map(lambda x: x.at[1].multiply(1.5), params["net"]["member"])}
    changed = {"net": params["net"] | other, "scale": params["scale"]}
    base = changed["scale"]["base"]
    base = base | {"weights": base["weights"].at[1].multiply(1.5)}
    changed["scale"] = changed["scale"] | {"base": base}
    before, after = (everyone(model, p, batch)[0] for p in (params, changed))
    said = lambda result, k: [result[0][k], result[1].o[k], result[2].r[k], result[2].v[k]]
    for x, y in zip(said(before, 0), said(after, 0), strict=True):
        np.testing.assert_array_equal(x, y)
    for x, y in zip(said(before, 1), said(after, 1), strict=True):
        assert np.abs(x - y).max() > 1e-3


def test_kappa_lowers_rewards_and_values_by_so_many_deviations(tiny, windows):
    model, params = tiny()
    params = of_one_mind(params)
    (_, _, p), (_, mean_z, plain) = everyone(model, params, windows(model))
    gloomy = dataclasses.replace(model, pessimism=0.5)
    (_, _, same), (_, z, got) = everyone(gloomy, params, windows(model))
    np.testing.assert_allclose(got.r, plain.r - 0.5 * np.std(p.r, axis=0), rtol=1e-4)
    v = [model.value(params, mean_z.replace(member=jnp.full(ROWS, k))) for k in (0, 1)]
    assert np.std(v, axis=0).min() > 1e-4
    np.testing.assert_allclose(plain.v, np.mean(v, axis=0), rtol=1e-5)
    np.testing.assert_allclose(got.v, plain.v - 0.5 * np.std(v, axis=0), rtol=1e-4)
    np.testing.assert_array_equal(z.latent, mean_z.latent)  # dreams go where they went
    np.testing.assert_array_equal(got.continuation, plain.continuation)
    np.testing.assert_array_equal(same.r, p.r)  # one member alone has nothing to doubt


def test_uncertainty_is_the_disagreement_of_the_members(tiny, windows):
    model, params = tiny()
    batch = windows(model)
    same = lambda tree: jax.tree.map(lambda x: x.at[1].set(x[0]), tree)
    base = params["scale"]["base"]
    base = base | {"weights": same(base["weights"])}
    inside = lambda p: with_scale(p, o_low=-1e3, o_high=1e3)
    net = params["net"] | {"member": same(params["net"]["member"])}
    alike = {"net": net, "scale": params["scale"] | {"base": base}}
    z = root(model, params, batch)
    assert step(model, inside(params), z)[2].uncertainty.min() > 0.01
    np.testing.assert_allclose(step(model, inside(alike), z)[2].uncertainty, 0, atol=1e-6)


def test_numbers_change_by_the_base_and_a_share_of_what_the_networks_add(tiny, windows):
    model, params = tiny()
    params = with_scale(params, o_low=-1e3, o_high=1e3)
    scale = params["scale"]
    z = root(model, params, windows(model))
    a = jnp.eye(2)[jnp.zeros(ROWS, int)]
    hidden, _ = model.apply(params, "afterstate", jnp.stack([z.latent] * 2), a)
    _, told = model.apply(params, "outcome", hidden, jnp.ones((ROWS, 1)))
    x = (z.o - scale["o_mean"]) / scale["o_std"]
    left = 0.5 * jnp.sinh(told)  # the share; noise is 1
    change = base_changes(scale["base"], x, a) + left
    for member in (0, 1):
        _, there, _ = step(model, params, z, member)
        expected = z.o + scale["o_step"] * change[member]
        np.testing.assert_allclose(there.o, expected, rtol=1e-4, atol=1e-5)


def test_dreams_stop_where_the_law_would_cross_a_bound(tiny, windows):
    """By what base and networks say together; of all members alike."""
    model, params = tiny()
    free = with_scale(params, o_low=-1e3, o_high=1e3)
    z = root(model, free, windows(model))
    places = [np.asarray(step(model, free, z, k)[1].o) for k in (0, 1)]
    bound = np.median(places)
    contacts = jax.tree.map(np.copy, no_contacts(2))
    contacts["bound"][1, 0], contacts["sets"][1, 0, 1], contacts["value"][1, 0, 1] = bound, 1, 7.0
    base = free["scale"]["base"] | {"contacts": contacts}
    walled = {"net": free["net"], "scale": free["scale"] | {"base": base}}
    hit = np.array([place[:, 0] > bound for place in places])
    assert hit.any() and not hit.all()
    for k, place in enumerate(places):
        expected = np.where(hit[k, :, None], [bound, 7.0], place)
        np.testing.assert_allclose(step(model, walled, z, k)[1].o, expected, rtol=1e-5)


def test_states_reached_lie_where_the_encoder_puts_what_they_show(tiny, windows):
    model, params = tiny()
    z = root(model, params, windows(model))
    for _ in range(3):
        _, z, _ = step(model, params, z)
    o = model.decode(params, z)[:, None]
    again = model.encode(params, o, jnp.zeros((ROWS, 0, 2)), jnp.ones((ROWS, 1), bool))
    np.testing.assert_allclose(again, z.latent, atol=1e-5)


def test_a_world_is_redrawn_by_the_reserve_alone(tiny, windows):
    model, params = tiny()
    other = model.redrawn(params)
    base = params["scale"]["base"]
    at, a = root(model, params, windows(model)), jnp.eye(2)[jnp.zeros(ROWS, int)]
    change = lambda params: model.afterstate(params, at, a)[1].change
    expected = jnp.moveaxis(base_changes(base | {"weights": base["reserve"]}, at.x, a), 0, 1)
    np.testing.assert_array_equal(change(other), expected)
    assert np.abs(change(other) - change(params)).max() > 1e-3
    same = other["scale"] | {"base": base}
    jax.tree.map(np.testing.assert_array_equal, other | {"scale": same}, params)
    assert tiny("discrete")[0].redrawn(tiny("discrete")[1]) is None


def test_what_is_dreamed_lies_near_the_logged_range(tiny, windows):
    model, params = tiny()
    scale = with_scale(params, o_step=1e3)["scale"]
    scale = scale | {"margin": jnp.array([[0.5, 1.0], [2.0, 4.0]])}
    params = params | {"scale": scale}
    _, z, p = step(model, params, root(model, params, windows(model)))
    below, above = scale["margin"] * scale["o_std"]
    low, high = scale["o_low"] - below, scale["o_high"] + above
    assert (z.o >= low - 1e-5).all() and (z.o <= high + 1e-5).all()
    assert (np.isclose(z.o, low) | np.isclose(z.o, high)).any()  # the bounds were reached
    outside = jnp.maximum(scale["o_low"] - z.o, z.o - scale["o_high"]) / scale["o_std"]
    assert (p.uncertainty > outside.max(-1) - 1e-4).all() and outside.max() > 0.9  # and it costs


def test_categories_and_bits_are_whole(tiny, windows):
    model, params = tiny()
    z = root(model, params, windows(model))
    model = dataclasses.replace(model, parts=(("binary", 1), ("box", 1)))
    _, z, _ = step(model, params, z)
    assert set(np.unique(z.o[:, 0])) <= {0, 1} and len(set(z.o[:, 1].tolist())) == ROWS


def test_everything_between_the_calls_has_its_rows_first(tiny, windows):
    """A search tree stores states and afterstates by row."""
    model, params = tiny(codes=2)
    z = root(model, params, windows(model))
    logits, y = model.afterstate(params, z, jnp.eye(2)[jnp.zeros(ROWS, int)])
    z, p = model.outcome(params, y, jnp.zeros(ROWS, jnp.int32))
    for x in jax.tree.leaves((z, y, logits, p)):
        assert x.shape[0] == ROWS and x.dtype in (jnp.float32, jnp.int32)


def test_the_likeliest_codes_are_offered_first(tiny, windows):
    """Of three observations two are offered; hidden codes are all offered."""
    for kind, codes in (("discrete", 2), ("box", 3)):
        model, params = tiny(kind, codes=codes)
        z = root(model, params, windows(model))
        logits, y = model.afterstate(params, z, jnp.eye(2)[jnp.zeros(ROWS, int)])
        assert y.codes.shape == logits.shape == (ROWS, codes)
        assert (np.diff(logits) <= 0).all() and (np.exp(logits).sum(-1) <= 1 + 1e-5).all()
        assert all(len(set(row)) == codes and max(row) < 3 for row in y.codes.tolist())


def test_a_code_that_names_an_observation_leads_to_it(tiny, windows):
    model, params = tiny("discrete", codes=2)
    z = root(model, params, windows(model))
    _, y = model.afterstate(params, z, jnp.eye(2)[jnp.zeros(ROWS, int)])
    for c in (0, 1):
        z_next, _ = model.outcome(params, y, jnp.full(ROWS, c, jnp.int32))
        named = jnp.eye(3)[y.codes[:, c]][:, None]
        there = model.encode(params, named, jnp.zeros((ROWS, 0, 2)), jnp.ones((ROWS, 1), bool))
        np.testing.assert_allclose(z_next.latent, there, rtol=1e-5)


def test_codes_lead_to_different_places_and_rows_keep_apart(tiny, windows):
    model, params = tiny(codes=2)
    z = root(model, params, windows(model))
    _, y = model.afterstate(params, z, jnp.eye(2)[jnp.array([0, 1, 0])])
    together = model.outcome(params, y, jnp.array([0, 1, 1]))
    apart = [model.outcome(params, y, jnp.full(ROWS, c)) for c in (0, 1)]
    assert np.abs(apart[0][0].o - apart[1][0].o).min(-1).max() > 1e-4
    for x, zero, one in zip(*map(jax.tree.leaves, (together, *apart)), strict=True):
        np.testing.assert_allclose(x, np.stack([zero[0], one[1], one[2]]), rtol=1e-6)


def test_a_root_does_not_see_what_was_before_the_episode(tiny, windows):
    model, params = tiny(window=3)
    batch = windows(model)
    valid = jnp.array([[True] * 3, [False, True, True], [False, False, True]])
    batch = batch.replace(valid=batch.valid.at[:, 0].set(valid))
    garbage = jnp.where(valid[:, None, :, None], batch.o, batch.o + 7)
    moved = batch.replace(o=garbage)
    z, same = (root(model, params, x).latent for x in (batch, moved))
    np.testing.assert_array_equal(z, same)
    seen = batch.replace(o=batch.o.at[:, 0, -1].add(1))
    assert (np.abs(root(model, params, seen).latent - z).max(-1) > 1e-3).all()


def test_heads_go_out_and_in_and_begin_at_nothing(tiny, windows):
    model, params = tiny()
    z = root(model, params, windows(model))
    back = model.with_heads(params, model.heads(params))
    for x, y in zip(jax.tree.leaves(back), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(x, y)
    fresh = model.with_heads(params, model.fresh_heads(params, jax.random.key(1)))
    v, pi_logits, _ = model.predict(fresh, z)
    assert np.abs(v).max() < 0.1 * model.value_span(params)
    np.testing.assert_allclose(jax.nn.softmax(pi_logits), 0.5, atol=0.05)


def test_what_the_log_avoided_is_uncertain(tiny, windows):
    model, params = tiny()
    z = root(model, params, windows(model))
    layers = model.fresh_heads(params, jax.random.key(1))["policy"]
    *_, last = sorted(layers)
    blank = jax.tree.map(jnp.zeros_like, layers[last])
    behaviour = layers | {last: blank | {"bias": jnp.array([0.0, 1.5])}}
    params = params | {"behaviour": behaviour}
    strange = dataclasses.replace(model, behaviour_penalty=2.0)

    def uncertainty(model, action):
        rows = jnp.zeros(z.latent.shape[0], int)
        _, y = model.afterstate(params, z, jnp.eye(2)[rows + action])
        return np.asarray(model.outcome(params, y, rows)[1].uncertainty)

    for action, nats in ((0, 1.5), (1, 0.0)):
        more = uncertainty(strange, action) - uncertainty(model, action)
        np.testing.assert_allclose(more, 2.0 * nats, atol=1e-5)
    kept = model.with_heads(params, model.heads(params))
    assert kept["behaviour"] is behaviour  # rehearsal does not forget it


# Windows


def context_of(model, rows=5, seed=0):
    """Random contexts [B] of the model's window, some of them young."""
    random = np.random.default_rng(seed)
    window = model.window
    o = random.normal(size=(rows, window, 2)).astype(np.float32)
    a = np.eye(2, dtype=np.float32)[random.integers(2, size=(rows, window - 1))]
    age = random.integers(1, window + 1, size=rows)
    valid = np.arange(window)[None] >= window - age[:, None]
    o, a = o * valid[..., None], a * valid[:, :-1, None]
    elapsed = np.maximum(age[:, None] - window + np.arange(window)[None], 0)
    return Context(*map(jnp.asarray, (o, a, elapsed.astype(np.int32), valid)))


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("window", [2, 4])
def test_a_state_reached_is_the_root_of_what_was_seen(tiny, window, recurrent):
    """Two steps on: the encoding of the window that holds the dreamed observations and actions."""
    model, params = tiny(window=window, recurrent=recurrent)
    context = context_of(model)
    z = model.root(params, context)
    np.testing.assert_array_equal(model.decode(params, z), context.o[:, -1])
    for k in range(2):
        a = jnp.eye(2)[jnp.arange(5) % 2 ^ k]
        _, y = model.afterstate(params, z, a)
        z, _ = model.outcome(params, y, jnp.zeros(5, jnp.int32))
        context = roll_context(context, a, model.decode(params, z))
        root = model.root(params, context)
        np.testing.assert_allclose(z.latent, root.latent, rtol=1e-5, atol=1e-5)
        jax.tree.map(np.testing.assert_array_equal, z.history, root.history)


@pytest.mark.parametrize("recurrent", [False, True])
def test_old_observations_count_and_those_before_the_start_do_not(tiny, recurrent):
    model, params = tiny(window=3, recurrent=recurrent)
    context = context_of(model)
    latent = lambda o, valid: model.encode(params, o, context.a, valid)
    moved = context.o.at[:, 0].add(1.0)
    all_seen = jnp.ones_like(context.valid)
    assert np.abs(latent(moved, all_seen) - latent(context.o, all_seen)).max() > 1e-3
    young = all_seen.at[:, 0].set(False)
    np.testing.assert_array_equal(latent(moved, young), latent(context.o, young))

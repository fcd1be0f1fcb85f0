"""The loss of the vector model: one term for each part of a dream.

L = value + policy + legality + reward + continuation + observation, per member, of every real step
of the windows, weighted by the member's bootstrap. With C > 1 codes: for discrete observations the
code is the next observation, learned by cross-entropy. Otherwise the terms that depend on the
outcome become -log sum_c p(c | y) exp(-terms_c), by expectation maximisation; all members share the
responsibilities, so a code means the same to each of them.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from worldmodels.config import FitConfig
from worldmodels.support import scalar_to_support, support_to_scalar
from worldmodels.targets import n_step_targets
from worldmodels.types import Windows
from worldmodels.vectors.base import base_changes, flat_rows, posterior_mean, shown_to
from worldmodels.vectors.contacts import stopped
from worldmodels.vectors.model import VectorModel

cross_entropy = optax.losses.softmax_cross_entropy


def value_targets(
    model: VectorModel, target_params, batch: Windows, config: FitConfig
) -> Float[Array, "E B K1"]:
    """Value targets per member: n-step returns on its slow values, or search values if known."""
    z = model.encode(target_params, batch.o, batch.a_past, batch.valid)
    zs = jnp.broadcast_to(z, (model.num_members, *z.shape))
    logits = model.apply(target_params, "value", zs)
    v = support_to_scalar(logits, target_params["scale"]["value_support"])
    return jax.vmap(lambda v: n_step_targets(v, batch, config))(v)


def observation_loss(model: VectorModel, told, o, left) -> Float[Array, "*B"]:
    """Loss of what the networks say of the next observation, summed over numbers, categories, bits.

    Numbers: mean Huber loss of what the base leaves over of their change (`left_over`). Categories
    and bits: cross-entropy, summed.
    """
    o, left = (jnp.broadcast_to(x, told.shape) for x in (o, left))
    total, numbers, at = jnp.zeros(told.shape[:-1]), [], 0
    for kind, size in model.parts:
        part = slice(at, at + size)
        at += size
        if kind == "categorical":
            total += cross_entropy(told[..., part], o[..., part])
        elif kind == "binary":
            bits = optax.losses.sigmoid_binary_cross_entropy(told[..., part], o[..., part])
            total += jnp.sum(bits, axis=-1)
        else:
            numbers.append(optax.losses.huber_loss(told[..., part], left[..., part]))
    if not numbers:
        return total
    return total + jnp.mean(jnp.concatenate(numbers, -1), axis=-1)


def base_change(scale: dict, batch: Windows, steps: slice) -> Float[Array, "B K O"]:
    """Change of the observation that the base expects on average, in `o_step`."""
    x = flat_rows(batch.o[:, steps], batch.a_past[:, steps], batch.valid[:, steps], scale)
    return base_changes(posterior_mean(scale["base"]), x, batch.a[:, steps])[0]


def left_over(model: VectorModel, scale: dict, batch: Windows, steps: slice):
    """Change of the observation [B, K, O] less what the base expects on average: arsinh of it in
    `noise`, so that the networks need not be exact to leave alone what the base knows to a
    thousandth, and can still say what a wall does."""
    if not model.has_base:
        return jnp.zeros(batch.o[:, steps, -1].shape)
    base, step, change = scale["base"], scale["o_step"], base_change(scale, batch, steps)
    now, after = batch.o[:, steps, -1], batch.o[:, 1:, -1][:, steps]
    leads = now + step * change
    ends = stopped(base["contacts"], leads)
    holds = ((ends == leads) | (ends == after)).all(-1, keepdims=True)  # it did stop there
    change = jnp.where(holds & (ends != leads), (ends - now) / step, change)
    return jnp.arcsinh(((after - now) / step - change) / base["noise"])


def reached(model: VectorModel, params, row, told) -> Float[Array, "B D"]:
    """Latents of the states that a dream reaches by the mean of the members, with the share of the
    networks as it is now.

    What a step earns and whether it ends is learned of these. Of the real ones it would be read off
    what no dream shows, such as the speed that a crash leaves, and dreams would never crash.
    """
    o, a, valid = row["later"]
    if not model.codes_are_observed:
        change = row["change"]
        if change is not None:
            change = jnp.broadcast_to(change, told.shape)
        mean = jnp.full(len(o), -1)
        told = jax.lax.stop_gradient(told)
        newest, *_ = model.shown(params, mean, row["now"], change, told)
        o = jnp.concatenate([o[:, :-1], newest[:, None]], axis=1)
    return model.encode(params, o, a, valid)


def outcome_terms(model: VectorModel, params, hidden, code, row, *, weights):
    """Terms [E, B] of one step, given chance codes as one-hots [B, C]."""
    x, told = model.apply(params, "outcome", hidden, code)
    z_next = reached(model, params, row, told)
    r_logits, goes_on = model.apply(params, "consequences", x, z_next)
    r_target = scalar_to_support(row["r"], params["scale"]["reward_support"])
    terms = {
        "reward": weights.reward
        * cross_entropy(r_logits, jnp.broadcast_to(r_target, r_logits.shape)),
        "continuation": weights.continuation
        * optax.losses.sigmoid_binary_cross_entropy(goes_on, 1.0 - row["terminated"]),
    }
    if not model.codes_are_observed:  # else the code is the next observation
        loss = observation_loss(model, told, row["o"], row["left"])
        terms["observation"] = weights.observation * row["shown"] * loss
    return terms


def chance_terms(model: VectorModel, params, zs, row, weights):
    """Terms [E, B] of one step, over its chance codes."""
    hidden, code_logits = model.apply(params, "afterstate", zs, row["a"])
    outcome = lambda code: outcome_terms(model, params, hidden, code, row, weights=weights)
    if model.codes_are_observed:
        code = jnp.broadcast_to(row["o"], code_logits.shape)
        return outcome(row["o"]) | {"chance": cross_entropy(code_logits, code)}
    rows, count = zs.shape[1], model.num_codes
    codes = jnp.broadcast_to(jnp.eye(count)[:, None], (count, rows, count))
    terms = jax.vmap(outcome)(codes)  # [C, E, B]
    if count == 1:
        return jax.tree.map(lambda x: x[0], terms)
    log_p = jnp.moveaxis(jax.nn.log_softmax(code_logits), -1, 0)  # [C, E, B]
    cost = functools.reduce(jnp.add, terms.values())
    share = responsibilities(log_p, cost)[:, None]
    terms = {name: jnp.sum(share * term, axis=0) for name, term in terms.items()}
    return terms | {"chance": -jnp.sum(share * log_p, axis=0)}


def responsibilities(
    log_p: Float[Array, "C E B"], cost: Float[Array, "C E B"]
) -> Float[Array, "C B"]:
    """Posterior p(c | outcome) by the members' mean log likelihood, shared by all members."""
    return jax.lax.stop_gradient(jax.nn.softmax(jnp.mean(log_p - cost, axis=1), axis=0))


def state_terms(model: VectorModel, params, zs, row, weights):
    """Terms [E, B] of a state: value, policy, legality."""
    v_target = scalar_to_support(row["v"], params["scale"]["value_support"])  # [E, B, S]
    pi = jnp.broadcast_to(row["pi"], (*zs.shape[:2], row["pi"].shape[-1]))
    policy = row["has_pi"] * model.head.imitation(pi, model.apply(params, "pi_logits", zs))
    legal_logits = model.apply(params, "legal_logits", zs)
    legality = optax.losses.sigmoid_binary_cross_entropy(
        legal_logits, jnp.broadcast_to(row["legal"].astype(jnp.float32), legal_logits.shape)
    ).mean(-1)
    return {
        "value": weights.value * cross_entropy(model.apply(params, "value", zs), v_target),
        "policy": weights.policy * policy,
        "legality": weights.legality * legality,
    }


def disturbed(model: VectorModel, o, step, noise: float, key) -> Float[Array, "B L W O"]:
    """Windows with Gaussian noise on their numbers, of `noise` typical one-step changes.

    In a dream a window shows dreamed observations, whose errors look like wrong velocities; a model
    fitted on noisy windows relies less on them (Sanchez-Gonzalez et al., 2020). With W = 1 there is
    no velocity, and nothing is changed.
    """
    if model.window == 1 or noise == 0:
        return o
    kinds, sizes = zip(*model.parts, strict=True)
    numbers = np.repeat([kind == "box" for kind in kinds], sizes)
    return o + noise * step * numbers * jax.random.normal(key, o.shape)


def model_loss(
    params, target_params, model: VectorModel, batch: Windows, config: FitConfig, key: jax.Array
):
    """(loss, terms) of windows [B], each of whose first K = `config.unroll_steps` rows is a root
    with one step; `key` draws the noise of `disturbed`."""
    K, scale = config.unroll_steps, params["scale"]
    steps, rows = slice(0, K), slice(0, K + 1)
    seen = disturbed(model, batch.o[:, rows], scale["o_step"], config.noise, key)
    z = model.encode(params, seen[:, steps], batch.a_past[:, steps], batch.valid[:, steps])
    flat = lambda x: x[:, steps].reshape(x.shape[0] * K, *x.shape[2:])
    to_members = lambda x: jnp.repeat(x, K, axis=0).T  # [B, E] -> [E, B * K]
    row = {
        "a": flat(batch.a),
        "r": flat(batch.r),
        "terminated": flat(batch.terminated) * 1.0,
        "o": flat(batch.o[:, 1:, -1]),
        "now": flat(batch.o[:, :, -1]),
        "later": tuple(flat(x[:, 1:]) for x in (seen, batch.a_past, batch.valid)),
        "change": flat(base_change(scale, batch, steps)) if model.has_base else None,
        "left": flat(left_over(model, scale, batch, steps)),
        "shown": to_members(shown_to(batch.member_weights)),
        "v": jax.vmap(flat)(value_targets(model, target_params, batch, config)),
        "pi": flat(batch.pi),
        "has_pi": flat(batch.has_pi) * 1.0,
        "legal": flat(batch.legal),
    }
    zs = flat(z)
    zs = jnp.broadcast_to(zs, (model.num_members, *zs.shape))
    terms = state_terms(model, params, zs, row, config.weights)
    terms |= chance_terms(model, params, zs, row, config.weights)
    weight = to_members(batch.member_weights * batch.weight[:, None]) * flat(batch.is_real_step)
    total = {name: jnp.mean(weight * term) for name, term in terms.items()}
    loss = functools.reduce(jnp.add, total.values())
    return loss, {f"fit/{name}_loss": term for name, term in total.items()}

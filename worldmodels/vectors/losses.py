"""The loss of the vector model: one term for each part of a dream.

L = sum_k [value + policy + legality + decode] + sum_{k>=1} [reward + continuation + consistency],
per member, weighted by its bootstrap, unrolled K steps from the encoded root. With C > 1 codes:
for discrete observations the code is the next observation, learned by cross-entropy. Otherwise
the terms that depend on the outcome become -log sum_c p(c | y) exp(-terms_c), by expectation
maximisation; all members share the responsibilities, so a code means the same to each of them.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from worldmodels.config import FitConfig
from worldmodels.loops import scale_gradient
from worldmodels.support import scalar_to_support, support_to_scalar
from worldmodels.targets import n_step_targets
from worldmodels.types import Windows
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


def decode_loss(model: VectorModel, out, o, scale) -> Float[Array, "*B"]:
    """Loss of decoded observations `out` against `o`, summed over numbers, categories and bits.

    Numbers: mean Huber loss in units of the typical one-step change, so that slow coordinates count
    as much as fast ones. Categories and bits: cross-entropy, summed.
    """
    o = jnp.broadcast_to(o, out.shape)
    total, numbers, at = jnp.zeros(out.shape[:-1]), [], 0
    for kind, size in model.parts:
        part = slice(at, at + size)
        at += size
        if kind == "categorical":
            total += cross_entropy(out[..., part], o[..., part])
        elif kind == "binary":
            bits = optax.losses.sigmoid_binary_cross_entropy(out[..., part], o[..., part])
            total += jnp.sum(bits, axis=-1)
        else:
            mean, std, step = (scale[name][part] for name in ("o_mean", "o_std", "o_step"))
            numbers.append((out[..., part] - (o[..., part] - mean) / std) * std / step)
    if not numbers:
        return total
    return total + jnp.mean(optax.losses.huber_loss(jnp.concatenate(numbers, -1)), axis=-1)


def consistency_loss(model: VectorModel, params, z, z_real) -> Float[Array, "*B"]:
    """1 - cos(predictor(projector(z)), stop_gradient(projector(z_real))) (SimSiam)."""
    ours = model.apply(params, "predict_projection", model.apply(params, "project", z))
    theirs = jax.lax.stop_gradient(model.apply(params, "project", z_real))
    return 1 - optax.losses.cosine_similarity(
        ours, jnp.broadcast_to(theirs, ours.shape), epsilon=1e-6
    )


def outcome_terms(model: VectorModel, params, zs, hidden, code, step, *, weights):
    """(terms [E, B], next latents [E, B, D]) of one step, given chance codes as one-hots [B, C]."""
    scale = params["scale"]
    latents, r_logits, goes_on = model.apply(params, "outcome", zs, hidden, code)
    r_target = scalar_to_support(step["r"], scale["reward_support"])
    terms = {
        "reward": weights.reward
        * step["r_known"]
        * cross_entropy(r_logits, jnp.broadcast_to(r_target, r_logits.shape)),
        "continuation": weights.continuation
        * step["is_real_step"]
        * optax.losses.sigmoid_binary_cross_entropy(goes_on, 1.0 - step["terminated"]),
        "consistency": weights.consistency
        * step["o_known"]
        * consistency_loss(model, params, latents, step["z_real"]),
        "decode": weights.decode
        * step["o_known"]
        * decode_loss(model, model.apply(params, "decode", latents), step["o"], scale),
    }
    return terms, latents


def chance_terms(model: VectorModel, params, zs, step, weights):
    """(terms [E, B], next latents [E, B, D]) of one step, over its chance codes."""
    hidden, code_logits = model.apply(params, "afterstate", zs, step["a"])
    outcome = lambda code: outcome_terms(model, params, zs, hidden, code, step, weights=weights)
    if model.codes_are_observed:
        terms, _ = outcome(step["o"])
        terms = {name: terms[name] for name in ("reward", "continuation")}
        code = jnp.broadcast_to(step["o"], code_logits.shape)
        terms["chance"] = step["o_known"] * cross_entropy(code_logits, code)
        return terms, jnp.broadcast_to(step["z_real"], zs.shape)  # the code is the next observation
    rows, count = zs.shape[1], model.num_codes
    codes = jnp.broadcast_to(jnp.eye(count)[:, None], (count, rows, count))
    terms, latents = jax.vmap(outcome)(codes)  # [C, E, B], [C, E, B, D]
    if count == 1:
        return jax.tree.map(lambda x: x[0], terms), latents[0]
    log_p = jnp.moveaxis(jax.nn.log_softmax(code_logits), -1, 0)  # [C, E, B]
    cost = functools.reduce(jnp.add, terms.values())
    share = responsibilities(log_p, cost)[:, None]
    terms = {name: jnp.sum(share * term, axis=0) for name, term in terms.items()}
    terms["chance"] = -step["o_known"] * jnp.sum(share * log_p, axis=0)
    best = jax.nn.one_hot(jnp.argmax(share, axis=0), count, axis=0)[..., None]
    return terms, jnp.sum(best * latents, axis=0)


def responsibilities(
    log_p: Float[Array, "C E B"], cost: Float[Array, "C E B"]
) -> Float[Array, "C B"]:
    """Posterior p(c | outcome) by the members' mean log likelihood, shared by all members."""
    return jax.lax.stop_gradient(jax.nn.softmax(jnp.mean(log_p - cost, axis=1), axis=0))


def state_terms(model: VectorModel, params, zs, row, weights):
    """Terms [E, B] of a state: value, policy, legality."""
    v_target = scalar_to_support(row["v"], params["scale"]["value_support"])  # [E, B, S]
    value = cross_entropy(model.apply(params, "value", zs), v_target)
    pi = jnp.broadcast_to(row["pi"], (*zs.shape[:2], row["pi"].shape[-1]))
    policy = row["has_pi"] * model.head.imitation(pi, model.apply(params, "pi_logits", zs))
    legal_logits = model.apply(params, "legal_logits", zs)
    legality = optax.losses.sigmoid_binary_cross_entropy(
        legal_logits, jnp.broadcast_to(row["legal"].astype(jnp.float32), legal_logits.shape)
    ).mean(-1)
    return {
        "value": weights.value * row["v_known"] * value,
        "policy": weights.policy * policy,
        "legality": weights.legality * row["o_known"] * legality,
    }


def disturbed(model: VectorModel, o, step, noise: float, key) -> Float[Array, "B L W O"]:
    """Windows with Gaussian noise on their numbers, of `noise` typical one-step changes.

    In a dream a window shows decoded observations, whose errors look like wrong velocities; a model
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
    """(loss, terms) of windows [B], unrolled K = `config.unroll_steps` steps; `key` draws the noise
    of `disturbed`."""
    K, weights = config.unroll_steps, config.weights
    rows, steps = slice(0, K + 1), slice(0, K)
    seen = disturbed(model, batch.o[:, rows], params["scale"]["o_step"], config.noise, key)
    z_real = model.encode(params, seen, batch.a_past[:, rows], batch.valid[:, rows])
    known = batch.is_real_o | batch.is_absorbing
    time_first = lambda x: jnp.moveaxis(x, 1, 0)
    row = {
        "v": jnp.moveaxis(value_targets(model, target_params, batch, config), 2, 0)[: K + 1],
        "v_known": time_first(known[:, rows].astype(jnp.float32)),
        "o_known": time_first(batch.is_real_o[:, rows].astype(jnp.float32)),
        "pi": time_first(batch.pi[:, rows]),
        "has_pi": time_first((batch.has_pi & batch.is_real_o)[:, rows].astype(jnp.float32)),
        "legal": time_first(batch.legal[:, rows]),
    }
    step = {
        "a": time_first(batch.a[:, steps]),
        "r": time_first(jnp.where(batch.is_real_step, batch.r, 0.0)[:, steps]),
        "r_known": time_first((batch.is_real_step | batch.is_absorbing[:, :-1])[:, steps] * 1.0),
        "is_real_step": time_first(batch.is_real_step[:, steps] * 1.0),
        "terminated": time_first(batch.terminated[:, steps] * 1.0),
        "o": time_first(batch.o[:, 1 : K + 1, -1]),
        "o_known": row["o_known"][1:],
        "z_real": time_first(z_real[:, 1:]),
    }
    zs = jnp.broadcast_to(z_real[:, 0], (model.num_members, *z_real[:, 0].shape))
    shown = model.apply(params, "decode", z_real)
    root_decode = decode_loss(model, shown, batch.o[:, rows, -1], params["scale"])
    root_decode = jnp.mean(root_decode * batch.is_real_o[:, rows], axis=1)
    at = lambda tree, k: jax.tree.map(lambda x: x[k], tree)
    first = state_terms(model, params, zs, at(row, 0), weights)
    first["decode"] = weights.decode * root_decode

    def unroll(zs, k):
        row_k, step_k = k
        terms, zs = chance_terms(model, params, zs, step_k, weights)
        terms |= state_terms(model, params, zs, row_k, weights)
        return scale_gradient(zs, config.gradient_scale), terms

    later_rows = jax.tree.map(lambda x: x[1:], row)
    _, later = jax.lax.scan(unroll, zs, (later_rows, step))
    per_member = batch.member_weights.T  # [E, B]
    total = {name: jnp.mean(per_member * jnp.sum(term, axis=0)) / K for name, term in later.items()}
    for name, term in first.items():
        total[name] = total.get(name, 0.0) + jnp.mean(per_member * term)
    loss = functools.reduce(jnp.add, total.values())
    return loss, {f"fit/{name}_loss": term for name, term in total.items()}

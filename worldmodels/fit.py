"""Fitting a world model: measure the log's scales, then many compiled steps of one loss."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from worldmodels.config import FitConfig, ModelConfig
from worldmodels.contexts import observation_scale
from worldmodels.loops import repeated
from worldmodels.losses import model_loss
from worldmodels.model import WorldModel
from worldmodels.support import reward_support, value_bounds, value_support
from worldmodels.types import TrainState, Windows


def measure_scale(o, change, rewards, terminated, config: ModelConfig, discount: float, is_number):
    """The normalisers of a log: every number the model needs to speak in real units.

    `o` [N, O] all observation features, `change` [M, O] one-step changes; `rewards` [T] of each
    episode, and whether it `terminated`; `is_number` bool [O]: all others keep their 0 and 1.
    `v_range`, the width of the range that values usually take, is the unit of temperatures.
    """
    usual = value_bounds(rewards, terminated, discount, window=round(1 / (1 - discount)))
    possible = value_bounds(rewards, terminated, discount)
    r_support = reward_support(np.concatenate(rewards), config.reward_bins)
    scale = observation_scale(o, change, is_number) | {
        "o_low": o.min(0),
        "o_high": o.max(0),
        "margin": config.clip_margin,
        "z_low": np.full(config.latent, -1e3),
        "z_high": np.full(config.latent, 1e3),
        "z_std": np.ones(config.latent),
        "reward_support": r_support,
        "r_range": r_support[-1] - r_support[0],
        "v_range": usual[1] - usual[0],
        "value_support": value_support(usual, possible, config.value_bins),
    }
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), scale)


CHUNK = 4096  # observations encoded per call


def measure_latents(model: WorldModel, params, o, a, valid, margin: float):
    """`params` with the range and spread of the log's latents, so that dreams stay inside it."""
    encode = jax.jit(model.encode)
    at = lambda first: np.minimum(np.arange(first, first + CHUNK), len(o) - 1)  # one shape
    z = [encode(params, o[at(k)], a[at(k)], valid[at(k)]) for k in range(0, len(o), CHUNK)]
    z = np.concatenate(z)[: len(o)]
    std = z.std(0) + 1e-6
    measured = {"z_low": z.min(0) - margin * std, "z_high": z.max(0) + margin * std, "z_std": std}
    return {"net": params["net"], "scale": params["scale"] | jax.tree.map(jnp.asarray, measured)}


def make_optimiser(config: FitConfig) -> optax.GradientTransformation:
    """AdamW with global clipping and a cosine decay to 5 %; no decay on biases."""
    rate = optax.cosine_decay_schedule(config.learning_rate, config.steps, alpha=0.05)
    is_kernel = lambda path, _: path[-1].key == "kernel"  # stacked biases of members have two axes
    is_matrix = lambda params: jax.tree_util.tree_map_with_path(is_kernel, params)
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(rate, weight_decay=config.weight_decay, mask=is_matrix),
    )


def init_fit(model: Any, config: FitConfig, scale: dict, key: jax.Array) -> TrainState:
    """A fit of any model at step 0. `key` is a typed key."""
    init_key, key = jax.random.split(key)
    params = model.init(init_key, scale)
    return TrainState(
        params=params,
        target_params=params,
        opt_state=make_optimiser(config).init(params["net"]),
        fit_steps=jnp.int32(0),
        key=jax.random.key_data(key),
    )


def make_fit(
    model: Any,
    config: FitConfig,
    sample: Callable[..., Windows],
    chunk: int = 100,
    loss_of_model: Callable = model_loss,
):
    """`fit(train_state, replay) -> (train_state, metrics)`: `chunk` steps in one program.

    `sample(replay, key, batch, length)` draws windows of `length` rows. `loss_of_model` has the
    arguments of `model_loss`. Metrics are means over the chunk.
    """
    optimiser = make_optimiser(config)
    length = config.unroll_steps + config.td_steps + 1

    def fit_step(state: TrainState, _, replay):
        key, sample_key = jax.random.split(jax.random.wrap_key_data(state.key))
        batch = sample(replay, sample_key, config.batch, length)
        noise_key = jax.random.fold_in(sample_key, 1)
        loss_of = lambda net: loss_of_model(
            {"net": net, "scale": state.params["scale"]},
            state.target_params,
            model,
            batch,
            config,
            noise_key,
        )
        (loss, metrics), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params["net"])
        updates, opt_state = optimiser.update(grads, state.opt_state, state.params["net"])
        net = optax.apply_updates(state.params["net"], updates)
        slow = optax.incremental_update(net, state.target_params["net"], 1 - config.target_decay)
        scale = state.params["scale"]
        state = TrainState(
            params={"net": net, "scale": scale},
            target_params={"net": slow, "scale": scale},
            opt_state=opt_state,
            fit_steps=state.fit_steps + 1,
            key=jax.random.key_data(key),
        )
        return state, metrics | {"fit/loss": loss, "fit/gradient_norm": optax.tree.norm(grads)}

    return repeated(fit_step, chunk, convolves=model.convolves)

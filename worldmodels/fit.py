"""Fitting a world model: many compiled steps of its loss."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from worldmodels.config import FitConfig
from worldmodels.loops import repeated
from worldmodels.protocol import Trainable
from worldmodels.types import TrainState, Windows


def fit_optimiser(config: FitConfig) -> optax.GradientTransformation:
    """AdamW with global clipping and a cosine decay to 5 %; no decay on biases."""
    rate = optax.cosine_decay_schedule(config.learning_rate, config.steps, alpha=0.05)
    # By name: stacked biases of members have two axes as well.
    is_kernel = lambda path, _: getattr(path[-1], "key", None) == "kernel"
    is_matrix = lambda params: jax.tree_util.tree_map_with_path(is_kernel, params)
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(rate, weight_decay=config.weight_decay, mask=is_matrix),
    )


def init_fit(model: Trainable, config: FitConfig, scale: dict, key: jax.Array) -> TrainState:
    """A fit of any model at step 0. `key` is a typed key."""
    init_key, key = jax.random.split(key)
    params = model.init(init_key, scale)
    return TrainState(
        params=params,
        target_params=params,
        opt_state=() if model.is_closed_form else fit_optimiser(config).init(params["net"]),
        fit_steps=jnp.int32(0),
        key=jax.random.key_data(key),
    )


def make_fit(model: Trainable, config: FitConfig, sample: Callable[..., Windows], chunk: int = 100):
    """`fit(train_state, replay) -> (train_state, metrics)`: `chunk` steps in one program.

    `sample(replay, key, batch, length)` draws windows of `length` rows. Metrics are means over the
    chunk. Raises `ValueError` for a discount that is still to be found.
    """
    if not 0 < config.discount < 1:
        raise ValueError(f"fit.discount must lie between 0 and 1, got {config.discount}")
    optimiser = fit_optimiser(config)
    length = config.unroll_steps + config.td_steps + 1

    def fit_step(state: TrainState, _, replay):
        keys = jax.random.split(jax.random.wrap_key_data(state.key), 3)
        key, sample_key, noise_key = keys
        batch = sample(replay, sample_key, config.batch, length)
        loss_of = lambda net: model.loss(
            {"net": net, "scale": state.params["scale"]},
            state.target_params,
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

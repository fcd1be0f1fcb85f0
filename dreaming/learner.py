"""Learning from the ring: draw, cut, look targets up, augment, follow the gradient, set priorities.

Targets are look-ups: whatever a search had to say was said at the last refresh.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from dreaming.agent_config import AgentConfig, OptimiserConfig
from dreaming.errors import LossError
from dreaming.ring import age, cut, draw, stacks
from dreaming.types import AgentState, Cut, RingState
from worldmodels.efficientzero import ImageModel
from worldmodels.image_losses import image_loss
from worldmodels.targets import (
    n_step_values,
    n_step_values_each,
    shortened_steps,
    trusts_n_step,
)
from worldmodels.types import ImageWindows


def value_targets(
    ring: RingState, rows: Cut, real_steps: Int[Array, ""], config: AgentConfig
) -> Float[Array, "B K1"]:
    """What the values of rows 0..K are fitted to, from what the target params said of rows 0..K+n.

    "search": the value of the search. "td": n-step returns, n by the age of row 0. "mixed": n-step
    returns early and for the newest data, else the value of the search.
    """
    target, share = config.target, lambda x: max(1, round(x * config.real_steps))
    v = jnp.where(rows.is_absorbing, 0.0, ring.v[rows.slots])
    steps = rows.r, rows.terminated, rows.is_real_step, v, config.discount
    old = age(ring, rows.slots[:, 0])
    if target.kind == "td":
        n = shortened_steps(old, target.td_steps, share(target.shorten))
        return n_step_values_each(*steps, n, target.td_steps)
    n_step = n_step_values(*steps, target.td_steps)
    v_search = jnp.where(rows.is_absorbing, 0.0, ring.v_search[rows.slots])[:, : n_step.shape[1]]
    if target.kind == "search":
        return v_search
    trusts = trusts_n_step(old, real_steps, share(target.td_until), share(target.td_newest))
    return jnp.where(trusts[:, None], n_step, v_search)


def windows(
    ring: RingState,
    slots: Int[Array, " B"],
    weight: Float[Array, " B"],
    real_steps: Int[Array, ""],
    key: jax.Array,
    config: AgentConfig,
) -> ImageWindows:
    """The windows that begin at `slots`, with their targets; `key` draws actions past an end."""
    K = config.unroll_steps
    rows = cut(ring, slots, config.envs, K + config.target.td_steps + 1)
    at, num_actions = rows.slots[:, : K + 1], ring.pi_search.shape[-1]
    random = jax.random.randint(key, (len(slots), K), 0, num_actions)
    a = jnp.where(rows.is_real_step[:, :K], ring.a[at[:, :K]], random)
    return ImageWindows(
        o=stacks(ring, at, config.envs, config.window),
        a=jax.nn.one_hot(a, num_actions),
        r=rows.r[:, :K],
        is_real_step=rows.is_real_step[:, :K],
        is_real_o=rows.is_real_o[:, : K + 1],
        is_absorbing=rows.is_absorbing[:, : K + 1],
        v=value_targets(ring, rows, real_steps, config),
        pi=ring.pi_search[at],
        weight=weight,
    )


def make_optimiser(config: OptimiserConfig, updates: int) -> optax.GradientTransformation:
    """Global clipping, then AdamW or SGD with momentum; decay of kernels alone."""
    rate = optax.warmup_cosine_decay_schedule(
        0.0,
        config.learning_rate,
        max(1, round(config.warm_up * updates)),
        max(2, updates),
        config.last * config.learning_rate,
    )
    is_kernel = lambda path, _: path[-1].key in ("kernel", "planes")
    kernels = lambda params: jax.tree_util.tree_map_with_path(is_kernel, params)
    if config.name == "adamw":
        step = optax.adamw(rate, weight_decay=config.weight_decay, mask=kernels)
    else:
        decay = optax.add_decayed_weights(config.weight_decay, mask=kernels)
        step = optax.chain(decay, optax.sgd(rate, momentum=0.9))
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), step)


def make_update(
    model: ImageModel, config: AgentConfig, spread: Callable
) -> Callable[[AgentState, jax.Array], tuple[AgentState, dict[str, jax.Array]]]:
    """`update(state, key) -> (state, metrics)`: one step of the optimiser.

    `spread` says how a batch is shared out over devices. An update whose loss or gradient is not
    finite changes nothing but the counter.
    """
    optimiser = make_optimiser(config.optimiser, config.updates)
    replay = config.replay

    def update(state: AgentState, key):
        draw_key, action_key, augment_key = jax.random.split(key, 3)
        done = jnp.minimum(state.updates / config.updates, 1.0)
        beta = replay.beta_first + done * (replay.beta_last - replay.beta_first)
        limits = {"envs": config.envs, "window": config.window}
        slots, weight = draw(
            state.ring, draw_key, replay.batch, alpha=replay.alpha, beta=beta, **limits
        )
        batch = windows(state.ring, slots, weight, state.real_steps, action_key, config)
        loss_of = lambda params: image_loss(
            params,
            model,
            spread(batch),
            config.weights,
            gradient_scale=config.gradient_scale,
            key=augment_key if config.augment else None,
        )
        (loss, (metrics, priorities)), grads = jax.value_and_grad(loss_of, has_aux=True)(
            state.params
        )
        norm = optax.tree.norm(grads)
        changes, opt_state = optimiser.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, changes)
        priority = state.ring.priority.at[slots].set(priorities)
        is_finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        keep = lambda new, old: jax.tree.map(lambda x, y: jnp.where(is_finite, x, y), new, old)
        state = state.replace(
            params=keep(params, state.params),
            opt_state=keep(opt_state, state.opt_state),
            ring=state.ring.replace(priority=keep(priority, state.ring.priority)),
            updates=state.updates + 1,
        )
        return state, metrics | {
            "learn/loss": loss,
            "learn/gradient_norm": norm,
            "learn/rewarded": jnp.mean(jnp.any(batch.r != 0, axis=1)),
            "learn/v_target": jnp.mean(batch.v[:, 0]),
        }

    return update


def check_losses(metrics: dict[str, jax.Array], updates: int) -> None:
    """Raise `LossError` naming what of a loss is not finite, by update `updates`.

    The update that met it, and those after it in the call, have left params, optimiser and
    priorities as they were: the state is the last good one.
    """
    bad = [name.removeprefix("learn/") for name, x in metrics.items() if not jnp.isfinite(x)]
    bad = [name for name in bad if name != "loss"]
    if bad:
        raise LossError(
            f"{', '.join(bad)} not finite by update {updates}; nothing was learned from it: lower "
            "optimiser.learning_rate, or look for rewards or frames that are not numbers"
        )

"""Learning from the ring: draw, cut, look targets up, augment, follow the gradient, set priorities.

Policy and value targets are look-ups in the searches of the last refresh; none is run here.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from dreaming.efficientzero.config import AgentConfig, OptimiserConfig
from dreaming.efficientzero.imagine import imagined_windows
from dreaming.efficientzero.resets import annealed
from dreaming.efficientzero.ring import age, cut, draw, followed, stacks
from dreaming.efficientzero.types import AgentState, Cut, RingState
from worldmodels.frames.losses import frame_loss, imagined_loss
from worldmodels.frames.model import FrameModel
from worldmodels.frames.types import FrameWindows
from worldmodels.targets import (
    n_step_values,
    n_step_values_each,
    shortened_steps,
    trusts_n_step,
)


def value_targets(state: AgentState, rows: Cut, config: AgentConfig) -> Float[Array, "B K1"]:
    """Value targets of rows 0..K, from the values that the last refresh gave rows 0..K+n.

    "search": the value of the search. "td": n-step returns, n by the age of row 0. "mixed": n-step
    returns early and for the newest data, else the value of the search.
    """
    ring, target = state.ring, config.target
    share = lambda x: max(1, round(x * config.real_steps))
    n, discount = annealed(config, state.updates)
    v = jnp.where(rows.is_absorbing, 0.0, ring.v[rows.slots])
    steps = rows.r, rows.terminated, rows.is_real_step, v, discount
    old = age(ring, rows.slots[:, 0])
    if target.kind == "td":
        n = shortened_steps(old, n, share(target.shorten))
        return n_step_values_each(*steps, n, most=config.most_td_steps)
    if isinstance(n, int):
        n_step = n_step_values(*steps, n)
    else:
        n_step = n_step_values_each(*steps, jnp.full_like(old, n), most=config.most_td_steps)
    v_search = jnp.where(rows.is_absorbing, 0.0, ring.v_search[rows.slots])[:, : n_step.shape[1]]
    if target.kind == "search":
        return v_search
    trusts = trusts_n_step(old, state.real_steps, share(target.td_until), share(target.td_newest))
    return jnp.where(trusts[:, None], n_step, v_search)


def windows(
    state: AgentState,
    slots: Int[Array, " B"],
    weight: Float[Array, " B"],
    key: jax.Array,
    config: AgentConfig,
) -> FrameWindows:
    """The windows that begin at `slots`, with targets; `key` draws actions after episode ends.

    `slots` are runs of `config.replay.sequence` consecutive rows of one environment.
    """
    K, ring = config.unroll_steps, state.ring
    rows = cut(ring, slots, config.envs, K + config.most_td_steps + 1)
    at, num_actions = rows.slots[:, : K + 1], ring.pi_search.shape[-1]
    frames, shown = frames_at(ring, at, config)
    random = jax.random.randint(key, (len(slots), K), 0, num_actions)
    a = jnp.where(rows.is_real_step[:, :K], ring.a[at[:, :K]], random)
    return FrameWindows(
        o=frames,
        a=jax.nn.one_hot(a, num_actions),
        r=rows.r[:, :K],
        is_real_step=rows.is_real_step[:, :K],
        is_real_o=rows.is_real_o[:, : K + 1],
        is_absorbing=rows.is_absorbing[:, : K + 1],
        v=value_targets(state, rows, config),
        pi=ring.pi_search[at],
        weight=weight,
        shown=shown,
    )


def frames_at(ring: RingState, at: Int[Array, "B K1"], config: AgentConfig):
    """(stacks [G, Q, W, H, V, F], index in 0..Q-1 of each row's stack [B, K1]) of windows with rows
    at slots `at`. Without sharing the index is None, G = B and Q = K + 1."""
    T, envs = config.replay.sequence, config.envs
    if T == 1:
        return stacks(ring, at, envs, config.window), None
    first = at[::T, :1]
    slots = (first + jnp.arange(T + at.shape[1] - 1) * envs) % ring.a.size
    shown = (at - jnp.repeat(first, T, axis=0)) % ring.a.size // envs
    return stacks(ring, slots, envs, config.window), shown


def updated(
    priority: Float[Array, " N"], slots: Int[Array, " B"], found: Float[Array, " B"]
) -> Float[Array, " N"]:
    """`priority` with `found` at `slots`; 0 writes nothing, of duplicates the largest wins."""
    new = jnp.zeros_like(priority).at[slots].max(found)
    return jnp.where(new > 0, new, priority)


def agent_optimiser(config: OptimiserConfig, updates: int) -> optax.GradientTransformation:
    """Global clipping, then AdamW or SGD with momentum; decay of `config.decayed`."""
    rate = optax.warmup_cosine_decay_schedule(
        0.0,
        config.learning_rate,
        max(1, round(config.warm_up * updates)),
        max(2, updates),
        config.last * config.learning_rate,
    )
    decays = lambda path, _: decayed(config.decayed, [part.key for part in path])
    mask = lambda params: jax.tree_util.tree_map_with_path(decays, params)
    if config.name == "adamw":
        step = optax.adamw(rate, weight_decay=config.weight_decay, mask=mask)
    else:
        decay = optax.add_decayed_weights(config.weight_decay, mask=mask)
        step = optax.chain(decay, optax.sgd(rate, momentum=0.9))
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), step)


def decayed(which: str, names: list[str]) -> bool:
    """Whether the parameter at path `names` has weight decay. `which` is "kernels" (no norms, no
    biases), "encoder" (kernels of the encoder alone), "all" or "none"."""
    is_kernel = names[-1] == "kernel"
    chosen = {"kernels": is_kernel, "encoder": is_kernel and names[0] == "encoder"}
    return (chosen | {"all": True, "none": False})[which]


class Drawn(NamedTuple):
    """A batch to learn from."""

    slots: Int[Array, " B"]  # of the first rows of its windows
    batch: FrameWindows


def make_sample(config: AgentConfig) -> Callable[[AgentState, jax.Array, jax.Array], Drawn]:
    """`sample(state, draw_key, action_key)`: draw, cut, look targets up."""
    replay, limits = config.replay, {"envs": config.envs, "window": config.window}

    def sample(state: AgentState, draw_key, action_key) -> Drawn:
        done = jnp.minimum(state.updates / config.updates, 1.0)
        beta = replay.beta_first + done * (replay.beta_last - replay.beta_first)
        count = replay.batch // replay.sequence
        slots, weight = draw(state.ring, draw_key, count, alpha=replay.alpha, beta=beta, **limits)
        if replay.sequence > 1:
            slots, weight = followed(state.ring, slots, weight, replay.sequence, **limits)
        return Drawn(slots, windows(state, slots, weight, action_key, config))

    return sample


class Learned(NamedTuple):
    """Loss, gradients and new priorities of one batch."""

    loss: Float[Array, ""]
    metrics: dict[str, jax.Array]
    priorities: Float[Array, " B"]
    grads: Any  # as the params


def make_gradient(
    model: FrameModel, config: AgentConfig, spread: Callable
) -> Callable[[AgentState, FrameWindows, jax.Array, jax.Array], Learned]:
    """`gradient(state, batch, augment_key, imagine_key)`: augment, loss, its gradient.

    `spread` says how a batch is shared out over devices.
    """

    def gradient(state: AgentState, batch: FrameWindows, augment_key, imagine_key) -> Learned:
        def loss_of(params):
            loss, (metrics, priorities) = frame_loss(
                params,
                model,
                spread(batch),
                config.weights,
                gradient_scale=config.gradient_scale,
                hl_gauss=config.hl_gauss,
                key=augment_key if config.augment else None,
            )
            if config.imagine.weight > 0:
                imagined = imagined_windows(state, imagine_key, config)
                more, told = imagined_loss(params, model, imagined, config.weights, config.hl_gauss)
                loss, metrics = loss + config.imagine.weight * more, metrics | told
            return loss, (metrics, priorities)

        with_grads = jax.value_and_grad(loss_of, has_aux=True)
        (loss, (metrics, priorities)), grads = with_grads(state.params)
        return Learned(loss, metrics, priorities, grads)

    return gradient


def make_follow(config: AgentConfig) -> Callable[[AgentState, Any], tuple[Any, Any, jax.Array]]:
    """`follow(state, grads) -> (params, state of the optimiser, norm of the gradient)`."""
    optimiser = agent_optimiser(config.optimiser, config.updates)

    def follow(state: AgentState, grads):
        norm = optax.tree.norm(grads)
        changes, opt_state = optimiser.update(grads, state.opt_state, state.params)
        return optax.apply_updates(state.params, changes), opt_state, norm

    return follow


def store(state: AgentState, drawn: Drawn, priorities: Float[Array, " B"]) -> Float[Array, " N"]:
    """The ring's priorities, updated by a batch; windows of weight 0 change nothing."""
    found = jnp.where(drawn.batch.weight > 0, priorities, 0.0)
    return updated(state.ring.priority, drawn.slots, found)


def make_update(
    model: FrameModel, config: AgentConfig, spread: Callable
) -> Callable[[AgentState, jax.Array], tuple[AgentState, dict[str, jax.Array]]]:
    """`update(state, key) -> (state, metrics)`: one step of the optimiser.

    An update whose loss or gradient is not finite changes nothing but the counter.
    """
    sample, follow = make_sample(config), make_follow(config)
    gradient = make_gradient(model, config, spread)

    def update(state: AgentState, key):
        draw_key, action_key, augment_key, imagine_key = jax.random.split(key, 4)
        drawn = sample(state, draw_key, action_key)
        learned = gradient(state, drawn.batch, augment_key, imagine_key)
        params, opt_state, norm = follow(state, learned.grads)
        priority = store(state, drawn, learned.priorities)
        is_finite = jnp.isfinite(learned.loss) & jnp.isfinite(norm)
        keep = lambda new, old: jax.tree.map(lambda x, y: jnp.where(is_finite, x, y), new, old)
        state = state.replace(
            params=keep(params, state.params),
            opt_state=keep(opt_state, state.opt_state),
            ring=state.ring.replace(priority=keep(priority, state.ring.priority)),
            updates=state.updates + 1,
        )
        return state, learned.metrics | {
            "learn/loss": learned.loss,
            "learn/gradient_norm": norm,
            "learn/rewarded": jnp.mean(jnp.any(drawn.batch.r != 0, axis=1)),
            "learn/v_target": jnp.mean(drawn.batch.v[:, 0]),
        }

    return update

"""Rehearsal on top of reanalysis: searches at states that only the model has seen.

After each refresh, walks start at stored states and act by search in the model, with a search at
every state reached. Until the next refresh, the policy and value heads also learn from these
searches, at the latents that the current model reaches by the same actions.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Num, UInt32

from dreaming.devices import each_key, share_out
from dreaming.efficientzero.config import AgentConfig, ImagineConfig
from dreaming.efficientzero.ring import can_start, draw, stacks
from dreaming.efficientzero.search import make_teach
from dreaming.efficientzero.types import AgentState, Imagined
from worldmodels.frames.model import FrameModel
from worldmodels.frames.types import ImaginedWindows


def init_imagined(config: ImagineConfig, num_actions: int) -> Imagined | None:
    """Placeholder walks of weight 0, before the first refresh; None if imagining is off."""
    if config.weight == 0:
        return None
    walks = config.roots, config.steps
    return Imagined(
        slots=jnp.zeros(config.roots, jnp.int32),
        a=jnp.zeros(walks, jnp.int32),
        pi_search=jnp.zeros((*walks, num_actions)),
        v_search=jnp.zeros(walks),
        weight=jnp.zeros(walks),
    )


def make_imagine(
    model: FrameModel, config: AgentConfig, mesh: Mesh
) -> Callable[[AgentState, jax.Array], Imagined]:
    """`imagine(state, key) -> Imagined`: walks from stored states, in the model of
    `state.params`, shared out over the mesh."""
    rule, limits = config.imagine, {"envs": config.envs, "window": config.window}

    def imagine(state: AgentState, key: jax.Array) -> Imagined:
        draw_key, walk_key = jax.random.split(key)
        slots, is_one = draw(state.ring, draw_key, rule.roots, alpha=0.0, beta=0.0, **limits)
        frames, pi = stacks(state.ring, slots, **limits), state.ring.pi_search[slots]
        teach = make_teach(model, config, state.updates, gumbel_scale=1.0)
        says = lambda params, z, keys: teach(params, z, keys, config.value_span)
        part = lambda *inputs: walk(model, says, *inputs, steps=rule.steps)
        params = model.lowered(state.params)  # once, not in every step
        a, pi_search, v_search, reached = share_out(
            part, mesh, params, frames, pi, each_key(walk_key, slots)
        )
        return Imagined(slots, a, pi_search, v_search, is_one[:, None] * reached)

    return imagine


def walk(
    model: Any,
    teach: Callable,
    params: Any,
    frames: Num[Array, "M W H V F"],
    pi: Float[Array, "M A"],
    keys: UInt32[Array, "M 2"],
    *,
    steps: int,
):
    """(a [M, D], pi_search [M, D, A], v_search [M, D], probability [M, D] that the episode goes on)
    of D = `steps` steps from real frames: actions are drawn from `pi` at first, then from the
    pi_search of `teach(params, z, keys)`."""

    def step(carry, d):
        z, pi, reached = carry
        typed = jax.vmap(lambda key: jax.random.fold_in(jax.random.wrap_key_data(key), d))(keys)
        act_key, teach_key = jax.vmap(jax.random.split, out_axes=1)(typed)
        action = jax.vmap(jax.random.categorical)(act_key, jnp.log(pi))
        _, y = model.afterstate(params, z, jax.nn.one_hot(action, pi.shape[-1]))
        z, p = model.outcome(params, y, jnp.zeros_like(action))
        found, reached = teach(params, z, teach_key), reached * p.continuation
        seen = action, found.pi_search, found.v_search, reached
        return (z, found.pi_search, reached), seen

    start = model.begin(model.encode(params, frames)), pi, jnp.ones(len(pi))
    _, walked = jax.lax.scan(step, start, jnp.arange(steps))
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), walked)


def imagined_windows(state: AgentState, key: jax.Array, config: AgentConfig) -> ImaginedWindows:
    """`config.imagine.batch` drawn walks; weight 0 where the first frames were overwritten."""
    ring, found, envs, window = state.ring, state.imagined, config.envs, config.window
    picked = jax.random.choice(key, config.imagine.roots, (config.imagine.batch,), replace=False)
    at = jax.tree.map(lambda x: x[picked], found)
    is_stored = can_start(ring, envs, window) & (ring.version == state.version)
    return ImaginedWindows(
        o=stacks(ring, at.slots, envs, window),
        a=jax.nn.one_hot(at.a, at.pi_search.shape[-1]),
        v=at.v_search,
        pi=at.pi_search,
        weight=jnp.where(is_stored[at.slots][:, None], at.weight, 0.0),
    )

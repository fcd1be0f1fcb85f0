"""The online agent for frames: act by search, reanalyze all that is stored, learn from it.

`refresh` is one reanalysis: a search at every stored state, which renews all targets.

The host owns the environments and the clock; everything here is a function of arrays:

    agent = make_agent(config, frame, num_actions)
    state = agent.init(key)
    acted = agent.act(params, state.key, tick, stacks, updates)    # a copy of params, their updates
    state = agent.add(state, rows)                          # one tick of all environments
    state = agent.refresh(state)                            # every config.target.every updates
    state = agent.reset(state)                              # where `is_reset_due`
    state, metrics = agent.learn(state)                     # config.updates_per_call updates

`add`, `refresh`, `reset` and `learn` donate the state: what was passed in must not be used again.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from dreaming.devices import everywhere, spread
from dreaming.efficientzero.config import AgentConfig
from dreaming.efficientzero.imagine import init_imagined, make_imagine
from dreaming.efficientzero.learner import agent_optimiser, make_update
from dreaming.efficientzero.resets import reset
from dreaming.efficientzero.ring import add, filled, init_ring, stacks
from dreaming.efficientzero.search import agent_mesh, make_search, usual_devices
from dreaming.efficientzero.types import Acted, AgentState, Imagined, RingState, Tick
from dreaming.metrics import check_losses
from worldmodels.actions import make_head
from worldmodels.frames.model import FrameModel, compute_of
from worldmodels.loops import repeated

__all__ = ["Agent", "check_losses", "make_agent"]


@dataclass(frozen=True)
class Agent:
    """The compiled functions of one configuration."""

    model: FrameModel
    init: Callable[[jax.Array], AgentState]  # init(typed key)
    place: Callable[[Any], Any]  # a loaded state (or params) onto the devices
    act: Callable[..., Acted]  # act(params, key, tick, stacks [E, W, H, V, F], updates); explores
    act_greedily: Callable[..., Acted]  # the same without Gumbel noise: for evaluation
    add: Callable[..., AgentState]  # add(state, rows)
    refresh: Callable[[AgentState], AgentState]  # reanalyze: a search at every stored state
    reset: Callable[[AgentState], AgentState]  # shrink and perturb the params; targets stay
    learn: Callable[[AgentState], tuple[AgentState, dict[str, jax.Array]]]
    learn_late: Callable[[AgentState], tuple[AgentState, dict[str, jax.Array]]]  # late K


def make_agent(
    config: AgentConfig,
    frame: tuple[int, int, int],
    num_actions: int,
    devices: Sequence[Any] | None = None,
) -> Agent:
    """The agent for frames (H, V, F) and `num_actions` actions. Searches and batches are shared out
    over `devices`, by default `usual_devices`.

    `act` draws from (key, tick) alone, so a tick is the same whenever it is run. `learn` needs at
    least `config.replay.batch` rows to draw from; its metrics are means over the call, all named
    learn/*; pass them to `check_losses`.
    """
    mesh = agent_mesh(devices or usual_devices(config), config)
    model = make_agent_model(config, frame, num_actions)
    explore = make_search(model, config, mesh, gumbel_scale=1.0)
    whole = everywhere(mesh)
    init = lambda key: init_agent(model, config, key)
    share = lambda batch: jax.lax.with_sharding_constraint(batch, spread(mesh))
    learn = make_learn(model, config, share, whole)
    is_longer = config.late_unroll_steps not in (0, config.unroll_steps)
    late = replace(config, unroll_steps=config.late_unroll_steps) if is_longer else None
    return Agent(
        model=model,
        init=jax.jit(init, out_shardings=whole),
        place=lambda state: jax.device_put(state, whole),
        act=make_act(explore),
        act_greedily=make_act(make_search(model, config, mesh, gumbel_scale=0.0)),
        add=make_add(whole),
        refresh=make_refresh(explore, make_imagine(model, config, mesh), config, whole),
        reset=make_reset(model, config, whole),
        learn=learn,
        learn_late=make_learn(model, late, share, whole) if late else learn,
    )


def make_agent_model(
    config: AgentConfig, frame: tuple[int, int, int], num_actions: int
) -> FrameModel:
    """The model of a configuration."""
    return FrameModel(
        make_head((num_actions,), num_actions),
        frame,
        window=config.window,
        size=config.size,
        prefix_horizon=config.prefix_horizon,
        bins=config.bins,
        compute=compute_of(config.compute),
    )


def init_agent(model: FrameModel, config: AgentConfig, key: jax.Array) -> AgentState:
    """The initial state: fresh params and an empty ring. `key` is a typed key."""
    params = model.init(stream(jax.random.key_data(key), "init", 0))
    zero = jnp.int32(0)
    return AgentState(
        params=params,
        opt_state=agent_optimiser(config.optimiser, config.updates).init(params),
        ring=init_ring(config.replay.capacity, config.envs, model.frame, model.head.size),
        key=jax.random.key_data(key),
        updates=zero,
        real_steps=zero,
        version=zero,
        searches=zero,
        imagined=init_imagined(config.imagine, model.head.size),
    )


def stream(key, name: str, count) -> jax.Array:
    """The typed key for draw number `count` of the purpose `name`."""
    named = jax.random.fold_in(jax.random.wrap_key_data(key), zlib.crc32(name.encode()))
    return jax.random.fold_in(named, count)


def make_act(search: Callable[..., Acted]) -> Callable[..., Acted]:
    """`act(params, key, tick, stacks, updates)`: a search at the frames of E environments."""

    @jax.jit
    def act(params, key, tick, frames, updates):
        return search(params, frames, stream(key, "act", tick), jnp.arange(len(frames)), updates)

    return act


def add_rows(state: AgentState, rows: Tick) -> AgentState:
    """`state` after one more tick of all environments."""
    ring, real_steps = _added(state.ring, state.real_steps, rows)
    return state.replace(ring=ring, real_steps=real_steps)


def _added(ring: RingState, real_steps: jax.Array, rows: Tick) -> tuple[RingState, jax.Array]:
    began = ring.added % ring.a.size
    ring = add(ring, rows)
    stepped = jax.lax.dynamic_slice_in_dim(ring.has_step, began, len(rows.a))
    return ring, real_steps + jnp.sum(stepped)


def make_add(whole: NamedSharding) -> Callable[[AgentState, Tick], AgentState]:
    """`add(state, rows)`: `add_rows`, of which only what changes goes through the program: handing
    over the hundreds of arrays of the params and the optimiser takes longer than the work."""
    added = jax.jit(_added, donate_argnums=(0, 1), out_shardings=whole)

    def add_to(state: AgentState, rows: Tick) -> AgentState:
        ring, real_steps = added(state.ring, state.real_steps, rows)
        return state.replace(ring=ring, real_steps=real_steps)

    return add_to


def make_refresh(
    search: Callable[..., Acted],
    imagine: Callable[[AgentState, jax.Array], Imagined],
    config: AgentConfig,
    whole: NamedSharding,
) -> Callable[[AgentState], AgentState]:
    """`refresh(state)` reanalyzes: one search at every stored state with the current params and, if
    `config.imagine.weight` > 0, at imagined states.

    Frames are not augmented and no gradient flows. Until the next refresh all targets are look-ups
    in these results, so no copy of the params (target network) is kept.
    """
    size, rule = config.refresh_batch, config.imagine

    def refresh(state: AgentState) -> AgentState:
        ring, version = state.ring, state.version + 1
        key, count = stream(state.key, "refresh", version), filled(ring)

        def search_some(i, cached):
            slots = jnp.minimum(i * size + jnp.arange(size), count - 1)
            frames = stacks(ring, slots, config.envs, config.window)
            found = search(state.params, frames, key, slots, state.updates)
            new = found.pi_search, found.v_search, found.v
            return jax.tree.map(lambda x, y: x.at[slots].set(y), cached, new)

        cached = ring.pi_search, ring.v_search, ring.v
        pi_search, v_search, v = jax.lax.fori_loop(0, -(-count // size), search_some, cached)
        is_filled = jnp.arange(ring.a.size) < count
        ring = ring.replace(
            pi_search=pi_search,
            v_search=v_search,
            v=v,
            version=jnp.where(is_filled, version, ring.version),
        )
        state = state.replace(ring=ring, version=version, searches=state.searches + count)
        if rule.weight == 0:
            return state
        return state.replace(
            imagined=imagine(state, stream(state.key, "imagine", version)),
            searches=state.searches + rule.roots * rule.steps,
        )

    return jax.jit(refresh, donate_argnums=0, out_shardings=whole)


def make_reset(
    model: FrameModel, config: AgentConfig, whole: NamedSharding
) -> Callable[[AgentState], AgentState]:
    """`reset(state)`: `resets.reset` with fresh params, drawn by `state.key` and `updates`."""

    def reset_agent(state: AgentState) -> AgentState:
        fresh = model.init(stream(state.key, "reset", state.updates))
        return reset(state, fresh, config.reset.keep)

    return jax.jit(reset_agent, donate_argnums=0, out_shardings=whole)


def make_learn(
    model: FrameModel, config: AgentConfig, spread: Callable, whole: NamedSharding
) -> Callable[[AgentState], tuple[AgentState, dict[str, jax.Array]]]:
    """`learn(state)`: `config.updates_per_call` updates; one program, except on a CPU."""
    update = make_update(model, config, spread)
    step = lambda state, _: update(state, stream(state.key, "learn", state.updates))
    compiled = {"donate_argnums": 0, "out_shardings": whole}
    return repeated(step, config.updates_per_call, convolves=True, **compiled)

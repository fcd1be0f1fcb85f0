"""The workload of `part=images` of the benchmark: an online agent for frames, by default of a size
that suits the device."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from dreaming.efficientzero.agent import Agent, add_rows, agent_mesh, make_agent, stream
from dreaming.efficientzero.config import AgentConfig, ReplayConfig
from dreaming.efficientzero.types import AgentState, Tick
from experiments.config import BenchmarkConfig
from experiments.runs.memory import Knob, agent_knobs, halves, root_bytes
from worldmodels.frames.model import FrameModel
from worldmodels.frames.types import PrefixState

# Defaults by device: large enough to keep it busy, and small enough to be quick.
ON_CPU = {
    "size": "small",
    "batch": 32,
    "searches": 64,
    "refresh_batch": 64,
    "capacity": 256,
    "dreams": 64,
    "updates_per_call": 2,
}
ELSEWHERE = {
    "size": "base",
    "batch": 256,
    "searches": 2048,
    "refresh_batch": 2048,
    "capacity": 100_000,
    "dreams": 4096,
    "updates_per_call": 10,
}
NAMES = {"replay.batch": "batch", "replay.capacity": "capacity"}
ENDS = 0.01  # share of the steps in the ring that end an episode


@dataclass(frozen=True)
class Workload:
    """An agent's configuration, its devices, and how often each call is repeated."""

    config: AgentConfig
    frame: tuple[int, int, int]
    num_actions: int
    searches: int  # states searched at once
    dreams: int  # dreams stepped at once
    repetitions: int
    seed: int
    devices: Sequence[Any]

    @cached_property
    def agent(self) -> Agent:
        """The agent's compiled functions."""
        return make_agent(self.config, self.frame, self.num_actions, self.devices)

    @property
    def model(self) -> FrameModel:
        """The agent's world model."""
        return self.agent.model

    @property
    def batch_devices(self) -> list[Any]:
        """The devices over which a batch of an update is shared out."""
        return list(agent_mesh(self.devices, self.config).devices.flat)

    def key(self, name: str) -> jax.Array:
        """The typed key for the use `name`."""
        return stream(jax.random.key_data(jax.random.key(self.seed)), name, 0)

    def latents(self, rows: int) -> PrefixState:
        """Random latent states to search or dream from; speed does not depend on their values."""
        shape = rows, *self.model.networks.latent_shape
        return self.model.begin(jax.random.uniform(self.key("latents"), shape))

    def knobs(self) -> list[Knob]:
        """The settings that take memory, under the names of the benchmark's options."""
        shape = self.config, self.frame, self.num_actions
        at_once = {"searches": self.searches, "dreams": self.dreams}
        root = root_bytes(*shape)
        more = [halves(name, value, root) for name, value in at_once.items()]
        return [*agent_knobs(*shape, NAMES), *more]

    def shapes(self) -> dict[str, Any]:
        """The settings that the figures depend on, for the table and the JSON."""
        config = self.config
        return {
            "size": config.size,
            "frame": list(self.frame),
            "window": config.window,
            "num_actions": self.num_actions,
            "batch": config.replay.batch,
            "unroll_steps": config.unroll_steps,
            "prefix_horizon": config.prefix_horizon,
            "searches": self.searches,
            "num_simulations": config.search.num_simulations,
            "refresh_batch": config.refresh_batch,
            "capacity": config.replay.capacity,
            "dreams": self.dreams,
            "envs": config.envs,
            "updates_per_call": config.updates_per_call,
            "compute": self.model.compute,
            "devices": len(self.devices),
        }


def make_workload(config: BenchmarkConfig) -> Workload:
    """The workload of the options, on all devices; null options by ON_CPU or ELSEWHERE."""
    defaults = ON_CPU if jax.default_backend() == "cpu" else ELSEWHERE
    given = {name: getattr(config, name) for name in defaults}
    chosen: dict[str, Any] = defaults | {k: v for k, v in given.items() if v is not None}
    capacity = -(-max(chosen["capacity"], 2 * chosen["batch"]) // config.envs) * config.envs
    agent = AgentConfig(
        size=chosen["size"],
        window=config.window,
        bins=config.bins,
        unroll_steps=config.unroll_steps,
        prefix_horizon=config.prefix_horizon,
        envs=config.envs,
        real_steps=config.real_steps,
        updates_per_call=chosen["updates_per_call"],
        refresh_batch=chosen["refresh_batch"],
        compute=config.compute,
        replay=ReplayConfig(capacity=capacity, batch=chosen["batch"]),
    )
    height, width, channels = config.frame
    return Workload(
        config=replace(agent, search=replace(agent.search, num_simulations=config.num_simulations)),
        frame=(height, width, channels),
        num_actions=config.num_actions,
        searches=chosen["searches"],
        dreams=chosen["dreams"],
        repetitions=config.repetitions,
        seed=config.seed,
        devices=jax.devices(),
    )


def filled_state(case: Workload) -> AgentState:
    """A fresh agent whose ring is full of random frames, in episodes of about 1 / ENDS steps."""
    envs, frame, num_actions = case.config.envs, case.frame, case.num_actions

    def tick(state: AgentState, key):
        keys = jax.random.split(key, 5)
        numbers = jax.random.normal(keys[3], (2, envs))
        rows = Tick(
            o=jax.random.bits(keys[0], (envs, *frame), jnp.uint8),
            a=jax.random.randint(keys[1], (envs,), 0, num_actions),
            r=jnp.sign(numbers[0]) * (jnp.abs(numbers[0]) > 1.5),
            terminated=jax.random.bernoulli(keys[2], ENDS, (envs,)),
            truncated=jnp.zeros(envs, bool),
            pi_search=jax.nn.softmax(jax.random.normal(keys[4], (envs, num_actions))),
            v_search=numbers[1],
            v=numbers[1],
        )
        return add_rows(state, rows), None

    def fill(state: AgentState, key) -> AgentState:
        ticks = jax.random.split(key, case.config.replay.capacity // envs)
        return jax.lax.scan(tick, state, ticks)[0]

    state = case.agent.init(case.key("init"))
    return case.agent.place(jax.jit(fill, donate_argnums=0)(state, case.key("fill")))


@dataclass
class PassingOn:
    """Repeated calls of a `step(state) -> state` that donates: each continues from the last."""

    step: Callable[[AgentState], AgentState]
    state: AgentState

    def __call__(self) -> None:
        """One step; waits until it is done."""
        self.state = jax.block_until_ready(self.step(self.state))

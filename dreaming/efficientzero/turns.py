"""Collecting and learning side by side, with results that do not depend on the speed of either.

Time goes in turns of `ticks` decisions of every environment. During a turn the actors use the
params from its start, while the learner learns from the rows collected before it; the new rows are
added when both are done. So decision t is taken with the params of an update that t alone
determines, and every update sees the same rows, whatever the speed of environments and machine.
"""

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dreaming.efficientzero.actors import Actors
from dreaming.efficientzero.agent import Agent, check_losses
from dreaming.efficientzero.config import AgentConfig
from dreaming.efficientzero.resets import is_reset_due
from dreaming.efficientzero.types import AgentState, Tick


@dataclass(frozen=True)
class Collected:
    """What the actors did in a turn."""

    rows: list[Tick] = field(default_factory=list)  # one per decision
    real_steps: int = 0
    returns: list[float] = field(default_factory=list)  # of episodes that ended


def take_turn(
    agent: Agent,
    config: AgentConfig,
    actors: Actors,
    state: AgentState,
    ticks: int,
    thread: Executor,
) -> tuple[AgentState, Collected, dict[str, float]]:
    """(the state after one turn, what was collected in it, means of the learner's metrics).

    A turn has `ticks` decisions of every environment, or fewer where `config.real_steps` would be
    exceeded. The state that was passed in must not be used again.
    """
    left = (config.real_steps - int(state.real_steps)) // config.envs
    first = int(state.ring.added) // config.envs
    params, key = copied((state.params, state.key))  # `learn` donates its state
    numbers = range(first, first + min(ticks, left))
    act = partial(agent.act, updates=int(state.updates))
    collecting = thread.submit(collect, act, params, key, actors, numbers)
    try:
        state, metrics = learn_due(agent, config, state)
    finally:
        collected = collecting.result()
    for rows in collected.rows:
        state = agent.add(state, rows)
    return state, collected, metrics


@jax.jit
def copied(tree: Any) -> Any:
    """A copy of every array, by one program."""
    return jax.tree.map(jnp.copy, tree)


def is_over(config: AgentConfig, state: AgentState) -> bool:
    """Whether one more decision of every environment could exceed `config.real_steps`."""
    return int(state.real_steps) + config.envs > config.real_steps


def collect(
    act: Callable, params: Any, key: jax.Array, actors: Actors, numbers: range
) -> Collected:
    """Take the decisions with numbers `numbers` in every environment, by `params`."""
    rows, real_steps, returns = [], 0, []
    for number in numbers:
        acted = jax.device_get(act(params, key, number, actors.stacks))
        row, steps, closed = actors.tick(acted.action, acted.pi_search, acted.v_search, acted.v)
        rows.append(row)
        real_steps += steps
        returns += closed
    return Collected(rows, real_steps, returns)


def updates_due(config: AgentConfig, real_steps: int) -> int:
    """Number of updates due after `real_steps` real steps, a multiple of `updates_per_call`."""
    due = (real_steps - config.learn_after) * config.updates_per_step
    return max(0, int(due / config.updates_per_call + 1e-9)) * config.updates_per_call


def learn_due(
    agent: Agent, config: AgentConfig, state: AgentState
) -> tuple[AgentState, dict[str, float]]:
    """(the state after all updates that are due, the mean of each metric over them).

    Raises `LossError` for a loss that is not finite.
    """
    done, due, told = int(state.updates), updates_due(config, int(state.real_steps)), []
    while done < due:
        if done % config.target.every == 0:
            state = agent.refresh(state)
        if is_reset_due(config, done):  # old targets serve until the next refresh
            state = agent.reset(state)
        learn = agent.learn_late if config.is_late(done) else agent.learn
        state, metrics = learn(state)
        done += config.updates_per_call
        told.append(metrics)
    told = jax.device_get(told)  # all at once: reading one waits for the device
    for number, metrics in enumerate(told):
        check_losses(metrics, done - config.updates_per_call * (len(told) - 1 - number))
    mean = lambda *x: float(np.mean(x))
    return state, jax.tree.map(mean, *told) if told else {}

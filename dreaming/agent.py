"""The online agent for images: act by search, refresh all targets by search, learn from them.

The host owns the environments and the clock; everything here is a function of arrays:

    agent = make_agent(config, frame, num_actions)
    state = agent.init(key)
    acted = agent.act(params, state.key, tick, stacks)      # params: a copy of state.params
    state = agent.add(state, rows)                          # one tick of all environments
    state = agent.refresh(state)                            # every config.target.every updates
    state, metrics = agent.learn(state)                     # config.updates_per_call updates

`add`, `refresh` and `learn` donate the state: what was passed in must not be used again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from dreaming.agent_config import AgentConfig
from dreaming.types import Acted, AgentState
from worldmodels.efficientzero import ImageModel


@dataclass(frozen=True)
class Agent:
    """The compiled functions of one configuration."""

    model: ImageModel
    init: Callable[[jax.Array], AgentState]  # init(typed key)
    act: Callable[..., Acted]  # act(params, key, tick, stacks [E, W, H, V, F]); explores
    act_greedily: Callable[..., Acted]  # the same without Gumbel noise: for evaluation
    add: Callable[..., AgentState]  # add(state, rows)
    refresh: Callable[[AgentState], AgentState]  # copy params to target params, search everything
    learn: Callable[[AgentState], tuple[AgentState, dict[str, jax.Array]]]


def make_agent(
    config: AgentConfig,
    frame: tuple[int, int, int],
    num_actions: int,
    devices: Sequence[Any] | None = None,
) -> Agent:
    """The agent for frames (H, V, F) and so many actions; `devices`, by default all, share the
    searches and the batch.

    `act` draws from (key, tick) alone, so a tick is the same whenever it is run. `learn` needs at
    least `config.replay.batch` rows to draw from; its metrics are means over the call, all named
    learn/*; pass them to `check_losses`.
    """
    raise NotImplementedError


def check_losses(metrics: dict[str, jax.Array], updates: int) -> None:
    """Raise `LossError` naming the first term of the loss that is not finite.

    The update that met it, and those after it in the call, have left params, optimiser and
    priorities as they were: the state is the last good one.
    """
    raise NotImplementedError

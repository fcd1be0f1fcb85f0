"""The saved policy of an online agent for frames: it acts by search or by its policy head.

policy/agent.safetensors   the params that acting needs
policy/agent.json          spaces, configuration and SHA-256; written last
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load, save

from dreaming.config import SearchConfig
from dreaming.efficientzero.actors import frame_shape
from dreaming.efficientzero.agent import Agent, make_agent
from dreaming.efficientzero.config import (
    AgentConfig,
    ImagineConfig,
    OptimiserConfig,
    ReplayConfig,
    ResetConfig,
    TargetConfig,
)
from dreaming.errors import UserError
from dreaming.student.context import ContextBuffer
from envs.atomic import sync_directory, write_file
from envs.types import Features, action_features, space_from_json, space_to_json
from worldmodels.config import FrameLossWeights

SCHEMA_VERSION = 2  # version 1 had other network layers
WEIGHTS, CARD = "agent.safetensors", "agent.json"
LEARNING = ("projector", "predictor", "decoder")  # networks that acting does not need
PARTS = {
    "search": SearchConfig,
    "replay": ReplayConfig,
    "target": TargetConfig,
    "reset": ResetConfig,
    "imagine": ImagineConfig,
    "optimiser": OptimiserConfig,
    "weights": FrameLossWeights,
}


class AgentPolicy:
    """Acts on one frame at a time and stacks them itself; call `reset()` between episodes.

    Policies of one run can share `agent`, whose functions are compiled once.
    """

    def __init__(
        self,
        params: Any,
        key: Any,
        config: AgentConfig,
        observation_space: Any,
        action_space: Any,
        *,
        card: dict[str, Any] | None = None,
        agent: Agent | None = None,
    ):
        self.observation_space, self.action_space = observation_space, action_space
        self.observation, self.action = Features(observation_space), action_features(action_space)
        self.config, self.card, self.window = config, card or {}, config.window
        self.frame = frame_shape(observation_space)
        self.agent = agent or make_agent(config, self.frame, self.action.size)
        self.params, self.key = self.agent.place((params, jnp.asarray(key, jnp.uint32)))
        self._likeliest = jax.jit(self._by_policy_head)
        self.reset()

    def reset(self) -> None:
        """Forget the episode: the next observation is its first."""
        self._buffer = ContextBuffer(1, self.window, self.observation.size, self.action.size)
        self._last: Any = None

    def act(
        self, observation: Any, *, search: bool = False, world: Any = None, seed: Any = None
    ) -> Any:
        """The action for the newest observation of the episode, in the task's action space.

        The most probable action of the policy head or, with `search`, the choice of a search in the
        agent's own model. Nothing is drawn, so `seed` has no effect. Raises `UserError` for an
        observation of another shape, and if `world` is given.
        """
        if world is not None:
            raise UserError("an agent searches in its own model; leave world= out")
        if np.shape(observation) != self.observation_space.shape:
            shown, space = list(np.shape(observation)), self.observation_space
            raise UserError(f"an observation of shape {shown} does not fit {space}")
        o = self.observation.flatten(self.observation.stack([observation]))
        if self._last is None:
            self._buffer.reset(np.array([0]), o)
        else:
            self._buffer.push(np.array([0]), self._last, o)
        self._last = self.acting(search)(self._buffer.context())
        return self.action.row(self.action.unflatten(self._last), 0)

    def acting(self, search: bool) -> Callable:
        """`act(context [B, ...], ...) -> action features [B, A]`, as `evaluate` calls it."""

        def act(context: Any, *_: Any) -> np.ndarray:
            shape = (*context.o.shape[:2], *self.frame)
            frames = context.o.reshape(shape).astype(np.uint8)
            if search:
                updates = self.card.get("updates", self.config.updates)  # the discount can follow
                acted = self.agent.act_greedily(self.params, self.key, 0, frames, updates)
                index = acted.action
            else:
                index = self._likeliest(self.params, frames)
            return np.eye(self.action.size, dtype=np.float32)[np.asarray(index)]

        return act

    def _by_policy_head(self, params, frames):
        model = self.agent.model
        _, pi_logits, _ = model.predict(params, model.begin(model.encode(params, frames)))
        return jnp.argmax(pi_logits, axis=-1)


def save_agent_policy(directory: Path, policy: AgentPolicy) -> None:
    """Write a policy: its weights, then its card with their hash; each file is whole or absent."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in agent_policy_files(policy).items():
        write_file(directory / name, data)
    sync_directory(directory)


def agent_policy_files(policy: AgentPolicy) -> dict[str, bytes]:
    """The files of a policy by name, its card last; the same for the same policy."""
    params = jax.device_get(policy.params)
    needed = {name: x for name, x in params.items() if name not in LEARNING}
    weights = save({"/".join(path): np.asarray(x) for path, x in flatten_dict(needed).items()})
    card = {
        "schema_version": SCHEMA_VERSION,
        "observation_space": space_to_json(policy.observation_space),
        "action_space": space_to_json(policy.action_space),
        "config": dataclasses.asdict(policy.config),
        "key": np.asarray(policy.key).tolist(),
        "card": policy.card,
    }
    card["sha256"] = _sha256(card, weights)
    return {WEIGHTS: weights, CARD: json.dumps(card, indent=2, sort_keys=True).encode()}


def load_agent_policy(directory: Path) -> AgentPolicy:
    """Load a saved policy. Raises `UserError` if missing, damaged or of another schema."""
    try:
        card = json.loads((directory / CARD).read_bytes())
        weights = (directory / WEIGHTS).read_bytes()
    except (OSError, ValueError) as error:
        raise UserError(f"{directory}: no policy can be read here ({error})") from error
    version = card.get("schema_version") if isinstance(card, dict) else None
    if version != SCHEMA_VERSION:
        raise UserError(f"{directory / CARD}: schema {version} is not {SCHEMA_VERSION}")
    if _sha256(card, weights) != card.get("sha256"):
        raise UserError(f"{directory}: {WEIGHTS} or {CARD} is damaged; copy both again")
    params = unflatten_dict({tuple(name.split("/")): x for name, x in load(weights).items()})
    spaces = space_from_json(card["observation_space"]), space_from_json(card["action_space"])
    return AgentPolicy(params, card["key"], _config(card["config"]), *spaces, card=card["card"])


def _config(fields: dict[str, Any]) -> AgentConfig:
    parts = {name: kind(**fields[name]) for name, kind in PARTS.items()}
    return AgentConfig(**fields | parts)


def _sha256(card: dict[str, Any], weights: bytes) -> str:
    """SHA-256 over the weights and all fields of the card but "sha256"."""
    rest = {name: value for name, value in card.items() if name != "sha256"}
    return hashlib.sha256(weights + json.dumps(rest, sort_keys=True).encode()).hexdigest()

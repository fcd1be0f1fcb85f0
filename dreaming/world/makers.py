"""How a log becomes a world model: one maker for vectors, one for frames, with the same methods."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from dreaming.errors import UserError
from dreaming.observe.log import Log
from dreaming.observe.replay import contexts
from dreaming.types import ReplayState
from envs.frames import frame_shape
from worldmodels.config import FrameLossWeights, FrameModelConfig, ModelConfig
from worldmodels.frames.losses import log_loss
from worldmodels.frames.model import FrameWorldModel, make_frame_model
from worldmodels.support import squash, value_bounds
from worldmodels.vectors.losses import model_loss
from worldmodels.vectors.measure import measure_latents, measure_scale
from worldmodels.vectors.model import WorldModel, make_model


@dataclass(frozen=True)
class VectorMaker:
    """Models of observation features: an ensemble, grounded in what it decodes."""

    config: ModelConfig
    discount: float

    @property
    def members(self) -> int:
        """E, each with a bootstrap of the log."""
        return self.config.members

    @property
    def loss(self) -> Callable:
        """What a fit lowers."""
        return model_loss

    def shape(self, log: Log) -> tuple[WorldModel, dict]:
        """(a model for the log, its normalisers)."""
        o = [log.observation.flatten(trace.observations) for trace in log.traces]
        change = np.concatenate([np.diff(x, axis=0) for x in o])
        codes = self.config.chance_codes or log.branches()
        config = dataclasses.replace(self.config, chance_codes=codes)
        o = np.concatenate(o)
        earned = _earned(log)
        rules = {"config": config, "discount": self.discount, "is_number": log.is_number}
        scale = measure_scale(o, change, *earned, **rules)
        return make_model(config, log.parts, log.head, scale), scale

    def measured(self, model: Any, params: Any, replay: ReplayState, rows: int) -> Any:
        """Fitted `params` with what must be measured on the log: the range of latents."""
        every = contexts(replay, jnp.arange(rows), model.window)
        o, a, valid = (np.asarray(x) for x in (every.o, every.a, every.valid))
        return measure_latents(model, params, o, a, valid, self.config.clip_margin)

    def searched(self, model: Any, pessimism: float) -> WorldModel:
        """The model as searches see it."""
        return dataclasses.replace(model, pessimism=pessimism)


@dataclass(frozen=True)
class FrameMaker:
    """EfficientZero's model of frames: a single member, whose latents go on without decoding."""

    config: FrameModelConfig
    window: int
    discount: float
    members: int = 1

    @property
    def loss(self) -> Callable:
        """What a fit lowers."""
        return _log_loss(self.config.weights)

    def shape(self, log: Log) -> tuple[FrameWorldModel, dict]:
        """(a model for the log, its normalisers). Raises `UserError` for what it cannot learn."""
        head, rewards, terminated = log.head, *_earned(log)
        if head.kind != "discrete" or len(head.factors) != 1:
            raise UserError(
                f"frames with the action space {log.action.space}: the model of frames takes "
                "Discrete actions; wrap the task so that its actions are one number"
            )
        if any(trace.action_masks is not None for trace in log.traces):
            raise UserError(
                "the log has action masks, and the model of frames does not learn what is legal; "
                "record without masks, and let illegal actions do nothing"
            )
        usual = value_bounds(
            rewards, terminated, self.discount, window=round(1 / (1 - self.discount))
        )
        self._check_bins(rewards, value_bounds(rewards, terminated, self.discount))
        frame = frame_shape(log.observation.space)
        scale = {"v_range": jnp.float32(usual[1] - usual[0])}
        return make_frame_model(self.config, frame, self.window, head), scale

    def measured(self, model: Any, params: Any, replay: ReplayState, rows: int) -> Any:
        """Fitted `params`: nothing is left to measure."""
        return params

    def searched(self, model: Any, pessimism: float) -> FrameWorldModel:
        """The model as searches see it. Raises `UserError` for what asks for an ensemble."""
        if pessimism:
            raise UserError(
                f"search.pessimism={pessimism} weighs the disagreement of members, and the model "
                "of frames has one; leave it at 0"
            )
        return model

    def _check_bins(self, rewards: list[np.ndarray], possible: tuple[float, float]) -> None:
        """Raise `UserError` when the atoms of values do not reach what may be earned."""
        most = max(abs(r).max() for r in rewards) * self.config.prefix_horizon
        most = float(max(most, *map(abs, possible)))
        if squash(jnp.float32(most)) > self.config.bins // 2:
            raise UserError(
                f"values may reach {most:g} and images.bins={self.config.bins} is too few for "
                f"them; give {2 * int(np.ceil(squash(jnp.float32(most)))) + 1} or more"
            )


def _earned(log: Log) -> tuple[list[np.ndarray], list[bool]]:
    """The rewards of each episode, and whether the task ended it."""
    rewards = [np.asarray(trace.rewards, float) for trace in log.traces]
    return rewards, [bool(trace.terminated[-1]) for trace in log.traces]


@functools.cache
def _log_loss(weights: FrameLossWeights) -> Callable:
    """The same function for the same weights, so that programs are found again."""
    return functools.partial(log_loss, weights=weights)

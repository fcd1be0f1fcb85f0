"""Small worlds with all kinds of spaces: known exactly, or five networks nobody trained."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.dream import World, start_context
from envs.tabular import TabularModel, from_gym
from envs.tasks import TwoCoordinates
from envs.types import Features, Prediction, container


@container
class EnsembleState:
    x: Any  # [B, D]
    member: Any  # [B]


@dataclass(frozen=True)
class Ensemble:
    """Five random networks behind the model protocol, shaped like a model of CartPole."""

    num_codes = 2
    num_members = 5
    num_actions = action_size = 2

    def init(self) -> dict[str, Any]:
        random = np.random.default_rng(0)
        w = lambda *shape: jnp.asarray(random.normal(size=shape) / np.sqrt(shape[-2]), jnp.float32)
        each, hidden = (w(5, 16 + 2 + 2, 32), w(5, 32, 16)), w(16, 3)
        return {"encode": w(4, 16), "step": each, "heads": hidden, "decode": w(16, 4)}

    def root(self, params, context):
        x = jnp.tanh(context.o[:, -1] @ params["encode"])
        return EnsembleState(x, jnp.full(x.shape[0], -1, jnp.int32))

    def afterstate(self, params, z, a):
        return a @ jnp.ones((2, 2)) + z.x[:, :2], (z, a)

    def outcome(self, params, y, c):
        z, a = y
        first, second = params["step"]
        inputs = jnp.concatenate([z.x, a, jax.nn.one_hot(c, 2)], -1)
        each = jnp.tanh(jax.nn.silu(inputs @ first) @ second)  # [E, B, D]
        weights = jnp.where(z.member[:, None] < 0, 0.2, jax.nn.one_hot(z.member, 5))
        z = EnsembleState(jnp.einsum("be,ebd->bd", weights, each), z.member)
        r, ends, uncertainty = jnp.split(z.x @ params["heads"], 3, -1)
        v, pi_logits, legal_logits = self.predict(params, z)
        return z, Prediction(
            r=r[:, 0],
            continuation=jax.nn.sigmoid(ends[:, 0] + 2),
            v=v,
            pi_logits=pi_logits,
            legal_logits=legal_logits,
            uncertainty=jnp.abs(uncertainty[:, 0]) + each.std(0).mean(-1),
        )

    def decode(self, params, z):
        return z.x @ params["decode"]

    def predict(self, params, z):
        return z.x[:, 0], z.x[:, :2], z.x[:, 2:4] + 1


@pytest.fixture(scope="session")
def cart() -> World:
    """An untrained ensemble with CartPole's spaces: stochastic, uncertain, sometimes ending."""
    real, model = gymnasium.make("CartPole-v1"), Ensemble()
    o = np.random.default_rng(1).normal(size=(40, 4))
    return World(
        model=model,
        params=model.init(),
        observation_space=real.observation_space,
        action_space=real.action_space,
        horizon=20,
        starts=start_context(o, 2),
        initial=np.arange(40) < 10,
        u_max=0.25,
        card={"what": "a test"},
    )


def lake_world(is_slippery: bool) -> World:
    """FrozenLake with its true dynamics."""
    real = gymnasium.make("FrozenLake-v1", is_slippery=is_slippery)
    table = from_gym(real)
    model = TabularModel(table, discount=0.99)
    return World(
        model=model,
        params=model.params,
        observation_space=real.observation_space,
        action_space=real.action_space,
        horizon=100,
        starts=start_context(np.eye(16), 4),
        initial=table.start > 0,
    )


@pytest.fixture(scope="session")
def lake() -> World:
    """FrozenLake on dry ice: deterministic."""
    return lake_world(is_slippery=False)


@pytest.fixture(scope="session")
def slippery_lake() -> World:
    """FrozenLake as it is: three outcomes per action."""
    return lake_world(is_slippery=True)


class Grid:
    """The true dynamics of `TwoCoordinates`: o = (one-hot row, one-hot column, goal)."""

    num_codes = num_members = 1
    num_actions, action_size = 9, 6

    def root(self, params, context):
        return EnsembleState(context.o[:, -1], jnp.full(context.o.shape[0], -1, jnp.int32))

    def afterstate(self, params, z, a):
        return 0 * a[:, :1], (z, a)

    def outcome(self, params, y, c):
        z, a = y
        each = (z.x[:, :5], a[:, :3]), (z.x[:, 5:10], a[:, 3:])
        at = [jnp.clip(x.argmax(-1) + move.argmax(-1) - 1, 0, 4) for x, move in each]
        goal = z.x[:, 10:]
        x = jnp.concatenate([*(jax.nn.one_hot(each, 5) for each in at), goal], -1)
        ended = (jnp.stack(at, -1) == goal).all(-1)
        zeros = 0 * goal[:, 0]
        _, pi_logits, legal_logits = self.predict(params, z)
        z = EnsembleState(x, z.member)
        return z, Prediction(zeros - 1, 1.0 - ended, zeros, pi_logits, legal_logits, zeros)

    def decode(self, params, z):
        return z.x

    def predict(self, params, z):
        nothing = 0 * z.x[:, :9]
        return nothing[:, 0], nothing, nothing[:, :6] + jnp.array([[1, 1, 1, 1, -1, 1]])


def grid_world(observation_space: Any) -> World:
    """`TwoCoordinates`, whose observations may also be given as a Tuple."""
    real = TwoCoordinates()
    space: Any = real.observation_space
    goals = [(i, j) for i in range(5) for j in range(5) if (i, j) != (2, 2)]
    o = {"at": np.full((24, 2), 2), "goal": np.array(goals, np.float32)}
    starts = start_context(Features(space).flatten(o), 6)
    return World(Grid(), {}, observation_space, real.action_space, 20, starts, np.ones(24, bool))


@pytest.fixture(scope="session")
def grid() -> World:
    """Dict observations and factored actions, with true dynamics."""
    return grid_world(TwoCoordinates().observation_space)


@pytest.fixture(scope="session")
def tuple_grid() -> World:
    """The same with Tuple observations."""
    space: Any = TwoCoordinates().observation_space
    return grid_world(gymnasium.spaces.Tuple([space["at"], space["goal"]]))


class Point(Ensemble):
    """The untrained ensemble, pushed by two numbers in [-1, 1] instead of a choice of two."""

    def afterstate(self, params, z, a):
        return super().afterstate(params, z, jnp.tanh(a))


@pytest.fixture(scope="session")
def point(cart) -> World:
    """Actions that are numbers: stochastic, uncertain, sometimes ending."""
    bounds = np.array([2.0, 0.5], np.float32)
    space = gymnasium.spaces.Box(-bounds, bounds, dtype=np.float32)
    return dataclasses.replace(cart, model=Point(), action_space=space)

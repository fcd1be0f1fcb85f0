"""Two small worlds: one known exactly, one of five networks that nobody trained."""

from dataclasses import dataclass
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.dream import World, start_context
from envs.tabular import TabularModel, from_gym
from envs.types import Prediction, container


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

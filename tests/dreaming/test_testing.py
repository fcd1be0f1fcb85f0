"""Every model passes what any model is put through, and faults are found."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from dreaming.observe.log import Log
from dreaming.testing import check_world_model
from dreaming.world.fitting import facts_of
from envs.tabular import TabularModel, corridor
from envs.types import Features, Trace, action_features
from worldmodels import counts
from worldmodels.config import FrameModelConfig, ModelConfig
from worldmodels.protocol import ModelSettings
from worldmodels.registry import make_model

SMALL = ModelConfig(latent=4, width=8, members=2, features=8, reward_bins=5, value_bins=11)


def log_of(observation, action, seed=0):
    """Three episodes of noise in these spaces."""
    random = np.random.default_rng(seed)
    observation.seed(seed)
    action.seed(seed)
    traces = [
        Trace(
            np.stack([observation.sample() for _ in range(9)]),
            np.stack([action.sample() for _ in range(8)]),
            random.normal(size=8),
            bool(i),
            not i,
        )
        for i in range(3)
    ]
    return Log(traces, Features(observation), action_features(action))


def made(log, **config):
    """(model, params, observations) for a log."""
    model = dataclasses.replace(SMALL, **config)
    settings = ModelSettings(model, FrameModelConfig(size="nano", bins=21), 0.9)
    facts = facts_of(log)
    model, scale = make_model(facts, settings)
    params = model.init(jax.random.key(0), scale)
    return model, params | {"behaviour": model.heads(params)["policy"]}, np.concatenate(facts.o)


FRAMES = Box(0, 255, (16, 16, 1), np.uint8)
CASES = {
    "mlp": lambda: made(log_of(Box(-1, 1, (3,)), Discrete(2)), window=2),
    "mlp, numbers as actions": lambda: made(log_of(Box(-1, 1, (3,)), Box(-1, 1, (2,)))),
    "mlp, discrete": lambda: made(log_of(Discrete(5), Discrete(2))),
    "counts": lambda: made(log_of(Discrete(5), Discrete(2)), name="counts"),
    "efficientzero": lambda: made(log_of(FRAMES, Discrete(3)), window=2),
}


@pytest.mark.parametrize("name", CASES)
def test_every_model_passes(name):
    check_world_model(*CASES[name]())


def test_an_oracle_passes_without_anything_to_train():
    model = TabularModel(corridor(5, slip=0.1), 0.9)
    check_world_model(model, model.params, np.eye(5, dtype=np.float32))


class Mixing(counts.Counts):
    """Says of every row what is true of the first."""

    def predict(self, params, z):
        v, *others = super().predict(params, z)
        return jnp.broadcast_to(jnp.arange(5.0)[z.s[0]], v.shape), *others


class Forgetful(counts.Counts):
    """Loses who dreams."""

    def outcome(self, params, y, c):
        z, prediction = super().outcome(params, y, c)
        return z.replace(member=jnp.full_like(z.member, -1)), prediction


class Flat(counts.Counts):
    """Decodes to a number rather than to features."""

    def decode(self, params, z):
        return z.s


class Doubtful(counts.Counts):
    """Goes on with a probability of 2."""

    def outcome(self, params, y, c):
        z, prediction = super().outcome(params, y, c)
        return z, prediction.replace(continuation=prediction.continuation + 1)


class Contradicting(counts.Counts):
    """Says another value after a step than of the state itself."""

    def outcome(self, params, y, c):
        z, prediction = super().outcome(params, y, c)
        return z, prediction.replace(v=prediction.v + 1)


class Drifting(counts.Counts):
    """Puts other heads back than were taken out."""

    def with_heads(self, params, heads):
        return super().with_heads(params, heads | {"policy": heads["policy"] + 1})


class Lossy(counts.Counts):
    """Loses its way in training."""

    def loss(self, params, target_params, batch, config, key):
        return jnp.float32(jnp.nan), {}


class Counting(counts.Counts):
    """Asks how many rows there are."""

    def predict(self, params, z):
        v, pi, legal = super().predict(params, z)
        return v + float(len(v) * 0), pi, legal


class Headless(counts.Counts):
    """Cannot begin anew."""

    fresh_heads: Any = None


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (Mixing, "changed although only row 0"),
        (Forgetful, "forgets the member 0"),
        (Flat, r"decode has the shape \(4,\), expected \(4, 5\)"),
        (Doubtful, "must be a probability"),
        (Contradicting, "differs from what predict says"),
        (Drifting, "must give params again"),
        (Lossy, "loss is nan"),
        (Counting, "the number of rows must stay open"),
        (Headless, r"lacks `fresh_heads`, which is fresh_heads\(params, key\) -> heads"),
    ],
)
def test_a_fault_is_found(kind, told):
    model, params, o = CASES["counts"]()
    assert isinstance(model, counts.Counts)
    faulty = kind(**{x.name: getattr(model, x.name) for x in dataclasses.fields(model)})
    with pytest.raises(AssertionError, match=told) as found:
        check_world_model(faulty, params, o)
    assert len(str(found.value).splitlines()) == 1

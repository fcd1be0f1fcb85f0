"""A world model from another package: everything is linear in the newest observation.

Written against `worldmodels.protocol` alone. o' = o + A o + B a; reward, value, prior and the logit
of going on are linear, too.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from worldmodels.protocol import LogFacts, ModelError, ModelSettings
from worldmodels.types import Prediction


class Point(struct.PyTreeNode):
    """Where it stands: observation features o [B, O]."""

    o: Any
    member: Any


@dataclasses.dataclass(frozen=True)
class Linear:
    """`Trainable` for numbers and discrete actions."""

    head: Any
    size: int
    behaviour_penalty: float = 0.0
    window: ClassVar[int] = 1
    num_codes: ClassVar[int] = 1
    num_members: ClassVar[int] = 1
    convolves: ClassVar[bool] = False
    is_closed_form: ClassVar[bool] = False

    @property
    def student(self):
        return {}

    @property
    def num_actions(self):
        return self.head.num_outputs

    @property
    def action_size(self):
        return self.head.size

    def root(self, params, context):
        o = (context.o[:, -1] - params["scale"]["mean"]) / params["scale"]["std"]
        return Point(o, jnp.full(o.shape[0], -1, jnp.int32))

    def afterstate(self, params, z, a):
        return jnp.zeros((a.shape[0], 1)), (z, a)

    def outcome(self, params, y, c):
        z, a = y
        out = jnp.concatenate([z.o, a], -1) @ params["net"]["step"]
        z = z.replace(o=z.o + out[:, :-2])
        v, pi, legal = self.predict(params, z)
        return z, Prediction(
            r=out[:, -2],
            continuation=jax.nn.sigmoid(out[:, -1] + 3),
            v=v,
            pi_logits=pi,
            legal_logits=legal,
            uncertainty=jnp.zeros_like(v),
        )

    def predict(self, params, z):
        net = params["net"]
        v = (z.o @ net["value"]["w"])[:, 0] + net["value"]["b"]
        return v, z.o @ net["policy"], jnp.ones((z.o.shape[0], self.head.size))

    def decode(self, params, z):
        return z.o * params["scale"]["std"] + params["scale"]["mean"]

    def value_span(self, params):
        return params["scale"]["span"]

    def init(self, key, scale):
        step = 0.01 * jax.random.normal(key, (self.size + self.head.size, self.size + 2))
        value = {"w": jnp.zeros((self.size, 1)), "b": jnp.float32(0)}
        policy = jnp.zeros((self.size, self.head.num_outputs))
        return {"net": {"step": step, "value": value, "policy": policy}, "scale": scale}

    def loss(self, params, target_params, batch, config, key):
        at = lambda t: (batch.o[:, t, -1] - params["scale"]["mean"]) / params["scale"]["std"]
        o, after, known = at(0), at(1), batch.is_real_step[:, 0]
        z = Point(o, jnp.full(len(o), -1, jnp.int32))
        z, said = self.outcome(params, (z, batch.a[:, 0]), None)
        ends = -jnp.log(jnp.where(batch.terminated[:, 0], 1 - said.continuation, said.continuation))
        terms = {
            "fit/step_loss": jnp.mean(known[:, None] * jnp.square(z.o - after)),
            "fit/reward_loss": jnp.mean(known * jnp.square(said.r - batch.r[:, 0])),
            "fit/end_loss": jnp.mean(known * ends),
        }
        return sum(terms.values()), terms

    def measured(self, params, every):
        return params

    def heads(self, params):
        return {name: params["net"][name] for name in ("value", "policy")}

    def with_heads(self, params, heads):
        return params | {"net": params["net"] | heads}

    def fresh_heads(self, params, key):
        return jax.tree.map(jnp.zeros_like, self.heads(params))

    def heads_loss(self, params, targets):
        v, _, _ = self.predict(params, targets.z)
        _, pi, _ = self.predict(params, targets.taught_z)
        return {
            "value_loss": jnp.mean(optax.losses.huber_loss(v, targets.v)),
            "prior_loss": jnp.mean(self.head.divergence(targets.pi, targets.proposals, pi)),
        }

    def adjusted(self, **ways):
        if ways.pop("pessimism", 0.0):
            raise ModelError("the linear model has one member; leave search.pessimism at 0")
        return dataclasses.replace(self, **ways)

    def student_start(self, params):
        return {}


def make(facts: LogFacts, settings: ModelSettings):
    """The model for a log of numbers; `model.options.slack` widens its values."""
    if facts.kind != "box":
        raise ModelError(f"the linear model learns numbers, not {facts.kind} observations")
    o = np.concatenate(facts.o)
    scale = {"mean": o.mean(0), "std": o.std(0) + 1e-3}
    scale["span"] = 10.0 * float(settings.model.options.get("slack", 1.0))
    scale = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), scale)
    return Linear(facts.head, o.shape[1]), scale


class Handless(Linear):
    """Has nothing that a rehearsal could improve."""

    heads: Any = None


def make_bare(facts: LogFacts, settings: ModelSettings):
    """Forgets the normalisers."""
    return make(facts, settings)[0]


def make_stumbling(facts: LogFacts, settings: ModelSettings):
    """Looks for what is not there."""
    return {}["nothing"]


class Unhashable(Linear):
    """Compares by what it holds, and so has no hash."""

    def __eq__(self, other):
        return False


def make_unhashable(facts: LogFacts, settings: ModelSettings):
    model, scale = make(facts, settings)
    return Unhashable(model.head, model.size), scale


def make_handless(facts: LogFacts, settings: ModelSettings):
    model, scale = make(facts, settings)
    return Handless(model.head, model.size), scale

"""The world model behind the protocol that dreams and searches share: root, afterstate, outcome.

`params` is `{"net": learned weights, "scale": normalisers}`; the normalisers are measured on the
log and travel with the weights, so a model file is complete.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from worldmodels.config import ModelConfig
from worldmodels.networks import Networks, init_params
from worldmodels.support import scalar_to_support, support_to_scalar
from worldmodels.types import Afterstate, LatentState, Prediction


@dataclass(frozen=True)
class WorldModel:
    """Static shape of a model; every function takes params first and rows [B] after.

    `num_codes` outcomes of an afterstate are told apart. For discrete observations a code names
    the next observation, and the likeliest `num_codes` of them are offered; otherwise codes are
    learned (see `losses.py`).
    `grounded`: every state reached is the encoding of the observation it decodes to. The model
    is trained K steps deep, dreams go hundreds: on the encoder's own manifold errors do not
    compound (50 steps of MountainCar: skill 0.99 grounded, below 0 free-running).
    `pessimism` is kappa of mean - kappa * std over members, for rewards and values (0 = mean).
    """

    observation_kind: str  # "box" or "discrete"
    observation_size: int
    num_actions: int
    latent: int
    width: int
    num_members: int
    num_codes: int
    window: int
    reward_bins: int
    value_bins: int
    projection: int
    grounded: bool = True
    pessimism: float = 0.0

    @property
    def action_size(self) -> int:
        """Features of an action."""
        return self.num_actions

    @property
    def codes_are_observed(self) -> bool:
        """True when a chance code is the name of the next observation."""
        return self.num_codes > 1 and self.observation_kind == "discrete"

    @property
    def code_size(self) -> int:
        """Codes that the networks know."""
        return self.observation_size if self.codes_are_observed else self.num_codes

    @cached_property
    def networks(self) -> Networks:
        """The flax module of this shape."""
        return Networks(
            width=self.width,
            latent=self.latent,
            members=self.num_members,
            chance_codes=self.code_size,
            reward_bins=self.reward_bins,
            value_bins=self.value_bins,
            projection_size=self.projection,
            observation_size=self.observation_size,
            num_actions=self.num_actions,
        )

    def apply(self, params, method: str, *args) -> Any:
        """One method of the networks under `params`."""
        return self.networks.apply({"params": params["net"]}, *args, method=method)

    def init(self, key, scale: dict):
        """Fresh params with the given normalisers (see `fit.measure_scale`)."""
        context = self.window * self.observation_size + (self.window - 1) * self.num_actions
        return {"net": init_params(self.networks, context, key), "scale": scale}

    # The protocol

    def root(self, params, context) -> LatentState:
        """The latent state of contexts [B] of real observations."""
        latent = self.encode(params, context.o, context.a, context.valid)
        return LatentState(latent=latent, member=jnp.full(latent.shape[0], -1, jnp.int32))

    def afterstate(
        self, params, z: LatentState, a: Float[Array, "B A"]
    ) -> tuple[Float[Array, "B C"], Afterstate]:
        """What an action leads to before chance speaks: code logits and the afterstate."""
        hidden, logits = self.apply(params, "afterstate", self._each(z.latent), a)
        each = jax.nn.softmax(logits)
        probabilities = self._pick(each, z.member)
        disagreement = jnp.sum(jnp.std(each, axis=0), axis=-1)
        offered, codes = jax.lax.top_k(probabilities, self.num_codes)
        y = Afterstate(z.latent, z.member, jnp.moveaxis(hidden, 0, 1), codes, disagreement)
        return jnp.log(offered + 1e-9), y

    def outcome(self, params, y: Afterstate, c: Int[Array, " B"]) -> tuple[LatentState, Prediction]:
        """Where chance code `c` leads, and what is earned on the way."""
        code = jnp.take_along_axis(y.codes, c[:, None], axis=-1)[:, 0]
        code = jax.nn.one_hot(code, self.code_size)
        scale = params["scale"]
        each, hidden = self._each(y.latent), jnp.moveaxis(y.hidden, 1, 0)
        latents, r_logits, goes_on = self.apply(params, "outcome", each, hidden, code)
        latents = jnp.clip(latents, scale["z_low"], scale["z_high"])
        r = support_to_scalar(r_logits, scale["reward_support"])
        continuation = jax.nn.sigmoid(goes_on)
        z = LatentState(self._pick(latents, y.member), y.member)
        z, outside = self._ground(params, z, code if self.codes_are_observed else None)
        spread = lambda x, unit: jnp.std(x, axis=0) / unit
        uncertainty = y.disagreement + outside
        uncertainty += spread(r, scale["r_range"]) + spread(continuation, 1.0)
        if not self.codes_are_observed:  # else the code alone says where it leads
            uncertainty += jnp.sqrt(jnp.mean(jnp.square(spread(latents, scale["z_std"])), -1))
        prediction = Prediction(
            r=self._lower(r, y.member),
            continuation=self._pick(continuation, y.member),
            v=self.value(params, z),
            pi_logits=self.apply(params, "pi_logits", z.latent),
            legal_logits=self.apply(params, "legal_logits", z.latent),
            uncertainty=uncertainty,
        )
        return z, prediction

    def decode(self, params, z: LatentState) -> Float[Array, "B O"]:
        """Observation features in real units, near the logged range; discrete: one-hot."""
        return self._decode(params, z)[0]

    # What the loop needs beside it

    def encode(self, params, o, a, valid) -> Float[Array, "*B D"]:
        """Latents of contexts o [*B, W, O], a [*B, W-1, A], valid [*B, W]."""
        scale = params["scale"]
        x = (o - scale["o_mean"]) / scale["o_std"] * valid[..., None]
        flat = lambda u: u.reshape(*u.shape[:-2], -1)
        x = jnp.concatenate([flat(x), flat(a)], -1)
        return self.apply(params, "represent", x)

    def value(self, params, z: LatentState) -> Float[Array, " B"]:
        """Value in reward units: that of the member, or mean - pessimism * std of all."""
        logits = self.apply(params, "value", self._each(z.latent))
        values = support_to_scalar(logits, params["scale"]["value_support"])
        return self._lower(values, z.member)

    def predict(self, params, z: LatentState):
        """Value [B], prior [B, A] and legality logits [B, A] of a state (MuZero's f)."""
        head = lambda name: self.apply(params, name, z.latent)
        return self.value(params, z), head("pi_logits"), head("legal_logits")

    def _decode(self, params, z: LatentState):
        """(observation, how many deviations it lay outside the logged range [B])."""
        out = self.apply(params, "decode", z.latent)
        if self.observation_kind == "discrete":
            return jax.nn.one_hot(jnp.argmax(out, -1), self.observation_size), 0.0
        scale = params["scale"]
        o = out * scale["o_std"] + scale["o_mean"]
        excess = jnp.maximum(o - scale["o_high"], scale["o_low"] - o) / scale["o_std"]
        margin = scale["margin"] * scale["o_std"]
        o = jnp.clip(o, scale["o_low"] - margin, scale["o_high"] + margin)
        return o, jnp.max(jnp.clip(excess, 0.0, scale["margin"]), axis=-1)

    def _ground(self, params, z: LatentState, code):
        """`z` on the encoder's manifold, at the observation it decodes to or that `code` names."""
        o, outside = self._decode(params, z) if code is None else (code, 0.0)
        if not self.grounded:
            return z, outside
        o = o[..., None, :]
        none = jnp.zeros((*o.shape[:-2], 0, self.num_actions))
        latent = self.encode(params, o, none, jnp.ones(o.shape[:-1], bool))
        return z.replace(latent=latent), outside

    def value_span(self, params) -> Float[Array, ""]:
        """Width of the range that values can take, in reward units."""
        support = params["scale"]["value_support"]
        return support[-1] - support[0]

    def heads_loss(
        self, params, z: LatentState, v, weight, taught_z: LatentState, pi, taught_weight
    ):
        """Cross-entropy of every member's value against `v` at `z`, and of the prior against `pi`
        at `taught_z`; means weighted by `weight` and `taught_weight`."""
        mean = lambda x, w: jnp.sum(x * w) / (jnp.sum(w) + 1e-6)
        target = scalar_to_support(v, params["scale"]["value_support"])
        logits = self.apply(params, "value", self._each(z.latent))
        value = optax.losses.softmax_cross_entropy(logits, jnp.broadcast_to(target, logits.shape))
        logits = self.apply(params, "pi_logits", taught_z.latent)
        prior = optax.losses.softmax_cross_entropy(logits, pi)
        return {"value_loss": mean(value.mean(0), weight), "prior_loss": mean(prior, taught_weight)}

    def heads(self, params):
        """The part of `params` that rehearsal improves: every member's value, and the prior."""
        net = params["net"]
        return {"value": net["member"]["value_net"], "policy": net["policy"]}

    def with_heads(self, params, heads):
        """`params` with these heads in place of its own."""
        member = params["net"]["member"] | {"value_net": heads["value"]}
        net = params["net"] | {"member": member, "policy": heads["policy"]}
        return {"net": net, "scale": params["scale"]}

    def fresh_heads(self, params, key):
        """Heads that know nothing: every value 0, no preference.

        Rehearsal starts from them. A random log's own values would be a pessimist's start: where
        every step costs, V = 0 is optimistic and each sweep pulls down what does not hold.
        """
        heads = self.heads(self.init(key, params["scale"]))
        *_, last = sorted(heads["value"])
        zero = scalar_to_support(jnp.float32(0), params["scale"]["value_support"])
        layer = heads["value"][last] | {"bias": heads["value"][last]["bias"] + 6.0 * zero}
        return heads | {"value": heads["value"] | {last: layer}}

    def _each(self, x):
        return jnp.broadcast_to(x, (self.num_members, *x.shape))

    def _pick(self, x: Float[Array, "E B ..."], member: Int[Array, " B"]):
        """Row b of member[b]; the mean over members where that is -1."""
        weights = jnp.where(
            member[None] < 0,
            1.0 / self.num_members,
            (jnp.arange(self.num_members)[:, None] == member[None]).astype(jnp.float32),
        )
        return jnp.sum(x * weights.reshape(*weights.shape, *(1,) * (x.ndim - 2)), axis=0)

    def _lower(self, x: Float[Array, "E B"], member: Int[Array, " B"]):
        """As `_pick`, but mean - pessimism * std where the mean is asked for."""
        x_picked = self._pick(x, member)
        if self.pessimism == 0:
            return x_picked
        return jnp.where(member < 0, x_picked - self.pessimism * jnp.std(x, axis=0), x_picked)


def make_model(
    config: ModelConfig, kind: str, observation_size: int, num_actions: int, scale: dict
) -> WorldModel:
    """The model of `config` for a log whose normalisers are `scale`."""
    return WorldModel(
        observation_kind=kind,
        observation_size=observation_size,
        num_actions=num_actions,
        latent=config.latent,
        width=config.width,
        num_members=config.members,
        num_codes=max(1, config.chance_codes),  # 0: nobody counted
        window=config.window,
        reward_bins=scale["reward_support"].size,
        value_bins=scale["value_support"].size,
        projection=config.projection,
        grounded=config.grounded and config.window == 1,
    )

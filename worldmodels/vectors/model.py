"""The world model behind the protocol that dreams and searches share: root, afterstate, outcome.

`params` is `{"net": learned weights, "scale": normalisers}`; the normalisers are measured on the
log and travel with the weights, so a model file is complete.
"""

import functools
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from worldmodels.actions import ActionHead
from worldmodels.contexts import context_rows, row_size
from worldmodels.support import scalar_to_support, support_to_scalar
from worldmodels.types import HeadTargets, Prediction
from worldmodels.vectors.base import base_changes, flat_rows, init_base, left_by, within
from worldmodels.vectors.contacts import stopped
from worldmodels.vectors.networks import Networks, init_params
from worldmodels.vectors.types import Afterstate, History, LatentState


@dataclass(frozen=True)
class VectorModel:
    """Static shape of a model; every function takes params first and rows [B] after.

    `num_codes` outcomes of an afterstate are told apart. For a discrete observation a code names
    the next observation, and the likeliest `num_codes` of them are offered; otherwise codes are
    learned (see `losses.py`).
    Numbers of an observation change as each member's base says (`base.py`), plus a share of what
    its network says is left over, and stop where the log shows that they do (`contacts.py`);
    categories and bits are what networks say. Every state reached
    is the encoding of the observation it shows, in dreams as in the loss: on the encoder's own
    manifold errors do not compound (50 steps of MountainCar: skill 0.99 grounded, below 0
    free-running).
    `pessimism` is kappa of mean - kappa * std over members, for rewards and values (0 = mean).
    `behaviour_penalty` is the uncertainty per nat by which an action is less likely than the
    likeliest to the log's own policy (params["behaviour"]).
    """

    parts: tuple[tuple[str, int], ...]  # of an observation: "box", "categorical", "binary"
    head: ActionHead
    latent: int
    width: int
    num_members: int
    num_codes: int
    window: int
    reward_bins: int
    value_bins: int
    features: int  # random Fourier features of the base
    recurrent: bool = False
    pessimism: float = 0.0
    behaviour_penalty: float = 0.0
    convolves: ClassVar[bool] = False

    @property
    def observation_size(self) -> int:
        """O, features of an observation."""
        return sum(size for _, size in self.parts)

    @property
    def action_size(self) -> int:
        """A, features of an action."""
        return self.head.size

    @property
    def num_actions(self) -> int:
        """P, outputs of the policy."""
        return self.head.num_outputs

    @property
    def codes_are_observed(self) -> bool:
        """True when a chance code is the name of the next observation."""
        return [kind for kind, _ in self.parts] == ["categorical"]

    @cached_property
    def is_number(self) -> Bool[np.ndarray, " O"]:
        """Which features of an observation are numbers."""
        kinds, sizes = zip(*self.parts, strict=True)
        return np.repeat([kind == "box" for kind in kinds], sizes)

    @property
    def has_base(self) -> bool:
        """Whether there is a number for a base to change."""
        return bool(self.is_number.any())

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
            observation_size=self.observation_size,
            action_size=self.action_size,
            policy_size=self.num_actions,
            recurrent=self.recurrent,
        )

    def apply(self, params, method: str, *args) -> Any:
        """One method of the networks under `params`."""
        return self.networks.apply({"params": params["net"]}, *args, method=method)

    def init(self, key, scale: dict):
        """Fresh params with the given normalisers (see `measure.py`)."""
        row = row_size(self.window, self.observation_size, self.action_size)
        shape = (self.window, row) if self.recurrent else (self.window * row,)
        sizes = (self.window * row, self.action_size, self.num_members, self.observation_size)
        base_key, key = jax.random.split(key)
        if self.has_base:
            base = init_base(base_key, self.features, *sizes)
            scale = scale | {"base": base, "share": jnp.ones(self.observation_size)}
        return {"net": init_params(self.networks, shape, key), "scale": scale}

    # The protocol

    def root(self, params, context) -> LatentState:
        """The latent state of contexts [B] of real observations."""
        member = jnp.full(context.o.shape[0], -1, jnp.int32)
        return self._at(params, member, context.o, context.a, context.valid)

    def afterstate(
        self, params, z: LatentState, a: Float[Array, "B A"]
    ) -> tuple[Float[Array, "B C"], Afterstate]:
        """What an action leads to before chance speaks: code logits and the afterstate."""
        hidden, logits = self.apply(params, "afterstate", self._each(z.latent), a)
        each = jax.nn.softmax(logits)
        probabilities = self._pick(each, z.member)
        disagreement = jnp.sum(_deviation(each), axis=-1)
        if self.behaviour_penalty:
            disagreement += self.behaviour_penalty * self._surprise(params, z, a)
        offered, codes = jax.lax.top_k(probabilities, self.num_codes)
        history = z.history
        if history is not None:
            history = history.replace(a=jnp.concatenate([history.a, a[:, None]], axis=1))
        change = None
        if z.x is not None:
            change = jnp.moveaxis(base_changes(params["scale"]["base"], z.x, a), 0, 1)
        hidden = jnp.moveaxis(hidden, 0, 1)
        y = Afterstate(z.member, z.o, change, hidden, codes, disagreement, history)
        return jnp.log(offered + 1e-9), y

    def outcome(self, params, y: Afterstate, c: Int[Array, " B"]) -> tuple[LatentState, Prediction]:
        """Where chance code `c` leads, and what is earned on the way."""
        code = jnp.take_along_axis(y.codes, c[:, None], axis=-1)[:, 0]
        code = jax.nn.one_hot(code, self.code_size)
        scale = params["scale"]
        hidden = jnp.moveaxis(y.hidden, 1, 0)
        x, told = self.apply(params, "outcome", hidden, code)
        uncertainty = y.disagreement
        if self.codes_are_observed:  # the code alone says where it leads
            o = code
        else:
            change = None if y.change is None else jnp.moveaxis(y.change, 1, 0)
            o, outside, doubt = self.shown(params, y.member, y.o, change, told)
            uncertainty += outside + doubt
        z = self._reached(params, y, o)
        r_logits, goes_on = self.apply(params, "consequences", x, z.latent)
        r = support_to_scalar(r_logits, scale["reward_support"])
        continuation = jax.nn.sigmoid(goes_on)
        spread = lambda x, unit: _deviation(x) / unit
        uncertainty += spread(r, scale["r_range"]) + spread(continuation, 1.0)
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
        """Observation features in real units, near the logged range; categories as one-hots."""
        return z.o

    # What the loop needs beside it

    def encode(self, params, o, a, valid) -> Float[Array, "*B D"]:
        """Latents of contexts o [*B, W, O], a [*B, W-1, A], valid [*B, W]."""
        x = context_rows(o, a, valid, params["scale"])
        if not self.recurrent:
            x = x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])
        return self.apply(params, "represent", x)

    def value(self, params, z: LatentState) -> Float[Array, " B"]:
        """Value in reward units: that of the member, or mean - pessimism * std of all."""
        logits = self.apply(params, "value", self._each(z.latent))
        values = support_to_scalar(logits, params["scale"]["value_support"])
        return self._lower(values, z.member)

    def predict(self, params, z: LatentState):
        """Value [B], prior outputs [B, P] and legality logits [B, A] of a state (MuZero's f)."""
        head = lambda name: self.apply(params, name, z.latent)
        return self.value(params, z), head("pi_logits"), head("legal_logits")

    def shown(self, params, member, now: Float[Array, "B O"], change, told: Float[Array, "E B O"]):
        """(next observation [B, O], how many deviations it lay outside the logged range [B], how
        much the members differ about it [B], in deviations) after the newest observation `now`,
        from what each base (`change` [E, B, O], None without) and each network say."""
        scale, each, unit = params["scale"], jnp.zeros_like(told), jnp.ones(told.shape[-1])
        if change is not None:
            left = scale["share"] * left_by(scale["base"], told)
            leads = now + scale["o_step"] * within(scale["base"], change + left)
            each, unit = stopped(scale["base"]["contacts"], leads), scale["o_std"]
        if not self.is_number.all():
            each = jnp.where(self.is_number, each, self._chances(told))
            unit = jnp.where(self.is_number, unit, 1.0)
        doubt = jnp.sqrt(jnp.mean(jnp.square(_deviation(each) / unit), axis=-1))
        mean, parts, outside, at = self._pick(each, member), [], 0.0, 0
        for kind, size in self.parts:
            part, x = slice(at, at + size), mean[..., at : at + size]
            at += size
            if kind == "categorical":
                parts.append(jax.nn.one_hot(jnp.argmax(x, -1), size))
            elif kind == "binary":
                parts.append((x > 0.5).astype(x.dtype))
            else:
                o, excess = _clipped(x, scale, part)
                parts.append(o)
                outside = jnp.maximum(outside, excess)
        return jnp.concatenate(parts, axis=-1), outside, doubt

    def _chances(self, told: Float[Array, "E B O"]) -> Float[Array, "E B O"]:
        """Probabilities of categories and bits."""
        found, at = [], 0
        for kind, size in self.parts:
            x = told[..., at : at + size]
            at += size
            found.append(jax.nn.softmax(x) if kind == "categorical" else jax.nn.sigmoid(x))
        return jnp.concatenate(found, axis=-1)

    def _reached(self, params, y: Afterstate, o: Float[Array, "B O"]) -> LatentState:
        """The state at observation `o`: the root of what was seen until there."""
        past, o = y.history, o[..., None, :]
        if past is None:
            none = jnp.zeros((*o.shape[:-2], 0, self.action_size))
            return self._at(params, y.member, o, none, jnp.ones((*o.shape[:-2], 1), bool))
        now = jnp.ones_like(past.valid[..., :1])
        o = jnp.concatenate([past.o, o], axis=-2)
        valid = jnp.concatenate([past.valid, now], axis=-1)
        return self._at(params, y.member, o, past.a, valid)

    def _at(self, params, member, o, a, valid) -> LatentState:
        """The state of contexts [B], carried on by `member`."""
        latent = self.encode(params, o, a, valid)
        x = flat_rows(o, a, valid, params["scale"]) if self.has_base else None
        history = None
        if self.window > 1:
            history = History(o[..., 1:, :], a[..., 1:, :], valid[..., 1:])
        return LatentState(latent, member, o[..., -1, :], x, history)

    def redrawn(self, params):
        """`params` with the draws of the base that nobody rehearsed in; None without a base."""
        if not self.has_base:
            return None
        base = params["scale"]["base"]
        base = base | {"weights": base["reserve"]}
        return params | {"scale": params["scale"] | {"base": base}}

    def value_span(self, params) -> Float[Array, ""]:
        """Width of the range that values usually take, in reward units."""
        return params["scale"]["v_range"]

    def heads_loss(self, params, targets: HeadTargets) -> dict[str, Float[Array, ""]]:
        """Cross-entropy of every member's value, and KL of the prior from what the teacher says;
        weighted means."""
        mean = lambda x, w: jnp.sum(x * w) / (jnp.sum(w) + 1e-6)
        target = scalar_to_support(targets.v, params["scale"]["value_support"])
        logits = self.apply(params, "value", self._each(targets.z.latent))
        value = optax.losses.softmax_cross_entropy(logits, jnp.broadcast_to(target, logits.shape))
        outputs = self.apply(params, "pi_logits", targets.taught_z.latent)
        prior = self.head.divergence(targets.pi, targets.proposals, outputs)
        return {
            "value_loss": mean(value.mean(0), targets.weight),
            "prior_loss": mean(prior, targets.taught_weight),
        }

    def heads(self, params):
        """The part of `params` that rehearsal improves: every member's value, and the prior."""
        net = params["net"]
        return {"value": net["member"]["value_net"], "policy": net["policy"]}

    def with_heads(self, params, heads):
        """`params` with these heads in place of its own."""
        member = params["net"]["member"] | {"value_net": heads["value"]}
        net = params["net"] | {"member": member, "policy": heads["policy"]}
        return params | {"net": net}

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

    def _surprise(self, params, z: LatentState, a: Float[Array, "B A"]) -> Float[Array, " B"]:
        """Nats by which the log's policy finds an action less likely than its likeliest one."""
        net = params["net"] | {"policy": params["behaviour"]}
        pi = self.apply({"net": net}, "pi_logits", z.latent)
        taken = self.head.imitation(self.head.target(a), pi)
        return taken + self.head.best(self.head.log_probs(pi))

    def _each(self, x):
        return jnp.broadcast_to(x, (self.num_members, *x.shape))

    def _pick(self, x: Float[Array, "E B ..."], member: Int[Array, " B"]):
        """Row b of member[b]; the mean over members where that is -1."""
        weights = jnp.where(
            member[None] < 0,
            1.0 / self.num_members,
            (jnp.arange(self.num_members)[:, None] == member[None]).astype(jnp.float32),
        )
        weights = weights.reshape(*weights.shape, *(1,) * (x.ndim - 2))
        return _over_members([each * weight for each, weight in zip(x, weights, strict=True)])

    def _lower(self, x: Float[Array, "E B"], member: Int[Array, " B"]):
        """As `_pick`, but mean - pessimism * std where the mean is asked for."""
        x_picked = self._pick(x, member)
        if self.pessimism == 0:
            return x_picked
        return jnp.where(member < 0, x_picked - self.pessimism * _deviation(x), x_picked)


def _over_members(terms: list) -> Any:
    """Their sum. On a CPU XLA reduces a leading axis number by number, 6 to 14 times slower."""
    return functools.reduce(jnp.add, terms)


def _deviation(x: Float[Array, "E ..."]) -> Float[Array, "..."]:
    """Standard deviation over the members."""
    mean = _over_members(list(x)) / len(x)
    return jnp.sqrt(_over_members([jnp.square(each - mean) for each in x]) / len(x))


def _clipped(o, scale: dict, part: slice):
    """(observation near the logged range, deviations outside of it [B])."""
    std, low, high = (scale[name][part] for name in ("o_std", "o_low", "o_high"))
    below, above = scale["margin"][:, part] * std
    o = jnp.clip(o, low - below, high + above)
    outside = jnp.maximum(o - high, low - o) / std
    return o, jnp.maximum(jnp.max(outside, axis=-1), 0.0)

"""EfficientZero's model of images behind the protocol of dreams and searches.

Its rewards are differences of value prefixes: the undiscounted sum of rewards since the last reset,
predicted by an LSTM that is reset every `prefix_horizon` steps.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Num, UInt8

from worldmodels.actions import ActionHead
from worldmodels.config import FrameModelConfig
from worldmodels.frames.networks import SIZES, FrameNetworks, usual_size
from worldmodels.frames.types import FrameAfterstate, PrefixState
from worldmodels.support import scalar_to_support, squash, support_to_scalar, unsquash
from worldmodels.types import HeadTargets, Prediction

ALWAYS = 3.0  # legality logit of every action


@dataclass(frozen=True)
class FrameModel:
    """Static shape of a model; every function takes params first and rows [B] after."""

    head: ActionHead
    frame: tuple[int, int, int]  # H, W and channels of one frame
    window: int = 4  # frames that a root sees
    size: str = "base"
    prefix_horizon: int = 5  # steps between resets of the value prefix; 1 = rewards, no LSTM
    bins: int = 601  # atoms of values and of value prefixes: whole numbers about 0, squashed
    num_codes: int = 1
    num_members: int = 1
    convolves: ClassVar[bool] = True
    compute: str = "float32"  # or bfloat16, where that is fast; params and outputs are float32

    @cached_property
    def networks(self) -> FrameNetworks:
        """The flax module of this shape."""
        return FrameNetworks(
            size=self.size,
            num_actions=self.head.size,
            reward_bins=self.bins,
            value_bins=self.bins,
            frame=self.frame,
            memory=self.memory,
        )

    @property
    def memory(self) -> int:
        """M, what each part of the LSTM's pair holds."""
        return SIZES[self.size][2] if self.prefix_horizon > 1 else 0

    @property
    def support(self) -> Float[Array, " S"]:
        """Atoms of squashed scalars."""
        return jnp.arange(self.bins, dtype=jnp.float32) - self.bins // 2

    def apply(self, params, method: str, *args) -> Any:
        """One method of the networks under `params`."""
        params, args = jax.tree_util.tree_map_with_path(self._lower, (params, args))
        out = self.networks.apply({"params": params}, *args, method=method)
        return jax.tree.map(lambda x: x.astype(jnp.float32), out)

    def _lower(self, path, x):
        """What convolutions and matrices compute with; norms and output layers stay as they are."""
        names = {getattr(part, "key", None) for part in path}
        return x if names & {"LayerNorm_0", "output"} else x.astype(self.compute)

    def init(self, key: jax.Array):
        """Fresh params; values and rewards begin at 0, the policy uniform."""
        height, width, channels = self.frame
        x = jnp.zeros((1, height, width, channels * self.window))
        a, memory = jnp.zeros((1, self.head.size)), self._forget(1)
        return jax.jit(self.networks.init)(key, x, a, memory)["params"]

    # The protocol

    def root(self, params, context) -> PrefixState:
        """The state of contexts [B] of real frames, 0 to 255, flat or not, oldest first."""
        return self.begin(self.encode(params, context.o))

    def afterstate(
        self, params, z: PrefixState, a: Float[Array, "B A"]
    ) -> tuple[Float[Array, "B 1"], FrameAfterstate]:
        """Nothing is left to chance."""
        return jnp.zeros((a.shape[0], 1)), FrameAfterstate(z, a)

    def outcome(
        self, params, y: FrameAfterstate, c: Int[Array, " B"]
    ) -> tuple[PrefixState, Prediction]:
        """Where an action leads, and what is earned on the way."""
        latent = self.apply(params, "step", y.z.latent, y.a)
        memory, logits = self.apply(params, "value_prefix", latent, y.z.memory)
        z, r = self.advance(y.z, latent, memory, self.scalar(logits))
        v, pi_logits, legal_logits = self.predict(params, z)
        goes_on = jax.nn.sigmoid(self.apply(params, "continuation", latent))
        return z, Prediction(r, goes_on, v, pi_logits, legal_logits, jnp.zeros_like(r))

    def predict(self, params, z: PrefixState):
        """Value [B], prior outputs [B, A] and legality logits [B, A] of a state (MuZero's f)."""
        v_logits, pi_logits = self.apply(params, "predict", z.latent)
        legal = jnp.full((z.latent.shape[0], self.head.size), ALWAYS)
        return self.scalar(v_logits), pi_logits, legal

    def decode(self, params, z: PrefixState) -> UInt8[Array, "B O"]:
        """The newest frame, flat, in bytes as a task shows it."""
        frame = 255 * jax.nn.sigmoid(self.apply(params, "decode", z.latent))
        return jnp.rint(frame).astype(jnp.uint8).reshape(frame.shape[0], -1)

    # What losses need beside it

    def encode(self, params, frames: Num[Array, "B V ..."]) -> Float[Array, "B h w C"]:
        """Latents of V = window frames, 0 to 255, flat or not, oldest first."""
        height, width, channels = self.frame
        x = frames.reshape(frames.shape[0], self.window, height, width, channels) / 255.0
        x = jnp.moveaxis(x, 1, 3).reshape(-1, height, width, self.window * channels)
        return self.apply(params, "represent", x)

    def begin(self, latent: Float[Array, "B h w C"]) -> PrefixState:
        """A state of which nothing has been earned yet."""
        rows = latent.shape[0]
        steps = jnp.zeros(rows, jnp.int32)
        return PrefixState(latent, self._forget(rows), jnp.zeros(rows), steps, steps - 1)

    def advance(self, z: PrefixState, latent, memory, value_prefix):
        """(state after a step, its reward [B]) from the value prefix that the step led to.

        The reward is a difference against the *parent's* prefix, which is 0 where the parent closed
        a window; the step that closes one keeps nothing for the next.
        """
        r = value_prefix - z.value_prefix
        closes = z.steps + 1 == self.prefix_horizon
        kept = lambda x: jnp.where(closes.reshape(-1, *(1,) * (x.ndim - 1)), 0, x)
        state = PrefixState(
            latent=latent,
            memory=(kept(memory[0]), kept(memory[1])),
            value_prefix=kept(value_prefix),
            steps=kept(z.steps + 1),
            member=z.member,
        )
        return state, r

    def scalar(self, logits: Float[Array, "*B S"]) -> Float[Array, "*B"]:
        """What logits over the support mean, in reward units."""
        return unsquash(support_to_scalar(logits, self.support))

    def _forget(self, rows: Any):
        nothing = jnp.zeros((rows, self.memory))
        return nothing, nothing


VALUE, POLICY = ("value_net", "value_head"), ("policy_net", "policy_head")
SURE = 6.0  # logit by which fresh heads prefer a value of 0


@dataclass(frozen=True)
class FrameWorldModel(FrameModel):
    """An `FrameModel` fitted on a log; it has one member, so it never disagrees with itself.

    `behaviour_penalty` is the uncertainty per nat by which an action is less likely than the
    likeliest to the log's own policy (params["behaviour"]).
    """

    behaviour_penalty: float = 0.0

    @property
    def num_actions(self) -> int:
        """P, outputs of the policy."""
        return self.head.num_outputs

    @property
    def action_size(self) -> int:
        """A, features of an action."""
        return self.head.size

    def apply(self, params, method: str, *args) -> Any:
        """One method of the networks under `params`."""
        return super().apply(params["net"], method, *args)

    def init(self, key: jax.Array, scale: dict | None = None):
        """Fresh params with the given normalisers."""
        return {"net": super().init(key), "scale": scale or {}}

    def outcome(self, params, y: FrameAfterstate, c):
        """Where an action leads, and what is earned on the way."""
        z, prediction = super().outcome(params, y, c)
        if self.behaviour_penalty:
            surprise = self.behaviour_penalty * self._surprise(params, y)
            prediction = prediction.replace(uncertainty=prediction.uncertainty + surprise)
        return z, prediction

    def value_span(self, params) -> Float[Array, ""]:
        """Width of the range that values usually take, in reward units."""
        return params["scale"]["v_range"]

    def heads(self, params):
        """The part of `params` that rehearsal improves: the value, and the prior."""
        part = lambda names: {name: params["net"][name] for name in names}
        return {"value": part(VALUE), "policy": part(POLICY)}

    def with_heads(self, params, heads):
        """`params` with these heads in place of its own."""
        return params | {"net": params["net"] | heads["value"] | heads["policy"]}

    def fresh_heads(self, params, key):
        """Heads that know nothing: every value 0, no preference (see `WorldModel`)."""
        heads = self.heads(self.init(key))
        output = heads["value"]["value_head"]["output"]
        zero = scalar_to_support(jnp.float32(0), self.support)
        output = output | {"bias": output["bias"] + SURE * zero}
        head = heads["value"]["value_head"] | {"output": output}
        return heads | {"value": heads["value"] | {"value_head": head}}

    def heads_loss(self, params, targets: HeadTargets) -> dict[str, Float[Array, ""]]:
        """Cross-entropy of the value, and KL of the prior from what the teacher says; weighted
        means."""
        mean = lambda x, w: jnp.sum(x * w) / (jnp.sum(w) + 1e-6)
        v_logits, _ = self.apply(params, "predict", targets.z.latent)
        target = scalar_to_support(squash(targets.v), self.support)
        value = optax.losses.softmax_cross_entropy(v_logits, target)
        _, outputs = self.apply(params, "predict", targets.taught_z.latent)
        prior = self.head.divergence(targets.pi, targets.proposals, outputs)
        return {
            "value_loss": mean(value, targets.weight),
            "prior_loss": mean(prior, targets.taught_weight),
        }

    def _surprise(self, params, y: FrameAfterstate) -> Float[Array, " B"]:
        """Nats by which the log's policy finds an action less likely than its likeliest one."""
        known = params | {"net": params["net"] | params["behaviour"]}
        _, pi = self.apply(known, "predict", y.z.latent)
        return self.head.imitation(self.head.target(y.a), pi) + self.head.best(
            self.head.log_probs(pi)
        )


def make_frame_model(
    config: FrameModelConfig, frame: tuple[int, int, int], window: int, head: ActionHead
) -> FrameWorldModel:
    """The model of `config` for `window` frames [H, V, F] and actions of `head`."""
    return FrameWorldModel(
        head=head,
        frame=frame,
        window=window,
        size=usual_size(*frame[:2]) if config.size == "auto" else config.size,
        prefix_horizon=config.prefix_horizon,
        bins=config.bins,
    )

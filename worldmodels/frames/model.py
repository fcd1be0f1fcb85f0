"""EfficientZero's model of images behind the protocol of dreams and searches.

Its rewards are differences of value prefixes: the undiscounted sum of rewards since the last reset,
predicted by an LSTM that is reset every `prefix_horizon` steps.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num, UInt8

from worldmodels.actions import ActionHead
from worldmodels.frames.networks import SIZES, FrameNetworks
from worldmodels.frames.types import FrameAfterstate, PrefixState
from worldmodels.support import support_to_scalar, unsquash
from worldmodels.types import Prediction

ALWAYS = 3.0  # legality logit of every action


def compute_of(choice: str) -> str:
    """What networks compute with; "auto" is bfloat16 where there is an accelerator."""
    if choice != "auto":
        return choice
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


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
    error_heads: int = 0  # that tell how much a decoded frame errs
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
            error_heads=self.error_heads,
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
        params, args = self.lowered((params, args))
        out = self.networks.apply({"params": params}, *args, method=method)
        return jax.tree.map(lambda x: x.astype(jnp.float32), out)

    def lowered(self, params):
        """`params` as `apply` computes with them. `apply` does this itself, but what a loop is not
        given like this it casts anew in every iteration."""
        return jax.tree_util.tree_map_with_path(self._lower, params)

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

"""The dream: a model that is stepped like a task, as pure functions of (params, state, action).

Each row draws only from its own key, so its future depends on its key and its actions alone,
never on its neighbours. Gymnasium's face is put on in `shells.py`.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from envs.types import Context, EnvError, container, roll_context

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int, Num, UInt32

SAMPLINGS = ("member", "mixture", "mean")


@container
class DreamState:
    """Where B dreams stand."""

    z: Any  # latent state of the model, with `member` int32 [B], -1 = the mean of all
    context: Context  # what a student sees
    elapsed: Int[Array, " B"]  # dreamed steps since the dream began
    key: UInt32[Array, "B 2"]  # raw key data, used up by each call


@container
class DreamStep:
    """What B dreams show after `initial` or `step`."""

    o: Num[Array, "B O"]  # observation features, in real units, not yet clipped to the space
    r: Float[Array, " B"]  # reward of the step, 0 at the beginning
    terminated: Bool[Array, " B"]  # drawn from `continuation`
    continuation: Float[Array, " B"]
    uncertainty: Float[Array, " B"]
    legal: Bool[Array, "B A"]
    member: Int[Array, " B"]
    v: Float[Array, " B"]  # value of the state reached


def _keys(key: UInt32[Array, "B 2"], num: int) -> list[Any]:
    """`num` independent keys for each row of raw key data."""
    split = jax.vmap(lambda k: jax.random.split(jax.random.wrap_key_data(k), num))(key)
    return [split[:, i] for i in range(num)]


@dataclass(frozen=True)
class Dream:
    """A model as a task. `sampling` says who dreams.

    "member": one member drawn at the beginning of each dream; "mixture": a member drawn afresh
    at each step; "mean": all members averaged.
    """

    model: Any
    _: dataclasses.KW_ONLY
    sampling: str = "member"

    def __post_init__(self):
        if self.sampling not in SAMPLINGS:
            raise EnvError(f"sampling={self.sampling!r} is unknown; choose one of {SAMPLINGS}")

    def _draw_member(self, key: Any) -> Int[Array, " B"]:
        if self.sampling == "mean":
            return jnp.full(key.shape, -1, jnp.int32)
        draw = lambda k: jax.random.randint(k, (), 0, self.model.num_members, jnp.int32)
        return jax.vmap(draw)(key)

    def _happens(self, params: Any, y: Any, c: Int[Array, " B"], key: Any) -> tuple[Any, Any]:
        """Where code `c` leads; a model that can `sample` draws what is left open within it."""
        if not hasattr(self.model, "sample"):
            return self.model.outcome(params, y, c)
        return self.model.sample(params, y, c, jax.random.key_data(key))

    def initial(
        self, params: Any, context: Context, key: UInt32[Array, "B 2"]
    ) -> tuple[DreamState, DreamStep]:
        """Begin a dream at the newest observation of each context."""
        next_key, member_key = _keys(key, 2)
        member = self._draw_member(member_key)
        z = dataclasses.replace(self.model.root(params, context), member=member)
        v, _, legal_logits = self.model.predict(params, z)
        zeros = jnp.zeros(member.shape, jnp.float32)
        state = DreamState(z, context, jnp.zeros_like(member), jax.random.key_data(next_key))
        return state, DreamStep(
            o=context.o[:, -1],
            r=zeros,
            terminated=jnp.zeros(member.shape, bool),
            continuation=zeros + 1,
            uncertainty=zeros,
            legal=legal_logits > 0,
            member=member,
            v=v,
        )

    def step(
        self, params: Any, state: DreamState, a: Float[Array, "B A"]
    ) -> tuple[DreamState, DreamStep]:
        """Dream one step: o[t], a[t] -> r[t], terminated[t], o[t+1]."""
        next_key, member_key, chance_key, end_key, within_key = _keys(state.key, 5)
        z = state.z
        if self.sampling == "mixture":
            z = dataclasses.replace(z, member=self._draw_member(member_key))
        chance_logits, y = self.model.afterstate(params, z, a)
        c = jax.vmap(jax.random.categorical)(chance_key, chance_logits).astype(jnp.int32)
        z, prediction = self._happens(params, y, c, within_key)
        o = self.model.decode(params, z)
        u = jax.vmap(jax.random.uniform)(end_key)  # in [0, 1): continuation 1 never ends
        context = roll_context(state.context, a, o)
        state = DreamState(z, context, state.elapsed + 1, jax.random.key_data(next_key))
        return state, DreamStep(
            o=o,
            r=prediction.r,
            terminated=u >= prediction.continuation,
            continuation=prediction.continuation,
            uncertainty=prediction.uncertainty,
            legal=prediction.legal_logits > 0,
            member=z.member,
            v=prediction.v,
        )


@dataclass(frozen=True, eq=False)
class World:
    """All that is needed to dream of a task, in memory or loaded from a file.

    `starts` are rows of contexts that really happened; `initial` marks those that begin an
    episode. `u_max` is the uncertainty above which a step is not to be trusted.
    """

    model: Any
    params: Any
    observation_space: gymnasium.Space
    action_space: gymnasium.Space
    horizon: int
    starts: Context  # numpy arrays, N rows
    initial: Bool[np.ndarray, " N"]
    u_max: float = float("inf")
    card: dict[str, Any] = field(default_factory=dict)
    make_dream: Callable[..., Any] = Dream

    @cached_property
    def fingerprint(self) -> str:
        """A digest of all numbers of this world: weights, starts and spaces."""
        digest = hashlib.sha256(repr((self.observation_space, self.action_space)).encode())
        for x in jax.tree.leaves((self.params, self.starts, self.initial)):
            digest.update(repr((x.shape, x.dtype)).encode())
            digest.update(np.asarray(x).tobytes())
        return digest.hexdigest()

    def dream(self, sampling: str = "member") -> Any:
        """The pure core: an object with `initial` and `step` as `Dream` has them."""
        return self.make_dream(self.model, sampling=sampling)


def start_context(o: Float[np.ndarray, "N O"], action_size: int) -> Context:
    """Contexts of one observation (W = 1) at the beginning of an episode."""
    fields: dict[str, Any] = {
        "o": np.asarray(o, np.float32)[:, None],
        "a": np.zeros((len(o), 0, action_size), np.float32),
        "elapsed": np.zeros((len(o), 1), np.int32),
        "valid": np.ones((len(o), 1), bool),
    }
    return Context(**fields)


def in_tiles(function: Callable[..., Any], rows: int) -> Callable[..., Any]:
    """`function(params, *batch)` compiled to run `rows` rows at a time.

    A plain jit rounds differently at different batch sizes; one body over fixed tiles gives
    each row the same bits in every batch.
    """

    def run(params: Any, *batch: Any) -> Any:
        size = jax.tree.leaves(batch)[0].shape[0]
        num_tiles = -(-size // rows)

        def cut(x: Any) -> Any:
            x = jnp.pad(x, [(0, num_tiles * rows - size)] + [(0, 0)] * (x.ndim - 1))
            return x.reshape(num_tiles, rows, *x.shape[1:])

        out = jax.lax.map(lambda tile: function(params, *tile), jax.tree.map(cut, batch))
        join = lambda x: x.reshape(num_tiles * rows, *x.shape[2:])[:size]
        return jax.tree.map(join, out)

    return jax.jit(run)

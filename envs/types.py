"""The recorded episode, the context a model is rooted in, and spaces as feature vectors.

Time, once and everywhere: `o[t], a[t] -> r[t], terminated[t], truncated[t], o[t+1]`.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, dataclass_transform

import gymnasium
import jax
import numpy as np
from gymnasium.spaces import Box, Discrete

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int


class UserError(ValueError):
    """A failure its reader can mend. One line: what, where, what to do."""


class TraceError(UserError):
    """A trace, or a file that stores traces, is not what it claims to be."""


class SpaceError(UserError):
    """A space, or a value that does not lie in it."""


class EnvError(UserError):
    """A real task that cannot be made or stepped."""


class DreamFileError(UserError):
    """A portable dream file that cannot be read or trusted."""


@dataclass_transform(frozen_default=True)
def container(cls):
    """A frozen dataclass that JAX treats as a pytree of its fields."""
    cls = dataclass(frozen=True)(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    return jax.tree_util.register_dataclass(cls, data_fields=names, meta_fields=[])


@container
class Context:
    """What a model is rooted in: the last W observations, oldest first, o[W-1] the newest."""

    o: Float[Array, "*B W O"]  # observation features, in real units
    a: Float[Array, "*B V A"]  # V = W - 1 action features: a[w] lies between o[w] and o[w+1]
    elapsed: Int[Array, "*B W"]  # steps since the episode began
    valid: Bool[Array, "*B W"]  # False before the episode began


@container
class Prediction:
    """What a model says of one step that was just taken."""

    r: Float[Array, " *B"]  # reward, in real units
    continuation: Float[Array, " *B"]  # probability that the task has not ended
    v: Float[Array, " *B"]  # value of the state reached, in reward units
    pi_logits: Float[Array, "*B N"]  # search prior at the state reached, N actions
    legal_logits: Float[Array, "*B N"]  # > 0: the action is legal at the state reached
    uncertainty: Float[Array, " *B"]  # disagreement of the members, 0 = none


def roll_context(context: Context, a: Float[Array, "*B A"], o: Float[Array, "*B O"]) -> Context:
    """The context one step later: the oldest observation leaves, `a` and `o` enter."""
    jnp = jax.numpy
    shift = lambda old, new: jnp.concatenate([old, new[..., None, :]], axis=-2)[..., 1:, :]
    later = lambda old, new: jnp.concatenate([old, new[..., None]], axis=-1)[..., 1:]
    elapsed = context.elapsed[..., -1] + 1
    return Context(
        o=shift(context.o, o),
        a=shift(context.a, a) if context.a.shape[-2] else context.a,
        elapsed=later(context.elapsed, elapsed),
        valid=later(context.valid, jnp.ones_like(context.valid[..., -1])),
    )


class Features:
    """A space as a float32 vector: `Box` flattened, `Discrete` one-hot.

    `size` is the length of the vector. `kind` is "box" or "discrete".
    """

    def __init__(self, space: gymnasium.Space, name: str = "observation"):
        if isinstance(space, Box) and np.issubdtype(space.dtype, np.number):
            self.kind, self.size = "box", math.prod(space.shape)
        elif isinstance(space, Discrete):
            self.kind, self.size = "discrete", int(space.n)
        else:
            raise SpaceError(
                f"{name} space {space} is not supported; supported are Box and Discrete "
                "(wrap the task, for example with gymnasium.wrappers.FlattenObservation)"
            )
        if self.size == 0:
            raise SpaceError(f"{name} space {space} is empty")
        self.space: Any = space
        self.parts = (("categorical" if self.kind == "discrete" else "box", self.size),)
        self.is_box = np.full(self.size, self.kind == "box")
        self.factors = (self.size,) if self.kind == "discrete" else ()

    def flatten(self, x: Any) -> np.ndarray:
        """float32 [*B, size] of a batch of values [*B, *space.shape]."""
        if self.kind == "discrete":
            return np.eye(self.size, dtype=np.float32)[np.asarray(x) - self.space.start]
        x = np.asarray(x, np.float32)
        return x.reshape(*x.shape[: x.ndim - len(self.space.shape)], self.size)

    def unflatten(self, features: np.ndarray) -> np.ndarray:
        """Values [*B, *space.shape] inside the space of features [*B, size]: nearest, clipped."""
        features = np.asarray(features)
        if self.kind == "discrete":
            return (features.argmax(-1) + self.space.start).astype(self.space.dtype)
        x = features.reshape(*features.shape[:-1], *self.space.shape)
        if np.issubdtype(self.space.dtype, np.integer):
            x = np.rint(x)
        return np.clip(x, self.space.low, self.space.high).astype(self.space.dtype)


def action_features(space: gymnasium.Space) -> Features:
    """Features of an action space; only finite spaces can be searched."""
    if not isinstance(space, Discrete):
        raise SpaceError(
            f"action space {space} is not supported; supported is Discrete "
            "(wrap the task so that its actions are numbered)"
        )
    return Features(space, "action")


def _ending(flag: Any, steps: int, name: str) -> np.ndarray:
    """bool[T] of a flag per step, or of one scalar that speaks of the last step."""
    flag = np.asarray(flag)
    if flag.dtype != bool and not np.isin(flag, (0, 1)).all():
        raise TraceError(f"{name} must be true or false, got {flag.dtype}")
    if flag.ndim == 0:
        out = np.zeros(steps, bool)
        out[-1:] = bool(flag)
        return out
    if flag.shape != (steps,):
        raise TraceError(f"{name} has shape {flag.shape}, expected ({steps},) or a scalar")
    return flag.astype(bool)


def space_to_json(space: gymnasium.Space) -> dict:
    """The space as plain JSON values (no infinity, no pickle), for `space_from_json`."""
    if isinstance(space, Discrete):
        n, start, dtype = int(space.n), int(space.start), np.dtype(space.dtype).name
        return {"type": "Discrete", "n": n, "start": start, "dtype": dtype}
    Features(space)  # raises for what is not supported
    assert isinstance(space, Box)

    def bounds(x: np.ndarray) -> Any:
        values = [value if np.isfinite(value) else str(value) for value in x.ravel().tolist()]
        return values[0] if len({*map(repr, values)}) == 1 else values

    low, high = bounds(space.low), bounds(space.high)
    shape, dtype = list(space.shape), np.dtype(space.dtype).name
    return {"type": "Box", "shape": shape, "dtype": dtype, "low": low, "high": high}


def space_from_json(data: Any) -> Box | Discrete:
    """The space that `space_to_json` described, bound for bound, or `SpaceError`."""

    def bounds(x: Any, shape: tuple, dtype: np.dtype) -> np.ndarray:
        values = x if isinstance(x, list) else [x] * math.prod(shape)
        values = [float(value) if isinstance(value, str) else value for value in values]
        return np.array(values).astype(dtype).reshape(shape)

    try:
        if data["type"] == "Discrete":
            dtype = np.dtype(data["dtype"]).type  # Gymnasium 1.2 knows int64 alone
            options: Any = {} if dtype is np.int64 else {"dtype": dtype}
            return Discrete(data["n"], start=data["start"], **options)
        if data["type"] != "Box":
            raise ValueError("its type is neither")
        shape, dtype = tuple(data["shape"]), np.dtype(data["dtype"])
        low, high = (bounds(data[name], shape, dtype) for name in ("low", "high"))
        return Box(low, high, shape, dtype.type)
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise SpaceError(f"{data!r} does not describe a Box or Discrete space: {error}") from error


@dataclass(frozen=True, eq=False)
class Trace:
    """One recorded real episode of T steps.

    `observations` is an array (or a pytree of arrays; a list is taken as rows) with T + 1
    rows, `actions` and
    `rewards` have T rows, `terminated` and `truncated` are bool[T] or a scalar bool that
    means the last step. At most one of them is true, at step T - 1; neither means that the
    recorder was cut and the episode is still open. `propensities[t]` is the probability with
    which the behaviour took `actions[t]`; `action_masks` has T + 1 rows, true = legal;
    `times` has T + 1 rows, in seconds.

    Raises `TraceError` for lengths, flags, NaN or infinite numbers that break this.
    """

    observations: Any
    actions: np.ndarray
    rewards: np.ndarray
    terminated: Any
    truncated: Any
    _: dataclasses.KW_ONLY
    propensities: np.ndarray | None = None
    action_masks: np.ndarray | None = None
    times: np.ndarray | None = None
    session: str | None = None
    policy: str | None = None
    review: float | None = None

    def __post_init__(self):
        put = lambda name, value: object.__setattr__(self, name, value)
        rows = self.observations
        is_rows = isinstance(rows, list)
        put("observations", _array(rows) if is_rows else jax.tree.map(_array, rows))
        put("actions", _array(self.actions, "actions"))
        put("rewards", _array(self.rewards, "rewards", np.float64))
        if self.actions.ndim == 0:
            raise TraceError("actions must hold one row per step, got a single value")
        steps = len(self.actions)
        if steps == 0:
            raise TraceError("a trace needs at least one step, got none")
        if self.rewards.shape != (steps,):
            raise TraceError(f"rewards have shape {self.rewards.shape}, expected ({steps},)")
        put("terminated", _ending(self.terminated, steps, "terminated"))
        put("truncated", _ending(self.truncated, steps, "truncated"))
        ends = self.terminated | self.truncated
        if ends[:-1].any():
            row = int(np.argmax(ends))
            raise TraceError(f"the episode ends at step {row} but has {steps} steps; cut it there")
        if (self.terminated & self.truncated).any():
            raise TraceError("the last step is both terminated and truncated; keep terminated")
        for leaf in jax.tree.leaves(self.observations):
            if leaf.ndim == 0 or len(leaf) != steps + 1:
                raise TraceError(
                    f"observations have shape {leaf.shape}, expected {steps + 1} rows "
                    f"for {steps} actions (the observation after the last step counts)"
                )
            _finite(leaf, "observation")
        _finite(self.actions, "action")
        _finite(self.rewards, "reward")
        self._check_optional("propensities", np.float64, (steps,))
        self._check_optional("action_masks", np.bool_, (steps + 1, None))
        self._check_optional("times", np.float64, (steps + 1,))
        if self.propensities is not None:
            bad = ~((self.propensities > 0) & (self.propensities <= 1))
            if bad.any():
                row = int(np.argmax(bad))
                raise TraceError(
                    f"propensity at step {row} is {self.propensities[row]}, expected in (0, 1]"
                )

    def _check_optional(self, name: str, dtype: type, shape: tuple) -> None:
        if getattr(self, name) is None:
            return
        value = _array(getattr(self, name), name, dtype)
        matches = [size in (None, got) for size, got in zip(shape, value.shape, strict=False)]
        if value.ndim != len(shape) or not all(matches):
            wanted = str(shape).replace("None", "A")
            raise TraceError(f"{name} has shape {value.shape}, expected {wanted}")
        _finite(value, name)
        object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def is_open(self) -> bool:
        """True when the recorder was cut: neither terminated nor truncated."""
        return not (self.terminated[-1] or self.truncated[-1])


def _array(x: Any, name: str = "observations", dtype: Any = None) -> np.ndarray:
    """`x` as an array of numbers, or `TraceError` (rows of different shapes, text, objects)."""
    try:
        array = np.asarray(x, dtype)
    except (ValueError, TypeError) as error:
        raise TraceError(f"{name} are not rows of numbers of one shape: {error}") from error
    if array.dtype.kind not in "biuf":
        raise TraceError(f"{name} hold {array.dtype}, expected numbers")
    return array


def _finite(x: np.ndarray, name: str) -> None:
    if np.issubdtype(x.dtype, np.inexact) and not np.isfinite(x).all():
        row = int(np.argmax(~np.isfinite(x).reshape(len(x), -1).all(-1)))
        raise TraceError(
            f"{name} at step {row} is not finite ({x[row]}); repair or drop the episode"
        )

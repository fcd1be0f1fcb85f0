"""The recorded episode (`Trace`), and the input of models and policies (`Context`).

Time, once and everywhere: `o[t], a[t] -> r[t], terminated[t], truncated[t], o[t+1]`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, dataclass_transform

import jax
import numpy as np

from envs.errors import DreamFileError, EnvError, SpaceError, TraceError, UserError
from envs.features import ActionFeatures, Features, action_features
from envs.jsonspaces import space_from_json, space_to_json

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int, Num

__all__ = [
    "ActionFeatures",
    "Context",
    "DreamFileError",
    "EnvError",
    "Features",
    "Prediction",
    "SpaceError",
    "Trace",
    "TraceError",
    "UserError",
    "action_features",
    "container",
    "roll_context",
    "space_from_json",
    "space_to_json",
]


@dataclass_transform(frozen_default=True)
def container(cls):
    """A frozen dataclass that JAX treats as a pytree of its fields."""
    cls = dataclass(frozen=True)(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    return jax.tree_util.register_dataclass(cls, data_fields=names, meta_fields=[])


@container
class Context:
    """Input of models and policies: the last W observations, oldest first, o[W-1] the newest."""

    o: Num[Array, "*B W O"]  # observation features, in real units; frames as bytes (uint8)
    a: Float[Array, "*B V A"]  # V = W - 1 action features: a[w] lies between o[w] and o[w+1]
    elapsed: Int[Array, "*B W"]  # steps since the episode began
    valid: Bool[Array, "*B W"]  # False before the episode began


@container
class Prediction:
    """A model's prediction of one step."""

    r: Float[Array, " *B"]  # reward, in real units
    continuation: Float[Array, " *B"]  # probability that the task has not ended
    v: Float[Array, " *B"]  # value of the state reached, in reward units
    pi_logits: Float[Array, "*B P"]  # policy outputs (search prior) at the state reached
    legal_logits: Float[Array, "*B A"]  # > 0: the entry is legal at the state reached
    uncertainty: Float[Array, " *B"]  # how far the step may be wrong, 0 = not at all


def roll_context(context: Context, a: Float[Array, "*B A"], o: Num[Array, "*B O"]) -> Context:
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


def _ending(flag: Any, steps: int, name: str) -> np.ndarray:
    """bool[T] from a flag per step, or from a scalar flag of the last step."""
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


@dataclass(frozen=True, eq=False)
class Trace:
    """One recorded real episode of T steps.

    `observations` is an array with T + 1 rows, or nested dicts and tuples of such arrays; a list
    is a list of rows. `actions` and `rewards` have T rows, `terminated` and `truncated` are
    bool[T], or a scalar bool for the last step. At most one of them is true, at step T - 1; if
    neither is, the recording was cut off and the episode is open.
    `propensities[t]` is the probability with which the behaviour took `actions[t]` (None for
    actions that have densities). `action_masks` has T + 1 rows, true = legal, with an entry for
    each value of each factor of the action, concatenated: every row must allow some action, except
    the row after a termination.
    `times` has T + 1 rows, in seconds. `consent` is False if nobody may learn from the episode, and
    `keep_until` the time (seconds since 1970) from which nobody may any more.

    Raises `TraceError` for lengths, flags or masks that break this, and for NaN and infinity.
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
    consent: bool | None = None
    keep_until: float | None = None

    def __post_init__(self):
        put = lambda name, value: object.__setattr__(self, name, value)
        leaves: dict[str, np.ndarray] = {}
        put("observations", _observations(self.observations, "observation", leaves))
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
        for name, leaf in leaves.items():
            if leaf.ndim == 0 or len(leaf) != steps + 1:
                raise TraceError(
                    f"{name} has shape {leaf.shape}, expected {steps + 1} rows "
                    f"for {steps} actions (the observation after the last step counts)"
                )
            _finite(leaf, name)
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
        if (masks := self.needed_masks) is not None and not masks.any(1).all():
            row = int(np.argmin(masks.any(1)))
            raise TraceError(f"the action mask at row {row} forbids every action; true means legal")

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
    def needed_masks(self) -> np.ndarray | None:
        """The action masks of rows at which an action can follow: all but a terminal row."""
        if self.action_masks is None or not self.terminated[-1]:
            return self.action_masks
        return self.action_masks[:-1]

    def may_be_used(self, now: float) -> bool:
        """Whether consent and retention allow to learn from the episode at `now` (since 1970)."""
        return self.consent is not False and (self.keep_until is None or now < self.keep_until)

    @property
    def is_open(self) -> bool:
        """True if the recording was cut off: neither terminated nor truncated."""
        return not (self.terminated[-1] or self.truncated[-1])


def _observations(x: Any, name: str, leaves: dict[str, np.ndarray]) -> Any:
    """`x` with every leaf as an array of rows; also adds the arrays to `leaves` by name."""
    if isinstance(x, list) and isinstance(x[0] if x else None, dict):
        x = _columns(x, name)
    if isinstance(x, dict):
        return {key: _observations(x[key], f"{name}.{key}", leaves) for key in x}
    if isinstance(x, tuple):
        return tuple(_observations(each, f"{name}.{i}", leaves) for i, each in enumerate(x))
    leaves[name] = _array(x, name)
    return leaves[name]


def _columns(rows: list, name: str) -> dict[str, list]:
    """From a list of dicts with the same keys to a dict of lists."""
    shown = lambda row: f"the keys {', '.join(map(str, row))}" if isinstance(row, dict) else "none"
    for i, row in enumerate(rows):
        if not isinstance(row, dict) or row.keys() != rows[0].keys():
            raise TraceError(f"{name} at row {i} has {shown(row)}, at row 0 {shown(rows[0])}")
    return {key: [row[key] for row in rows] for key in rows[0]}


def _array(x: Any, name: str, dtype: Any = None) -> np.ndarray:
    """`x` as an array of numbers, or `TraceError` (rows of different shapes, text, objects)."""
    try:
        array = np.asarray(x, dtype)
    except (ValueError, TypeError) as error:
        line = " ".join(str(error).split())
        raise TraceError(f"{name}: not rows of numbers of one shape: {line}") from error
    if array.dtype.kind not in "biuf":
        raise TraceError(f"{name}: rows of {array.dtype}, expected numbers")
    return array


def _finite(x: np.ndarray, name: str) -> None:
    if x.dtype.kind in "fc" and not np.isfinite(x).all():
        row = int(np.argmax(~np.isfinite(x).reshape(len(x), -1).all(-1)))
        raise TraceError(
            f"{name} at step {row} is not finite ({x[row]}); repair or drop the episode"
        )

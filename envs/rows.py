"""N dreams on the host: what both Gymnasium shells share."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gymnasium
import jax
import numpy as np
from gymnasium.spaces import Box, Discrete

from envs import forks
from envs.dream import World, in_tiles
from envs.dreamfile import load_world
from envs.types import DreamFileError, EnvError, Features, SpaceError, action_features

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, UInt32

TILE_ROWS_CPU, TILE_ROWS = 16, 1024  # small tiles keep a single env fast on a CPU
INFO = ("uncertainty", "trusted", "member", "action_mask")
CHOICES = {
    "starts": ("initial", "any"),
    "sampling": ("member", "mixture", "mean"),
    "unknown": ("continue", "truncate", "terminate"),
    "observations": ("decoded", "latent"),
}


@dataclass(frozen=True)
class Options:
    """The options of a dream environment.

    A step is unknown when its uncertainty exceeds the world's `u_max`.
    """

    horizon: int | None = None  # steps until truncation; None: the world's own
    starts: str = "initial"  # dreams begin at first observations, or at "any" logged step
    sampling: str = "member"  # see `Dream`
    penalty: float = 0.0  # reward given up per unit of uncertainty
    unknown: str = "continue"  # at an unknown step: "continue", "truncate" or "terminate"
    observations: str = "decoded"  # "decoded" as in the real task, or "latent" vectors

    def __post_init__(self):
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise EnvError(
                    f"{name}={getattr(self, name)!r} is unknown; choose one of {choices}"
                )
        if self.horizon is not None and (self.horizon != int(self.horizon) or self.horizon < 1):
            raise EnvError(f"horizon={self.horizon} is not a number of steps; give 1 or more")
        if not np.isfinite(self.penalty):
            raise EnvError(f"penalty={self.penalty} is not finite; give a number such as 0.0")


@dataclass
class Seen:
    """Outputs of N dreams as arrays [N, ...]; they are copies, so callers may change them."""

    o: Any  # a batch of observations: an array, or a dict or tuple of arrays
    r: Float[np.ndarray, " N"]
    terminated: Bool[np.ndarray, " N"]
    truncated: Bool[np.ndarray, " N"]
    uncertainty: Float[np.ndarray, " N"]
    trusted: Bool[np.ndarray, " N"]
    member: Int[np.ndarray, " N"]
    action_mask: Int[np.ndarray, "N A"]

    def put(self, rows: Int[np.ndarray, " M"], other: Seen, names: tuple[str, ...]) -> None:
        """Replace the fields `names` of `rows` by the M rows of `other`."""
        for name in names:
            place(getattr(self, name), rows, getattr(other, name))

    def spread(self, rows: Int[np.ndarray, " M"], num: int) -> Seen:
        """`num` rows with these M dreams at `rows` and zeros elsewhere."""

        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        out = jax.tree.map(lambda x: np.zeros((num, *x.shape[1:]), x.dtype), fields)
        place(out, rows, fields)
        return Seen(**out)

    def info(self, mask: Bool[np.ndarray, " N"]) -> dict[str, Any]:
        """Gymnasium's vector info, present where `mask` is true."""
        out = {}
        for name in INFO:
            value = getattr(self, name)
            out[name] = np.where(column(mask, value), value, np.zeros((), value.dtype))
            out["_" + name] = mask.copy()
        return out


def place(values: Any, rows: Int[np.ndarray, " M"], new: Any) -> None:
    """Write the M rows of `new` into `rows` of arrays, in any nesting of both."""
    jax.tree.map(lambda old, x: old.__setitem__(rows, x), values, new)


def _tile_rows() -> int:
    return TILE_ROWS_CPU if jax.default_backend() == "cpu" else TILE_ROWS


def column(mask: Bool[np.ndarray, " N"], like: np.ndarray) -> np.ndarray:
    """The mask reshaped to [N, 1, ...] with the number of axes of `like`."""
    return mask.reshape(-1, *[1] * (like.ndim - 1))


@functools.lru_cache(maxsize=64)
def _programs(dream: Any) -> tuple[Any, Any]:
    """`initial` and `step` compiled over tiles, without the outputs that the shells do not use."""

    def lean(function: Any) -> Any:
        def run(*args: Any) -> Any:
            state, step = function(*args)
            return state, (step.o, step.r, step.terminated, step.uncertainty, step.legal)

        return in_tiles(run, _tile_rows())

    return lean(dream.initial), lean(dream.step)


@jax.jit
def _replaced(state: Any, rows: Any, new: Any) -> Any:
    """`state` with its `rows` replaced by those of `new`, where they are."""
    return jax.tree.map(lambda old, x: old.at[rows].set(x, mode="drop"), state, new)


class Rows:
    """N dreams side by side. Each step is one compiled call; the state stays on the device."""

    def __init__(
        self, world: World, num: int, options: Options, file: tuple[str, bool] | None = None
    ):
        """`file` is (path, trust) of the file that the world was loaded from."""
        forks.check()
        forks.note_use()
        self.world, self.num, self.options, self.file = world, num, options, file
        self.features = Features(world.observation_space)
        self.actions = action_features(world.action_space)
        self.pool = np.flatnonzero(world.initial | (options.starts == "any"))
        if not len(self.pool):
            raise EnvError("the world holds no episode start; make the env with starts='any'")
        self.horizon = options.horizon or world.horizon
        self.programs = _programs(world.dream(options.sampling))
        self._one_hot = np.eye(self.actions.size, dtype=np.float32)
        self.state: Any = None

    def __deepcopy__(self, memo: dict) -> Rows:
        """The same dreams; neither worlds nor states change, so copies share them."""
        other = Rows(self.world, self.num, self.options, self.file)
        other.state = self.state
        return other

    def __getstate__(self) -> dict[str, Any]:
        """What a pickle holds: the file of the world, not the world."""
        if self.file is None:
            raise EnvError(
                "the world of this dream lies in memory alone; write it with "
                "envs.dreamfile.write_dream and make the dream by its path, to pickle it"
            )
        state = [np.asarray(x) for x in jax.tree.leaves(self.state)]
        made = {"num": self.num, "options": self.options, "file": self.file}
        return made | {"world": self.world.fingerprint, "state": state}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        forks.check()
        path, trust = saved["file"]
        world = load_world(path, trust=trust)
        if world.fingerprint != saved["world"]:
            raise DreamFileError(f"{path}: is another world than when the dream was pickled")
        self.__init__(world, saved["num"], saved["options"], saved["file"])
        if saved["state"]:
            self.state = jax.tree.unflatten(self.structure()[0], saved["state"])

    def latent(self, z: Any) -> Float[np.ndarray, "N D"]:
        """The latent state as one vector per row."""
        parts = jax.tree.leaves(dataclasses.replace(z, member=None))
        return np.concatenate([np.asarray(x, np.float32).reshape(len(x), -1) for x in parts], 1)

    def observation_space(self) -> gymnasium.Space:
        """The space of the real task, or of latent vectors (see `Options.observations`)."""
        if self.options.observations == "decoded":
            return self.world.observation_space
        state, _ = self._begin(np.zeros((1, 3), np.uint32))
        return Box(-np.inf, np.inf, self.latent(state.z).shape[1:], np.float32)

    def row(self, o: Any, i: int) -> Any:
        """Observation `i` of a batch, a copy."""
        latent = self.options.observations == "latent"
        return o[i].copy() if latent else self.features.row(o, i)

    def structure(self) -> tuple[Any, Any]:
        """The tree structures of the state and of the observations."""
        state, seen = self._begin(np.zeros((self.num, 3), np.uint32))
        return jax.tree.structure(state), jax.tree.structure(seen.o)

    def begin(self, rows: Int[np.ndarray, " M"], draws: UInt32[np.ndarray, "M 3"]) -> Seen:
        """Begin new dreams in `rows`: the first number of a draw chooses the start, the rest is the
        key."""
        state, seen = self._begin(draws)
        if len(rows) == self.num:
            self.state = jax.tree.map(lambda x: x[: self.num], state)
        else:
            padding = len(state.elapsed) - len(rows)
            at = np.pad(rows, (0, padding), constant_values=self.num)  # beyond the last: dropped
            self.state = _replaced(self.state, at, state)
        return seen

    def _begin(self, draws: UInt32[np.ndarray, "M 3"]) -> tuple[Any, Seen]:
        """(the state of new dreams, on the device and padded; what they show).

        Padded to a power of two of tiles, so that few programs serve all numbers of rows.
        """
        forks.check()
        size, tile = len(draws), _tile_rows()
        draws = np.resize(draws, (tile << (-(-size // tile) - 1).bit_length(), 3))
        start = self.pool[(draws[:, 0].astype(np.uint64) * len(self.pool)) >> np.uint64(32)]
        context = jax.tree.map(lambda x: x[start], self.world.starts)
        state, shown = self.programs[0](self.world.params, context, draws[:, 1:])
        cut = lambda tree: jax.tree.map(lambda x: np.asarray(x)[:size], tree)
        seen = {"z": state.z, "elapsed": state.elapsed}
        return state, self._see(dataclasses.replace(state, **cut(seen)), *cut(shown))

    def step(self, a: Float[np.ndarray, "N A"]) -> Seen:
        """Step every row by its action features."""
        forks.check()
        self.state, shown = self.programs[1](self.world.params, self.state, a)
        return self._see(self.state, *map(np.asarray, shown))

    def _see(self, state: Any, o: Any, r: Any, terminated: Any, uncertainty: Any, legal: Any):
        decoded = self.options.observations == "decoded"
        trusted = uncertainty <= self.world.u_max
        ended = {name: ~trusted & (self.options.unknown == name) for name in CHOICES["unknown"]}
        terminated = terminated | ended["terminate"]
        out_of_time = np.asarray(state.elapsed) >= self.horizon
        uncertainty = uncertainty.astype(np.float64)
        legal = legal if self.actions.factors else np.ones((len(legal), self.actions.size))
        return Seen(
            o=self.features.unflatten(o) if decoded else self.latent(state.z),
            r=r - self.options.penalty * uncertainty,
            terminated=terminated,
            truncated=(out_of_time | ended["truncate"]) & ~terminated,
            uncertainty=uncertainty,
            trusted=trusted,
            member=np.asarray(state.z.member).astype(np.int64),
            action_mask=legal.astype(np.int8),
        )

    def act(self, actions: Any, needed: Bool[np.ndarray, " N"]) -> Float[np.ndarray, "N A"]:
        """Features of a batch of actions; rows that are not `needed` are ignored.

        Box actions are clipped to their bounds, as by most tasks. Raises `SpaceError` for NaN and
        for actions outside the space.
        """
        space: Any = self.world.action_space
        a, kind = np.asarray(actions), np.integer if self.actions.factors else np.number
        if a.shape != (self.num, *space.shape) or not np.issubdtype(a.dtype, kind):
            shown = " ".join(str(actions).split())
            raise SpaceError(f"actions {shown} are not {self.num} values of {space}")
        if isinstance(space, Discrete):
            index = np.where(needed, a.astype(np.int64) - space.start, 0)
            if (index >= 0).all() and (index < space.n).all():
                return self._one_hot[index]
        out = np.zeros((self.num, self.actions.size), np.float32)
        out[needed] = self.actions.flatten(a[needed])
        if np.isnan(out).any():
            raise SpaceError(f"action {a[np.isnan(out).any(1)][0]} is not a number, give one")
        return out

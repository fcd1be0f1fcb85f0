"""Dreams as Gymnasium environments: `DreamEnv` and `DreamVectorEnv`, on the same programs."""

from __future__ import annotations

import dataclasses
import operator
import os
from typing import TYPE_CHECKING, Any

import gymnasium
import jax
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from envs import forks
from envs.dream import World
from envs.dreamfile import load_spaces, load_world
from envs.errors import OptionError
from envs.rows import INFO, Options, Rows, Seen, column
from envs.snapshot import pack, unpack
from envs.types import EnvError

if TYPE_CHECKING:
    from jaxtyping import Bool, Int, UInt32

SEEN = tuple(field.name for field in dataclasses.fields(Seen))


def _rows(
    path: str | os.PathLike | None, world: World | None, num: int, trust: bool, given: dict
) -> Rows:
    """The dreams of a shell; `given` are `Options`, and words that tools pass by habit."""
    options = _options(given)
    if (path is None) == (world is None):
        raise EnvError("a dream needs a world: give path='.../world.dream'")
    file = None if path is None else (os.path.abspath(path), trust)
    world = world or load_world(str(path), trust=trust)
    limit = options.pop("max_episode_steps", None)
    if limit is not None:  # Gymnasium leaves it to vector envs
        options["horizon"] = min(limit, options.get("horizon") or world.horizon)
    return Rows(world, num, Options(**options), file)


def _options(given: dict[str, Any]) -> dict[str, Any]:
    """What is given, without a render_mode of None. Raises `OptionError` for what is unknown."""
    known = {field.name for field in dataclasses.fields(Options)} | {"max_episode_steps"}
    options = {name: value for name, value in given.items() if name in known}
    for name, value in given.items():
        if name == "render_mode" and value is not None:
            raise OptionError(f"render_mode={value!r}: a dream draws no pictures; leave it out")
        if name not in known | {"render_mode"}:
            raise OptionError(f"unknown option {name!r}; known: {', '.join(sorted(known))}")
    return options


def _seed(seed: Any) -> int | None:
    """A seed as an int; NumPy's integers are seeds, too."""
    return None if seed is None else operator.index(seed)


def _keep_spec(env: Any, spec: Any) -> None:
    """Keep the spec that Gymnasium gives an env, its paths as text, as in JSON."""
    if spec is not None:
        plain = lambda x: os.fspath(x) if isinstance(x, os.PathLike) else x
        spec.kwargs = {name: plain(value) for name, value in spec.kwargs.items()}
    env._spec = spec


SPEC: Any = property(lambda env: getattr(env, "_spec", None), _keep_spec)


def _draw(random: np.random.Generator) -> UInt32[np.ndarray, " 3"]:
    return random.integers(0, 1 << 32, 3, np.uint32)


class DreamEnv(gymnasium.Env):
    """One dream as a Gymnasium environment; see `Options` for the keyword arguments."""

    metadata = {"render_modes": []}
    spec = SPEC

    def __init__(
        self,
        path: str | os.PathLike | None = None,
        *,
        world: World | None = None,
        trust: bool = False,
        **options: Any,
    ):
        self._open = False
        if forks.is_broken() and path is not None:  # told by `reset`, where Gymnasium passes it on
            self.observation_space, self.action_space = load_spaces(path, trust=trust)
            return
        self._rows = _rows(path, world, 1, trust, options)
        self.observation_space = self._rows.observation_space()
        self.action_space = self._rows.world.action_space

    def _info(self, seen: Seen) -> dict[str, Any]:
        return {
            "uncertainty": float(seen.uncertainty[0]),
            "trusted": bool(seen.trusted[0]),
            "member": int(seen.member[0]),
            "action_mask": seen.action_mask[0].copy(),
        }

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Begin a dream."""
        forks.check()
        super().reset(seed=_seed(seed))
        seen = self._rows.begin(np.arange(1), _draw(self.np_random)[None])
        self._open = True
        return self._rows.row(seen.o, 0), self._info(seen)

    def step(self, action: Any):
        """Dream one step."""
        if not self._open:
            raise ResetNeeded("the dream has ended or has not begun; call reset first")
        seen = self._rows.step(self._rows.act(np.asarray(action)[None], np.ones(1, bool)))
        terminated, truncated = bool(seen.terminated[0]), bool(seen.truncated[0])
        self._open = not (terminated or truncated)
        return self._rows.row(seen.o, 0), float(seen.r[0]), terminated, truncated, self._info(seen)

    def snapshot(self) -> bytes:
        """The whole state of this env as bytes, for `restore`."""
        flags = {"open": np.array([self._open])}
        return pack(self._rows, flags, [(self.np_random, self.np_random_seed)])

    def restore(self, data: bytes) -> None:
        """Restore a `snapshot`. Raises `DreamFileError` if it is of another world or options."""
        flags, [(self._np_random, self._np_random_seed)] = unpack(self._rows, data)
        self._open = bool(flags["open"][0])


class DreamVectorEnv(VectorEnv):
    """N dreams in one program; sub-env i seeded s equals a single env seeded s + i."""

    metadata: dict[str, Any] = {"render_modes": []}
    spec = SPEC

    def __init__(
        self,
        path: str | os.PathLike | None = None,
        num_envs: int = 1,
        *,
        world: World | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        trust: bool = False,
        **options: Any,
    ):
        self._rows = _rows(path, world, num_envs, trust, options)
        self.num_envs, self.autoreset_mode = num_envs, AutoresetMode(autoreset_mode)
        self.metadata = {**type(self).metadata, "autoreset_mode": self.autoreset_mode}
        self.single_observation_space = self._rows.observation_space()
        self.single_action_space = self._rows.world.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._randoms: list[Any] = [(None, None)] * num_envs
        self._ended = np.zeros(num_envs, bool)
        self._o: Any = None  # the newest observations; none before the first reset

    def _begin(self, rows: Int[np.ndarray, " M"]) -> Seen:
        return self._rows.begin(rows, np.stack([_draw(self._randoms[i][0]) for i in rows]))

    def _mask(self, options: dict | None) -> Bool[np.ndarray, " N"]:
        mask = (options or {}).get("reset_mask")
        if mask is None:
            return np.ones(self.num_envs, bool)
        if not isinstance(mask, np.ndarray) or mask.dtype != bool or not mask.any():
            raise ValueError(f"reset_mask must be a bool array with a true entry, got {mask!r}")
        if mask.shape != (self.num_envs,):
            raise ValueError(f"reset_mask has shape {mask.shape}, expected ({self.num_envs},)")
        if self._o is None and not mask.all():
            raise ResetNeeded("the first reset must be of all dreams; call reset without a mask")
        return mask

    def _seeds(self, seed: Any) -> list[int | None]:
        """One seed of each dream, from one int or a list."""
        if seed is None:
            return [None] * self.num_envs
        if np.ndim(seed) == 0:
            return [operator.index(seed) + i for i in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"{len(seed)} seeds for {self.num_envs} dreams; give one for each")
        return [_seed(each) for each in seed]

    def reset(self, *, seed: Any = None, options: dict | None = None):
        """Begin all dreams, or those of `options["reset_mask"]`; `seed` is one int or a list."""
        mask = self._mask(options)
        rows = np.flatnonzero(mask)
        seeds = self._seeds(seed)
        for i in rows:
            if seeds[i] is not None or self._randoms[i][0] is None:
                self._randoms[i] = seeding.np_random(seeds[i])
        seen = self._begin(rows).spread(rows, self.num_envs)
        if self._o is not None and not mask.all():
            keep = lambda new, old: np.where(column(mask, new), new, old)
            seen.o = jax.tree.map(keep, seen.o, self._o)
        self._ended = self._ended & ~mask
        self._o = seen.o
        return jax.tree.map(np.copy, seen.o), seen.info(mask)

    def step(self, actions: Any):
        """Dream one step in each; ended dreams restart according to the autoreset mode."""
        if self._o is None:
            raise ResetNeeded("the dreams have not begun; call reset first")
        mode, ended = self.autoreset_mode, self._ended
        if mode is AutoresetMode.DISABLED and ended.any():
            raise ResetNeeded(f"dream {ended.argmax()} has ended; reset it by a reset_mask first")
        seen = self._rows.step(self._rows.act(actions, ~ended))
        infos: dict[str, Any] = {}
        self._ended = seen.terminated | seen.truncated
        if mode is AutoresetMode.NEXT_STEP and ended.any():
            rows = np.flatnonzero(ended)
            seen.put(rows, self._begin(rows), SEEN)
            self._ended = seen.terminated | seen.truncated
        if mode is AutoresetMode.SAME_STEP and self._ended.any():
            infos = self._final(seen, self._ended)
            rows = np.flatnonzero(self._ended)
            seen.put(rows, self._begin(rows), ("o", *INFO))
            self._ended = np.zeros(self.num_envs, bool)
        self._o = seen.o
        infos |= seen.info(np.ones(self.num_envs, bool))
        return jax.tree.map(np.copy, seen.o), seen.r, seen.terminated, seen.truncated, infos

    def _final(self, seen: Seen, ended: Bool[np.ndarray, " N"]) -> dict[str, Any]:
        o = np.full(self.num_envs, None, object)
        for i in np.flatnonzero(ended):
            o[i] = self._rows.row(seen.o, int(i))
        final_info = seen.info(ended)
        mask = ended.copy()
        return {
            "final_obs": o,
            "_final_obs": mask,
            "final_info": final_info,
            "_final_info": mask.copy(),
        }

    def snapshot(self) -> bytes:
        """The whole state of these dreams as bytes, for `restore`; they must have begun."""
        if self._o is None:
            raise ResetNeeded("the dreams have not begun; call reset first")
        shown = {f"o{i}": x for i, x in enumerate(jax.tree.leaves(self._o))}
        return pack(self._rows, {"ended": self._ended, **shown}, self._randoms)

    def restore(self, data: bytes) -> None:
        """Restore a `snapshot`. Raises `DreamFileError` if it is of another world or options."""
        flags, self._randoms = unpack(self._rows, data)
        self._ended = flags["ended"]
        leaves = [flags[f"o{i}"] for i in range(len(flags) - 1)]
        self._o = jax.tree.unflatten(self._rows.structure()[1], leaves)

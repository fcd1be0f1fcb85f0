"""A policy as users see it: a student with the spaces of its task, saved and loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from dreaming.errors import RejectedError
from dreaming.observe.behaviours import legal_entries
from dreaming.student.context import ContextBuffer
from dreaming.student.network import MIXED, act, head_of, probability
from envs.atomic import sync_directory, write_file
from envs.types import (
    Features,
    UserError,
    action_features,
    space_from_json,
    space_to_json,
)

if TYPE_CHECKING:
    from jaxtyping import Float, Num

SCHEMA_VERSION = 1
WEIGHTS, CARD = "student.safetensors", "policy.json"
CANDIDATE = "candidate"  # in a run directory: the policy that asked to be deployed


@dataclass
class Policy:
    """A student that acts on one observation at a time and remembers its context."""

    params: Any
    observation_space: Any
    action_space: Any
    window: int = 1
    card: dict[str, Any] = field(default_factory=dict)
    name: str | None = None  # of a saved one: what its traces are recorded under

    def __post_init__(self):
        self._observation = Features(self.observation_space)
        self._action = action_features(self.action_space)
        self._head = head_of(self.action_space)
        self._weigh = jax.jit(self._weighed)
        self._random = np.random.default_rng()
        self._teach: tuple[Any, Any] = (None, None)  # a world, and its compiled teacher
        self.reset()

    def reset(self) -> None:
        """Forget the episode: the next observation is its first."""
        sizes = self.window, self._observation.size, self._action.size
        self._buffer = ContextBuffer(1, *sizes, self._observation.dtype)
        self._last: Any = None
        self._latent: Any = None  # what a search remembers of the episode

    def act(
        self,
        observation: Any,
        *,
        search: bool = False,
        world: Any = None,
        seed: int | None = None,
        action_mask: Any = None,
    ) -> Any:
        """The action for the newest observation of the episode, in the task's action space.

        `search=True` looks ahead in `world` first (see `dreaming.load_world`). `seed` fixes all
        draws. `action_mask` marks the legal actions. Raises `UserError` for an observation outside
        the task's space, and for a search without a world.
        """
        self._see(observation)
        random = self._random if seed is None else np.random.default_rng(seed)
        if search:
            self._last = self._search(world, random, action_mask)
        else:
            self._last, _ = self._draw(random, action_mask)
            self._latent = None
        return self._action.row(self._action.unflatten(self._last), 0)

    def behaviour(self) -> Callable:
        """A behaviour for recording one episode: `(o, legal, random) -> (action, probability)`."""
        self.reset()

        def answer(observation: Any, legal: Any, random: np.random.Generator):
            self._see(observation)
            self._last, p = self._draw(random, legal)
            return self._action.row(self._action.unflatten(self._last), 0), p

        return answer

    def _see(self, observation: Any) -> None:
        o, row = self._features(observation), np.array([0])
        if self._last is None:
            self._buffer.reset(row, o)
        else:
            self._buffer.push(row, self._last, o)

    def _features(self, observation: Any) -> Num[np.ndarray, "1 O"]:
        try:
            o = self._observation.flatten(self._observation.stack([observation]))
        except (TypeError, ValueError):
            o = np.full(1, np.nan)
        if not np.isfinite(o).all():
            shown, space = " ".join(str(observation).split()), self.observation_space
            raise UserError(f"observation {shown} does not fit {space}; give one of the task")
        return o

    def _weighed(self, params, context, key, legal):
        a = act(params, context, key, self._head, legal)
        if self._head.kind == "box":
            return a, None
        return a, probability(params, context, self._head, legal, a)

    def _draw(self, random: np.random.Generator, action_mask: Any) -> tuple[Any, float | None]:
        """(features [1, A] of an action, its probability or None for a density)."""
        key = random.integers(0, 1 << 32, (1, 2), np.uint32)
        legal = legal_entries(action_mask, self._action, 0, ended=False)
        legal = np.ones((1, self._action.size), bool) if legal is None else legal[None]
        a, p = self._weigh(self.params, self._buffer.context(), key, legal)
        return np.asarray(a), None if p is None else float(p[0])

    def _search(
        self, world: Any, random: np.random.Generator, action_mask: Any
    ) -> Float[np.ndarray, "1 A"]:
        from dreaming.search.teachers import SearchConfig, make_teacher

        if world is None:
            raise UserError("act(search=True) needs a world; pass world=dreaming.load_world(path)")
        if self._teach[0] is not world:
            discount = float(world.card.get("discount", 0.99))
            config = SearchConfig(**world.card.get("search", {}))
            teach = make_teacher(world.model, self._head, config, discount, gumbel_scale=0.0)
            self._teach, self._latent = (world, jax.jit(teach)), None
        key = jax.random.key(int(random.integers(2**31)))
        z = self._latent = self._looked(world)
        span = float(world.card.get("value_span", 1.0))
        legal = legal_entries(action_mask, self._action, 0, ended=False)
        legal = None if legal is None else legal[None]
        return np.asarray(self._teach[1](world.params, z, key, span, legal).a)

    def _looked(self, world: Any) -> Any:
        """The state that a search begins from. A model that can `observe` keeps its own, which may
        remember more than a context shows."""
        context = self._buffer.context()
        if self._latent is None or not hasattr(world.model, "observe"):
            return world.model.root(world.params, context)
        return world.model.observe(world.params, self._latent, self._last, context.o[:, -1])


def save_policy(directory: Any, policy: Policy) -> None:
    """Write a policy: its weights, then its card with their hash; each file is whole or absent."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in policy_files(policy).items():
        write_file(directory / name, data)
    sync_directory(directory)


def policy_files(policy: Policy) -> dict[str, bytes]:
    """The files of a policy by name, its card last; the same for the same policy."""
    from safetensors.numpy import save

    weights = save(_arrays(policy.params))
    card = {
        "schema_version": SCHEMA_VERSION,
        "observation_space": space_to_json(policy.observation_space),
        "action_space": space_to_json(policy.action_space),
        "window": policy.window,
        "greedy": _greedy(policy.params),
        "card": policy.card,
    }
    card["sha256"] = _seal(card, weights)
    return {WEIGHTS: weights, CARD: json.dumps(card, indent=2, sort_keys=True).encode()}


def _arrays(params: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """The weights of a student by name; those of a mixture's parts start with old. or new."""
    if "share" in params:
        parts = [_arrays(params[part], f"{prefix}{part}.") for part in MIXED]
        return parts[0] | parts[1]
    layers = enumerate(params["layers"])
    arrays = {f"layers.{i}.{name}": x for i, layer in layers for name, x in layer.items()}
    arrays |= {f"gru.{name}": x for name, x in params.get("gru", {}).items()}
    arrays |= {f"scale.{name}": x for name, x in params["scale"].items()}
    arrays |= _named(params.get("encoder", {}), "encoder")
    return {prefix + name: np.asarray(x) for name, x in arrays.items()}


def _named(tree: Any, name: str) -> dict[str, Any]:
    """The arrays of nested dicts by dotted paths that start with `name`."""
    if not isinstance(tree, dict):
        return {name: tree}
    return {n: x for key, inner in tree.items() for n, x in _named(inner, f"{name}.{key}").items()}


def _nested(arrays: dict[str, Any], name: str) -> Any:
    """The inverse of `_named`: the nested dicts below `name`; {} if there are none."""
    if name in arrays:
        return arrays[name]
    below = {path.split(".")[name.count(".") + 1] for path in arrays if path.startswith(f"{name}.")}
    return {key: _nested(arrays, f"{name}.{key}") for key in sorted(below)}


def _greedy(params: Any) -> Any:
    """Whether a student is greedy; for a mixture its share, and the same of both parts."""
    if "share" in params:
        return {"share": float(params["share"])} | {x: _greedy(params[x]) for x in MIXED}
    return bool(params["greedy"])


def _params(arrays: dict[str, np.ndarray], greedy: Any, prefix: str = "") -> Any:
    """The inverse of `_arrays` and `_greedy`: the parameters of a student."""
    if isinstance(greedy, dict):
        parts = {x: _params(arrays, greedy[x], f"{prefix}{x}.") for x in MIXED}
        return parts | {"share": np.float32(greedy["share"])}
    mine = {name.removeprefix(prefix): x for name, x in arrays.items() if name.startswith(prefix)}
    count = 1 + max(int(name.split(".")[1]) for name in mine if name.startswith("layers"))
    params: dict[str, Any] = {
        "layers": [{name: mine[f"layers.{i}.{name}"] for name in "wb"} for i in range(count)],
        "scale": {name[6:]: x for name, x in mine.items() if name.startswith("scale.")},
        "greedy": np.array(greedy),
    }
    if "gru.w" in mine:
        params["gru"] = {name: mine[f"gru.{name}"] for name in "wb"}
    if encoder := _nested(mine, "encoder"):
        params["encoder"] = encoder
    return params


def _seal(card: dict[str, Any], weights: bytes) -> str:
    """SHA-256 over the weights and all fields of the card but "sha256"."""
    rest = {name: value for name, value in card.items() if name != "sha256"}
    return hashlib.sha256(weights + json.dumps(rest, sort_keys=True).encode()).hexdigest()


def load_policy(path: Any) -> Policy:
    """The policy saved in directory `path`. Raises `UserError` if it is missing or damaged, and
    `RejectedError` if it is missing because a run rejected its candidate."""
    from safetensors.numpy import load

    path = Path(path)
    if not (path / CARD).exists() and (why := rejection(path.parent)):
        before = path.parent / "incumbent"
        kept = f"{before} stays deployed" if before.exists() else "nothing is deployed"
        raise RejectedError(
            f"{path}: {kept}, the candidate was rejected ({why}); it lies in "
            f"{path.parent / CANDIDATE}"
        )
    try:
        card = json.loads((path / CARD).read_bytes())
        weights = (path / WEIGHTS).read_bytes()
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: no policy can be read here ({error}); name a directory that holds {CARD}"
        ) from error
    version = card.get("schema_version") if isinstance(card, dict) else None
    if version != SCHEMA_VERSION:
        raise UserError(f"{path / CARD}: schema {version} is not {SCHEMA_VERSION}; save it again")
    if _seal(card, weights) != card.get("sha256"):
        raise UserError(f"{path}: {WEIGHTS} or {CARD} is damaged; copy both again")
    params = _params(load(weights), card["greedy"])
    observation_space = space_from_json(card["observation_space"])
    action_space = space_from_json(card["action_space"])
    spaces, name = (observation_space, action_space), name_of(card["sha256"])
    return Policy(params, *spaces, card["window"], card["card"], name)


def name_of(sha256: str) -> str:
    """The name of a saved policy by the hash in its card."""
    return f"student-{sha256[:12]}"


def rejection(run_dir: Path) -> str | None:
    """The first reason of a run's rejection; None if it is no run, or rejected nothing."""
    try:
        result = json.loads((run_dir / "result.json").read_bytes())
        return result["reasons"][0] if result["verdict"] == "reject" else None
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None

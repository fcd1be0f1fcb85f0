"""The student: a network of its own over what was observed; it is what gets deployed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from dreaming.context import ContextBuffer
from envs.atomic import sync_directory, write_file
from envs.types import (
    Context,
    Features,
    UserError,
    action_features,
    space_from_json,
    space_to_json,
)

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, UInt32

SCHEMA_VERSION = 1
WEIGHTS, CARD = "student.safetensors", "policy.json"
MIXED = ("old", "new")  # parts of a mixture


def init_student(key: jax.Array, context_size: int, num_actions: int, width: int, o_mean, o_std):
    """Parameters of a student: two hidden layers, the last one near zero (a uniform policy)."""
    sizes = (context_size, width, width, num_actions)
    gains = (1.0, 1.0, 0.01)
    layers = [
        {
            "w": jax.random.normal(layer_key, (fan_in, fan_out)) * gain / np.sqrt(fan_in),
            "b": jnp.zeros(fan_out),
        }
        for fan_in, fan_out, gain, layer_key in zip(
            sizes[:-1], sizes[1:], gains, jax.random.split(key, 3), strict=True
        )
    ]
    scale = {"o_mean": jnp.asarray(o_mean), "o_std": jnp.asarray(o_std)}
    scale = jax.tree.map(lambda x: x.astype(jnp.float32), scale)
    return {"layers": layers, "scale": scale, "greedy": jnp.array(True)}


def fresh_student(log: Any, window: int, width: int, key: jax.Array) -> Any:
    """A student for the spaces of `log` (`dreaming.log.Log`), normalised by its observations."""
    observation, num_actions = log.observation, log.action.size
    o = np.concatenate([observation.flatten(trace.observations) for trace in log.traces])
    std = o.std(0)
    mean, std = (o.mean(0), np.where(std > 1e-6, std, 1.0))
    if observation.kind == "discrete":
        mean, std = np.zeros_like(mean), np.ones_like(std)
    size = window * observation.size + (window - 1) * num_actions
    return init_student(key, size, num_actions, width, mean, std)


def mixture(old: Any, new: Any, share: float) -> Any:
    """A student that at each step asks `new` with probability `share`, else `old`."""
    return {"old": old, "new": new, "share": jnp.float32(share)}


def network(params: Any) -> Any:
    """The student itself, or of a mixture its newest part: what training goes on from."""
    return network(params["new"]) if "share" in params else params


def student_logits(params: Any, context: Context) -> Float[Array, "*B N"]:
    """Logits of the actions for contexts [*B]; of a mixture, of its mixed probabilities."""
    if "share" in params:
        old, new = (jax.nn.softmax(student_logits(params[part], context)) for part in MIXED)
        return jnp.log(old + params["share"] * (new - old) + 1e-9)
    x = (context.o - params["scale"]["o_mean"]) / params["scale"]["o_std"]
    x = x * context.valid[..., None]
    flat = lambda u: u.reshape(*u.shape[:-2], u.shape[-2] * u.shape[-1])
    x = jnp.concatenate([flat(x), flat(context.a)], axis=-1)
    *hidden, last = params["layers"]
    for layer in hidden:
        x = jax.nn.silu(x @ layer["w"] + layer["b"])
    return x @ last["w"] + last["b"]


def action_distribution(
    params: Any, context: Context
) -> tuple[Float[Array, "*B K A"], Float[Array, "*B K"]]:
    """What a student does in contexts [*B]: K actions as features, and their probabilities.

    A greedy student's probability is all on its most probable action. A mixture lists the actions
    of both its parts.
    """
    if "share" in params:
        share = params["share"]
        (a_old, p_old), (a_new, p_new) = (action_distribution(params[x], context) for x in MIXED)
        p = jnp.concatenate([(1 - share) * p_old, share * p_new], axis=-1)
        return jnp.concatenate([a_old, a_new], axis=-2), p
    logits = student_logits(params, context)
    a = jnp.broadcast_to(jnp.eye(logits.shape[-1]), (*logits.shape, logits.shape[-1]))
    greedy = jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1])
    return a, jnp.where(params["greedy"], greedy, jax.nn.softmax(logits))


def act(params: Any, context: Context, key: UInt32[Array, "B 2"]) -> Int[Array, " B"]:
    """Action indices of a student [B]: the most probable ones, or drawn, each row by its own key.

    A distilled student is greedy. A clone of a behaviour that was random is not.
    """
    if "share" in params:
        split = jax.vmap(lambda k: jax.random.split(jax.random.wrap_key_data(k)))(key)
        is_new = jax.vmap(jax.random.uniform)(split[:, 0]) < params["share"]
        rest = jax.random.key_data(split[:, 1])
        old, new = (act(params[part], context, rest) for part in MIXED)
        return jnp.where(is_new, new, old)
    logits = student_logits(params, context)
    draw = lambda k, logits: jax.random.categorical(jax.random.wrap_key_data(k), logits)
    return jnp.where(params["greedy"], jnp.argmax(logits, axis=-1), jax.vmap(draw)(key, logits))


@dataclass
class Policy:
    """A saved student, to be asked one observation at a time."""

    params: Any
    observation_space: Any
    action_space: Any
    window: int = 1
    card: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        self._observation = Features(self.observation_space)
        self._action = action_features(self.action_space)
        self._distribution = jax.jit(action_distribution)
        self._random = np.random.default_rng()
        self._teach: tuple[Any, Any] = (None, None)  # a world, and its compiled teacher
        self.reset()

    def reset(self) -> None:
        """Forget the episode: the next observation is its first."""
        sizes = self.window, self._observation.size, self._action.size
        self._buffer = ContextBuffer(1, *sizes)
        self._last: int | None = None

    def act(
        self, observation: Any, *, search: bool = False, world: Any = None, seed: int | None = None
    ) -> Any:
        """The action for the newest observation of the episode, in the task's action space.

        `search=True` looks ahead in `world` first (see `dreaming.load_world`). `seed` fixes what
        is drawn. Raises `UserError` for what is no observation of the task, and when a search has
        no world.
        """
        o = self._features(observation)
        row = np.array([0])
        if self._last is None:
            self._buffer.reset(row, o)
        else:
            self._buffer.push(row, np.eye(self._action.size, dtype=np.float32)[[self._last]], o)
        random = self._random if seed is None else np.random.default_rng(seed)
        if search:
            index = self._search(world, random)
        else:
            p = self._probabilities()
            index = int(random.choice(p.size, p=p))
        self._last = int(index)
        return self.action_space.dtype.type(self.action_space.start + self._last)

    def propensity(self, observation: Any, random: np.random.Generator) -> tuple[Any, float]:
        """(action, its probability): how a recorder asks, for windows of one observation."""
        self._buffer.reset(np.array([0]), self._features(observation))
        p = self._probabilities()
        index = int(random.choice(p.size, p=p))
        return self.action_space.dtype.type(self.action_space.start + index), float(p[index])

    def _features(self, observation: Any) -> Float[np.ndarray, "1 O"]:
        o, space = np.asarray(observation), self.observation_space
        if o.shape != space.shape or not np.isfinite(o).all():
            shown = " ".join(str(observation).split())
            raise UserError(f"observation {shown} does not fit {space}; give one of the task")
        return self._observation.flatten(o[None])

    def _probabilities(self) -> np.ndarray:
        a, p = self._distribution(self.params, self._buffer.context())
        p = np.asarray(p[0], np.float64) @ np.asarray(a[0], np.float64)
        return p / p.sum()

    def _search(self, world: Any, random: np.random.Generator) -> int:
        from dreaming.search import SearchConfig, make_teacher

        if world is None:
            raise UserError("act(search=True) needs a world; pass world=dreaming.load_world(path)")
        if self._teach[0] is not world:
            discount = float(world.card.get("discount", 0.99))
            config = SearchConfig(**world.card.get("search", {}))
            teach = jax.jit(make_teacher(world.model, config, discount, gumbel_scale=0.0))
            self._teach = world, teach
        key = jax.random.key(int(random.integers(2**31)))
        z = world.model.root(world.params, self._buffer.context())
        span = float(world.card.get("value_span", 1.0))
        return int(self._teach[1](world.params, z, key, span).action[0])


def save_policy(directory: Any, policy: Policy) -> None:
    """Write a policy: its weights, then its card with their hash; each file is whole or absent."""
    from safetensors.numpy import save

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
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
    write_file(directory / WEIGHTS, weights)
    write_file(directory / CARD, json.dumps(card, indent=2, sort_keys=True).encode())
    sync_directory(directory)


def _arrays(params: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """The weights of a student by name; parts of a mixture have names of their own."""
    if "share" in params:
        parts = [_arrays(params[part], f"{prefix}{part}.") for part in MIXED]
        return parts[0] | parts[1]
    layers = enumerate(params["layers"])
    arrays = {f"layers.{i}.{name}": x for i, layer in layers for name, x in layer.items()}
    arrays |= {f"scale.{name}": x for name, x in params["scale"].items()}
    return {prefix + name: np.asarray(x) for name, x in arrays.items()}


def _greedy(params: Any) -> Any:
    """Whether a student is greedy, or of a mixture its share and the same of its parts."""
    if "share" in params:
        return {"share": float(params["share"])} | {x: _greedy(params[x]) for x in MIXED}
    return bool(params["greedy"])


def _params(arrays: dict[str, np.ndarray], greedy: Any, prefix: str = "") -> Any:
    """What `_arrays` and `_greedy` described."""
    if isinstance(greedy, dict):
        parts = {x: _params(arrays, greedy[x], f"{prefix}{x}.") for x in MIXED}
        return parts | {"share": np.float32(greedy["share"])}
    mine = {name.removeprefix(prefix): x for name, x in arrays.items() if name.startswith(prefix)}
    count = 1 + max(int(name.split(".")[1]) for name in mine if name.startswith("layers"))
    return {
        "layers": [{name: mine[f"layers.{i}.{name}"] for name in "wb"} for i in range(count)],
        "scale": {name: mine[f"scale.{name}"] for name in ("o_mean", "o_std")},
        "greedy": np.array(greedy),
    }


def _seal(card: dict[str, Any], weights: bytes) -> str:
    """SHA-256 over the weights and all other fields of the card."""
    rest = {name: value for name, value in card.items() if name != "sha256"}
    return hashlib.sha256(weights + json.dumps(rest, sort_keys=True).encode()).hexdigest()


def load_policy(path: Any) -> Policy:
    """The policy saved in directory `path`. Raises `UserError` if it is missing or damaged."""
    from safetensors.numpy import load

    path = Path(path)
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
    return Policy(params, observation_space, action_space, card["window"], card["card"])

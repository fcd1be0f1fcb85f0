"""A world's functions as portable programs (`jax.export`), and the model they make when loaded.

Programs take and give flat tuples of arrays, so a file needs no class of ours. The weights are
arguments, keys are raw uint32 data, the number of rows is symbolic. A latent state travels as
(member, *others), a dream state as (*latent, *context, elapsed, key).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import export
from jax.custom_batching import sequential_vmap

from envs.dream import Dream, DreamState, DreamStep, World
from envs.types import Context, DreamFileError, Prediction, container

PLATFORMS = ("cpu", "cuda", "tpu")
# Which program begins and which steps a dream of each sampling: some are the same.
INITIAL = {"member": "initial_member", "mixture": "initial_member", "mean": "initial_mean"}
STEP = {"member": "step_member", "mixture": "step_mixture", "mean": "step_member"}
FORGET_PATHS = "jax_traceback_in_locations_limit"  # else programs hold source paths of the writer


def _fields(x: Any, like: Any) -> tuple[Any, ...]:
    return tuple(getattr(x, field.name) for field in dataclasses.fields(like))


def _flat_z(z: Any) -> tuple[Any, ...]:
    return (z.member, *jax.tree.leaves(dataclasses.replace(z, member=None)))


def _flat_state(state: DreamState) -> tuple[Any, ...]:
    return (*_flat_z(state.z), *_fields(state.context, Context), state.elapsed, state.key)


class _Flat:
    """The functions of a world over flat tuples of arrays."""

    def __init__(self, world: World):
        self.model = world.model
        weights, self.params_tree = jax.tree.flatten(world.params)
        (b,) = export.symbolic_shape("b")
        row = lambda dtype, *axes: jax.ShapeDtypeStruct((b, *axes), dtype)
        self.params = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in weights)
        self.a, self.c = row(jnp.float32, self.model.action_size), row(jnp.int32)
        self.key = row(jnp.uint32, 2)
        starts = _fields(world.starts, Context)
        self.context = tuple(row(x.dtype, *x.shape[1:]) for x in starts)
        root = lambda p, context: self.model.root(self._params(p), Context(*context))
        z = jax.eval_shape(root, self.params, self.context)
        self.z, self.z_tree = _flat_z(z), jax.tree.structure(dataclasses.replace(z, member=None))
        afterstate = lambda p, z, a: self.model.afterstate(self._params(p), self._z(z), a)[1]
        y = jax.eval_shape(afterstate, self.params, self.z, self.a)
        self.y, self.y_tree = tuple(jax.tree.leaves(y)), jax.tree.structure(y)

    def _params(self, params: Any) -> Any:
        return jax.tree.unflatten(self.params_tree, params)

    def _z(self, z: Any) -> Any:
        return dataclasses.replace(jax.tree.unflatten(self.z_tree, z[1:]), member=z[0])

    def root(self, params, context):
        return _flat_z(self.model.root(self._params(params), Context(*context)))

    def afterstate(self, params, z, a):
        chance_logits, y = self.model.afterstate(self._params(params), self._z(z), a)
        return chance_logits, tuple(jax.tree.leaves(y))

    def outcome(self, params, y, c):
        y = jax.tree.unflatten(self.y_tree, y)
        z, prediction = self.model.outcome(self._params(params), y, c)
        return _flat_z(z), _fields(prediction, Prediction)

    def decode(self, params, z):
        return self.model.decode(self._params(params), self._z(z))

    def predict(self, params, z):
        return tuple(self.model.predict(self._params(params), self._z(z)))

    def initial(self, sampling, params, context, key):
        dream = Dream(self.model, sampling=sampling)
        state, step = dream.initial(self._params(params), Context(*context), key)
        return _flat_state(state), _fields(step, DreamStep)

    def step(self, sampling, params, state, a):
        *z, o, a_past, elapsed, valid, dreamed, key = state
        state = DreamState(self._z(z), Context(o, a_past, elapsed, valid), dreamed, key)
        dream = Dream(self.model, sampling=sampling)
        state, step = dream.step(self._params(params), state, a)
        return _flat_state(state), _fields(step, DreamStep)

    def all(self) -> dict[str, tuple[Any, tuple[Any, ...]]]:
        """Each program's function and the shapes of its arguments."""
        params, z, a = self.params, self.z, self.a
        elapsed = jax.ShapeDtypeStruct(self.c.shape, jnp.int32)
        state = (*z, *self.context, elapsed, self.key)
        initial = (params, self.context, self.key)
        return {
            "root": (self.root, (params, self.context)),
            "afterstate": (self.afterstate, (params, z, a)),
            "outcome": (self.outcome, (params, self.y, self.c)),
            "decode": (self.decode, (params, z)),
            "predict": (self.predict, (params, z)),
            "initial_member": (partial(self.initial, "member"), initial),
            "initial_mean": (partial(self.initial, "mean"), initial),
            "step_member": (partial(self.step, "member"), (params, state, a)),
            "step_mixture": (partial(self.step, "mixture"), (params, state, a)),
        }


def export_programs(world: World) -> dict[str, bytes]:
    """The serialized programs of a world by name; the same bytes for the same world."""
    limit = getattr(jax.config, FORGET_PATHS)
    jax.config.update(FORGET_PATHS, 0)
    try:
        return {
            name: bytes(export.export(jax.jit(f), platforms=PLATFORMS)(*specs).serialize())
            for name, (f, specs) in _Flat(world).all().items()
        }
    finally:
        jax.config.update(FORGET_PATHS, limit)


@container
class Latent:
    """A latent state whose meaning only the programs know."""

    others: tuple[Any, ...]
    member: Any


def _latent(flat: Any) -> Latent:
    return Latent(tuple(flat[1:]), flat[0])


class ExportedModel:
    """Loaded programs behind the model protocol; `params` is a tuple of arrays."""

    def __init__(
        self,
        programs: dict[str, bytes],
        *,
        num_codes: int,
        num_members: int,
        num_actions: int,
        action_size: int,
        window: int = 1,
        span: float = 1.0,
    ):
        self.span = span
        self.num_codes, self.num_members = num_codes, num_members
        self.num_actions, self.action_size, self.window = num_actions, action_size, window
        try:
            # Exported programs know no vmap; one after the other is what a search needs of it.
            load = lambda data: sequential_vmap(export.deserialize(bytearray(data)).call)
            self.programs = {name: load(data) for name, data in programs.items()}
        except Exception as error:  # flatbuffers and MLIR raise what they like
            reason = str(error).partition("\n")[0][:200]
            raise DreamFileError(
                f"its programs cannot be read by jax {jax.__version__} ({reason}); "
                "update jax or export the file again"
            ) from error

    def root(self, params: Any, context: Context) -> Latent:
        """As the model protocol says."""
        return _latent(self.programs["root"](params, _fields(context, Context)))

    def afterstate(self, params: Any, z: Latent, a: Any) -> tuple[Any, tuple[Any, ...]]:
        """As the model protocol says."""
        chance_logits, y = self.programs["afterstate"](params, _flat_z(z), a)
        return chance_logits, y

    def outcome(self, params: Any, y: tuple[Any, ...], c: Any) -> tuple[Latent, Prediction]:
        """As the model protocol says."""
        z, prediction = self.programs["outcome"](params, y, c)
        return _latent(z), Prediction(*prediction)

    def decode(self, params: Any, z: Latent) -> Any:
        """As the model protocol says."""
        return self.programs["decode"](params, _flat_z(z))

    def predict(self, params: Any, z: Latent) -> Any:
        """As the model protocol says."""
        return self.programs["predict"](params, _flat_z(z))

    def value_span(self, params: Any) -> Any:
        """As the model protocol says."""
        return jnp.float32(self.span)


@dataclass(frozen=True)
class ExportedDream:
    """Loaded programs with the functions of `Dream`."""

    model: ExportedModel
    _: dataclasses.KW_ONLY
    sampling: str = "member"

    def _out(self, out: Any) -> tuple[DreamState, DreamStep]:
        (*z, o, a, elapsed, valid, dreamed, key), step = out
        state = DreamState(_latent(z), Context(o, a, elapsed, valid), dreamed, key)
        return state, DreamStep(*step)

    def initial(self, params: Any, context: Context, key: Any) -> tuple[DreamState, DreamStep]:
        """As `Dream.initial`."""
        program = self.model.programs[INITIAL[self.sampling]]
        return self._out(program(params, _fields(context, Context), key))

    def step(self, params: Any, state: DreamState, a: Any) -> tuple[DreamState, DreamStep]:
        """As `Dream.step`."""
        return self._out(self.model.programs[STEP[self.sampling]](params, _flat_state(state), a))

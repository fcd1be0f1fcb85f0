"""Out-of-memory errors in one line: which setting to lower, to what, and what that frees.

with out_of_memory_told(lambda: agent_knobs(config, frame, num_actions)):
    state, metrics = agent.learn(state)
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from dreaming.efficientzero.agent import make_agent_model
from dreaming.efficientzero.config import AgentConfig
from dreaming.efficientzero.ring import init_ring
from dreaming.errors import ConfigError
from worldmodels.frames.losses import frame_loss
from worldmodels.frames.networks import SIZES
from worldmodels.frames.types import FrameWindows

UNITS = {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
COPIES = 4  # of the params: themselves, two moments, gradient


@dataclass(frozen=True)
class Knob:
    """A setting, the approximate bytes of its arrays on a device, and its lower values."""

    name: str
    value: int | str
    bytes: float
    lower: tuple[tuple[int | str, float], ...] = ()  # (value, bytes), the highest first


@contextmanager
def out_of_memory_told(knobs: Callable[[], Sequence[Knob]]) -> Iterator[None]:
    """Raise `ConfigError` with advice if the body runs out of memory; other errors pass.

    `knobs()` is only called in that case.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ConfigError(advice(str(error), knobs())) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the host ran out of memory."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def advice(message: str, knobs: Sequence[Knob]) -> str:
    """One line: the knob that takes most, and its highest value that frees what was missing."""
    found = re.search(r"allocat\w+ ([\d.]+) ?([bKMGT])", message)
    missing = float(found[1]) * UNITS[found[2].lower()] if found else 0.0
    wanted = f" ({_size(missing)} more did not fit)" if found else ""
    most, *others = sorted(knobs, key=lambda knob: (not knob.lower, -knob.bytes))
    line = f"out of memory{wanted}: {most.name}={most.value} takes about {_size(most.bytes)}"
    if most.lower:
        enough = [each for each in most.lower if most.bytes - each[1] >= missing]
        value, left = [*enough, most.lower[0]][0]
        line += f"; {most.name}={value} frees about {_size(most.bytes - left)}"
    rest = ", ".join(f"{knob.name}={knob.value} {_size(knob.bytes)}" for knob in others)
    return f"{line} (others: {rest})" if rest else line


def halves(name: str, value: int, per_unit: float, multiple: int = 1) -> Knob:
    """The knob of a number whose arrays are proportional to it, to be halved repeatedly."""
    values = []
    n = value // 2 // multiple * multiple
    while n >= multiple:
        values.append(n)
        n = n // 2 // multiple * multiple
    return Knob(name, value, value * per_unit, tuple((n, n * per_unit) for n in values))


def agent_knobs(
    config: AgentConfig, frame: tuple[int, int, int], num_actions: int, names: dict | None = None
) -> list[Knob]:
    """The knobs of an online agent's memory; nothing is allocated.

    `names` maps dotted names to names on the command line, where they differ.
    """
    called = lambda name: (names or {}).get(name, name)
    replay = config.replay
    ring = jax.eval_shape(lambda: init_ring(replay.capacity, config.envs, frame, num_actions))
    smaller = [size for size in reversed(SIZES) if _rank(size) < _rank(config.size)]
    fixed = lambda size: COPIES * params_bytes(config, frame, num_actions, size)
    window, root = window_bytes(config, frame, num_actions), root_bytes(config, frame, num_actions)
    return [
        halves(
            called("replay.capacity"), replay.capacity, nbytes(ring) / replay.capacity, config.envs
        ),
        halves(called("replay.batch"), replay.batch, window, replay.sequence),
        halves(called("refresh_batch"), config.refresh_batch, root),
        Knob(
            called("size"),
            config.size,
            fixed(config.size),
            tuple((size, fixed(size)) for size in smaller),
        ),
    ]


def params_bytes(config: AgentConfig, frame, num_actions: int, size: str) -> int:
    """Bytes of one copy of the params of networks of `size`."""
    model = make_agent_model(dataclasses.replace(config, size=size), frame, num_actions)
    return nbytes(jax.eval_shape(model.init, jax.random.key(0)))


def window_bytes(config: AgentConfig, frame, num_actions: int) -> float:
    """Bytes of one window of a batch: its frames, the values kept for the gradient, and the widest
    layers of the frames that consistency encodes.

    An estimate: the compiler may recompute values rather than keep them.
    """
    model = make_agent_model(config, frame, num_actions)
    params = jax.eval_shape(model.init, jax.random.key(0))
    batch = 2
    windows = window_shapes(config, frame, num_actions, batch)
    loss = lambda params, windows: frame_loss(params, model, windows, config.weights)[0]
    kept = jax.eval_shape(lambda p, w: jax.vjp(lambda p: loss(p, w), p)[1], params, windows)
    kept_bytes = max(nbytes(kept) - nbytes(params), 0) + nbytes(windows)
    return kept_bytes / batch + config.most_unroll_steps * _widest(config, frame)


def root_bytes(config: AgentConfig, frame, num_actions: int) -> float:
    """Bytes of one searched state: its frames, the widest layers, and its tree's latents."""
    model = make_agent_model(config, frame, num_actions)
    params = jax.eval_shape(model.init, jax.random.key(0))
    frames = jax.ShapeDtypeStruct((1, config.window, *frame), jnp.float32)
    node = nbytes(jax.eval_shape(lambda p, x: model.begin(model.encode(p, x)), params, frames))
    return nbytes(frames) + _widest(config, frame) + (config.search.num_simulations + 1) * node


def window_shapes(config: AgentConfig, frame, num_actions: int, batch: int) -> FrameWindows:
    """Shapes of a batch of the longest windows of a run, with augmented frames."""
    K = config.most_unroll_steps
    flags = lambda rows: jnp.zeros((batch, rows), bool)
    numbers = lambda *sizes: jnp.zeros((batch, *sizes))
    return jax.eval_shape(
        lambda: FrameWindows(
            o=numbers(K + 1, config.window, *frame),
            a=numbers(K, num_actions),
            r=numbers(K),
            is_real_step=flags(K),
            is_real_o=flags(K + 1),
            is_absorbing=flags(K + 1),
            v=numbers(K + 1),
            pi=numbers(K + 1, num_actions),
            weight=numbers(),
        )
    )


def nbytes(tree: Any) -> int:
    """Bytes of all arrays (or shapes) in a pytree."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _widest(config: AgentConfig, frame) -> float:
    """Bytes of input, sum and output of a first layer of the encoder, at half the frame's size."""
    first, features = SIZES[config.size][:2]
    return 3 * 4 * math.prod(frame[:2]) / 4 * max(first, features / 4)


def _rank(size: str) -> int:
    return list(SIZES).index(size)


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"

"""A real episode beside its dream, for the report: lines of dimensions, or frames."""

import base64
import io
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dreaming.observe.log import Log
from dreaming.observe.replay import contexts
from envs.frames import frame_shape

MOST_STEPS, LINES = 60, 4  # most steps of the episode and dimensions that are shown
PICTURES = (0, 1, 2, 3, 5, 8, 15, 30, 50)  # steps whose frames are shown


def dream_strip(world: Any, log: Log) -> dict[str, Any]:
    """The longest logged episode, and its dream from the first observation by the same actions.

    `real` and `dream` are rows of the dimensions `names`; for frames, PNGs of the steps `k`.
    """
    longest = max(range(len(log.traces)), key=lambda i: len(log.traces[i]))
    trace = log.traces[longest]
    real = log.observation.flatten(trace.observations)[: MOST_STEPS + 1]
    a = log.action.flatten(trace.actions)[: len(real) - 1]
    start = contexts(log.only(np.array([longest])).replay(), jnp.zeros(1, int), world.model.window)
    dreamed = np.concatenate([real[:1], _dreamed(world, start, jnp.asarray(a))])
    if log.observation.kind == "frames":
        k = [step for step in PICTURES if step < len(real)]
        shape = frame_shape(log.observation.space)
        png = lambda x: [_png(frame.reshape(shape)) for frame in x[k]]
        return {"k": k, "real": png(real), "dream": png(dreamed)}
    if log.observation.kind == "discrete":
        first = int(log.observation.space.start)
        number = lambda x: (first + x.argmax(-1))[:, None].tolist()
        return {"names": ["state"], "real": number(real), "dream": number(dreamed)}
    names = [f"o[{i}]" for i in range(min(LINES, real.shape[1]))]
    rows = lambda x: x[:, :LINES].tolist()
    return {"names": names, "real": rows(real), "dream": rows(dreamed)}


def _dreamed(world: Any, start: Any, actions: Any) -> np.ndarray:
    """The decoded observation after each action, by the mean member and the likeliest codes."""
    model, params = world.model, world.params

    @jax.jit
    def roll(context, actions):
        def step(z, action):
            logits, y = model.afterstate(params, z, action[None])
            z, _ = model.outcome(params, y, jnp.argmax(logits, -1))
            return z, model.decode(params, z)[0]

        return jax.lax.scan(step, model.root(params, context), actions)[1]

    return np.asarray(roll(start, actions))


def _png(frame: np.ndarray) -> str:
    """A uint8 frame [H, V, F] as PNG in base64: in colour if it has three channels."""
    from matplotlib.image import imsave

    file, picture = io.BytesIO(), frame if frame.shape[-1] == 3 else frame[..., 0]
    imsave(file, picture, format="png", cmap="gray", vmin=0, vmax=255)
    return base64.b64encode(file.getvalue()).decode()

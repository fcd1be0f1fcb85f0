"""How the axes of frames lie in a table, and how they must lie here: height, width, channels."""

from __future__ import annotations

import math

import numpy as np

from envs.types import TraceError

MOST_CHANNELS = 4  # of a frame whose first axis is not suspected to hold channels


def looks_channels_first(shape: tuple[int, ...]) -> bool:
    """Whether bytes of this shape are more likely channels, height, width than frames.

    That is: a first axis shorter than both others, and too many "channels" in the last.
    """
    return len(shape) == 3 and shape[0] < min(shape[1:]) and shape[2] > MOST_CHANNELS


def check_layout(name: str, shape: tuple[int, ...], layout: str | None) -> None:
    """Raise `TraceError` if bytes of this shape would silently be misread as frames."""
    shown = " x ".join(map(str, shape))
    if layout is None and looks_channels_first(shape):
        raise TraceError(
            f"{name} of {shown} bytes looks like channels, height, width: say layout: "
            "channels_first (or stacked) in the mapping, or channels_last if it is as it should be"
        )
    if layout is None and len(shape) > 3:
        raise TraceError(
            f"{name} of {shown} bytes has {len(shape)} axes: say layout: stacked in the mapping if "
            "the first counts frames; frames have height, width and channels"
        )
    if layout == "stacked" and len(shape) not in (3, 4):
        raise TraceError(f"{name} of {shown} is no stack of frames; take layout out of the mapping")
    if layout in ("channels_first", "channels_last") and len(shape) != 3:
        raise TraceError(f"{name} of {shown} has no channels; take layout out of the mapping")


def turned(x: np.ndarray, layout: str | None) -> np.ndarray:
    """Frames [rows, ...] with height, width and channels as their axes."""
    if layout in (None, "channels_last"):
        return x
    if x.ndim == 5:  # rows, frames, height, width, channels
        x = np.moveaxis(x, 1, 3)
        return x.reshape(*x.shape[:3], -1)
    return np.moveaxis(x, 1, -1)


def turned_shape(shape: tuple[int, ...], layout: str | None) -> tuple[int, ...]:
    """The shape of one frame after `turned`."""
    return turned(np.empty((1, *shape), bool), layout).shape[1:]


def unflattened(x: np.ndarray, shape: tuple[int, ...], layout: str | None) -> np.ndarray:
    """Numbers [rows] or lists [rows, N] as frames or other arrays [rows, *shape], then `turned`.

    `shape` is that of the result; what has other axes already, or another size, is left as it is.
    """
    if x.shape[1:] == shape and layout in (None, "channels_last"):
        return x
    if x.ndim <= 2 and math.prod(x.shape[1:]) == math.prod(shape):
        first = layout in ("channels_first", "stacked") and len(shape) == 3
        x = x.reshape(len(x), *((shape[2], *shape[:2]) if first else shape))
        return turned(x, layout if first else None)
    return turned(x, layout) if x.ndim > 3 else x

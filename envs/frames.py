"""Frames: observations of bytes with height, width and channels, never stored as floats."""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium.spaces import Box


def is_frame(space: gymnasium.Space) -> bool:
    """Whether observations are frames: uint8 with two axes, or three with channels last."""
    return isinstance(space, Box) and space.dtype == np.uint8 and len(space.shape) in (2, 3)


def frame_shape(space: gymnasium.Space) -> tuple[int, int, int]:
    """Height, width and channels (H, V, F) of frames."""
    shape = (*(space.shape or ()), 1)
    return shape[0], shape[1], shape[2]

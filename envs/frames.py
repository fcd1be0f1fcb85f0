"""Which observations are frames: images of bytes, that nobody should store as numbers."""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium.spaces import Box


def is_frame(space: gymnasium.Space) -> bool:
    """Whether observations are frames: bytes with two axes, or three with channels last."""
    return isinstance(space, Box) and space.dtype == np.uint8 and len(space.shape) in (2, 3)


def frame_shape(space: gymnasium.Space) -> tuple[int, int, int]:
    """(H, V, F) of frames."""
    shape = (*(space.shape or ()), 1)
    return shape[0], shape[1], shape[2]

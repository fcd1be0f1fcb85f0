"""How deeply brackets stand within each other: asked before a parser that recurses reads them."""

from __future__ import annotations

import numpy as np

DEEPEST = 64  # parsers of JSON end the process at some thousands, and those of YAML take for ever
STEP = np.zeros(256, np.int8)
STEP[[ord("["), ord("{")]], STEP[[ord("]"), ord("}")]] = 1, -1


def is_too_deep(data: bytes) -> bool:
    """Whether brackets, those in texts included, may be nested deeper than `DEEPEST`."""
    if data.count(b"[") + data.count(b"{") <= DEEPEST:
        return False
    depth = np.cumsum(STEP[np.frombuffer(data, np.uint8)], dtype=np.int64)
    return int((depth - np.minimum.accumulate(depth)).max()) > DEEPEST

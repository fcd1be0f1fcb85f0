"""Forked processes: JAX hangs in a process that was forked from one in which it ran."""

from __future__ import annotations

import os
import sys

from envs.errors import EnvError

_is_used = False  # whether dreams were made in this process
_is_broken = False  # whether this process was forked from one in which JAX ran


def note_use() -> None:
    """Note that JAX runs in this process, for those that are forked from it."""
    global _is_used
    _is_used = True


def is_broken() -> bool:
    """Whether JAX would hang in this process."""
    return _is_broken


def check() -> None:
    """Raise `EnvError` if JAX would hang in this process."""
    if _is_broken:
        raise EnvError(
            "this process was forked from one in which JAX ran, and JAX would hang in it; start "
            'workers afresh: AsyncVectorEnv(..., context="spawn"), or make all dreams in one '
            "process by gymnasium.make_vec"
        )


def _after_fork() -> None:
    global _is_broken
    bridge = sys.modules.get("jax._src.xla_bridge")  # others may have run it, too
    _is_broken = _is_broken or _is_used or bool(getattr(bridge, "_backends", None))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

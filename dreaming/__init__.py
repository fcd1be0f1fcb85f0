"""Dreams of real processes: `gymnasium.make("dreaming/Dream-v0", path=...)` after this import.

The small real tasks of `envs.tasks` are registered too.
"""

from __future__ import annotations

from typing import Any

from gymnasium.envs.registration import register, registry

from dreaming.neighbours import check_neighbours

check_neighbours()

from envs.tasks import register_tasks  # noqa: E402

__version__ = "0.1.0"
__all__ = ["__version__", "load_policy", "load_world"]

if "dreaming/Dream-v0" not in registry:
    register(
        "dreaming/Dream-v0",
        entry_point="envs.shells:DreamEnv",
        vector_entry_point="envs.shells:DreamVectorEnv",
        # No order enforcing: the dream checks it itself, and `restore` counts as a reset.
        order_enforce=False,
        disable_env_checker=True,
    )

register_tasks()


def load_world(path: Any, trust: bool = False) -> Any:
    """The world of a `.dream` file; `trust=True` also loads one that this user did not sign."""
    from envs.dreamfile import load_world

    return load_world(path, trust=trust)


def load_policy(path: Any) -> Any:
    """The policy saved in a directory, or deployed by a run: `act(observation)` and `reset()`."""
    from pathlib import Path

    from envs import forks

    forks.check()
    path = Path(path)
    if (path / "result.json").exists():
        path = path / "policy"
    if (path / "agent.json").exists():  # of an online agent; needs mctx and flax
        from dreaming.efficientzero.policy import load_agent_policy

        return load_agent_policy(path)
    from dreaming.student.policy import load_policy

    return load_policy(path)

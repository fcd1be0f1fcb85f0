"""Small real tasks with known optimum: histories, masks, dicts, factored actions, frames.

Registered as `dreaming/<name>-v0` by `import dreaming`. They need NumPy and Gymnasium alone.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete

TASKS = {  # class -> step limit
    "HalfSeenCartPole": 500,
    "Recall": None,
    "MaskedRooms": 20,
    "TwoCoordinates": 20,
    "Catch": None,
}


def register_tasks() -> None:
    """Register every task with Gymnasium, if it is not registered yet."""
    for name, limit in TASKS.items():
        if f"dreaming/{name}-v0" not in gymnasium.registry:
            entry_point = f"envs.tasks:{name}"
            gymnasium.register(f"dreaming/{name}-v0", entry_point, max_episode_steps=limit)
    if "dreaming/Atari-v0" not in gymnasium.registry:  # the emulator is an extra
        gymnasium.register("dreaming/Atari-v0", "envs.atari:Atari", disable_env_checker=True)


class HalfSeenCartPole(CartPoleEnv):
    """CartPole without velocities: o = (position, angle). The best return is 500.

    One observation does not tell which way the pole falls; two consecutive ones do.
    """

    SEEN = [0, 2]

    def __init__(self, **options: Any):
        super().__init__(**options)
        whole: Any = self.observation_space
        self.observation_space = Box(whole.low[self.SEEN], whole.high[self.SEEN], dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Begin an episode."""
        o, info = super().reset(seed=seed, options=options)
        return o[self.SEEN], info

    def step(self, action: Any):
        """Push the cart left (0) or right (1)."""
        o, r, terminated, truncated, info = super().step(action)
        return o[self.SEEN], r, terminated, truncated, info


class Recall(gymnasium.Env):
    """Remember a cue from the first observation until a question, `steps` observations in all.

    Observations: 0 nothing, 1 or 2 the cue (shown once), 3 the question. The answer earns 1 if
    action + 1 is the cue; all other actions have no effect. The optimum is 1, and needs a context
    of `steps` observations; a policy that sees one observation at a time gets 0.5.
    """

    def __init__(self, steps: int = 4):
        self.steps = steps
        self.observation_space, self.action_space = Discrete(4), Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Show the cue."""
        super().reset(seed=seed)
        self._t, self._cue = 0, int(self.np_random.integers(1, 3))
        return self._cue, {}

    def step(self, action: Any):
        """Wait, or answer the question."""
        self._t += 1
        over = self._t == self.steps
        r = float(over and action + 1 == self._cue)
        return 3 if self._t == self.steps - 1 else 0, r, over, False, {}


class MaskedRooms(gymnasium.Env):
    """Go from room 0 to room 6; `info["action_mask"]` marks the legal actions of each room.

    Actions: 0 one room back (not in room 0), 1 one ahead, 2 two ahead (in rooms 0, 3 and 6
    alone). Each step costs 0.1, room 6 pays 1. A forbidden action ends the episode with -1.
    The optimum is 0.6: rooms 0, 2, 3, 5, 6. A policy that ignores masks
    plans three jumps of two rooms; the second one, from room 2, is forbidden.
    """

    GOAL = 6

    def __init__(self):
        self.observation_space, self.action_space = Discrete(self.GOAL + 1), Discrete(3)

    def _info(self) -> dict[str, Any]:
        return {"action_mask": np.array([self._room > 0, 1, self._room % 3 == 0], np.int8)}

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Begin in room 0."""
        super().reset(seed=seed)
        self._room = 0
        return self._room, self._info()

    def step(self, action: Any):
        """Move; a forbidden action ends the episode."""
        if not self._info()["action_mask"][action]:
            return self._room, -1.0, True, False, self._info()
        self._room = min(self._room + (-1, 1, 2)[action], self.GOAL)
        over = self._room == self.GOAL
        return self._room, -0.1 + float(over), over, False, self._info()


class TwoCoordinates(gymnasium.Env):
    """Go from the middle of a 5 x 5 grid to a goal, moving in both coordinates at once.

    o = {"at": the cell, "goal": its coordinates as numbers}; each of the two actions is 0, 1 or
    2: one less, stay, one more. Every step costs 1 until the goal, a random other cell, is
    reached. The optimum is minus the larger of both distances: -5/3 on average.
    """

    SIZE = 5

    def __init__(self):
        cell = MultiDiscrete([self.SIZE, self.SIZE])
        goal = Box(0, self.SIZE - 1, (2,), np.float32)
        self.observation_space = Dict({"at": cell, "goal": goal})
        self.action_space = MultiDiscrete([3, 3])

    def _seen(self) -> dict[str, np.ndarray]:
        return {"at": self._at.copy(), "goal": self._goal.astype(np.float32)}

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Begin in the middle, with a new goal."""
        super().reset(seed=seed)
        middle = self.SIZE**2 // 2
        cell = (middle + self.np_random.integers(1, self.SIZE**2)) % self.SIZE**2
        self._at, self._goal = (np.array(divmod(x, self.SIZE)) for x in (middle, int(cell)))
        return self._seen(), {}

    def step(self, action: Any):
        """Move in both coordinates."""
        self._at = np.clip(self._at + np.asarray(action) - 1, 0, self.SIZE - 1)
        return self._seen(), -1.0, bool((self._at == self._goal).all()), False, {}


class Catch(gymnasium.Env):
    """A ball falls from a random column of a grid; the paddle on the bottom row must catch it.

    Frames are uint8 (40, 40, 1): 10 x 10 cells of 4 x 4 pixels, black except ball and paddle.
    Actions: 0 left, 1 stay, 2 right. An episode has 9 steps; the last pays 1 for a catch, else -1.
    The optimum is 1: every column can be reached in time. One frame shows the whole state.
    """

    CELLS, PIXELS = 10, 4

    def __init__(self):
        size = self.CELLS * self.PIXELS
        self.observation_space = Box(0, 255, (size, size, 1), np.uint8)
        self.action_space = Discrete(3)

    def _seen(self) -> np.ndarray:
        grid = np.zeros((self.CELLS, self.CELLS, 1), np.uint8)
        grid[self._row, self._ball] = grid[-1, self._paddle] = 255
        return grid.repeat(self.PIXELS, axis=0).repeat(self.PIXELS, axis=1)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Put a new ball at the top."""
        super().reset(seed=seed)
        self._row, self._ball = 0, int(self.np_random.integers(self.CELLS))
        self._paddle = self.CELLS // 2
        return self._seen(), {}

    def step(self, action: Any):
        """Move the paddle; the ball falls by one row."""
        self._row += 1
        self._paddle = min(max(self._paddle + int(action) - 1, 0), self.CELLS - 1)
        over = self._row == self.CELLS - 1
        r = (1.0 if self._paddle == self._ball else -1.0) if over else 0.0
        return self._seen(), r, over, False, {}

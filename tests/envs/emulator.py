"""A tiny deterministic emulator with ALE's face: frames that name themselves, lives, rewards."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

NO_OP, HEIGHT, WIDTH = 1, 210, 160  # the action without effect is not the first one


class Emulator(gymnasium.Env):
    """A game of `lives` lives of `frames` frames each.

    The screen's brightness is that of the frame's number, and frames of even number show a block in
    the upper half, odd ones in the lower half. Action 0 earns 2 in every frame, action 2 costs 3.
    """

    action_space = Discrete(4)

    def __init__(self, lives: int = 3, frames: int = 50, grey: bool = True, cap: int = 10**9):
        self.start, self.length, self.cap = lives, frames, cap
        shape = (HEIGHT, WIDTH) if grey else (HEIGHT, WIDTH, 3)
        self.observation_space = Box(0, 255, shape, np.uint8)
        self.actions: list[int] = []  # of the game
        self.seeds: list[int | None] = []  # of all resets

    def get_action_meanings(self) -> list[str]:
        return ["FIRE", "NOOP", "RIGHT", "LEFT"]

    def screen(self, number: int) -> np.ndarray:
        """What frame `number` shows."""
        shown = np.full(self.observation_space.shape or (), number % 100, np.uint8)
        rows = slice(0, HEIGHT // 2) if number % 2 == 0 else slice(HEIGHT // 2, HEIGHT)
        shown[rows, :80] = 200
        return shown

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        self.seeds.append(seed)
        self.actions = []
        return self.screen(0), {"lives": self.start}

    def step(self, action: int) -> Any:
        assert 0 <= action < 4, action
        self.actions.append(action)
        number = len(self.actions)
        lives = self.start - number // self.length
        r = {0: 2.0, 2: -3.0}.get(action, 0.0)
        over, cut = lives <= 0, number >= self.cap
        return self.screen(number), r, over, cut and not over, {"lives": max(lives, 0)}

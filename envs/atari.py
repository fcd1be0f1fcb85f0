"""Games of the Atari 2600 under the rules of Atari-100k, none of them left to an id's default.

`dreaming/Atari-v0` needs the extra `atari`: the emulator (ale-py) is imported when a game is made.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from envs.errors import EnvError
from envs.real import CONTINUES

ID = "dreaming/Atari-v0"
GAMES = (
    "Alien Amidar Assault Asterix BankHeist BattleZone Boxing Breakout ChopperCommand CrazyClimber "
    "DemonAttack Freeway Frostbite Gopher Hero Jamesbond Kangaroo Krull KungFuMaster MsPacman Pong "
    "PrivateEye Qbert RoadRunner Seaquest UpNDown"
).split()
MISSING = "ale-py is not installed; pip install 'dreaming[atari]'"


@dataclass(frozen=True)
class Rules:
    """What a decision sees, does and earns; the defaults are those of an evaluation."""

    side: int = 96  # rows and columns of a frame: the average of the screen's area under each pixel
    grey: bool = False  # luminance alone, rather than red, green and blue
    skip: int = 4  # emulator frames per decision; shown is the maximum of the last two
    no_ops: int = 30  # a game begins with 1 to so many frames without action
    sticky: float = 0.0  # probability that the emulator repeats its last action in a frame
    all_actions: bool = False  # all 18 actions, rather than those that do something in the game
    max_frames: int = 108_000  # emulator frames of a game, no-ops included; then it is truncated
    life_loss: bool = False  # a lost life ends the episode; the next one goes on with the game
    clip_rewards: bool = False  # to their sign


def make_emulator(game: str, rules: Rules) -> gymnasium.Env:
    """The emulator, frame by frame, as a Gymnasium env whose `info["lives"]` counts lives."""
    try:
        ale_py: Any = importlib.import_module("ale_py")
    except ImportError as error:
        raise gymnasium.error.DependencyNotInstalled(MISSING) from error
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    gymnasium.register_envs(ale_py)
    if f"ALE/{game}-v5" not in gymnasium.registry:
        raise EnvError(f"game={game} is not known to ale-py {ale_py.__version__}")
    env = gymnasium.make(
        f"ALE/{game}-v5",
        obs_type="grayscale" if rules.grey else "rgb",
        repeat_action_probability=rules.sticky,
        full_action_space=rules.all_actions,
        frameskip=1,
        mode=None,  # of the cartridge
        difficulty=None,
        max_num_frames_per_episode=rules.max_frames,
        disable_env_checker=True,
    )
    return env.unwrapped


class Atari(gymnasium.Env):
    """A game, decision by decision: frames uint8 [side, side, 3], or [side, side, 1] in grey.

    With `life_loss` the `reset` after a lost life shows the frame that the game stands at, takes no
    emulator frame, ignores its seed and says so: `info["continues"]`. All other resets begin a
    game, which follows from the seed and the actions alone. `info` also has `lives`, `frames`
    (emulator frames of the game) and `score` (raw, of the game).
    """

    def __init__(self, game: str, **rules: Any):
        self.game, self.rules = game, checked(rules)
        self.emulator = make_emulator(game, self.rules)
        side, channels = self.rules.side, 1 if self.rules.grey else 3
        self.observation_space = Box(0, 255, (side, side, channels), np.uint8)
        self.action_space: Any = self.emulator.action_space
        self._no_op = no_op(self.emulator, game)
        self._goes_on = False  # the game, after the loss of a life
        self._load: int | None = 0  # seed of the cartridge's next loading, None = it stays loaded
        self.lives = self.frames = 0
        self.score = 0.0

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Begin a game; after the loss of a life, go on with it."""
        super().reset(seed=seed)
        if self._goes_on:
            self._goes_on = False
            return self._seen(), self._info() | {CONTINUES: True}
        if self.rules.sticky:  # else nothing in the emulator is left to chance: loading takes 0.3 s
            self._load = seed
        self._begin()
        for _ in range(int(self.np_random.integers(1, self.rules.no_ops + 1))):
            *_, over = self._frame(self._no_op)
            if over:
                self._begin()
        self.score = 0.0
        self._before = self._newest  # the first frame of a game stands alone
        return self._seen(), self._info()

    def step(self, action: Any):
        """Hold an action for `skip` frames, or until the game is over."""
        lives, earned, terminated, truncated = self.lives, 0.0, False, False
        for _ in range(self.rules.skip):
            r, terminated, truncated, over = self._frame(int(action))
            earned += r
            if over:
                break
        self.score += earned
        lost = self.rules.life_loss and self.lives < lives and not (terminated or truncated)
        self._goes_on = lost
        r = float(np.sign(earned)) if self.rules.clip_rewards else earned
        return self._seen(), r, terminated or lost, truncated, self._info()

    def close(self) -> None:
        """Close the emulator."""
        self.emulator.close()

    def _begin(self) -> None:
        o, info = self.emulator.reset(seed=self._load)
        self._load = None
        self._before = self._newest = o
        self.lives, self.frames, self.score = int(info["lives"]), 0, 0.0

    def _frame(self, action: int) -> tuple[float, bool, bool, bool]:
        """One emulator frame: (reward, terminated, truncated, whether the game is over)."""
        self._before = self._newest
        self._newest, r, terminated, truncated, info = self.emulator.step(action)
        self.frames += 1
        self.lives = int(info["lives"])
        truncated = (truncated or self.frames >= self.rules.max_frames) and not terminated
        return float(r), bool(terminated), bool(truncated), bool(terminated or truncated)

    def _seen(self) -> np.ndarray:
        screen = np.maximum(self._before, self._newest)
        return shrink(screen.reshape(*screen.shape[:2], -1), self.rules.side)

    def _info(self) -> dict[str, Any]:
        return {"lives": self.lives, "frames": self.frames, "score": self.score}


def checked(rules: dict[str, Any]) -> Rules:
    """Rules by name. Raises `EnvError` for one that does not exist or cannot be."""
    unknown = sorted(set(rules) - set(Rules.__dataclass_fields__))
    if unknown:
        raise EnvError(f"{ID}: {unknown[0]} is no rule; rules are {', '.join(vars(Rules()))}")
    found = Rules(**rules)
    for name in ("side", "skip", "no_ops", "max_frames"):
        if getattr(found, name) < 1:
            raise EnvError(f"{ID}: {name} is {getattr(found, name)}, expected at least 1")
    if not 0 <= found.sticky < 1:
        raise EnvError(f"{ID}: sticky is {found.sticky}, expected at least 0 and less than 1")
    return found


def no_op(emulator: Any, game: str) -> int:
    """The action that does nothing. Raises `EnvError` for actions that are not a plain list."""
    meanings: Callable[[], list[str]] = emulator.get_action_meanings
    if not isinstance(emulator.action_space, Discrete) or "NOOP" not in meanings():
        raise EnvError(f"{ID}: {game} takes {emulator.action_space}, expected actions with a NOOP")
    return meanings().index("NOOP")


def shrink(screen: np.ndarray, side: int) -> np.ndarray:
    """A screen uint8 [H, V, C] as uint8 [side, side, C]: every new pixel is the mean of the area
    it covers. Whole numbers throughout, so that all machines show the same."""
    area = screen.shape[0] * screen.shape[1]
    sums = summed(summed(screen, side).swapaxes(0, 1), side).swapaxes(0, 1)
    return ((2 * sums + area) // (2 * area)).astype(np.uint8)


def summed(x: np.ndarray, count: int) -> np.ndarray:
    """`x` [n, ...] in `count` equal intervals of its first axis, int32 [count, ...]: the sums over
    each, where every entry is `count` wide and an interval n."""
    n = len(x)
    whole, part = np.divmod(np.arange(count + 1, dtype=np.int32) * n, count)
    total = np.zeros((n + 1, *x.shape[1:]), np.int32)
    np.cumsum(x, axis=0, dtype=np.int32, out=total[1:])
    begun = part.reshape(-1, *[1] * (x.ndim - 1)) * x[np.minimum(whole, n - 1)]
    return np.diff(count * total[whole] + begun, axis=0)

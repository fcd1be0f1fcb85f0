"""The best policies known of small real tasks, found from the tasks' own equations.

A policy is a function of observations [N, O] and the time t. Grids hold values of two-dimensional
deterministic tasks, backwards over time; between their points values are linear.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.envs.classic_control import acrobot
from scipy.ndimage import map_coordinates

Policy = Callable[[Any, int], np.ndarray]  # (observations, t) -> actions
Step = tuple[np.ndarray, Any, np.ndarray]  # rewards [...], ended [...], next states [2, ...]


@dataclass(frozen=True)
class Grid:
    """A two-dimensional deterministic task on a grid: `step(s, a)` for states s [2, ...]."""

    low: tuple[float, float]
    high: tuple[float, float]
    shape: tuple[int, int]
    actions: np.ndarray
    step: Callable[[np.ndarray, Any], Step]
    state: Callable[[Any], np.ndarray]  # observations [N, O] -> states [2, N]

    def _gains(self, v: np.ndarray, steps: list[Step]) -> np.ndarray:
        """What each action earns, then `v` [n, m]."""
        width = (np.subtract(self.high, self.low) / np.subtract(self.shape, 1)).tolist()
        at = lambda s: np.stack([(x - a) / w for x, a, w in zip(s, self.low, width, strict=True)])
        later = lambda s: map_coordinates(v, at(s), order=1, mode="nearest")
        return np.stack([r + np.where(ended, 0, later(s)) for r, ended, s in steps])

    def policy(self, horizon: int) -> Policy:
        """Looks one step ahead, and from there to the values of the steps that are left."""
        axes = [np.linspace(*x) for x in zip(self.low, self.high, self.shape, strict=True)]
        points = np.stack(np.meshgrid(*axes, indexing="ij"))
        steps = [self.step(points, a) for a in self.actions]
        v = [np.zeros(self.shape, np.float32)]  # v[k]: of k steps to go
        while len(v) < horizon:
            v.append(self._gains(v[-1], steps).max(0))

        def act(o: Any, t: int) -> np.ndarray:
            ahead = [self.step(self.state(o), a) for a in self.actions]
            return self.actions[self._gains(v[horizon - 1 - t], ahead).argmax(0)]

        return act


def _drive(s: np.ndarray, a: Any) -> Step:
    """MountainCar's equations."""
    velocity = np.clip(s[1] + (a - 1) * 0.001 - np.cos(3 * s[0]) * 0.0025, -0.07, 0.07)
    position = np.clip(s[0] + velocity, -1.2, 0.6)
    velocity = np.where((position == -1.2) & (velocity < 0), 0.0, velocity)
    ended = (position >= 0.5) & (velocity >= 0)
    return np.full(position.shape, -1.0), ended, np.stack([position, velocity])


def _swing(s: np.ndarray, a: Any) -> Step:
    """Pendulum's equations, with angles in [-pi, pi]."""
    r = -(s[0] ** 2 + 0.1 * s[1] ** 2 + 0.001 * a[0] ** 2)
    speed = np.clip(s[1] + (15 * np.sin(s[0]) + 3 * a[0]) * 0.05, -8, 8)
    angle = (s[0] + speed * 0.05 + np.pi) % (2 * np.pi) - np.pi
    return r, False, np.stack([angle, speed])


def mountain_car(shape: tuple[int, int] = (361, 281)) -> Grid:
    """MountainCar over position and velocity."""
    state = lambda o: o.T.astype(float)
    return Grid((-1.2, -0.07), (0.6, 0.07), shape, np.arange(3), _drive, state)


def pendulum(shape: tuple[int, int] = (401, 321), torques: int = 21) -> Grid:
    """Pendulum over angle and speed."""
    state = lambda o: np.stack([np.arctan2(o[:, 1], o[:, 0]), o[:, 2]]).astype(float)
    actions = np.linspace(-2, 2, torques, dtype=np.float32)[:, None]
    return Grid((-np.pi, -8.0), (np.pi, 8.0), shape, actions, _swing, state)


def fall(s: np.ndarray, torque: np.ndarray) -> np.ndarray:
    """Acrobot's states [4, N] one step later: its own derivatives, Runge-Kutta's fourth order."""
    task, dt = acrobot.AcrobotEnv(), acrobot.AcrobotEnv.dt
    speeds = lambda y: np.stack(task._dsdt([*y, torque])[:4])
    k1 = speeds(s)
    k2 = speeds(s + dt / 2 * k1)
    k3 = speeds(s + dt / 2 * k2)
    s = s + dt / 6 * (k1 + 2 * k2 + 2 * k3 + speeds(s + dt * k3))
    most = np.array([[task.MAX_VEL_1], [task.MAX_VEL_2]])
    return np.concatenate([(s[:2] + np.pi) % (2 * np.pi) - np.pi, np.clip(s[2:], -most, most)])


def _features(s: np.ndarray) -> np.ndarray:
    """Functions [12, N] of Acrobot's states; in its mirror they change sign, as torques do."""
    a, b, u, v = s[0], s[1], s[2] / 3, s[3] / 5
    sin, cos = np.sin, np.cos
    products = [cos(a) * sin(b), sin(a) * cos(b), u * cos(a), v * cos(b), u * cos(b), v * cos(a)]
    return np.stack([sin(a), sin(b), u, v, sin(a + b), sin(2 * b), *products])


def _steps_to_goal(weights: np.ndarray, starts: np.ndarray, horizon: int = 150) -> np.ndarray:
    """Mean steps that controllers [P, 12] need from each of the starts [4, N]."""
    P = len(weights)
    s, alive, total = np.tile(starts, P), True, np.zeros(P * starts.shape[1])
    for _ in range(horizon):
        f = _features(s).reshape(12, P, -1)
        s = fall(s, np.sign(np.einsum("pf,fpn->pn", weights, f)).ravel())
        alive = alive & (-np.cos(s[0]) - np.cos(s[0] + s[1]) <= 1)
        total += alive
    return total.reshape(P, -1).mean(1)


def swing_up(horizon: int, generations: int = 100, seed: int = 0) -> Policy:
    """Acrobot: full torque, by the sign of a linear controller (the cross-entropy method)."""
    random, mean, std = np.random.default_rng(seed), np.zeros(12), np.ones(12)
    for generation in range(generations):
        weights = mean + std * random.standard_normal((64, 12))
        found = _steps_to_goal(weights, random.uniform(-0.1, 0.1, (4, 48)))
        elite = weights[np.argsort(found, kind="stable")[:10]]
        mean = 0.3 * mean + 0.7 * elite.mean(0)
        std = 0.3 * std + 0.7 * (elite.std(0) + 0.05 * 0.97**generation)

    def act(o: Any, t: int) -> np.ndarray:
        angles = np.arctan2(o[:, [1, 3]], o[:, [0, 2]])
        return np.where(mean @ _features(np.concatenate([angles, o[:, 4:]], axis=1).T) > 0, 2, 0)

    return act

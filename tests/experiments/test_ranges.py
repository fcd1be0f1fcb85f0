"""The ranges of tasks: the committed table, its shares, and the policies behind it."""

import configparser
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from dreaming.statistics import t_interval
from envs import tabular
from envs.types import EnvError
from experiments.study import best
from experiments.study.blackjack import blackjack
from experiments.study.episodes import play_task
from experiments.study.ranges import (
    EXACT,
    TABLE,
    TASKS,
    Range,
    exact,
    main,
    read_ranges,
    share,
    write_ranges,
)

ROOT = Path(__file__).parents[2]


def test_a_share_is_where_a_return_lies_between_random_and_the_best():
    hill = Range("hill", 200, -200.0, 0.0, -100.0, 0.3, "measured", "")
    assert hill.share(-125.0) == 0.75 and hill.share(-200.0) == 0 and hill.share(-90.0) == 1.1
    np.testing.assert_allclose(hill.share(np.array([-100.0, -150.0])), [1, 0.5])
    cart = read_ranges()["CartPole-v1"]
    assert share("CartPole-v1", 261.0) == pytest.approx((261 - cart.random) / (500 - cart.random))


def test_the_best_of_cartpole_is_its_limit():
    for task in ("CartPole-v1", "dreaming/HalfSeenCartPole-v0"):
        row = read_ranges()[task]
        assert (row.horizon, row.best, row.best_ci, row.how) == (500, 500.0, 0.0, "limit")
        assert 20 < row.random - row.random_ci < row.random + row.random_ci < 25


def test_the_committed_table_has_every_task_and_is_shipped():
    ranges = read_ranges()
    assert tuple(ranges) == TASKS
    assert all(row.best - row.best_ci > row.random + row.random_ci for row in ranges.values())
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["options.package_data"]["experiments.study"] == TABLE.name


def test_an_unknown_task_is_refused_in_a_line_that_names_the_known():
    with pytest.raises(EnvError, match="Chess-v0 has no range; ranges.csv has .*CartPole-v1"):
        share("Chess-v0", 1.0)


@pytest.mark.parametrize("task", EXACT)
def test_exact_values_are_the_committed_ones(task):
    row = read_ranges()[task]
    found = exact(task, row.horizon)
    assert (found.random, found.best) == pytest.approx((row.random, row.best), rel=1e-5)


@pytest.mark.parametrize("task, steps, episodes", [("FrozenLake-v1", 100, 500),
    ("Taxi-v4", 200, 100), ("CliffWalking-v1", 100, 200), ("Blackjack-v1", 1000, 500)])  # fmt: skip
def test_exact_random_returns_agree_with_real_episodes(task, steps, episodes):
    low, high = t_interval(play_task(task, None, episodes, 3, steps), level=0.99)
    assert low < exact(task, steps).random < high


@pytest.mark.parametrize("task, steps", [("FrozenLake-v1", 100), ("FrozenLake8x8-v1", 200)])
def test_exact_optima_are_what_real_episodes_earn_and_a_little_more(task, steps):
    table = tabular.from_gym(task)
    best_action = tabular.solve(table, 0.9999)[2]
    known = tabular.evaluate(table, best_action, steps)
    returns = play_task(task, lambda o, t: best_action[o], 300, 3, steps)
    low, high = t_interval(returns, level=0.99)
    assert low < known < high and known < read_ranges()[task].best < known + 0.05


def test_the_table_of_blackjack_agrees_with_real_games():
    def stick(o, t):  # from 17 on, aces or not
        return np.where(o[0] >= 17, 0, 1)

    table = blackjack()
    total, ace = np.divmod(np.arange(800) // 20, 2)
    points = total + 2 + 10 * ((ace == 1) & (total + 2 <= 11))
    known = tabular.evaluate(table, np.where(points >= 17, 0, 1), 30)
    low, high = t_interval(play_task("Blackjack-v1", stick, 4000, 0, 30), level=0.99)
    assert low < known < high and high - low < 0.1


@pytest.mark.parametrize("task, grid", [("MountainCar-v0", best.mountain_car((91, 71))),
                                        ("Pendulum-v1", best.pendulum((61, 41), 9))])  # fmt: skip
def test_grids_know_the_equations_of_their_tasks(task, grid):
    env, random = gymnasium.make(task), np.random.default_rng(0)
    for seed in range(3):
        o, _ = env.reset(seed=seed)
        for _ in range(100):
            a = random.choice(grid.actions)
            s = grid.state(o[None])
            o, r, terminated, truncated, _ = env.step(a)
            reward, ended, after = grid.step(s, a)
            np.testing.assert_allclose(after, grid.state(o[None]), atol=1e-4)
            assert reward[0] == pytest.approx(r, abs=1e-4) and np.all(ended == terminated)
            if terminated or truncated:
                break
    env.close()


@pytest.mark.parametrize(
    "task, make, least",
    [
        ("MountainCar-v0", best.mountain_car((91, 71)).policy, -115),
        ("Pendulum-v1", best.pendulum((61, 41), 9).policy, -200),
        ("Acrobot-v1", lambda steps: best.swing_up(steps, generations=4), -130),
    ],
)
def test_coarse_policies_come_near_the_committed_best(task, make, least):
    row = read_ranges()[task]
    found = play_task(task, make(row.horizon), 30, 7, row.horizon).mean()
    assert least < found < row.best + 40


def test_acrobot_falls_as_the_task_does():
    env = gymnasium.make("Acrobot-v1").unwrapped
    env.reset(seed=1)
    for a in (2, 0, 1, 2, 2, 0) * 10:
        s = np.asarray(env.state)[:, None]  # type: ignore
        env.step(a)
        wanted = np.asarray(env.state)[:, None]  # type: ignore
        np.testing.assert_allclose(best.fall(s, np.array([a - 1.0])), wanted, atol=1e-6)


def test_the_command_measures_tasks_and_keeps_the_others(tmp_path, capsys):
    path = tmp_path / "ranges.csv"
    write_ranges({"Taxi-v4": read_ranges()["Taxi-v4"]}, path)
    for _ in range(2):  # the same again
        assert main([f"path={path}", "tasks=CartPole-v1,FrozenLake-v1", "episodes=20"]) == 0
        ranges = read_ranges(path)
        assert list(ranges) == ["CartPole-v1", "FrozenLake-v1", "Taxi-v4"]
        assert ranges["Taxi-v4"] == read_ranges()["Taxi-v4"]
    first, second = np.array_split(capsys.readouterr().out.splitlines(), 2)
    assert list(first) == list(second)
    assert main([f"path={path}", "tasks=Chess-v0"]) == 2
    assert "tasks are CartPole-v1" in capsys.readouterr().err

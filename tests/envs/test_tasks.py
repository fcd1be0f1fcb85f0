"""The small real tasks are what they say: their optima, their traps, and Gymnasium's contract."""

import warnings
from itertools import product
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import dreaming  # noqa: F401  (registers the tasks)
from envs.tasks import TASKS


def make(name, **options) -> Any:
    return gymnasium.make(f"dreaming/{name}-v0", **options)


def play(env, policy, seed=0):
    """(return, terminated) of an episode; `policy(o, info, t)` gives the action."""
    o, info = env.reset(seed=seed)
    total, t, terminated, truncated = 0.0, 0, False, False
    while not (terminated or truncated):
        o, r, terminated, truncated, info = env.step(policy(o, info, t))
        total, t = total + r, t + 1
    return total, terminated


@pytest.mark.parametrize("name", TASKS)
def test_the_checker_has_nothing_to_say(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(name).unwrapped, skip_render_check=True)


def test_half_seen_cart_pole_hides_the_velocities_and_nothing_else():
    whole, half = gymnasium.make("CartPole-v1"), make("HalfSeenCartPole")
    assert half.observation_space.shape == (2,) and half.spec.max_episode_steps == 500
    seen = [(whole.reset(seed=3)[0], half.reset(seed=3)[0])]
    for t in range(8):
        one, other = whole.step(t % 2), half.step(t % 2)
        assert one[1:4] == other[1:4]
        seen.append((one[0], other[0]))
    for o, shown in seen:
        np.testing.assert_array_equal(o[[0, 2]], shown)


def test_half_seen_cart_pole_can_be_balanced_from_two_observations():
    def policy(o, info, t):
        nonlocal before
        velocity = o - before if t else np.zeros(2)
        before = o
        return int(o[1] + 12 * velocity[1] + 0.05 * o[0] + 2.5 * velocity[0] > 0)

    before = np.zeros(2)
    assert [play(make("HalfSeenCartPole"), policy, seed)[0] for seed in range(5)] == [500] * 5
    blind = lambda o, info, t: int(o[1] > 0)
    assert max(play(make("HalfSeenCartPole"), blind, seed)[0] for seed in range(20)) < 150


def test_recall_is_solved_by_memory_alone():
    def remembers(o, info, t):
        nonlocal cue
        cue = o if t == 0 else cue
        return cue - 1

    cue = 0
    env = make("Recall")
    assert [play(env, remembers, seed) for seed in range(20)] == [(1, True)] * 20
    shown = [env.reset(seed=1)[0]] + [env.step(0)[0] for _ in range(4)]
    assert shown[0] in (1, 2) and shown[1:] == [0, 0, 3, 0]
    # The best of all policies of one observation: 0.5, whatever the answer to the question.
    for answer in (0, 1):
        total = [play(env, lambda o, info, t, a=answer: a, seed)[0] for seed in range(400)]
        assert abs(np.mean(total) - 0.5) < 5 * 0.5 / 20


def test_masked_rooms_reward_who_respects_the_mask():
    env, best = make("MaskedRooms"), {0: 2, 2: 1, 3: 2, 5: 1}
    assert play(env, lambda o, info, t: best[o]) == (pytest.approx(0.6), True)
    assert play(env, lambda o, info, t: 2) == (pytest.approx(-1.1), True)
    assert play(env, lambda o, info, t: 0) == (-1, True)
    returns = []  # no legal way is better
    for actions in product(range(3), repeat=6):
        _, info = env.reset()
        total, over = 0.0, False
        for a in actions:
            if over or not info["action_mask"][a]:
                break
            _, r, over, _, info = env.step(a)
            total += r
        returns.append(total if over else -np.inf)
    assert max(returns) == pytest.approx(0.6)
    masks = [env.reset()[1]["action_mask"].tolist()]
    masks += [env.step(1)[4]["action_mask"].tolist() for _ in range(6)]
    assert masks == [[0, 1, 1], [1, 1, 0], [1, 1, 0], [1, 1, 1], [1, 1, 0], [1, 1, 0], [1, 1, 1]]


def test_two_coordinates_are_moved_at_once():
    env = make("TwoCoordinates")
    both = lambda o, info, t: np.sign(o["goal"] - o["at"]).astype(int) + 1
    returns, goals = [], set()
    for seed in range(500):
        goal = env.reset(seed=seed)[0]["goal"]
        total, terminated = play(env, both, seed)
        assert terminated and total == -max(abs(goal - 2))
        goals.add(tuple(goal.tolist()))
        returns.append(total)
    assert len(goals) == 24
    assert abs(np.mean(returns) + 5 / 3) < 5 * 0.48 / np.sqrt(500)
    assert play(env, lambda o, info, t: np.array([1, 1])) == (-20, False)


def columns(frame, row):
    """Columns of the 10 x 10 grid that are white in a row."""
    return np.flatnonzero(frame[4 * row, ::4, 0])


def test_catch_can_always_be_won_from_what_is_seen():
    def follows(o, info, t):
        return int(np.sign(columns(o, t)[0] - paddle_of(o, t))) + 1

    paddle_of = lambda o, t: columns(o, 9)[0]
    env, balls = make("Catch"), set()
    for seed in range(60):
        frame = env.reset(seed=seed)[0]
        balls.add(int(columns(frame, 0)[0]))
        assert columns(frame, 9).tolist() == [5]
        assert play(env, follows, seed) == (1, True)
    assert balls == set(range(10))
    still = [play(env, lambda o, info, t: 1, seed)[0] for seed in range(500)]
    assert abs(np.mean(still) + 0.8) < 5 * 0.6 / np.sqrt(500)  # caught from 1 column of 10


def test_catch_shows_blocks_and_repeats_itself():
    env = make("Catch")
    frame = env.reset(seed=7)[0]
    for t in range(1, 9):
        after, r, *over, _ = env.step(0)
        assert r == 0 and over == [False, False]
        assert columns(after, 9).tolist() == [max(5 - t, 0)]
        assert columns(after, t).tolist() == columns(frame, t - 1).tolist()
        assert after.sum() == 2 * 16 * 255 and set(np.unique(after)) == {0, 255}
        frame = after
    np.testing.assert_array_equal(env.reset(seed=7)[0], make("Catch").reset(seed=7)[0])

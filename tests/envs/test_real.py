"""Real tasks by id: they need nothing extra, and failures are one line that helps."""

import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Dict, Discrete, Text, Tuple

from envs.real import horizon, make_real
from envs.tasks import register_tasks
from envs.types import EnvError, SpaceError

register_tasks()

TASKS = {
    "CartPole-v1": 500,
    "MountainCar-v0": 200,
    "Acrobot-v1": 500,
    "FrozenLake-v1": 100,
    "Taxi-v4": 200,
    "CliffWalking-v1": None,
}


@pytest.mark.parametrize(("id", "limit"), TASKS.items())
def test_tasks_step_and_know_their_limit(id, limit):
    env = make_real(id)
    assert horizon(env) == limit
    env.reset(seed=0)
    o, r, terminated, truncated, info = env.step(env.action_space.sample())
    assert env.observation_space.contains(o)
    env.close()


def test_stepping_needs_no_renderer():
    code = (
        "import sys; sys.modules['pygame'] = None; from envs.real import make_real\n"
        f"for id in {list(TASKS)}:\n    env = make_real(id); env.reset(seed=0); env.step(0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_step_limit_and_options_reach_the_task():
    env = make_real("FrozenLake-v1", max_episode_steps=7, is_slippery=False)
    assert horizon(env) == 7 and horizon(make_real("CartPole-v1", num_envs=2)) == 500
    env.reset(seed=0)
    assert env.step(1)[0] == 4, "down is down when the ice is not slippery"
    ends = [env.step(0)[3] for _ in range(6)]
    assert ends == [False] * 5 + [True]


def test_copies_of_a_vector_env_are_the_single_env():
    """Copy i seeded s is a single env seeded s + i."""
    vector = make_real("CartPole-v1", num_envs=3)
    observations = [vector.reset(seed=5)[0]]
    a = np.array([0, 1, 1])
    observations += [vector.step(a)[0] for _ in range(8)]
    for i in range(3):
        env = make_real("CartPole-v1")
        expected = [env.reset(seed=5 + i)[0]] + [env.step(a[i])[0] for _ in range(8)]
        np.testing.assert_array_equal(np.stack(observations)[:, i], np.stack(expected))


def test_gymnasiums_own_vector_cartpole_draws_other_episodes():
    """Why `make_real` does not use it; if this fails, it can."""
    own = gymnasium.make_vec("CartPole-v1", 2, vectorization_mode="vector_entry_point")
    ours = make_real("CartPole-v1", num_envs=2)
    assert not np.array_equal(own.reset(seed=0)[0], ours.reset(seed=0)[0])


@pytest.mark.parametrize(
    ("id", "options", "words"),
    [
        ("CartPol-v1", {}, "CartPol-v1: is not registered .* closest are CartPole-v1"),
        ("CartPole-v9", {}, "CartPole-v1"),
        ("Nowhere/Task-v0", {}, "install and import the package that registers Nowhere/"),
        ("a b", {}, "Malformed"),
        ("no_such_module:Task-v0", {}, "cannot be imported: No module named 'no_such_module'"),
        ("CartPole-v1", {"gravty": 3}, "unexpected keyword argument 'gravty'"),
        ("CartPole-v1", {"num_envs": -1}, "num_envs is -1"),
        ("CartPole-v1", {"max_episode_steps": 0}, "max_episode_steps is 0"),
    ],
)
def test_what_cannot_be_made_is_one_line(id, options, words):
    with pytest.raises(EnvError, match=words) as caught:
        make_real(id, **options)
    assert "\n" not in str(caught.value)


def test_a_missing_dependency_is_named(monkeypatch):
    def needs_more(**kwargs):
        raise gymnasium.error.DependencyNotInstalled("no box3d,\nrun `pip install box3d`")

    monkeypatch.setitem(gymnasium.registry, "Needs-v0", EnvSpec("Needs-v0", needs_more))
    with pytest.raises(EnvError, match="Needs-v0: a dependency is missing: .*pip install box3d"):
        make_real("Needs-v0")


@pytest.mark.parametrize("id", ["Blackjack-v1", "Pendulum-v1", "dreaming/TwoCoordinates-v0"])
def test_tuples_dicts_numbers_and_factors_are_supported(id):
    for num in (0, 2):
        env = make_real(id, num_envs=num)
        o, _ = env.reset(seed=0)
        assert env.observation_space.contains(o)
        assert env.observation_space.contains(env.step(env.action_space.sample())[0])
        env.close()


class Odd(gymnasium.Env):
    """A task whose spaces are given."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space


@pytest.mark.parametrize(
    ("observation", "action", "words"),
    [
        (Dict(a=Text(3)), Discrete(2), r"observation.a space Text.*supported are Box, Discrete"),
        (Discrete(2), Tuple([Discrete(2)]), "action space Tuple.*supported are Discrete, MultiD"),
        (Discrete(2), Box(0, 9, (1,), np.int64), "action space Box.*supported are .*Box of floats"),
    ],
)
def test_unsupported_spaces_are_named_with_what_is_supported(
    observation, action, words, monkeypatch
):
    spec = EnvSpec("Odd-v0", lambda **_: Odd(observation, action), disable_env_checker=True)
    monkeypatch.setitem(gymnasium.registry, "Odd-v0", spec)
    with pytest.raises(SpaceError, match=f"Odd-v0: {words}") as caught:
        make_real("Odd-v0")
    assert "\n" not in str(caught.value)

"""Real tasks by id: they need nothing extra, and failures are one line that helps."""

import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

from envs.real import horizon, make_real
from envs.types import EnvError, SpaceError

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


def test_unsupported_spaces_are_named_with_what_is_supported():
    with pytest.raises(
        SpaceError, match=r"Blackjack-v1: observation space Tuple.*supported are Box"
    ):
        make_real("Blackjack-v1")
    with pytest.raises(SpaceError, match=r"Pendulum-v1: action space Box.*supported is Discrete"):
        make_real("Pendulum-v1")

"""Real tasks by id: they need nothing extra, and failures are one line that helps."""

import subprocess
import sys
from decimal import Decimal
from fractions import Fraction

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Dict, Discrete, Text, Tuple

from envs.real import horizon, make_real, reset_task, step_task
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
    env = make_real("FrozenLake-v1", {"max_episode_steps": 7, "is_slippery": False})
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
        ("CartPole-v1", {"num_envs": 3}, "unexpected keyword argument 'num_envs'"),
        ("CartPole-v1", {"id": "x"}, "its option id=x cannot be passed on"),
        ("CartPole-v1", {"max_episode_steps": 0}, "max_episode_steps is 0"),
        ("CartPole-v1", {"max_episode_steps": "many"}, "max_episode_steps is many"),
    ],
)
def test_what_cannot_be_made_is_one_line(id, options, words):
    with pytest.raises(EnvError, match=words) as caught:
        make_real(id, options)
    assert "\n" not in str(caught.value)
    with pytest.raises(EnvError, match="num_envs is -1"):
        make_real("CartPole-v1", num_envs=-1)


class Named(gymnasium.Env):
    """A task whose options have the names of our own parameters."""

    observation_space, action_space = Discrete(2), Discrete(2)

    def __init__(self, num_envs=0, options=None, seed=0):
        self.given = num_envs, options, seed


def test_options_of_any_name_reach_the_task(monkeypatch):
    monkeypatch.setitem(
        gymnasium.registry, "Named-v0", EnvSpec("Named-v0", lambda **options: Named(**options))
    )
    options = {"num_envs": 5, "options": {"x": [1]}, "seed": 7, "render_mode": None}
    assert make_real("Named-v0", options).unwrapped.given == (5, {"x": [1]}, 7)
    assert options["render_mode"] is None  # what was given is not changed


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


class Given(gymnasium.Env):
    """A task without a checker that returns what it is told to."""

    def __init__(self, reset=(0, {}), step=(0, 0.0, False, False, {})):
        self.reset = lambda **_: reset
        self.step = lambda action: step


@pytest.mark.parametrize(
    ("reward", "value"),
    [
        (np.array([2.5], np.float32), 2.5),
        (np.array([[-3]]), -3),
        (np.float16(0.25), 0.25),
        (Decimal("1.75"), 1.75),
        (Fraction(7, 4), 1.75),
        (True, 1),
        (np.True_, 1),
        (jnp.full((1, 1), 4.5), 4.5),
        (10**30, 1e30),
        ([6], 6),
    ],
)
def test_a_reward_of_any_type_of_one_number_is_that_number(reward, value):
    flags = np.array([1]), np.False_
    o, r, terminated, truncated, info = step_task(Given(step=(5, reward, *flags, None)), 0)
    assert (o, r, info) == (5, value, {}) and type(r) is float
    assert terminated is True and truncated is False


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ((0, None, False, False, {}), "the reward is None, expected a number"),
        ((0, np.zeros(2), False, False, {}), r"the reward is an array of shape \(2,\)"),
        ((0, np.zeros(0), False, False, {}), r"the reward is an array of shape \(0,\)"),
        ((0, "1.5", False, False, {}), "the reward is '1.5', expected a number"),
        ((0, 1j, False, False, {}), "the reward is 1j"),
        ((0, {"sum": 1}, False, False, {}), "the reward is {'sum': 1}"),
        ((0, 1.0, None, False, {}), "terminated is None, expected true or false"),
        ((0, 1.0, False, 2, {}), "truncated is 2, expected true or false"),
        ((0, 1.0, True, {}), r"step returned 4 values, expected \(observation, reward, term.* old"),
        ((0, 1.0, False, False, "info"), "step returned 5 values, expected"),
        (None, "step returned None, expected"),
    ],
)
def test_a_step_without_a_meaning_is_one_line(step, words):
    with pytest.raises(EnvError, match=f"Given: {words}") as caught:
        step_task(Given(step=step), 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("found", [np.zeros(2), np.zeros((2, 2)), (1, 2), [0, {}], 3, None, (0,)])
def test_a_reset_of_the_old_api_is_one_line(found):
    """An observation of two numbers could be taken for an observation and an info."""
    with pytest.raises(EnvError, match=r"Given: reset returned .*\(observation, info\).*old API"):
        reset_task(Given(reset=found), 0)
    assert reset_task(Given(reset=(7, None)), 0) == (7, {})


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

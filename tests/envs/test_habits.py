"""What other people's programs do to an environment by habit, a dream bears."""

import copy
import hashlib
import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box
from gymnasium.vector import AsyncVectorEnv

import dreaming
from envs import forks
from envs.dreamfile import write_dream
from envs.shells import DreamEnv, DreamVectorEnv
from envs.types import DreamFileError, EnvError, UserError

ID = "dreaming/Dream-v0"
ROOT = Path(dreaming.__file__).parents[1]
make: Any = gymnasium.make
make_vec: Any = gymnasium.make_vec


@pytest.fixture(scope="module", autouse=True)
def config(tmp_path_factory):
    """A configuration directory, and so a signing key, of these tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture(scope="module")
def path(tmp_path_factory, cart, config) -> Path:
    """A file of the untrained CartPole world, whose dreams have 20 steps."""
    path = tmp_path_factory.mktemp("worlds") / "world.dream"
    write_dream(path, cart)
    return path


def future(env: Any, num: int = 8) -> list[bytes]:
    """What comes of the same actions in the next steps: observations and rewards as bytes."""
    random, seen = np.random.default_rng(5), []
    for _ in range(num):
        o, r, terminated, truncated, _ = env.step(random.integers(0, 2, env.action_space.shape))
        seen.append(np.asarray(o).tobytes() + np.asarray(r).tobytes())
        if isinstance(env, DreamEnv) and (terminated or truncated):
            env.reset()
    return seen


# Words


def test_a_render_mode_of_none_is_no_render_mode(path):
    assert make(ID, path=path, render_mode=None).reset(seed=1)[0].shape == (4,)
    assert make_vec(ID, num_envs=2, path=path, render_mode=None).reset(seed=1)[0].shape == (2, 4)


@pytest.mark.filterwarnings("ignore:.*render_mode:UserWarning")
def test_what_a_dream_does_not_take_is_a_type_error_in_one_line(path):
    """Stable-Baselines3 asks every task for pictures, and takes a TypeError for a no."""
    options: list[Any] = [{"render_mode": "rgb_array"}, {"frame_skip": 4}]
    for option in options:
        for made in (DreamEnv, DreamVectorEnv):
            with pytest.raises(TypeError, match=next(iter(option))) as error:
                made(path, **option)
            assert isinstance(error.value, UserError) and "\n" not in str(error.value)
    with pytest.raises(TypeError, match="draws no pictures"):
        make(ID, path=path, render_mode="human")


@pytest.mark.parametrize(("limit", "horizon", "last"), [(3, None, 3), (7, 4, 4), (99, None, 20)])
def test_a_step_limit_by_gymnasiums_name_ends_single_and_vector_dreams_alike(
    limit, horizon, last, path
):
    options = {"path": path, "max_episode_steps": limit} | ({"horizon": horizon} if horizon else {})
    single, vector = make(ID, **options), make_vec(ID, num_envs=3, **options)
    single.reset(seed=3)
    vector.reset(seed=3)
    ended, truncated, steps = False, False, 0
    while not ended:
        _, _, ended, truncated, _ = single.step(1)
        assert vector.step(np.ones(3, int))[3][0] == truncated
        ended, steps = ended or truncated, steps + 1
    assert steps == last if truncated else steps < last  # dreams of this world also end earlier
    with pytest.raises(EnvError, match="horizon=0"):
        make_vec(ID, num_envs=3, path=path, max_episode_steps=0)


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.int32, np.array])
def test_a_seed_may_be_an_integer_of_numpy(kind, path):
    single, vector = make(ID, path=path), make_vec(ID, num_envs=3, path=path)
    expected = vector.reset(seed=7)[0]
    np.testing.assert_array_equal(vector.reset(seed=kind(7))[0], expected)
    np.testing.assert_array_equal(vector.reset(seed=np.array([7, 8, 9]))[0], expected)
    np.testing.assert_array_equal(vector.reset(seed=[kind(7), None, 9])[0][::2], expected[::2])
    np.testing.assert_array_equal(single.reset(seed=kind(7))[0], expected[0])
    for seed in (1.5, "7"):
        with pytest.raises(TypeError):
            single.reset(seed=seed)
        with pytest.raises(TypeError):
            vector.reset(seed=seed)
    with pytest.raises(ValueError, match="2 seeds for 3 dreams"):
        vector.reset(seed=[1, 2])


def test_a_spec_travels_as_json_though_its_path_is_no_text(path):
    for env in (make(ID, path=path), make_vec(ID, num_envs=2, path=path)):
        again = EnvSpec.from_json(env.spec.to_json())
        assert again.kwargs["path"] == str(path)
        made = make_vec(again) if "num_envs" in again.kwargs else make(again)
        np.testing.assert_array_equal(made.reset(seed=2)[0], env.reset(seed=2)[0])


# Copies


def copies(env: Any) -> list[Any]:
    """The ways to copy an env in the middle of an episode."""
    return [copy.deepcopy(env), pickle.loads(pickle.dumps(env))]


@pytest.mark.parametrize("num", [0, 3])
def test_a_copy_goes_on_as_the_dream_it_was_copied_from(num, path):
    env = make_vec(ID, num_envs=num, path=path) if num else make(ID, path=path)
    env.reset(seed=4)
    env.action_space.seed(1)
    future(env, 2)
    found = copies(env)
    drawn = env.action_space.sample().tolist()
    ahead = [*future(env), env.reset()[0].tobytes()]  # the next start is drawn alike
    for each in found:
        assert each.action_space.sample().tolist() == drawn
        assert [*future(each), each.reset()[0].tobytes()] == ahead


def test_a_copy_before_the_first_reset_may_be_reset(path):
    env = make(ID, path=path)
    for each in copies(env):
        np.testing.assert_array_equal(each.reset(seed=6)[0], env.reset(seed=6)[0])


def test_a_dream_of_a_world_in_memory_is_copied_but_not_pickled(cart):
    env = DreamEnv(world=cart)
    env.reset(seed=0)
    again = copy.deepcopy(env)
    assert again._rows.world is cart and future(again, 3) == future(env, 3)
    with pytest.raises(EnvError, match="write it with"):
        pickle.dumps(env)


def test_a_pickle_of_a_file_that_became_another_world_is_told(cart, grid, tmp_path):
    write_dream(tmp_path / "a.dream", cart)
    data = pickle.dumps(DreamEnv(tmp_path / "a.dream"))
    write_dream(tmp_path / "a.dream", grid)
    with pytest.raises(DreamFileError, match="a.dream: is another world"):
        pickle.loads(data)
    (tmp_path / "a.dream").unlink()
    with pytest.raises(DreamFileError, match="a.dream: No such file"):
        pickle.loads(data)


# Wrappers


WRAPPERS = {
    "limit": lambda env: wrappers.TimeLimit(env, 5),
    "order": wrappers.OrderEnforcing,
    "checker": wrappers.PassiveEnvChecker,
    "autoreset": wrappers.Autoreset,
    "statistics": wrappers.RecordEpisodeStatistics,
    "flatten": wrappers.FlattenObservation,
    "stack": lambda env: wrappers.FrameStackObservation(env, 3),
    "time": lambda env: wrappers.TimeAwareObservation(wrappers.TimeLimit(env, 5)),
    "delay": lambda env: wrappers.DelayObservation(env, 1),
    "scale": lambda env: wrappers.NormalizeObservation(env),
    "reward": lambda env: wrappers.NormalizeReward(env),
    "clip": lambda env: wrappers.ClipReward(env, -1, 1),
    "sticky": lambda env: wrappers.StickyAction(env, 0.5),
    "dtype": lambda env: wrappers.DtypeObservation(env, np.float64),
    "double": lambda env: wrappers.TransformObservation(
        env, lambda o: 2 * o, Box(-np.inf, np.inf, (4,))
    ),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_standard_wrapper_around_a_dream(name, path):
    env, again = (WRAPPERS[name](make(ID, path=path)) for _ in range(2))
    o, _ = env.reset(seed=1)
    assert o in env.observation_space
    again.reset(seed=1)
    random = np.random.default_rng(0)
    for _ in range(4):
        a = random.integers(2)
        found, expected = env.step(a), again.step(a)
        assert found[0] in env.observation_space and found[1:4] == expected[1:4]
        if name != "autoreset" and (found[2] or found[3]):
            break
    env.close()


# Processes


SHOWN = """
import hashlib, os, sys, dreaming, gymnasium
env = gymnasium.make("dreaming/Dream-v0", path=sys.argv[1])
shown = []
for seed in range(4):
    o, _ = env.reset(seed=seed)
    shown += [o, *env.step(seed % 2)[:2]]
print(hashlib.sha256(repr(shown).encode()).hexdigest())
"""
SETTINGS = {
    "JAX_DEFAULT_PRNG_IMPL": "rbg",
    "JAX_ENABLE_X64": "1",
    "JAX_DEBUG_NANS": "1",
    "JAX_NUMPY_RANK_PROMOTION": "raise",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_THREEFRY_PARTITIONABLE": "0",
}


@pytest.mark.slow
def test_a_program_of_other_settings_dreams_the_same(path):
    """python -O, and all process-wide settings of JAX that could change numbers."""
    env, shown = make(ID, path=path), []
    for seed in range(4):
        o, _ = env.reset(seed=seed)
        shown += [o, *env.step(seed % 2)[:2]]
    command = [sys.executable, "-O", "-c", SHOWN, str(path)]
    settings = os.environ | SETTINGS
    ran = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == hashlib.sha256(repr(shown).encode()).hexdigest()


def in_a_fork(function: Any) -> str:
    """What a function raised in a forked process, as text; "nothing" if it came to its end."""

    def work(pipe):
        try:
            function()
            pipe.send("nothing")
        except Exception as error:
            pipe.send(f"{type(error).__name__}: {error}")

    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    child = context.Process(target=work, args=(there,), daemon=True)
    child.start()
    told = here.recv() if here.poll(30) else "hangs"
    child.kill()
    child.join()
    return told


@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
def test_a_forked_process_says_how_to_start_workers(path):
    env, vector = make(ID, path=path), make_vec(ID, num_envs=2, path=path)
    env.reset(seed=0)
    vector.reset(seed=0)
    assert not forks.is_broken()
    tries: list[Any] = [lambda: env.reset(seed=0), lambda: env.step(0), vector.reset]
    tries += [lambda: vector.step(np.zeros(2, int)), lambda: DreamVectorEnv(path)]
    tries += [lambda: DreamEnv(path).reset(), lambda: dreaming.load_world(path)]
    tries += [lambda: dreaming.load_policy("nowhere")]
    for each in tries:
        told = in_a_fork(each)
        assert told.startswith("EnvError: this process was forked") and 'context="spawn"' in told
    assert in_a_fork(forks.is_broken) == "nothing"
    env.step(1)  # the process that was forked goes on


@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning", "ignore:.*ERROR:UserWarning")
def test_forked_workers_of_gymnasium_end_in_one_line_and_leave_no_process(path):
    thunk = lambda: make(ID, path=path)
    envs = AsyncVectorEnv([thunk, thunk], context="fork")
    envs.reset_async(seed=1)
    with pytest.raises(EnvError, match='AsyncVectorEnv.*context="spawn"') as error:
        envs.reset_wait(timeout=30)
    assert "\n" not in str(error.value)
    for process in envs.processes:
        process.join(10)
        assert not process.is_alive()
    envs.close(terminate=True)


@pytest.mark.slow
def test_spawned_workers_dream_what_one_process_dreams(path):
    envs = AsyncVectorEnv([lambda: make(f"dreaming:{ID}", path=path)] * 2, context="spawn")
    found = envs.reset(seed=5)[0]
    envs.close()
    np.testing.assert_array_equal(found, make_vec(ID, num_envs=2, path=path).reset(seed=5)[0])

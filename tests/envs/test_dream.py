"""The dream keeps the contract of an environment and, with true dynamics, is the real one."""

import dataclasses
import warnings
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from envs.dream import Dream, start_context
from envs.rows import Options, Rows
from envs.shells import DreamEnv, DreamVectorEnv
from envs.tabular import TabularModel, corridor
from envs.tasks import register_tasks
from envs.types import DreamFileError, EnvError, SpaceError

MODES = list(AutoresetMode)
register_tasks()


def assert_same(got, expected):
    """Equal structure, types and bits."""
    if isinstance(expected, dict):
        assert got.keys() == expected.keys()
        for name in expected:
            assert_same(got[name], expected[name])
    elif isinstance(expected, (tuple, list)):
        assert len(got) == len(expected)
        for a, b in zip(got, expected, strict=True):
            assert_same(a, b)
    elif isinstance(expected, np.ndarray) and expected.dtype == object:
        assert_same(list(got), list(expected))
    else:
        assert type(got) is type(expected), (got, expected)
        assert np.asarray(got).dtype == np.asarray(expected).dtype
        np.testing.assert_array_equal(got, expected)


def keys(num) -> Any:
    """Raw key data, [num, 2]."""
    return np.random.default_rng(0).integers(0, 1 << 32, (num, 2), np.uint32)


def one_hot(index, size) -> Any:
    """Features of indices."""
    return np.eye(size, dtype=np.float32)[index]


def rollout(env, actions, seed) -> list[Any]:
    """What an env, single or vector, shows from reset on."""
    seen = [env.reset(seed=seed)]
    for a in actions:
        if isinstance(env, DreamEnv) and len(seen) > 1 and (seen[-1][2] or seen[-1][3]):
            break
        seen.append(env.step(a))
    return seen


def draw(space: Any, random, *shape) -> Any:
    """Random actions [*shape] of a space."""
    if isinstance(space, gymnasium.spaces.Box):
        unit = random.random((*shape, *space.low.shape))
        return (space.low + unit * (space.high - space.low)).astype(space.dtype)
    sizes = np.asarray(space.n if isinstance(space, gymnasium.spaces.Discrete) else space.nvec)
    return space.start + random.integers(0, sizes, (*shape, *sizes.shape))


# The pure core


def test_with_true_dynamics_the_dream_is_the_real_task(lake):
    real, dream = gymnasium.make("FrozenLake-v1", is_slippery=False), DreamEnv(world=lake)
    random, endings = np.random.default_rng(0), set()
    for episode in range(60):
        assert real.reset(seed=episode)[0] == dream.reset(seed=episode)[0]
        favourite = random.integers(4)
        while True:
            a = int(random.integers(4) if random.random() < 0.3 else favourite)
            expected, got = real.step(a), dream.step(a)
            assert got[:4] == expected[:4]
            if got[2] or got[3]:
                endings.add(("goal" if got[1] else "hole") if got[2] else "clock")
                break
    assert {"hole", "clock"} <= endings


def test_with_true_dynamics_dicts_and_factored_actions_are_the_real_task(grid, tuple_grid):
    real, random = gymnasium.make("dreaming/TwoCoordinates-v0"), np.random.default_rng(0)
    dreams = DreamEnv(world=grid), DreamEnv(world=tuple_grid)
    endings = set()
    for seed in range(40):
        (o, _), (pair, _) = (dream.reset(seed=seed) for dream in dreams)
        real.reset(seed=0)
        task: Any = real.unwrapped
        task._at, task._goal = o["at"].copy(), o["goal"].astype(int)
        while True:
            a = draw(real.action_space, random)
            if random.random() < 0.3:
                a = np.sign(o["goal"] - o["at"]).astype(int) + 1
            expected, got, other = real.step(a), dreams[0].step(a), dreams[1].step(a)
            o = got[0]
            assert_same(got[:3], expected[:3])
            assert got[3] == (expected[3] and not expected[2])
            assert_same(other[0], (o["at"], o["goal"]))
            assert got[4]["action_mask"].tolist() == [1, 1, 1, 1, 0, 1]
            if got[2] or got[3]:
                endings.add(got[2])
                break
    assert endings == {True, False}


def test_the_shortest_way_to_the_goal_is_paid(lake):
    seen = rollout(DreamEnv(world=lake), [1, 1, 2, 2, 1, 2], seed=0)
    assert seen[-1][:4] == (15, 1.0, True, False)


def test_dreamed_transitions_come_as_often_as_in_the_table(slippery_lake):
    rows = 1500
    s, a = np.divmod(np.repeat(np.arange(64), rows), 4)
    key = keys(len(s))
    dream, params = Dream(slippery_lake.model), slippery_lake.params
    state, _ = dream.initial(params, start_context(np.eye(16)[s], 4), key)
    _, step = jax.jit(dream.step)(params, state, one_hot(a, 4))
    counts = np.asarray(step.o).reshape(16, 4, rows, 16).mean(2)
    expected = np.zeros((16, 4, 16))
    real: Any = gymnasium.make("FrozenLake-v1").unwrapped
    for s, actions in real.P.items():
        for a, outcomes in actions.items():
            for p, n, _, _ in outcomes:
                expected[s, a, n] += p
    assert np.abs(counts - expected).sum(-1).max() / 2 < 0.05


def test_termination_is_drawn_as_often_as_the_model_says(cart):
    key = keys(20000)
    dream = Dream(cart.model)
    context = start_context(np.repeat(cart.starts.o[:1, 0], len(key), 0), 2)
    state, _ = dream.initial(cart.params, context, key)
    _, step = jax.jit(dream.step)(cart.params, state, one_hot([0] * len(key), 2))
    expected = 1 - np.asarray(step.continuation).mean()
    assert 0.02 < expected < 0.9
    assert np.asarray(step.terminated).mean() == pytest.approx(expected, abs=0.015)


class Noisy(TabularModel):
    """Pays a little more or less each time: within a code, a reward is drawn."""

    def sample(self, params, y, c, key):
        z, prediction = self.outcome(params, y, c)
        draw = lambda k: jax.random.normal(jax.random.wrap_key_data(k))
        return z, dataclasses.replace(prediction, r=prediction.r + jax.vmap(draw)(key))


def test_a_model_that_samples_is_asked_to_and_by_the_row_s_own_key():
    model = Noisy(corridor(5), 0.9)
    context = start_context(one_hot(np.zeros(64, int), 5), 2)

    def step(rows):
        part = jax.tree.map(lambda x: x[rows], context)
        dream, a = Dream(model), one_hot(np.zeros(len(rows), int), 2)
        state, _ = dream.initial(model.params, part, keys(64)[rows])
        return np.asarray(dream.step(model.params, state, a)[1].r)

    every = step(np.arange(64))
    assert np.unique(every).size == 64 and 0.5 < every.std() < 1.5  # else a reward would be 0
    np.testing.assert_array_equal(every[7:9], step(np.array([7, 8])))


def test_who_dreams(cart):
    def members(sampling):
        env = DreamEnv(world=cart, sampling=sampling)
        runs = [rollout(env, [0, 1, 0, 1, 0, 1], seed) for seed in range(12)]
        return [[step[-1]["member"] for step in run] for run in runs]

    assert all(len(set(run)) == 1 and run[0] >= 0 for run in members("member"))
    assert len({run[0] for run in members("member")}) > 2
    assert any(len(set(run)) > 1 for run in members("mixture"))
    assert all(set(run) == {-1} for run in members("mean"))


def test_the_context_rolls(cart):
    dream, a = Dream(cart.model), one_hot([1], 2)
    key = keys(1)
    state, first = dream.initial(cart.params, jax.tree.map(lambda x: x[:1], cart.starts), key)
    np.testing.assert_array_equal(first.o, cart.starts.o[:1, 0])
    state, step = dream.step(cart.params, state, a)
    np.testing.assert_array_equal(state.context.o[:, -1], step.o)
    assert state.elapsed[0] == 1 and state.context.elapsed[0, -1] == 1


# One program for all batch sizes


@pytest.mark.parametrize("name", ["cart", "grid", "tuple_grid", "point"])
def test_a_row_has_the_same_bits_in_every_batch(name, request):
    world = request.getfixturevalue(name)
    actions = draw(world.action_space, np.random.default_rng(0), 12, 1024)
    expected = rollout(DreamVectorEnv(world=world, num_envs=1024), actions, seed=7)
    assert any(step[2].any() for step in expected[1:])
    for size in (1, 3, 64, 1000):
        cut = lambda x, size=size: jax.tree.map(lambda leaf: leaf[:size], x)
        got = rollout(DreamVectorEnv(world=world, num_envs=size), actions[:, :size], seed=7)
        assert_same(got, [cut(step) for step in expected])


@pytest.mark.parametrize("name", ["cart", "grid", "tuple_grid", "point"])
def test_a_single_env_is_a_row_of_the_vector(name, request):
    world = request.getfixturevalue(name)
    actions = draw(world.action_space, np.random.default_rng(0), 12, 8)
    vector = rollout(DreamVectorEnv(world=world, num_envs=8), actions, seed=2**63 + 3)
    for i in range(8):
        single = rollout(DreamEnv(world=world), actions[:, i], seed=2**63 + 3 + i)
        for got, expected in zip(single, vector, strict=False):
            assert_same(got[0], jax.tree.map(lambda x, i=i: x[i], expected[0]))
            assert all(got[-1][name] == expected[-1][name][i] for name in ("member", "uncertainty"))
            assert got[1:-1] == tuple(x[i] for x in expected[1:-1])


def test_rows_that_begin_anew_leave_the_others_where_they_are_and_all_on_the_device(cart):
    rows = Rows(cart, 40, Options())
    random = np.random.default_rng(0)
    draws = lambda count: random.integers(2**32, size=(count, 3), dtype=np.uint32)
    rows.begin(np.arange(40), draws(40))
    before, anew = rows.state, np.array([3, 39, 17])
    seen = rows.begin(anew, draws(3))
    others = np.setdiff1d(np.arange(40), anew)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(rows.state), strict=True):
        assert isinstance(new, jax.Array) and new.shape == old.shape
        np.testing.assert_array_equal(new[others], old[others])
    assert (np.asarray(rows.state.elapsed) == 0).all() and seen.member.shape == (3,)


def test_all_64_bits_of_a_seed_count(cart):
    begin = lambda seed: DreamVectorEnv(world=cart, num_envs=16).reset(seed=seed)
    seeds = [5, 5 + 2**40, 5 + 2**63, 2**64 - 1]
    assert len({begin(seed)[0].tobytes() for seed in seeds}) == len(seeds)
    assert_same(begin(2**64 - 1), begin(2**64 - 1))


# Gymnasium's contract


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["cart", "slippery_lake", "grid", "tuple_grid", "point"])
def test_autoreset_is_that_of_sync_vector_env(name, mode, request):
    world = request.getfixturevalue(name)
    size, random = 5, np.random.default_rng(0)
    make = lambda: DreamEnv(world=world, horizon=6)
    sync = SyncVectorEnv([make] * size, autoreset_mode=mode)
    ours = DreamVectorEnv(world=world, num_envs=size, horizon=6, autoreset_mode=mode)
    assert ours.metadata["autoreset_mode"] is mode
    assert ours.observation_space == sync.observation_space
    assert ours.action_space == sync.action_space
    assert_same(ours.reset(seed=3), sync.reset(seed=3))
    resets = 0
    for _ in range(60):
        a = draw(world.action_space, random, size)
        got, expected = ours.step(a), sync.step(a)
        assert_same(got, expected)
        ended = got[2] | got[3]
        resets += ended.sum()
        if mode is AutoresetMode.DISABLED and ended.any():
            with pytest.raises(ResetNeeded):
                ours.step(a)
            again = [env.reset(options={"reset_mask": ended}) for env in (ours, sync)]
            assert_same(*again)
    assert resets > 20
    assert_same(ours.reset(seed=[9, 8, 7, 6, 5]), sync.reset(seed=[9, 8, 7, 6, 5]))


def warned(env) -> set[str]:
    """The warnings of Gymnasium's own checker."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env, skip_render_check=True)
    return {str(warning.message) for warning in caught}


@pytest.mark.parametrize(("name", "real"), [("cart", "CartPole-v1"), ("lake", "FrozenLake-v1")])
def test_the_checker_warns_of_nothing_that_the_real_task_does_not(name, real, request):
    world = request.getfixturevalue(name)
    assert warned(DreamEnv(world=world)) <= warned(gymnasium.make(real).unwrapped)
    assert not warned(DreamEnv(world=world, observations="latent")) - warned(
        gymnasium.make("CartPole-v1").unwrapped
    )


def test_types_are_those_of_gymnasium_and_nothing_is_shared(cart):
    env = DreamEnv(world=cart)
    first, second = env.reset(seed=0), env.reset(seed=0)
    step = env.step(np.int64(1))
    assert first[0].dtype == np.float32 and type(first[0]) is np.ndarray
    assert [type(x) for x in step[1:]] == [float, bool, bool, dict]
    assert set(step[4]) == {"uncertainty", "trusted", "member", "action_mask"} == set(first[1])
    for a, b in [(first, second), (second, step)]:
        assert not np.shares_memory(a[0], b[0])
        assert not np.shares_memory(a[-1]["action_mask"], b[-1]["action_mask"])
    first[0][:] = 0  # what a caller writes into changes nothing here
    env.reset(seed=0)
    assert_same(env.step(1), step)


@pytest.mark.parametrize("name", ["grid", "tuple_grid", "point"])
def test_the_checker_accepts_all_kinds_of_spaces(name, request):
    env = DreamEnv(world=request.getfixturevalue(name))
    allowed = warned(gymnasium.make("CartPole-v1").unwrapped)
    assert not {x for x in warned(env) - allowed if "symmetric and normalized" not in x}
    for space, value in [(env.observation_space, env.reset(seed=0)[0])]:
        assert space.contains(value)


def test_numbers_as_actions_are_clipped_and_all_of_them_legal(point):
    ends = lambda a: rollout(DreamEnv(world=point), [np.array(a)] * 3, seed=5)
    assert_same(ends([7.0, -9.0]), ends(np.array([2, -0.5], np.float32)))
    assert ends([0.0, 0.0])[1][4]["action_mask"].tolist() == [1, 1]
    vector = DreamVectorEnv(world=point, num_envs=3)
    vector.reset(seed=0)
    info = vector.step(np.zeros((3, 2), np.float32))[4]
    assert info["action_mask"].tolist() == [[1, 1]] * 3 and info["action_mask"].dtype == np.int8
    env = DreamEnv(world=point)
    env.reset(seed=0)
    for action in ([0.0, np.nan], [0.0], 0.0, "left", [[0.0, 0.0]]):
        with pytest.raises(SpaceError) as error:
            env.step(action)
        assert "\n" not in str(error.value)


def test_factored_actions_outside_their_space_are_told(grid):
    env = DreamEnv(world=grid)
    env.reset(seed=0)
    for action in ([0, 3], [-1, 0], [0.0, 1.0], [1], 1):
        with pytest.raises(SpaceError) as error:
            env.step(action)
        assert "\n" not in str(error.value)
    vector = DreamVectorEnv(world=grid, num_envs=2, horizon=1)
    vector.reset(seed=0)
    a = np.array([[1, 1], [1, 1]])
    assert vector.step(a)[3].all()
    vector.step(np.array([[9, 9], [-1, 7]]))  # ended dreams begin anew, whatever is asked


def test_options_of_time_and_trust(cart):
    run = lambda **options: rollout(DreamEnv(world=cart, **options), [1] * 30, seed=4)
    plain = run()
    uncertain = [step[4]["uncertainty"] > cart.u_max for step in plain[1:]]
    assert any(uncertain) and not all(uncertain)
    assert [not step[4]["trusted"] for step in plain[1:]] == uncertain
    first = uncertain.index(True) + 1
    for unknown, flags in [("truncate", (False, True)), ("terminate", (True, False))]:
        cut = run(unknown=unknown)
        assert len(cut) == first + 1 and cut[-1][2:4] == flags
        assert_same(cut[:-1], plain[:first])
    for step, penalised in zip(plain[1:], run(penalty=0.5)[1:], strict=True):
        assert penalised[1] == pytest.approx(step[1] - 0.5 * step[4]["uncertainty"])
    assert run(horizon=1)[1][2:4] == (False, True)


def test_dreams_begin_where_they_may(cart):
    def begin(starts):
        o, _ = DreamVectorEnv(world=cart, num_envs=400, starts=starts).reset(seed=0)
        return {tuple(row) for row in o}

    space = cart.observation_space
    logged = [tuple(row) for row in np.clip(cart.starts.o[:, 0], space.low, space.high)]
    assert begin("initial") == set(logged[:10])
    assert begin("any") == set(logged)


def test_latent_observations_are_the_latent_state(cart):
    env = DreamEnv(world=cart, observations="latent")
    o, _ = env.reset(seed=0)
    assert env.observation_space.shape == (16,) and o in env.observation_space
    decoded = DreamEnv(world=cart)
    decoded.reset(seed=0)
    z, shown = env.step(1), decoded.step(1)
    features = cart.model.decode(cart.params, type("Z", (), {"x": z[0]}))
    clipped = np.clip(features, cart.observation_space.low, cart.observation_space.high)
    np.testing.assert_allclose(shown[0], clipped, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"horizon": 0},
        {"horizon": 2.5},
        {"starts": "middle"},
        {"sampling": "all"},
        {"penalty": float("nan")},
        {"unknown": "stop"},
        {"observations": "frames"},
        {"horzion": 5},
    ],
)
def test_a_wrong_option_is_told_in_one_line(lake, options):
    with pytest.raises(EnvError, match=next(iter(options))) as error:
        DreamEnv(world=lake, **options)
    assert "\n" not in str(error.value)


def test_misuse_is_told(lake):
    env = DreamEnv(world=lake)
    with pytest.raises(ResetNeeded):
        env.step(0)
    env.reset(seed=0)
    for action in (4, -1, 0.5, [1]):
        with pytest.raises(SpaceError):
            env.step(action)
    env.step(1)
    assert env.step(2)[2]  # the first hole
    with pytest.raises(ResetNeeded):
        env.step(0)
    vector = DreamVectorEnv(world=lake, num_envs=2)
    with pytest.raises(ResetNeeded):
        vector.step(np.zeros(2, int))
    vector.reset(seed=0)
    for mask in (np.zeros(2, bool), np.ones(3, bool), [True, False]):
        with pytest.raises(ValueError, match="reset_mask"):
            vector.reset(options={"reset_mask": mask})
    with pytest.raises(EnvError, match="world"):
        DreamEnv()


# Snapshots


def future(env, actions=(0, 1, 1, 0)):
    """Steps and then two resets, which also use the env's own generator."""
    seen = []
    for a in actions:
        seen.append(env.step(a))
        if seen[-1][2] or seen[-1][3]:
            break
    return [*seen, env.reset(), env.reset()]


def test_a_snapshot_brings_back_the_whole_future(cart):
    env = DreamEnv(world=cart, sampling="mixture")
    env.reset(seed=2**64 - 1)
    env.step(1)
    snapshot = env.snapshot()
    expected = future(env)
    env.reset(seed=0)
    for other in (env, DreamEnv(world=cart, sampling="mixture")):
        other.restore(snapshot)
        assert other.np_random_seed == 2**64 - 1
        assert other.snapshot() == snapshot
        assert_same(future(other), expected)


def test_forks_part_by_their_actions_alone(cart):
    env, fork = DreamEnv(world=cart), DreamEnv(world=cart)
    env.reset(seed=1)
    fork.restore(env.snapshot())
    left, right = env.step(0), fork.step(1)
    assert not np.array_equal(left[0], right[0])
    assert left[4]["member"] == right[4]["member"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["cart", "grid", "tuple_grid", "point"])
def test_snapshots_of_many(name, mode, request):
    world = request.getfixturevalue(name)
    make = lambda: DreamVectorEnv(world=world, num_envs=6, horizon=4, autoreset_mode=mode)
    env, other = make(), make()
    env.reset(seed=0)
    a = draw(world.action_space, np.random.default_rng(0), 6)
    first = env.step(a)
    other.restore(env.snapshot())
    for _ in range(8):
        if mode is AutoresetMode.DISABLED and (first[2] | first[3]).any():
            options = {"reset_mask": first[2] | first[3]}
            assert_same(other.reset(options=options), env.reset(options=options))
        first = env.step(a)
        assert_same(other.step(a), first)


def test_a_damaged_or_foreign_snapshot_is_refused_and_changes_nothing(cart, lake):
    env = DreamEnv(world=cart)
    env.reset(seed=0)
    snapshot = env.snapshot()
    random = np.random.default_rng(0)
    damaged = [b"", b"hello", snapshot[:-1], snapshot + b"0"]
    for _ in range(200):
        data = bytearray(snapshot)
        data[random.integers(len(data))] ^= 1 << random.integers(8)
        damaged.append(bytes(data))
    strangers = [
        DreamEnv(world=lake),
        DreamEnv(world=cart, horizon=3),
        DreamVectorEnv(world=cart, num_envs=2),
    ]
    for stranger in strangers:
        stranger.reset(seed=0)
        damaged.append(stranger.snapshot())
    for data in damaged:
        with pytest.raises(DreamFileError) as error:
            env.restore(data)
        assert "\n" not in str(error.value)
    assert env.snapshot() == snapshot

"""Recorded logs: exact step counts, honest propensities, seeds that repeat, known success rates."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete

from dreaming.errors import ConfigError, EnvError, TraceError
from dreaming.observe.behaviours import half_random, legal_entries, random, sticky_random
from dreaming.observe.collect import behaviour_return, record
from envs.real import make_real
from envs.traces import TraceStore
from envs.types import action_features


def log(env_id="CartPole-v1", behaviour="random", real_steps=500, seed=0, **options) -> list[Any]:
    return list(record(env_id, behaviour, real_steps, seed, **options))


@pytest.mark.parametrize("real_steps", [1, 2, 23, 500])
def test_exactly_the_budget_is_recorded_and_a_cut_episode_is_open(real_steps):
    traces = log(real_steps=real_steps)
    assert sum(len(trace) for trace in traces) == real_steps
    assert not any(trace.is_open for trace in traces[:-1])
    assert len(behaviour_return(traces)) == len(traces) - traces[-1].is_open


def test_a_budget_that_meets_the_end_closes_the_last_episode():
    first = log()[0]
    (same,) = log(real_steps=len(first))
    assert not same.is_open and same.terminated[-1]
    (cut,) = log(real_steps=len(first) - 1)
    assert cut.is_open
    np.testing.assert_array_equal(cut.observations, first.observations[:-1])
    assert len(behaviour_return([cut])) == 0


def test_the_log_replays_in_the_real_task():
    """o[t], a[t] -> r[t], o[t+1], with the reset seed derived from (seed, episode)."""
    env = gymnasium.make("CartPole-v1")
    for episode, trace in enumerate(log(seed=3)):
        source = np.random.SeedSequence(3, spawn_key=(episode,)).spawn(2)[0]
        o, _ = env.reset(seed=int(source.generate_state(1)[0]))
        np.testing.assert_array_equal(o, trace.observations[0])
        for t in range(len(trace)):
            o, r, terminated, truncated, _ = env.step(trace.actions[t])
            np.testing.assert_array_equal(o, trace.observations[t + 1])
            assert (r, terminated) == (trace.rewards[t], trace.terminated[t])


def test_seeds_repeat_and_differ_and_may_have_64_bits():
    for behaviour in ("random", "sticky_random"):
        once, again, other = (log(behaviour=behaviour, seed=seed) for seed in (2**63, 2**63, 1))
        for x, y in zip(once, again, strict=True):
            np.testing.assert_array_equal(x.observations, y.observations)
            np.testing.assert_array_equal(x.actions, y.actions)
        assert not np.array_equal(once[0].observations[0], other[0].observations[0])
        starts = np.stack([trace.observations[0] for trace in once])
        assert len(np.unique(starts, axis=0)) == len(starts)


def test_random_actions_have_their_propensity_and_name():
    traces = log("FrozenLake-v1", real_steps=4000)
    a = np.concatenate([trace.actions for trace in traces])
    assert {trace.policy for trace in traces} == {"random"}
    assert all((trace.propensities == 0.25).all() for trace in traces)
    # 4,000 draws: each action 1,000 times, standard deviation sqrt(4000 * 3 / 16) = 27
    assert (abs(np.bincount(a, minlength=4) - 1000) < 5 * 27).all()


def test_sticky_propensities_are_those_of_the_rule():
    """A = 3, switch = 0.1: stay 0.1/3 + 0.9, change 0.1/3, first action 1/3."""
    traces = log("MountainCar-v0", "sticky_random", 2000)
    stays = []
    for trace in traces:
        stay = trace.actions[1:] == trace.actions[:-1]
        expected = np.where(stay, 0.1 / 3 + 0.9, 0.1 / 3)
        assert trace.propensities == pytest.approx([1 / 3, *expected], rel=1e-12)
        stays.append(stay)
    frequency = np.concatenate(stays).mean()
    assert abs(frequency - (0.1 / 3 + 0.9)) < 5 * np.sqrt(0.933 * 0.067 / 1990)


def test_sticky_propensities_sum_to_one_over_actions():
    generator = np.random.default_rng(0)
    behaviour = sticky_random(action_features(Discrete(4, start=-1)), 0.3)
    first, propensity = behaviour(None, None, generator)
    assert propensity == 0.25 and first in (-1, 0, 1, 2)
    chances = {}
    for _ in range(400):
        before = first
        first, propensity = behaviour(None, None, generator)
        chances[(int(before), int(first))] = propensity
    for a in (-1, 0, 1, 2):
        assert sum(chances[(a, b)] for b in (-1, 0, 1, 2)) == pytest.approx(1)


# Masks

LEGAL = np.array([1, 0, 1, 1, 1, 0], bool)  # factors of 2, 4: (0) x (0, 1, 2)
FACTORED = action_features(MultiDiscrete([2, 4], start=[5, 0]))


def test_random_factors_are_uniform_over_what_is_legal():
    draw, generator = random(FACTORED), np.random.default_rng(0)
    seen = [draw(None, LEGAL, generator) for _ in range(3000)]
    assert {propensity for _, propensity in seen} == {1 / 3}
    a = np.stack([a for a, _ in seen])
    assert a.dtype == np.int64 and set(a[:, 0]) == {5}
    counts = np.bincount(a[:, 1], minlength=4)
    # 3,000 draws: each of three values 1,000 times, standard deviation 26
    assert counts[3] == 0 and (abs(counts[:3] - 1000) < 5 * 26).all()
    free = [draw(None, None, generator) for _ in range(50)]
    assert {propensity for _, propensity in free} == {1 / 8}


def test_sticky_actions_are_kept_only_while_they_are_legal():
    switch, generator = 0.2, np.random.default_rng(0)
    other = np.array([1, 1, 0, 1, 0, 1], bool)
    behaviour = sticky_random(FACTORED, switch)
    previous, propensity = behaviour(None, LEGAL, generator)
    assert propensity == 1 / 3
    kept = 0
    for t in range(500):
        legal = (LEGAL, other)[t // 3 % 2]
        options = 3 if legal is LEGAL else 4
        a, propensity = behaviour(None, legal, generator)
        flat = FACTORED.flatten(a[None])[0].astype(bool)
        assert not (flat & ~legal).any()
        may_stay = not (FACTORED.flatten(previous[None])[0].astype(bool) & ~legal).any()
        stays = np.array_equal(a, previous)
        kept += stays
        expected = switch / options + (1 - switch) * stays if may_stay else 1 / options
        assert propensity == pytest.approx(expected)
        previous = a
    assert kept > 200


def test_masks_come_in_the_forms_that_tasks_give():
    entries = lambda mask, space: legal_entries(mask, action_features(space), 3, ended=False)
    both = np.array([1, 0], np.int8), np.array([0, 1, 1], np.int8)
    expected = [True, False, False, True, True]
    for mask in (both, np.concatenate(both), np.concatenate(both)[None]):
        legal = entries(mask, MultiDiscrete([2, 3]))
        assert legal is not None and legal.tolist() == expected
    legal = entries(np.array([0, 1, 2]), MultiBinary(3))  # 2: Gymnasium's word for both
    assert legal is not None and legal.tolist() == [True, False, False, True, True, True]
    assert entries(None, Discrete(2)) is None and entries(np.ones(1), Box(-1, 1, (1,))) is None
    with pytest.raises(TraceError, match="mask at step 3 has 3 entries, expected 2"):
        entries(np.ones(3), Discrete(2))
    with pytest.raises(TraceError, match="mask at step 3 forbids every action"):
        entries(np.array([1, 1, 0, 0]), MultiDiscrete([2, 2]))
    end = legal_entries(np.zeros(2), action_features(Discrete(2)), 9, ended=True)
    assert end is not None and end.all()


@pytest.mark.parametrize("behaviour", ["random", "sticky_random"])
def test_masks_are_logged_and_obeyed_when_the_task_gives_them(behaviour):
    traces = log("Taxi-v4", behaviour, 1000)
    for trace in traces:
        masks = trace.action_masks
        assert masks is not None and masks.shape == (len(trace) + 1, 6) and not masks.all()
        assert masks[np.arange(len(trace)), trace.actions].all()
        if behaviour == "random":
            np.testing.assert_allclose(trace.propensities, 1 / masks[:-1].sum(1))
    assert log("FrozenLake-v1", real_steps=3)[0].action_masks is None


def test_a_masked_task_is_recorded_without_a_forbidden_step():
    traces = log("dreaming/MaskedRooms-v0", "sticky_random", 500)
    closed = behaviour_return(traces)
    assert closed.min() > -2.1 and len(closed) > 20
    assert not any((trace.rewards == -1).any() for trace in traces)


class Masked(gymnasium.Env):
    """Its mask is wrong from step 2 on, in the way that is asked for."""

    observation_space, action_space = Box(-1, 1, (1,)), Discrete(3)

    def __init__(self, fault):
        self.fault = fault

    def _info(self):
        wrong = {"forbids": np.zeros(3), "short": np.ones(2), "missing": None}[self.fault]
        mask = np.array([0, 1, 0]) if self.t < 2 else wrong
        return {} if mask is None else {"action_mask": mask}

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.zeros(1, np.float32), self._info()

    def step(self, action):
        assert action == 1
        self.t += 1
        return np.zeros(1, np.float32), 0.0, False, False, self._info()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("forbids", "mask at step 2 forbids every action"),
        ("short", "mask at step 2 has 2 entries, expected 3"),
        ("missing", "step 2 and step 0: only one of them has an action mask"),
    ],
)
def test_a_wrong_mask_names_episode_and_step(fault, words, monkeypatch):
    spec = EnvSpec("Masked-v0", lambda **_: Masked(fault), disable_env_checker=True)
    monkeypatch.setitem(gymnasium.registry, "Masked-v0", spec)
    with pytest.raises(TraceError, match=f"Masked-v0: episode 0: .*{words}") as caught:
        log("Masked-v0", real_steps=10)
    assert "\n" not in str(caught.value)


# Numbers, factors, dicts and tuples


@pytest.mark.parametrize("behaviour", ["random", "sticky_random"])
def test_actions_in_numbers_are_recorded_without_propensities(behaviour, tmp_path):
    traces = log("Pendulum-v1", behaviour, 600)
    a = np.concatenate([trace.actions for trace in traces])
    assert a.shape == (600, 1) and a.dtype == np.float32
    assert all(trace.propensities is None for trace in traces)
    assert a.min() >= -2 and a.max() <= 2
    stays = (a[1:] == a[:-1]).mean()
    if behaviour == "random":
        assert stays == 0 and abs(a.mean()) < 5 * 4 / np.sqrt(12 * 600)
    else:
        assert 0.8 < stays < 0.97
    store = TraceStore(tmp_path, action_space=Box(-2, 2, (1,)))
    store.extend(traces)
    store.verify()


def test_numbers_without_bounds_are_drawn_on_their_side():
    low, high = np.array([0, -np.inf, -np.inf, 2.0]), np.array([np.inf, 1, np.inf, 2.5])
    draw = random(action_features(Box(low, high, dtype=np.float64)))
    generator = np.random.default_rng(0)
    a = np.stack([draw(None, None, generator)[0] for _ in range(500)])
    assert (a >= low).all() and (a <= high).all()
    assert (a[:, 2] > 0).any() and (a[:, 2] < 0).any() and a[:, 0].max() > 2 and a[:, 1].min() < -1


@pytest.mark.parametrize("behaviour", ["random", "sticky_random"])
@pytest.mark.parametrize("id", ["Blackjack-v1", "dreaming/TwoCoordinates-v0", "Bits-v0"])
def test_nested_observations_and_factors_are_recorded_and_stored(
    behaviour, id, tmp_path, monkeypatch
):
    spec = EnvSpec("Bits-v0", lambda **_: Bits(), disable_env_checker=True)
    monkeypatch.setitem(gymnasium.registry, "Bits-v0", spec)
    env = make_real(id)
    spaces = {"observation_space": env.observation_space, "action_space": env.action_space}
    store = TraceStore(tmp_path, **spaces)
    store.extend(record(id, behaviour, 100, 0))
    store.verify()
    assert store.num_steps == 100 and store.schema() == spaces
    for trace in store:
        assert trace.propensities is not None and (trace.propensities > 0).all()
    (first, *_) = log(id, behaviour, 100)
    source = np.random.SeedSequence(0, spawn_key=(0,)).spawn(2)[0]
    o, _ = env.reset(seed=int(source.generate_state(1)[0]))
    for t in range(len(first)):
        assert_row(o, first.observations, t)
        o, *_ = env.step(first.actions[t])


def assert_row(o, observations, t):
    """Row t of recorded observations is the observation."""
    if isinstance(o, dict):
        return [assert_row(o[key], observations[key], t) for key in o]
    if isinstance(o, tuple):
        return [assert_row(x, y, t) for x, y in zip(o, observations, strict=True)]
    return np.testing.assert_array_equal(o, observations[t])


class Bits(gymnasium.Env):
    """Shows the bits that were set before."""

    observation_space = Dict(bits=MultiBinary(3))
    action_space = MultiBinary(3)

    def reset(self, *, seed=None, options=None):
        self.t, self.bits = 0, np.zeros(3, np.int8)
        return {"bits": self.bits}, {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.t += 1
        self.bits[:] = action  # a task may reuse its arrays
        return {"bits": self.bits}, 1.0, self.t == 5, False, {}


# Heuristics


def test_half_random_mixes_the_heuristic_with_honest_propensities():
    pytest.importorskip("Box2D")
    from gymnasium.envs.box2d import lunar_lander as lander

    traces = log("LunarLander-v3", "half_random", 600, epsilon=0.25)
    task, expected, best = gymnasium.make("LunarLander-v3"), [], []
    for trace in traces:
        for o, a in zip(trace.observations, trace.actions, strict=False):
            best.append(lander.heuristic(task, o) == a)
            expected.append(0.25 / 4 + 0.75 * best[-1])
    propensities = np.concatenate([trace.propensities for trace in traces])
    np.testing.assert_allclose(propensities, expected)
    # 0.75 + 0.25 / 4 of 600: standard deviation sqrt(600 * 0.8125 * 0.1875) = 9.6
    assert abs(sum(best) - 487.5) < 5 * 9.6


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_the_ends_of_half_random(epsilon):
    pytest.importorskip("Box2D")
    traces = log("LunarLander-v3", "half_random", 200, epsilon=epsilon)
    p = np.concatenate([trace.propensities for trace in traces])
    assert set(p) == ({0.25} if epsilon else {1.0})


def test_half_random_numbers():
    pytest.importorskip("Box2D")
    (trace, *_) = log("LunarLanderContinuous-v3", "half_random", 100)
    assert trace.actions.shape[1:] == (2,) and trace.propensities is None


def test_half_random_needs_a_heuristic():
    with pytest.raises(ConfigError, match="CartPole-v1 comes without a heuristic.*LunarLander"):
        record("CartPole-v1", "half_random", 10, 0)
    task = gymnasium.make("CartPole-v1")
    with pytest.raises(ConfigError):
        half_random(action_features(task.action_space), 0.5, task)


def test_a_policy_acts_under_its_name():
    policy = lambda o, legal, generator: (int(o[2] > 0), 0.75)
    traces = log(behaviour="runs/x/policy", policy=lambda: policy)
    assert {trace.policy for trace in traces} == {"runs/x/policy"}
    for trace in traces:
        np.testing.assert_array_equal(trace.actions, trace.observations[:-1, 2] > 0)
        assert (trace.propensities == 0.75).all()


def test_progress_is_told_and_the_task_closes():
    seen = []
    traces = log(real_steps=100, update=seen.append)
    assert seen == [len(trace) for trace in traces] and sum(seen) == 100


def test_a_log_can_be_stored(tmp_path):
    store = TraceStore(tmp_path)
    store.extend(record("FrozenLake-v1", "random", 300, 0))
    store.verify()
    assert store.num_steps == 300
    np.testing.assert_array_equal(
        behaviour_return(store.traces()), behaviour_return(log("FrozenLake-v1", real_steps=300))
    )


def test_mountain_car_logs_hold_the_expected_successes():
    """10,000 sticky-random steps: 3.5 successes on average, standard deviation about 1.9 a log."""
    successes = [
        sum(
            trace.terminated[-1]
            for trace in record("MountainCar-v0", "sticky_random", 10_000, seed)
        )
        for seed in range(10)
    ]
    assert abs(np.mean(successes) - 3.5) < 3 * 1.9 / np.sqrt(10), successes


def test_acrobot_logs_hold_successes():
    traces = log("Acrobot-v1", "sticky_random", 10_000)
    assert 1 <= sum(trace.terminated[-1] for trace in traces) <= 12
    assert -500 <= behaviour_return(traces).mean() < -400


def test_a_random_policy_holds_the_pole_for_22_steps():
    traces = log(real_steps=10_000)
    assert 20 < behaviour_return(traces).mean() < 25


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"real_steps": 0}, "real_steps is 0"),
        ({"real_steps": -5}, "real_steps is -5"),
        ({"seed": -1}, "seed is -1"),
        ({"switch": 0.0}, "switch is 0.0"),
        ({"epsilon": 1.5}, "epsilon is 1.5"),
        (
            {"behaviour": "clever"},
            "behaviour 'clever' is unknown; known are random, sticky_random, half_random, or",
        ),
    ],
)
def test_bad_settings_are_refused_before_anything_runs(changes, words):
    settings = {"behaviour": "random", "real_steps": 10, "seed": 0} | changes
    with pytest.raises(ConfigError, match=words):
        record("CartPole-v1", **settings)
    with pytest.raises(EnvError, match="closest"):
        record("CartPole-v7", "random", 1, 0)


class Broken(gymnasium.Env):
    """Gives NaN at the third step."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.full(1, np.nan if self.t == 3 else 0, np.float32), 0.0, self.t == 3, False, {}


@pytest.mark.filterwarnings("ignore:.*(NaN|nan)")
def test_nan_from_the_task_names_episode_and_step(monkeypatch):
    spec = EnvSpec("Broken-v0", lambda **options: Broken(**options), disable_env_checker=True)
    monkeypatch.setitem(gymnasium.registry, "Broken-v0", spec)
    with pytest.raises(TraceError, match="Broken-v0: episode 0: observation at step 3 is"):
        log("Broken-v0", real_steps=10)

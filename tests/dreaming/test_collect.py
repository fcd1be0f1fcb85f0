"""Recorded logs: exact step counts, honest propensities, seeds that repeat, known success rates."""

import time

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

from dreaming.collect import behaviour_return, record, sticky_random
from dreaming.errors import ConfigError, EnvError, TraceError
from envs.traces import TraceStore


def log(env_id="CartPole-v1", behaviour="random", real_steps=500, seed=0, **options):
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
    behaviour = sticky_random(4, 0.3, start=-1)
    first, propensity = behaviour(None, generator)
    assert propensity == 0.25 and first in (-1, 0, 1, 2)
    chances = {}
    for _ in range(400):
        before = first
        first, propensity = behaviour(None, generator)
        chances[(before, first)] = propensity
    for a in (-1, 0, 1, 2):
        assert sum(chances[(a, b)] for b in (-1, 0, 1, 2)) == pytest.approx(1)


def test_a_policy_acts_under_its_name():
    policy = lambda o, generator: (int(o[2] > 0), 0.75)
    traces = log(behaviour="runs/x/policy", policy=policy)
    assert {trace.policy for trace in traces} == {"runs/x/policy"}
    for trace in traces:
        np.testing.assert_array_equal(trace.actions, trace.observations[:-1, 2] > 0)
        assert (trace.propensities == 0.75).all()


def test_progress_is_told_and_the_task_closes():
    seen = []
    traces = log(real_steps=100, progress=seen.append)
    assert seen == np.cumsum([len(trace) for trace in traces]).tolist() and seen[-1] == 100


def test_masks_are_logged_when_the_task_gives_them():
    (trace, *_) = log("Taxi-v4", real_steps=30)
    assert trace.action_masks is not None
    assert trace.action_masks.shape == (31, 6) and not trace.action_masks.all()
    assert log("FrozenLake-v1", real_steps=3)[0].action_masks is None


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


def test_ten_thousand_steps_take_less_than_a_second():
    record("CartPole-v1", "random", 1, 0)
    start = time.process_time()
    traces = log(real_steps=10_000)
    assert time.process_time() - start < 1
    assert 20 < behaviour_return(traces).mean() < 25


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"real_steps": 0}, "real_steps is 0"),
        ({"real_steps": -5}, "real_steps is -5"),
        ({"seed": -1}, "seed is -1"),
        ({"switch": 0.0}, "switch is 0.0"),
        (
            {"behaviour": "clever"},
            "behaviour 'clever' is unknown; known are random and",
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

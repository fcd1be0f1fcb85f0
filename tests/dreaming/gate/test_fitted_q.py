"""Fitted-Q evaluation finds what the log's own count model says, exactly solved."""

import dataclasses
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dreaming.gate import fitted_q
from dreaming.gate.evidence import make_fitted_q
from dreaming.gate.fitted_q import make_members
from dreaming.gate.logged_steps import DRAWS, ask, make_steps, returns_to_go
from dreaming.observe.log import Log
from envs import tabular
from envs.types import Features, Trace, action_features
from experiments.study import cartpole
from experiments.study.cases import Task, record
from experiments.study.judges import linear_student, tabular_log, tabular_student

HORIZON = 12  # of the task, and so of what is estimated
ROAD = tabular.corridor(5, slip=0.1)
TASK = Task("road", ROAD, ROAD, horizon=12, log_steps=3000)
RANDOM = np.full((5, 2), 0.5)
RIGHT = np.tile([0.1, 0.9], (5, 1))
LOG = tabular_log(record(TASK, RANDOM, 0), ROAD)


def vectors(log):
    """The same log with observations as vectors: networks are fitted instead of counts."""
    size = log.observation.size
    box = gymnasium.spaces.Box(-1, 1, (size,))
    seen = lambda t: 2 * np.eye(size, dtype=np.float32)[t.observations] - 1
    traces = [dataclasses.replace(t, observations=seen(t)) for t in log.traces]
    return Log(traces, Features(box), log.action)


def vector_student(policy):
    """The same for observations 2 one-hot - 1."""
    return tabular_student(policy) | {"scale": {"o_mean": -jnp.ones(5), "o_std": 2 * jnp.ones(5)}}


def exact(log, policy):
    """Undiscounted return of an episode of a policy in the log's count model."""
    counts = tabular.from_traces(log.traces, 5, 2)
    return tabular.evaluate(counts, policy, HORIZON)


@pytest.mark.parametrize("policy", [RANDOM, RIGHT])
def test_counts_agree_with_the_exact_solution_of_the_count_model(policy):
    evaluate = make_fitted_q(LOG, 1, HORIZON, jax.random.key(0))[2]
    values = np.asarray(evaluate(tabular_student(policy)).values)
    assert abs(values.mean() - exact(LOG, policy)) < 0.015
    assert 0.001 < values.std() < 0.05  # the bootstrap


@pytest.mark.parametrize("policy", [RANDOM, RIGHT])
def test_networks_agree_with_the_exact_solution_of_the_count_model(policy):
    evaluate = make_fitted_q(vectors(LOG), 1, HORIZON, jax.random.key(0), 16, 64)[2]
    values = np.asarray(evaluate(vector_student(policy)).values)
    assert abs(values.mean() - exact(LOG, policy)) < 0.03


def test_what_was_illegal_is_never_done():
    """In state 2 only 0 was legal: who prefers 1 goes left there, by counts and by networks."""
    left = RANDOM.copy()
    left[2] = [1, 0]

    def masks(trace):
        mask = np.ones((len(trace) + 1, 2), bool)
        mask[trace.observations == 2] = [True, False]
        return mask

    traces = [dataclasses.replace(t, action_masks=masks(t)) for t in record(TASK, left, 0)]
    counted, done = tabular_log(traces, ROAD), RIGHT.copy()
    done[2] = [1, 0]
    for log, policy, room in (
        (counted, tabular_student(RIGHT), 0.015),
        (vectors(counted), vector_student(RIGHT), 0.03),
    ):
        values = make_fitted_q(log, 1, HORIZON, jax.random.key(0), 16, 64)[2](policy).values
        assert abs(np.asarray(values).mean() - exact(counted, done)) < room


def test_a_gain_is_told_from_the_noise_of_the_log():
    """From a random log, a policy that it never saw; the members disagree less than it gains."""
    evaluate = make_fitted_q(LOG, 1, HORIZON, jax.random.key(1))[2]
    gain = np.asarray(
        evaluate(tabular_student(RIGHT)).values - evaluate(tabular_student(RANDOM)).values
    )
    true = [tabular.evaluate(ROAD, policy, HORIZON) for policy in (RIGHT, RANDOM)]
    assert abs(gain.mean() - (true[0] - true[1])) < 3 * gain.std()
    assert gain.mean() > 5 * gain.std()


def episode(a, r, ended, p=None):
    """An episode that stays in state 0, ended by the task or cut by the clock."""
    return Trace(np.zeros(len(a) + 1, int), a, r, ended, not ended, propensities=p)


def as_counts(traces):
    return tabular_log(traces, ROAD)


def as_vectors(traces):
    return vectors(as_counts(traces))


@pytest.mark.parametrize("as_log", [as_counts, as_vectors])
def test_truncation_bootstraps_and_termination_does_not(as_log):
    """A step that pays 1 and stays: worth 1 where it ends, 10 in ten steps where it is cut."""
    who = tabular_student(RANDOM) if as_log is as_counts else vector_student(RANDOM)
    for ended, value in ((True, 1.0), (False, 10.0)):
        # Action 1 is logged too, or it would be worth what members believe.
        traces = [episode([0], [1.0], ended), episode([1], [1.0], ended)] * 400
        evaluate = make_fitted_q(as_log(traces), 1, 10, jax.random.key(0), 4, 32)[2]
        np.testing.assert_allclose(np.asarray(evaluate(who).values), value, rtol=0.03)


def test_where_nobody_was_the_members_disagree():
    """Somebody arrived at the goal, but hardly anybody else ever went right."""
    left = np.tile([1.0, 0.0], (5, 1))
    arrival = next(trace for trace in LOG.traces if trace.rewards.sum() > 0)
    thin = as_counts([*record(TASK, left, 0)[:100], arrival])
    spread = lambda log: np.asarray(
        make_fitted_q(log, 1, HORIZON, jax.random.key(0))[2](tabular_student(RIGHT)).values
    ).std()
    assert spread(thin) > 5 * spread(LOG)


def test_one_program_evaluates_every_policy():
    steps = make_steps(vectors(LOG), 1, HORIZON)
    members = make_members(steps, jax.random.key(0), 4, 32)
    program: Any = fitted_q._evaluate
    program.clear_cache()
    for policy in (RANDOM, RIGHT, RIGHT[:, ::-1]):
        fitted_q.evaluate_fitted(steps, members, vector_student(policy))
    assert program._cache_size() == 1


def test_returns_to_go_by_hand():
    log = as_counts([episode([0, 0, 0], [1.0, 2, 4], True)])
    np.testing.assert_allclose(returns_to_go(log), [7, 6, 4])


@pytest.mark.parametrize("as_log", [lambda log: log, vectors])
def test_values_along_the_log_belong_to_their_steps_and_to_what_is_left(as_log):
    """Against the count model, backwards from the end of an episode."""
    log = as_log(LOG)
    who = tabular_student(RIGHT) if log is LOG else vector_student(RIGHT)
    steps, _, evaluate = make_fitted_q(log, 1, HORIZON, jax.random.key(0), 16, 64)
    valued = jax.tree.map(lambda x: x.mean(0), evaluate(who))
    counts = tabular.from_traces(LOG.traces, 5, 2)
    r, go_on = (counts.p * counts.r).sum(-1), counts.p * (1 - counts.terminated)
    v, q = np.zeros((HORIZON + 1, 5)), np.zeros((HORIZON + 1, 5, 2))  # by steps left
    for left in range(1, HORIZON + 1):
        q[left] = r + go_on @ v[left - 1]
        v[left] = (q[left] * RIGHT).sum(1)
    o = np.concatenate([trace.observations[:-1] for trace in LOG.traces])
    after = np.concatenate([trace.observations[1:] for trace in LOG.traces])
    a = np.concatenate([trace.actions for trace in LOG.traces])
    left = HORIZON - np.concatenate([np.arange(len(trace)) for trace in LOG.traces])
    count, room = len(LOG), 0.03 if log is LOG else 0.15
    np.testing.assert_array_equal(np.asarray(steps.left)[:count], left)
    np.testing.assert_allclose(np.asarray(valued.q)[:count], q[left, o, a], atol=room)
    np.testing.assert_allclose(np.asarray(valued.v)[:count], v[left, o], atol=room)
    on = np.asarray(steps.goes_on)[:count] > 0  # after a termination nothing is asked
    v_next = np.asarray(valued.v_next)[:count]
    np.testing.assert_allclose(v_next[on], v[left - 1, after][on], atol=room)
    assert float(steps.is_real.sum()) == count


@pytest.mark.parametrize("factors", [(2, 2), (3, 3, 8)])
def test_the_policy_judged_is_the_policy_deployed(factors):
    """One step that pays 1 where all factors agree: the value is the probability that they do,
    whether combinations are single actions or factors are drawn one by one."""
    space = gymnasium.spaces.MultiDiscrete(factors)
    random = np.random.default_rng(0)
    a = np.stack([random.integers(n, size=2000) for n in factors], axis=1)
    r = (a == a[:, :1]).all(1).astype(float)
    traces = [
        Trace(np.zeros(2, int), x[None], y[None], True, False) for x, y in zip(a, r, strict=True)
    ]
    log = Log(traces, Features(gymnasium.spaces.Discrete(1)), action_features(space))
    logits = [random.normal(size=n) for n in factors]
    p = [np.exp(x) / np.exp(x).sum() for x in logits]
    joint = np.einsum("a,b->ab", *p) if len(p) == 2 else np.einsum("a,b,c->abc", *p)
    outputs = np.log(joint).ravel() if log.head.kind == "discrete" else np.log(np.concatenate(p))
    student = tabular_student(np.exp(outputs)[None])
    agree = sum(joint[(i,) * len(factors)] for i in range(min(factors)))
    evaluate = make_fitted_q(log, 1, 1, jax.random.key(0), 4, 256)[2]
    found = np.asarray(evaluate(student).values).mean()
    assert abs(found - agree) < 0.03
    steps = make_steps(log, 1, 1)
    drawn = ask(student, steps, steps.begins)
    every = np.asarray(drawn[0])[:64].reshape(-1, log.head.size)
    weight = np.asarray(drawn[1])[:64].ravel() / 64
    marginal = weight @ every  # of every value of each factor
    np.testing.assert_allclose(marginal, np.concatenate(p), atol=0.06)


def test_the_gaussian_judged_is_the_gaussian_deployed():
    """One step that pays the product of two of three numbers: the product of their means, which are
    those of normal variables cut off at the ends of the space; numbers drawn as one would pay
    the covariance too."""
    space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    random = np.random.default_rng(0)
    a = random.uniform(-1, 1, (2000, 3)).astype(np.float32)
    r = a[:, 0] * a[:, 1]
    traces = [
        Trace(np.zeros(2, int), x[None], y[None], True, False) for x, y in zip(a, r, strict=True)
    ]
    log = Log(traces, Features(gymnasium.spaces.Discrete(1)), action_features(space))
    student = linear_student(np.array([[0.5, 0.7, -0.2, 1.0, 1.0, -1.0]]))
    mean, spread = (np.asarray(x) for x in log.head.gaussian(jnp.array([0.5, 0.7, -0.2, 1, 1, -1])))
    low, high = (-1 - mean) / spread, (1 - mean) / spread
    phi, inside = stats.norm.pdf, stats.norm.cdf(high) - stats.norm.cdf(low)
    cut = stats.norm.sf(high) - stats.norm.cdf(low)
    expected = mean * inside + spread * (phi(low) - phi(high)) + cut  # of clip(mean + spread z)

    steps, _, evaluate = make_fitted_q(log, 1, 1, jax.random.key(0), 8, 128)
    drawn, p = (np.asarray(x)[: len(traces)] for x in ask(student, steps, steps.rows))
    assert drawn.shape == (2000, DRAWS, 3) and np.all(p == 1 / DRAWS)
    every = drawn.reshape(-1, 3)
    error = every.std(0) / np.sqrt(len(every))
    assert np.all(abs(every.mean(0) - expected) < 4 * error)
    assert np.all(abs(np.corrcoef(every.T) - np.eye(3)) < 4 / np.sqrt(len(every)))
    values = np.asarray(evaluate(student).values)
    apart = expected[0] * expected[1]
    as_one = apart + every[:, 0].std() * every[:, 1].std()
    interval = 4 * max(values.std(), np.std(every[:, 0] * every[:, 1]) / np.sqrt(len(every)))
    assert abs(values.mean() - apart) < interval < (as_one - apart) / 2


def test_a_far_horizon_on_short_episodes_does_not_run_away(monkeypatch):
    """Random CartPole falls after some twenty steps. Seen from 500 steps, values of some members
    leave what rewards allow if sweeps go on unbounded, and none do as they are bounded."""
    task, log = gymnasium.make("CartPole-v1"), cartpole.record(((1.0, "random"),), 500)[:80]
    log = Log(log, Features(task.observation_space), action_features(task.action_space))
    policy = linear_student(np.stack([np.zeros(4), cartpole.CONTROLLERS["best"]], axis=1))
    steps = make_steps(log, 1, 500)
    members = make_members(steps, jax.random.key(500), 8, 128)

    def outside():
        values = np.asarray(fitted_q.evaluate_fitted(steps, members, policy).values)
        return (~((values > -50) & (values < 550))).sum()

    monkeypatch.setattr(fitted_q, "BOUNDED", 1000)
    program: Any = fitted_q._evaluate
    program.clear_cache()
    assert outside() > 0
    monkeypatch.undo()
    program.clear_cache()
    assert outside() == 0

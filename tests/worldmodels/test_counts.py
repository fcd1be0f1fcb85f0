"""The count model says what was counted: by hand, and as the exactly solved table says."""

import dataclasses

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Discrete, MultiDiscrete

from dreaming.observe.collect import record
from dreaming.observe.log import Log
from dreaming.world.fitting import LogFit, facts_of
from envs import tabular
from envs.dream import start_context
from envs.types import Features, Trace, action_features
from worldmodels import counts
from worldmodels.config import FitConfig, ModelConfig
from worldmodels.protocol import ModelError, ModelSettings

SETTINGS = ModelSettings(ModelConfig(name="counts", members=3), discount=0.5)


def log_of(traces, states, actions):
    return Log(traces, Features(states), action_features(actions))


def fitted(log, settings=SETTINGS):
    """(model, params) of a whole fit."""
    config = FitConfig(discount=settings.discount)
    fit = LogFit.of(log, settings, config, imitates=False)
    assert isinstance(fit.model, counts.Counts)
    return fit.model, fit.learn(jax.random.key(0), lambda *_, **__: None).params


# From 0 action 0 led to 1 twice and to 0 once, action 1 was never taken; from 1 action 1 ended it.
EPISODES = [
    Trace(np.array([0, 1, 2]), np.array([0, 1]), np.array([1.0, 4.0]), True, False),
    Trace(np.array([0, 0, 1]), np.array([0, 0]), np.array([-2.0, 3.0]), False, True),
]


def step(model, params, s, a, member=-1):
    """(probability of the codes, states they lead to, what is said of each)."""
    context = start_context(np.eye(model.num_states, dtype=np.float32)[[s]], model.action_size)
    z = model.root(params, context)
    z = z.replace(member=jnp.full_like(z.member, member))
    logits, y = model.afterstate(params, z, jnp.asarray(model.head.table[[a]]))
    codes = [model.outcome(params, y, jnp.array([c])) for c in range(model.num_codes)]
    return jax.nn.softmax(logits)[0], [int(z.s[0]) for z, _ in codes], [said for _, said in codes]


def test_what_is_counted_by_hand():
    model, params = fitted(log_of(EPISODES, Discrete(3), Discrete(2)))
    assert (model.num_states, model.num_codes, model.num_members) == (3, 2, 3)
    p, leads_to, said = step(model, params, 0, 0)
    found = {s: (float(x), float(y.r[0])) for s, x, y in zip(leads_to, p, said, strict=True)}
    assert found[1] == pytest.approx((2 / 3, (1 + 3) / 2)) and found[0] == pytest.approx(
        (1 / 3, -2)
    )
    assert all(float(x.continuation[0]) == 1 for x in said)
    p, leads_to, said = step(model, params, 1, 1)
    assert float(p[0]) == 1 and leads_to[0] == 2
    assert (float(said[0].r[0]), float(said[0].continuation[0])) == (4, 0)


def test_of_what_was_never_tried_the_worst_is_assumed():
    model, params = fitted(log_of(EPISODES, Discrete(3), Discrete(2)))
    p, leads_to, said = step(model, params, 0, 1)
    assert float(p[0]) == 1 and leads_to[0] == 0
    assert float(said[0].r[0]) == -2 and float(said[0].uncertainty[0]) == 1
    # State 2 was only seen: it stays there for ever at -2 a step, -2 / (1 - 0.5).
    v = params["net"]["value"][-1]
    assert float(v[2]) == pytest.approx(-4, abs=1e-4) and float(v[1]) == pytest.approx(4, abs=1e-4)
    # V(0) = 2/3 (2 + V(1)/2) + 1/3 (-2 + V(0)/2) = 2.4
    assert float(v[0]) == pytest.approx(2.4, abs=1e-4)


def test_where_every_step_pays_what_was_never_tried_is_worth_nothing():
    """Else the worst would be the best: to be paid for ever."""
    short = Trace(np.array([0, 1]), np.array([0]), np.array([1.0]), True, False)
    _, params = fitted(log_of([short], Discrete(2), Discrete(2)))
    assert params["net"]["value"][-1].tolist() == [1, 0]
    table = tabular.from_traces([short], 2, 2, unseen="worst")
    assert tabular.solve(table, 0.5)[0].tolist() == [1, 0]


def test_members_weigh_episodes_and_all_together_are_the_log():
    log = log_of(EPISODES, Discrete(3), Discrete(2))
    model, params = fitted(log)
    weights = np.asarray(log.replay(3, jax.random.split(jax.random.key(0))[0]).member_weights)
    for member in range(3):
        one, other = weights[:2, member]  # of the two episodes
        p, leads_to, said = step(model, params, 0, 0, member)
        at = leads_to.index(1)
        assert float(p[at]) == pytest.approx((one + other) / (one + 2 * other), rel=1e-5)
        mean = (one * 1 + other * 3) / (one + other)
        assert float(said[at].r[0]) == pytest.approx(mean, rel=1e-5)
    p, leads_to, said = step(model, params, 0, 0)
    assert float(said[0].uncertainty[0]) > 0  # they do not agree


def test_values_are_those_of_the_solved_table():
    task = gymnasium.make("FrozenLake-v1")
    traces = list(record("FrozenLake-v1", "random", 1500, 3))
    settings = dataclasses.replace(SETTINGS, discount=0.97)
    _, params = fitted(log_of(traces, task.observation_space, task.action_space), settings)
    table = tabular.from_traces(traces, 16, 4, unseen="worst")
    v, _, _ = tabular.solve(table, 0.97)
    np.testing.assert_allclose(params["net"]["value"][-1], v, atol=1e-4)


def test_pessimism_takes_off_what_the_members_disagree_by():
    model, params = fitted(log_of(EPISODES, Discrete(3), Discrete(2)))
    z = model.root(params, start_context(np.eye(3, dtype=np.float32), 2))
    plain, _, _ = model.predict(params, z)
    careful, _, _ = model.adjusted(pessimism=2.0).predict(params, z)
    spread = np.std(np.asarray(params["net"]["value"])[:-1], axis=0)
    np.testing.assert_allclose(plain - careful, 2 * spread, rtol=1e-4, atol=1e-5)
    one = dataclasses.replace(z, member=z.member * 0)
    same = model.adjusted(pessimism=2.0).predict(params, one)[0]
    np.testing.assert_array_equal(same, params["net"]["value"][0])


def test_several_factors_are_counted_as_one_action():
    space = MultiDiscrete([2, 3])
    traces = [
        Trace(np.array([0, 1, 0]), np.array([[1, 2], [0, 1]]), np.array([5.0, 7.0]), False, True)
    ]
    model, params = fitted(log_of(traces, Discrete(2), space))
    assert model.num_actions == 6 and model.action_size == 5
    a = [int(np.flatnonzero((model.head.table == x).all(1))[0]) for x in ([0, 1, 0, 0, 1],)]
    p, leads_to, said = step(model, params, 0, a[0])
    assert (leads_to[0], float(said[0].r[0])) == (1, 5)


def test_what_was_illegal_is_not_an_option():
    mask = np.ones((3, 2), bool)
    mask[1:] = [True, False]  # in state 1
    lucky = Trace(np.array([1, 2]), np.array([1]), np.array([9.0]), False, True)
    masked = Trace(
        np.array([0, 1, 1]), np.array([0, 0]), np.zeros(2), False, True, action_masks=mask
    )
    again = [masked, masked, masked]
    model, params = fitted(log_of([*again, lucky], Discrete(3), Discrete(2)))
    z = model.root(params, start_context(np.eye(3, dtype=np.float32), 2))
    assert (np.asarray(model.predict(params, z)[2]) > 0).tolist() == [[1, 1], [1, 0], [1, 1]]
    assert float(params["net"]["value"][-1][1]) == 0  # not the 9 of an illegal action


def test_what_would_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr(counts, "MOST", 40)
    with pytest.raises(ModelError, match="would hold 48 counts"):
        counts.make(facts_of(log_of(EPISODES, Discrete(3), Discrete(2))), SETTINGS)

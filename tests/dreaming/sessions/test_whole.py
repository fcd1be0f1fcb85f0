"""The whole path on bandits that are learned in seconds: base, session, weights, and back."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreaming.sessions.config import PretrainConfig, SelfDistilConfig
from dreaming.sessions.conflict import auroc, conflict
from dreaming.sessions.deltas import sha_of
from dreaming.sessions.family import load_family
from dreaming.sessions.learn import dream_session
from dreaming.sessions.network import answer, nothing, read, remembered
from dreaming.sessions.pretrain import make_pool, pretrain
from dreaming.sessions.registry import Registry
from dreaming.sessions.retention import old_dreams
from envs.processes.bandit import CARDS

SMALL = PretrainConfig(
    deployments=512,
    steps=60,
    updates=400,
    own_rounds=1,
    own_deployments=64,
    own_updates=60,
    batch=32,
    width=32,
    layers=1,
)
DISTIL = SelfDistilConfig(updates=100, dreams=8, horizon=10, learning_rate=3e-3)
EVERY: Any = jnp.eye(CARDS)


@pytest.fixture(scope="module")
def bandits(tmp_path_factory):
    """A registry of a base that learned on 512 bandits."""
    family = load_family("envs.processes.bandit:make_deployment")
    params, shape = pretrain(family, SMALL, 0)
    pool = make_pool(family, np.arange(32) + 900_000, SMALL.steps, 0)
    old = old_dreams(params, shape, pool, jax.random.key(0), 32)
    path = tmp_path_factory.mktemp("bandits") / "registry"
    return family, Registry.create(path, params, shape, family, old=old)


def share(family, registry, params, number: int, rows=None) -> float:
    """The share of right answers in a deployment, drawn from the policy."""
    shape = registry.shape
    memory = nothing(shape) if rows is None else read(params, shape, rows)
    pi, _ = answer(params, shape, remembered(params, shape, memory), EVERY)
    return family.deployment(number).right_share(np.asarray(jax.nn.softmax(pi)))


def worked(family, registry, number: int, days: int = 4) -> str:
    """The name of a reviewed session of a few days."""
    task = family.deployment(number)
    with registry.session(str(number), consent=True) as s:
        for day in range(days):
            o, over = task.reset(seed=10 * number + day)[0], False
            while not over:
                a = s.act(o, seed=day * 100 + task._t)
                o, r, _, over, info = task.step(a)
                s.observe(reward=r, outcome=info["outcome"], ended=over)
    registry.review(s.id, "up")
    return s.id


@pytest.mark.slow  # pretraining
def test_what_a_session_taught_is_kept_without_it_and_taken_back(bandits):
    family, registry = bandits
    head = registry.head()
    base, weights = registry.weights(head, ""), {}
    for number in (1_000_001, 1_000_002):
        id = worked(family, registry, number)
        learned = dream_session(registry, id, config=DISTIL)
        assert learned.head is not None, learned.reason
        rows = jax.tree.map(jnp.asarray, registry.record(id).rows)
        new = weights[number] = registry.weights(learned.head, str(number))
        alone, context = (share(family, registry, base, number, x) for x in (None, rows))
        kept = (share(family, registry, new, number) - alone) / (context - alone)
        assert alone < 0.5 and context > 0.85 and kept > 0.9
    # Each deployment has its own delta, and the base is what it was.
    one, other = weights.values()
    tasks = [family.deployment(number) for number in weights]
    answers = [task.right_action(np.arange(CARDS)) for task in tasks]
    differ = answers[0] != answers[1]
    found = conflict(one, other, registry.shape, np.asarray(EVERY))
    assert auroc(found.divergence, differ) > 0.85 and abs(found.share - differ.mean()) < 0.2
    assert registry.rollback().weights("1000002") == head.base
    assert registry.rollback().state == head.state
    assert sha_of(registry.weights(registry.head(), "1000001")) == head.base

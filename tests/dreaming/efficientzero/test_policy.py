"""A saved agent acts as the one that was saved: by its policy head, or by search."""

import dataclasses
import json
from types import SimpleNamespace

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dreaming
from dreaming.config import SearchConfig
from dreaming.efficientzero.agent import make_agent
from dreaming.efficientzero.config import AgentConfig, ReplayConfig
from dreaming.efficientzero.policy import (
    LEARNING,
    AgentPolicy,
    load_agent_policy,
    save_agent_policy,
)
from dreaming.errors import UserError

CONFIG = AgentConfig(
    size="nano",
    window=2,
    bins=11,
    envs=2,
    search=SearchConfig(num_simulations=2, max_considered=2),
    replay=ReplayConfig(capacity=40, batch=8),
)
FRAMES = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 1), np.uint8)
SPACES = gymnasium.spaces.Box(0, 255, (16, 16, 1), np.uint8), gymnasium.spaces.Discrete(3, start=4)


@pytest.fixture(scope="module")
def policy():
    agent = make_agent(CONFIG, (16, 16, 1), 3, jax.devices()[:1])
    random = np.random.default_rng(1)
    noisy = lambda x: np.asarray(x) + random.normal(0, 0.1, x.shape).astype(np.float32)
    params = jax.tree.map(noisy, agent.init(jax.random.key(0)).params)
    return AgentPolicy(params, [0, 7], CONFIG, *SPACES, card={"env": "Odd"}, agent=agent)


@pytest.fixture
def saved(policy, tmp_path):
    save_agent_policy(tmp_path / "policy", policy)
    return tmp_path / "policy"


def test_it_stacks_frames_itself_and_takes_the_likeliest_action(policy):
    model, o = policy.agent.model, FRAMES
    policy.reset()
    for stack in ([o[0], o[0]], [o[0], o[1]], [o[1], o[2]]):
        z = model.begin(model.encode(policy.params, jnp.asarray(stack)[None]))
        _, pi_logits, _ = model.predict(policy.params, z)
        assert policy.act(stack[1]) == 4 + int(jnp.argmax(pi_logits))
    policy.reset()
    one = policy.act(o[4], search=True)
    frames, updates = np.stack([o[4], o[4]])[None], CONFIG.updates
    acted = policy.agent.act_greedily(policy.params, policy.key, 0, frames, updates)
    assert one == 4 + int(acted.action[0])


def test_what_was_saved_acts_the_same(policy, saved):
    again = dreaming.load_policy(saved)
    assert isinstance(again, AgentPolicy) and again.card == {"env": "Odd"}
    assert again.config == CONFIG and again.observation_space == SPACES[0]
    assert not set(LEARNING) & set(again.params) and set(LEARNING) <= set(policy.params)
    context = SimpleNamespace(o=np.stack([FRAMES[:4], FRAMES[1:]], axis=1).astype(np.float32))
    for search in (False, True):
        np.testing.assert_array_equal(again.acting(search)(context), policy.acting(search)(context))


def test_what_is_damaged_or_newer_is_told(saved):
    file = saved / "agent.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match="agent.safetensors or agent.json is damaged"):
        load_agent_policy(saved)
    card = json.loads((saved / "agent.json").read_text())
    (saved / "agent.json").write_text(json.dumps(card | {"schema_version": 9}))
    with pytest.raises(UserError, match="schema 9 is not 2"):
        load_agent_policy(saved)
    with pytest.raises(UserError, match="no policy can be read here"):
        load_agent_policy(saved.parent)


def test_what_does_not_fit_is_told(policy):
    with pytest.raises(UserError, match=r"shape \[8, 8, 1\] does not fit"):
        policy.act(np.zeros((8, 8, 1), np.uint8))
    with pytest.raises(UserError, match="leave world= out"):
        policy.act(FRAMES[0], search=True, world=object())


def test_every_part_of_the_configuration_is_saved():
    from dreaming.efficientzero.policy import _config

    changed = dataclasses.replace(CONFIG, search=SearchConfig(num_simulations=7))
    assert _config(json.loads(json.dumps(dataclasses.asdict(changed)))) == changed

"""Runs, dreams, policies and packs that an earlier commit wrote load, and say what they said."""

import json
import tarfile
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import dreaming
from experiments import dream, online, unpack
from experiments.pages.run_report import render
from tests.experiments.conftest import as_users_run

GOLDEN = Path(__file__).parents[1] / "golden"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
LAKE = """
env=frozenlake env.real_steps=200 fit.steps=20 fit.batch=8 model.members=2 model.width=8
model.latent=4 model.projection=8 model.value_bins=11 judge.steps=10 judge.least=0
search.num_simulations=4 rehearse.iterations=4 rehearse.dreams=8 rehearse.horizon=4
rehearse.taught=8 distill.width=8 baselines.width=8 baselines.steps=20 gate.episodes=4
evaluation.episodes=4 evaluation.dreams=4 certify.episodes=3 certify.dreams=3
""".split()
CATCH = """
env=catch env.real_steps=160 agent.envs=4 agent.learn_after=60 agent.updates_per_call=5
agent.refresh_batch=64 agent.search.num_simulations=2 agent.replay.capacity=80 agent.replay.batch=8
agent.target.every=10 agent.bins=21 agent.prefix_horizon=1 agent.optimiser.name=sgd
agent.optimiser.learning_rate=0.01 collect.save_every=50 evaluation.episodes=4
""".split()


@pytest.fixture(scope="module")
def golden(tmp_path_factory) -> Path:
    """What lies in the archives."""
    place = tmp_path_factory.mktemp("golden")
    for archive in GOLDEN.glob("*.tar.gz"):
        with tarfile.open(archive) as files:
            files.extractall(place, filter="data")
    return place


def state_sha256(run_dir: Path) -> str:
    return json.loads((run_dir / "result.json").read_text())["state_sha256"]


def test_a_run_is_done_and_ends_as_it_ended(golden, capsys):
    run_dir = golden / "frozenlake"
    with as_users_run():
        assert dream.main([*LAKE, f"hydra.run.dir={run_dir}"]) == 0
    out = capsys.readouterr().out
    stages = ("record", "fit", "judge", "clone", "rehearse", "gate", "evaluate", "certify")
    assert all(f"{stage}: done before" in out for stage in stages)
    assert state_sha256(run_dir) == EXPECTED["frozenlake_state_sha256"]


def test_a_report_is_drawn_of_it(golden):
    assert "FrozenLake-v1" in render(golden / "frozenlake").read_text()


def test_its_dream_goes_on_as_it_went(golden):
    path, expected = golden / "frozenlake/world.dream", EXPECTED["dreamed"]
    env = gymnasium.make("dreaming/Dream-v0", path=str(path), trust=True)
    o, _ = env.reset(seed=3)
    seen, earned, ended = [int(o)], [], []
    for i, a in enumerate(expected["actions"]):
        o, r, terminated, truncated, _ = env.step(a)
        earned.append(float(r))
        ended.append(terminated or truncated)
        if ended[-1]:
            o, _ = env.reset(seed=i)
        seen.append(int(o))
    assert (seen, ended) == (expected["observations"], expected["ended"])
    np.testing.assert_allclose(earned, expected["rewards"], rtol=1e-5)


def test_its_policy_acts_as_it_did(golden):
    policy, acted = dreaming.load_policy(golden / "frozenlake/policy"), []
    for state in range(16):
        policy.reset()
        acted.append(int(policy.act(state, seed=state)))
    assert acted == EXPECTED["frozenlake_actions"]


def test_an_agent_of_frames_acts_as_it_did(golden):
    policy, acted = dreaming.load_policy(golden / "catch/policy"), []
    env = gymnasium.make("dreaming/Catch-v0")
    o, _ = env.reset(seed=5)
    for _ in EXPECTED["catch_actions"]:
        acted.append(int(policy.act(o, search=True)))
        o, *_ = env.step(acted[-1])
    assert acted == EXPECTED["catch_actions"]


def test_a_pack_is_unpacked_and_goes_on(golden):
    run_dir = golden / "unpacked"
    with as_users_run():
        assert unpack.main([f"path={golden / 'catch-pack'}", f"to={run_dir}"]) == 0
        assert online.main([*CATCH, f"hydra.run.dir={run_dir}"]) == 0
    assert state_sha256(run_dir) == EXPECTED["catch_state_sha256"]

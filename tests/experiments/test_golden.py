"""Runs, dreams, policies and packs that an earlier commit wrote load, and say what they said."""

import json
import shutil
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
model.latent=4 model.features=8 model.value_bins=11 judge.steps=10 judge.least=0
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


def files_of(run_dir: Path) -> dict[str, bytes]:
    files = (path for path in run_dir.rglob("*") if path.is_file())
    return {str(path.relative_to(run_dir)): path.read_bytes() for path in files}


def test_a_finished_run_is_recognised_and_nothing_but_its_report_is_made_again(golden, capsys):
    run_dir = golden / "frozenlake"
    (run_dir / "report.html").unlink(missing_ok=True)
    before = files_of(run_dir)
    with as_users_run():
        assert dream.main([*LAKE, f"hydra.run.dir={run_dir}"]) == 0
    out, err = capsys.readouterr()
    assert "was finished by an earlier version; its report is drawn again" in out
    assert f"verdict: {json.loads(before['result.json'])['verdict']}" in out and not err
    after = files_of(run_dir)
    assert "FrozenLake-v1" in after.pop("report.html").decode()
    assert after == before  # no candidate/, no trials.json, no stage
    assert state_sha256(run_dir) == EXPECTED["frozenlake_state_sha256"]


def test_an_unfinished_one_is_refused_by_the_rules_of_its_stages(golden, tmp_path, capsys):
    """Its split, its gate and its incumbent were others; to go on would be to mix two methods."""
    run_dir = Path(shutil.copytree(golden / "frozenlake", tmp_path / "run"))
    (run_dir / "result.json").unlink()
    before = files_of(run_dir)
    with as_users_run():
        assert dream.main([*LAKE, f"hydra.run.dir={run_dir}"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    changed = "fit.weights.consistency was 2.0, is absent"
    for words in (str(run_dir), "made with another configuration", changed):
        assert words in line, line
    assert files_of(run_dir) == before


def test_a_world_without_a_policy_is_not_taken_for_a_finished_run(golden, tmp_path, capsys):
    """`fit` and `dream` may share a directory, but an old one is another configuration."""
    run_dir = Path(shutil.copytree(golden / "frozenlake", tmp_path / "run"))
    result = json.loads((run_dir / "result.json").read_text())
    kept = ("schema_version", "experiment", "env", "seed", "seconds", "versions", "real_steps")
    kept += ("behaviour_return", "fidelity", "state_sha256")
    fitted = {name: result[name] for name in kept} | {"experiment": "fit"}
    (run_dir / "result.json").write_text(json.dumps(fitted))
    with as_users_run():
        assert dream.main([*LAKE, f"hydra.run.dir={run_dir}"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "made with another configuration" in line, line


def test_there_is_no_next_round_of_it(golden, tmp_path, capsys):
    run_dir = Path(shutil.copytree(golden / "frozenlake", tmp_path / "run"))
    words = [f"run={run_dir}", f"traces={run_dir}/traces"]
    with as_users_run():
        assert dream.main(words) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "was made by an earlier version; make it anew to go on" in line
    assert not (run_dir / "rounds").exists()


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

"""The whole loop on frames, made small: what outsiders find in its directory."""

import json

import gymnasium
import numpy as np
import pytest

import dreaming
from envs.traces import TraceStore
from experiments import dream
from tests.experiments.conftest import fill

SMALL = ("baselines.width=16", "baselines.batch=16", "env=catch", "env.real_steps=120")
SMALL += ("context.window=2", "images.bins=21", "fit.steps=10", "judge.steps=5")
RETURNS = ("behaviour", "incumbent", "candidate", "deployed", "dream")


@pytest.mark.slow  # minutes: all of its time is compilation
def test_a_run_on_frames_leaves_a_dream_and_a_policy_of_frames(tiny, tmp_path):
    run_dir = tmp_path / "run"
    assert dream.main([*fill(tiny, "dream", SMALL), *SMALL, f"hydra.run.dir={run_dir}"]) == 0

    result = json.loads((run_dir / "result.json").read_text())
    assert result["real_steps"] == 120
    assert all(result[f"{name}_return"] is not None for name in RETURNS)
    assert set(result["baselines"]) == {"behaviour_cloning", "conservative_q"}
    assert "skill_1" in result["fidelity"]
    assert "chance" not in result["fidelity"]  # there is one member,
    assert result["fidelity"]["uncertainty"] > 0  # whose heads expect errors
    store = TraceStore(run_dir / "traces")
    assert next(iter(store)).observations.dtype == np.uint8

    real = gymnasium.make("dreaming/Catch-v0")
    dreamed = gymnasium.make("dreaming/Dream-v0", path=str(run_dir / "world.dream"))
    assert dreamed.observation_space == real.observation_space
    policy = dreaming.load_policy(run_dir / "candidate")
    world = dreaming.load_world(run_dir / "world.dream")
    for env in (real, dreamed):
        o, _ = env.reset(seed=1)
        policy.reset()
        for _ in range(3):
            assert env.observation_space.contains(o)
            o, *_ = env.step(policy.act(o, seed=0))
    assert real.action_space.contains(policy.act(o, search=True, world=world, seed=0))

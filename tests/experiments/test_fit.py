"""A fit is the first part of a dream: same stages, same keys, same bytes."""

import json
import shutil
from pathlib import Path

import gymnasium
import pytest

import dreaming
from experiments import dream
from experiments.config import DreamConfig, EnvConfig, WorldConfig
from experiments.runs.dream import stage_fields, world_fields
from experiments.runs.lineage import Lineage
from experiments.runs.once import Once


@pytest.fixture(scope="module")
def result(tiny_fit):
    return json.loads((tiny_fit / "result.json").read_text())


def test_a_fit_leaves_a_world_and_its_fidelity(tiny_fit, tiny_run, result):
    whole = json.loads((tiny_run / "result.json").read_text())
    assert result["fidelity"] and set(result["fidelity"]) < set(whole["fidelity"])
    for name, value in result["fidelity"].items():
        assert value == whole["fidelity"][name], name
    assert set(result["seconds"]) == {"record", "fit", "judge"}
    assert (result["experiment"], result["real_steps"]) == ("fit", 200)
    assert result["behaviour_return"] == whole["behaviour_return"]
    assert "verdict" not in result and not (tiny_fit / "policy").exists()


def test_the_world_of_a_fit_is_an_ordinary_environment(tiny_fit):
    env = gymnasium.make("dreaming/Dream-v0", path=str(tiny_fit / "world.dream"))
    real = gymnasium.make("CartPole-v1")
    assert env.observation_space == real.observation_space
    assert env.action_space == real.action_space
    o, _ = env.reset(seed=0)
    assert env.observation_space.contains(env.step(env.action_space.sample())[0])
    assert dreaming.load_world(tiny_fit / "world.dream").horizon == 500


def test_its_report_says_that_there_is_no_policy_yet(tiny_fit):
    page = (tiny_fit / "report.html").read_text()
    assert "A world was fitted" in page and "no policy has rehearsed" in page
    assert "no verdict" in page and "Open-loop error" in page


def test_a_dream_goes_on_where_a_fit_ended(tiny_fit, tiny_run, tiny, tmp_path, monkeypatch):
    done, call = [], Once.__call__

    def spy(desk, stage, total, like, work):
        noted = lambda update: done.append(stage) or work(update)
        return call(desk, stage, total, like, noted)

    monkeypatch.setattr(Once, "__call__", spy)
    run_dir = shutil.copytree(tiny_fit, tmp_path / "run")
    assert dream.main([*tiny, f"hydra.run.dir={run_dir}"]) == 0
    assert done == ["clone", "rehearse", "gate", "evaluate", "certify", "life"]
    sha256 = lambda path: json.loads((path / "result.json").read_text())["state_sha256"]
    assert sha256(run_dir) == sha256(tiny_run)
    assert (run_dir / "world.dream").read_bytes() == (tiny_run / "world.dream").read_bytes()


def test_fit_and_dream_have_the_same_defaults_and_the_same_stages():
    one, whole = WorldConfig(env=EnvConfig("a")), DreamConfig(env=EnvConfig("a"))
    shared = world_fields(whole)
    assert world_fields(one) == shared
    stages = stage_fields(whole, Lineage(Path("run")))
    assert {name: stages[name] for name in shared} == shared
    later = stage_fields(whole, Lineage(Path("run"), 2))  # a round on the same log is another one
    assert {name: later[name] for name in shared} == shared
    assert later["rehearse"] != stages["rehearse"] and later["gate"] != stages["gate"]


def test_what_cannot_be_fitted(fails, tiny_run, tmp_path):
    place = f"hydra.run.dir={tmp_path}/run"
    fails("fit", f"traces={tmp_path}/nowhere", place, words=["nowhere", "does not exist"])
    fails("fit", "env=none", place, words=["nothing to record"], code=(2,))
    fails("fit", "fit.steps=-1", place, words=["fit.steps must be at least 0"], code=(2,))
    fails("fit", "tracker=mlflow", place, words=["tracker=mlflow", "wandb"], code=(2,))
    before = (tiny_run / "result.json").read_bytes()
    fails("fit", f"hydra.run.dir={tiny_run}", words=[tiny_run, "whole run"], code=(2,))
    assert (tiny_run / "result.json").read_bytes() == before

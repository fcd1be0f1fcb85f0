"""Trackers see the numbers of metrics.jsonl over the steps of their own stage."""

import io
import json
import sys
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from dreaming.errors import ConfigError, UserError
from experiments.command.progress import Progress
from experiments.command.trackers import final_figures, open_tracker
from experiments.config import DreamConfig, EnvConfig


def config(tracker) -> DreamConfig:
    return DreamConfig(env=EnvConfig("CartPole-v1"), tracker=tracker, seed=3)


def a_run(tracker, run_dir):
    """Two stages, as a run would show them."""
    with Progress(run_dir, stream=io.StringIO()) as progress:
        progress.track(open_tracker(config(tracker), run_dir))
        for name in ("fit", "rehearse"):
            with progress.stage(name, total=4) as stage:
                stage.update(2, loss=0.5, **{"gate/bound": 1.0})
                stage.update(2, loss=float("nan"))
        progress.finish(2000, {"result/deployed_return": 7.0})


@pytest.fixture
def fake_wandb(monkeypatch):
    """A module that keeps what it is told."""
    told = SimpleNamespace(init={}, axes={}, rows=[], finished=False)

    class Run:
        offline, url, dir = True, None, "/there"

        def define_metric(self, name, step_metric):
            told.axes[name] = step_metric

        def log(self, row):
            told.rows.append(row)

        def finish(self):
            told.finished = True

    module: Any = ModuleType("wandb")
    module.Settings = dict
    module.init = lambda **options: told.init.update(options) or Run()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return told


@pytest.fixture
def fake_tensorboard(monkeypatch):
    rows = []

    class Writer:
        def __init__(self, where):
            rows.append(where)

        def add_scalar(self, name, value, step):
            rows.append((name, value, step))

        def close(self):
            rows.append("closed")

    module: Any = ModuleType("tensorboard.summary")
    module.Writer = Writer
    monkeypatch.setitem(sys.modules, "tensorboard", ModuleType("tensorboard"))
    monkeypatch.setitem(sys.modules, "tensorboard.summary", module)
    return rows


def test_wandb_gets_every_number_over_the_steps_of_its_stage(fake_wandb, tmp_path):
    a_run("wandb", tmp_path)
    assert fake_wandb.init["name"] == "dream/CartPole-v1/seed3"
    assert fake_wandb.init["config"]["seed"] == 3
    assert fake_wandb.axes["fit/loss"] == "fit/step"
    assert fake_wandb.axes["rehearse/loss"] == "rehearse/step"
    assert fake_wandb.rows[0] == {"fit/loss": 0.5, "gate/bound": 1.0, "fit/step": 2}
    assert fake_wandb.rows[1] == {"fit/step": 4}  # NaN is no number
    assert fake_wandb.rows[-1] == {"result/deployed_return": 7.0, "result/step": 2000}
    assert fake_wandb.finished
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 4 and "result" not in json.loads(lines[-1])["stage"]


def test_tensorboard_gets_scalars_and_is_closed(fake_tensorboard, tmp_path):
    a_run("tensorboard", tmp_path)
    assert fake_tensorboard[0] == str(tmp_path / "tensorboard")
    assert ("fit/loss", 0.5, 2) in fake_tensorboard and ("gate/bound", 1.0, 2) in fake_tensorboard
    assert fake_tensorboard[-2:] == [("result/deployed_return", 7.0, 2000), "closed"]


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb"])
def test_a_package_that_is_missing_names_its_extra(tracker, tmp_path, monkeypatch):
    for name in (tracker, f"{tracker}.summary"):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    with pytest.raises(ConfigError, match=rf"tracker={tracker}.*pip install 'dreaming\[{tracker}"):
        open_tracker(config(tracker), tmp_path)
    assert open_tracker(config("none"), tmp_path) is None


def test_a_wandb_that_cannot_start_says_how_to_go_on(fake_wandb, tmp_path):
    def init(**_):
        raise RuntimeError("no key\nwas found")

    sys.modules["wandb"].init = init  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="no key was found.*WANDB_MODE=offline"):
        open_tracker(config("wandb"), tmp_path)


def test_the_final_figures_are_flat_numbers():
    result = {
        "deployed_return": {"mean": 3},
        "candidate_return": None,
        "fidelity": {"skill_1": 0.5},
    }
    found = final_figures(result | {"verdict": "accept", "seed": 4})
    assert found == {"result/deployed_return": 3, "result/skill_1": 0.5, "result/accepted": 1}


def test_a_run_is_tracked_and_ends_the_same(fake_tensorboard, verb, tiny_fit, tmp_path):
    run_dir = tmp_path / "run"
    code, out, _ = verb("fit", "tracker=tensorboard", f"hydra.run.dir={run_dir}")
    assert code == 0 and "metrics also go to" in out
    names = {row[0] for row in fake_tensorboard if isinstance(row, tuple)}
    assert any(name.startswith("fit/") for name in names) and "closed" in fake_tensorboard
    sha256 = lambda path: json.loads((path / "result.json").read_text())["state_sha256"]
    assert sha256(run_dir) == sha256(tiny_fit)


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="needs the extra tensorboard")
def test_the_real_tensorboard_writes_event_files(tmp_path):
    a_run("tensorboard", tmp_path)
    assert list((tmp_path / "tensorboard").glob("events.out.*"))


@pytest.mark.skipif(find_spec("wandb") is None, reason="needs the extra wandb")
def test_the_real_wandb_works_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    a_run("wandb", tmp_path)
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))

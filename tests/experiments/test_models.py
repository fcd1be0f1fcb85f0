"""Models by name: built in, and from packages that are installed beside each other."""

import json
import os
import subprocess
import sys
from pathlib import Path

import gymnasium
import jax
import numpy as np
import pytest

from dreaming.errors import ConfigError
from dreaming.observe.collect import record
from dreaming.observe.log import Log
from dreaming.testing import check_world_model
from dreaming.world.fitting import check_name, facts_of
from envs.types import Features, action_features
from worldmodels.config import ModelConfig
from worldmodels.protocol import ModelSettings
from worldmodels.registry import make_model, model_names

PLUGINS = Path(__file__).parents[1] / "plugins"


@pytest.fixture
def installed(monkeypatch):
    """Both packages, as an installer leaves them: modules, and metadata beside them."""
    monkeypatch.syspath_prepend(PLUGINS)
    yield
    sys.modules.pop("linear_model", None)


def command(*argv):
    """The command line in a process of its own, in an environment that has both packages."""
    env = os.environ | {"PYTHONPATH": str(PLUGINS)}
    env.pop("HYDRA_FULL_ERROR", None)
    words = [sys.executable, "-m", "experiments", *map(str, argv)]
    return subprocess.run(words, env=env, capture_output=True, text=True)


@pytest.fixture
def fails(fails, tmp_path):
    """As everywhere, in a directory of its own."""
    return lambda *words, **kw: fails(*words, f"hydra.run.dir={tmp_path / 'run'}", **kw)


def test_a_model_of_another_package_dreams_from_the_command_line(tiny, tmp_path):
    words = [*tiny, "model.name=linear", "+model.options.slack=2", "devices=1"]
    words = [word for word in words if not word.startswith(("model.width", "model.latent"))]
    done = command("dream", *words, f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert "model linear of the package broken-model is broken (ModuleNotFoundError" in done.stderr
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["fidelity"] and result["verdict"] in ("accept", "reject")
    world = gymnasium.make("dreaming/Dream-v0", path=str(tmp_path / "run/world.dream"))
    o, _ = world.reset(seed=0)
    assert world.observation_space.contains(o)
    failed = command("dream", *tiny, "model.name=broken", f"hydra.run.dir={tmp_path / 'other'}")
    assert failed.returncode == 2 and len(failed.stderr.splitlines()) == 2  # a warning, an error
    told = failed.stderr.splitlines()[-1]
    assert "error: model broken of the package broken-model is broken" in told
    assert not (tmp_path / "other/traces").exists()  # nothing was recorded for nothing


def test_names_are_known_without_importing_anything(installed):
    assert {"broken", "counts", "efficientzero", "linear", "mlp"} <= set(model_names())
    assert "linear_model" not in sys.modules


def cartpole():
    task = gymnasium.make("CartPole-v1")
    spaces = Features(task.observation_space), action_features(task.action_space)
    return Log(list(record("CartPole-v1", "random", 60, 0)), *spaces)


def test_it_passes_what_every_model_is_put_through(installed, caplog):
    facts = facts_of(cartpole())
    model, scale = make_model(facts, ModelSettings(ModelConfig(name="linear")))
    assert "broken-model is broken" in caplog.text and type(model).__name__ == "Linear"
    params = model.init(jax.random.key(0), scale)
    check_world_model(model, params, np.concatenate(facts.o))


def test_a_name_that_does_not_exist_is_told_with_the_closest(fails):
    fails("dream", "model.name=cuonts", words=("model.name=cuonts", "did you mean 'counts'?"))
    with pytest.raises(ConfigError, match="known are .*efficientzero.*mlp"):
        check_name("zzz")


def test_a_method_that_is_missing_is_told_with_what_it_must_be(installed, fails):
    told = fails("dream", "env=cartpole", "model.name=handless", code=(2,))
    assert "model.name=handless: Handless lacks `heads`, which is heads(params) -> " in told
    assert '{"value": ..., "policy": ...}' in told


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("bare", "what makes it must return (model, scale)"),
        ("stumbling", "making it failed (KeyError: 'nothing')"),
        ("unhashable", "Unhashable cannot be hashed"),
        ("text", "linear_model:__doc__ is not a function"),
    ],
)
def test_a_plug_in_that_breaks_its_promises_is_told(installed, fails, name, told):
    assert told in fails("dream", "env=cartpole", f"model.name={name}", code=(2,))


def test_frames_are_not_for_mlp(fails):
    told = fails("dream", "env=catch", "env.real_steps=30", "model.name=mlp", code=(2,))
    assert "model.name=mlp learns vectors" in told


def test_counts_on_vectors_says_what_it_needs(fails):
    told = fails("dream", "env=cartpole", "model.name=counts", code=(2,))
    assert "model.name=counts needs one Discrete observation" in told
    assert "here are box observations" in told


def test_frames_are_needed_by_the_model_of_frames(fails):
    words = ("efficientzero learns frames, and the log's observations are box",)
    fails("dream", "env=cartpole", "model.name=efficientzero", words=words)

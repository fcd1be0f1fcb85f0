"""What a fit of large vectors costs is said before it begins."""

import re

import numpy as np
from gymnasium.spaces import Box, Discrete

from dreaming.observe.log import Log
from dreaming.world.physics import LearnedPhysics
from envs.types import Features, Trace, action_features
from experiments.runs import costs
from experiments.runs.costs import LARGE, cost_line, operations_per_second
from worldmodels.config import FitConfig, ModelConfig

SMALL = ModelConfig(latent=8, width=16, members=2)


def log_of(space) -> Log:
    """Ten episodes of nine steps."""
    space.seed(0)
    draw = lambda: Trace(
        np.stack([space.sample() for _ in range(10)]), np.arange(9) % 2, np.ones(9), False, True
    )
    traces = [draw() for _ in range(10)]
    return Log(traces, Features(space), action_features(Discrete(2)))


def test_the_line_has_the_size_of_an_observation_and_the_time_of_the_fit(monkeypatch):
    monkeypatch.setattr(costs, "operations_per_second", lambda: 1e6)
    log, physics = log_of(Discrete(2 * LARGE)), LearnedPhysics(SMALL, FitConfig(steps=500, batch=4))
    line = cost_line(log, physics)
    assert line is not None
    assert line.startswith("an observation is 20,000 numbers: a step of the fit takes about ")
    assert line.endswith("; model.name=counts counts such a log instead")
    [seconds] = map(float, re.findall(r"about ([\d.e+]+) s on", line))
    # At least: 4 windows are encoded, and each of two members decodes them, with a gradient.
    assert seconds > 4 * 3 * 2 * 2 * 2 * LARGE * 16 / 1e6
    twice = cost_line(log_of(Discrete(4 * LARGE)), physics)
    [more] = map(float, re.findall(r"about ([\d.e+]+) s on", twice or ""))
    assert 1.9 < more / seconds < 2.1


def test_other_logs_need_no_word():
    assert cost_line(log_of(Discrete(50)), LearnedPhysics(SMALL)) is None
    counted = LearnedPhysics(ModelConfig(name="counts"))
    assert cost_line(log_of(Discrete(LARGE)), counted) is None
    assert cost_line(log_of(Box(0, 255, (80, 80, 3), np.uint8)), LearnedPhysics()) is None


def test_the_rate_of_this_machine_is_measured():
    assert 1e8 < operations_per_second() < 1e16

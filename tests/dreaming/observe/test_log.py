"""What a log says of its own features."""

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete

from dreaming.observe.log import Log
from envs.types import Features, Trace, action_features


def log_of(space, observations):
    rows = observations["a"] if isinstance(observations, dict) else observations
    steps = len(rows) - 1
    trace = Trace(observations, np.zeros(steps, int), np.zeros(steps), False, True)
    return Log([trace], Features(space), action_features(Discrete(2)))


@pytest.mark.parametrize(
    ("columns", "parts"),
    [
        ([[0.5, 0.1], [0, 1]], (("box", 1), ("binary", 1))),
        ([[0, 1], [1, 0], [3, 2]], (("binary", 2), ("box", 1))),
        ([[0, 0], [1, 1], [0, 2]], (("box", 3),)),  # constants may take any other value
        ([[0, 1], [0.5, 1], [1, 0]], (("binary", 1), ("box", 1), ("binary", 1))),
    ],
)
def test_numbers_that_are_only_ever_0_or_1_are_bits(columns, parts):
    o = np.array(columns, np.float32).T
    log = log_of(Box(-9, 9, (len(columns),), np.float32), o)
    assert log.parts == parts
    expected = [kind == "box" for kind, size in parts for _ in range(size)]
    assert log.is_number.tolist() == expected


def test_categories_stay_whole():
    space = Dict({"a": Discrete(3), "b": Box(0, 1, (2,), np.float32)})
    o = {"a": np.array([0, 1]), "b": np.array([[0, 0.2], [1, 0.3]], np.float32)}
    assert log_of(space, o).parts == (("categorical", 3), ("binary", 1), ("box", 1))

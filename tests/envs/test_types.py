"""Traces say what is wrong with them; spaces survive JSON."""

import json

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from envs.types import (
    SpaceError,
    Trace,
    TraceError,
    UserError,
    space_from_json,
    space_to_json,
)


def a_trace(steps=3, **changes):
    """A terminated episode; `changes` replace its fields."""
    fields = {
        "observations": np.zeros((steps + 1, 2), np.float32),
        "actions": np.zeros(steps, int),
        "rewards": np.ones(steps),
        "terminated": True,
        "truncated": False,
    }
    fields |= changes
    positional = [fields.pop(name) for name in list(fields)[:5]]
    return Trace(*positional, **fields)


def test_a_scalar_flag_means_the_last_step():
    trace = a_trace()
    assert trace.terminated.tolist() == [False, False, True]
    assert trace.truncated.tolist() == [False, False, False]
    assert not trace.is_open and a_trace(terminated=False).is_open


def test_a_list_of_observations_is_rows():
    assert a_trace(observations=[[0, 1], [2, 3], [4, 5], [6, 7]]).observations.shape == (4, 2)


def test_nested_observations_are_kept():
    trace = a_trace(observations={"x": np.zeros((4, 2)), "y": (np.zeros(4, int), [1, 2, 3, 4])})
    assert trace.observations["x"].shape == (4, 2)
    assert trace.observations["y"][1].tolist() == [1, 2, 3, 4]


def test_nothing_need_be_legal_after_a_termination():
    masks = np.array([[1, 0], [1, 1], [0, 1], [0, 0]], bool)
    assert a_trace(action_masks=masks).action_masks is not None
    for ends in ({"terminated": False}, {"terminated": False, "truncated": True}):
        with pytest.raises(TraceError, match="mask at row 3 forbids every action"):
            a_trace(action_masks=masks, **ends)


def test_a_list_of_dicts_is_rows_of_a_dict():
    rows = [{"x": [t, 0], "inner": {"y": t}} for t in range(4)]
    trace = a_trace(observations=rows)
    assert trace.observations["x"].tolist() == [[0, 0], [1, 0], [2, 0], [3, 0]]
    assert trace.observations["inner"]["y"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"actions": np.zeros(0, int)}, "at least one step"),
        ({"actions": 1}, "one row per step"),
        ({"actions": ["left", "right", "left"]}, "expected numbers"),
        ({"actions": np.array([0.0, np.nan, 0.0])}, "action at step 1"),
        ({"rewards": np.zeros(2)}, r"rewards have shape \(2,\)"),
        ({"rewards": [0, np.inf, 0]}, "reward at step 1 is not finite"),
        ({"observations": np.zeros((3, 2))}, "expected 4 rows"),
        ({"observations": [[0, 1], [2, 3], [4, 5], [6]]}, "one shape"),
        ({"observations": np.full((4, 2), np.nan)}, "observation at step 0 is not finite"),
        ({"terminated": [True, False, False]}, "ends at step 0"),
        ({"truncated": True}, "both terminated and truncated"),
        ({"terminated": 0.5}, "true or false"),
        ({"terminated": [True]}, r"terminated has shape \(1,\)"),
        ({"propensities": [0.5, 0.0, 0.5]}, "propensity at step 1"),
        ({"propensities": [0.5, 0.5]}, r"propensities has shape \(2,\), expected \(3,\)"),
        ({"action_masks": np.ones((3, 2), bool)}, r"expected \(4, A\)"),
        ({"times": [0.0, 1.0, np.nan, 3.0]}, "times at step 2"),
        ({"propensities": [0.5, 1.0, 1.5]}, "propensity at step 2 is 1.5"),
        (
            {"action_masks": [[1, 0], [0, 1], [0, 0], [1, 1]]},
            "the action mask at row 2 forbids every action",
        ),
        (
            {"observations": [{"x": 0}, {"x": 1}, {"x": 2, "y": 0}, {"x": 3}]},
            "observation at row 2 has the keys x, y, at row 0 the keys x",
        ),
        ({"observations": [{"x": 0}, 1, 2, 3]}, "observation at row 1 has none"),
        (
            {"observations": [{"x": [0]}, {"x": [1]}, {"x": [1, 2]}, {"x": [3]}]},
            "observation.x: not rows of numbers of one shape",
        ),
        (
            {"observations": {"x": np.zeros(4), "y": np.zeros((3, 2))}},
            r"observation.y has shape \(3, 2\), expected 4 rows",
        ),
        (
            {"observations": {"x": (np.zeros(4), np.array([0, 0, np.inf, 0]))}},
            "observation.x.1 at step 2 is not finite",
        ),
    ],
)
def test_a_broken_trace_is_refused_in_one_line(changes, words):
    with pytest.raises(TraceError, match=words) as caught:
        a_trace(**changes)
    assert "\n" not in str(caught.value)


SPACES = [
    Discrete(5),
    Discrete(3, start=-1),
    Discrete(3, dtype=np.int32),
    Box(-1, 1, (2, 3), np.float32),
    Box(np.array([-np.inf, 0.1]), np.array([2.5, np.inf]), dtype=np.float64),
    Box(0, 255, (4, 4, 1), np.uint8),
    Box(-(2**63), 2**63 - 1, (), np.int64),
    Box(np.float32(-4.8), np.float32(0.41887903), (1,), np.float32),
    MultiBinary(3),
    MultiBinary([2, 3]),
    MultiDiscrete([3, 4]),
    MultiDiscrete(np.array([[2, 3], [4, 5]]), np.int32, start=np.array([[1, 0], [-1, 2]])),
    Dict(z=Box(0, 1, (2,)), a=Tuple([Discrete(2), Dict({"b.c": MultiBinary(1)})])),
    Tuple([Box(-np.inf, 1, ()), Discrete(2, start=3)]),
]


def leaves(space):
    """The spaces inside of a space."""
    if isinstance(space, Dict):
        return [leaf for key in sorted(space.spaces) for leaf in leaves(space[key])]
    return [leaf for x in space for leaf in leaves(x)] if isinstance(space, Tuple) else [space]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_spaces_survive_json(space):
    text = json.dumps(space_to_json(space), allow_nan=False)
    back = space_from_json(json.loads(text))
    assert back == space
    for one, other in zip(leaves(back), leaves(space), strict=True):
        assert one.dtype == other.dtype
        if isinstance(other, Box):
            assert one.low.tobytes() == other.low.tobytes()
            assert one.high.tobytes() == other.high.tobytes()


def test_constant_bounds_are_written_once():
    assert space_to_json(Box(0, 255, (84, 84), np.uint8))["high"] == 255


@pytest.mark.parametrize(
    "data",
    [
        None,
        {},
        {"type": "Text"},
        {"type": "Discrete", "n": 0, "start": 0, "dtype": "int64"},
        {"type": "Dict", "spaces": {"a": {"type": "Graph"}}},
        {"type": "Tuple", "spaces": None},
        {"type": "MultiDiscrete", "nvec": [2], "start": [0, 0], "dtype": "int64"},
    ],
)
def test_what_is_no_space_is_refused(data):
    with pytest.raises(SpaceError, match="does not describe"):
        space_from_json(data)


def test_every_failure_is_one_family():
    assert issubclass(TraceError, UserError) and issubclass(UserError, ValueError)

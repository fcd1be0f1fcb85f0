"""What rows mean: rewards, events, words, consent; and that every row is accounted for."""

import numpy as np
import pyarrow as pa
import pytest
from gymnasium.spaces import Discrete

from envs.types import TraceError

from .conftest import FORMATS

MAPPING = {"episode": "id", "observation": ["x"], "action": "a", "reward": "r"}
LOG = {
    "id": [1, 1, 1, 1],
    "x": [0.0, 1.0, 2.0, 3.0],
    "a": [0, 1, 0, None],
    "r": [1.0, 2.0, 3.0, None],
    "cost": [2.0, 4.0, 5.0, None],
    "net price": [10.0, 20.0, 30.0, None],
}


# --- rewards


@pytest.mark.parametrize(
    ("text", "rewards", "parts"),
    [
        ("r", [1, 2, 3], ("`r`",)),
        ("r - 2 * cost", [-3, -6, -7], ("r - 2 * cost",)),
        ("-(r + cost) / 4", [-0.75, -1.5, -2], ("-(r + cost) / 4",)),
        ("r + `net price` * 0.1 + -cost", [0, 0, 1], ("r", "`net price` * 0.1", "-cost")),
        ("net price", [10, 20, 30], ("`net price`",)),
    ],
)
def test_rewards_are_columns_or_arithmetic_and_keep_the_terms_of_a_sum(
    opened, text, rewards, parts
):
    source = opened(MAPPING | {"reward": text}, LOG)
    (trace,) = source
    assert trace.rewards.tolist() == rewards and source.reward_parts == parts


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("__import__('os').system('x')", "Call is not allowed"),
        ("r ** 9999999", "BinOp is not allowed"),
        ("r if r else cost", "IfExp is not allowed"),
        ("r.real", "Attribute is not allowed"),
        ("r +", "invalid syntax"),
        ("3 + 4", "names no column"),
        ("(" * 300 + "r" + ")" * 300, "neither a column nor arithmetic"),
        ("-" * 200 + "r", "nested deeper|neither"),
        ("r" * 2000, "expression of 2000 characters"),
        ("rr - cost", r"has no column rr \(did you mean r\?\).*arithmetic"),
    ],
)
def test_rewards_that_are_no_arithmetic_are_refused_and_never_run(opened, text, words):
    with pytest.raises(TraceError, match=words):
        opened(MAPPING | {"reward": text}, LOG).schema()


def test_a_division_by_zero_names_its_row(opened):
    log = LOG | {"cost": [1.0, 0.0, 1.0, 0.0]}  # the last row is no step
    with pytest.raises(TraceError, match="log.csv: row 0: .*reward at step 1 divides by zero"):
        list(opened(MAPPING | {"reward": "r / cost"}, log, "csv"))
    (trace,) = opened(MAPPING | {"reward": "r / cost"}, log | {"cost": [1.0, 4.0, 1.0, 0.0]})
    assert trace.rewards.tolist() == [1, 0.5, 3]


def outcome(trace):
    """A verifier: how far the episode came, or what is wrong with it."""
    came = float(trace.observations[-1, 0])
    if came > 5:
        raise RuntimeError("too far\nto be true")
    return came if came > 2 else "no number"


def test_a_verifier_pays_at_the_end_and_only_the_command_line_names_it(opened, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "checks", __import__("sys").modules[__name__])
    log = LOG | {"x2": LOG["x"]}
    mapping = {key: value for key, value in MAPPING.items() if key != "reward"}
    mapping |= {"observation": ["x", "x2"]}
    (trace,) = opened(mapping, log, verifier="checks:outcome")
    assert trace.rewards.tolist() == [0, 0, 3]
    (trace,) = opened(mapping | {"reward": "r"}, log, verifier="checks:outcome")
    assert trace.rewards.tolist() == [1, 2, 6]
    for x, words in (
        (9.0, "verifier raised RuntimeError: too far to be true"),
        (1.0, "'no number'"),
    ):
        with pytest.raises(TraceError, match=f"row 0: .*{words}"):
            list(opened(mapping, log | {"x": [0.0, 1.0, 2.0, x]}, verifier="checks:outcome"))
    for name, words in (
        ("checks", "package.module:function"),
        ("checks:none", "cannot be imported"),
    ):
        with pytest.raises(TraceError, match=words):
            opened(mapping, log, verifier=name)
    with pytest.raises(TraceError, match="mapping does not know verifier"):
        opened(mapping | {"verifier": "checks:outcome"}, log)


# --- events


def test_what_an_event_pays_and_ends_belongs_to_the_action_before_it(opened):
    log = {
        "id": [1] * 7,
        "x": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        "event": [True, False, True, False, False, True, True],
        "a": [None, 1, None, 0, 1, None, None],
        "r": [9.0, 1.0, 10.0, 2.0, 4.0, None, 20.0],
        "end": [False] * 6 + [True],
    }
    source = opened(MAPPING | {"event": "event", "terminated": "end"}, log)
    (trace,) = source
    assert trace.observations.tolist() == [1, 3, 4, 6]
    assert trace.actions.tolist() == [1, 0, 1]
    assert trace.rewards.tolist() == [11, 2, 24]
    assert trace.terminated.tolist() == [False, False, True]
    assert source.accounts.skipped == {
        "events before the first action": (
            1,
            f"{source.files[0].path}: row 0: the episode that starts here",
        )
    }
    assert (source.accounts.read, source.accounts.used) == (7, 6)


# --- words


@pytest.mark.parametrize("name", FORMATS)
def test_session_policy_review_and_time_come_with_the_episode(opened, name):
    log = LOG | {
        "who": ["s1"] * 4,
        "by": ["clerk"] * 4,
        "grade": [None, None, 4.5, None],
        "at": [10.0, 11.0, 13.0, 16.0],
    }
    mapping = MAPPING | {"session": "who", "policy": "by", "review": "grade", "time": "at"}
    (trace,) = opened(mapping, log, name)
    assert (trace.session, trace.policy, trace.review) == ("s1", "clerk", 4.5)
    assert trace.times is not None and trace.times.tolist() == [10, 11, 13, 16]
    with pytest.raises(TraceError, match="session is s1, then s2; an episode has one session"):
        list(opened(mapping, log | {"who": ["s1", "s1", "s2", "s2"]}, name))


def test_dates_are_seconds(opened):
    log = LOG | {"at": pa.array([0, 1500, 3000, 4500], pa.timestamp("ms"))}
    (trace,) = opened(MAPPING | {"time": "at"}, log)
    assert trace.times is not None and trace.times.tolist() == [0, 1.5, 3, 4.5]


# --- nothing vanishes


def many():
    """Five episodes of three rows: good, without consent, without action, broken, good."""
    log = {
        "id": np.repeat(np.arange(5), 3).tolist(),
        "x": np.arange(15.0).tolist(),
        "a": [0, 1, None] * 5,
        "r": [0.0, 1.0, None] * 5,
        "ok": [True] * 15,
    }
    log["ok"][4] = False
    log["a"][6:9] = [None] * 3
    log["r"][10] = None
    return log | {"x": [x + 0.5 for x in log["x"]]}


@pytest.mark.parametrize("name", FORMATS)
def test_used_and_skipped_rows_are_all_rows(opened, name):
    mapping = MAPPING | {"consent": "ok", "broken": "skip"}
    log = many()
    log["id"][14] = None  # the last observation of the last episode belongs to nobody
    source = opened(mapping | {"final": "repeat"}, log, name)
    seen = [trace.observations.tolist() for trace in source]
    assert seen == [[0.5, 1.5, 2.5], [12.5, 13.5, 13.5]]
    accounts = source.accounts
    at = lambda row: f"{source.files[0].path}: row {row}: the episode that starts here"
    lost = f"{source.files[0].path}: row 14: column id is empty, so the row is of no episode"
    assert accounts.skipped == {
        "no consent": (3, at(3)),
        "no action": (3, at(6)),
        "reward at step # is empty": (3, at(9)),
        "no episode id": (1, lost),
    }
    assert (accounts.read, accounts.used, accounts.episodes) == (15, 5, 2)
    assert accounts.balanced and accounts.to_json()["skipped"][0]["rows"] == 3
    assert "3 of 15 rows were left out: no consent (first: " in accounts.in_words()[1]


def test_without_leave_to_skip_the_first_broken_episode_is_refused(opened):
    with pytest.raises(TraceError, match="row 9: .*reward at step 1 is empty"):
        list(opened(MAPPING | {"consent": "ok"}, many()))


def test_inference_looks_at_all_rows_but_an_open_end_is_asked_for(opened):
    source = opened(MAPPING, {key: column[:3] for key, column in LOG.items()})
    assert source.schema()["observation_space"] == Discrete(3)
    with pytest.raises(TraceError, match="observation after the last action is missing"):
        list(source)

"""Agents' trajectories (ATIF): calls are actions, and what is seen is counted, not read."""

import copy
import json
from typing import Any

import numpy as np
import pytest

from envs.sources import open_source
from envs.sources.atif import ERROR, MESSAGE, NOTHING, OTHER, RESULT, USER
from envs.traces import TraceStore
from envs.types import TraceError, UserError
from experiments.config import SourceConfig
from experiments.logs.intake import Intake


def call(id, tool, **arguments):
    return {"tool_call_id": id, "function_name": tool, "arguments": arguments}


DOCUMENT: Any = {
    "schema_version": "ATIF-v1.8",
    "session_id": "run-7",
    "agent": {"name": "desk", "version": "1.0", "model_name": "m"},
    "steps": [
        {"step_id": 1, "source": "user", "message": "sort it"},
        {
            "step_id": 2,
            "source": "agent",
            "message": "",
            "tool_calls": [call("a", "list", path="/"), call("b", "move", to="left")],
            "observation": {
                "results": [
                    {"source_call_id": "b", "content": "no", "extra": {"is_error": True}},
                    {"source_call_id": "a", "content": "abcd"},
                ]
            },
        },
        {"step_id": 3, "source": "agent", "message": "which?", "metrics": {"extra": {"reward": 1}}},
        {"step_id": 4, "source": "user", "message": [{"type": "text", "text": "both"}]},
        {
            "step_id": 5,
            "source": "agent",
            "message": "",
            "tool_calls": [call("c", "move", to="right")],
        },
    ],
    "extra": {"reward": 2.5},
}


def write(path, **changes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(DOCUMENT | changes))
    return path


def test_a_trajectory_is_an_episode(tmp_path):
    source: Any = open_source("atif", str(write(tmp_path / "a.json")))
    assert source.names == ["(message)", "(other)", "list", "move"]
    (trace,) = source
    assert trace.actions.tolist() == [2, 3, MESSAGE, 3]
    assert trace.rewards.tolist() == [0, 0, 1, 2.5] and trace.terminated[-1]
    o = trace.observations
    assert o["event"].tolist() == [USER, RESULT, ERROR, USER, NOTHING]
    assert o["tool"].tolist() == [MESSAGE, 2, 3, MESSAGE, 3]
    counts = [[0, 0, 1], [1, 0, 1], [2, 1, 1], [2, 1, 2], [3, 1, 2]]
    assert o["counts"].tolist() == counts
    characters = np.array([[7, 7], [4, 11], [2, 13], [4, 17], [0, 17]])
    assert o["lengths"] == pytest.approx(np.log1p(characters))
    assert (trace.session, trace.policy) == ("run-7", "desk 1.0 m")
    store = TraceStore(tmp_path / "store", **source.schema())
    store.extend(source)
    store.verify()


def test_templates_choose_what_is_told_apart(tmp_path):
    file = str(write(tmp_path / "a.json"))
    source: Any = open_source("atif", file, templates=["move(to=left)", "move"])
    (trace,) = source
    assert trace.actions.tolist() == [OTHER, 2, MESSAGE, 3]
    assert source.names[2:] == ["move(to=left)", "move"]
    assert source.schema()["action_space"].n == 4
    with pytest.raises(TraceError, match=r"template 'move\(' : expected|template 'move\(': expect"):
        open_source("atif", file, templates=["move("])


def test_a_trajectory_that_goes_on_elsewhere_is_open_and_copies_do_not_count(tmp_path):
    steps = copy.deepcopy(DOCUMENT["steps"])
    steps[2]["is_copied_context"] = True
    write(tmp_path / "a.json", steps=steps, continued_trajectory_ref="b.json", session_id=None)
    (trace,) = open_source("atif", str(tmp_path))
    assert trace.is_open and trace.actions.tolist() == [2, 3, 3] and trace.session is None


def test_the_reward_is_where_it_is_said_to_be_or_asked_for(tmp_path):
    file = str(write(tmp_path / "a.json", final_metrics={"extra": {"score": 4}}))
    (trace,) = open_source("atif", file, reward="final_metrics.extra.score")
    assert trace.rewards.tolist() == [0, 0, 1, 4]
    with pytest.raises(TraceError, match="a.json: there is no reward at extra.score; name its pl"):
        list(open_source("atif", file, reward="extra.score"))
    (trace,) = open_source("atif", str(write(tmp_path / "a.json", extra=None)))
    assert trace.rewards.tolist() == [0, 0, 1, 0]
    steps = [step for step in DOCUMENT["steps"] if step["step_id"] < 3]
    with pytest.raises(TraceError, match="no reward at extra.reward nor at final_metrics"):
        list(open_source("atif", str(write(tmp_path / "a.json", extra=None, steps=steps))))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema_version": "ATIF-v2.0"}, "schema_version is 'ATIF-v2.0', expected ATIF-v1.8"),
        ({"steps": {}}, "needs agent and steps"),
        ({"steps": [1]}, "step 1: is no object"),
        ({"steps": [{"step_id": 2, "source": "user"}]}, "step 1: step_id is 2"),
        ({"steps": [{"step_id": 1, "source": "dog"}]}, "step 1: source is 'dog'"),
        ({"steps": [{"step_id": 1, "source": "user", "message": 3}]}, "step 1: has no text"),
        ({"steps": DOCUMENT["steps"][:1]}, "the agent did nothing"),
        (
            {"steps": [{"step_id": 1, "source": "agent", "tool_calls": [{"arguments": {}}]}]},
            "step 1: a tool call is malformed",
        ),
        (
            {"steps": [{"step_id": 1, "source": "agent", "observation": {"results": 3}}]},
            "step 1: observation has no list of results",
        ),
    ],
)
def test_what_is_no_trajectory_is_told_with_its_step(tmp_path, changes, words):
    with pytest.raises(TraceError, match=words) as caught:
        list(open_source("atif", str(write(tmp_path / "a.json", **changes))))
    assert "a.json" in str(caught.value) and "\n" not in str(caught.value)


def test_bad_files_are_told(tmp_path):
    with pytest.raises(TraceError, match="no such file"):
        open_source("atif", str(tmp_path / "none.json"))
    for text in ("{", "[" * 100_000, "[]", "\xff"):
        (tmp_path / "a.json").write_text(text, encoding="latin-1")
        with pytest.raises(TraceError, match="a.json: "):
            list(open_source("atif", str(tmp_path)))


def test_the_lone_result_of_a_lone_call_need_not_say_what_it_answers(tmp_path):
    answer = {"results": [{"content": "no such file", "is_error": True}]}
    step = {"step_id": 1, "source": "agent", "message": "", "observation": answer}
    for calls, event in (["a"], ERROR), (["a", "b"], NOTHING):
        steps = [step | {"tool_calls": [call(id, "list") for id in calls]}]
        (trace,) = open_source("atif", str(write(tmp_path / "a.json", steps=steps)))
        assert trace.observations["event"][-1] == event


def test_templates_are_a_list_and_folders_may_have_brackets(tmp_path):
    write(tmp_path / "run[1]" / "a.json")
    assert len(list(open_source("atif", str(tmp_path / "run[1]")))) == 1
    for wrong in ("list", 3):
        with pytest.raises(TraceError, match=f"templates is {wrong!r}, expected a list of texts"):
            open_source("atif", str(tmp_path), templates=wrong)


def test_files_that_arrive_are_taken_in_once(tmp_path):
    write(tmp_path / "logs" / "a.json")
    options: Any = {"templates": ["move", "list"]}

    def intake():
        uri = str(tmp_path / "logs")
        config = SourceConfig(name="atif", uri=uri, options=options)
        return Intake(open_source("atif", uri, **options), config, tmp_path / "store").once()

    assert (intake(), intake()) == (1, 0)
    write(tmp_path / "logs" / "day" / "b.json", session_id="run-8")
    assert (intake(), intake()) == (1, 0)
    assert [trace.session for trace in TraceStore(tmp_path / "store")] == ["run-7", "run-8"]
    write(tmp_path / "logs" / "a.json", session_id="other")
    with pytest.raises(TraceError, match="a.json: was changed after it was read"):
        intake()
    options = {}
    with pytest.raises(TraceError, match="may have other tools; give templates"):
        intake()


def fuzz(tmp_path, count):
    """Files of which a few bytes were changed: read, or refused in one line."""
    draw, ends = np.random.default_rng(0), set()
    whole = json.dumps(DOCUMENT).encode()
    file = tmp_path / "a.json"
    for _ in range(count):
        data = bytearray(whole)
        for _ in range(int(draw.integers(1, 4))):
            at = int(draw.integers(len(data)))
            data[at : at + int(draw.integers(0, 4))] = draw.choice([b"", b"1", b'"', b"{}", b"nul"])
        file.write_bytes(data)
        try:
            list(open_source("atif", str(file)))
            ends.add("read")
        except UserError as error:
            assert "\n" not in str(error)
            ends.add("refused")
    return ends


def test_damage_is_refused_or_harmless(tmp_path):
    assert fuzz(tmp_path, 300) == {"read", "refused"}


@pytest.mark.slow
def test_much_damage_is_refused_or_harmless(tmp_path):
    assert fuzz(tmp_path, 10_000) == {"read", "refused"}

"""Growing files of steps: every line is used, skipped with a reason, or waits; and once only."""

import json
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete

from envs.sources import open_source
from envs.sources.steps import StepsSource
from envs.types import TraceError, space_to_json


def step(id, number, **fields):
    """A line of a step: o = [10 * id + t, t]."""
    line = {"episode": f"e{id}", "observation": [10.0 * id + number, number]}
    line |= {"action": number % 2, "reward": number}
    return json.dumps(line | fields) + "\n"


def last(id, number, **fields):
    """The line that ends an episode."""
    line = {"episode": f"e{id}", "observation": [10.0 * id + number, number]}
    return json.dumps(line | fields) + "\n"


def episode(id, steps=3):
    """All lines of one."""
    lines = [step(id, t, **({"terminated": True} if t == steps - 1 else {})) for t in range(steps)]
    return "".join([*lines, last(id, steps)])


def starts(traces):
    """The first observation of each, which tells which one it is."""
    return [int(trace.observations[0, 0]) // 10 for trace in traces]


def drain(source, after=None):
    """Everything that is new, and the last token."""
    found = []
    for traces, token in source.batches(after):
        found, after = found + traces, token
    return found, after


def test_an_episode_is_what_its_lines_say(tmp_path):
    (tmp_path / "a.jsonl").write_text(episode(1))
    (trace,) = open_source("steps", str(tmp_path))
    assert trace.observations.tolist() == [[10, 0], [11, 1], [12, 2], [13, 3]]
    assert trace.actions.tolist() == [0, 1, 0] and trace.rewards.tolist() == [0, 1, 2]
    assert trace.terminated.tolist() == [False, False, True] and not trace.truncated.any()


def test_flags_fields_and_the_last_observation_may_stand_in_either_line(tmp_path):
    ways = {
        "in the last line": [step(1, 0), last(1, 1, truncated=True)],
        "in the step": [step(1, 0, truncated=True), last(1, 1)],
        "in one": [step(1, 0, truncated=True, next_observation=[11.0, 1])],
    }
    for name, lines in ways.items():
        (tmp_path / name).write_text("".join(lines))
        (trace,) = open_source("steps", str(tmp_path / name))
        assert trace.observations.tolist() == [[10, 0], [11, 1]] and trace.truncated[-1], name
    fields = {"propensity": 0.5, "action_mask": [1, 1], "time": 7.0, "session": "s", "policy": "p"}
    lines = [step(1, 0, **fields, t=0), last(1, 1, time=8.0, review=0.5, t=1)]
    (tmp_path / "fields").write_text("".join(lines))
    (trace,) = open_source("steps", str(tmp_path / "fields"))
    assert trace.propensities is not None and trace.propensities.tolist() == [0.5]
    assert trace.action_masks is not None and trace.action_masks.all()
    assert trace.times is not None and trace.times.tolist() == [7, 8]
    assert (trace.session, trace.policy, trace.review) == ("s", "p", 0.5)


def test_dicts_are_observations_and_spaces_can_be_given(tmp_path):
    line = lambda x, **more: json.dumps({"episode": 1, "observation": {"x": [x], "k": 2}} | more)
    file = tmp_path / "a.jsonl"
    file.write_text(f"{line(0.5, action=1, reward=0)}\n{line(1)}\n")
    (trace,) = source = open_source("steps", str(file))
    assert trace.observations["x"].tolist() == [[0.5], [1]]
    assert source.schema()["observation_space"] == Dict(
        x=Box(-np.inf, np.inf, (1,), np.float64), k=Discrete(3)
    )
    given = {"action_space": space_to_json(Discrete(9))}
    assert open_source("steps", str(file), **given).schema()["action_space"] == Discrete(9)


def test_an_unfinished_episode_is_open_when_all_is_read_and_waits_when_followed(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(episode(1) + step(2, 0) + step(2, 1) + step(3, 0))
    traces = list(open_source("steps", str(file)))
    assert starts(traces) == [1, 2] and traces[1].is_open and len(traces[1]) == 1
    source = StepsSource(str(file))
    found, token = drain(source)
    assert starts(found) == [1] and source.tally.waiting == 3
    assert drain(source, token) == ([], token)


@pytest.mark.parametrize("restart", [True, False])
def test_growing_files_give_each_episode_once_wherever_it_was_cut(tmp_path, restart):
    """Two files that grow by a few bytes at a time, with interleaved episodes and bad lines."""
    lines = [episode(i) for i in range(3)]
    mixed = [step(4, 0), step(5, 0), step(4, 1), last(5, 1), step(6, 0), last(4, 2), last(6, 1)]
    bad = ["nonsense\n", step(7, 0), "{\n", last(7, 1), '{"episode": 8}\n', episode(9)]
    texts = {"a.jsonl": "".join([*lines, *mixed]), "b.jsonl": "".join([*bad, step(10, 0)])}
    once = StepsSource(str(tmp_path))
    draw, found, token, source = np.random.default_rng(0), [], None, None
    written = dict.fromkeys(texts, 0)
    while any(written[name] < len(text) for name, text in texts.items()):
        for name, text in texts.items():
            upto = written[name] + int(draw.integers(120))
            with open(tmp_path / name, "a") as file:
                file.write(text[written[name] : upto])
            written[name] = min(upto, len(text))
        source = StepsSource(str(tmp_path)) if restart or source is None else source
        new, token = drain(source, token)
        found += new
    assert sorted(starts(found)) == [0, 1, 2, 4, 5, 6, 9]
    assert source is not None
    expected, _ = drain(once)
    assert sorted(starts(expected)) == sorted(starts(found))
    assert vars(source.tally) == vars(once.tally)
    tally = source.tally
    assert tally.lines == sum(text.count("\n") for text in texts.values())
    assert tally.waiting == 1 and tally.used == 12 + 7 + 4
    reasons = {reason: count for reason, (count, _) in tally.skipped.items()}
    assert reasons == {
        "a line is not JSON": 2,
        "its episode is not used: a line in its midst cannot be read": 2,
        "its episode is not used: a line has no observation": 1,
    }


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([step(1, 0), step(1, 1, t=2), last(1, 2)], "step 1 is missing, or comes twice"),
        ([step(1, 0, rewrad=1), last(1, 1)], "a line has the unknown key 'rewrad'"),
        ([step(1, 0, reward=None), last(1, 1)], "a line has no reward"),
        ([step(1, 0, terminated=True), step(1, 1), last(1, 2)], "it goes on after its end"),
        ([last(1, 0)], "it has no step"),
        ([step(1, 0, terminated="false"), last(1, 1)], "terminated is 'false', expected true or"),
        ([step(1, 0), last(1, 1, truncated=2)], "truncated is '2', expected true or false"),
        ([step(1, 0, reward=float("nan")), last(1, 1)], "reward at step 0 is not finite"),
        ([step(1, 0, observation=[1]), last(1, 1)], "its values are no numbers of one shape"),
        ([step(1, 0, action="left"), last(1, 1)], "actions: rows of"),
        ([step(1, 0, propensity=2), last(1, 1)], "propensity at step 0 is 2.0"),
        ([step(1, 0, propensity=0.5), step(1, 1), last(1, 2)], "propensities"),
        ([step(1, 0, action_mask=[1, 1]), step(1, 1), last(1, 2)], "action_masks"),
        ([step(1, 0, observation={"x": 1}), last(1, 1)], "its observations have different keys"),
        ([step(1, 0, reward=[]), last(1, 1)], "rewards"),
    ],
)
def test_a_bad_episode_is_left_out_whole_and_counted(tmp_path, lines, reason):
    file = tmp_path / "a.jsonl"
    file.write_text(episode(2) + "".join(lines) + episode(3))
    source = StepsSource(str(file))
    found, _ = drain(source)
    assert starts(found) == [2, 3] and source.tally.used == 8 and source.tally.waiting == 0
    ((text, (count, where)),) = source.tally.skipped.items()
    assert reason in text and count == len(lines) and f"{file}: line " in where, text


def test_long_lines_are_skipped_without_being_held(tmp_path, monkeypatch):
    monkeypatch.setattr("envs.sources.tail.LINE_BYTES", 500)
    file = tmp_path / "a.jsonl"
    file.write_text(episode(1) + json.dumps({"episode": "x" * 3000}) + "\n" + episode(2))
    source = StepsSource(str(file))
    assert starts(drain(source)[0]) == [1, 2]
    assert source.tally.skipped == {"a line is too long": [1, f"{file}: line 5"]}


def test_a_file_that_was_replaced_or_cut_is_told(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(episode(1) + episode(2))
    _, token = drain(StepsSource(str(file)))
    file.write_text(episode(1))
    with pytest.raises(TraceError, match="a.jsonl: has .* bytes, but .* were read before"):
        drain(StepsSource(str(file)), token)
    file.write_text(episode(3) + episode(4) + episode(5))
    with pytest.raises(TraceError, match="a.jsonl: is another file than the one that was read"):
        drain(StepsSource(str(file)), token)


def test_lists_of_episodes_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("envs.sources.steps.BATCH_LINES", 7)
    (tmp_path / "a.jsonl").write_text("".join(episode(i) for i in range(10)))
    batches = list(StepsSource(str(tmp_path)).batches())
    assert [len(traces) for traces, _ in batches] == [3, 3, 3, 1]
    first, _ = batches[0]
    rest, _ = drain(StepsSource(str(tmp_path)), batches[0][1])
    assert starts(first + rest) == list(range(10))


def test_reading_all_counts_its_lines(tmp_path):
    (tmp_path / "a.jsonl").write_text(episode(1) + "nonsense\n" + episode(2))
    source = StepsSource(str(tmp_path))
    for _ in range(2):
        assert starts(source) == [1, 2]
        assert (source.tally.lines, source.tally.used, source.tally.waiting) == (9, 8, 0)
    assert starts(drain(source)[0]) == [1, 2] and source.tally.lines == 9


@pytest.mark.parametrize("restart", [True, False])
def test_an_abandoned_episode_does_not_make_the_token_grow(tmp_path, monkeypatch, restart):
    monkeypatch.setattr("envs.sources.steps.KNOWN_EPISODES", 5)
    file, source, found = tmp_path / "a.jsonl", StepsSource(str(tmp_path)), []
    token: Any = None
    file.write_text(step(90, 0) + step(91, 0))
    for number in range(30):
        with open(file, "a") as log:
            log.write(episode(number) + (step(90, 1) if number == 20 else ""))
        source = StepsSource(str(tmp_path)) if restart else source
        new, token = drain(source, token)
        found += new
        (saved,) = token["files"].values()
        assert len(saved["done"]) <= 5
    with open(file, "a") as log:
        log.write(last(90, 2))
    assert drain(source, token)[0] == [] and starts(found) == list(range(30))
    ((reason, (count, _)),) = source.tally.skipped.items()
    assert "it did not end while" in reason and count == 4 and source.tally.waiting == 0


def mutated(draw, text: str) -> bytes:
    """A text with a few bytes changed, cut out, or doubled."""
    data = bytearray(text.encode())
    for _ in range(int(draw.integers(1, 4))):
        at, length = int(draw.integers(len(data))), int(draw.integers(1, 30))
        kind = draw.integers(3)
        if kind == 0:
            data[at] = int(draw.integers(256))
        elif kind == 1:
            del data[at : at + length]
        else:
            data[at:at] = data[at : at + length]
    return bytes(data)


def fuzz(tmp_path, count):
    draw, used = np.random.default_rng(0), 0
    text = episode(1) + step(2, 0) + step(3, 0, propensity=0.5) + last(2, 1) + last(3, 1)
    file = tmp_path / "a.jsonl"
    for _ in range(count):
        file.write_bytes(mutated(draw, text))
        source: Any = StepsSource(str(file))
        found, _ = drain(source)
        tally = source.tally
        assert tally.waiting >= 0 and tally.lines == file.read_bytes().count(b"\n")
        assert tally.used >= sum(len(trace) for trace in found)
        used += len(found)
    return used


def test_whatever_a_file_holds_is_used_or_counted(tmp_path):
    assert 300 < fuzz(tmp_path, 300) < 900


@pytest.mark.slow
def test_much_of_whatever_a_file_holds_is_used_or_counted(tmp_path):
    fuzz(tmp_path, 10_000)

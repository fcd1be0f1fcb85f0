"""What could be misread without a word: it is read as it is meant, or refused in one line."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from envs.sources import open_source
from envs.sources.names import Numbering
from envs.types import TraceError

from .conftest import FORMATS, write_table

MAPPING = {"episode": "id", "observation": ["x"], "action": "a", "reward": "r"}
BIG = 2**53  # from here on floats miss whole numbers


# --- which rows are of one episode, and in which order


@pytest.mark.parametrize("name", FORMATS)
def test_an_id_used_twice_is_refused_where_the_order_shows_it(opened, name):
    log = {"id": [1, 1, 2, 2, 1, 1], "t": [0, 1] * 3, "x": [0.5, 1.5, 9.5, 9, 100.5, 101.5]}
    log |= {"a": [0, 1, 0, 0, 0, 1], "r": [1.0, 1, 0, 0, 5, 5]}
    mapping = MAPPING | {"order": "t", "final": "repeat"}
    with pytest.raises(TraceError, match="rows 0 and 4 have the same t; give each row"):
        list(opened(mapping, log, name))
    source = opened(mapping | {"broken": "skip"}, log, name)
    assert [trace.observations.tolist() for trace in source] == [[9.5, 9, 9]]
    assert source.accounts.balanced and list(source.accounts.skipped) == [
        "rows # and # have the same t; give each row of an episode another order, and each "
        "episode another id"
    ]


@pytest.mark.parametrize("name", FORMATS)
def test_an_order_beyond_what_floats_tell_apart_sorts(opened, name):
    places = [3, 1, 2, 0]
    log = {"id": [1] * 4, "t": [BIG + t for t in places], "x": [t + 0.5 for t in places]}
    log |= {"a": [t % 2 for t in places], "r": [float(t) for t in places]}
    assert len({float(t) for t in log["t"]}) < 4, "floats tie"
    (trace,) = opened(MAPPING | {"order": "t", "final": "repeat"}, log, name)
    assert trace.rewards.tolist() == [0, 1, 2, 3]


def test_times_that_sort_keep_their_own_unit(tmp_path):
    now = 1_700_000_000_000_000_000
    log = {"id": [1, 1], "t": pa.array([now + 1, now], pa.timestamp("ns")), "x": [1.5, 0.5]}
    log |= {"a": [None, 1], "r": [None, 1.0]}
    mapping = MAPPING | {"order": "t", "episode_ids": "whole"}
    write_table(tmp_path / "1.parquet", log)
    (trace,) = open_source("parquet", str(tmp_path), mapping=mapping)
    assert trace.observations.tolist() == [0.5, 1.5]
    write_table(tmp_path / "2.parquet", log | {"t": pa.array([1, 0], pa.timestamp("s"))})
    with pytest.raises(TraceError, match=r"2.parquet: column t holds .*ms., but .*ns. before"):
        list(open_source("parquet", str(tmp_path), mapping=mapping))


def test_values_of_a_dictionary_that_no_row_has_are_of_no_episode(tmp_path):
    ids = pa.array(["a", "a", "b", "b"]).dictionary_encode()
    whole = pa.table({"id": ids, "x": [0.5, 1.5, 2.5, 3.5], "a": [0, 1, 0, 1], "r": [1.0] * 4})
    for number in range(2):
        path = write_table(tmp_path / f"{number}.parquet", whole.slice(2 * number, 2))
    held = pq.ParquetFile(path, read_dictionary=["id"]).read().column("id").chunk(0).dictionary
    assert held.to_pylist() == ["a", "b"], "the file has values that no row has"
    mapping = MAPPING | {"final": "repeat", "session": "id"}
    found = list(open_source("parquet", str(tmp_path), mapping=mapping))
    assert [trace.session for trace in found] == ["a", "b"]


def test_episodes_are_numbered_as_they_come_whatever_the_dictionary_says():
    codes = pa.array([1, 1, 0, 0, None, 3], pa.int32())
    column = pa.DictionaryArray.from_arrays(codes, pa.array(["a", "b", "c", "d"]))
    number = Numbering()
    assert number(pa.chunked_array([column])).tolist() == [0, 0, 1, 1, -1, 2]
    assert number.names == ["b", "a", "d"]


def test_nested_ids_beyond_what_floats_tell_apart_are_two_episodes(tmp_path):
    ids = [BIG, BIG, BIG + 1, BIG + 1]
    assert len({*map(float, ids)}) == 1, "floats tie"
    rows = [{"meta": {"id": id, "by": id}, "x": i + 0.5, "a": i % 2, "r": 1} for i, id in
            enumerate(ids)]  # fmt: skip
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    mapping = MAPPING | {"episode": "meta.id", "session": "meta.by", "final": "repeat"}
    found = list(open_source("jsonl", str(path), mapping=mapping))
    assert [trace.session for trace in found] == [str(BIG), str(BIG + 1)]
    assert [len(trace) for trace in found] == [2, 2]


# --- rows without an action


def closed(**closing):
    """Two steps, and a last row without action that holds what is given."""
    log = {"id": [1] * 3, "x": [0.5, 1.5, 2.5], "a": [0, 1, None], "r": [1.0, 2.0, None]}
    log |= {"end": [False, False, None], "cut": [False, False, None]}
    return log | {key: [*log[key][:2], value] for key, value in closing.items()}


@pytest.mark.parametrize("name", FORMATS)
def test_an_end_in_the_last_row_ends_the_last_step(opened, name):
    mapping = MAPPING | {"terminated": "end", "truncated": "cut"}
    for closing, ended, cut in (
        ({"end": True}, True, False),
        ({"cut": True}, False, True),
        ({"end": True, "cut": True}, True, False),
        ({}, False, False),
    ):
        (trace,) = opened(mapping, closed(**closing), name)
        assert trace.terminated.tolist() == [False, ended]
        assert trace.truncated.tolist() == [False, cut]


@pytest.mark.parametrize("name", FORMATS)
def test_a_reward_or_no_flag_in_the_last_row_is_refused(opened, name):
    for paid in (10.0, -0.5):
        with pytest.raises(TraceError, match=f"reward {paid:g} in the last row.* mark an event"):
            list(opened(MAPPING, closed(r=paid), name))
    (trace,) = opened(MAPPING, closed(r=0.0), name)
    assert trace.rewards.tolist() == [1, 2]
    (trace,) = opened(MAPPING | {"reward": "r - x"}, closed(), name)  # x is seen in the last row
    assert trace.rewards.tolist() == [0.5, 0.5]
    words = closed(end="closed") | {"end": ["false", "false", "closed"]}
    with pytest.raises(TraceError, match="terminated at step 2 is no flag"):
        list(opened(MAPPING | {"terminated": "end"}, words, name))


HAPPENED = {
    "id": [1] * 4,
    "x": [0.5, 1.5, 2.5, 3.5],
    "a": [None, 0, None, 1],
    "r": [None, 1.0, 4.0, 1.0],
    "end": ["no", "no", "no", "yes"],
    "event": [True, False, True, False],
}
EVENTS = MAPPING | {"event": "event", "terminated": "end", "final": "repeat"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"end": ["no", "no", "closed", "yes"]}, "terminated at step 0 is no flag"),
        ({"a": [None, 0, 1, 1]}, "row 2 is an event and has an action, expected one"),
        ({"event": [False, False, True, False]}, "row 0 before the first action is no event"),
    ],
)
def test_what_is_wrong_with_an_event_is_told(opened, change, words):
    (trace,) = opened(EVENTS, HAPPENED)
    assert trace.rewards.tolist() == [5, 1] and trace.terminated.tolist() == [False, True]
    with pytest.raises(TraceError, match=words):
        list(opened(EVENTS, HAPPENED | change))


@pytest.mark.parametrize("name", FORMATS)
def test_a_row_has_no_action_only_if_all_its_columns_are_empty(opened, name):
    log = {"id": [1] * 3, "x": [0.5, 1.5, 2.5], "a": [0.5, 1.5, None], "b": [1.0, 1.0, None]}
    log |= {"r": [1.0, 2.0, None]}
    mapping = MAPPING | {"action": ["a", "b"]}
    (trace,) = opened(mapping, log, name)
    assert trace.actions.tolist() == [[0.5, 1], [1.5, 1]]
    for change in ({"b": [1.0, 1.0, 7.0]}, {"a": [0.5, 1.5, 7.0]}):
        with pytest.raises(TraceError, match="action at step 2 is empty"):
            list(opened(mapping, log | change | {"r": [1.0, 2.0, 10.0]}, name))
    with pytest.raises(TraceError, match="action at step 1 is empty"):
        list(opened(mapping, log | {"b": [1.0, None, None]}, name))


# --- what is seen after an action

PAIRS = MAPPING | {"next_observation": ["y"]}


@pytest.mark.parametrize("name", FORMATS)
def test_a_next_observation_that_the_next_row_does_not_begin_with_is_refused(opened, name):
    log = {
        "id": [1] * 3,
        "x": [0.5, 1.5, 2.5],
        "y": [1.5, 2.5, 3.5],
        "a": [0, 1, 0],
        "r": [1.0] * 3,
    }
    (trace,) = opened(PAIRS, log, name)
    assert trace.observations.tolist() == [0.5, 1.5, 2.5, 3.5]
    lacks = {key: [column[0], column[2]] for key, column in log.items()}
    words = "row 0: .*: row 1 does not begin with the next_observation of row 0; add the rows"
    with pytest.raises(TraceError, match=words):
        list(opened(PAIRS, lacks, name))
    (trace,) = opened(PAIRS, {key: column[2:] for key, column in log.items()}, name)
    assert trace.observations.tolist() == [2.5, 3.5]
    (trace,) = opened(PAIRS, log | {"y": [None, None, 3.5]}, name)  # told where it is needed
    assert trace.observations.tolist() == [0.5, 1.5, 2.5, 3.5]


def test_an_event_may_change_what_was_seen_after_an_action(opened):
    log = {"id": [1] * 3, "x": [0.5, 9.5, 9.5], "y": [1.5, None, 3.5], "a": [0, None, 1]}
    log |= {"r": [1.0, 4.0, 1.0], "event": [False, True, False]}
    (trace,) = opened(PAIRS | {"event": "event"}, log)
    assert trace.observations.tolist() == [0.5, 9.5, 3.5]


def test_an_empty_category_of_what_comes_next_is_not_compared(opened):
    log = {"id": [1] * 3, "x": ["a", "b", "a"], "y": [None, "a", "b"], "a": [0, 1, 0]}
    mapping = PAIRS | {"types": {"x": "category", "y": "category"}}
    mapping |= {"categories": {"x": ["a", "b"], "y": ["a", "b"]}}
    (trace,) = opened(mapping, log | {"r": [1.0] * 3})
    assert trace.observations.tolist() == [0, 1, 0, 1]
    with pytest.raises(TraceError, match="row 1 does not begin with the next_observation"):
        list(opened(mapping, log | {"r": [1.0] * 3, "y": ["a", "a", "b"]}))


# --- numbers that floats do not hold


@pytest.mark.parametrize("name", FORMATS)
def test_whole_numbers_that_were_rounded_are_told(opened, name):
    log = {"id": [BIG + 1] * 3, "x": [BIG + 1, 1 - BIG, -BIG - 1], "y": [0.5, 1e300, 2.5]}
    log |= {"a": [0, 1, None], "r": [1.0, 2.0, None]}
    assert float(BIG + 1) != BIG + 1, "floats miss it"
    source = opened(MAPPING | {"observation": ["x", "y"]}, log, name)
    assert len(list(source)) == 1
    what = "2 cells of column x are whole numbers of 2^53 or more, rounded to the nearest float64"
    assert source.accounts.in_words() == ([] if name == "parquet" else [what])

"""What could be misread without a word: it is read as it is meant, or refused in one line."""

import json

import pyarrow as pa
import pytest

from envs.sources import open_source
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
    with pytest.raises(
        TraceError, match=r"2.parquet: column t holds .*ms., but .*ns. before"
    ):
        list(open_source("parquet", str(tmp_path), mapping=mapping))


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

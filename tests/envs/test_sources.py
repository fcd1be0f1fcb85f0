"""Sources: found by name without importing, broken plugins reported, flat files read exactly."""

import logging
import sys
from importlib.metadata import EntryPoint

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete

import envs.sources
from envs.sources import Source, list_sources, open_source
from envs.traces import TraceStore
from envs.types import Trace, TraceError, space_to_json

MAPPING = {"episode": "id", "observation": ["x", "v"], "action": "a", "reward": "r"}


class OneTrace:
    """A plugged-in source: one episode whose reward is an option."""

    def __init__(self, uri: str, r: float = 0.0):
        self.trace = Trace(np.zeros((2, 1)), np.zeros(1, int), np.array([r]), True, False)

    def __iter__(self):
        yield self.trace

    def schema(self):
        return {"observation_space": Box(-1, 1, (1,)), "action_space": Discrete(1)}


def plug_in(monkeypatch, **values):
    """Pretend that packages `<name>-dist` are installed with these entry points."""
    monkeypatch.setitem(sys.modules, "plugged", sys.modules[__name__])

    def entry_points(*, group, name=None):
        assert group == "dreaming.sources"
        found = [EntryPoint(key, value, group) for key, value in values.items()]
        for entry in found:
            vars(entry)["dist"] = type("Distribution", (), {"name": f"{entry.name}-dist"})()
        return [entry for entry in found if name in (None, entry.name)]

    monkeypatch.setattr(envs.sources, "entry_points", entry_points)


def write(path, **columns):
    pq.write_table(pa.table(columns), path, write_page_checksum=True)


@pytest.fixture
def logs(tmp_path):
    """Two episodes over two files: three steps cut by a file end, and one open step."""
    write(tmp_path / "1.parquet", id=[7, 7], x=[0.0, 1.0], v=[0.5, 1.5], a=[1, 0], r=[0.0, 1.0])
    write(
        tmp_path / "2.parquet",
        id=[7, 7, 3, 3],
        x=[2.0, 3.0, 9.0, 8.0],
        v=[2.5, 3.5, 9.5, 8.5],
        a=pa.array([2, None, 1, None]),
        r=pa.array([2.0, None, 5.0, None]),
    )
    return str(tmp_path / "*.parquet")


# --- registry


def test_names_are_listed_without_importing(monkeypatch):
    plug_in(monkeypatch, mine="module_that_does_not_exist:Source")
    assert {"mine", "minari", "parquet", "store"} <= set(list_sources())


def test_a_plugged_in_source_opens_with_its_options(monkeypatch):
    plug_in(monkeypatch, mine="plugged:OneTrace")
    source = open_source("mine", "anything", r=2.0)
    assert isinstance(source, Source)
    assert [trace.rewards.tolist() for trace in source] == [[2.0]]
    with pytest.raises(TraceError, match="mine does not take these options.*'rr'"):
        open_source("mine", "anything", rr=2.0)


def test_a_broken_plugin_is_reported_by_its_distribution_and_skipped(monkeypatch, caplog):
    plug_in(monkeypatch, bad="module_that_does_not_exist:Source", mine="plugged:OneTrace")
    with caplog.at_level(logging.WARNING), pytest.raises(TraceError, match="bad-dist.*No module"):
        open_source("bad", "")
    assert "bad-dist" in caplog.text and "skipped" in caplog.text
    assert len(list(open_source("mine", ""))) == 1


def test_unknown_names_and_what_is_no_source_are_refused(monkeypatch):
    plug_in(monkeypatch, number="builtins:str")
    with pytest.raises(TraceError, match="'nope' is unknown; known are .*number, parquet.* store"):
        open_source("nope", "")
    with pytest.raises(TraceError, match="without __iter__ or schema"):
        open_source("number", "")


def test_a_store_is_a_source_unless_it_is_empty(tmp_path):
    with pytest.raises(TraceError, match="does not exist"):
        open_source("store", str(tmp_path / "none"))
    store = TraceStore(tmp_path)
    store.extend([])
    with pytest.raises(TraceError, match="is an empty store"):
        open_source("store", str(tmp_path))
    store.append(OneTrace("").trace)
    source = open_source("store", str(tmp_path))
    assert len(list(source)) == 1 and source.schema() == store.schema()


# --- flat parquet files


def test_episodes_come_out_in_order_over_file_ends(logs):
    source = open_source("parquet", logs, mapping=MAPPING | {"episode_ids": "whole"})
    first, second = source
    assert first.observations.tolist() == [[0, 0.5], [1, 1.5], [2, 2.5], [3, 3.5]]
    assert first.actions.tolist() == [1, 0, 2] and first.rewards.tolist() == [0, 1, 2]
    assert first.is_open and first.propensities is None
    assert second.observations.tolist() == [[9, 9.5], [8, 8.5]]
    assert len(list(source)) == 2, "iterating again starts over"
    assert source.schema() == {
        "observation_space": Box(-np.inf, np.inf, (2,), np.float64),
        "action_space": Discrete(3),
    }


def test_a_store_accepts_what_a_source_gives(logs, tmp_path):
    source = open_source("parquet", logs, mapping=MAPPING | {"episode_ids": "whole"})
    spaces = source.schema()
    store = TraceStore(
        tmp_path / "store",
        observation_space=spaces["observation_space"],
        action_space=spaces["action_space"],
    )
    store.extend(source)
    store.verify()
    assert [trace.actions.tolist() for trace in store] == [[1, 0, 2], [1]]


def test_pieces_are_bounded_but_episodes_whole(tmp_path, monkeypatch):
    """One episode longer than a batch of rows."""
    steps = 40_000
    a = pa.array([*([1] * steps), None])
    write(tmp_path / "x.parquet", id=[0] * (steps + 1), x=np.arange(steps + 1.0), a=a, r=a)
    (trace,) = open_source(
        "parquet", str(tmp_path / "x.parquet"), mapping=MAPPING | {"observation": "x"}
    )
    assert len(trace) == steps and (trace.observations == np.arange(steps + 1)).all()


def test_the_mapping_can_be_yaml_with_spaces_and_flags(tmp_path):
    write(
        tmp_path / "x.parquet",
        e=["a", "a", "b"],
        o=[[0, 1], [2, 3], [4, 5]],
        n=[[2, 3], [4, 5], [6, 7]],
        a=[True, False, True],
        r=[0, 1, 2],
        d=[0, 1, 0],
        t=[False, True, True],
        p=[0.5, 1.0, 0.25],
    )
    space = space_to_json(Box(0, 9, (2,), np.int64))
    (tmp_path / "mapping.yaml").write_text(
        "{episode: e, observation: o, next_observation: n, action: a, reward: r,\n"
        f" terminated: d, truncated: t, propensity: p, observation_space: {space}}}\n"
    )
    source = open_source(
        "parquet", str(tmp_path / "x.parquet"), mapping=str(tmp_path / "mapping.yaml")
    )
    first, second = source
    assert first.observations.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert first.actions.tolist() == [1, 0]
    assert first.propensities is not None and first.propensities.tolist() == [0.5, 1.0]
    assert first.terminated.tolist() == [False, True] and not first.truncated.any()
    assert second.truncated.tolist() == [True]
    assert source.schema() == {
        "observation_space": Box(0, 9, (2,), np.int64),
        "action_space": Discrete(2),
    }


@pytest.mark.parametrize("ending", ["row", "next", "repeat"])
def test_dicts_and_masks_and_factored_actions_come_from_their_columns(tmp_path, ending):
    path, cells = (
        str(tmp_path / "x.parquet"),
        lambda x, end: [*x, *([end] if ending == "row" else [])],
    )
    write(
        path,
        id=cells([0, 0], 0),
        x=cells([0.0, 1.0], 2.0),
        y=cells([5.0, 6.0], 7.0),
        k=cells([2, 0], 1),
        nx=cells([1.0, 2.0], None),
        ny=cells([6.0, 7.0], None),
        nk=cells([0, 1], None),
        a=cells([1, 0], None),
        b=cells([0, 2], None),
        m=cells([[1, 1, 1, 0, 1], [1, 0, 1, 1, 1]], None),
        r=cells([0.0, 1.0], None),
    )
    mapping = {
        "episode": "id",
        "observation": {"at": ["x", "y"], "deep": {"key": "k"}},
        "action": ["a", "b"],
        "action_mask": "m",
        "reward": "r",
    }
    if ending == "next":
        mapping["next_observation"] = {"at": ["nx", "ny"], "deep": {"key": "nk"}}
    if ending == "repeat":
        mapping["final"] = "repeat"
    source = open_source("parquet", path, mapping=mapping)
    (trace,) = source
    last = {"at": [1.0, 6.0], "key": 0} if ending == "repeat" else {"at": [2.0, 7.0], "key": 1}
    assert trace.observations["at"].tolist() == [[0, 5], [1, 6], last["at"]]
    assert trace.observations["deep"]["key"].tolist() == [2, 0, last["key"]]
    assert trace.actions.tolist() == [[1, 0], [0, 2]]
    assert trace.action_masks is not None
    assert trace.action_masks.tolist() == [[1, 1, 1, 0, 1], [1, 0, 1, 1, 1], [1] * 5]
    at = Box(-np.inf, np.inf, (2,), np.float64)
    observation = Dict(at=at, deep=Dict(key=Discrete(3)))
    expected = {"observation_space": observation, "action_space": MultiDiscrete([2, 3])}
    assert source.schema() == expected
    store = TraceStore(tmp_path / "store")
    store.extend(source)
    store.verify()


def test_a_missing_last_observation_is_asked_for(tmp_path):
    path = str(tmp_path / "x.parquet")
    write(path, id=[0, 0], x=[1.0, 2.0], v=[0.0, 0.0], a=[0, 1], r=[0.0, 0.0])
    with pytest.raises(TraceError, match="row 0: .*observation after the last action is missing"):
        list(open_source("parquet", path, mapping=MAPPING))
    (trace,) = open_source("parquet", path, mapping=MAPPING | {"final": "repeat"})
    assert trace.observations[:, 0].tolist() == [1, 2, 2]


def test_nan_in_place_of_the_empty_action_ends_an_episode(tmp_path):
    path = str(tmp_path / "x.parquet")
    write(path, id=[0, 0], x=[1.0, 2.0], v=[0.0, 0.0], a=[1.0, np.nan], r=[1.0, np.nan])
    (trace,) = open_source("parquet", path, mapping=MAPPING)
    assert trace.actions.tolist() == [1] and trace.actions.dtype == np.int64


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"x": [1.0, np.nan, 2.0]}, "row 0: .*observation at step 1 is not finite"),
        ({"x": pa.array([1.0, None, 2.0])}, "row 0: .*observation at step 1 is empty"),
        ({"x": ["a", "b", "c"]}, "expected numbers"),
        ({"id": [0, 1, 0]}, "row 2: episode 0 is not in one piece; sort"),
        (
            {"id": pa.array([None, None, 0])},
            "row 0: column id is empty, so the row is of no episode",
        ),
        ({"r": pa.array([0.0, None, None])}, "reward at step 1 is empty"),
        ({"q": [0, 0, 0], "r": None}, "has no column r; it has"),
    ],
)
def test_bad_rows_are_named(tmp_path, columns, words):
    path = str(tmp_path / "x.parquet")
    good = {"id": [0, 0, 0], "x": [0.0, 0.0, 0.0], "v": [0.0, 0.0, 0.0], "r": [0.0, 0.0, None]}
    good |= {"a": pa.array([0, 1, None])}
    table = {name: column for name, column in (good | columns).items() if column is not None}
    if table["id"] == [0, 1, 0]:
        table["a"], table["r"] = pa.array([0, 0, 0]), pa.array([0, 0, 0])
    write(path, **table)
    with pytest.raises(TraceError, match=words) as caught:
        list(open_source("parquet", path, mapping=MAPPING | {"final": "repeat"}))
    assert path in str(caught.value) and "\n" not in str(caught.value)


def test_lists_of_different_lengths_are_refused(tmp_path):
    path = str(tmp_path / "x.parquet")
    write(path, id=[0, 0], o=[[1.0], [1.0, 2.0]], a=pa.array([0, None]), r=[0.0, 0.0])
    with pytest.raises(TraceError, match="lists of different lengths"):
        list(open_source("parquet", path, mapping=MAPPING | {"observation": "o"}))


def test_bad_mappings_and_files_are_refused(tmp_path, logs):
    for mapping, words in [
        ({"episode": "id"}, "lacks observation, action, reward"),
        (MAPPING | {"rewrad": "r"}, "does not know rewrad"),
        (str(tmp_path / "none.yaml"), "none.yaml: is not readable as YAML"),
    ]:
        with pytest.raises(TraceError, match=words):
            open_source("parquet", logs, mapping=mapping)
    with pytest.raises(TraceError, match="no such file"):
        open_source("parquet", str(tmp_path / "none-*"), mapping=MAPPING)
    whole = (tmp_path / "2.parquet").read_bytes()
    (tmp_path / "2.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TraceError, match="2.parquet: is not readable as Parquet"):
        list(open_source("parquet", logs, mapping=MAPPING))


def test_empty_files_are_an_empty_log(tmp_path):
    path = str(tmp_path / "x.parquet")
    floats = pa.array([], pa.float64())
    write(path, id=floats, x=floats, v=floats, a=floats, r=floats)
    with pytest.raises(TraceError, match="holds no rows"):
        list(open_source("parquet", path, mapping=MAPPING))

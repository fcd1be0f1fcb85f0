"""Tables of every format: the same rows give the same traces, whatever their order and types."""

import dataclasses
from typing import Any, cast

import gymnasium
import jax
import numpy as np
import pyarrow as pa
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete

from envs.sources import open_source
from envs.traces import TraceStore
from envs.types import Trace, TraceError, space_to_json

from .conftest import FORMATS, write_table

MAPPING = {"episode": "id", "observation": ["x", "y"], "action": "a", "reward": "r"}


def columns(episodes=3, steps=4, first=0):
    """Small episodes; the number in `x` says which row it was."""
    out = {name: [] for name in ("id", "t", "x", "y", "a", "r", "end")}
    for e in range(first, first + episodes):
        for t in range(steps + 1):
            last = t == steps
            row = (e, t, 100.0 * e + t, 0.5 * t, None if last else (e + t) % 3)
            row += (None if last else t / 4, None if last else t == steps - 1)
            for name, value in zip(out, row, strict=True):
                out[name].append(value)
    return out


def same(a, b):
    """Whether two traces hold the same values, dtypes and words."""
    one, two = (
        {field.name: getattr(trace, field.name) for field in dataclasses.fields(Trace)}
        for trace in (a, b)
    )
    equal = lambda x, y: (
        np.array_equal(x, y) and np.asarray(x).dtype == np.asarray(y).dtype
        if isinstance(x, np.ndarray | np.generic)
        else x == y
    )
    return jax.tree.structure(one) == jax.tree.structure(two) and all(
        map(equal, jax.tree.leaves(one), jax.tree.leaves(two))
    )


# --- the same through every format


def cartpole(episodes=6):
    env, traces = gymnasium.make("CartPole-v1", max_episode_steps=20), []
    draw = np.random.default_rng(0)
    for seed in range(episodes):
        o, a, r, over = [env.reset(seed=seed)[0]], [], [], False
        ended = cut = False
        while not over:
            a.append(int(draw.integers(2)))
            seen, reward, ended, cut, _ = env.step(a[-1])
            o.append(seen)
            r.append(float(reward))
            over = ended or cut
        traces.append(Trace(np.array(o), np.array(a), np.array(r), ended, cut and not ended))
    spaces = {"observation_space": env.observation_space, "action_space": env.action_space}
    env.close()
    return traces, spaces


@pytest.mark.parametrize("name", FORMATS)
def test_cartpole_comes_back_identical(name, tmp_path):
    traces, spaces = cartpole()
    assert {bool(trace.terminated[-1]) for trace in traces} == {True, False}
    out = {key: [] for key in ("id", "x", "v", "angle", "spin", "a", "r", "end", "cut")}
    for e, trace in enumerate(traces):
        steps = zip(trace.actions, trace.rewards, trace.terminated, trace.truncated, strict=True)
        for o, step in zip(trace.observations, [*steps, (None,) * 4], strict=True):
            plain = [None if x is None else x.item() for x in step]
            for key, value in zip(out, [e, *map(float, map(str, o)), *plain], strict=True):
                out[key].append(value)
    mapping = {"episode": "id", "observation": ["x", "v", "angle", "spin"], "action": "a"}
    mapping |= {"reward": "r", "terminated": "end", "truncated": "cut"}
    mapping |= {key: space_to_json(space) for key, space in spaces.items()}
    source = open_source(name, write_table(tmp_path / f"log.{name}", out), mapping=mapping)
    assert source.schema() == spaces
    assert all(same(*pair) for pair in zip(source, traces, strict=True))
    stores = [TraceStore(tmp_path / word, **cast(Any, spaces)) for word in ("one", "two")]
    for store, log in zip(stores, (source, traces), strict=True):
        store.extend(log)
    assert stores[0].digest() == stores[1].digest()


def test_all_formats_infer_the_same(opened):
    read = {name: opened(MAPPING | {"terminated": "end"}, columns(), name) for name in FORMATS}
    spaces = {"observation_space": Box(-np.inf, np.inf, (2,), np.float64)}
    spaces |= {"action_space": Discrete(3)}
    assert all(source.schema() == spaces for source in read.values())
    first, *others = ([*source] for source in read.values())
    for other in others:
        assert all(same(*pair) for pair in zip(first, other, strict=True))
    assert first[1].observations.tolist() == [[100 + t, t / 2] for t in range(5)]
    assert first[1].terminated.tolist() == [False, False, False, True]


@pytest.mark.parametrize("packed", ["gz", "zst"])
@pytest.mark.parametrize("name", ["csv", "jsonl"])
def test_compressed_text_reads_the_same(name, packed, tmp_path):
    path = tmp_path / f"log.{name}"
    plain = [*open_source(name, write_table(path, columns()), mapping=MAPPING)]
    codec = pa.Codec("gzip" if packed == "gz" else "zstd")
    small = tmp_path / f"small.{name}.{packed}"
    with pa.CompressedOutputStream(str(small), codec.name) as stream:
        stream.write(path.read_bytes())
    read = [*open_source(name, str(small), mapping=MAPPING)]
    assert small.read_bytes() != path.read_bytes()
    assert all(same(*pair) for pair in zip(plain, read, strict=True))


# --- files


def test_the_same_id_in_two_files_is_never_merged_in_silence(tmp_path):
    for number in range(2):
        write_table(tmp_path / f"{number}.parquet", columns(2))
    uri = str(tmp_path / "*.parquet")
    with pytest.raises(
        TraceError, match="1.parquet: row 0: episode 0 is also in .*whole.*per_file"
    ):
        list(open_source("parquet", uri, mapping=MAPPING))
    apart = list(open_source("parquet", uri, mapping=MAPPING | {"episode_ids": "per_file"}))
    assert [len(trace) for trace in apart] == [4, 4, 4, 4]
    whole = MAPPING | {"episode_ids": "whole"}
    with pytest.raises(TraceError, match="episode 0 is not in one piece"):
        list(open_source("parquet", uri, mapping=whole))  # 0 1 0 1
    ordered = whole | {"order": "t"}
    with pytest.raises(TraceError, match="rows 0 and 0 .of two files. have the same t"):
        list(open_source("parquet", uri, mapping=ordered))


def test_an_episode_may_go_on_in_the_next_file_if_ids_are_whole(tmp_path):
    table = pa.table(columns(2))
    write_table(tmp_path / "1.csv", table.slice(0, 7))
    write_table(tmp_path / "2.csv", table.slice(7))
    read = list(open_source("csv", str(tmp_path), mapping=MAPPING | {"episode_ids": "whole"}))
    assert [trace.observations[:, 0].tolist() for trace in read] == [
        [0, 1, 2, 3, 4],
        [100, 101, 102, 103, 104],
    ]


def test_folders_give_their_keys_as_columns(tmp_path):
    for shop in ("north", "south"):
        for year in (2, 10):
            path = tmp_path / f"shop={shop}" / f"year={year}" / "log.parquet"
            write_table(path, columns(1, first=year))
    write_table(tmp_path / "_draft" / "log.parquet", columns(1))  # left alone, as by other tools
    mapping = MAPPING | {"observation": {"x": "x", "shop": "shop", "year": "year"}}
    mapping |= {"types": {"shop": "category", "year": "number"}, "episode_ids": "per_file"}
    source: Any = open_source("parquet", str(tmp_path), mapping=mapping)
    seen = [(o["shop"][0], o["year"][0]) for o in (trace.observations for trace in source)]
    assert seen == [(0, 10.0), (0, 2.0), (1, 10.0), (1, 2.0)]
    assert source.categories == {"shop": ["north", "south"]}
    session = open_source(
        "parquet",
        str(tmp_path),
        mapping=MAPPING | {"session": "shop"} | {"episode_ids": "per_file"},
    )
    assert [trace.session for trace in session] == ["north"] * 2 + ["south"] * 2


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    outside = write_table(tmp_path / "secret.parquet", columns(1))
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.parquet").symlink_to(outside)
    for uri in (tmp_path / "logs", tmp_path / "logs" / "*.parquet"):
        with pytest.raises(TraceError, match="a.parquet: leads out of"):
            open_source("parquet", str(uri), mapping=MAPPING)
    link = str(tmp_path / "logs" / "a.parquet")  # named by the user: their own choice
    assert len(list(open_source("parquet", link, mapping=MAPPING))) == 1


def test_columns_may_stand_in_another_order(tmp_path):
    write_table(tmp_path / "1.csv", columns(1))
    turned = columns(1, first=1)
    write_table(tmp_path / "2.csv", {name: turned[name] for name in reversed(turned)})
    first, second = open_source("csv", str(tmp_path / "*.csv"), mapping=MAPPING)
    assert (first.observations + [100, 0] == second.observations).all()


# --- rows in any order


@pytest.mark.parametrize("name", FORMATS)
def test_interleaved_rows_are_gathered_and_sorted(name, tmp_path):
    whole = columns(5, 6)
    expected = [*open_source(name, write_table(tmp_path / f"a.{name}", whole), mapping=MAPPING)]
    shuffled = pa.table(whole).take(np.random.default_rng(0).permutation(35))
    path = write_table(tmp_path / f"b.{name}", shuffled)
    with pytest.raises(TraceError, match="is not in one piece; .* order"):
        list(open_source(name, path, mapping=MAPPING))
    source: Any = open_source(name, path, mapping=MAPPING | {"order": "t"})
    read = sorted(source, key=lambda trace: trace.observations[0, 0])
    assert all(same(*pair) for pair in zip(read, expected, strict=True))
    assert len(list(source)) == 5 and source.accounts.balanced


def test_an_episode_is_given_out_when_its_last_row_was_read(tmp_path, monkeypatch):
    monkeypatch.setattr("envs.sources.batches.BATCH_ROWS", 10)
    path = write_table(tmp_path / "a.parquet", columns(40, 4))  # five rows each
    source: Any = open_source("parquet", path, mapping=MAPPING | {"order": "t"})
    each = iter(source)
    next(each)
    assert source.accounts.read <= 20
    assert len(list(each)) == 39


# --- types


def test_types_are_those_of_all_files_and_not_of_the_first(tmp_path):
    first, second = columns(2), columns(2, first=2)
    first |= {"x": [int(x) for x in first["x"]], "y": pa.array(first["y"], pa.float32())}
    write_table(tmp_path / "1.parquet", first)
    write_table(tmp_path / "2.parquet", second)
    source = open_source("parquet", str(tmp_path / "*.parquet"), mapping=MAPPING)
    assert source.schema()["observation_space"] == Box(-np.inf, np.inf, (2,), np.float64)
    assert [trace.observations.dtype for trace in source] == [np.float64] * 4


@pytest.mark.parametrize(
    ("actions", "space"),
    [
        ([0.0, 1.0, 2.0, 1.0], Discrete(3)),  # whole and dense: categories in a column with gaps
        ([1.0, -1.0, 1.0, -1.0], Box(-np.inf, np.inf, (), np.float64)),  # a torque at its limits
        ([2500.0, 2550.0, 2600.0, 2650.0], Box(-np.inf, np.inf, (), np.float64)),  # set points
        ([0.0, 0.5, 1.0, 1.0], Box(-np.inf, np.inf, (), np.float64)),
        ([0, 3, 0, 3], Discrete(4)),  # stored as integers
        ([5000, 0, 1, 2], Box(-np.inf, np.inf, (), np.float64)),
    ],
)
def test_whole_numbers_are_categories_only_if_they_look_like_such(opened, actions, space):
    log = columns(2) | {"a": pa.array([*actions, None] * 2)}
    source = opened(MAPPING, log)
    assert source.schema()["action_space"] == space
    assert [trace.actions.tolist() for trace in source] == [actions] * 2


def test_one_column_can_be_a_box_of_one_and_is_rounded_to_its_floats(opened):
    actions = [0.1, -0.2, 1 / 3, 2.0]
    space = Box(-2, 2, (1,), np.float32)
    mapping = MAPPING | {"action_space": space_to_json(space)}
    (trace,) = opened(mapping, columns(1) | {"a": [*actions, None]})
    assert trace.actions.dtype == np.float32
    assert trace.actions.tolist() == [[np.float32(a)] for a in actions]
    with pytest.raises(TraceError, match="action at row 3 is .*2.5.*expected a value of Box"):
        list(opened(mapping, columns(1) | {"a": [0.0, 0.0, 0.0, 2.5, None]}))


def test_categories_have_a_symbol_for_what_is_not_known_yet(opened):
    log = columns(1) | {"kind": ["red", "blue", "green", "", "red"]}
    mapping = MAPPING | {"observation": {"kind": "kind"}, "types": {"kind": "category"}}
    source = opened(mapping, log)
    assert source.schema()["observation_space"] == Dict(kind=Discrete(4))
    (trace,) = source
    assert trace.observations["kind"].tolist() == [2, 0, 1, 3, 2]
    assert source.accounts.unknown == {"kind": 1}
    known = mapping | {"categories": {"kind": ["red", "blue"]}}
    (trace,) = (later := opened(known, log))
    assert trace.observations["kind"].tolist() == [0, 1, 2, 2, 0]
    assert later.accounts.unknown == {"kind": 2}


def test_an_action_of_no_known_category_is_an_error(opened):
    log = columns(1) | {"a": ["buy", "sell", "hold", "buy", None]}
    mapping = MAPPING | {"types": {"a": "category"}}
    source = opened(mapping, log)
    assert source.schema()["action_space"] == Discrete(3)  # no symbol for what nobody can do
    assert [trace.actions.tolist() for trace in source] == [[0, 2, 1, 0]]
    few = mapping | {"categories": {"a": ["hold", "buy"]}}
    with pytest.raises(TraceError, match="action at step 1 is no known category"):
        list(opened(few, log))


def test_every_type_of_column_by_hand(opened):
    log = columns(1) | {
        "who": ["ann", "bob", "cy", "di", "eve"],
        "price": [1.5, 2.5, 3.5, 4.5, 5.5],
        "stock": [3, 2, 1, 0, 9],
        "at": pa.array([10, 20, 40, 70, 110], pa.timestamp("s")),
        "open": ["yes", "no", "yes", "no", "yes"],
    }
    types = {"who": "identifier", "price": "number", "stock": "count", "at": "time", "open": "flag"}
    mapping = MAPPING | {"observation": list(types), "types": types}
    source = opened(mapping, log)
    low, high = [-np.inf, 0, -np.inf, 0], [np.inf, np.inf, np.inf, 1]
    assert source.schema()["observation_space"] == Box(
        np.array(low), np.array(high), (4,), np.float64
    )
    (trace,) = source
    assert trace.observations.tolist() == [
        [1.5, 3, 0, 1],
        [2.5, 2, 10, 0],
        [3.5, 1, 30, 1],
        [4.5, 0, 60, 0],
        [5.5, 9, 100, 1],
    ]
    with pytest.raises(TraceError, match="observation at step 2 is no count"):
        list(opened(mapping, log | {"stock": [1.0, 2.0, 0.5, 1.0, 1.0]}))


def test_flags_alone_are_categories_and_of_actions_make_factors(opened):
    log = columns(1) | {"on": [True, False, True, False, None], "go": [0, 1, 1, 0, None]}
    mapping = MAPPING | {"action": ["on", "go"], "types": {"on": "flag", "go": "flag"}}
    source = opened(mapping, log)
    assert source.schema()["action_space"] == MultiDiscrete([2, 2])
    assert [trace.actions.tolist() for trace in source] == [[[1, 0], [0, 1], [1, 1], [0, 0]]]


def test_nested_objects_are_columns_with_a_point(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"id": 1, "o": {"x": 1, "y": {"z": 2}}, "a": 0, "r": 1}\n' * 3)
    mapping = {"episode": "id", "observation": ["o.x", "o.y.z"], "action": "a", "reward": "r"}
    (trace,) = open_source("jsonl", str(path), mapping=mapping | {"final": "repeat"})
    assert trace.observations.tolist() == [[1, 2]] * 4


# --- frames


def frames(shape, rows=5, dtype=np.uint8):
    return np.arange(rows * np.prod(shape)).reshape(rows, *shape).astype(dtype)


@pytest.mark.parametrize(
    "shape", [(6, 5), (10, 10, 4), (10, 10, 6), (10, 10, 7), (10, 10, 10), (3, 9, 3)]
)
def test_nested_lists_are_frames(opened, shape):
    x = frames(shape)
    inner = pa.uint8()
    for _ in shape:
        inner = pa.list_(inner)
    log = columns(1) | {"x": pa.array(x.tolist(), inner)}
    source = opened(MAPPING | {"observation": "x"}, log)
    assert source.schema()["observation_space"] == Box(0, 255, shape, np.uint8)
    (trace,) = source
    assert trace.observations.dtype == np.uint8 and (trace.observations == x).all()


@pytest.mark.parametrize("name", ["parquet", "jsonl"])
def test_flat_lists_take_the_shape_of_a_mapped_space(opened, name):
    x = frames((6, 5))
    mapping = MAPPING | {"observation": "x"}
    mapping |= {"observation_space": space_to_json(Box(0, 255, (6, 5), np.uint8))}
    (trace,) = opened(mapping, columns(1) | {"x": x.reshape(5, -1).tolist()}, name)
    assert trace.observations.dtype == np.uint8 and (trace.observations == x).all()


@pytest.mark.parametrize("flat", [False, True])
def test_channels_first_must_be_said_and_are_turned(opened, flat):
    x = frames((3, 8, 9))
    inner = pa.list_(pa.uint8()) if flat else pa.list_(pa.list_(pa.list_(pa.uint8())))
    log = columns(1) | {"x": pa.array((x.reshape(5, -1) if flat else x).tolist(), inner)}
    mapping = MAPPING | {"observation": "x"}
    if flat:
        mapping |= {"observation_space": space_to_json(Box(0, 255, (8, 9, 3), np.uint8))}
    else:
        with pytest.raises(TraceError, match="3 x 8 x 9 bytes looks like channels.*layout"):
            opened(mapping, log).schema()
        kept = opened(mapping | {"layout": "channels_last"}, log)
        assert kept.schema()["observation_space"].shape == (3, 8, 9)
    source = opened(mapping | {"layout": "channels_first"}, log)
    assert source.schema()["observation_space"] == Box(0, 255, (8, 9, 3), np.uint8)
    (trace,) = source
    assert (trace.observations == x.transpose(0, 2, 3, 1)).all()


def test_a_stack_of_colour_frames_has_its_channels_end_to_end(opened):
    x = frames((2, 4, 5, 3))
    inner = pa.uint8()
    for _ in range(4):
        inner = pa.list_(inner)
    log = columns(1) | {"x": pa.array(x.tolist(), inner)}
    with pytest.raises(TraceError, match="4 axes: say layout: stacked"):
        opened(MAPPING | {"observation": "x"}, log).schema()
    (trace,) = opened(MAPPING | {"observation": "x", "layout": "stacked"}, log)
    assert trace.observations.shape == (5, 4, 5, 6)
    assert (trace.observations[..., :3] == x[:, 0]).all()
    assert (trace.observations[..., 3:] == x[:, 1]).all()

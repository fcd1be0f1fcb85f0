"""What is stored comes back bit for bit; what was damaged is refused; a kill loses nothing."""

import errno
import os
import random
import shutil
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from envs import manifest, segments, traces
from envs.traces import TraceStore
from envs.types import Trace, TraceError


class Killed(BaseException):
    """The process died here."""


def an_episode(seed, steps=5, *, shape=(3,), dtype: Any = np.float32, **fields: Any):
    """A random terminated episode with propensities."""
    generator = np.random.default_rng(seed)
    fields = {"propensities": np.full(steps, 0.5)} | fields
    return Trace(
        generator.standard_normal((steps + 1, *shape)).astype(dtype),
        generator.integers(0, 2, steps),
        generator.standard_normal(steps),
        True,
        False,
        **fields,
    )


def same(left, right):
    """Bit-equal traces."""
    fields = ("actions", "rewards", "terminated", "truncated", "propensities", "action_masks")
    for name in ("observations", *fields, "times"):
        one, other = getattr(left, name), getattr(right, name)
        assert jax.tree.structure(one) == jax.tree.structure(other), name
        for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            assert x.shape == y.shape and x.dtype == y.dtype, (name, x.dtype, y.dtype)
            assert x.tobytes() == y.tobytes(), name
    assert (left.session, left.policy, left.review) == (right.session, right.policy, right.review)
    return True


def all_same(left, right):
    left, right = list(left), list(right)
    return len(left) == len(right) and all(same(x, y) for x, y in zip(left, right, strict=True))


EPISODES = [an_episode(i, steps=1 + i % 7) for i in range(30)]


@pytest.fixture
def store(tmp_path):
    """Thirty episodes in two segments of several row groups each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(traces, "ROW_GROUP_BYTES", 1 << 10)
        out = TraceStore(tmp_path / "store")
        out.extend(EPISODES[:20])
        out.extend(EPISODES[20:])
    return out


# --- what is stored comes back


@pytest.mark.parametrize(
    "dtype_and_shape",
    [
        (np.float32, (4,)),
        (np.float64, (2, 3)),
        (np.float32, ()),
        (np.uint8, (8, 8, 1)),
        (np.int16, (2,)),
    ],
    ids=str,
)
def test_observations_come_back_bit_for_bit(tmp_path, dtype_and_shape):
    dtype, shape = dtype_and_shape
    written = []
    for i in range(4):
        generator = np.random.default_rng(i)
        o = (
            generator.integers(0, 200, (i + 2, *shape))
            if dtype != np.uint8
            else (generator.integers(0, 256, (i + 2, *shape)))
        )
        o = (o + generator.random(o.shape) if np.dtype(dtype).kind == "f" else o).astype(dtype)
        flags = [(True, False), (False, True), (False, False), (True, False)][i]
        written.append(Trace(o, np.arange(i + 1) % 3, generator.random(i + 1), *flags))
    store = TraceStore(tmp_path)
    store.extend(written[:3])
    store.append(written[3])
    again = TraceStore(tmp_path)
    again.verify()
    assert all_same(again.traces(), written) and all_same(again, written)
    assert again.schema()["observation_space"].shape == shape
    assert again.schema()["observation_space"].dtype == dtype
    assert (len(again), again.num_steps) == (4, 10)


def test_optional_fields_and_mixed_absence_come_back(tmp_path):
    written = [
        an_episode(0, 2, times=np.arange(3.0), session="a", policy="p", review=0.5),
        an_episode(1, 2, propensities=None),
        an_episode(2, 1, session="b"),
    ]
    store = TraceStore(tmp_path)
    store.extend(written)
    assert all_same(TraceStore(tmp_path), written)
    table = store.index().to_pydict()
    assert table["session"] == ["a", None, "b"] and table["rows"] == [3, 3, 2]
    assert table["first_row"] == [0, 3, 6]
    assert table["return"] == [float(trace.rewards.sum()) for trace in written]


NESTED = Dict(
    position=Box(-1, 1, (2,), np.float32),
    inner=Dict({"a.b": Discrete(3), "t": Tuple([MultiBinary(2), MultiDiscrete([2, 3])])}),
)


def a_nested_episode(seed, steps=4, space=NESTED, **fields):
    """Random values of a space."""
    space.seed(seed)
    values = [space.sample() for _ in range(steps + 1)]
    o = jax.tree.map(lambda *x: np.stack(x), *values)
    actions = np.stack([np.arange(steps) % 2, np.arange(steps) % 3], -1)
    return Trace(o, actions, np.ones(steps), True, False, **fields)


def test_nested_observations_come_back_from_a_column_for_each_leaf(tmp_path):
    written = [a_nested_episode(i, steps=1 + i) for i in range(5)]
    spaces: Any = {"observation_space": NESTED, "action_space": MultiDiscrete([2, 3])}
    store = TraceStore(tmp_path, **spaces)
    store.extend(written[:3])
    store.extend(written[3:])
    again = TraceStore(tmp_path, **spaces)
    again.verify()
    assert all_same(again, written) and again.schema() == spaces
    columns = pq.read_schema(tmp_path / "segment-000000.parquet").names
    inner = [rf"observation.inner.{name}" for name in (r"a\.b", "t.0", "t.1")]
    assert columns[2:6] == [*inner, "observation.position"]


def test_nested_spaces_are_inferred_and_widened(tmp_path):
    episode = lambda top: Trace(
        {"x": np.zeros((2, 1)), "y": (np.array([0, top]),)},
        np.array([[0, top]]),
        np.zeros(1),
        True,
        False,
    )
    store = TraceStore(tmp_path)
    for top in (1, 4, 2):
        store.append(episode(top))
    store.verify()
    x = Box(-np.inf, np.inf, (1,), np.float64)
    assert store.schema() == {
        "observation_space": Dict(x=x, y=Tuple([Discrete(5)])),
        "action_space": MultiDiscrete([1, 5]),
    }


def test_a_nested_store_shows_every_flip(tmp_path):
    store = TraceStore(tmp_path, observation_space=NESTED)
    store.extend(a_nested_episode(i) for i in range(5))
    file, draw = tmp_path / "segment-000000.parquet", random.Random(0)
    whole = file.read_bytes()
    for _ in range(50):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        file.write_bytes(damaged)
        with pytest.raises(TraceError, match="segment-000000.parquet"):
            TraceStore(tmp_path).verify()


def test_a_store_of_the_first_schema_is_read_and_added_to(tmp_path):
    """Version 1 knew arrays alone, and did not say whether there are masks."""
    masks = np.ones((6, 2), bool)
    cases: Any = (("masked", {"action_masks": masks}), ("plain", {}))
    for name, fields in cases:
        path = tmp_path / name
        written = [an_episode(i, **fields) for i in range(3)]
        TraceStore(path).extend(written[:2])
        as_version_1(path)
        old = TraceStore(path)
        old.verify()
        assert all_same(old, written[:2])
        other = an_episode(3, action_masks=None if fields else masks)
        with pytest.raises(TraceError, match="episode 2: has (no )?action masks"):
            old.append(other)
        old.append(written[2])
        TraceStore(path).verify()
        assert all_same(TraceStore(path), written)


def as_version_1(path):
    """Rewrite a manifest as the first version of the schema had it."""
    file = path / "manifest.json"
    data = manifest.parse_manifest(file.read_bytes(), file)
    assert data.pop("masked") == (data.pop("mask_width") is not None)
    assert data["schema_version"] == 3
    file.write_bytes(manifest.dump_manifest(data | {"schema_version": 1}))


def test_array_actions_come_back_with_their_bounds_checked(tmp_path):
    space = Box(-1, 1, (2,), np.float32)
    a = np.array([[0.5, -1], [1, 0]], np.float32)
    store = TraceStore(tmp_path, action_space=space)
    store.append(Trace(np.zeros((3, 1), np.float32), a, np.zeros(2), True, False))
    store.append(Trace(np.ones((3, 1), np.float32), -a, np.zeros(2), True, False))
    assert [trace.actions.tolist() for trace in TraceStore(tmp_path)] == [a.tolist(), (-a).tolist()]
    with pytest.raises(TraceError, match=r"episode 2: action at row 1 .* Box\(-1.0, 1.0"):
        store.append(Trace(np.zeros((3, 1), np.float32), a * [[1], [2]], np.zeros(2), True, False))


def test_discrete_observations_widen_an_inferred_space(tmp_path):
    store = TraceStore(tmp_path)
    episode = lambda top, a: Trace(np.array([0, top]), np.array([a]), np.zeros(1), True, False)
    store.append(episode(3, 0))
    assert store.schema() == {"observation_space": Discrete(4), "action_space": Discrete(1)}
    store.extend([episode(9, 1), episode(2, 0)])
    assert TraceStore(tmp_path).schema() == {
        "observation_space": Discrete(10),
        "action_space": Discrete(2),
    }
    store.verify()


def test_the_layout_is_what_the_docstring_says(store):
    rows = pq.read_table(store.path / "segment-000000.parquet").to_pydict()
    lengths = [len(trace) for trace in EPISODES[:20]]
    assert rows["t"] == [t for steps in lengths for t in range(steps + 1)]
    assert rows["episode"] == [i for i, steps in enumerate(lengths) for _ in range(steps + 1)]
    ends = [t == steps for steps in lengths for t in range(steps + 1)]
    for name in ("action", "reward", "terminated", "truncated"):
        assert [value is None for value in rows[name]] == ends, name
    assert all(len(value) == 3 for value in rows["observation"])


def test_reading_holds_one_segment_in_memory(store, monkeypatch):
    opened = []
    read = manifest.damage
    monkeypatch.setattr(
        traces, "damage", lambda data, entry: opened.append(entry["name"]) or read(data, entry)
    )
    stream = store.traces()
    next(stream)
    assert opened == ["episodes-000000.parquet", "segment-000000.parquet"]
    assert len(list(stream)) == 29 and len(opened) == 4


def test_one_extend_makes_several_segments_of_bounded_size(tmp_path, monkeypatch):
    monkeypatch.setattr(traces, "SEGMENT_BYTES", 2000)
    store = TraceStore(tmp_path)
    store.extend(iter(EPISODES))
    assert len(list(tmp_path.glob("segment-*.parquet"))) > 2
    store.verify()
    assert all_same(TraceStore(tmp_path), EPISODES)


def test_the_digest_follows_the_contents(tmp_path, store):
    twin, other = TraceStore(tmp_path / "twin"), TraceStore(tmp_path / "other")
    twin.extend(EPISODES[:20])
    other.extend(EPISODES[1:20])
    assert twin.digest() != other.digest() != store.digest()
    same_again = TraceStore(tmp_path / "same")
    same_again.extend(EPISODES[:20])
    assert same_again.digest() == twin.digest() == TraceStore(tmp_path / "twin").digest()


def test_nothing_added_writes_nothing_and_an_empty_store_says_so(tmp_path):
    store = TraceStore(tmp_path / "a")
    store.extend([])
    assert len(store) == 0 and list(store) == [] and store.index().num_rows == 0
    with pytest.raises(TraceError, match="holds no trace"):
        store.schema()
    given = TraceStore(tmp_path / "b", observation_space=Discrete(2), action_space=Discrete(2))
    assert given.schema()["action_space"] == Discrete(2)
    assert not (tmp_path / "b").exists(), "opening must not write"


def test_two_writers_take_turns(tmp_path):
    first, second = TraceStore(tmp_path), TraceStore(tmp_path)
    first.append(EPISODES[0])
    second.append(EPISODES[1])
    first.append(EPISODES[2])
    assert all_same(TraceStore(tmp_path), EPISODES[:3])


# --- bad traces


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (
            an_episode(9, shape=(4,)),
            r"episode 2: observation at row 0 has shape \(4,\), expected \(3,\)",
        ),
        (an_episode(9, dtype=np.float64), r"episode 2: observation at row 0 is .*float64"),
        (an_episode(9, session=3), "episode 2: session is 3"),
        (an_episode(9, review="good"), "episode 2: review is 'good'"),
    ],
)
def test_a_trace_that_does_not_fit_names_episode_and_row_and_stores_nothing(tmp_path, bad, words):
    store = TraceStore(tmp_path)
    store.append(EPISODES[0])
    with pytest.raises(TraceError, match=words):
        store.extend([EPISODES[1], bad])
    assert all_same(store, EPISODES[:1]) and all_same(TraceStore(tmp_path), EPISODES[:1])
    store.append(EPISODES[1])
    assert all_same(TraceStore(tmp_path), EPISODES[:2])


def test_an_action_outside_the_space_and_a_late_nan_are_named(tmp_path):
    store = TraceStore(tmp_path, action_space=Discrete(2))
    good = an_episode(0)
    outside = Trace(good.observations, np.array([0, 1, 2, 0, 0]), good.rewards, True, False)
    with pytest.raises(TraceError, match=r"episode 0: action at row 2 is 2 .*Discrete\(2\)"):
        store.append(outside)
    late = an_episode(1)
    late.observations[3, 1] = np.nan
    with pytest.raises(TraceError, match="episode 1: observation at step 3 is not finite"):
        store.extend([good, late])
    assert len(TraceStore(tmp_path)) == 0


def renamed(trace, **names):
    """The episode with other keys."""
    o = {names.get(key, key): x for key, x in trace.observations.items()}
    return Trace(o, trace.actions, trace.rewards, True, False)


@pytest.mark.parametrize("given", [True, False])
def test_an_observation_dict_whose_keys_differ_is_told_with_its_episode(tmp_path, given):
    spaces: Any = {"observation_space": NESTED} if given else {}
    store = TraceStore(tmp_path, **spaces)
    good = [a_nested_episode(i) for i in range(4)]
    with pytest.raises(TraceError) as caught:
        store.extend([*good[:3], renamed(good[3], position="place")])
    what = "episode 3: observation is a dict with the keys inner, place, expected the keys inner, "
    assert str(caught.value) == what + "position"
    wrong = {
        "observation is a value of shape": lambda x: x["position"],
        "observation.inner is a value of shape": lambda x: x | {"inner": x["position"]},
        "observation.position is a dict with the keys": lambda x: x | {"position": x["inner"]},
        r"observation.position at row 0 has shape \(1,\), expected \(2,\)": lambda x: (
            x | {"position": x["position"][:, :1]}
        ),
    }
    store.extend(good[:3])
    for words, change in wrong.items():
        o = change(good[3].observations)
        with pytest.raises(TraceError, match=f"episode 3: {words}") as caught:
            store.append(Trace(o, good[3].actions, good[3].rewards, True, False))
        assert "\n" not in str(caught.value)
    assert len(TraceStore(tmp_path)) == 3


FACTORED = Box(-1, 1, (1,), np.float32), MultiDiscrete([2, 3])


def a_masked_episode(masks, space: Any = FACTORED[1], steps=2):
    """Masks on an episode of two steps."""
    o, a = np.zeros((steps + 1, 1), np.float32), np.stack([space.sample() for _ in range(steps)])
    return Trace(o, a, np.zeros(steps), True, False, action_masks=masks)


@pytest.mark.parametrize(
    ("masks", "space", "words"),
    [
        ([[1, 1, 1, 0, 0], [1, 0, 1, 1, 1], [1, 1, 1, 1, 1]], FACTORED[1], None),
        (
            [[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]],
            FACTORED[1],
            "episode 0: the action mask at row 1 forbids every value of factor 1",
        ),
        (
            [[1, 1, 1, 1]] * 3,
            FACTORED[1],
            "episode 0: action masks have 4 entries, expected 5",
        ),
        ([[1, 1, 1]] * 3, Discrete(2), "episode 0: action masks have 3 entries, expected 2"),
        ([[1]] * 3, FACTORED[0], r"episode 0: there are action masks, but actions of Box"),
    ],
)
def test_masks_fit_the_actions(tmp_path, masks, space, words):
    store = TraceStore(tmp_path, action_space=space)
    trace = a_masked_episode(masks, space)
    if words is None:
        store.append(trace)
        assert all_same(TraceStore(tmp_path), [trace])
        return
    with pytest.raises(TraceError, match=words) as caught:
        store.append(trace)
    assert "\n" not in str(caught.value) and len(TraceStore(tmp_path)) == 0


def test_masks_tell_how_many_actions_there_are(tmp_path):
    masks = np.array([[1, 0, 1, 1]] * 6, bool)
    store = TraceStore(tmp_path)
    store.append(an_episode(0, action_masks=masks))
    assert store.schema()["action_space"] == Discrete(4)


@pytest.mark.parametrize("first", [True, False])
def test_masks_are_given_for_all_episodes_or_none(tmp_path, first):
    fields: Any = lambda has: {"action_masks": np.ones((6, 2), bool)} if has else {}
    episodes = [an_episode(i, **fields(first)) for i in range(3)] + [
        an_episode(3, **fields(not first))
    ]
    store = TraceStore(tmp_path)
    what = "has no action masks" if first else "has action masks, episode 0 has none"
    words = f"episode 3: {what}; give masks for all episodes or none"
    for stored in (0, 2):
        store.extend(episodes[len(store) : stored])
        with pytest.raises(TraceError, match=words):
            TraceStore(tmp_path).extend(episodes[stored:])
        assert len(TraceStore(tmp_path)) == stored


@pytest.mark.parametrize("together", [True, False])
def test_masks_have_one_width(tmp_path, together):
    """An inferred action space may grow, but a mask says how many actions there are."""
    one, other = (an_episode(i, action_masks=np.ones((6, 3 + i), bool)) for i in range(2))
    words = "episode 1: has action masks of 4 entries, episode 0 of 3; give each action"
    if together:
        with pytest.raises(TraceError, match=words):
            TraceStore(tmp_path).extend([one, other])
    TraceStore(tmp_path).append(one)
    file = tmp_path / "manifest.json"
    data = manifest.parse_manifest(file.read_bytes(), file)
    assert data.pop("mask_width") == 3
    for _ in range(2):
        with pytest.raises(TraceError, match=words):
            TraceStore(tmp_path).append(other)
        file.write_bytes(manifest.dump_manifest(data))  # a store of before, which did not say it
    TraceStore(tmp_path).verify()


def test_masks_count_for_the_size_of_a_segment(tmp_path, monkeypatch):
    monkeypatch.setattr(traces, "SEGMENT_BYTES", 50_000)
    store = TraceStore(tmp_path, action_space=Discrete(5000))
    masks = np.ones((6, 5000), bool)  # 30 kB each
    store.extend(an_episode(i, action_masks=masks) for i in range(4))
    assert len(list(tmp_path.glob("segment-*"))) == 2
    plain = segments.row_bytes(an_episode(0, propensities=None))
    fields = {"times": np.arange(6.0), "action_masks": masks}
    assert segments.row_bytes(an_episode(0, **fields)) - plain >= 5000 + 8 + 8


def test_other_spaces_than_stored_are_refused(store):
    with pytest.raises(TraceError, match=r"action space is Discrete\(2\), expected Discrete\(7\)"):
        TraceStore(store.path, action_space=Discrete(7))


# --- damage


def read_all(path):
    out = TraceStore(path)
    return len(out), out.schema(), list(out.traces())


def test_no_flip_and_no_cut_is_silent(store, tmp_path):
    """400 random single-bit flips and cuts over all files: reading and verifying both refuse."""
    draw = random.Random(0)
    files = sorted(store.path.iterdir())
    assert len(files) == 5
    sizes = [file.stat().st_size for file in files]
    for trial in range(400):
        file = draw.choices(files, sizes)[0]
        whole = file.read_bytes()
        damaged = bytearray(whole)
        if trial % 4 == 0:
            del damaged[draw.randrange(len(damaged)) :]
        else:
            damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        assert bytes(damaged) != whole
        file.write_bytes(damaged)
        for check in (read_all, lambda path: TraceStore(path).verify()):
            with pytest.raises(TraceError) as caught:
                check(store.path)
            assert file.name in str(caught.value) and "\n" not in str(caught.value)
        file.write_bytes(whole)
    store.verify()


def test_every_page_is_checked_without_the_manifest_too(store):
    """Other readers have no manifest: the page checksums alone must show a flipped bit."""
    file = store.path / "segment-000000.parquet"
    whole = file.read_bytes()
    column = pq.read_metadata(file).row_group(0).column(2)
    assert column.path_in_schema.startswith("observation")
    start = column.dictionary_page_offset or column.data_page_offset
    where = start + column.total_compressed_size - 3
    file.write_bytes(whole[:where] + bytes([whole[where] ^ 1]) + whole[where + 1 :])
    with pytest.raises(OSError, match="CRC|checksum"):
        segments.from_parquet(file.read_bytes())


def test_damage_is_named_by_file_and_row_group(store):
    file = store.path / "segment-000001.parquet"
    whole = file.read_bytes()
    groups = manifest.describe(whole)["row_groups"]
    assert len(groups) > 2
    rows = groups[0]["rows"]
    where = groups[0]["end"] + 10
    file.write_bytes(whole[:where] + bytes([whole[where] ^ 4]) + whole[where + 1 :])
    second = rf"segment-000001.*row group 1 \(rows {rows} to {rows + groups[1]['rows'] - 1}\)"
    with pytest.raises(TraceError, match=second + " is damaged"):
        store.verify()
    file.write_bytes(whole[:where])
    with pytest.raises(TraceError, match=second + " is cut short"):
        store.verify()
    file.write_bytes(whole[:-1])
    with pytest.raises(TraceError, match="footer"):
        store.verify()
    file.unlink()
    with pytest.raises(TraceError, match="segment-000001.parquet: is missing"):
        store.verify()


def test_extra_rows_are_counted(store):
    file = store.path / "segment-000001.parquet"
    table = pq.read_table(file)
    pq.write_table(pa.concat_tables([table, table.slice(0, 4)]), file)
    with pytest.raises(TraceError, match=rf"holds {len(table) + 4} rows, expected {len(table)}"):
        store.verify()


def test_an_index_that_disagrees_with_its_rows_is_refused(store):
    """Even if every hash is right."""
    entry = store._manifest["segments"][0]
    rows, index = (store._table(file) for file in (entry, entry["index"]))
    with pytest.raises(TraceError, match="belong to no episode"):
        list(segments.decode(rows, index.slice(0, 19), store._spaces))
    with pytest.raises(TraceError, match="is not at rows"):
        list(segments.decode(rows, index.slice(1), store._spaces))
    longer = index.to_pylist()
    longer[0]["rows"] += 1
    with pytest.raises(TraceError, match="is not at rows"):
        list(segments.decode(rows, pa.Table.from_pylist(longer, index.schema), store._spaces))


def test_a_missing_or_edited_or_newer_manifest_is_refused(store):
    file = store.path / "manifest.json"
    text = file.read_text()
    file.write_text(text.replace("float32", "float64"))
    with pytest.raises(TraceError, match="was changed after it was written"):
        TraceStore(store.path)
    file.write_text(text.replace('"schema_version": 3', '"schema_version": 4'))
    with pytest.raises(TraceError, match="schema version 4"):
        TraceStore(store.path)
    file.unlink()
    for use in (TraceStore, lambda path: store.append(EPISODES[0])):
        with pytest.raises(TraceError, match="is missing; restore it"):
            use(store.path)
    file.write_text(text)
    store.verify()


def test_a_path_that_cannot_be_a_store_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(TraceError, match="cannot"):
        TraceStore(tmp_path / "file").append(EPISODES[0])


# --- a kill or a full disk at any instant


class Faults:
    """Counts calls that change the disk; from call number `at` on, all of them fail."""

    NAMES = ("open", "write", "fsync", "replace", "unlink", "makedirs")

    def __init__(self, patch, at, error):
        self.calls, self.at, self.error = [], at, error
        for name in self.NAMES:
            patch.setattr(os, name, self._wrap(name, getattr(os, name)))

    def _wrap(self, name, real):
        def call(*args, **kwargs):
            if name == "open" and not args[1] & os.O_CREAT:
                return real(*args, **kwargs)
            self.calls.append(name)
            if len(self.calls) > self.at:
                if name == "write" and len(self.calls) == self.at + 1:
                    real(args[0], bytes(args[1])[: len(args[1]) // 2])  # a torn write
                raise self.error
            return real(*args, **kwargs)

        return call


@pytest.mark.parametrize(
    "error", [Killed(), OSError(errno.ENOSPC, "No space left on device")], ids=repr
)
@pytest.mark.parametrize("stored", [0, 20])
def test_a_failure_at_any_instant_leaves_the_old_store_or_the_new(tmp_path, stored, error):
    old = TraceStore(tmp_path / "old")
    if stored:
        old.extend(EPISODES[:stored])
    at, outcomes = 0, set()
    while True:
        path = tmp_path / f"crash{at}"
        if stored:
            shutil.copytree(old.path, path)
        store = TraceStore(path)
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch, at, error)
            try:
                store.extend(EPISODES[stored:])
            except (Killed, TraceError) as seen:
                assert "\n" not in str(seen) and len(faults.calls) > at
                if not isinstance(seen, Killed):
                    assert "No space left on device" in str(seen), seen
            else:
                assert len(faults.calls) <= at, "a call failed and nobody noticed"
                break
        again = TraceStore(path)
        assert len(again) in (stored, 30)
        outcomes.add(len(again))
        again.verify()
        assert all_same(again, EPISODES[: len(again)])
        if len(again) == stored:
            again.extend(EPISODES[stored:])
        assert all_same(TraceStore(path), EPISODES)
        listed = {file.name for file in path.iterdir()}
        assert not [name for name in listed if name.endswith(".tmp")]
        at += 1
    assert at >= 12 and faults.calls.count("fsync") >= 5
    assert outcomes == {stored, 30}, "some kill came after the commit, some before"
    assert all_same(TraceStore(path), EPISODES)


def test_a_full_device_is_one_clear_line(tmp_path, monkeypatch):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    store = TraceStore(tmp_path)
    store.append(EPISODES[0])
    files = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    real, written = os.open, []

    def to_full(path, flags, *mode):
        if flags & os.O_CREAT:
            written.append(path)
            path = "/dev/full"
            flags = os.O_WRONLY
        return real(path, flags, *mode)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", to_full)
        with pytest.raises(TraceError, match=r"segment-000001.*No space left on device.*intact"):
            store.append(EPISODES[1])
    assert written, "the write went to the full device"
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == files
    store.append(EPISODES[1])
    assert all_same(TraceStore(tmp_path), EPISODES[:2])


def test_a_source_that_fails_half_way_stores_nothing(tmp_path):
    def half():
        yield EPISODES[0]
        raise KeyboardInterrupt

    store = TraceStore(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        store.extend(half())
    assert len(store) == len(TraceStore(tmp_path)) == 0
    store.append(EPISODES[1])
    assert all_same(store, EPISODES[1:2])

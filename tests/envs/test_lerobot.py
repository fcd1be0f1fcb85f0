"""LeRobot v3: what a writer of the format leaves is read; what is missing is asked for."""

import contextlib
import io
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gymnasium.spaces import Box, Dict, Discrete

from envs.sources import open_source, record
from envs.sources.cameras import Cameras
from envs.traces import TraceStore
from envs.types import Trace, TraceError, UserError, space_to_json
from tests.envs.test_recorder import live
from tests.envs.test_traces import all_same, an_episode

CART = gymnasium.make("CartPole-v1")
STATE = "observation.state"


def write(root: Path, traces, *, later=True, truncated=True, per_file=3, cameras=(), **changes):
    """A data set of these traces, laid out as LeRobot 3 does; `later` and `truncated` add columns
    to its format. `cameras` are features; `changes` replace parts of info.json."""
    traces = list(traces)
    first = traces[0]
    feature = lambda x: {"dtype": x.dtype.name, "shape": list(x.shape[1:]) or [1], "names": None}
    one = lambda dtype: {"dtype": dtype, "shape": [1], "names": None}
    features: Any = {STATE: feature(first.observations), "action": feature(first.actions)}
    if later:
        features[f"next.{STATE}"] = feature(first.observations)
    features |= {"next.reward": one("float32"), "next.done": one("bool")}
    if truncated:
        features["next.truncated"] = one("bool")
    features |= {name: one("int64") for name in ("frame_index", "episode_index", "task_index")}
    features |= dict(cameras)
    for number in range(0, len(traces), per_file):
        part = list(enumerate(traces))[number : number + per_file]
        table = pa.concat_tables(rows(i, trace, later, truncated) for i, trace in part)
        file = root / f"data/chunk-000/file-{number // per_file:03d}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, file, write_page_checksum=True)
    info = {"codebase_version": "v3.0", "fps": 50, "features": features}
    info["total_frames"] = sum(map(len, traces))
    (root / "meta").mkdir(exist_ok=True)
    (root / "meta/info.json").write_text(json.dumps(info | changes))
    return root


def rows(number, trace, later, truncated):
    steps = len(trace)
    plain = lambda x: pa.array(x.tolist() if x.ndim > 1 else x)
    o, a = trace.observations, trace.actions
    columns: Any = {STATE: plain(o[:-1]), "action": plain(a)}
    if later:
        columns[f"next.{STATE}"] = plain(o[1:])
    columns["next.reward"] = pa.array(trace.rewards.astype(np.float32))
    columns["next.done"] = pa.array(trace.terminated | trace.truncated)
    if truncated:
        columns["next.truncated"] = pa.array(trace.truncated)
    columns |= {"frame_index": np.arange(steps), "episode_index": np.full(steps, number)}
    table = pa.table(columns | {"task_index": np.full(steps, number % 2)})
    names = [STATE, f"next.{STATE}"]
    as_32 = pa.list_(pa.float32())
    fields = [
        pa.field(f.name, as_32 if f.name in names and o.dtype == np.float32 else f.type)
        for f in table.schema
    ]
    return table.cast(pa.schema(fields))


@pytest.fixture(scope="module")
def lived(tmp_path_factory):
    """Eight recorded episodes of CartPole, the last one open, one ended by the clock."""
    path = tmp_path_factory.mktemp("log")
    env = record(gymnasium.make("CartPole-v1", max_episode_steps=30), path)
    live(env, 7)
    live(env, 1, limit=4)
    env.close()
    traces = list(TraceStore(path))
    assert traces[-1].is_open and any(trace.truncated[-1] for trace in traces)
    return traces


def test_cartpole_comes_back_identical(lived, tmp_path):
    root = write(tmp_path, lived)
    spaces = {
        "observation_space": space_to_json(CART.observation_space),
        "action_space": space_to_json(CART.action_space),
    }
    source = open_source("lerobot", str(root), **spaces)
    assert all_same(source, lived) and all_same(source, lived)
    assert source.schema()["observation_space"] == CART.observation_space
    schema: Any = source.schema()
    store = TraceStore(tmp_path / "store", **schema)
    store.extend(source)
    twin = TraceStore(tmp_path / "twin", **schema)
    twin.extend(lived)
    assert store.digest() == twin.digest()


def test_spaces_are_inferred(lived, tmp_path):
    assert open_source("lerobot", str(write(tmp_path, lived))).schema() == {
        "observation_space": Box(-np.inf, np.inf, (4,), np.float32),
        "action_space": Discrete(2),
    }


def test_the_missing_last_observation_is_asked_for(lived, tmp_path):
    root = str(write(tmp_path, lived, later=False))
    with pytest.raises(TraceError, match="observation after the last action.*final=repeat"):
        open_source("lerobot", root)
    repeated, dropped = (list(open_source("lerobot", root, final=x)) for x in ("repeat", "drop"))
    for trace, whole, short in zip(lived, repeated, dropped, strict=True):
        assert np.array_equal(whole.observations[:-1], trace.observations[:-1])
        assert np.array_equal(whole.observations[-1], trace.observations[-2])
        assert np.array_equal(whole.terminated, trace.terminated)
        assert np.array_equal(short.observations, trace.observations[:-1])
        assert np.array_equal(short.actions, trace.actions[:-1]) and short.is_open


def test_what_ended_an_episode_is_as_the_columns_or_the_option_say(lived, tmp_path, caplog):
    root = str(write(tmp_path, lived, truncated=False))
    with caplog.at_level(logging.WARNING):
        traces = list(open_source("lerobot", root))
    assert "does not say whether the task or its clock ended; read as terminated" in caplog.text
    ended = [not trace.is_open for trace in lived]
    assert [trace.terminated[-1] for trace in traces] == ended
    truncated = open_source("lerobot", root, done="truncated")
    assert [trace.truncated[-1] for trace in truncated] == ended


def test_one_task_can_be_taken(lived, tmp_path):
    assert all_same(open_source("lerobot", str(write(tmp_path, lived)), task=1), lived[1::2])


def test_numbers_of_many_axes_and_several_features_come_back(tmp_path):
    a = np.array([[0.5, -1.0], [0.25, 1.0]])
    traces = [Trace(np.arange(i, i + 12.0).reshape(3, 2, 2), a, np.ones(2), 1, 0) for i in range(3)]
    (one, *_) = open_source("lerobot", str(write(tmp_path / "a", traces)))
    assert one.observations.tolist() == traces[0].observations.tolist()
    assert one.actions.tolist() == a.tolist()
    root = write(tmp_path / "b", traces, later=False)
    table = pq.read_table(root / "data/chunk-000/file-000.parquet")
    more = table.append_column("observation.mode", pa.array([1, 0] * 3))
    pq.write_table(more, root / "data/chunk-000/file-000.parquet")
    change(root, lambda info: info["features"].update({"observation.mode": INT}))
    source = open_source("lerobot", str(root), final="repeat")
    assert next(iter(source)).observations["mode"].tolist() == [1, 0, 0]
    assert isinstance(source.schema()["observation_space"], Dict)


INT = {"dtype": "int64", "shape": [1], "names": None}


def change(root, edit):
    info = json.loads((root / "meta/info.json").read_text())
    edit(info)
    (root / "meta/info.json").write_text(json.dumps(info))


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda info: info.update(codebase_version="v2.1"), "is of LeRobot v2.1, expected v3"),
        (lambda info: info.update(total_frames=5), "frames were found, expected 5"),
        (lambda info: info["features"].pop("next.reward"), "has no feature next.reward; has"),
        (lambda info: info["features"].pop("action"), "has no feature action"),
        (lambda info: info["features"].update(action={"dtype": "x", "shape": [3]}), "action: expe"),
        (lambda info: info["features"].update(action={"dtype": "x"}), "no description"),
        (lambda info: info.pop("fps"), "info.json: is no description"),
        (lambda info: info["features"].update({"observation.x": INT}), "has no column observation"),
    ],
)
def test_a_bad_description_is_one_line(lived, tmp_path, edit, words):
    root = write(tmp_path, lived)
    change(root, edit)
    with pytest.raises(TraceError, match=words) as caught:
        list(open_source("lerobot", str(root), final="repeat"))
    assert "\n" not in str(caught.value) and str(root) in str(caught.value)


def test_missing_frames_and_files_are_told(lived, tmp_path):
    root = write(tmp_path, lived)
    file = root / "data/chunk-000/file-001.parquet"
    table = pq.read_table(file)
    pq.write_table(pa.concat_tables([table.slice(0, 2), table.slice(3)]), file)
    with pytest.raises(TraceError, match="file-001.parquet: episode 3: frame 2 is missing"):
        list(open_source("lerobot", str(root)))
    file.unlink()
    with pytest.raises(TraceError, match="frames were found, expected"):
        list(open_source("lerobot", str(root)))
    with pytest.raises(TraceError, match="info.json: is missing"):
        open_source("lerobot", str(tmp_path / "nowhere"))
    with pytest.raises(TraceError, match="final=last does not exist; choose repeat or drop"):
        open_source("lerobot", str(root), final="last")


# --- cameras

VIDEO = {"dtype": "video", "shape": [16, 16, 3], "names": ["height", "width", "channels"]}
TOP = "observation.images.top"


def test_without_a_decoder_frames_are_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    root = str(write(tmp_path, [an_episode(0)], cameras={TOP: VIDEO}))
    with pytest.raises(TraceError, match=f"frames of {TOP} need a decoder: pip install av, or lea"):
        open_source("lerobot", root, final="repeat")
    (trace,) = open_source("lerobot", root, frames=False)
    assert trace.observations.shape == (6, 3)


def test_images_in_the_tables_are_frames(tmp_path):
    image = pytest.importorskip("PIL.Image")
    traces = [an_episode(i, steps=3) for i in range(2)]
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 9, 3)).astype(np.uint8)
    root = write(tmp_path, traces, cameras={TOP: VIDEO | {"dtype": "image"}})
    cells = []
    for frame in pixels:
        image.fromarray(frame).save(buffer := io.BytesIO(), format="PNG")
        cells.append({"bytes": buffer.getvalue(), "path": None})
    file = root / "data/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(file).append_column(TOP, pa.array(cells)), file)
    first, second = open_source("lerobot", str(root), final="drop")
    assert np.array_equal(first.observations["images.top"], pixels[:3])
    assert np.array_equal(second.observations["images.top"], pixels[3:])


@pytest.mark.parametrize(
    ("episode", "start", "words"),
    [(1, 0.0, "does not say where top of episode 1 lies"), (0, 1e400, "is not readable as a vid")],
)
def test_places_of_videos_that_cannot_be_are_told(tmp_path, episode, start, words):
    class Decoder:
        """One video, whose clock ticks in seconds."""

        def open(self, path):
            return contextlib.nullcontext(self)

        def seek(self, at, stream):
            raise AssertionError(at)

        @property
        def streams(self):
            return SimpleNamespace(video=[SimpleNamespace(time_base=1)])

    cameras = Cameras(tmp_path, [], [], 10)
    cameras._av, cameras._places = Decoder(), {"top": {0: (0, 0, start)}}
    with pytest.raises(TraceError, match=words):
        cameras._video(episode, 1, "top")


def test_videos_are_frames_where_a_decoder_is_installed(tmp_path):
    av = pytest.importorskip("av")
    traces = [an_episode(i, steps=4) for i in range(3)]
    root = write(tmp_path, traces, cameras={TOP: VIDEO}, fps=10)
    file = root / "videos" / TOP / "chunk-000" / "file-000.mp4"
    file.parent.mkdir(parents=True)
    with av.open(str(file), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        for number in range(12):
            grey = np.full((16, 16, 3), 20 * number, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    places = {"episode_index": [0, 1, 2]}
    places |= {f"videos/{TOP}/{name}": [0, 0, 0] for name in ("chunk_index", "file_index")}
    places |= {f"videos/{TOP}/from_timestamp": [0.0, 0.4, 0.8]}
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    pq.write_table(pa.table(places), root / "meta/episodes/chunk-000/file-000.parquet")
    for number, trace in enumerate(open_source("lerobot", str(root), final="drop")):
        frames = trace.observations["images.top"]
        assert frames.shape == (4, 16, 16, 3) and frames.dtype == np.uint8
        grey = frames.mean((1, 2, 3))
        assert np.abs(grey - 20 * np.arange(4 * number, 4 * number + 4)).max() < 8
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(TraceError, match="file-000.mp4: .*frames=false|file-000.mp4: ends"):
        list(open_source("lerobot", str(root), final="drop"))


# --- damage


def damaged(lived, root, draw, count):
    """Read data sets of which a byte, or the end, is not what it was; how it ended, each."""
    write(root, lived[:4], per_file=2)
    files = sorted(path for path in root.rglob("*") if path.is_file())
    whole = {file: file.read_bytes() for file in files}
    for trial in range(count):
        file = files[trial % len(files)]
        data = bytearray(whole[file])
        if trial % 5 == 0:
            del data[draw.integers(len(data)) :]
        else:
            data[draw.integers(len(data))] = draw.integers(256)
        file.write_bytes(data)
        try:
            list(open_source("lerobot", str(root)))
        except UserError as error:
            assert "\n" not in str(error)
            yield "refused"
        else:
            yield "read"
        file.write_bytes(whole[file])


def test_damage_is_refused_or_harmless(lived, tmp_path):
    assert set(damaged(lived, tmp_path, np.random.default_rng(0), 80)) == {"read", "refused"}


@pytest.mark.slow
def test_much_damage_is_refused_or_harmless(lived, tmp_path):
    assert len(list(damaged(lived, tmp_path, np.random.default_rng(1), 10_000))) == 10_000

"""Minari: what is written comes back bit for bit, and Minari itself reads it."""

import logging
import shutil
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from dreaming.observe.collect import record
from envs.sources import open_source
from envs.sources.minari import write_minari
from envs.traces import TraceStore
from envs.types import SpaceError, Trace, TraceError
from experiments.command.cli import main
from tests.envs.test_traces import NESTED, a_nested_episode, all_same

minari = pytest.importorskip("minari", exc_type=ImportError)
pytest.importorskip("h5py")
CART = gymnasium.make("CartPole-v1")
SPACES: Any = {"observation_space": CART.observation_space, "action_space": CART.action_space}
FRAMES: Any = {"observation_space": Box(0, 255, (40, 41, 3), np.uint8), "action_space": Discrete(2)}


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """A Minari folder of this test alone."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def test_cartpole_comes_back_with_flags_propensities_and_policy(root):
    written = list(record("CartPole-v1", "random", 300, 0))
    assert written[-1].is_open
    path = write_minari(iter(written), "cartpole/random-v0", **SPACES, env_id="CartPole-v1")
    assert path == root / "cartpole/random-v0"
    source = open_source("minari", "cartpole/random-v0")
    assert all_same(source, written) and all_same(source, written)
    assert source.schema() == SPACES
    assert all_same(open_source("minari", str(path)), written)
    store = TraceStore(root.parent / "store", **SPACES)
    store.extend(source)
    assert all_same(store, written)


def test_minari_itself_reads_what_we_wrote():
    written = list(record("CartPole-v1", "random", 100, 0))
    write_minari(written, "cartpole/random-v0", **SPACES, env_id="CartPole-v1")
    data = minari.load_dataset("cartpole/random-v0")
    assert data.total_steps == 100 and data.total_episodes == len(written)
    assert data.recover_environment().spec.id == "CartPole-v1"
    for ours, theirs in zip(written, data.iterate_episodes(), strict=True):
        assert np.array_equal(ours.observations, theirs.observations)
        assert np.array_equal(ours.actions, theirs.actions)
        assert np.array_equal(ours.terminated, theirs.terminations)


def test_every_kind_of_space_and_field_comes_back(tmp_path):
    masks = np.ones((5, 5), bool)
    masks[1, 0] = False
    fields: Any = {"action_masks": masks, "times": np.arange(5.0), "session": "s", "review": 0.5}
    written = [a_nested_episode(0, **fields), a_nested_episode(1, action_masks=masks)]
    spaces: Any = {"observation_space": NESTED, "action_space": MultiDiscrete([2, 3])}
    write_minari(written, "nested-v0", **spaces)
    source = open_source("minari", "nested-v0")
    assert all_same(source, written) and source.schema() == spaces


def frames(episodes=3):
    draw = np.random.default_rng(0)
    pixels = lambda: draw.integers(0, 256, (5, 40, 41, 3)).astype(np.uint8)
    return [Trace(pixels(), np.zeros(4, int), np.zeros(4), True, False) for _ in range(episodes)]


def test_pixels_come_back_as_they_were(caplog):
    written = frames()
    write_minari(written, "frames-v0", **FRAMES)
    with caplog.at_level(logging.WARNING):
        assert all_same(open_source("minari", "frames-v0"), written)
    assert not caplog.text


def test_lossy_frames_of_others_are_told(caplog):
    """Minari's own default is JPEG."""
    (trace,) = frames(1)
    steps = trace.rewards.tolist(), trace.terminated.tolist(), trace.truncated.tolist()
    names = dict(zip(("rewards", "terminations", "truncations"), steps, strict=True))
    buffer = minari.data_collector.EpisodeBuffer(
        observations=trace.observations, actions=trace.actions, **names
    )
    with pytest.warns(UserWarning):
        minari.create_dataset_from_buffers("lossy-v0", [buffer], **FRAMES)
    with caplog.at_level(logging.WARNING):
        (back,) = open_source("minari", "lossy-v0")
    assert (back.observations != trace.observations).any(), "JPEG lost pixels"
    assert "stored as JPEG" in caplog.text


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
def test_what_the_collector_of_minari_wrote_is_read(data_format):
    """An episode that it left unfinished is truncated: it does not say more."""
    env: Any = minari.DataCollector(gymnasium.make("CartPole-v1"), data_format=data_format)
    env.reset(seed=0)
    env.step(1)
    env.step(1)
    env.reset(seed=1)
    terminated = False
    while not terminated:
        _, _, terminated, _, _ = env.step(1)
    with pytest.warns(UserWarning):
        env.create_dataset("collected-v0")
    env.close()
    first, second = open_source("minari", "collected-v0")
    assert first.actions.tolist() == [1, 1] and first.truncated[-1]
    assert second.terminated[-1] and len(second.observations) == len(second) + 1


def test_what_cannot_be_read_or_written_is_one_line(root):
    written = list(record("CartPole-v1", "random", 40, 0))
    with pytest.raises(TraceError, match="no Minari data set.*minari download nothing/here-v0"):
        open_source("minari", "nothing/here-v0")
    for id in ("x/random-v0", "random", "../random-v0"):
        with pytest.raises(TraceError, match="expected something like cartpole/random-v0"):
            write_minari(written, id, **SPACES)
    write_minari(written, "cart-v0", **SPACES)
    with pytest.raises(TraceError, match="exists already"):
        write_minari(written, "cart-v0", **SPACES)
    with pytest.raises(TraceError, match="episode 0: action at row"):
        write_minari(written, "cart-v1", **SPACES | {"action_space": Discrete(1)})
    with pytest.raises(TraceError, match="no episode to write"):
        write_minari([], "cart-v1", **SPACES)
    with pytest.raises(TraceError, match="the key 'a/b' of the observation space"):
        write_minari([], "cart-v1", **SPACES | {"observation_space": Dict({"a/b": Discrete(2)})})
    assert not (root / "cart-v1").exists() and not list(root.glob(".*"))


def test_spaces_that_would_come_back_as_others_are_refused():
    space: Any = Tuple([MultiBinary(2), Discrete(3)])
    write_minari([a_nested_episode(0, space=space)], "tuple-v0", **spaces_of(space))
    if Discrete(3).dtype != Discrete(3, dtype=np.int32).dtype:
        with pytest.raises(TraceError, match="would give the action space"):
            write_minari([], "small-v0", **SPACES | {"action_space": Discrete(3, dtype=np.int32)})


def spaces_of(space) -> Any:
    return {"observation_space": space, "action_space": MultiDiscrete([2, 3])}


def test_text_is_no_observation():
    text = gymnasium.spaces.Text(5)
    buffer = minari.data_collector.EpisodeBuffer(
        observations=["a", "b"],
        actions=np.zeros(1, int),
        rewards=[0.0],
        terminations=[True],
        truncations=[False],
    )
    with pytest.warns(UserWarning):
        minari.create_dataset_from_buffers(
            "text-v0", [buffer], observation_space=text, action_space=Discrete(2)
        )
    with pytest.raises(SpaceError, match="text-v0"):
        open_source("minari", "text-v0")


def damaged(root, draw, count):
    """Read data sets of which one byte, or the end, is not what it was; how it ended, each."""
    write_minari(list(record("CartPole-v1", "random", 60, 0)), "whole-v0", **SPACES)
    whole = root / "whole-v0"
    for trial in range(count):
        shutil.rmtree(root / "bad-v0", ignore_errors=True)
        shutil.copytree(whole, root / "bad-v0")
        files = sorted(path for path in (root / "bad-v0").rglob("*") if path.is_file())
        file = files[trial % len(files)]
        data = bytearray(file.read_bytes())
        if trial % 5 == 0:
            del data[draw.integers(len(data)) :]
        else:
            data[draw.integers(len(data))] = draw.integers(256)
        file.write_bytes(data)
        try:
            list(open_source("minari", "bad-v0"))
        except (TraceError, SpaceError) as error:
            assert "\n" not in str(error)
            yield "refused"
        else:
            yield "read"


def test_damage_is_refused_or_harmless(root):
    assert set(damaged(root, np.random.default_rng(0), 60)) == {"read", "refused"}


@pytest.mark.slow
def test_much_damage_is_refused_or_harmless(root):
    ends = list(damaged(root, np.random.default_rng(1), 10_000))
    assert len(ends) == 10_000 and ends.count("refused") > 1000


def test_a_store_is_exported_from_the_command_line(root, capsys):
    written = list(record("CartPole-v1", "random", 60, 0))
    TraceStore(root.parent / "log", **SPACES).extend(written)
    words = ["export", f"traces={root.parent / 'log'}"]
    assert main([*words, "to=minari:cartpole/mine-v0"]) == 0
    assert "source.uri=cartpole/mine-v0" in capsys.readouterr().out
    assert all_same(open_source("minari", "cartpole/mine-v0"), written)
    for to, line in (("minari:cartpole/mine-v0", "exists already"), ("x", "expected to=minari:")):
        assert main([*words, f"to={to}"]) in (1, 2)
        assert line in capsys.readouterr().err

"""A run that was packed midway and goes on elsewhere ends as the one that never left."""

import hashlib
import os
import shutil
import signal
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from dreaming.checkpoint import seal, unseal
from dreaming.efficientzero import packing
from envs.real import make_real
from experiments import online, pack, unpack
from experiments.runs import pack as packs
from tests.experiments.conftest import as_users_run
from tests.experiments.runs.test_online_frames import (
    TINY,
    assert_same_end,
    metrics,
    stop_after,
    units,
)

TURNS = 8  # of four decisions: a ring of 20 rows has gone round, in the midst of an episode


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """midway: a run that was stopped; whole: it went on to its end; packed: what was packed."""
    root = tmp_path_factory.mktemp("pack")
    go_on = lambda name: online.main([*TINY, f"hydra.run.dir={root / name}"])
    with as_users_run():
        with pytest.MonkeyPatch.context() as patch:
            stop_after(patch, TURNS, lambda: os.kill(os.getpid(), signal.SIGTERM))
            assert go_on("midway") == 0
        shutil.copytree(root / "midway", root / "whole")
        assert go_on("whole") == 0
        assert pack.main([f"run={root / 'midway'}", f"to={root / 'packed'}"]) == 0
    return root


@pytest.fixture
def packed(runs, tmp_path) -> Path:
    """What was packed, to be changed."""
    return Path(shutil.copytree(runs / "packed", tmp_path / "packed"))


def newest_sha256(run_dir):
    return hashlib.sha256((units(run_dir)[-1] / "arrays.safetensors").read_bytes()).hexdigest()


def told(capsys):
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def unpack_fails(packed, tmp_path, capsys):
    assert unpack.main([f"path={packed}", f"to={tmp_path / 'run'}"]) == 1
    assert not (tmp_path / "run").exists() and not (tmp_path / "run.tmp").exists()
    return told(capsys)


def test_what_was_packed_goes_on_as_if_it_had_never_left(runs, tmp_path, capsys):
    run_dir = tmp_path / "run"
    assert unpack.main([f"path={runs / 'packed'}", f"to={run_dir}"]) == 0
    assert "goes on after 116 real steps" in capsys.readouterr().out
    assert newest_sha256(run_dir) == newest_sha256(runs / "midway")
    assert metrics(run_dir) == metrics(runs / "midway")
    assert online.main([*TINY, f"hydra.run.dir={run_dir}"]) == 0
    assert_same_end(run_dir, runs / "whole")


def test_a_finished_run_can_be_packed_too(runs, tmp_path):
    assert pack.main([f"run={runs / 'whole'}", f"to={tmp_path / 'packed'}"]) == 0
    assert unpack.main([f"path={tmp_path / 'packed'}", f"to={tmp_path / 'run'}"]) == 0
    assert newest_sha256(tmp_path / "run") == newest_sha256(runs / "whole")


def test_frames_stay_behind(runs):
    files = sorted(path.name for path in (runs / "packed").iterdir())
    assert files == ["manifest.json", "part-000.bin"]
    manifest = unseal((runs / "packed" / "manifest.json").read_bytes())
    assert ".ring.o" not in {each["name"] for each in manifest["arrays"]}
    assert manifest["frames"]["shape"] == [80, 40, 40, 1] and manifest["optimiser"] == "float32"


def test_moments_lose_digits_only_when_asked_and_both_verbs_say_so(runs, tmp_path, capsys):
    packed, run_dir = tmp_path / "packed", tmp_path / "run"
    assert pack.main([f"run={runs / 'midway'}", f"to={packed}", "optimiser=bfloat16"]) == 0
    assert "will not end as it would have" in capsys.readouterr().out
    assert unpack.main([f"path={packed}", f"to={run_dir}"]) == 0
    assert "optimiser=bfloat16: it will not end" in capsys.readouterr().out
    from safetensors.numpy import load_file

    was, now = (load_file(units(d)[-1] / "arrays.safetensors") for d in (runs / "midway", run_dir))
    changed = {name for name, x in was.items() if not np.array_equal(x, now[name])}
    assert changed and all(name.startswith(".opt_state") for name in changed)
    for name in changed:
        np.testing.assert_allclose(now[name], was[name], rtol=2**-8)
    size = lambda path: sum(file.stat().st_size for file in path.iterdir())
    assert size(packed) < size(runs / "packed")


def test_parts_are_small_and_go_together_again(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "PART_BYTES", 100_000)
    assert pack.main([f"run={runs / 'midway'}", f"to={tmp_path / 'packed'}"]) == 0
    parts = sorted((tmp_path / "packed").glob("part-*.bin"))
    assert len(parts) > 2 and max(part.stat().st_size for part in parts) == 100_000
    one, other = packing.read_pack(tmp_path / "packed"), packing.read_pack(runs / "packed")
    for name, x in one.arrays.items():
        np.testing.assert_array_equal(x, other.arrays[name])


def test_what_is_too_large_says_what_takes_how_much(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(packing, "MOST_BYTES", 200_000)
    words = [f"run={runs / 'midway'}", f"to={tmp_path / 'packed'}"]
    assert pack.main(words) == 1
    line = told(capsys)
    assert "optimiser=bfloat16 frees about 0." in line and "replay 0." in line
    assert pack.main([*words, "optimiser=bfloat16"]) == 1
    assert "copy the run directory" in told(capsys)
    assert not (tmp_path / "packed").exists()


def test_a_damaged_part_is_named(packed, tmp_path, capsys):
    part = packed / "part-000.bin"
    data = bytearray(part.read_bytes())
    data[99] ^= 1
    part.write_bytes(data)
    assert "part-000.bin have changed since it was packed" in unpack_fails(packed, tmp_path, capsys)


def test_a_missing_part_is_named(packed, tmp_path, capsys):
    (packed / "part-000.bin").unlink()
    assert "part-000.bin is missing; copy it again" in unpack_fails(packed, tmp_path, capsys)


def test_a_damaged_or_missing_manifest_is_told(packed, tmp_path, capsys):
    file = packed / "manifest.json"
    file.write_text(file.read_text().replace("float32", "float23", 1))
    assert "manifest.json is damaged; copy it again" in unpack_fails(packed, tmp_path, capsys)
    file.unlink()
    assert "holds no manifest.json" in unpack_fails(packed, tmp_path, capsys)


def change(packed, **fields):
    file = packed / "manifest.json"
    file.write_bytes(seal(unseal(file.read_bytes()) | fields))


def test_a_newer_schema_is_told(packed, tmp_path, capsys):
    change(packed, schema_version=9)
    assert "its schema_version is 9, expected 1" in unpack_fails(packed, tmp_path, capsys)


def test_other_versions_are_told(packed, tmp_path, capsys):
    change(packed, versions={"jax": "0.0.1"})
    assert unpack.main([f"path={packed}", f"to={tmp_path / 'run'}"]) == 0
    assert "packed with jax 0.0.1, here is" in capsys.readouterr().out


class Other(gymnasium.ObservationWrapper):
    """The task as another version might show it."""

    def observation(self, observation):
        return 255 - observation


class Smaller(gymnasium.ObservationWrapper):
    """The task in another size."""

    def __init__(self, env):
        super().__init__(env)
        self.observation_space = gymnasium.spaces.Box(0, 255, (20, 20, 1), np.uint8)

    def observation(self, observation):
        return observation[::2, ::2]


class Shorter(gymnasium.Wrapper):
    """The task as another version might end it."""

    def reset(self, **options):
        self.count = 0
        return self.env.reset(**options)

    def step(self, action):
        self.count += 1
        o, r, _, truncated, info = self.env.step(action)
        return o, r, self.count == 5, truncated, info


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda id, _: Other(make_real(id)), "the same seed and actions show another frame"),
        (lambda id, _: Shorter(make_real(id)), "ended, but went on when it was recorded"),
        (
            lambda id, _: Smaller(make_real(id)),
            "has frames [20, 20, 1] and 3 actions here, but frames [40, 40, 1]",
        ),
    ],
)
def test_another_task_is_told(make, words, runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(packs, "make_real", make)
    assert words in unpack_fails(runs / "packed", tmp_path, capsys)


def test_frames_that_differ_before_the_running_episode_are_told(packed, tmp_path, capsys):
    frames = unseal((packed / "manifest.json").read_bytes())["frames"]
    change(packed, frames=frames | {"sha256": "0" * 64})
    assert "show other frames here" in unpack_fails(packed, tmp_path, capsys)


def test_nothing_is_overwritten(runs, tmp_path, capsys):
    for verb, words in ((pack, f"run={runs / 'midway'}"), (unpack, f"path={runs / 'packed'}")):
        assert verb.main([words, f"to={runs / 'whole'}"]) == 2
        assert "whole exists already" in told(capsys)


def test_what_is_no_run_of_an_agent_is_told(runs, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    for source, words in (
        (tmp_path / "nothing", "holds no checkpoint of an agent"),
        (tmp_path, "is of another kind of run, or of another version"),
    ):
        assert pack.main([f"run={source}", f"to={tmp_path / 'packed'}"]) == 2
        assert words in told(capsys)
    (tmp_path / "config.yaml").write_text((runs / "midway" / "config.yaml").read_text())
    assert pack.main([f"run={tmp_path}", f"to={tmp_path / 'packed'}"]) == 2
    assert "holds no checkpoint of an agent" in told(capsys)


def test_only_what_is_known_is_squeezed_and_comes_back():
    random = np.random.default_rng(0)
    for x in (
        random.normal(size=(7, 3)).astype(np.float32),
        random.integers(0, 9, 50).astype(np.int32),
        np.zeros((0, 4), np.float32),
        np.float32(3),
        np.array([True, False]),
    ):
        x = np.asarray(x)
        again = packing.unsqueeze(packing.squeeze(x), x.dtype, x.shape)
        assert again.dtype == x.dtype and again.shape == x.shape
        np.testing.assert_array_equal(again, x)


def test_squeezing_a_normal_saves_most_of_its_exponents():
    x = np.random.default_rng(0).normal(size=50_000).astype(np.float32)
    assert 0.8 < len(packing.squeeze(x)) / x.nbytes < 0.9

"""The commit unit: whatever happens while writing, loading gives a whole state or says why not."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreaming import checkpoint
from dreaming.checkpoint import NoState, atomic_write, commit, load, state_sha256
from dreaming.errors import CheckpointError
from dreaming.stages import Stages, config_hash
from envs.types import Context

ROOT = Path(__file__).parents[2]


def make_state(value: float) -> dict:
    """A state with every kind of leaf that a stage saves, all saying `value`."""
    context = Context(
        o=jnp.full((2, 1, 3), value),
        a=jnp.zeros((2, 0, 2)),  # an array of size zero
        elapsed=jnp.full((2, 1), int(value), jnp.int32),
        valid=jnp.ones((2, 1), bool),
    )
    return {
        "params": {"w": jnp.full((4, 3), value), "b": jnp.zeros(3)},
        "key": jnp.array([int(value), 7], jnp.uint32),
        "frames": np.full((5, 2), int(value), np.uint8),
        "generator": np.array([2**64 - 1, int(value)], np.uint64),
        "scalar": np.float64(value),
        "counters": (int(value), 2**70, True, float("nan"), 0.1 + value, "text"),
        "context": context,
    }


OLD, NEW = make_state(1), make_state(2)
HASHES = {state_sha256(OLD): "old", state_sha256(NEW): "new"}


def save(directory, state):
    return commit(directory, state, stage="fit", config_hash="abc")


def test_a_state_comes_back_with_its_types_and_its_hash(tmp_path):
    save(tmp_path, OLD)
    like = make_state(0)
    back = load(tmp_path, like)
    assert state_sha256(back) == state_sha256(OLD)
    same = lambda a, b: type(a) is type(b) or isinstance(b, np.generic)
    assert jax.tree.all(jax.tree.map(same, back, like))
    abstract = jax.eval_shape(lambda: OLD["params"])
    save(tmp_path / "params", OLD["params"])
    assert isinstance(load(tmp_path / "params", abstract)["w"], jax.Array)


def test_the_hash_sees_values_types_shapes_and_names():
    x = np.arange(6, dtype=np.float32)
    seen = [
        state_sha256(state)
        for state in (
            {"a": x},
            {"b": x},
            {"a": x.reshape(2, 3)},
            {"a": x.astype(np.int32)},
            {"a": x + np.float32(1e-6)},
            {"a": x, "n": 1},
            {"a": x, "n": 1.0},
            {"a": x, "n": True},
            {"a": x, "n": "1"},
        )
    ]
    assert len(set(seen)) == len(seen)
    assert state_sha256({"a": x}) == state_sha256({"a": jnp.asarray(x)})
    assert state_sha256({"a": x.reshape(2, 3).T}) == state_sha256({"a": x.reshape(2, 3).T.copy()})
    # The value of this hash is public: it must not change with the platform or the version.
    known = "da0b8f983be33e088f42f0512183329ba03b3f6f92a18caa3e0d01eb8d6fad24"
    assert state_sha256({"a": x}, 1) == known


def test_only_the_new_state_and_the_one_before_are_kept(tmp_path):
    for value in range(5):
        save(tmp_path, make_state(value))
        assert load(tmp_path, OLD)["counters"][0] == value
    assert sorted(os.listdir(tmp_path)) == ["000004", "000005"]


class Killed(BaseException):
    """Not an `Exception`: like a kill, it runs no clean-up of ours."""


OPERATIONS = ("mkdir", "open", "write", "fsync", "replace", "rename", "unlink", "rmdir")


def interrupt(monkeypatch, at: int, error: BaseException) -> list[str]:
    """Let file operation number `at` raise; the operations done until then are in the list."""
    done: list[str] = []

    def wrap(name):
        real = getattr(os, name)

        def operation(*args, **kwargs):
            if len(done) == at:
                if name == "write":
                    real(args[0], bytes(args[1])[: len(args[1]) // 2])
                if isinstance(error, OSError):
                    done.append(name)  # the disk was full for a moment; a kill is for ever
                raise error
            done.append(name)
            return real(*args, **kwargs)

        return operation

    for name in OPERATIONS:
        monkeypatch.setattr(os, name, wrap(name))
    return done


def count_operations(tmp_path, monkeypatch, history) -> int:
    directory = tmp_path / "count"
    for state in history:
        save(directory, state)
    with monkeypatch.context() as patch:
        done = interrupt(patch, -1, Killed())
        save(directory, NEW)
    return len(done)


@pytest.mark.parametrize("history", [[], [OLD], [OLD, OLD]], ids=["first", "second", "later"])
def test_a_kill_at_any_file_operation_leaves_the_old_or_the_new_state(
    tmp_path, monkeypatch, history
):
    total = count_operations(tmp_path, monkeypatch, history)
    assert total >= 12
    outcomes = []
    for at in range(total):
        directory = tmp_path / str(at)
        for state in history:
            save(directory, state)
        with monkeypatch.context() as patch:
            done = interrupt(patch, at, Killed())
            with pytest.raises(Killed):
                save(directory, NEW)
            assert len(done) == at
        try:
            outcomes.append(HASHES[state_sha256(load(directory, OLD))])
        except NoState:
            outcomes.append("none")
        save(directory, NEW)
        assert HASHES[state_sha256(load(directory, OLD))] == "new"
        assert not list(directory.glob(f"{checkpoint.TEMPORARY}*"))
    before = "old" if history else "none"
    assert set(outcomes) == {before, "new"}
    assert outcomes == sorted(outcomes, key=[before, "new"].index)  # one instant decides


def test_everything_is_synced_before_the_name_is_given(tmp_path, monkeypatch):
    events = []
    for name in ("fsync", "rename"):
        real = getattr(os, name)
        describe = (
            (lambda fd: os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
            if name == "fsync"
            else (lambda old, new: "rename")
        )
        monkeypatch.setattr(
            os, name, lambda *a, real=real, see=describe: (events.append(see(*a)), real(*a))[1]
        )
    save(tmp_path / "fit", NEW)
    before, after = events[: events.index("rename")], events[events.index("rename") + 1 :]
    written = ["arrays.safetensors.tmp", "manifest.json.tmp", "unfinished-000001"]
    assert [e for e in before if e in written] == written
    assert after == ["fit"]


@pytest.mark.parametrize("history", [[], [OLD]], ids=["first", "second"])
def test_a_full_disk_is_one_line_and_the_old_state_stands(tmp_path, monkeypatch, history):
    total = count_operations(tmp_path, monkeypatch, history)
    told = 0
    for at in range(total):
        directory = tmp_path / str(at)
        for state in history:
            save(directory, state)
        with monkeypatch.context() as patch:
            interrupt(patch, at, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
            try:
                save(directory, NEW)
            except CheckpointError as error:
                told += 1
                assert "No space left on device" in str(error) and str(directory) in str(error)
                assert "\n" not in str(error)
        if history:
            assert state_sha256(load(directory, OLD)) in HASHES
    assert told >= 10


def test_no_flipped_bit_and_no_cut_file_is_silent(tmp_path):
    save(tmp_path / "state", OLD)
    unit = save(tmp_path / "state", NEW)
    loud, rng = 0, np.random.default_rng(0)
    for file in sorted(unit.iterdir()):
        good = file.read_bytes()
        places = rng.choice(len(good), size=min(len(good), 250), replace=False)
        faults = [good[:at] + bytes([good[at] ^ (1 << at % 8)]) + good[at + 1 :] for at in places]
        faults += [good[: int(at)] for at in places[:50]] + [b"", good + b" "]
        for fault in faults:
            assert fault != good
            file.write_bytes(fault)
            with pytest.warns(UserWarning, match="000002 is not used"):
                back = load(tmp_path / "state", OLD)
            assert HASHES[state_sha256(back)] == "old"
            loud += 1
        file.write_bytes(good)
    assert loud >= 600
    assert HASHES[state_sha256(load(tmp_path / "state", OLD))] == "new"


def test_a_missing_file_falls_back_and_nothing_left_is_said(tmp_path):
    said: list[str] = []
    save(tmp_path, OLD)
    unit = save(tmp_path, NEW)
    (unit / "arrays.safetensors").unlink()
    assert HASHES[state_sha256(load(tmp_path, OLD, say=said.append))] == "old"
    assert len(said) == 1 and "arrays.safetensors: No such file" in said[0]
    save(tmp_path, NEW)  # the good one before it stays, the damaged one goes
    assert sorted(os.listdir(tmp_path)) == ["000001", "000003"]
    for name in ("000001", "000003"):
        (tmp_path / name / "manifest.json").write_text("{}")
    with pytest.raises(NoState, match="no complete state"):
        load(tmp_path, OLD, say=said.append)


def test_a_state_of_another_kind_is_refused_by_name(tmp_path, monkeypatch):
    save(tmp_path, {"w": jnp.zeros((2, 3)), "n": 1})
    cases = [
        ({"w": jnp.zeros((2, 4)), "n": 1}, r"'w'\] is float32\[2, 3\], expected float32\[2, 4\]"),
        ({"w": jnp.zeros((2, 3), bool), "n": 1}, r"'w'\] is float32\[2, 3\], expected bool"),
        ({"w": jnp.zeros((2, 3)), "n": 1.0}, r"'n'\] is int, expected float"),
        ({"w": jnp.zeros((2, 3))}, r"'n'\] is int, expected no such leaf"),
        ({"w": jnp.zeros((2, 3)), "n": 1, "x": 2}, r"'x'\] is missing, expected int"),
    ]
    for like, words in cases:
        with pytest.raises(CheckpointError, match=words):
            load(tmp_path, like)
    like = {"w": jnp.zeros((2, 3)), "n": 1}
    with pytest.raises(CheckpointError, match="its stage is fit, expected distil"):
        load(tmp_path, like, stage="distil")
    with pytest.raises(CheckpointError, match="its config_hash is abc, expected abd"):
        load(tmp_path, like, config_hash="abd")
    monkeypatch.setattr(checkpoint, "SCHEMA_VERSION", 2)
    with pytest.raises(CheckpointError, match="schema_version is 1, expected 2"):
        load(tmp_path, like)


def test_stages_resume_and_refuse_another_configuration(tmp_path):
    said: list[str] = []
    configs = {"fit": {"steps": 100, "lr": 1e-3, "net": {"width": 64}}, "distil": {"steps": 5}}
    stages = Stages(tmp_path, configs, say=said.append)
    assert not stages.done("fit")
    stages.commit("fit", OLD, {"loss": np.float32(0.5), "best": np.arange(2)})
    assert stages.done("fit") and not stages.done("distil")
    assert HASHES[state_sha256(stages.load("fit", NEW))] == "old"
    assert stages.info("fit") == {"loss": 0.5, "best": [0, 1]}

    other = Stages(tmp_path, {"fit": configs["fit"] | {"net": {"width": 32}}}, say=said.append)
    with pytest.raises(CheckpointError, match=r"stage fit: net\.width was 64, is 32\); choose"):
        other.done("fit")
    with pytest.raises(CheckpointError, match="config_hash"):
        other.load("fit", NEW)
    assert not said

    (tmp_path / "state" / "fit" / "000001" / "manifest.json").unlink()
    assert not stages.done("fit")
    assert "stage fit runs again" in said[-1]
    stages.commit("fit", NEW)
    assert stages.done("fit") and HASHES[state_sha256(stages.load("fit", OLD))] == "new"


def test_the_config_hash_depends_on_values_not_on_their_order():
    assert config_hash({"a": 1, "b": [2]}) == config_hash({"b": [2], "a": 1})
    assert config_hash({"a": 1}) != config_hash({"a": 2}) != config_hash({"b": 2})


def test_atomic_write_gives_the_old_or_the_new_file(tmp_path, monkeypatch):
    path = tmp_path / "new" / "result.json"
    atomic_write(path, '{"a": 1}')
    seen = set()
    for at in range(6):
        with monkeypatch.context() as patch:
            interrupt(patch, at, Killed())
            with pytest.raises(Killed):
                atomic_write(path, b'{"a": 2}')
        seen.add(json.loads(path.read_bytes())["a"])
        atomic_write(path, '{"a": 1}')
    assert seen == {1, 2}
    with monkeypatch.context() as patch:
        interrupt(patch, 2, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        with pytest.raises(CheckpointError, match="result.json: No space left on device"):
            atomic_write(path, b'{"a": 2}')
    assert os.listdir(path.parent) == ["result.json"] and json.loads(path.read_text())["a"] == 1


WRITER = """
import sys, numpy as np
from dreaming.checkpoint import commit
value = 0
while True:
    value += 1
    state = {"x": np.full(200_000, value, np.int32), "n": value}
    commit(sys.argv[1], state, stage="fit", config_hash="abc")
    print(value, flush=True)
"""


def test_a_real_kill_loses_nothing_that_was_committed(tmp_path):
    like = {"x": np.zeros(200_000, np.int32), "n": 0}
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            shutil.rmtree(tmp_path / "state", ignore_errors=True)
            command = [sys.executable, "-c", WRITER, str(tmp_path / "state")]
            with subprocess.Popen(command, stdout=subprocess.PIPE, env=env, text=True) as writer:
                assert writer.stdout is not None
                told = [writer.stdout.readline() for _ in range(rng.integers(2, 20))]
                writer.send_signal(signal.SIGKILL)
                told += writer.stdout.read().split()
            state = load(tmp_path / "state", like)
            assert state["n"] >= int(told[-1]) and (state["x"] == state["n"]).all()

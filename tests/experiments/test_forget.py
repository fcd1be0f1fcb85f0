"""`dreaming forget`: runs that learned from a session are found, and rebuilding is exact."""

import json

import pytest

from dreaming.observe.collect import record
from envs.traces import TraceStore
from envs.types import Trace


def log(path, *sessions, consent=None):
    """A store with steps on ice for each session, the number of which is its seed."""
    store = TraceStore(path)
    for seed in sessions:
        for trace in record("FrozenLake-v1", "random", 60, seed):
            rights = {"consent": consent} if seed == 2 else {}
            fields = {"session": f"s{seed}", "policy": trace.policy} | rights
            steps = trace.actions, trace.rewards, trace.terminated, trace.truncated
            p = trace.propensities
            store.append(Trace(trace.observations, *steps, propensities=p, **fields))
    return store


def test_runs_that_learned_from_it_are_named_and_removed(tmp_path, verb, fails):
    for name, sessions in (("one", (1, 2)), ("two", (1, 3))):
        log(tmp_path / "runs" / name / "traces", *sessions)
        (tmp_path / "runs" / name / "config.yaml").write_text("seed: 0\n")
    log(tmp_path / "runs" / "logs" / "traces", 1, 2)  # no run, but a log of this name
    log(tmp_path / "log", 1, 2, 3)
    before = len(TraceStore(tmp_path / "log"))
    words = [f"path={tmp_path}/log", "session=s2"]
    code, out, _ = verb("forget", *words, f"runs={tmp_path}/runs")
    store = TraceStore(tmp_path / "log")
    assert code == 0 and f"{before - len(store)} episodes in {tmp_path}/log, now gone" in out
    assert "s2" not in store.index()["session"].to_pylist()
    assert f"{tmp_path}/runs/one learned from it: remove it" in out and "runs/two" not in out
    code, out, _ = verb("forget", *words, f"runs={tmp_path}/runs", "remove=true")
    assert "session s2: no episode of it" in out and f"removed {tmp_path}/runs/one" in out
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["logs", "two"]
    fails("forget", *words, "remove=true", words=["name a directory of runs with runs="])
    fails("forget", f"path={tmp_path}/nowhere", "session=s", words=["is no trace store"])


@pytest.mark.slow
def test_what_is_built_afterwards_is_what_would_have_been_built_without(tmp_path, verb):
    """The same hash of a fit: forgotten, never recorded, and never consented to; not kept."""
    log(tmp_path / "forgotten", 1, 2, 3)
    assert verb("forget", f"path={tmp_path}/forgotten", "session=s2")[0] == 0
    log(tmp_path / "never", 1, 3)
    log(tmp_path / "refused", 1, 2, 3, consent=False)
    log(tmp_path / "kept", 1, 2, 3)
    hashes = {}
    for name in ("forgotten", "never", "refused", "kept"):
        words = [f"traces={tmp_path}/{name}", f"hydra.run.dir={tmp_path}/runs/{name}"]
        code, out, err = verb("fit", *words, "env=none", "model.name=counts")
        assert code == 0, err
        assert ("without consent" in out) == (name == "refused")
        result = json.loads((tmp_path / "runs" / name / "result.json").read_text())
        store = TraceStore(tmp_path / "runs" / name / "traces")
        hashes[name] = result["state_sha256"], store.digest()
    assert hashes["forgotten"] == hashes["never"] == hashes["refused"] != hashes["kept"]

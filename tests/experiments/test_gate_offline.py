"""A log and no real task: the run ends with a verdict that the log gave, in words."""

import json

import numpy as np
import pytest

from envs.traces import TraceStore


def test_env_none_ends_with_a_verdict_from_the_log(verb, tmp_path):
    log, run_dir = tmp_path / "log", tmp_path / "run"
    assert verb("record", "env.real_steps=600", f"path={log}")[0] == 0
    assert all(trace.propensities is not None for trace in TraceStore(log).traces())
    arguments = "env=none", f"traces={log}", f"hydra.run.dir={run_dir}"
    code, out, err = verb("dream", *arguments)
    result = json.loads((run_dir / "result.json").read_text())
    assert (code, err) == (0, [])
    first, *words = result["reasons"]
    assert first.startswith("no real environment: ") and first in out
    for name in ("fitted Q", "doubly robust", "the judge's dreams"):
        assert any(word.startswith((f"{name}: ", f"{name} is ignored: ")) for word in words), name
    assert result["gate_steps"] == 0 and result["candidate_return"] is None
    page = (run_dir / "report.html").read_text()
    assert "No real environment: " in page and "Fitted Q" in page
    assert (run_dir / "candidate" / "policy.json").exists()
    accepted = result["verdict"] == "accept"
    assert (run_dir / "policy").exists() == accepted == (result["deployed_sha256"] is not None)
    logged = [x.rewards.sum() for x in TraceStore(log).traces() if not x.is_open]
    assert result["incumbent_return"]["mean"] == pytest.approx(np.mean(logged))
    assert result["incumbent_return"]["episodes"] == len(logged)
    assert result["deployed_return"] == (None if accepted else result["incumbent_return"])
    assert (result["trial"], result["gate_episodes"]) == (0, 0)
    trials = (run_dir / "trials.json").read_bytes()

    before = result["state_sha256"], result["verdict"], result["reasons"]
    code, out, err = verb("dream", *arguments)  # every stage is loaded, the gate too
    again = json.loads((run_dir / "result.json").read_text())
    assert code == 0 and (again["state_sha256"], again["verdict"], again["reasons"]) == before
    assert (run_dir / "trials.json").read_bytes() == trials

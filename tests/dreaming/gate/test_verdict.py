"""What a verdict deploys, and when a log cannot speak for a candidate."""

import numpy as np

from dreaming.gate.incumbent import Incumbent
from dreaming.gate.verdict import Verdict, improvable, no_evidence, ungated
from envs.types import Trace

OLD = Incumbent("old", True, np.zeros(0), [], None, np.zeros(0))


def test_what_is_deployed():
    """The candidate, or its mixture with the incumbent; a rejection leaves what there was."""
    accepted = Verdict(True, 1.0, 2.0, 1.5, ("why",))
    assert accepted.word == "accept" and accepted.deployed("new", OLD, None) == "new"
    mixed = Verdict(True, 1.0, 2.0, 1.5, ("why",), share=0.25).deployed("new", OLD, None)
    assert (mixed["old"], mixed["new"], float(mixed["share"])) == ("old", "new", 0.25)
    rejected = Verdict(False, -1.0, 2.0, 0.5, ("why",))
    assert rejected.word == "reject"
    assert rejected.deployed("new", OLD, None) is None  # round 0: nothing, and no clone either
    assert rejected.deployed("new", OLD, "before") == "before"
    assert ungated().word == "ungated" and ungated().deployed("new", OLD, None) == "new"


def test_no_evidence_rejects():
    verdict = no_evidence("and the log is short")
    assert not verdict.accept
    reason = "no evidence: there is no real environment to test in, and the log is short"
    assert verdict.reasons == (reason,)


def episode(rewards, terminated=False, truncated=True) -> Trace:
    steps = len(rewards)
    return Trace(np.zeros((steps + 1, 2)), np.zeros(steps, int), rewards, terminated, truncated)


def test_a_log_without_a_success_is_not_improvable():
    failures = [episode([-1.0] * 200) for _ in range(12)]
    ok, reason = improvable(failures)
    assert not ok
    assert "all 12 closed episodes of the log returned -200.0" in reason
    assert "nothing distinguishes good from bad" in reason
    cut = episode([-1.0] * 50, truncated=False)
    assert not improvable([*failures, cut])[0]  # an open episode has no return yet
    success = episode([-1.0] * 150, terminated=True, truncated=False)
    assert improvable([*failures, success]) == (True, "")


def test_any_variation_in_return_is_enough():
    assert improvable([episode([0.0, 1.0]), episode([0.0, 0.0])])[0]
    assert not improvable([episode([0.0, 1.0]), episode([1.0, 0.0])])[0]
    assert improvable([episode([0.0, 1.0], truncated=False)])[0]
    assert not improvable([episode([1.0, 1.0], truncated=False)])[0]
    assert improvable([]) == (False, "not improvable: the log holds no episode")

"""The gate without a real task: two of three, none against; mixtures; words; small logs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreaming.config import GateConfig
from dreaming.gate.evidence import Evidence
from dreaming.gate.offline import SHARES, offline_gate, offline_verdict, passes, unknown, weigh
from dreaming.world.judge import Judge
from dreaming.world.physics import make_world
from envs import tabular
from envs.types import Trace
from experiments.study.cases import Task, record
from experiments.study.judges import tabular_log, tabular_student

ROAD = tabular.corridor(5, slip=0.1)
TASK = Task("road", ROAD, ROAD, horizon=12, log_steps=2000)
RANDOM = np.full((5, 2), 0.5)
RIGHT = np.tile([0.1, 0.9], (5, 1))
LEFT = RIGHT[:, ::-1]
LOG = tabular_log(record(TASK, RANDOM, 0), ROAD)
NOBODY = Judge([], [], None, jax.random.key(0))

GOOD, BAD, OPEN = (1.0, 0.5, 1.5), (-1.0, -1.5, -0.5), (0.2, -0.5, 1.0)
NOTHING = (np.nan, np.nan, np.nan)


@pytest.mark.parametrize(
    "estimates, passed",
    [
        ((GOOD, GOOD, GOOD), True),
        ((GOOD, GOOD, OPEN), True),
        ((GOOD, NOTHING, GOOD), True),
        ((GOOD, OPEN, OPEN), False),
        ((GOOD, NOTHING, NOTHING), False),  # one voice is not enough
        ((GOOD, GOOD, BAD), False),  # nor two against a veto
        ((NOTHING, NOTHING, NOTHING), False),
    ],
)
def test_two_voices_for_and_none_against(estimates, passed):
    assert passes(np.array(estimates), 0.0) is passed


def test_the_least_gain_asked_for_must_be_passed_by_both():
    assert passes(np.array([GOOD, GOOD, OPEN]), 0.4)
    assert not passes(np.array([GOOD, GOOD, OPEN]), 0.5)


def a_row(*estimates, effective=50.0):
    return {
        "intervals": np.array(estimates), "effective": effective, "diverged": 0, "segments": 100,
        "dreams": 256,
    }  # fmt: skip


def test_mixtures_are_tried_until_one_passes():
    tried = []

    def evidence(policy):
        tried.append(float(policy.get("share", 1.0)))
        return a_row(GOOD, GOOD if tried[-1] <= 0.25 else OPEN, OPEN)

    new, old = tabular_student(RIGHT), tabular_student(RANDOM)
    found = weigh(evidence, new, old, 0.0)
    assert tried == [1.0, 0.5, 0.25]
    verdict = offline_verdict(found, GateConfig(), 0.95)
    assert verdict.accept and verdict.share == 0.25
    assert (verdict.lower, verdict.upper, verdict.gain) == (0.5, 1.0, 1.0)
    assert "a mixture that asks it in 25% of the steps" in verdict.reasons[0]
    assert verdict.reasons[-1].startswith("of the candidate alone, the judge's dreams: +0.2")
    deployed = verdict.deployed(new, old)
    assert deployed["share"] == 0.25 and deployed["new"] is new and deployed["old"] is old


def test_a_little_harm_is_harm():
    """Where an estimate sees harm no mixture is tried."""
    tried = []
    evidence = lambda policy: tried.append(policy) or a_row(GOOD, BAD, GOOD)
    found = weigh(evidence, tabular_student(RIGHT), tabular_student(RANDOM), 0.0)
    assert len(tried) == 1
    verdict = offline_verdict(found, GateConfig(), 0.95)
    assert not verdict.accept and verdict.deployed(1, 2) == 2
    assert "2 of 3 estimates" in verdict.reasons[0]
    assert "doubly robust saw harm" in verdict.reasons[0]


def test_reasons_give_every_number_or_say_why_there_is_none():
    found = unknown()
    for name, x in a_row(GOOD, NOTHING, OPEN, effective=3.24).items():
        found[name][0] = x
    config = GateConfig()
    verdict = offline_verdict(found, config, 0.97)
    assert not verdict.accept
    assert verdict.reasons == (
        "no real environment: 1 of 3 estimates from the log have a lower bound above zero, two "
        "are needed; no mixture passed either",
        "fitted Q: +1 [+0.5, +1.5] per episode, discounted (97.0% interval)",
        "doubly robust is ignored: too few effective samples, 3.2 episodes where 30 are needed",
        "the judge's dreams: +0.2 [-0.5, +1] per episode (97.0% interval)",
    )
    told = lambda name, x: " ".join(
        offline_verdict(found | {name: np.full(4, x)}, config, 0.97).reasons
    )
    found["intervals"][0] = np.nan
    assert "no propensities" in told("effective", np.nan)
    assert "the values of 9 of 32 members left what rewards allow" in told("diverged", 9)
    assert "there is no judge" in told("dreams", 0)
    assert "7 held-out segments of the log, 20 are needed" in told("segments", 7)


def test_error_probability_is_spent_across_rounds():
    config = GateConfig(level=0.95)
    spent = sum(1 - config.level_of(k) for k in range(10_000))
    assert abs(1 - config.level_of(0) - 0.05 * 6 / np.pi**2) < 1e-12
    assert 0.0499 < spent < 0.05


def count_judge(log):
    """A pair of count models, one per half of the log."""
    halves = [log.only(np.arange(i, len(log.traces), 2)) for i in (0, 1)]
    models = [tabular.TabularModel(tabular.from_traces(x.traces, 5, 2), 0.9) for x in halves]
    worlds = [
        make_world(model, model.params, half, TASK.horizon, {"discount": 0.9})
        for model, half in zip(models, halves, strict=True)
    ]
    return Judge(worlds, halves[::-1], tabular_student(RANDOM), jax.random.key(0))


def once(stage, total, like, work):
    """Works a stage out; what it leaves must have the structure that was announced."""
    state = work(lambda n: None)
    shape = lambda tree: jax.tree.map(lambda x: (np.shape(x), np.asarray(x).dtype), tree)
    assert stage == "gate" and shape(state) == shape(like)
    return state


def decide(candidate, log=LOG, judge=None, config=None):
    new = tabular_student(candidate) if isinstance(candidate, np.ndarray) else candidate
    old = tabular_student(RANDOM)
    judge = count_judge(log) if judge is None else judge
    config = config or GateConfig(members=16)
    evidence = {"log": log, "window": 1, "discount": 0.9, "judge": judge}
    rules = {"rounds": 0, "key": jax.random.key(1), "config": config, "once": once}
    return offline_gate(new, old, **evidence, **rules)


def test_a_clear_gain_is_accepted_and_the_same_loss_refused():
    verdict = decide(RIGHT)
    assert verdict.accept and verdict.share == 1 and verdict.steps == 0 and verdict.lower > 0
    worse = decide(LEFT)
    assert not worse.accept and worse.upper < 0 and "saw harm" in worse.reasons[0]


def test_the_incumbent_itself_is_no_gain():
    verdict = decide(RANDOM)
    assert not verdict.accept and verdict.gain == 0


def test_near_the_behaviour_the_doubly_robust_estimate_speaks():
    near = np.tile([0.4, 0.6], (5, 1))
    verdict = decide(near, judge=NOBODY)
    words = " ".join(verdict.reasons)
    assert verdict.accept and "the judge's dreams is ignored: there is no judge" in words
    assert "doubly robust: +" in words


def test_a_greedy_candidate_needs_the_judge():
    greedy = tabular_student(RIGHT) | {"greedy": jnp.array(True)}
    alone = decide(greedy, judge=NOBODY)
    assert any("too few effective samples" in reason for reason in alone.reasons)
    assert alone.share < 1  # at most a cautious mixture
    together = decide(greedy)
    assert together.accept and together.share == 1


def test_small_logs_and_logs_that_teach_nothing_are_no_evidence():
    few = tabular_log(list(LOG.traces)[:9], ROAD)
    verdict = decide(RIGHT, log=few, judge=NOBODY)
    assert not verdict.accept
    assert verdict.reasons == (
        "no evidence: there is no real environment to test in, and the log holds 9 episodes, "
        "fewer than the 10 it takes",
    )
    dull = [Trace(np.zeros(4, int), np.array([0, 1, 0]), np.ones(3), False, True)] * 20
    verdict = decide(RIGHT, log=tabular_log(dull, ROAD), judge=NOBODY)
    assert "nothing in the log to ask" in verdict.reasons[0] and not verdict.accept


def test_diverged_members_are_counted_and_too_many_silence_the_estimate():
    evidence = Evidence(LOG, 1, 0.9, tabular_student(RANDOM), NOBODY, GateConfig(members=16), 0.95,
                        jax.random.key(0))  # fmt: skip
    fine = evidence._evaluate(tabular_student(RIGHT))
    assert evidence.fitted_q(fine)[1] == 0
    wild = lambda count: fine.replace(values=fine.values.at[:count].set(jnp.nan))
    interval, diverged = evidence.fitted_q(wild(2))
    assert diverged == 2 and np.isfinite(interval).all()
    interval, diverged = evidence.fitted_q(wild(3))
    assert diverged == 3 and np.isnan(interval).all()
    # Rewards are 0 or 1: nothing is worth more than 1 / (1 - 0.9), nor less than 0.
    assert evidence.fitted_q(fine.replace(values=fine.values + 11.5))[1] == 16


def test_shares_fall():
    assert SHARES == (1.0, 0.5, 0.25, 0.1)

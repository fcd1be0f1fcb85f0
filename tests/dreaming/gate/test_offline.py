"""The gate without a real task: one firmly, another that agrees, none against; mixtures; words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreaming.config import GateConfig
from dreaming.gate.evidence import UNKNOWN, Evidence, agreeing, nearer
from dreaming.gate.incumbent import Incumbent
from dreaming.gate.logged_steps import paid_by, possible
from dreaming.gate.offline import (
    SHARES,
    SPENT,
    offline_gate,
    offline_verdict,
    passes,
    unknown,
    weigh,
)
from dreaming.gate.returns import Gain
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

CONFIG, NAMES = GateConfig(members=16), ("behaviour cloning", "the process as it ran")
# (gain, lower, upper), and the lower bound that is only likely
GOOD, BAD, OPEN = (1.0, 0.5, 1.5, 0.8), (-1.0, -1.5, -0.5, -1.2), (0.2, -0.5, 1.0, -0.1)
AGREES, NOTHING = (0.5, -0.1, 1.1, 0.2), (np.nan, np.nan, np.nan, np.nan)


def a_row(*estimates, effective=50.0):
    estimates = np.array(estimates)
    return {
        "intervals": estimates[:, :3], "likely": estimates[:, 3], "over": np.zeros(3),
        "error": 0.015, "effective": effective, "diverged": 0, "segments": 100, "opinions": 8,
    }  # fmt: skip


def evidence_of(*estimates, counts=(True, True, True), **more):
    found = unknown() | {"counts": np.array(counts)}
    for name, x in a_row(*estimates, **more).items():
        found[name][0] = x
    return found


@pytest.mark.parametrize(
    "estimates, passed",
    [
        ((GOOD, GOOD, GOOD), True),
        ((GOOD, GOOD, OPEN), True),
        ((GOOD, NOTHING, GOOD), True),
        ((GOOD, AGREES, OPEN), True),  # one firmly, and one that agrees
        ((AGREES, AGREES, AGREES), False),  # many who think so are no proof
        ((GOOD, OPEN, OPEN), False),
        ((GOOD, NOTHING, NOTHING), False),  # one voice is not enough
        ((GOOD, GOOD, BAD), False),  # nor two against a veto
        ((NOTHING, NOTHING, NOTHING), False),
    ],
)
def test_one_firmly_another_that_agrees_and_none_against(estimates, passed):
    assert passes(evidence_of(*estimates), 0, 0.0) is passed


def test_judges_that_share_episodes_count_one_estimate_less():
    """What they say for the candidate is not heard; the harm they see is."""
    shared = {"counts": (True, True, False)}
    assert not passes(evidence_of(GOOD, NOTHING, GOOD, **shared), 0, 0.0)
    assert passes(evidence_of(GOOD, AGREES, OPEN, **shared), 0, 0.0)
    assert not passes(evidence_of(GOOD, GOOD, BAD, **shared), 0, 0.0)
    verdict = offline_verdict(evidence_of(GOOD, NOTHING, GOOD, **shared), CONFIG, NAMES)
    assert "1 of 2 estimates" in verdict.reasons[0] and "not independent" in verdict.reasons[3]


def test_estimates_that_err_independently_pass_as_often_as_one_errs():
    """Uniform error probabilities of n estimates: one below alpha, another below `agreeing`."""
    random, alpha = np.random.default_rng(0), 0.05
    for n in (2, 3):
        p = np.sort(random.random((200_000, n)), axis=1)
        passed = ((p[:, 0] < alpha) & (p[:, 1] < agreeing(n))).mean()
        assert 0.7 * alpha < passed < alpha


def test_the_least_gain_asked_for_must_be_passed_by_both():
    assert passes(evidence_of(GOOD, GOOD, OPEN), 0, 0.4)
    assert not passes(evidence_of(GOOD, GOOD, OPEN), 0, 0.5)
    assert not passes(evidence_of(GOOD, AGREES, OPEN), 0, 0.3)


def test_mixtures_are_tried_until_one_passes_and_share_the_error():
    tried, errors = [], []

    def evidence(policy, error):
        tried.append(float(policy.get("share", 1.0)))
        errors.append(error)
        return a_row(GOOD, GOOD if tried[-1] <= 0.25 else OPEN, OPEN)

    new, old = tabular_student(RIGHT), tabular_student(RANDOM)
    found = weigh(evidence, new, old, CONFIG, trial=2)
    assert tried == [1.0, 0.5, 0.25] and found["trial"] == 2
    spent = 1 - CONFIG.level_of(2)
    np.testing.assert_allclose(errors, spent * np.array(SPENT[:3]))
    assert sum(SPENT) == pytest.approx(1)
    verdict = offline_verdict(found, CONFIG, NAMES)
    assert verdict.accept and verdict.share == 0.25
    assert (verdict.lower, verdict.upper, verdict.gain) == (0.5, 1.0, 1.0)
    assert "a mixture that asks it in 25% of the steps" in verdict.reasons[0]
    assert verdict.reasons[-1].startswith("of the candidate alone, the judge's dreams: +0.2")


def test_a_little_harm_is_harm():
    """Where an estimate sees harm no mixture is tried."""
    tried = []
    evidence = lambda policy, error: tried.append(policy) or a_row(GOOD, BAD, GOOD)
    found = weigh(evidence, tabular_student(RIGHT), tabular_student(RANDOM), CONFIG)
    assert len(tried) == 1
    verdict = offline_verdict(found, CONFIG, NAMES)
    assert not verdict.accept
    assert "2 of 3 estimates" in verdict.reasons[0]
    assert "doubly robust saw harm" in verdict.reasons[0]


def test_reasons_give_every_number_or_say_why_there_is_none():
    found = evidence_of(GOOD, NOTHING, OPEN, effective=3.24)
    found["over"][0, 2] = 1
    config = GateConfig()
    verdict = offline_verdict(found, config, NAMES)
    assert not verdict.accept
    assert verdict.reasons == (
        "no real environment: 1 of 3 estimates from the log has a lower bound above zero; one, and "
        "another that agrees, are needed",
        "fitted Q: +1 [+0.5, +1.5] per episode over behaviour cloning (97.0% interval)",
        "doubly robust is ignored: too few effective samples, 3.2 episodes where 30 are needed",
        "the judge's dreams: +0.2 [-0.5, +1] per episode over the process as it ran (97.0% "
        "interval)",
    )
    told = lambda name, x: " ".join(
        offline_verdict(found | {name: np.full(4, x)}, config, NAMES).reasons
    )
    found["intervals"][0] = np.nan
    assert "needs propensities of all episodes" in told("effective", np.nan)
    assert "the values of 9 of 32 members left what rewards allow" in told("diverged", 9)
    assert "there is no judge" in told("opinions", 0)
    assert "2 of 3 members needed" in told("opinions", 2)
    assert "7 held-out segments of the log, 20 are needed" in told("segments", 7)


def test_what_is_harder_to_beat_decides():
    easy, hard = Gain(3.0, 2.0, 4.0), Gain(1.0, -0.5, 2.0)
    assert nearer((easy, hard)) == (Gain(1.0, -0.5, 2.0), 1)
    assert nearer((hard, easy)) == (Gain(1.0, -0.5, 2.0), 0)
    assert nearer((easy, UNKNOWN)) == (easy, 0)  # there are too few logged returns


def test_error_probability_is_spent_across_rounds():
    config = GateConfig(level=0.95)
    spent = sum(1 - config.level_of(k) for k in range(10_000))
    assert abs(1 - config.level_of(0) - 0.05 * 6 / np.pi**2) < 1e-12
    assert 0.0499 < spent < 0.05


class Four(tabular.TabularModel):
    """A table believed by four members alike."""

    num_members = 4


def count_judge(log):
    """A pair of count models, one per half of the log."""
    halves = [log.only(np.arange(i, len(log.traces), 2)) for i in (0, 1)]
    models = [Four(tabular.from_traces(x.traces, 5, 2), 0.9) for x in halves]
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


def decide(candidate, log=LOG, judge=None, config=CONFIG, policy=RANDOM):
    new = tabular_student(candidate) if isinstance(candidate, np.ndarray) else candidate
    old = Incumbent.of(None, tabular_student(policy), log.traces)
    judge = count_judge(log) if judge is None else judge
    evidence = {"log": log, "window": 1, "horizon": TASK.horizon, "judge": judge}
    rules = {"trials": lambda: 0, "key": jax.random.key(1), "config": config, "once": once}
    return offline_gate(new, old, **evidence, **rules)


def test_a_clear_gain_is_accepted_and_the_same_loss_refused():
    verdict = decide(RIGHT)
    assert verdict.accept and verdict.share == 1 and verdict.steps == 0 and verdict.lower > 0
    worse = decide(LEFT)
    assert not worse.accept and worse.upper < 0 and "saw harm" in worse.reasons[0]


def test_the_incumbent_itself_is_no_gain():
    verdict = decide(RANDOM)
    assert not verdict.accept and abs(verdict.gain) < 0.05


def test_beating_a_poor_clone_is_not_beating_the_process():
    """The log is of a policy that goes right; its clone knows nothing of that."""
    log = tabular_log(record(TASK, RIGHT, 0), ROAD)
    middling = np.tile([0.4, 0.6], (5, 1))
    verdict = decide(middling, log=log)
    told = " ".join(verdict.reasons)
    assert not verdict.accept and "saw harm" in told and "over the process as it ran" in told
    assert "behaviour cloning earns" in told and "less per episode than the log" in told


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
    old = Incumbent.of(None, tabular_student(RANDOM), LOG.traces)
    evidence = Evidence(LOG, 1, TASK.horizon, old, NOBODY, CONFIG, jax.random.key(0))
    fine = evidence._evaluate(tabular_student(RIGHT))
    assert evidence.diverged(fine).sum() == 0
    wild = lambda count: fine.replace(values=fine.values.at[:count].set(jnp.nan))
    assert evidence.diverged(wild(2)).sum() == 2
    assert all(np.isfinite(gain.mean) for gain in evidence.fitted_q(wild(2), 0.02))
    assert all(np.isnan(gain.mean) for gain in evidence.fitted_q(wild(3), 0.02))
    # Only the last step pays, at most 1: no episode is worth more, or less than 0.
    assert possible(paid_by(LOG), TASK.horizon) == (0, 1)
    assert evidence.diverged(fine.replace(values=fine.values + 1.2)).all()


def test_what_an_episode_can_earn_by_hand():
    """-1 for going on and 20 for ending, three steps: from 3 * -1 to 2 * 0 + 20."""
    ended = Trace(np.zeros(3, int), np.zeros(2, int), np.array([-1.0, 20]), True, False)
    assert possible(paid_by(tabular_log([ended], ROAD)), 3) == (-3, 20)


def test_shares_fall():
    assert SHARES == (1.0, 0.5, 0.25, 0.1)

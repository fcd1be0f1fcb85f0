"""A whole round: with the oracle as its physics it solves the task; nothing else has to change."""

from pathlib import Path

import gymnasium
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import dreaming.round
from dreaming.config import (
    BaselineConfig,
    DistillConfig,
    GateConfig,
    JudgeConfig,
    RehearseConfig,
    RoundConfig,
    SearchConfig,
)
from dreaming.observe.collect import record
from dreaming.observe.log import Log
from dreaming.round import RoundState, one_round
from dreaming.student.evaluate import evaluate
from dreaming.student.network import act, mixture
from dreaming.world.fitting import fit_sizes
from dreaming.world.physics import LearnedPhysics, OraclePhysics
from envs import tabular
from envs.dream import start_context
from envs.types import Features, action_features
from worldmodels.actions import make_head
from worldmodels.config import FitConfig, ModelConfig

DISCOUNT, HORIZON, GATE = 0.95, 100, 4
LAKE = gymnasium.make("FrozenLake-v1", is_slippery=False)
TABLE = tabular.from_gym(LAKE)
STAGES = ["fit", "judge", "clone", "rehearse", "gate"]


@pytest.fixture(scope="module", autouse=True)
def as_users_run():
    """Whole rounds compile what users compile: without checks of shapes and ranks."""
    was = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    with jax.numpy_rank_promotion("allow"):
        yield
    jaxtyping.config.update("jaxtyping_disable", was)


@pytest.fixture(scope="module")
def log():
    """1,500 random steps on dry ice."""
    options = {"is_slippery": False}
    traces = list(record("FrozenLake-v1", "random", 1500, 0, env_options=options))
    return Log(traces, Features(LAKE.observation_space), action_features(LAKE.action_space))


class Once:
    """Every stage is worked out; what it leaves behind must have the structure it announced."""

    def __init__(self, kept=None):
        self.kept, self.stages = kept or {}, []

    def __call__(self, stage, total, like, work):
        if stage in self.kept:
            return self.kept[stage]
        self.stages.append(stage)
        state = work(lambda n=1, **metrics: None)
        shape = lambda x: (np.shape(x), np.dtype(getattr(x, "dtype", type(x))))
        assert jax.tree.structure(like) == jax.tree.structure(state), stage
        assert jax.tree.map(shape, like) == jax.tree.map(shape, state), stage
        self.kept[stage] = state
        return state


class Reality:
    """Episodes in the real task; remembers the seeds it was asked for."""

    def __init__(self, log):
        self.log, self.seeds = log, []

    def __call__(self, student, seeds, update):
        self.seeds.append(seeds)
        scores = evaluate(
            lambda: gymnasium.make("FrozenLake-v1", is_slippery=False),
            lambda context, keys, legal: act(student, context, keys, self.log.head, legal),
            seeds,
            observation=self.log.observation,
            action=self.log.action,
        )
        return scores.returns, scores.lengths


def config(teacher="one_step", iterations=60):
    return RoundConfig(
        search=SearchConfig(teacher=teacher),
        rehearse=RehearseConfig(iterations=iterations, dreams=32, horizon=8, taught=128),
        distill=DistillConfig(learning_rate=1e-2, width=32),
        baselines=BaselineConfig(steps=100, batch=64, width=16),
        gate=GateConfig(episodes=GATE),
    )


def oracle():
    """The true dynamics."""
    model = tabular.TabularModel(TABLE, DISCOUNT)
    return OraclePhysics(model, model.params, DISCOUNT)


def learned():
    """A world model far too small and fitted far too little."""
    return LearnedPhysics(
        ModelConfig(latent=8, width=16, members=2),
        FitConfig(steps=20, batch=8, discount=DISCOUNT),
        JudgeConfig(steps=10, least=0, members=3),
    )


def play(log, physics, settings, state=None, once=None, real=None):
    """One round of which only the named parts differ."""
    real = real or Reality(log)
    return one_round(
        state or RoundState(),
        jax.random.key(0),
        log=log,
        physics=physics,
        config=settings,
        horizon=HORIZON,
        real=real,
        once=once or Once(),
    )


def greedy(student):
    """The action of a student in each of the 16 states."""
    keys = jnp.zeros((16, 2), jnp.uint32)
    a = act(student, start_context(np.eye(16), 4), keys, make_head((4,), 4))
    return np.asarray(a).argmax(-1)


@pytest.fixture(scope="module")
def solved(log):
    """(state, report, once, real) of a round whose physics is the oracle."""
    once, real = Once(), Reality(log)
    return *play(log, oracle(), config(), once=once, real=real), once, real


def test_with_true_dynamics_a_round_solves_the_task(solved):
    state, report, once, _ = solved
    policy = greedy(report.deployed)
    assert tabular.evaluate(TABLE, policy, HORIZON) == tabular.optimum(TABLE, HORIZON) == 1
    _, q, _ = tabular.solve(TABLE, DISCOUNT)
    holes = (TABLE.terminated * TABLE.p).sum((0, 1)) > 0
    for s in np.flatnonzero(~holes):
        assert q[s, policy[s]] > q[s].max() - 1e-6, s
    assert report.verdict.accept and report.verdict.lower > 0
    assert state.rounds == 1 and state.incumbent is report.deployed
    assert report.deployed is report.rehearsed.student
    assert once.stages == STAGES[2:]  # an oracle is neither fitted nor judged


def test_what_the_log_alone_gives_does_not_solve_it(solved):
    """The task is not so easy that the round would prove nothing."""
    report = solved[1]
    clone = greedy(report.baselines["behaviour_cloning"])
    assert not report.baselines["behaviour_cloning"]["greedy"]  # it clones the randomness
    assert tabular.evaluate(TABLE, clone, HORIZON) < 1


def test_the_next_round_starts_from_the_deployed_student_with_fresh_episodes(solved, log):
    state, report, _, real = solved
    again = Reality(log)
    later, second = play(log, oracle(), config(iterations=20), state=state, real=again)
    assert later.rounds == 2
    first_seeds, second_seeds = (sum(each.seeds, []) for each in (real, again))
    assert len(set(first_seeds)) in GateConfig(episodes=GATE).looks
    assert second_seeds and not set(first_seeds) & set(second_seeds)
    assert tabular.evaluate(TABLE, greedy(second.rehearsed.student), HORIZON) == 1
    assert not second.verdict.accept  # nothing is gained over an optimal incumbent
    assert second.deployed is state.incumbent


@pytest.mark.parametrize("stage", STAGES[2:])
def test_a_stage_that_was_done_before_changes_nothing(stage, solved, log):
    """Any one stage lost and worked out again, the others loaded: the same bits."""
    kept = {name: state for name, state in solved[2].kept.items() if name != stage}
    once = Once(kept)
    _, report = play(log, oracle(), config(), once=once)
    assert once.stages == [stage]
    assert report.verdict == solved[1].verdict
    for mine, theirs in zip(
        jax.tree.leaves((report.rehearsed, report.baselines)),
        jax.tree.leaves((solved[1].rehearsed, solved[1].baselines)),
        strict=True,
    ):
        assert np.asarray(mine).tobytes() == np.asarray(theirs).tobytes()


def test_replacing_the_oracle_by_a_learned_model_changes_one_argument(log):
    once = Once()
    state, report = play(log, learned(), config(iterations=2), once=once)
    assert once.stages == STAGES and state.rounds == 1
    assert report.world.observation_space == LAKE.observation_space
    assert report.world.horizon == HORIZON and report.world.initial.any()
    assert {"skill_1", "reward_mae"} & set(report.fidelity) and report.verdict.reasons
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(report.rehearsed.student["layers"]))
    assert report.verdict.steps > 0


def without_reality(log, once, state=None, physics=None):
    """A round that has nowhere to try its candidate."""
    return one_round(
        state or RoundState(),
        jax.random.key(0),
        log=log,
        physics=physics or oracle(),
        config=config(iterations=20),
        horizon=HORIZON,
        real=None,
        once=once,
    )


def test_without_a_real_task_the_log_decides_in_one_stage(solved, log):
    kept = {name: state for name, state in solved[2].kept.items() if name != "gate"}
    once = Once(kept)
    _, report = without_reality(log, once)
    assert once.stages == ["gate"] and report.verdict.steps == 0
    words = " ".join(report.verdict.reasons)
    assert report.verdict.reasons[0].startswith("no real environment: ")
    assert "fitted Q: +" in words and "dreams is ignored: there is no judge" in words
    assert report.incumbent.is_clone and report.incumbent.policy == "random"
    whole = report.verdict.deployed(report.rehearsed.student, report.incumbent, None)
    assert jax.tree.all(jax.tree.map(np.array_equal, report.deployed, whole))
    again = Once(once.kept)
    assert without_reality(log, again)[1].verdict == report.verdict and again.stages == []


def test_a_mixture_can_be_the_next_incumbent(solved, log):
    report = solved[1]
    clone, student = report.baselines["behaviour_cloning"], report.rehearsed.student
    mixed = mixture(clone, student, 0.5)
    once = Once()
    _, later = without_reality(log, once, RoundState(incumbent=mixed, rounds=1))
    assert tabular.evaluate(TABLE, greedy(later.rehearsed.student), HORIZON) == 1
    assert "layers" in later.rehearsed.student and once.stages == STAGES[2:]


def test_a_log_too_small_for_any_estimate_is_no_evidence(log):
    once = Once()
    _, report = without_reality(log.only(np.arange(6)), once, physics=learned())
    assert "gate" not in once.stages and not report.verdict.accept
    assert any("no evidence" in reason for reason in report.verdict.reasons)
    assert report.deployed is None  # the process goes on as it ran, not its clone


def test_judges_planner_and_clone_learn_from_other_episodes(log):
    """Two thirds of the episodes are dull: the split is by episode, whatever they returned."""
    physics = learned()
    _, report = without_reality(log, Once(), physics=physics)
    assert report.fitted.is_independent
    seen = {id(trace) for trace in report.fitted.seen.traces}
    every = {id(trace) for trace in log.traces}
    (held,) = report.fitted.held  # the judge is tested on what the planner saw,
    assert {id(trace) for trace in held.traces} == seen
    unseen = len(every) - len(seen)  # and was fitted on the others
    assert seen < every and 0.15 * len(every) - 1 <= unseen <= 0.5 * len(every)
    assert np.sum(report.fitted.judges[0].initial) == unseen
    assert np.sum(report.world.initial) == len(seen)


def test_the_round_fits_on_a_page():
    assert len(Path(dreaming.round.__file__).read_text().splitlines()) <= 100


@pytest.mark.parametrize(
    ("asked", "real_steps", "steps", "batch"),
    [
        (0, 500, 3000, 64),
        (0, 10_000, 3000, 64),
        (0, 20_000, 6000, 64),
        (50, 20_000, 50, 64),
        (0, 79_999, 12_000, 64),
        (0, 80_000, 12_000, 128),
        (50, 10_000_000, 50, 256),
        (0, 10_000_000, 12_000, 256),
    ],
)
def test_of_a_long_log_the_batch_grows_and_the_steps_end(asked, real_steps, steps, batch):
    assert fit_sizes(FitConfig(steps=asked), real_steps) == (steps, batch)

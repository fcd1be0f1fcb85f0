"""The gate study: judges, logs and students of a case.

In the tables the episodes are shared out by halves: overrated candidates come from one half, the
judge is a count model of the other, with members by bootstrap, instead of the fitted networks of a
round: two hundred logs would need two hundred fits. In CartPole judges are fitted as in a round.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from dreaming.config import BaselineConfig, GateConfig, JudgeConfig
from dreaming.gate.evidence import Evidence
from dreaming.gate.incumbent import Incumbent
from dreaming.observe.log import Log
from dreaming.observe.split import split_log
from dreaming.student.baselines import fit_baselines
from dreaming.student.network import mixture
from dreaming.world.judge import Judge
from dreaming.world.physics import LearnedPhysics, learn_each, second_opinions
from envs import tabular
from envs.dream import World, start_context
from envs.types import Features, Prediction, Trace, action_features
from experiments.study import cartpole, cases
from experiments.study.cases import Case
from experiments.study.episodes import play_cartpole, play_table

DISCOUNT = 0.99
MEMBERS = 16
DOUBT = 0.05  # steps
CODES = 6  # most outcomes of a pair, in the largest table


@dataclass(frozen=True)
class Question:
    """A case ready for the gate: evidence, candidate, incumbent and true gains."""

    evidence: Evidence
    candidate: Any
    incumbent: Any
    gains: tuple[float, float]  # true, raw: over the incumbent, over what recorded the log
    unit: float  # the return range of the task


def ask(case: Case, config: GateConfig) -> Question:
    """Make the log, judges and policies of a case."""
    return _cartpole(case, config) if case.task == "cartpole" else _tabular(case, config)


def real_question(case: Case) -> tuple[Any, Any, float, Callable]:
    """(candidate, incumbent, true effect as a share of the range, `play(policy, seeds)`)."""
    if case.task == "cartpole":
        candidate, incumbent, effect = cartpole.policies_of(case.kind, case.effect)
        low, high = cartpole.value_range()
        return candidate, incumbent, effect / (high - low), play_cartpole
    task = cases.tasks()[case.task]
    log = (
        cases.record(task, cases.behaviour_of(case), case.seed) if case.kind == "overrated" else []
    )
    policies, (low, high) = cases.policies_of(case, log), cases.value_range(task)
    play = functools.partial(play_table, task)
    return policies.candidate, policies.incumbent, policies.effect / (high - low), play


def linear_student(w: np.ndarray) -> dict:
    """A student with logits o @ w that draws its actions."""
    weights = jnp.asarray(w, jnp.float32)
    scale = {"o_mean": jnp.zeros(len(w)), "o_std": jnp.ones(len(w))}
    layers = [{"w": weights, "b": jnp.zeros(weights.shape[1])}]
    return {"layers": layers, "scale": scale, "greedy": jnp.array(False)}


def tabular_student(policy: np.ndarray) -> dict:
    """A student that acts with probabilities [S, A]."""
    return linear_student(np.log(np.maximum(policy, 1e-12)))


def tabular_log(traces: list[Trace], table: tabular.Table) -> Log:
    """A log of traces in a tabular task."""
    discrete = gymnasium.spaces.Discrete
    spaces = Features(discrete(table.num_states)), action_features(discrete(table.num_actions))
    return Log(traces, *spaces)


class Tables(tabular.TabularModel):
    """Several tables of one task, as members: arrays of `params` have a leading axis for them."""

    num_members = MEMBERS

    def afterstate(self, params: Any, z: Any, a: Any) -> tuple[Any, Any]:
        """Logits of the codes of (s, a), by each row's member."""
        taken = a.argmax(-1).astype(jnp.int32)
        logits = params["chance_logits"][z.member, z.s, taken]
        return logits, tabular.TabularAfterstate(z, taken)

    def outcome(self, params: Any, y: Any, c: Any) -> tuple[Any, Any]:
        """The next state of code `c`, by each row's member."""
        z, at = y.z, (y.z.member, y.z.s, y.a, c)
        ended = z.ended | params["ended"][at]
        s = jnp.where(z.ended, z.s, params["next"][at])
        r = jnp.where(z.ended, 0.0, params["r"][at])
        z = tabular.TabularState(s, ended, z.member)
        v, pi_logits, legal_logits = self.predict(params, z)
        none = jnp.zeros(s.shape)
        return z, Prediction(r, 1.0 - ended, v, pi_logits, legal_logits, none)

    def predict(self, params: Any, z: Any) -> tuple[Any, Any, Any]:
        """No value, no preference, and every action legal."""
        everything = jnp.ones((*z.s.shape, self.num_actions))
        return jnp.zeros(z.s.shape), 0 * everything, everything


@functools.cache
def _shared_model(task: str) -> Tables:
    """One model object per task, so that all its logs share compiled dreams."""
    return Tables(cases.tasks()[task].table, DISCOUNT)


def _count_world(case: Case, log: Log) -> World:
    """The dream of count models of a log, each of episodes drawn with replacement."""
    task, shared = cases.tasks()[case.task], _shared_model(case.task)
    random, traces = np.random.default_rng(case.seed), log.traces
    weights = random.exponential(size=(MEMBERS, len(traces)))  # the Bayesian bootstrap, by episode
    params = [_padded(believed(traces, each, shared), shared) for each in weights]
    first = [int(trace.observations[0]) for trace in traces]
    starts = start_context(np.eye(shared.num_states)[first], shared.num_actions)
    return World(
        model=shared,
        params={name: np.stack([each[name] for each in params]) for name in params[0]},
        observation_space=log.observation.space,
        action_space=log.action.space,
        horizon=task.horizon,
        starts=starts,
        initial=np.ones(len(first), bool),
    )


def believed(traces: Sequence[Trace], weights: np.ndarray, task: Any) -> tabular.Table:
    """The count model of weighed episodes. What is not known of an action in a state is what the
    other actions did there (DOUBT steps of that are added to each); a state that was never left
    holds for ever."""
    sums, rewards, ends = np.zeros((3, task.num_states, task.num_actions, task.num_states))
    start = np.zeros(task.num_states)
    for trace, weight in zip(traces, weights, strict=True):
        at = trace.observations[:-1], trace.actions, trace.observations[1:]
        for table, x in ((sums, 1.0), (rewards, trace.rewards), (ends, trace.terminated)):
            np.add.at(table, at, weight * x)
        start[trace.observations[0]] += weight
    left = sums.sum((1, 2))
    stays = np.flatnonzero(left == 0)
    for table in (sums, rewards, ends):
        table += DOUBT * (table.sum(1) / np.maximum(left, 1e-9)[:, None])[:, None]
    sums[stays, :, stays] = 1.0
    known = np.where(sums > 0, sums, 1)
    p = sums / sums.sum(-1, keepdims=True)
    return tabular.Table(p, rewards / known, ends / known, start / start.sum())


def _padded(table: tabular.Table, shared: Tables) -> dict[str, np.ndarray]:
    """The parameters of a count model, with as many codes as the largest one needs."""
    params = tabular.TabularModel(table, DISCOUNT).params
    missing = CODES - params["next"].shape[-1]
    fill = {"chance_logits": tabular.IMPOSSIBLE, "next": 0, "r": 0, "ended": 0}
    widths = ((0, 0), (0, 0), (0, missing))
    return {name: np.pad(params[name], widths, constant_values=x) for name, x in fill.items()}


def _tabular(case: Case, config: GateConfig) -> Question:
    task = cases.tasks()[case.task]
    behaviour = cases.behaviour_of(case)
    traces = cases.record(task, behaviour, case.seed)
    log, key = tabular_log(traces, task.table), jax.random.key(case.seed)
    order = np.random.default_rng(case.seed).permutation(len(traces))
    seen, unseen = (log.only(np.sort(half)) for half in np.array_split(order, 2))
    policies = cases.policies_of(case, list(seen.traces))
    clone = tabular_student(_frequencies(list(seen.traces), task.table))
    judge = Judge([_count_world(case, unseen)], [seen], clone, key)
    candidate, incumbent = map(tabular_student, (policies.candidate, policies.incumbent))
    before = Incumbent.of(incumbent, None, traces)
    evidence = Evidence(log, 1, task.horizon, before, judge, config, key)
    low, high = cases.value_range(task)
    over_log = task.value(policies.candidate) - task.value(behaviour)
    return Question(evidence, candidate, incumbent, (policies.effect, over_log), high - low)


def _frequencies(traces: list[Trace], table: tabular.Table) -> np.ndarray:
    """Frequency [S, A] of each action in each state; uniform in states that were not visited."""
    counts = np.full((table.num_states, table.num_actions), 1e-6)
    for trace in traces:
        np.add.at(counts, (trace.observations[:-1], trace.actions), 1)
    return counts / counts.sum(1, keepdims=True)


def _mixed_student(mixed: cartpole.Mixed) -> Any:
    """A mixture of linear controllers as a student."""
    students = [
        linear_student(np.stack([np.zeros(4), cartpole.CONTROLLERS[name]], axis=1))
        for _, name in mixed
    ]
    student, total = students[0], mixed[0][0]
    for (share, _), more in zip(mixed[1:], students[1:], strict=True):
        total += share
        student = mixture(student, more, share / total)
    return student


def _cartpole(case: Case, config: GateConfig) -> Question:
    candidate, incumbent, effect = cartpole.policies_of(case.kind, case.effect)
    behaviour = cartpole.behaviour_of(case)
    evidence = _cartpole_evidence(behaviour, incumbent, case.seed, dataclasses.astuple(config))
    low, high = cartpole.value_range()
    over_log = cartpole.value(candidate, 1) - cartpole.value(behaviour, 1)
    candidate, old = _mixed_student(candidate), _mixed_student(incumbent)
    return Question(evidence, candidate, old, (effect, over_log), high - low)


@functools.lru_cache(maxsize=8)
def _cartpole_evidence(behaviour, incumbent, seed: int, config: tuple) -> Evidence:
    log, judge = _cartpole_judge(behaviour, seed)
    before = Incumbent.of(_mixed_student(incumbent), None, log.traces)
    key = jax.random.key(seed)
    return Evidence(log, 1, cartpole.LIMIT, before, judge, GateConfig(*config), key)


@functools.lru_cache(maxsize=8)
def _cartpole_judge(behaviour: cartpole.Mixed, seed: int) -> tuple[Log, Judge]:
    """A CartPole log and the judges that a round would fit on it."""
    task = gymnasium.make("CartPole-v1")
    spaces = Features(task.observation_space), action_features(task.action_space)
    log = Log(cartpole.record(behaviour, seed), *spaces)
    split_key, fit_key, clone_key, key = jax.random.split(jax.random.key(seed), 4)
    physics, quiet = LearnedPhysics().sized(log), lambda *_, **__: None
    config = JudgeConfig().sized(decides=True)
    split = split_log(log, config, split_key, decides=True)
    judges = [physics.second(part, config) for part, _ in split.judged]
    states = learn_each(judges, fit_key, quiet)
    opinions = second_opinions(split.seen, split.judged, judges, states, cartpole.LIMIT)
    worlds, held = zip(*opinions, strict=True)
    baselines = BaselineConfig().sized(log.observation.kind)
    clone = fit_baselines(split.seen, worlds[0], baselines, clone_key, quiet)["behaviour_cloning"]
    return log, Judge(worlds, held, clone, key, split.is_independent)

"""The inputs of the gate in its study: logs, students and judges of the cases.

In the tabular tasks a judge is a pair of count models, one per half of the log, instead of the
fitted networks of a round: two hundred logs would need four hundred fits. In CartPole judges are
fitted as in a round.
"""

import functools
from dataclasses import dataclass
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from dreaming.config import BaselineConfig, GateConfig, JudgeConfig
from dreaming.gate.evidence import Evidence
from dreaming.observe.log import Log
from dreaming.observe.split import split_log
from dreaming.student.baselines import fit_baselines
from dreaming.student.network import mixture
from dreaming.world.judge import Judge
from dreaming.world.physics import LearnedPhysics, learn_each, second_opinions
from envs import tabular
from envs.dream import World, start_context
from envs.types import Features, Trace, action_features
from experiments.study import cartpole, cases
from experiments.study.cases import Case

DISCOUNT = 0.99


@dataclass(frozen=True)
class Question:
    """A case ready for the gate: evidence, candidate, incumbent and true effect."""

    evidence: Evidence
    candidate: Any
    incumbent: Any
    effect: float  # the true effect, as a share of the return range


def ask(case: Case, config: GateConfig) -> Question:
    """Make the log, judges and policies of a case."""
    return _cartpole(case, config) if case.task == "cartpole" else _tabular(case, config)


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


@functools.cache
def _true_model(task: str) -> tabular.TabularModel:
    """One model object per task, so that all its logs share compiled dreams."""
    return tabular.TabularModel(cases.tasks()[task].table, DISCOUNT)


def _count_world(case: Case, log: Log) -> World:
    """The dream of the count model of a log."""
    task, shared = cases.tasks()[case.task], _true_model(case.task)
    table = tabular.from_traces(log.traces, shared.num_states, shared.num_actions)
    params: dict[str, Any] = dict(tabular.TabularModel(table, DISCOUNT).params)
    missing = shared.num_codes - params["next"].shape[-1]
    for name in ("chance_logits", "next", "r", "ended"):
        fill = tabular.IMPOSSIBLE if name == "chance_logits" else 0
        widths = ((0, 0), (0, 0), (0, missing))
        params[name] = np.pad(params[name], widths, constant_values=fill)
    first = [int(trace.observations[0]) for trace in log.traces]
    starts = start_context(np.eye(shared.num_states)[first], shared.num_actions)
    return World(
        model=shared,
        params=params,
        observation_space=log.observation.space,
        action_space=log.action.space,
        horizon=task.horizon,
        starts=starts,
        initial=np.ones(len(first), bool),
    )


def _tabular(case: Case, config: GateConfig) -> Question:
    task = cases.tasks()[case.task]
    traces = cases.record(task, cases.behaviour_of(case), case.seed)
    policies = cases.policies_of(case, traces)
    log = tabular_log(traces, task.table)
    key = jax.random.key(case.seed)
    order = np.random.default_rng(case.seed).permutation(len(traces))
    halves = [log.only(np.sort(half)) for half in np.array_split(order, 2)]
    worlds = [_count_world(case, half) for half in halves]
    clone = tabular_student(_frequencies(traces, task.table))
    judge = Judge(worlds, halves[::-1], clone, key)
    candidate, incumbent = map(tabular_student, (policies.candidate, policies.incumbent))
    evidence = Evidence(log, 1, DISCOUNT, incumbent, judge, config, config.level_of(0), key)
    low, high = cases.value_range(task)
    return Question(evidence, candidate, incumbent, policies.effect / (high - low))


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
    evidence = _cartpole_evidence(behaviour, incumbent, case.seed, config.level_of(0))
    low, high = cartpole.value_range()
    candidate, old = _mixed_student(candidate), _mixed_student(incumbent)
    return Question(evidence, candidate, old, effect / (high - low))


@functools.lru_cache(maxsize=8)
def _cartpole_evidence(behaviour, incumbent, seed: int, level: float) -> Evidence:
    log, judge = _cartpole_judge(behaviour, seed)
    key = jax.random.key(seed)
    return Evidence(log, 1, DISCOUNT, _mixed_student(incumbent), judge, GateConfig(), level, key)


@functools.lru_cache(maxsize=8)
def _cartpole_judge(behaviour: cartpole.Mixed, seed: int) -> tuple[Log, Judge]:
    """A CartPole log and the judges that a round would fit on it."""
    task = gymnasium.make("CartPole-v1")
    spaces = Features(task.observation_space), action_features(task.action_space)
    log = Log(cartpole.record(behaviour, seed), *spaces)
    split_key, fit_key, clone_key, key = jax.random.split(jax.random.key(seed), 4)
    physics, quiet = LearnedPhysics(), lambda *_, **__: None
    seen, judged = split_log(log, JudgeConfig(), split_key)
    judges = [physics.second(log) for log, _ in judged]
    states = learn_each(judges, fit_key, quiet)
    opinions = second_opinions(seen, judged, judges, states, cartpole.LIMIT)
    worlds, held = zip(*opinions, strict=True)
    baselines = BaselineConfig().sized(log.observation.kind)
    clone = fit_baselines(log, worlds[0], baselines, clone_key, quiet)["behaviour_cloning"]
    return log, Judge(worlds, held, clone, key)

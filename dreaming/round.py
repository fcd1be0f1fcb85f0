"""One round: from a log of real episodes to a dream, a student that rehearsed in it, a verdict.

log -> reanalyze -> fit -> judge -> clone -> rehearse and distil -> gate -> deploy. Online the gate
is off: no judge and no clone, and every candidate is deployed. Only `physics` knows where the model
comes from. Every stage draws from a key of its own name: one already done changes nothing later.
"""

import dataclasses
import functools
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from flax import struct

from dreaming.config import RoundConfig
from dreaming.gate.offline import offline_gate
from dreaming.gate.verdict import Verdict, improvable, real_gate, ungated
from dreaming.observe.log import Log, split_log
from dreaming.search.reanalyze import reanalyze
from dreaming.student.baselines import blank_baselines, fit_baselines
from dreaming.student.distill import DistillState, blank_distill, practise


class RoundState(struct.PyTreeNode):
    """What one round hands to the next: the deployed student and its world, None at first."""

    incumbent: Any = None
    world: Any = struct.field(pytree_node=False, default=None)
    rounds: int = 0


@dataclass(frozen=True)
class Report:
    """What a round found out."""

    world: Any  # the dream: envs.dream.World
    judges: list[Any]  # dreams of models that did not plan
    learned: Any  # the physics' own state
    rehearsed: DistillState
    baselines: dict[str, Any]  # name -> student parameters
    fidelity: dict[str, float]
    skill: dict[str, list]  # open-loop error by k, and `regions` where the model is weak
    verdict: Verdict
    deployed: Any  # student parameters: the candidate's, the incumbent's, or a mixture of both
    gate_steps: int


def stage_key(key: jax.Array, stage: str) -> jax.Array:
    """The key of a stage, whatever ran before it."""
    return jax.random.fold_in(key, zlib.crc32(stage.encode()))


def one_round(
    state: RoundState,
    key: jax.Array,
    *,
    log: Log,
    physics: Any,
    config: RoundConfig,
    horizon: int,
    real: Callable | None,
    once: Callable,
) -> tuple[RoundState, Report]:
    """The next state, and what happened.

    Where `config` leaves open how much, the log's kind of observations decides.
    `real(student, seeds)` scores a student in the real task; None where there is none.
    `once(stage, total, like, work)` is the state of a stage: loaded if it was done before, else
    made by `work(update)` and committed; `like` has its structure.
    """
    key_of, config = functools.partial(stage_key, key), config.sized(log.observation.kind)
    is_gated = config.gate is not None
    seen, judged = split_log(log, physics.judge, key_of("split")) if is_gated else (log, [])

    search = functools.partial(reanalyze, state.world, log.head, config.search, key_of("reanalyze"))
    searched = search if state.world is not None else None
    learn = functools.partial(physics.learn, seen, key_of("fit"), reanalysis=searched)
    learned = once("fit", physics.steps(seen), physics.blank(seen), learn)
    second = functools.partial(physics.learn_judges, judged, key_of("judge"))
    blank = physics.blank_judges(judged)
    judges = once("judge", physics.judge.steps, blank, second) if is_gated else blank
    fidelity, skill = physics.certify(learned, judges, seen, judged, key_of("certify"))
    world = physics.world(seen, learned, horizon, config.search, fidelity)

    clone = functools.partial(fit_baselines, log, world, config.baselines, key_of("clone"))
    blank = blank_baselines(log, world, config.baselines)
    baselines = once("clone", 2, blank, clone) if is_gated else {}
    incumbent = state.incumbent or baselines.get("behaviour_cloning")

    args = world, config.search, config.rehearse, config.distill
    rehearse = functools.partial(practise, log, *args, state.incumbent, key_of("rehearse"))
    blank = blank_distill(log, world, config.rehearse, config.distill)
    rehearsed = once("rehearse", config.rehearse.iterations, blank, rehearse)
    candidate = rehearsed.student
    params = world.model.with_heads(world.params, rehearsed.heads)  # what rehearsal found out
    world = dataclasses.replace(world, params=params)

    witness = baselines.get("behaviour_cloning"), horizon, key_of("opinion")
    judge = physics.second_opinion(judges, judged, seen, *witness)
    fidelity = fidelity | judge.figures(candidate, incumbent)

    if not is_gated:
        trial = ungated
    elif real is None:
        evidence = log, world.model.window, physics.discount, judge, key_of("gate")
        trial = functools.partial(offline_gate, *evidence)
    else:
        trial = functools.partial(real_gate, real)
    verdict, gate_steps = trial(state.rounds, candidate, incumbent, config.gate, once)
    can_improve, why_not = improvable(log.traces)
    if not (can_improve or verdict.accept):
        verdict = verdict.because(why_not)

    deployed = verdict.deployed(candidate, incumbent)
    found = world, judge.worlds, learned, rehearsed, baselines, fidelity, skill
    report = Report(*found, verdict, deployed, gate_steps)
    return RoundState(incumbent=deployed, world=world, rounds=state.rounds + 1), report

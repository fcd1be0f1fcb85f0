"""One round: from a log of real episodes to a dream, a student that rehearsed in it, a verdict.

log -> reanalyze -> fit -> judge -> clone -> rehearse and distil -> gate -> deploy; with the gate
off no judge and no clone. Only `physics` knows where the model comes from. Every stage draws from a
key of its own name: one already done changes nothing later.
"""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from flax import struct

from dreaming.config import RoundConfig
from dreaming.gate.decide import decide
from dreaming.gate.verdict import Verdict
from dreaming.observe.log import Log
from dreaming.search.reanalyze import reanalyze
from dreaming.stages import stage_key
from dreaming.student.baselines import blank_baselines, fit_baselines
from dreaming.student.distill import DistillState, blank_distill, practise, with_heads
from dreaming.world.judge import Judge
from dreaming.world.physics import Fitted


class RoundState(struct.PyTreeNode):
    """What one round hands to the next: the deployed student and its world, None at first."""

    incumbent: Any = None
    world: Any = struct.field(pytree_node=False, default=None)
    rounds: int = 0


@dataclass(frozen=True)
class Report:
    """What a round found out; students are parameters."""

    fitted: Fitted
    world: Any  # the dream after rehearsal: envs.dream.World
    rehearsed: DistillState
    baselines: dict[str, Any]  # name -> student
    fidelity: dict[str, float]
    verdict: Verdict
    deployed: Any  # the candidate, the incumbent, or a mixture of both


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
    """The next state, and what happened. What `config` leaves open the kind of log decides.

    `real(student, seeds, update)` scores a student in the real task; None where there is none.
    `once(stage, total, like, work)` is the state of a stage: loaded if it was done before, else
    made by `work(update)` and committed; `like` has its structure.
    """
    key_of, config = functools.partial(stage_key, key), config.sized(log.observation.kind)
    is_gated = config.gate is not None
    again = functools.partial(reanalyze, state.world, log.head, config.search, key_of("reanalyze"))
    ways = {"is_judged": is_gated, "reanalysis": again}
    fitted = physics.fitted(log, config.search, horizon, key, once, **ways)
    world = fitted.world

    clone = functools.partial(fit_baselines, log, world, config.baselines, key_of("clone"))
    blank = blank_baselines(log, world, config.baselines)
    baselines = once("clone", 2, blank, clone) if is_gated else {}
    cloned = baselines.get("behaviour_cloning")

    learn = functools.partial(practise, log, world, config, state.incumbent, key_of("rehearse"))
    blank = blank_distill(log, world, config)
    rehearsed = once("rehearse", config.rehearse.iterations, blank, learn)
    candidate = rehearsed.student
    params = with_heads(world.model, world.params, rehearsed.heads)  # what rehearsal found out

    judge = Judge(fitted.judges, fitted.held, cloned, key_of("opinion"))
    trial = {"log": log, "world": world, "judge": judge, "real": real, "rounds": state.rounds}
    trial |= {"key": key_of("gate"), "config": config.gate, "once": once}
    incumbent = state.incumbent or cloned
    verdict = decide(candidate, incumbent, **trial)
    report = Report(
        fitted=fitted,
        world=dataclasses.replace(world, params=params),
        rehearsed=rehearsed,
        baselines=baselines,
        fidelity=fitted.fidelity | judge.figures(candidate, incumbent),
        verdict=verdict,
        deployed=verdict.deployed(candidate, incumbent),
    )
    return RoundState(report.deployed, report.world, state.rounds + 1), report

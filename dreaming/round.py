"""One round: from a log of real episodes to a dream, a student that rehearsed in it, a verdict.

log -> fit -> judge -> clone -> rehearse, distil -> gate -> deploy; with the gate off
no judge and no clone. Every stage draws from a key of its own name.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
from flax import struct

from dreaming.config import RoundConfig
from dreaming.gate.decide import decide
from dreaming.gate.incumbent import Incumbent
from dreaming.gate.verdict import Verdict
from dreaming.observe.log import Log
from dreaming.stages import stage_key
from dreaming.student.baselines import blank_baselines, fit_baselines
from dreaming.student.distill import DistillState, blank_distill, practise, with_heads
from dreaming.world.physics import Fitted


class RoundState(struct.PyTreeNode):
    """What one round hands to the next: the deployed student, None at first."""

    incumbent: Any = None
    name: Any = struct.field(pytree_node=False, default=None)  # that its traces bear
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
    incumbent: Incumbent  # what there was to beat
    deployed: Any  # candidate, mixture, or what was deployed before (None: nothing)


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
    trials: Callable[[str], int] | None = None,
) -> tuple[RoundState, Report]:
    """The next state, and what happened. What `config` leaves open the kind of log decides.

    `real(student, seeds, update)` scores a student in the real task; None where there is none.
    `once(stage, total, like, work)` is the state of a stage: loaded if it was done before, else
    made by `work(update)` and committed; `like` has its structure. `trials(digest)` numbers the
    trials of a lineage, the same one equally; without it the round's number is taken.
    """
    key_of, config = functools.partial(stage_key, key), config.sized(log.observation.kind)
    ways = {"is_judged": config.gate is not None, "decides": real is None}
    fitted = physics.fitted(log, config.search, horizon, key, once, **ways)
    world, seen = fitted.world, fitted.seen

    clone = functools.partial(fit_baselines, seen, world, config.baselines, key_of("clone"))
    blank = blank_baselines(seen, world, config.baselines)
    baselines = once("clone", 2, blank, clone) if config.gate else {}
    cloned = baselines.get("behaviour_cloning")

    learn = functools.partial(practise, seen, world, config, state.incumbent, key_of("rehearse"))
    blank = blank_distill(seen, world, config)
    rehearsed = once("rehearse", config.rehearse.iterations, blank, learn)
    candidate = rehearsed.student
    params = with_heads(world.model, world.params, rehearsed.heads)  # what rehearsal found out
    judge = fitted.judge(cloned, key_of("opinion"))
    incumbent = Incumbent.of(state.incumbent, cloned, log.traces, state.name)
    trial = {"log": log, "world": world, "judge": judge, "real": real, "key": key_of("gate")}
    trial |= {"trials": trials or (lambda digest: state.rounds), "once": once}
    verdict = decide(candidate, incumbent, config=config.gate, **trial)
    report = Report(
        fitted=fitted,
        world=replace(world, params=params),
        rehearsed=rehearsed,
        baselines=baselines,
        fidelity=fitted.fidelity | judge.figures(candidate, incumbent.params),
        verdict=verdict,
        incumbent=incumbent,
        deployed=verdict.deployed(candidate, incumbent, state.incumbent),
    )
    return RoundState(report.deployed, None, state.rounds + 1), report

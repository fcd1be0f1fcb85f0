"""The gate of a round: in the real task where there is one, else from the log alone."""

from collections.abc import Callable
from typing import Any

import jax

from dreaming.checkpoint import state_sha256
from dreaming.config import GateConfig
from dreaming.gate.incumbent import Incumbent
from dreaming.gate.offline import offline_gate
from dreaming.gate.real import real_gate
from dreaming.gate.verdict import Verdict, improvable, ungated
from dreaming.observe.log import Log
from dreaming.world.judge import Judge
from envs.dream import World


def decide(
    candidate: Any,
    incumbent: Incumbent,
    *,
    log: Log,
    world: World,
    judge: Judge,
    real: Callable | None,
    trials: Callable[[str], int],
    key: jax.Array,
    config: GateConfig | None,
    once: Callable,
) -> Verdict:
    """The verdict on a candidate.

    `config` None = the gate is off. `real`, `trials` and `once` are those of `one_round`; a trial
    is known by what is tried, so that a stopped one goes on.
    """
    if config is None:
        return ungated()
    tried = state_sha256(candidate, incumbent.params, vars(config))
    question = {"trials": lambda: trials(tried), "window": world.model.window, "key": key}
    question |= {"config": config, "once": once}
    if real is not None:
        verdict = real_gate(candidate, incumbent, real=real, **question)
    else:
        question |= {"log": log, "judge": judge, "horizon": int(world.horizon)}
        verdict = offline_gate(candidate, incumbent, **question)
    can_improve, why_not = improvable(log.traces)
    return verdict if can_improve or verdict.accept else verdict.because(why_not)

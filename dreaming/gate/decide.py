"""The gate of a round: in the real task where there is one, else from the log alone."""

from collections.abc import Callable
from typing import Any

import jax

from dreaming.config import GateConfig
from dreaming.gate.offline import offline_gate
from dreaming.gate.verdict import Verdict, improvable, real_gate, ungated
from dreaming.observe.log import Log
from dreaming.world.judge import Judge
from envs.dream import World


def decide(
    candidate: Any,
    incumbent: Any,
    *,
    log: Log,
    world: World,
    judge: Judge,
    real: Callable | None,
    rounds: int,
    key: jax.Array,
    config: GateConfig | None,
    once: Callable,
) -> Verdict:
    """The verdict on a candidate in round number `rounds`.

    `config` None = the gate is off. `real` and `once` are those of `one_round`.
    """
    question = {"rounds": rounds, "config": config, "once": once}
    if config is None:
        verdict = ungated()
    elif real is not None:
        verdict = real_gate(candidate, incumbent, real=real, **question)
    else:
        question |= {"log": log, "judge": judge, "key": key}
        question |= {"window": world.model.window, "discount": world.card["discount"]}
        verdict = offline_gate(candidate, incumbent, **question)
    can_improve, why_not = improvable(log.traces)
    return verdict if can_improve or verdict.accept else verdict.because(why_not)

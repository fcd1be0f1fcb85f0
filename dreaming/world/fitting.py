"""From a log to a world, its judges and its figures: what a round and the verb `fit` share."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from dreaming.config import SearchConfig
from dreaming.observe.log import Log, split_log
from dreaming.stages import stage_key
from dreaming.world.judge import Judge
from envs.dream import World


@dataclass(frozen=True)
class Fitted:
    """What was learned from a log."""

    seen: Log  # what the planner saw
    judged: list[tuple[Log, Log]]  # what each judge was fitted on, and tested on
    learned: Any  # the physics' own state
    judges: list[Any]
    fidelity: dict[str, float]
    skill: dict[str, list]  # open-loop error by k, and `regions` where the model is weak
    world: World

    def judge(self, physics: Any, clone: Any, horizon: int, key: jax.Array) -> Judge:
        """The judges at work: their worlds, each with a part of the log it was not fitted on.

        `clone` are the parameters of a student that does as the log does.
        """
        return physics.make_judge(self.judges, self.judged, self.seen, clone, horizon, key)


def fit_world(
    log: Log,
    physics: Any,
    search: SearchConfig,
    horizon: int,
    key: jax.Array,
    once: Callable,
    *,
    is_judged: bool = True,
    reanalysis: Callable | None = None,
) -> Fitted:
    """Fit, judge and certify; each stage has a key of its own name, whoever asks.

    `once(stage, total, like, work)` is that of `one_round`. Without judges nothing is held out.
    `reanalysis(replay)` caches searches in an earlier world beside the rows, if there is one.
    """
    key_of = functools.partial(stage_key, key)
    seen, judged = split_log(log, physics.judge, key_of("split")) if is_judged else (log, [])
    learn = functools.partial(physics.learn, seen, key_of("fit"), reanalysis=reanalysis)
    learned = once("fit", physics.steps(seen), physics.blank(seen), learn)
    judges = physics.blank_judges(judged)
    if is_judged:
        second = functools.partial(physics.learn_judges, judged, key_of("judge"))
        judges = once("judge", physics.judge.steps, judges, second)
    fidelity, skill = physics.certify(learned, judges, seen, judged, key_of("certify"))
    world = physics.world(seen, learned, horizon, search, fidelity)
    return Fitted(
        seen=seen,
        judged=judged,
        learned=learned,
        judges=judges,
        fidelity=fidelity,
        skill=skill,
        world=world,
    )

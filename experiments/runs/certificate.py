"""The certificate of a world: its figures, and policies tried in dreams and in reality."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from dreaming.config import FIRST_SEED, CertifyConfig
from dreaming.observe.collect import behaviour_return
from dreaming.observe.log import Log
from dreaming.world.certify import sentence
from dreaming.world.life import dreamed_lengths, dreams_of, life_figures, limit_of
from dreaming.world.ranking import blank_tries, fixed_set, rank_figures, redraw, try_policies
from dreaming.world.words import life_sentence, promise_sentence
from envs.dream import World

SCHEMA_VERSION = 1
CERTIFY_SEED = 20 * FIRST_SEED  # reset seeds of the episodes that rank policies
OF_POLICIES = ("rank_correlation", "rank_correlation_planner", "exploitation_gap")
OF_POLICIES += ("candidate_coverage", "promise", "unsupported", "unrepeated", "life_dreamed")
OFF = "policies were not ranked: episodes is 0"


def ranking_stage(
    config: CertifyConfig,
    world: World,
    judges: Sequence[World],
    *,
    clone: Any,
    candidate: Any,
    real: Callable | None,
    key: jax.Array,
    once: Callable,
) -> dict[str, np.ndarray]:
    """Returns of the fixed set of policies in `world`, in the judges and in reality; {} if off.

    `real(student, seeds, update)` scores a student; `once` is that of `one_round`.
    """
    if not config.episodes:
        return {}
    policies = fixed_set(clone, candidate)
    seeds = list(range(CERTIFY_SEED, CERTIFY_SEED + config.episodes))
    total = None if real is None else len(policies) * len(seeds)
    episodes = 0 if real is None else len(seeds)
    has_other = redraw(world) is not None
    like = blank_tries(len(policies), len(judges), episodes, config.dreams, has_other)
    rules = {"key": key, "dreams": config.dreams}
    tried = lambda update: try_policies(
        policies, world, judges, real, seeds, update=update, **rules
    )
    return once("certify", total, like, tried)


def life_stage(
    config: CertifyConfig, world: World, log: Log, *, clone: Any, key: jax.Array, once: Callable
) -> dict[str, float]:
    """Figures of how long dreamed episodes of the log's clone last; {} if off."""
    if not config.episodes:
        return {}
    limit = limit_of(world.horizon, log.traces)
    like = {"lengths": np.zeros(dreams_of(limit, world.model), np.int64)}
    work = lambda update: {"lengths": dreamed_lengths(world, clone, key, limit)}
    return life_figures(once("life", None, like, work)["lengths"], limit, log.traces)


def make_certificate(
    figures: Mapping[str, float],
    regions: list[str] | None,
    world: Any,
    log: Log,
    tried: Mapping[str, np.ndarray],
    why: str = OFF,
) -> dict[str, Any]:
    """The content of certificate.json; `why` explains why no policies were tried, if none were."""
    ranked, missing, policies = {}, dict.fromkeys(OF_POLICIES, why), []
    if tried:
        names = list(fixed_set({}, {}))
        behaviour = behaviour_return(log.traces)
        has_limit = 0 <= world.u_max < math.inf  # an untested world trusts nothing
        ranked, missing, policies = rank_figures(names, tried, behaviour, has_limit)
    return {
        "schema_version": SCHEMA_VERSION,
        "sentence": sentence(figures, regions, world.model.num_codes > 1)
        + life_sentence(figures)
        + promise_sentence(ranked),
        "figures": dict(figures) | ranked,
        "missing": missing,
        "policies": policies,
        "notes": [],
    }

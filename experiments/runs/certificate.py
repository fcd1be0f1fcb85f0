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
from dreaming.world.ranking import blank_tries, fixed_set, rank_figures, try_policies
from envs.dream import World

SCHEMA_VERSION = 1
CERTIFY_SEED = 20 * FIRST_SEED  # reset seeds of the episodes that rank policies
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
    like = blank_tries(len(policies), len(judges), episodes, config.dreams)
    rules = {"key": key, "dreams": config.dreams}
    tried = lambda update: try_policies(
        policies, world, judges, real, seeds, update=update, **rules
    )
    return once("certify", total, like, tried)


def make_certificate(
    figures: Mapping[str, float],
    regions: list[str] | None,
    world: Any,
    log: Log,
    tried: Mapping[str, np.ndarray],
    why: str = OFF,
) -> dict[str, Any]:
    """The content of certificate.json; `why` explains why no policies were tried, if none were."""
    named = ("rank_correlation", "rank_correlation_planner", "exploitation_gap")
    ranked, missing, policies = {}, dict.fromkeys((*named, "candidate_coverage"), why), []
    if tried:
        names = list(fixed_set({}, {}))
        behaviour = behaviour_return(log.traces)
        has_limit = math.isfinite(world.u_max)
        ranked, missing, policies = rank_figures(names, tried, behaviour, has_limit)
    return {
        "schema_version": SCHEMA_VERSION,
        "sentence": sentence(figures, regions, world.model.num_codes > 1),
        "figures": dict(figures) | ranked,
        "missing": missing,
        "policies": policies,
        "notes": [],
    }

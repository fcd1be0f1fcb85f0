"""What a session taught goes into the weights of its deployment, or the reason why not.

A session teaches if it was closed, its people consented, and enough sessions of the deployment
were reviewed. Its rows always teach the dream. They teach the policy as context, never as actions
to be copied; of a session with thumbs down only those whose outcome was seen: a reward alone does
not say what was wrong. Weights change if the teacher is surely better than what is deployed (the
gap), and so is what was distilled (the gain; on the same rows, so it is a check of sanity and no
evidence for days to come).
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dreaming.errors import ConfigError, RegistryError
from dreaming.sessions.compaction import compact
from dreaming.sessions.config import SelfDistilConfig
from dreaming.sessions.deltas import AllWeights, apply, difference
from dreaming.sessions.records import Record
from dreaming.sessions.registry import Registry
from dreaming.sessions.self_distil import self_distil, transitions
from dreaming.sessions.store import Head
from dreaming.sessions.teacher_gap import student_gain, teacher_gap
from dreaming.sessions.teachers import check_teacher
from dreaming.sessions.types import Rows
from envs.types import Features
from worldmodels.factors import FactorError, FactorModel, factor_sizes

ROWS = 64  # a multiple of these is read at once


@dataclass(frozen=True)
class Learned:
    """What came of learning: the new head, or None and the reason."""

    head: Head | None
    reason: str
    report: dict[str, Any]


def teaching_record(registry: Registry, id: str, least_reviews: int) -> Record:
    """A session that may teach. Raises `RegistryError` for one that may not."""
    record = registry.record(id)
    if not record.closed:
        raise RegistryError(f"session {id} is still open; end it first")
    if record.rows is None:
        raise RegistryError(f"session {id} holds no decision, so it teaches nothing")
    if not record.facts["consent"]:
        raise RegistryError(
            f"session {id} has no consent, so nothing is learned from it; start sessions with "
            "consent=true to learn"
        )
    same = [registry.record(each) for each in registry.session_ids(record.facts["deployment"])]
    reviewed = sum(each.review is not None for each in same)
    if reviewed < least_reviews:
        raise RegistryError(
            f"{reviewed} sessions of {record.facts['deployment']} were reviewed, {least_reviews} "
            "are needed before weights change; review them"
        )
    return record


def check_review(registry: Registry, record: Record) -> None:
    """Raise `RegistryError` if a session was reviewed since its record was read: which rows teach
    hangs on that. For who holds the lock, under which reviews are written."""
    if registry.record(record.id).review != record.review:
        raise RegistryError(
            f"session {record.id} was reviewed while it was learned from, so nothing was "
            "deployed; learn from it again, by its review"
        )


def decided(record: Record) -> Rows:
    """The rows of a session that has some."""
    assert record.rows is not None, "asked for in teaching_record"
    return record.rows


def context_rows(record: Record) -> Rows:
    """The rows of a session that a teacher may read."""
    rows = jax.tree.map(jnp.asarray, decided(record))
    if record.review is not None and record.review["verdict"] == "down":
        rows = dataclasses.replace(rows, valid=rows.valid & (rows.outcome >= 0))
    return rows


def kept_rows(registry: Registry, head: Head, deployment: str) -> Rows | None:
    """The rows of the context that is deployed, if there is one."""
    sha = head.contexts.get(deployment)
    return None if sha is None else jax.tree.map(jnp.asarray, registry.context(sha))


def check_unmasked(record: Record) -> None:
    """Raise `RegistryError` for a session with action masks: a dream does not have them."""
    if masked := int((~record.legal).any(-1).sum()):
        raise RegistryError(
            f"session {record.id} had action masks in {masked} of {record.decisions} decisions, "
            "and a dream does not know which actions are legal in it; keep rows with `dreaming "
            "compact` instead"
        )


def dream_model(registry: Registry) -> FactorModel:
    """What a session of this registry is dreamed by. Raises `ConfigError` for numbers."""
    try:
        return FactorModel(factor_sizes(Features(registry.observation_space).parts))
    except FactorError as error:
        raise ConfigError(f"{registry.path}: {error}") from error


def padded(rows: Rows, propensities: np.ndarray) -> tuple[Rows, np.ndarray]:
    """Rows with empty ones behind them, to a multiple of ROWS: programs are compiled per number."""
    more = -propensities.size % ROWS
    pad = lambda x: jnp.pad(x, [(0, more)] + [(0, 0)] * (x.ndim - 1))
    return jax.tree.map(pad, rows), np.pad(propensities, (0, more), constant_values=1.0)


def dream_session(
    registry: Registry,
    id: str,
    *,
    config: SelfDistilConfig | None = None,
    form: AllWeights | None = None,
    seed: int = 0,
    least_reviews: int = 1,
    update: Callable[..., Any] = lambda *args, **metrics: None,
) -> Learned:
    """Learn from a session, and deploy what was learned as a new head. Raises `RegistryError`,
    also if somebody else wrote a head in the meantime."""
    config = config or SelfDistilConfig()
    check_teacher(config.teacher, registry.shape)
    record = teaching_record(registry, id, least_reviews)
    check_unmasked(record)
    head, deployment = registry.head(), record.facts["deployment"]
    kept = kept_rows(registry, head, deployment)
    shape, weights = registry.shape, registry.weights(head, deployment)
    model = dream_model(registry)
    rows, propensities = padded(context_rows(record), record.propensities)
    judged = {"rows": rows, "propensities": propensities, "kept": kept}
    options = {"kind": config.teacher, "temperature": config.temperature}
    gap = teacher_gap(weights, shape, **judged, **options)
    report: dict[str, Any] = {"gap": gap.said()}
    if not gap.go:
        return Learned(None, f"the teacher is {gap.reason}; weights stay", report)
    change = self_distil(
        weights,
        shape,
        rows,
        (model, model.fit(*transitions(decided(record)))),
        jax.random.key(seed),
        config=config,
        old=registry.old_dreams(head),
        kept=kept,
        form=form,
        update=update,
    )
    new = apply(weights, change)
    gain = student_gain(new, weights, shape, **judged)
    report |= {"gain": gain.said(), "config": dataclasses.asdict(config)}
    if not gain.go:
        return Learned(None, f"what was distilled is {gain.reason}; weights stay", report)
    base = registry.weights(dataclasses.replace(head, deltas={}), deployment)
    delta = change if change.base == head.base else difference(base, new)
    report |= {"kind": delta.kind, "share": delta.share}
    with registry.writing(head):
        check_review(registry, record)
        deltas = head.deltas | {deployment: registry.put_delta(head, delta)}
        contexts = {name: sha for name, sha in head.contexts.items() if name != deployment}
        said = {"id": id, "deployment": deployment, "review": record.review}
        changes = {"deltas": deltas, "contexts": contexts, "sessions": [said], "report": report}
        head = registry.commit(head, cause="dream", **changes)
    return Learned(head, gain.reason, report)


def compact_session(registry: Registry, id: str, rows: int, *, least_reviews: int = 1) -> Learned:
    """Keep a few rows of a session as context of its deployment, as a new head; weights stay. The
    policy with these rows has to be surely better than what is deployed, on other days than theirs.

    Raises `RegistryError`, also where nothing can be kept.
    """
    record = teaching_record(registry, id, least_reviews)
    head, deployment = registry.head(), record.facts["deployment"]
    weights, all_rows = registry.weights(head, deployment), context_rows(record)
    if not np.asarray(all_rows.valid).any():
        raise RegistryError(f"session {id} has thumbs down and shows no outcome: nothing to keep")
    chosen = compact(weights, registry.shape, all_rows, rows)
    gap = teacher_gap(
        weights,
        registry.shape,
        all_rows,
        record.propensities,
        kept=kept_rows(registry, head, deployment),
        reads=jax.tree.map(jnp.asarray, chosen),
        legal=record.legal,
    )
    report = {"rows": int(np.asarray(chosen.valid).size), "gap": gap.said()}
    if not gap.go:
        return Learned(None, f"what was chosen is {gap.reason}; the context stays", report)
    with registry.writing(head):
        check_review(registry, record)
        contexts = head.contexts | {deployment: registry.put_context(chosen)}
        said = {"id": id, "deployment": deployment, "review": record.review}
        changes = {"contexts": contexts, "sessions": [said], "report": report}
        return Learned(registry.commit(head, cause="compact", **changes), gap.reason, report)

"""How far a dream can be trusted: a model's predictions on held-out episodes, against reality.

Models are used through their protocol alone (root, afterstate, outcome, predict, decode), so that
a learned model, a dream file and an oracle are measured alike. `unit` [O] is the unit of the errors
of each observation feature, usually its standard deviation in the log.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from worldmodels import scores
from worldmodels.types import Windows

STEPS = (1, 5, 15, 50)  # k of the skill table
VALUE_STEPS = 5  # n of the value equivalence
DRAWS = 16  # dreams per window of a model with chance; their mean is its prediction
LEVEL = 0.9  # probability inside the predictive interval
EXACT = 1e-3  # tolerance in units, so that an exact model covers its own predictions
TRUSTED = 0.6  # least skill at which a horizon is trusted
WINDOWS = 20  # least number of windows to judge a horizon

Table = dict[str, list[float]]  # "k", and mean squared errors at each k: "model", "persistence"
Figures = dict[str, float]


class Unrolled(NamedTuple):
    """Open-loop dreams of B windows, as arrays of JAX or NumPy."""

    o: Any  # [M, B, O] expected observation features after each step
    g: Any  # [B] sum_{i<n} discount^i r[i] + discount^n v[n], n = VALUE_STEPS
    u: Any  # [M, B] uncertainty of each step


class OneStep(NamedTuple):
    """The members' predictions of one step from B real contexts."""

    o: Any  # [B, O] mean over members and chance; discrete: probabilities
    o_between: Any  # [B, O] variance of the members' means, divisor E - 1
    o_within: Any  # [B, O] mean over members of the variance by chance
    r: Any  # [B], and its variances
    r_between: Any
    r_within: Any
    p_end: Any  # [B]
    u: Any  # [B] uncertainty of the most probable outcome


class Happened(NamedTuple):
    """The real outcome of B steps."""

    before: Any  # [B, O] observation before the step
    after: Any  # [B, O] observation after it
    r: Any  # [B]
    ends: Any  # bool [B] the task terminated


def open_loop(model, params, context, a: Float[Array, "B M A"], discount: float, key) -> Unrolled:
    """M steps dreamed from contexts [B] under actions `a`, by the mean of the members.

    With chance the prediction is the mean of DRAWS dreams, weighed by how likely they go on.
    """
    draws = DRAWS if model.num_codes > 1 else 1
    rows = a.shape[0] * draws
    repeated = lambda x: jnp.repeat(x, draws, axis=0)
    mean = lambda x: x.reshape(a.shape[0], draws, *x.shape[1:]).mean(1)

    def step(carry, now):
        z, alive = carry
        a, key = now
        chance_logits, y = model.afterstate(params, z, a)
        c = jax.random.categorical(key, chance_logits).astype(jnp.int32)
        z, said = model.outcome(params, y, c)
        weight = alive + 1e-6
        o = mean(model.decode(params, z) * weight[:, None]) / mean(weight)[:, None]
        return (z, alive * said.continuation), (
            o,
            alive * said.r,
            alive * said.continuation * said.v,
            mean(said.uncertainty * weight) / mean(weight),
        )

    z = model.root(params, jax.tree.map(repeated, context))
    actions = jnp.moveaxis(repeated(a), 1, 0)
    keys = jax.random.split(key, len(actions))
    _, (o, r, v, u) = jax.lax.scan(step, (z, jnp.ones(rows)), (actions, keys))
    n = VALUE_STEPS
    g = (discount ** jnp.arange(n)[:, None] * r[:n]).sum(0) + discount**n * v[n - 1]
    return Unrolled(o, mean(g), u)


def one_step(model, params, context, a: Float[Array, "B A"]) -> OneStep:
    """Predictions of every member, with every chance outcome weighed by its probability."""
    rows = a.shape[0]

    def moments(x, p):
        p = p.reshape(*p.shape, *(1,) * (x.ndim - p.ndim))
        mean = (p * x).sum(0)
        return mean, (p * jnp.square(x - mean)).sum(0)

    def asked(member):
        z = model.root(params, context)
        z = dataclasses.replace(z, member=jnp.full_like(z.member, member))
        chance_logits, y = model.afterstate(params, z, a)

        def outcome(c):
            z, said = model.outcome(params, y, jnp.full(rows, c, jnp.int32))
            return model.decode(params, z), said.r, 1 - said.continuation, said.uncertainty

        o, r, ends, u = jax.lax.map(outcome, jnp.arange(model.num_codes))
        p = jax.nn.softmax(chance_logits).T
        likeliest = jnp.take_along_axis(u, jnp.argmax(p, axis=0)[None], axis=0)[0]
        return *moments(o, p), *moments(r, p), moments(ends, p)[0], likeliest

    members = jnp.arange(model.num_members)
    o, o_within, r, r_within, ends, _ = jax.lax.map(asked, members)
    *_, u = asked(-1)
    between = lambda x: jnp.var(x, axis=0, ddof=1 if len(x) > 1 else 0)
    return OneStep(
        *(o.mean(0), between(o), o_within.mean(0)),
        *(r.mean(0), between(r), r_within.mean(0)),
        *(ends.mean(0), u),
    )


def skill_table(
    o: Float[np.ndarray, "M B O"],
    batch: Windows,
    unit: Float[np.ndarray, " O"],
    steps: Sequence[int] = STEPS,
    least: int = 1,
) -> Table:
    """Mean squared error after k steps, of the dream and of persistence (predicting no change).

    In squared units, over windows that are real for k steps; a k with fewer than `least` of them
    is left out.
    """
    real = np.moveaxis(np.asarray(batch.o[:, :, -1], np.float32), 1, 0)
    known = np.asarray(batch.is_real_o).T
    table: Table = {"k": [], "model": [], "persistence": []}
    for k in steps:
        if k > len(o) or known[k].sum() < least:
            continue
        table["k"].append(k)
        for name, guess in (("model", np.asarray(o[k - 1])), ("persistence", real[0])):
            error = np.square((guess - real[k]) / unit).mean(-1)
            table[name].append(float(error[known[k]].mean()))
    return table


def doubts(
    dreamed: Unrolled, batch: Windows, unit: Float[np.ndarray, " O"], steps: Sequence[int]
) -> Figures:
    """`uncertainty_spearman_k` for k of `steps`: Spearman's rank correlation of the uncertainty of
    k steps of a dream, summed, and its error after them.

    Over windows that are real for k steps; a k with fewer than WINDOWS of them is left out.
    """
    real = np.moveaxis(np.asarray(batch.o[:, :, -1], np.float32), 1, 0)
    known, found = np.asarray(batch.is_real_o).T, {}
    for k in steps:
        if k > len(dreamed.u) or known[k].sum() < WINDOWS:
            continue
        error = step_error(np.asarray(dreamed.o[k - 1]), real[k], unit)[known[k]]
        correlation = scores.spearman(np.asarray(dreamed.u[:k]).sum(0)[known[k]], error)
        if correlation is not None:
            found[f"uncertainty_spearman_{k}"] = correlation
    return found


def skills(table: Table) -> dict[int, float]:
    """Skill by k, 1 - error / error of persistence: 1 = perfect, 0 = as persistence."""
    rows = zip(table["k"], table["model"], table["persistence"], strict=True)
    return {int(k): 1 - model / still for k, model, still in rows if still > 0}


def trust(table: Table, least: float = TRUSTED) -> Figures:
    """`trust_steps`: the last k before skill falls below `least`; `trust_tested`: the largest k."""
    by_k = skills(table)
    if not by_k:
        return {}
    good = [skill >= least for skill in by_k.values()]
    count = good.index(False) if False in good else len(good)
    return {
        "trust_steps": float([0, *by_k][count]),
        "trust_tested": float(max(by_k)),
    }


def value_equivalence(
    g: Float[np.ndarray, " B"],
    batch: Windows,
    v: Float[np.ndarray, " B"],
    discount: float,
    span: float,
) -> Figures:
    """Mean |real - dreamed| / `span` of n-step returns plus value; `v` [B] is the value of o[n].

    Over windows that are real for n = VALUE_STEPS steps, or terminate before.
    """
    n = VALUE_STEPS
    counts = np.asarray(batch.is_real_step)[:, :n]
    over = np.asarray(batch.is_absorbing)[:, n]
    r = np.where(counts, np.asarray(batch.r)[:, :n], 0.0)
    real = (discount ** np.arange(n) * r).sum(1) + discount**n * np.where(over, 0.0, v)
    known = counts.all(1) | over
    if not known.any() or span <= 0:
        return {}
    return {"value_equivalence": float(np.abs(real - g)[known].mean() / span)}


def step_figures(
    step: OneStep, real: Happened, unit: Float[np.ndarray, " O"], members: int, discrete: bool
) -> Figures:
    """Flat figures of one step ahead: reward, termination, chance, calibration of uncertainty."""
    before, after, r, ends = real
    r_error, spread = np.abs(step.r - r), float(r.std())
    found: dict[str, float | None] = {
        "reward_mae": float(r_error.mean()),
        "reward_error": float(r_error.mean() / spread) if spread > 1e-9 else None,
        "termination_brier": scores.brier(step.p_end, ends),
        "termination_ece": scores.calibration_error(step.p_end, ends),
        "termination_auroc": scores.auroc(step.p_end, ends),
        "termination_recall": float((step.p_end[ends] > 0.5).mean()) if ends.any() else None,
        "uncertainty": float(step.u.mean()),
        "uncertainty_99": float(np.quantile(step.u, 0.99)),
        "chance": unexplained(step, before, after, unit, members),
    }
    error = step_error(step.o, after, unit) + (r_error / spread if spread > 1e-9 else 0.0)
    found["uncertainty_spearman"] = scores.spearman(step.u, error)
    if discrete:
        found["chance_probability"] = float((step.o * after).sum(-1).mean())
        found["chance_expected"] = float(np.square(step.o).sum(-1).mean())
        found["coverage_set"] = scores.set_coverage(step.o, after, LEVEL)
    else:
        moved = (after != before).any(0)  # features that never change are left out
        wide = scores.half_width(step.o_between, step.o_within, members, LEVEL)
        if wide is not None and moved.any():
            inside = np.abs(step.o - after) <= wide + EXACT * unit
            found["coverage_o"] = float(inside[:, moved].mean())
    wide = scores.half_width(step.r_between, step.r_within, members, LEVEL)
    if wide is not None and spread > 1e-9:
        found["coverage_r"] = float((r_error <= wide + EXACT * spread).mean())
    return {name: x for name, x in found.items() if x is not None and np.isfinite(x)}


def step_error(
    o: Float[np.ndarray, "B O"], after: Float[np.ndarray, "B O"], unit: Float[np.ndarray, " O"]
) -> Float[np.ndarray, " B"]:
    """Root mean square error of each expected observation, in units."""
    return np.sqrt(np.square((o - after) / unit).mean(-1))


def unexplained(
    step: OneStep,
    before: Float[np.ndarray, "B O"],
    after: Float[np.ndarray, "B O"],
    unit: Float[np.ndarray, " O"],
    members: int,
) -> float | None:
    """The share of one-step change that is left unexplained although the members agree.

    (Error of their mean - their variance) / error of persistence. Members that disagree have seen
    too little data; members that agree and are wrong have met chance.
    """
    square = lambda x: float(np.square(x / unit).mean())
    still = square(after - before)
    if still == 0:
        return None
    spread = float((step.o_between / np.square(unit)).mean()) * (members - 1) / members
    return max(0.0, square(step.o - after) - spread) / still

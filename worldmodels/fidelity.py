"""How far a dream can be trusted: open-loop error against reality, on episodes it never saw."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from worldmodels.types import Windows

STEPS = (1, 5, 15, 50)  # k of the skill table


def open_loop(model, params, context, batch: Windows):
    """Every step of windows [B, M] dreamed from their first row, whose context is given, under the
    logged actions.

    Returns decoded observations [M, B, O] and a prediction per step [M, B], by the mean of the
    members and the likeliest chance code.
    """
    z = model.root(params, context)

    def step(z, a):
        chance_logits, y = model.afterstate(params, z, a)
        z, prediction = model.outcome(params, y, jnp.argmax(chance_logits, -1))
        return z, (model.decode(params, z), prediction)

    return jax.lax.scan(step, z, jnp.moveaxis(batch.a, 1, 0))[1]


def skill_table(
    o: Float[Array, "M B O"], batch: Windows, scale, steps: Sequence[int] = STEPS
) -> dict[str, list[float]]:
    """Mean squared error after k steps of the dream and of persistence (nothing changes).

    Normalised by the log's deviations, over windows that are real for k steps; empty where none is.
    """
    real = np.moveaxis(np.asarray(batch.o[:, :, -1]), 1, 0)
    known = np.asarray(batch.is_real_o).T
    unit = np.asarray(scale["o_std"])
    table = {"k": [], "model": [], "persistence": []}
    for k in steps:
        if k > len(o) or not known[k].any():
            continue
        table["k"].append(k)
        for name, guess in (("model", np.asarray(o[k - 1])), ("persistence", real[0])):
            error = np.square((guess - real[k]) / unit).mean(-1)
            table[name].append(float(error[known[k]].mean()))
    return table


def fidelity(table: dict, prediction, batch: Windows) -> dict[str, float]:
    """Flat figures: skill by k (1 = perfect, 0 = no better than persistence), first-step errors."""
    figures = {
        f"skill_{k}": 1 - model / persistence
        for k, model, persistence in zip(*table.values(), strict=True)
        if persistence > 0
    }
    real = np.asarray(batch.is_real_step)[:, 0]
    r, ends = np.asarray(batch.r)[:, 0], np.asarray(batch.terminated)[:, 0]
    at = lambda x: np.asarray(x)[0][real]
    p_end = 1 - at(prediction.continuation)
    figures["reward_mae"] = float(np.abs(at(prediction.r) - r[real]).mean())
    figures["termination_brier"] = float(np.square(p_end - ends[real]).mean())
    if ends[real].any():
        figures["termination_recall"] = float((p_end[ends[real]] > 0.5).mean())
    figures["uncertainty"] = float(at(prediction.uncertainty).mean())
    figures["uncertainty_99"] = float(np.quantile(at(prediction.uncertainty), 0.99))
    return figures


def each_member(model, params, context, batch: Windows) -> Float[Array, "E B O"]:
    """The observation after one step as each member decodes it, likeliest chance code."""

    def one(member):
        z = model.root(params, context)
        z = z.replace(member=jnp.full_like(z.member, member))
        chance_logits, y = model.afterstate(params, z, batch.a[:, 0])
        z, _ = model.outcome(params, y, jnp.argmax(chance_logits, -1))
        return model.decode(params, z)

    return jax.lax.map(one, jnp.arange(model.num_members))


def unexplained(o: Float[Array, "E B O"], batch: Windows, scale) -> dict[str, float]:
    """`chance`: the share of one-step change that the members agree on not explaining.

    Error of their mean less their own variance, over persistence's error. Members that disagree
    have seen too little; members that agree and are wrong have met chance.
    """
    guesses, unit = np.asarray(o), np.asarray(scale["o_std"])
    before, after = (np.asarray(batch.o[:, k, -1]) for k in (0, 1))
    known = np.asarray(batch.is_real_o)[:, 1]
    square = lambda x: float(np.square(x / unit)[..., known, :].mean())
    if not known.any() or square(after - before) == 0:
        return {}
    error = square(guesses.mean(0) - after)
    spread = square(guesses - guesses.mean(0))
    return {"chance": max(0.0, error - spread) / square(after - before)}

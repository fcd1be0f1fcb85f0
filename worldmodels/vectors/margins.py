"""How far outside the logged range a dream may go: as far as the law of the base is known there.

At a bound that the log does not show to be one, a dream must not stand still: students lean on such
a wall. Nor may it go where members no longer agree. So the logged steps nearest to a bound are
moved beyond it, and their law is asked: that of a cart knows no place, and holds wherever it rolls
to; that of a pole is another one at any speed that was not seen.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from worldmodels.vectors.base import base_changes, flat_rows
from worldmodels.vectors.regression import LoggedRows

TIMES = (2.0, 4.0, 8.0)  # the least margin, that are tried
KNOWN = 0.01  # most disagreement of members about a step, in deviations, where their law is known
SHARE, FEWEST, MOST = 0.05, 20, 256  # of the logged steps, those nearest to a bound


def margins(
    scale: dict, rows: LoggedRows, is_number: Bool[np.ndarray, " O"]
) -> Float[np.ndarray, "2 O"]:
    """Deviations by which dreams may leave the logged range of each number, below and above it: the
    most of TIMES `scale["margin"]` up to which the law is known, but at least that itself."""
    least = np.asarray(scale["margin"])
    margin, std = least.copy(), np.asarray(scale["o_std"])
    steps = np.flatnonzero(rows.has_step)
    if steps.size < FEWEST:
        return margin
    newest = rows.o[steps, -1]
    count = min(MOST, max(FEWEST, round(SHARE * steps.size)))
    doubt = jax.jit(_doubt)
    for side, bound in enumerate(np.asarray(scale[name]) for name in ("o_low", "o_high")):
        sign = 2 * side - 1
        for i in np.flatnonzero(is_number):
            near = steps[np.argsort(sign * newest[:, i])[-count:]]
            for times in TIMES:
                to = bound[i] + sign * times * least[side, i] * std[i]
                moved = rows.o[near].copy()
                moved[..., i] += (to - rows.o[near, -1, i])[:, None]
                context = moved, rows.a_past[near], rows.valid[near]
                if np.median(doubt(scale, context, rows.a[near], is_number)) > KNOWN:
                    break
                margin[side, i] = times * least[side, i]
    return margin


def _doubt(scale: dict, context: Any, a: Float[Array, "B A"], is_number) -> Float[Array, " B"]:
    """How much members disagree about a step, in deviations: root mean square over numbers."""
    o, a_past, valid = context
    change = base_changes(scale["base"], flat_rows(o, a_past, valid, scale), a) * scale["o_step"]
    square = jnp.square(change.std(0) / scale["o_std"])
    return jnp.sqrt(jnp.sum(square * is_number, axis=-1) / is_number.sum())

"""Figures of a step as plain numbers, or one line that says which is not finite."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dreaming.errors import LossError
from envs.types import UserError


def finite(metrics: Any) -> dict[str, float]:
    """Metrics as floats. Raises `UserError` naming the first that is not finite."""
    figures = {name: float(x) for name, x in metrics.items()}
    for name, x in figures.items():
        if not np.isfinite(x):
            part = name.partition("/")[0]
            part = {"clone": "baselines", "rehearse": "distill"}.get(part, part)
            raise UserError(
                f"{name} became {x}; nothing of this stage was kept: lower {part}.learning_rate, "
                "or look for extreme values in the log"
            )
    return figures


def check_losses(metrics: dict[str, jax.Array], updates: int) -> None:
    """Raise `LossError` naming what of a loss is not finite, by update `updates`.

    The update that met it, and those after it in the call, have left params, optimiser and
    priorities as they were: the state is the last good one.
    """
    bad = [name.removeprefix("learn/") for name, x in metrics.items() if not jnp.isfinite(x)]
    bad = [name for name in bad if name != "loss"]
    if bad:
        raise LossError(
            f"{', '.join(bad)} not finite by update {updates}; nothing was learned from it: lower "
            "optimiser.learning_rate, or look for rewards or frames that are not numbers"
        )

"""What a fit on large observations costs here, said before it begins."""

import time

import jax
import numpy as np

from dreaming.flops import count_flops
from dreaming.observe.log import Log
from dreaming.world.fitting import compiled_fit
from dreaming.world.physics import LearnedPhysics
from experiments.pages.words import duration

LARGE = 10_000  # features of a vector from which a step is no matter of a moment
SIZE = 1024  # rows of the matrices whose products are timed


def cost_line(log: Log, physics: LearnedPhysics) -> str | None:
    """A line on what the fit of a log of large vectors takes; None for other logs.

    The operations of a step are counted, and how many this machine does in a second is measured.
    """
    observation = log.observation
    if observation.size < LARGE or observation.kind == "frames":
        return None
    fit = physics.sized(log).planner(log)
    if not (steps := fit.config.steps):  # it is counted, not fitted
        return None
    one = log.only(np.array([0])).replay(fit.model.num_members, jax.random.key(0))
    step = compiled_fit(fit.model, fit.config, log.head, fit.model.window, 1)
    flops = count_flops(step, fit.blank(), one)
    seconds = flops / operations_per_second()
    line = (
        f"an observation is {observation.size:,} numbers: a step of the fit takes about "
        f"{seconds:.2g} s on this machine, {steps:,} of them {duration(steps * seconds)}"
    )
    if observation.kind == "discrete":
        line += "; model.name=counts counts such a log instead"
    return line


def operations_per_second() -> float:
    """How fast products of large matrices are here; 2 operations are a multiply-add."""
    x, multiply = jax.random.normal(jax.random.key(0), (SIZE, SIZE)), jax.jit(lambda x: x @ x)
    jax.block_until_ready(multiply(x))  # compiled
    begun = time.monotonic()
    jax.block_until_ready(multiply(multiply(x)))
    return 4 * SIZE**3 / (time.monotonic() - begun)

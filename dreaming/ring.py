"""Replay on the device: a ring of single frames, stacked and cut into windows by index."""

import jax
from jaxtyping import Array, Bool, Float, Int, Num

from dreaming.types import RingState, Rows


def init_ring(capacity: int, envs: int, frame: tuple[int, int, int], num_actions: int) -> RingState:
    """An empty ring of `capacity` observations of `envs` environments.

    Raises `ValueError` when the environments cannot share it out evenly.
    """
    raise NotImplementedError


def add(ring: RingState, rows: Rows) -> RingState:
    """`ring` with one more tick of all environments, over the oldest one if it is full.

    New rows enter at the greatest priority there is now. Raises `ValueError` for frames of another
    shape.
    """
    raise NotImplementedError


def can_start(ring: RingState, envs: int, window: int) -> Bool[Array, " N"]:
    """Slots that a window may begin at: the step is known and so are all frames of the stack."""
    raise NotImplementedError


def draw(
    ring: RingState, key: jax.Array, batch: int, *, envs: int, window: int, alpha, beta
) -> tuple[Int[Array, " B"], Float[Array, " B"]]:
    """(slots, importance weights) of `batch` different rows, likelier with priority ** alpha.

    Gumbel-top-k (Vieira, 2014): the first draws of sampling without replacement. Weights are
    (M p) ** -beta for M rows to draw from, over the greatest in the batch.
    """
    raise NotImplementedError


def stacks(
    ring: RingState, slots: Int[Array, "*B"], envs: int, window: int
) -> Num[Array, "*B W H V F"]:
    """The newest `window` frames at each slot, oldest first; an episode's first frame repeats."""
    raise NotImplementedError

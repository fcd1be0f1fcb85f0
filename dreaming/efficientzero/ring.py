"""Replay on the device: a ring of single frames, stacked and cut into windows by index.

E environments step together, and a tick fills E slots in a row: slot i + E is what came after slot
i in the same environment, slot i - E what came before. Nothing is ever moved.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from dreaming.efficientzero.types import Cut, RingState, Tick


def init_ring(capacity: int, envs: int, frame: tuple[int, int, int], num_actions: int) -> RingState:
    """An empty ring of `capacity` observations of `envs` environments.

    Raises `ValueError` when the environments cannot share it out evenly.
    """
    if capacity % envs or capacity < 2 * envs:
        raise ValueError(
            f"replay.capacity={capacity} must be a multiple of envs={envs}, and at least twice it"
        )
    numbers = lambda *shape: jnp.zeros((capacity, *shape), jnp.float32)
    whole, flags = jnp.zeros(capacity, jnp.int32), jnp.zeros(capacity, bool)
    return RingState(
        o=jnp.zeros((capacity, *frame), jnp.uint8),
        a=whole,
        r=numbers(),
        terminated=flags,
        truncated=flags,
        has_step=flags,
        elapsed=whole,
        episode=whole,
        pi_search=numbers(num_actions),
        v_search=numbers(),
        v=numbers(),
        version=whole,
        priority=numbers(),
        added=jnp.int32(0),
    )


def add(ring: RingState, rows: Tick) -> RingState:
    """`ring` with one more tick of all environments; it overwrites the oldest tick if full.

    New rows get the greatest priority in the ring. Raises `ValueError` for frames of another shape.
    """
    if rows.o.shape[1:] != ring.o.shape[1:]:
        raise ValueError(f"frames have shape {rows.o.shape[1:]}, expected {ring.o.shape[1:]}")
    envs, capacity = rows.a.shape[0], ring.a.shape[0]
    at = ring.added % capacity
    before = (ring.added - envs) % capacity
    last = lambda x: jax.lax.dynamic_slice_in_dim(x, before, envs)
    ended = last(ring.terminated) | last(ring.truncated)  # the new row shows its last o
    begins = ~last(ring.has_step)  # also where the ring is still empty
    has_step = begins | ~ended
    greatest = jnp.where(ring.added > 0, jnp.max(ring.priority), 1.0)
    new = dict(
        o=rows.o,
        a=rows.a,
        r=rows.r,
        terminated=rows.terminated & has_step,
        truncated=rows.truncated & has_step,
        has_step=has_step,
        elapsed=jnp.where(begins, 0, last(ring.elapsed) + 1),
        episode=last(ring.episode) + begins,
        pi_search=rows.pi_search,
        v_search=rows.v_search,
        v=rows.v,
        version=jnp.full(envs, -1, jnp.int32),
        priority=jnp.full(envs, greatest),
    )
    put = lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y.astype(x.dtype), at, 0)
    written = {name: put(getattr(ring, name), x) for name, x in new.items()}
    return ring.replace(**written, added=ring.added + envs)


def age(ring: RingState, slots: Int[Array, "*B"]) -> Int[Array, "*B"]:
    """Number of observations, of all environments, that were added after each slot."""
    return (ring.added - 1 - slots) % ring.a.shape[0]


def filled(ring: RingState) -> Int[Array, ""]:
    """Number of slots that hold an observation: slots 0..filled-1."""
    return jnp.minimum(ring.added, ring.a.shape[0])


def can_start(ring: RingState, envs: int, window: int) -> Bool[Array, " N"]:
    """Whether a window may begin at each slot: the observation after its step is stored, and so are
    all frames of its stack."""
    capacity = ring.a.shape[0]
    slots = jnp.arange(capacity)
    ages = age(ring, slots)
    is_whole = ages + jnp.minimum(ring.elapsed, window - 1) * envs < capacity
    return (slots < ring.added) & ring.has_step & (ages >= envs) & is_whole


def draw(
    ring: RingState, key: jax.Array, batch: int, *, envs: int, window: int, alpha, beta
) -> tuple[Int[Array, " B"], Float[Array, " B"]]:
    """(slots, importance weights) of `batch` different rows, drawn by priority ** alpha.

    Gumbel-top-k (Vieira, 2014): the first draws of sampling without replacement. Weights are
    (M p) ** -beta for M rows to draw from, divided by the greatest in the batch; if M < batch, the
    surplus rows have weight 0.
    """
    allowed = can_start(ring, envs, window)
    log_priority = alpha * jnp.log(jnp.maximum(ring.priority, 1e-30))
    log_p = jax.nn.log_softmax(jnp.where(allowed, log_priority, -jnp.inf))
    _, slots = jax.lax.top_k(log_p + jax.random.gumbel(key, log_p.shape), batch)
    log_weight = -beta * (log_p[slots] + jnp.log(jnp.sum(allowed)))
    log_weight = jnp.where(allowed[slots], log_weight, -jnp.inf)
    return slots, jnp.exp(log_weight - jnp.max(log_weight))


def followed(
    ring: RingState,
    slots: Int[Array, " G"],
    weight: Float[Array, " G"],
    length: int,
    *,
    envs: int,
    window: int,
) -> tuple[Int[Array, " B"], Float[Array, " B"]]:
    """(slots, weights) of `length` consecutive rows from each of the G `slots` on; B = G * length.

    A row has the weight of its drawn row, or 0 where no window may begin (`can_start`).
    """
    each = (slots[:, None] + jnp.arange(length) * envs) % ring.a.shape[0]
    allowed = can_start(ring, envs, window)[each]
    return each.reshape(-1), jnp.where(allowed, weight[:, None], 0.0).reshape(-1)


def stacks(
    ring: RingState, slots: Int[Array, "*B"], envs: int, window: int
) -> Num[Array, "*B W H V F"]:
    """The newest `window` frames at each slot, oldest first; missing ones repeat the oldest.

    Frames are missing at the start of an episode, and where the ring has overwritten them.
    """
    capacity = ring.a.shape[0]
    there = jnp.minimum(ring.elapsed[slots], (capacity - 1 - age(ring, slots)) // envs)
    back = jnp.minimum(jnp.arange(window - 1, -1, -1), there[..., None])
    at = jax.lax.optimization_barrier((slots[..., None] - back * envs) % capacity)
    return ring.o[at]  # without the barrier `at` is computed anew for every pixel


def cut(ring: RingState, slots: Int[Array, " B"], envs: int, length: int) -> Cut:
    """`length` rows from each slot on; past an episode's last stored row, that row repeats."""
    steps = jnp.arange(length)
    ahead = (slots[:, None] + steps * envs) % ring.a.shape[0]
    goes_on = ring.has_step[ahead] & (age(ring, slots)[:, None] >= (steps + 1) * envs)
    goes_on = jnp.cumprod(goes_on, axis=1).astype(bool)[:, :-1]
    reach = jnp.minimum(steps, jnp.sum(goes_on, axis=1, keepdims=True))
    at = (slots[:, None] + reach * envs) % ring.a.shape[0]
    terminated = ring.terminated[at[:, :-1]] & goes_on
    first = jnp.zeros_like(goes_on[:, :1])
    return Cut(
        slots=at,
        r=jnp.where(goes_on, ring.r[at[:, :-1]], 0.0),
        terminated=terminated,
        is_real_step=goes_on,
        is_real_o=jnp.concatenate([~first, goes_on], axis=1),
        is_absorbing=jnp.concatenate([first, jnp.cumsum(terminated, axis=1) > 0], axis=1),
    )

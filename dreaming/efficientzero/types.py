"""Containers of the online agent: what each field holds, axis by axis."""

import jax
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt8, UInt32

Numbers = jax.Array | np.ndarray


class Tick(struct.PyTreeNode):
    """One tick of E environments: what each showed, and the step that left it.

    After an end the next row shows the last observation of that episode, and no step leaves it:
    its action and what it earned are ignored (Gymnasium's AutoresetMode.NEXT_STEP). The row after
    that one begins the next episode. NumPy's arrays will do.
    """

    o: UInt8[Numbers, "E H V F"]  # the newest frame alone
    a: Int[Numbers, " E"]
    r: Float[Numbers, " E"]
    terminated: Bool[Numbers, " E"]
    truncated: Bool[Numbers, " E"]
    pi_search: Float[Numbers, "E A"]  # what the actor's search said, until the first refresh
    v_search: Float[Numbers, " E"]
    v: Float[Numbers, " E"]  # of the network alone


class RingState(struct.PyTreeNode):
    """N slots, one observation each; a tick of E environments fills E slots in a row.

    Slot i belongs to environment i mod E, and slot i + E (mod N) is what came next there. The step
    of slot i is the one that left its observation.
    """

    o: UInt8[Array, "N H V F"]
    a: Int[Array, " N"]
    r: Float[Array, " N"]
    terminated: Bool[Array, " N"]
    truncated: Bool[Array, " N"]
    has_step: Bool[Array, " N"]  # False for the last observation of an episode
    elapsed: Int[Array, " N"]  # steps since its episode began
    episode: Int[Array, " N"]  # the number of its episode, from 1 in each environment
    pi_search: Float[Array, "N A"]
    v_search: Float[Array, " N"]
    v: Float[Array, " N"]
    version: Int[Array, " N"]  # of the target params that searched here; -1 = the actor's
    priority: Float[Array, " N"]  # 0 = no observation yet
    added: Int[Array, ""]  # observations so far; the next one goes to slot added mod N


class Cut(struct.PyTreeNode):
    """Which slots L consecutive rows are, and what of them is real (as in `Windows`); M = L - 1."""

    slots: Int[Array, "B L"]
    r: Float[Array, "B M"]  # 0 where no step is real
    terminated: Bool[Array, "B M"]
    is_real_step: Bool[Array, "B M"]
    is_real_o: Bool[Array, "B L"]
    is_absorbing: Bool[Array, "B L"]


class Acted(struct.PyTreeNode):
    """What a batched search says of the newest observations of E environments."""

    action: Int[Array, " E"]
    pi_search: Float[Array, "E A"]
    v_search: Float[Array, " E"]
    v: Float[Array, " E"]


class Imagined(struct.PyTreeNode):
    """M walks of D steps in the model from stored states, and what a search says where each step
    led."""

    slots: Int[Array, " M"]  # where they began
    a: Int[Array, "M D"]
    pi_search: Float[Array, "M D A"]
    v_search: Float[Array, "M D"]
    weight: Float[Array, "M D"]  # probability that it was not over by then; 0 = there is no walk


class AgentState(struct.PyTreeNode):
    """All of an online agent that must survive a restart."""

    params: PyTree
    opt_state: optax.OptState
    ring: RingState
    key: UInt32[Array, " 2"]  # never changes; every draw folds a name and a counter into it
    updates: Int[Array, ""]
    real_steps: Int[Array, ""]  # steps of environments in the ring's whole past
    version: Int[Array, ""]  # refreshes so far
    searches: Int[Array, ""]  # states searched by refreshes
    imagined: Imagined | None = None  # by the last refresh; None where that is not asked for

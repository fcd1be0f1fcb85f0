"""Containers of the online agent: what each field holds, axis by axis."""

import jax
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt8, UInt32

Numbers = jax.Array | np.ndarray


class Tick(struct.PyTreeNode):
    """One tick of E environments: the observation of each, and the step taken from it.

    The tick after an end shows the last observation of that episode; no step is taken from it, so
    its action and reward are ignored (Gymnasium's AutoresetMode.NEXT_STEP). The tick after that
    begins the next episode. Arrays may be NumPy's.
    """

    o: UInt8[Numbers, "E H V F"]  # the newest frame, without the stack
    a: Int[Numbers, " E"]
    r: Float[Numbers, " E"]
    terminated: Bool[Numbers, " E"]
    truncated: Bool[Numbers, " E"]
    pi_search: Float[Numbers, "E A"]  # of the search that acted
    v_search: Float[Numbers, " E"]
    v: Float[Numbers, " E"]  # of the network, without search


class RingState(struct.PyTreeNode):
    """N slots, one observation each; a tick of E environments fills E slots in a row.

    Slot i belongs to environment i mod E, and slot i + E (mod N) is its next observation. The step
    of slot i is the one taken from its observation.
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
    version: Int[Array, " N"]  # number of the refresh that searched here; -1 = the acting search
    priority: Float[Array, " N"]  # 0 = no observation yet
    added: Int[Array, ""]  # observations so far; the next one goes to slot added mod N


class Cut(struct.PyTreeNode):
    """Slots of L consecutive rows, and masks of what is real (as in `Windows`); M = L - 1 steps."""

    slots: Int[Array, "B L"]
    r: Float[Array, "B M"]  # 0 where the step is not real
    terminated: Bool[Array, "B M"]
    is_real_step: Bool[Array, "B M"]
    is_real_o: Bool[Array, "B L"]
    is_absorbing: Bool[Array, "B L"]


class Acted(struct.PyTreeNode):
    """Result of a batched search at the newest observations of E environments."""

    action: Int[Array, " E"]
    pi_search: Float[Array, "E A"]
    v_search: Float[Array, " E"]
    v: Float[Array, " E"]


class Imagined(struct.PyTreeNode):
    """M walks of D steps in the model from stored states, with a search at every state reached."""

    slots: Int[Array, " M"]  # stored states that the walks start from
    a: Int[Array, "M D"]
    pi_search: Float[Array, "M D A"]
    v_search: Float[Array, "M D"]
    weight: Float[Array, "M D"]  # probability that the episode still goes on; 0 = no walk


class AgentState(struct.PyTreeNode):
    """The state of an online agent: all that a checkpoint saves."""

    params: PyTree
    opt_state: optax.OptState
    ring: RingState
    key: UInt32[Array, " 2"]  # never changes; every draw folds a name and a counter into it
    updates: Int[Array, ""]
    real_steps: Int[Array, ""]  # real steps added to the ring so far
    version: Int[Array, ""]  # refreshes so far
    searches: Int[Array, ""]  # states searched by refreshes
    imagined: Imagined | None = None  # made by the last refresh; None if imagining is off

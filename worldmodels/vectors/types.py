"""Containers of the vector model: what each field holds, axis by axis."""

from flax import struct
from jaxtyping import Array, Bool, Float, Int


class History(struct.PyTreeNode):
    """The newest V = W - 1 observations of a context, to encode the next root with."""

    o: Float[Array, "*B V O"]
    a: Float[Array, "*B U A"]  # U = V - 1 actions between them; V once the newest was chosen
    valid: Bool[Array, "*B V"]


class LatentState(struct.PyTreeNode):
    """State of a vector model: a latent, and the member that predicts the next step."""

    latent: Float[Array, "*B D"]
    member: Int[Array, " *B"]  # -1 = the mean of the members
    o: Float[Array, "*B O"]  # the observation shown here
    x: Float[Array, "*B X"] | None  # the context that it ends, normalised: what the base reads
    history: History | None = None  # what the next root is encoded with; None for W = 1


class Afterstate(struct.PyTreeNode):
    """The state after an action, before its chance outcome, by every member."""

    member: Int[Array, " *B"]
    o: Float[Array, "*B O"]  # the observation before the action
    change: Float[Array, "*B E O"] | None  # that each member's base expects, in `o_step`
    hidden: Float[Array, "*B E H"]  # rows first, as a search tree stores them
    codes: Int[Array, "*B C"]  # the codes on offer, the likeliest first
    disagreement: Float[Array, " *B"]  # of the members about the codes' probabilities
    history: History | None = None

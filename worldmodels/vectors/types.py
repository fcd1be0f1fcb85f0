"""Containers of the model of vectors: what each field holds, axis by axis."""

from flax import struct
from jaxtyping import Array, Bool, Float, Int


class History(struct.PyTreeNode):
    """What of a context stays when its oldest observation leaves; V = W - 1."""

    o: Float[Array, "*B V O"]
    a: Float[Array, "*B U A"]  # U = V - 1 actions between them; V once the newest was chosen
    valid: Bool[Array, "*B V"]


class LatentState(struct.PyTreeNode):
    """Where a model is: one latent, and the member whose physics carries it on."""

    latent: Float[Array, "*B D"]
    member: Int[Array, " *B"]  # -1 = the mean of the members
    o: Float[Array, "*B O"] | None = None  # the observation shown here; None: not yet decoded
    history: History | None = None  # what the next root is encoded with; None for W = 1


class Afterstate(struct.PyTreeNode):
    """A latent and an action, seen by every member, before chance has spoken."""

    latent: Float[Array, "*B D"]
    member: Int[Array, " *B"]
    hidden: Float[Array, "*B E H"]  # rows first, as a search tree stores them
    codes: Int[Array, "*B C"]  # the codes on offer, the likeliest first
    disagreement: Float[Array, " *B"]  # of the members about the codes
    history: History | None = None

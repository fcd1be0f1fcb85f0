"""Containers of the model of frames: what each field holds, axis by axis."""

from flax import struct
from jaxtyping import Array, Bool, Float, Int, Num


class PrefixState(struct.PyTreeNode):
    """Where a model of images is, and what of its value prefix has been earned."""

    latent: Float[Array, "*B h w C"]
    memory: tuple[Float[Array, "*B M"], Float[Array, "*B M"]]  # the LSTM's pair; 0 after a reset
    value_prefix: Float[Array, " *B"]  # sum of rewards since the last reset; 0 after one
    steps: Int[Array, " *B"]  # since the last reset
    member: Int[Array, " *B"]  # there is one; -1


class FrameAfterstate(struct.PyTreeNode):
    """A state of a model of images and the action taken there."""

    z: PrefixState
    a: Float[Array, "*B A"]


class FrameWindows(struct.PyTreeNode):
    """K unrolled steps cut from the replay of images, with the targets of every row.

    Rows k in 0..K, steps k in 0..K-1; step k leads from row k to row k + 1. Nothing past the end
    of an episode is real: the masks say what is, as in `Windows`.

    In sequences of T windows, each of which begins a row after the one before it, frames that
    several windows show are held once: G sequences, B = G T, Q = T + K. Else T = 1.
    """

    o: Num[Array, "G Q W H V F"]  # stacks of W frames, 0 to 255, oldest first
    a: Float[Array, "B K A"]
    r: Float[Array, "B K"]
    is_real_step: Bool[Array, "B K"]
    is_real_o: Bool[Array, "B K1"]
    is_absorbing: Bool[Array, "B K1"]  # the episode terminated by this row
    v: Float[Array, "B K1"]  # value target in reward units; 0 where absorbing
    pi: Float[Array, "B K1 A"]  # policy target; none where absorbing or not real
    weight: Float[Array, " B"]  # importance weight of the draw
    shown: Int[Array, "B K1"] | None = (
        None  # which q of its sequence shows row k; None: T = 1, q = k
    )


class ImaginedWindows(struct.PyTreeNode):
    """D steps in the model from real frames, with targets for the states that they lead to."""

    o: Num[Array, "B W H V F"]  # stacks of W frames, 0 to 255, oldest first
    a: Float[Array, "B D A"]
    v: Float[Array, "B D"]
    pi: Float[Array, "B D A"]
    weight: Float[Array, "B D"]

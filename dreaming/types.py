"""Containers of the loop: what each field holds, axis by axis."""

from typing import Any

import optax
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Num, PyTree, UInt32

from envs.features import unpacked
from envs.types import Context
from worldmodels.types import HeadTargets


class ReplayState(struct.PyTreeNode):
    """R rows, one per observation; episodes follow each other.

    Row i holds o[t] and, unless it is the last of its episode, the step a[t], r[t] taken from it.
    """

    o: Num[Array, "R C"]  # packed (`Features.pack`): a category is one number, frames stay bytes
    a: Float[Array, "R A"]  # action features; zeros in the last row of an episode
    r: Float[Array, " R"]
    terminated: Bool[Array, " R"]
    has_step: Bool[Array, " R"]
    legal: Bool[Array, "R A"]
    episode: Int[Array, " R"]
    first: Int[Array, " R"]  # row where its episode begins
    last: Int[Array, " R"]  # row where its episode ends
    starts: Int[Array, " M"]  # the M rows that have a step
    endings: Int[Array, " F"]  # rows whose episode terminates within REACH steps; `starts` if none
    num_starts: Int[Array, ""]  # M; later entries of `starts` are padding
    num_endings: Int[Array, ""]  # F
    ending_share: Float[Array, ""]  # extra share of windows drawn from `endings`
    member_weights: Float[Array, "N E"]  # bootstrap of every episode by every member
    pi_target: Float[Array, "R T"]  # the logged action
    parts: tuple[tuple[str, int], ...] = struct.field(pytree_node=False)  # of its observations

    def observed(self, rows: Int[Array, "*B"]) -> Num[Array, "*B O"]:
        """The observation features of rows."""
        return unpacked(self.o[rows], self.parts)


class SearchResult(struct.PyTreeNode):
    """A teacher's result for states [B]; K candidate actions (see `ActionHead`)."""

    action: Int[Array, " B"]  # index of the best candidate
    a: Float[Array, "B A"]  # its features
    pi_search: Float[Array, "B K"]  # the improved distribution: what is distilled
    proposals: Float[Array, "B J A"]  # the candidates if they are sampled; else J = 0
    v_search: Float[Array, " B"]  # sum of pi_search * mean backups, in reward units
    q: Float[Array, "B K"]  # completed action values in reward units
    visits: Int[Array, "B K"]


class Node(struct.PyTreeNode):
    """Embedding of a search tree without chance: a state and the basis of its candidate actions."""

    z: Any
    basis: Float[Array, "B X"]


class ChanceNode(struct.PyTreeNode):
    """Embedding of a tree with chance: a decision node, or an afterstate and its outcomes."""

    is_chance: Any  # [B] bool
    z: Any  # state of a decision node
    basis: Any  # [B, X] of a decision node
    y: Any  # afterstate of a chance node
    p: Any  # [B, C] probability of each code
    q: Any  # [B, C] r + discount * v of each code, as the model sees it


class Paths(struct.PyTreeNode):
    """What lies between every node n and each of its ancestors a, itself among them; else 0.

    A value v of node n is worth r + discount * v at a. With these, values go up without a loop.
    """

    is_above: Float[Array, "B N N"]  # 1 where a is an ancestor of n, or n itself
    r: Float[Array, "B N N"]
    discount: Float[Array, "B N N"]


class Leaves(struct.PyTreeNode):
    """The edges at which the k simulations of a pass leave the tree."""

    node: Int[Array, "B k"]
    action: Int[Array, "B k"]
    is_real: Bool[Array, "B k"]  # False for an action that must not be taken: it is left out


class Walks(struct.PyTreeNode):
    """The last contexts of D walks, from which later walks can continue."""

    last: Context  # [D]
    goes_on: Bool[Array, " D"]  # the task did not end on the way


class Rehearsal(struct.PyTreeNode):
    """D walks of H steps, flattened to N = D * H states, and a teacher's results at T states."""

    z: Any  # [N] latent states
    v_target: Float[Array, " N"]  # TD(lambda) along the walk, in reward units
    weight: Float[Array, " N"]  # probability that the walk got this far without ending
    taught_z: Any  # [T]
    taught_context: Context  # [T] contexts of these states, as the student sees them
    taught_weight: Float[Array, " T"]
    taught: SearchResult  # [T]
    last: Context  # [D] last context of each walk
    goes_on: Bool[Array, " D"]  # the task did not end on the way


class Minibatch(struct.PyTreeNode):
    """A part of a rehearsal, from which the model's heads and the student learn."""

    targets: HeadTargets
    context: Context  # [T] contexts of the taught states


class DistillState(struct.PyTreeNode):
    """The state of rehearsal and distillation: the student, and the planner's heads."""

    student: PyTree
    heads: PyTree
    slow_heads: PyTree
    walks: Walks  # the last walks; some of the next continue them
    opt_state: optax.OptState
    key: UInt32[Array, " 2"]
    iterations: Int[Array, ""]

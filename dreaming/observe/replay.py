"""The log as arrays on the device: every observation once, windows cut out by index."""

import functools
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dreaming.types import ReplayState
from envs.types import Context, Features, Trace, TraceError
from worldmodels.actions import ActionHead
from worldmodels.protocol import RowChunk
from worldmodels.types import Windows

CHUNK, CHUNK_BYTES = 4096, 128 << 20  # most rows per compiled call, and bytes of observations
REACH = 5  # most steps before a termination that count as near it
ENDING_SHARE = 0.1  # least share of windows that begin near a termination, if there is one


def make_replay(
    traces: Iterable[Trace],
    observation: Features,
    action: Features,
    head: ActionHead,
    *,
    members: int = 1,
    key: jax.Array | None = None,
    multiple: int = 1,
) -> ReplayState:
    """The replay of a whole log; rows, steps and episodes are padded to multiples of `multiple`.

    Logs of about the same size then have the same shapes, and share their compiled programs.
    `members` weigh its episodes by `key` (`bootstrapped`).
    """
    traces = list(traces)
    if not traces:
        raise TraceError("the log is empty; record or name at least one episode")
    lengths = np.array([len(trace) + 1 for trace in traces])
    ends = np.cumsum(lengths)
    firsts = ends - lengths
    pad = lambda x: np.concatenate([x, np.zeros_like(x[:1])])
    rows = lambda f: np.concatenate([f(trace) for trace in traces])
    has_step = rows(lambda t: pad(np.ones(len(t), bool)) & (np.arange(len(t) + 1) < len(t)))
    num_rows = int(ends[-1])
    masks = lambda t: (
        np.ones((len(t) + 1, action.size), bool) if t.action_masks is None else t.action_masks
    )
    starts = np.flatnonzero(has_step)
    last = np.repeat(ends - 1, lengths)
    ended = np.repeat([bool(trace.terminated[-1]) for trace in traces], lengths)
    endings = starts[(ended & (last - np.arange(num_rows) <= REACH))[starts]]
    arrays = dict(
        o=rows(lambda t: observation.pack(t.observations)),
        a=rows(lambda t: pad(action.flatten(t.actions))),
        r=rows(lambda t: pad(t.rewards)).astype(np.float32),
        terminated=rows(lambda t: pad(t.terminated)),
        has_step=has_step,
        legal=rows(masks).astype(bool),
        episode=np.repeat(np.arange(len(traces)), lengths).astype(np.int32),
        first=np.repeat(firsts, lengths).astype(np.int32),
        last=last.astype(np.int32),
        starts=starts.astype(np.int32),
        endings=(endings if endings.size else starts).astype(np.int32),
        ending_share=np.float32(
            max(0.0, ENDING_SHARE - endings.size / starts.size) if endings.size else 0
        ),
        member_weights=np.ones((len(traces), 1), np.float32),
        pi_target=rows(lambda t: pad(np.asarray(head.target(action.flatten(t.actions))))),
    )
    counts = {"num_starts": starts.size, "num_endings": arrays["endings"].size}
    arrays = {name: _padded(np.asarray(x), multiple) for name, x in arrays.items()}
    counts = {name: np.int32(count) for name, count in counts.items()}
    device = {name: jnp.asarray(x) for name, x in (arrays | counts).items()}
    replay = ReplayState(**device, parts=observation.parts)
    return bootstrapped(replay, len(traces), members, key)


def bootstrapped(
    replay: ReplayState, episodes: int, members: int, key: jax.Array | None
) -> ReplayState:
    """The same replay, of so many episodes, for `members` that weigh them each in its own way.

    Every member weighs each episode by an Exp(1) draw: the Bayesian bootstrap (Rubin, 1981), which
    never hides a rare episode from a member altogether. An episode's weights are scaled to mean 1
    over the members (a balanced bootstrap, Davison et al., 1986): the members together then weigh
    all episodes equally, and so does a single member. Without `key` all weights are 1.
    """
    weights = np.ones((episodes, members), np.float32)
    if key is not None:
        weights = np.asarray(jax.random.exponential(key, weights.shape))
        weights = weights / weights.mean(1, keepdims=True)
    padding = len(replay.member_weights) - episodes
    return replay.replace(member_weights=jnp.asarray(np.pad(weights, [(0, padding), (0, 0)])))


def _padded(x: np.ndarray, multiple: int) -> np.ndarray:
    """`x` padded with zeros to a multiple of `multiple` rows; scalars as they are."""
    if x.ndim == 0:
        return x
    return np.pad(x, [(0, -len(x) % multiple)] + [(0, 0)] * (x.ndim - 1))


def contexts(replay: ReplayState, rows: Int[Array, "*B"], window: int) -> Context:
    """The context of each row: its `window` newest observations; missing ones repeat the first."""
    back = rows[..., None] - jnp.arange(window - 1, -1, -1)
    first = replay.first[rows][..., None]
    at = jnp.maximum(back, first)
    valid = back >= first
    a = replay.a[at[..., :-1]] * valid[..., :-1, None]
    return Context(o=replay.observed(at), a=a, elapsed=at - first, valid=valid)


def sample_windows(
    replay: ReplayState,
    key: jax.Array,
    batch: int,
    length: int,
    *,
    head: ActionHead,
    window: int = 1,
) -> Windows:
    """`batch` windows of `length` rows that begin at uniformly drawn steps of the log.

    If fewer than ENDING_SHARE of the steps are near a termination, about that share of the windows
    begins at such steps: a model must learn endings even from two in ten thousand steps. Windows
    have the weights p / q that undo this, or endings would be dreamed too often (importance
    sampling).
    """
    start_key, ending_key, choice_key, action_key = jax.random.split(key, 4)
    pick = lambda key, rows, count: rows[jax.random.randint(key, (batch,), 0, count)]
    is_ending = jax.random.uniform(choice_key, (batch,)) < replay.ending_share
    starts = jnp.where(
        is_ending,
        pick(ending_key, replay.endings, replay.num_endings),
        pick(start_key, replay.starts, replay.num_starts),
    )
    weight = start_weights(replay, starts)
    cut = functools.partial(cut_windows, replay, starts, length, action_key, head=head)
    return cut(window=window, weight=weight)


def start_weights(replay: ReplayState, starts: Int[Array, " B"]) -> Float[Array, " B"]:
    """p / q of each first row: uniform over the log's steps, against how `sample_windows` draws."""
    near = replay.last[starts] - starts <= REACH
    near &= replay.terminated[jnp.maximum(replay.last[starts] - 1, 0)]
    more = replay.num_starts / replay.num_endings * near
    return 1 / (1 - replay.ending_share + replay.ending_share * more)


def every_row(replay: ReplayState, rows: int, head: ActionHead, window: int) -> Iterator[RowChunk]:
    """The first `rows` rows in order, each as a window of two; where an episode is over, the step
    of the second row is not real."""
    cut = jax.jit(functools.partial(cut_windows, length=2, head=head, window=window))
    size = sum(size for _, size in replay.parts) * window * replay.o.dtype.itemsize
    chunk = max(1, min(CHUNK, CHUNK_BYTES // (2 * size)))
    for first in range(0, rows, chunk):
        at = jnp.minimum(first + jnp.arange(chunk), rows - 1)  # one shape
        windows = cut(replay, at, key=jax.random.key(0))
        yield RowChunk(windows, min(chunk, rows - first))


def cut_windows(
    replay: ReplayState,
    starts: Int[Array, " B"],
    length: int,
    key: jax.Array,
    *,
    head: ActionHead,
    window: int = 1,
    weight: Float[Array, " B"] | None = None,
) -> Windows:
    """Windows of `length` rows from `starts`; past the end of an episode its last row repeats, with
    random actions, and the masks say that this is not real. `weight` is theirs, usually 1."""
    last = replay.last[starts][:, None]
    row = starts[:, None] + jnp.arange(length)
    at = jnp.minimum(row, last)
    step = at[:, :-1]
    is_real_step = (row[:, :-1] < last) & replay.has_step[step]
    terminated = replay.terminated[step] & is_real_step
    ended = jnp.cumsum(terminated, axis=1) > 0
    is_absorbing = jnp.concatenate([jnp.zeros_like(ended[:, :1]), ended], axis=1)
    random = head.random(key, step.shape)
    context = contexts(replay, at, window)
    return Windows(
        o=context.o,
        a_past=context.a,
        valid=context.valid,
        is_real_o=row <= last,
        is_absorbing=is_absorbing,
        a=jnp.where(is_real_step[..., None], replay.a[step], random),
        r=replay.r[step],
        terminated=terminated,
        is_real_step=is_real_step,
        pi=jnp.where(is_absorbing[..., None], 0.0, replay.pi_target[at]),
        has_pi=replay.has_step[at] & ~is_absorbing,
        legal=replay.legal[at],
        member_weights=replay.member_weights[replay.episode[starts]],
        weight=jnp.ones(starts.shape) if weight is None else weight,
    )

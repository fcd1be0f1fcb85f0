"""A session: a bounded stretch of real work in one deployment, recorded as it goes.

    sessions/<id>/session.json   deployment, weights, head, consent: when it began
    sessions/<id>/rows/000000/   decisions, a unit at the end of each day (or of 50 decisions)
    sessions/<id>/closed.json    when it ended
    sessions/<id>/review.json    what somebody said of it, once

A policy that is asked in a session reads the session's rows so far, so it learns in context.
"""

import contextlib
import functools
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dreaming.errors import RegistryError
from dreaming.observe.behaviours import legal_entries
from dreaming.sessions.network import ReaderShape, answer, nothing, read, remembered
from dreaming.sessions.records import Record
from dreaming.sessions.types import Memory, Rows, named_rows, rows_of
from dreaming.sessions.units import clear_drafts, now, write_once, write_unit
from envs.types import Features, UserError, action_features

LOCK = "lock"
UNIT = 50  # decisions that are lost at most when a process is killed in the middle of a day
ROOM = 256  # rows that a policy remembers; after that the oldest leave


class Session:
    """A policy at work. Use as `with registry.session(...) as s`: it is closed at the end, and left
    open when an error ends it.

    For each decision `a = s.act(o)`, then `s.observe(...)` with what was seen of it, if anything.
    It writes only while it holds its lock: from `hold` to `leave`.
    """

    def __init__(
        self,
        path: Path,
        facts: Mapping[str, Any],
        params: Any,
        shape: ReaderShape,
        *,
        spaces: tuple[Any, Any],
        outcomes: tuple[str, ...] = (),
        kept: Rows | None = None,
    ):
        self.id, self.deployment, self.path = facts["id"], facts["deployment"], path
        self._observation, self._action = Features(spaces[0]), action_features(spaces[1])
        self._outcomes, self._params = outcomes, params
        self._choose, self._ask, self._add = programs(shape)
        self._random = np.random.default_rng()
        self._pending: list[dict[str, Any]] = []  # decisions that are not on disk yet
        self._waits: dict[str, Any] | None = None  # the last decision, until it was observed
        self._memory, self._at, self._day, self._units = nothing(shape, (), ROOM), 0, 0, 0
        if kept is not None:
            self._remember_all(named_rows(kept))
        self._lock: contextlib.ExitStack | None = None

    def hold(self, lock: contextlib.ExitStack) -> "Session":
        """Work from now on, under a lock that is let go by `leave`."""
        self._lock = lock
        return self

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put all decisions on disk; close the session unless an error came."""
        self.leave(close=kind is None)

    def leave(self, *, close: bool = False) -> None:
        """Put all decisions on disk, and let others write; without `close` it stays open. After
        that nothing more is done here."""
        if self._lock is None:
            return
        with self._lock:
            try:
                self.save()
                if close:
                    write_once(self.path / "closed.json", {"ended": now()})
            finally:
                self._lock = None

    def _check_held(self) -> None:
        """Raise `RegistryError` after `leave`: somebody else may be writing by now."""
        if self._lock is None:
            raise RegistryError(
                f"session {self.id} was left, so nothing more is written to it here; if it is open "
                f"still, go on with registry.go_on({self.id!r})"
            )

    def act(self, observation: Any, *, action_mask: Any = None, seed: int | None = None) -> Any:
        """The action for an observation, drawn from the policy; its probability is recorded."""
        self._check_held()
        o = self._features(observation)
        random = self._random if seed is None else np.random.default_rng(seed)
        legal = legal_entries(action_mask, self._action, 0, ended=False)
        legal = np.ones(self._action.size, bool) if legal is None else legal
        key = random.integers(0, 1 << 32, 2, np.uint32)
        index, p = self._choose(self._params, self._memory, o, legal, key)
        action = int(index) + self._action.space.start
        self.record(observation, action, propensity=float(p), legal=legal)
        return action

    def probabilities(self, observation: Any) -> np.ndarray:
        """The policy's probabilities of all actions at an observation, as of now."""
        o = self._features(observation)
        return np.asarray(self._ask(self._params, self._memory, o))

    def record(
        self, observation: Any, action: Any, *, propensity: float | None = None, legal: Any = None
    ) -> None:
        """Record a decision that somebody else took, with its probability if that is known."""
        self.observe()
        a = self._action.flatten(np.asarray(action)[None])[0]
        legal = np.ones(self._action.size, bool) if legal is None else legal
        p = np.nan if propensity is None else propensity
        if not (np.isnan(p) or 0 < p <= 1):
            raise UserError(f"session {self.id}: the propensity {p} does not lie in (0, 1]")
        decision = {"o": self._features(observation), "a": a, "p": np.float32(p), "legal": legal}
        self._waits = decision | {"day": np.int32(self._day)}

    def observe(
        self, *, reward: float | None = None, outcome: int | str | None = None, ended: bool = False
    ) -> None:
        """What was seen of the last decision: its reward, its outcome (a name or an index), and
        whether it ended the day. What is left out was not seen."""
        self._check_held()
        if self._waits is None:
            if reward is not None or outcome is not None or ended:
                raise UserError(
                    f"session {self.id}: observe() comes after act(), once, with all that was seen "
                    "and ended=True if it ended the day"
                )
            return
        r, index = 0.0 if reward is None else float(reward), self._outcome(outcome)
        if not np.isfinite(r):
            raise UserError(f"session {self.id}: the reward {reward} is not a finite number")
        row = self._waits | {"r": np.float32(r), "known": np.bool_(reward is not None)}
        row |= {"outcome": np.int32(index), "valid": np.bool_(True), "ended": np.bool_(ended)}
        self._waits = None
        self._pending.append(row)
        self._remember(rows_of(row))
        self._day += int(ended)
        if ended or len(self._pending) >= UNIT:
            self.save()

    def resume(self, record: Record) -> None:
        """Go on after the rows that are on disk already, in their last day unless it ended."""
        self._units = record.units
        if record.rows is not None:
            self._remember_all(named_rows(record.rows))
            self._day = int(record.rows.day[-1]) + int(record.ended[-1])

    def save(self) -> None:
        """Put all decisions so far on disk."""
        self.observe()
        if not self._pending:
            return
        arrays = {name: np.stack([row[name] for row in self._pending]) for name in self._pending[0]}
        folder = self.path / "rows"
        clear_drafts(folder)
        write_unit(folder / f"{self._units:06d}", {"rows": len(self._pending)}, arrays)
        self._pending, self._units = [], self._units + 1

    def _features(self, observation: Any) -> np.ndarray:
        try:
            o = self._observation.flatten(self._observation.stack([observation]))[0]
        except (TypeError, ValueError):
            o = np.full(1, np.nan)
        if not np.isfinite(o).all():
            shown = " ".join(str(observation).split())
            raise UserError(f"observation {shown} does not fit {self._observation.space}")
        return o

    def _outcome(self, outcome: int | str | None) -> int:
        if outcome is None:
            return -1
        if isinstance(outcome, str) and outcome in self._outcomes:
            return self._outcomes.index(outcome)
        is_index = isinstance(outcome, int | np.integer) and -1 <= outcome < len(self._outcomes)
        if not is_index:
            raise UserError(
                f"session {self.id}: there is no outcome {outcome!r}; known are "
                f"{', '.join(self._outcomes) or 'none'}"
            )
        return int(outcome)

    def _remember_all(self, rows: Mapping[str, np.ndarray]) -> None:
        for i in range(len(rows["r"])):
            self._remember(rows_of({name: x[i] for name, x in rows.items()}))

    def _remember(self, row: Rows) -> None:
        self._memory = self._add(self._params, self._memory, row, self._at % ROOM)
        self._at += 1


@functools.lru_cache(maxsize=8)
def programs(shape: ReaderShape) -> tuple[Any, Any, Any]:
    """Compiled (choose an action and say its probability, say all of them, remember a row)."""

    def log_pi(params, memory: Memory, o):
        pi, _ = answer(params, shape, remembered(params, shape, memory), o[None])
        return jax.nn.log_softmax(pi[0])

    @jax.jit
    def choose(params, memory: Memory, o, legal, key):
        logits = jnp.where(legal, log_pi(params, memory, o), -jnp.inf)
        a = jax.random.categorical(jax.random.wrap_key_data(key), logits)
        return a, jax.nn.softmax(logits)[a]

    @jax.jit
    def ask(params, memory: Memory, o):
        return jnp.exp(log_pi(params, memory, o))

    @jax.jit
    def add(params, memory: Memory, row: Rows, at):
        new = read(params, shape, jax.tree.map(lambda x: jnp.asarray(x)[None], row))
        return jax.tree.map(lambda x, y: x.at[at].set(y[0]), memory, new)

    return choose, ask, add

"""The registry as users hold it: sessions, reviews, what is deployed, and the way back.

registry = Registry("registry")
with registry.session("acme", consent=True) as s:
    a = s.act(o, action_mask=mask)
    s.observe(reward=1.0, outcome="right")
"""

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreaming.errors import RegistryError
from dreaming.sessions.family import Family
from dreaming.sessions.lock import locked
from dreaming.sessions.network import ReaderShape
from dreaming.sessions.records import Record, read_record
from dreaming.sessions.session import LOCK, Session
from dreaming.sessions.store import Head, Store, found
from dreaming.sessions.types import OldDreams
from dreaming.sessions.units import now, write_once

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,99}")
REVIEWS = ("up", "down")


class Registry(Store):
    """A registry that exists; `create` makes one. All methods raise `RegistryError`."""

    @classmethod
    def create(
        cls,
        path: str | Path,
        params: Any,
        shape: ReaderShape,
        family: Family,
        *,
        old: OldDreams | None = None,
        report: Mapping[str, Any] | None = None,
    ) -> "Registry":
        """A new registry with one base, deployed everywhere, and what it must not forget."""
        found(Path(path), params, shape, family, old=old, report=report)
        return cls(path)

    def session(self, deployment: str, *, consent: bool = False) -> Session:
        """A new session in a deployment: `with registry.session(...) as s`. It begins with the rows
        that `compact` kept for the deployment.

        Without `consent` it is recorded, and nothing is ever learned from it.
        """
        deployment = str(deployment)
        if not NAME.fullmatch(deployment):
            raise RegistryError(
                f"deployment {deployment!r} is no name: letters, digits, dots, _ and - make one"
            )
        with self.writing() as head:
            used = [int(i.rpartition("-")[2]) for i in self.session_ids(deployment)]
            id = f"{deployment}-{max(used, default=0) + 1}"
            facts = {"id": id, "deployment": deployment, "head": head.number, "consent": consent}
            facts |= {"weights": head.weights(deployment), "began": now()}
            with contextlib.ExitStack() as lock:
                lock.enter_context(self._locked(id))  # first: nobody else writes to what is new
                write_once(self.path / "sessions" / id / "session.json", facts)
                session = self._opened(head, facts)
                return session.hold(lock.pop_all())

    def go_on(self, id: str) -> Session:
        """An open session, to be gone on with where its rows end, by the weights it began with."""
        self.check_session(id)
        with contextlib.ExitStack() as lock:
            lock.enter_context(self._locked(id))  # first: what is read then is what there is
            record = self.record(id)
            if record.closed:
                raise RegistryError(f"session {id} is closed; start another one")
            session = self._opened(self.heads()[record.facts["head"]], record.facts)
            session.resume(record)
            return session.hold(lock.pop_all())

    def _locked(self, id: str) -> contextlib.AbstractContextManager[None]:
        """The lock of a session, to be entered."""
        return locked(self.path / "sessions" / id / LOCK, f"session {id}")

    def _opened(self, head: Head, facts: dict[str, Any]) -> Session:
        deployment = facts["deployment"]
        kept = head.contexts.get(deployment)
        return Session(
            self.path / "sessions" / facts["id"],
            facts,
            self.weights(head, deployment),
            self.shape,
            spaces=(self.observation_space, self.action_space),
            outcomes=self.outcomes,
            kept=None if kept is None else self.context(kept),
        )

    def session_ids(self, deployment: str | None = None) -> list[str]:
        """The names of all sessions, or of one deployment's, by deployment and number."""
        found = [path.parent.name for path in (self.path / "sessions").glob("*/session.json")]
        split = [(name.rpartition("-")[0], int(name.rpartition("-")[2])) for name in found]
        return [f"{d}-{number}" for d, number in sorted(split) if deployment in (None, d)]

    def check_session(self, id: str) -> None:
        """Raise unless there is a session of this name."""
        if id not in self.session_ids():
            known = ", ".join(self.session_ids()[-5:]) or "none yet"
            raise RegistryError(f"{self.path} has no session {id}; sessions are: {known}")

    def record(self, id: str) -> Record:
        """A session by its name."""
        self.check_session(id)
        return read_record(self.path / "sessions" / id)

    def close(self, id: str) -> Record:
        """End a session that was left open."""
        self.check_session(id)
        with self._locked(id):
            record = self.record(id)
            if record.closed:
                raise RegistryError(f"session {id} is closed already")
            write_once(record.path / "closed.json", {"ended": now()})
        return self.record(id)

    def review(
        self, id: str, verdict: str, *, score: float | None = None, note: str = ""
    ) -> Record:
        """Say, once, what a closed session was worth: "up" or "down"."""
        if verdict not in REVIEWS:
            raise RegistryError(f"review={verdict} is no review; say up or down")
        with self.writing():
            record = self.record(id)
            if record.review is not None:
                raise RegistryError(
                    f"session {id} was reviewed already ({record.review['verdict']}, "
                    f"{record.review['time']}); a review is given once"
                )
            if not record.closed:
                raise RegistryError(f"session {id} is still open; end it first")
            said = {"verdict": verdict, "score": score, "note": note, "time": now()}
            write_once(record.path / "review.json", said)
        return self.record(id)

    def rollback(self, *, to: str | None = None, steps: int = 1) -> Head:
        """Deploy an earlier state again, as a new head: the newest whose state, or whose weights of
        some deployment, begin with `to`; else what was deployed `steps` changes ago. The base's
        hash stands for the state that has neither deltas nor contexts."""
        with self.writing() as head:
            heads = self.heads()
            number = _named_by(heads, to) if to else _steps_back(heads, steps)
            old = heads[number]
            back = {"base": old.base, "deltas": old.deltas, "contexts": old.contexts}
            for deployment in old.deltas:
                self.weights(old, deployment)  # raises if they are not what they were
            return self.commit(head, **back, cause="rollback", to=number)


def _origin(heads: list[Head], number: int) -> int:
    """The head whose state a head has: itself, or what it rolled back to."""
    to = heads[number].to
    return number if to is None else _origin(heads, to)


def _steps_back(heads: list[Head], steps: int) -> int:
    """The number of the head that was deployed `steps` changes before the newest; what a rollback
    took back does not count."""
    number = _origin(heads, len(heads) - 1)
    for step in range(steps):
        parent = heads[number].parent
        if parent is None:
            raise RegistryError(f"there are {step} changes to take back, not {steps}; see history")
        number = _origin(heads, parent)
    return number


def _named_by(heads: list[Head], sha: str) -> int:
    """The newest head whose state or weights have the one hash that begins with `sha`."""
    newest: dict[str, int] = {}
    for head in heads:
        # Every head has the base, so its hash names only a head that has nothing else.
        base = [] if head.deltas or head.contexts else [head.base]
        named = [head.state, *base, *head.deltas.values()]
        newest |= {x: head.number for x in named if x.startswith(sha)}
    if len(newest) > 1:
        several = ", ".join(f"{x[:16]} of head {number}" for x, number in newest.items())
        raise RegistryError(f"{sha} begins several hashes ({several}); give more digits")
    if not newest:
        raise RegistryError(f"no head has weights or a state that begin with {sha}; see history")
    return _origin(heads, newest.popitem()[1])

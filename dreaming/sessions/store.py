"""What a registry keeps: which weights act in which deployment, and what made them so.

    registry.json          spaces, outcomes, the reader's shape: written once
    lock                   who writes
    base/<sha>/            weights that deployments share
    deltas/<sha>/          what sessions changed in them, by the hash of the weights they make
    contexts/<sha>/        rows that `compact` kept
    old_dreams/<sha>/      what must not be forgotten, with the base's answers
    sessions/<id>/         see `session` and `records`
    heads/000012/          base, delta and context of each deployment; parent, cause, sessions

The newest head is what is deployed. Everything is a unit that is whole or absent, and nothing is
ever rewritten: a rollback is one more head. A head names the hash of its parent, so that a history
that was changed or copied in part is seen.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dreaming.errors import RegistryError
from dreaming.sessions.deltas import Delta, apply, like, named, sha_of
from dreaming.sessions.family import Family
from dreaming.sessions.lock import locked
from dreaming.sessions.network import ReaderShape, init_reader
from dreaming.sessions.types import OldDreams, Rows, named_rows, rows_of
from dreaming.sessions.units import (
    clear_drafts,
    now,
    numbered,
    read_sealed,
    read_unit,
    sha256,
    write_once,
    write_unit,
)
from envs.jsonspaces import space_from_json, space_to_json

SCHEMA_VERSION = 1
ABOUT, LOCK = "registry.json", "lock"


@dataclass(frozen=True)
class Head:
    """A state of the registry. `deltas` and `contexts` are hashes by deployment."""

    number: int
    base: str
    deltas: dict[str, str] = field(default_factory=dict)
    contexts: dict[str, str] = field(default_factory=dict)
    cause: str = "start"  # start, dream, compact or rollback
    to: int | None = None  # of a rollback: the head whose state this is again
    sessions: list[dict[str, Any]] = field(default_factory=list)  # what it was learned from
    report: dict[str, Any] = field(default_factory=dict)
    time: str = ""
    parent: int | None = None
    parent_sha: str | None = None  # of the parent's manifest
    sha: str = ""  # of its own; not stored

    @property
    def state(self) -> str:
        """The hash of what is deployed: base, deltas and contexts."""
        said = {"base": self.base, "deltas": self.deltas, "contexts": self.contexts}
        return sha256(json.dumps(said, sort_keys=True).encode())

    def weights(self, deployment: str) -> str:
        """The hash of the weights that act in a deployment."""
        return self.deltas.get(deployment, self.base)


class Store:
    """What a registry has on disk, without its sessions. All methods raise `RegistryError`."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        about = read_sealed(self.path / ABOUT)
        if about is None:
            raise RegistryError(
                f"{self.path} holds no registry ({ABOUT} is missing); make one with `dreaming "
                "pretrain`, or copy it again, whole"
            )
        if about["schema_version"] != SCHEMA_VERSION:
            raise RegistryError(
                f"{self.path} has schema version {about['schema_version']}, this program reads "
                f"{SCHEMA_VERSION}"
            )
        self.about = about
        self.shape = ReaderShape(**about["shape"])
        self.outcomes, self.skills = tuple(about["outcomes"]), tuple(about["skills"])
        self.observation_space = space_from_json(about["observation_space"])
        self.action_space = space_from_json(about["action_space"])

    def check_family(self, family: Family) -> None:
        """Raise `RegistryError` if deployments of a family cannot be worked by this registry."""
        ours = self.observation_space, self.action_space, self.outcomes
        theirs = family.observation.space, family.action.space, family.outcomes
        names = "observations", "actions", "outcomes"
        for what, mine, other in zip(names, ours, theirs, strict=True):
            if mine != other:
                raise RegistryError(
                    f"{self.path} has the {what} {mine}, family {family.name} has {other}; "
                    "a registry is for one family"
                )

    @contextlib.contextmanager
    def writing(self, parent: Head | None = None) -> Iterator[Head]:
        """Hold the lock; the newest head. With `parent`, that has to be it still."""
        with locked(self.path / LOCK, f"registry {self.path}"):
            head = self.head()
            if parent is not None and parent.number != head.number:
                raise RegistryError(
                    f"{self.path} has head {head.number} by now ({head.cause}), and what is to be "
                    f"written was made from head {parent.number}; make it again from the newest"
                )
            for name in ("heads", "base", "deltas", "contexts", "old_dreams", "sessions"):
                clear_drafts(self.path / name)
            yield head

    def heads(self) -> list[Head]:
        """All heads, oldest first; the chain of their hashes is checked."""
        found: list[Head] = []
        for number, path in enumerate(numbered(self.path / "heads")):
            if int(path.name) != number:
                raise RegistryError(
                    f"{path.parent / f'{number:06d}'} is missing; the registry was copied in half: "
                    "copy it again, whole"
                )
            unit = read_unit(path)
            head = Head(**unit.facts, sha=unit.sha)
            if number and head.parent_sha != found[-1].sha:
                raise RegistryError(
                    f"{path} follows another head {number - 1} than the one here; the registry was "
                    "mixed from two copies: copy it again, whole"
                )
            found.append(head)
        if not found:
            raise RegistryError(f"{self.path / 'heads'} is empty; copy the registry again, whole")
        return found

    def head(self) -> Head:
        """The newest head."""
        return self.heads()[-1]

    def commit(self, parent: Head, **changes: Any) -> Head:
        """A new head after `parent`, under the lock that the caller holds (`writing`)."""
        blank = {"sessions": [], "report": {}, "to": None}
        head = dataclasses.replace(
            parent,
            **(blank | changes),
            number=parent.number + 1,
            parent=parent.number,
            parent_sha=parent.sha,
            time=now(),
        )
        self.check_whole(head)
        write_unit(self.path / "heads" / f"{head.number:06d}", _facts(head))
        return self.head()

    def check_whole(self, head: Head) -> None:
        """Raise `RegistryError` unless everything that a head names is there, whole."""
        read_unit(self.path / "base" / head.base)
        for folder, named_by in (("deltas", head.deltas), ("contexts", head.contexts)):
            for sha in named_by.values():
                read_unit(self.path / folder / sha)

    def weights(self, head: Head, deployment: str) -> Any:
        """The weights that act in a deployment, verified by their hash."""
        unit = read_unit(self.path / "base" / head.base)
        base = like(jax.eval_shape(lambda: init_reader(jax.random.key(0), self.shape)), unit.arrays)
        if sha_of(base) != head.base:
            raise RegistryError(f"{unit.path}: its weights are not {head.base[:12]}; restore it")
        if deployment not in head.deltas:
            return base
        return apply(base, self.delta(head.deltas[deployment]))

    def delta(self, sha: str) -> Delta:
        """A stored delta, by the hash of the weights it makes."""
        unit = read_unit(self.path / "deltas" / sha)
        return Delta(**unit.facts, arrays=unit.arrays)

    def put_delta(self, head: Head, delta: Delta) -> str:
        """Store a delta, under the lock; its hash. A delta for another base is refused."""
        if delta.base != head.base:
            raise RegistryError(
                f"the delta belongs on the weights {delta.base[:12]}, the base of {self.path} is "
                f"{head.base[:12]}; it is a delta for another base"
            )
        target = self.path / "deltas" / delta.result
        if not target.exists():
            said = {"kind": delta.kind, "base": delta.base, "result": delta.result}
            write_unit(target, said | {"share": delta.share}, delta.arrays)
        return delta.result

    def context(self, sha: str) -> Rows:
        """Rows that `compact` kept."""
        return rows_of(read_unit(self.path / "contexts" / sha).arrays)

    def put_context(self, rows: Rows) -> str:
        """Store rows, under the lock; their hash."""
        arrays = named_rows(rows)
        sha = sha256(b"".join(np.ascontiguousarray(x).tobytes() for x in arrays.values()))
        target = self.path / "contexts" / sha
        if not target.exists():
            write_unit(target, {"rows": int(arrays["valid"].sum())}, arrays)
        return sha

    def old_dreams(self, head: Head) -> OldDreams | None:
        """The old dreams of the base; None if the registry was made without."""
        path = self.path / "old_dreams" / head.base
        if not path.exists():
            return None
        arrays = {name: jnp.asarray(x) for name, x in read_unit(path).arrays.items()}
        rows = rows_of({name.removeprefix(".rows."): x for name, x in arrays.items()})
        return OldDreams(rows, arrays[".o"], arrays[".log_pi"], arrays[".weight"])


def found(
    path: Path,
    params: Any,
    shape: ReaderShape,
    family: Family,
    *,
    old: OldDreams | None = None,
    report: Mapping[str, Any] | None = None,
) -> None:
    """Write a new registry with one base, deployed everywhere. Raises `RegistryError`."""
    if path.exists() and any(entry.name != LOCK for entry in path.iterdir()):
        raise RegistryError(f"{path} is not empty; choose another directory for a new registry")
    with locked(path / LOCK, f"registry {path}"):
        base = sha_of(params)
        write_unit(path / "base" / base, {"sha": base}, named(params))
        if old is not None:
            write_unit(path / "old_dreams" / base, {"base": base}, named(old))
        head = Head(0, base, time=now(), report=dict(report or {}))
        write_unit(path / "heads" / f"{0:06d}", _facts(head))
        about = {
            "schema_version": SCHEMA_VERSION,
            "family": family.name,
            "observation_space": space_to_json(family.observation.space),
            "action_space": space_to_json(family.action.space),
            "outcomes": list(family.outcomes),
            "skills": list(family.skills),
            "shape": dataclasses.asdict(shape),
        }
        write_once(path / ABOUT, about)  # last: without it there is no registry


def _facts(head: Head) -> dict[str, Any]:
    """What of a head is stored."""
    return {k: v for k, v in dataclasses.asdict(head).items() if k != "sha"}

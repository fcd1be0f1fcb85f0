"""Write to copies of a registry, each killed by SIGKILL at another of its file operations.

    python -m tests.dreaming.sessions.kill_writer REGISTRY PLACE

A writer learns (a delta and a head) and rolls back; writer k kills itself at its k-th operation.
Prints a line of JSON per writer: which operation it died in, and what was deployed before, after
the kill and after the same was done again. Stops at the first writer that was not killed.
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

OPERATIONS = ("open", "write", "fsync", "replace", "rename", "mkdir")
DIED = "died-in"


def main(source: Path, place: Path) -> int:
    """One fork per operation. JAX is imported, so that forks need not, but has not run yet."""
    import dreaming.sessions.registry  # noqa: F401

    for number in range(1, 200):
        registry = Path(shutil.copytree(source, place / f"{number}"))
        killed = in_child(lambda path=registry, k=number: write(path, k)) == signal.SIGKILL
        told = {"killed": killed, "operation": read(registry / DIED)}
        (registry / DIED).unlink(missing_ok=True)
        for name, act in (("after", describe), ("again", finish)):
            assert in_child(lambda path=registry, act=act, name=name: tell(path, act, name)) == 0
            told[name] = json.loads(read(registry / name) or "null")
        print(json.dumps(told), flush=True)
        if not killed:
            return 0
    return 1


def in_child(work: Any) -> int:
    """The signal that ended a fork that did `work`, or its exit code."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)


def write(path: Path, kill_at: int) -> None:
    """Learn, and roll back; killed at operation `kill_at`."""
    from dreaming.sessions import registry as module

    registry, count = module.Registry(path), 0
    real = {name: getattr(os, name) for name in OPERATIONS}
    descriptor = os.open(path / DIED, os.O_WRONLY | os.O_CREAT)

    def counted(name):
        def operation(*args, **kwargs):
            nonlocal count
            count += 1
            if count == kill_at:
                real["write"](descriptor, f"{name} {args[0]}".encode())
                os.kill(os.getpid(), signal.SIGKILL)
            return real[name](*args, **kwargs)

        return operation

    for name in OPERATIONS:
        setattr(os, name, counted(name))
    learn(registry)
    registry.rollback()


def learn(registry: Any) -> None:
    """A head with other weights in deployment acme."""
    from dreaming.sessions.deltas import difference, like, named

    with registry.writing() as head:
        base = registry.weights(head, "nobody")
        other = like(base, {name: x + np.float32(1) for name, x in named(base).items()})
        sha = registry.put_delta(head, difference(base, other))
        registry.commit(head, deltas={"acme": sha}, cause="dream")


def describe(path: Path) -> dict[str, Any]:
    """What is deployed, everything read and verified."""
    from dreaming.sessions.deltas import sha_of
    from dreaming.sessions.registry import Registry

    registry = Registry(path)
    head = registry.head()
    weights = sha_of(registry.weights(head, "acme"))
    assert weights == head.weights("acme")
    return {"head": head.number, "cause": head.cause, "base": head.base, "weights": weights}


def finish(path: Path) -> dict[str, Any]:
    """The next writer: it learns and rolls back, and clears what the killed one left."""
    from dreaming.sessions.registry import Registry

    registry = Registry(path)
    learn(registry)
    registry.rollback()
    drafts = [each.name for each in path.rglob(".draft-*")]
    return describe(path) | {"drafts": drafts}


def tell(path: Path, act: Any, name: str) -> None:
    """Leave what `act` says in a file."""
    (path / name).write_text(json.dumps(act(path)))


def read(path: Path) -> str:
    """The text of a file; "" if there is none."""
    return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))

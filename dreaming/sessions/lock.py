"""One writer at a time: a lock on a file that says who holds it."""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from dreaming.errors import RegistryError
from envs.atomic import make_directory


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock in file `path`; the system lets it go when the process ends, however it ends.

    Raises `RegistryError`, which names the holder, if another writer has it.
    """
    try:
        make_directory(path.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise RegistryError(f"cannot lock {path}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RegistryError(
                f"{what} is being written by {holder(path)}; wait until it has finished"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, _signature(), 0)
        yield
    finally:
        os.close(descriptor)


def _signature() -> bytes:
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    return json.dumps(
        {"process": os.getpid(), "host": socket.gethostname(), "since": started}
    ).encode()


def holder(path: Path) -> str:
    """Who wrote its name into a lock last."""
    try:
        said = json.loads(path.read_text("utf-8"))
        return f"process {said['process']} on {said['host']} since {said['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"

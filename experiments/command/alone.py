"""One process at a time in a directory.

with alone_in(run_dir):
    ...
"""

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = "lock"  # exists while a process works in the directory
UNLOCKED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of file systems without locks


@contextmanager
def alone_in(directory: str | os.PathLike) -> Iterator[None]:
    """Keep other processes out of `directory`, which is made if it is missing.

    The system lets the lock of a process go when that ends, however it ends. Raises `UserError`
    that says which process works there, and since when; `OSError` where no file can be made.
    """
    path = Path(directory) / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _locked(path)
    try:
        os.truncate(descriptor, 0)
        os.write(descriptor, _whoami().encode())
        yield
    finally:
        path.unlink(missing_ok=True)  # still locked: nobody else holds this file
        os.close(descriptor)
        with contextlib.suppress(OSError):  # not empty: it is used
            path.parent.rmdir()


def _locked(path: Path) -> int:
    """The descriptor of the lock file, locked by this process. Raises `UserError`."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            who = os.pread(descriptor, 200, 0).decode(errors="replace")
            os.close(descriptor)
            raise _taken(path.parent, who) from error
        except OSError as error:
            if error.errno not in UNLOCKED:
                os.close(descriptor)
                raise
        # Whoever held the lock before removes its file at the end: is this one still there?
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                return descriptor
        os.close(descriptor)


def _whoami() -> str:
    """This process, for others to read."""
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    return f"process {os.getpid()} on {socket.gethostname()} works in it since {now}"


def _taken(directory: Path, who: str) -> Exception:
    from envs.types import UserError

    who = who or "another process works in it"
    return UserError(f"{directory} is taken: {who}; wait for its end, or choose another directory")

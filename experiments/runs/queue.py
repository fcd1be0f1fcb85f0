"""A run directory as an item of a queue: who works at it, since when, and whether they live.

DIR/queue/000001.json   the first holder; the next one makes the next number, and the greatest
                        number counts. Its time of change is its heartbeat.

Files are only ever made anew (`O_EXCL`), so that of several that want an item one gets it, on any
file system that machines share; none is taken away from under its holder. A holder that was taken
for dead and comes back sees a number above its own, and ends without writing.
"""

import json
import os
import socket
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from dreaming.errors import UserError
from envs.atomic import write_file
from experiments.command.stopping import Stopped

FOLDER = "queue"
BEAT = 20.0  # seconds between two heartbeats
DEAD_AFTER = 180.0  # seconds without one, where the process cannot be looked up
RUNNING = "running"


class Taken(UserError):
    """An item that a living process holds."""


class Lost(UserError):
    """An item that was taken over from this process, as if it were dead."""


@dataclass(frozen=True)
class Holder:
    """The newest holder of an item; `told` is what its file says."""

    number: int
    told: dict[str, Any] = field(default_factory=dict)
    age: float = 0.0  # seconds since its last heartbeat

    @property
    def lives(self) -> bool:
        """Whether it still works at the item."""
        if self.told.get("state", RUNNING) != RUNNING:
            return False
        if self.told.get("machine") == machine() and Path("/proc/self/stat").exists():
            return born(self.told["pid"]) == self.told["born"]
        return self.age < DEAD_AFTER

    def __str__(self) -> str:
        told = {"pid": "?", "host": "?", "since": "?"} | self.told
        return f"process {told['pid']} on {told['host']} since {told['since']}"


def holder(run_dir: Path, now: float | None = None) -> Holder | None:
    """The newest holder of an item, None without one. `now` is the time of its file system."""
    numbers = [int(path.stem) for path in (run_dir / FOLDER).glob("*.json") if path.stem.isdigit()]
    if not numbers:
        return None
    path = file_of(run_dir, max(numbers))
    age = (time.time() if now is None else now) - path.stat().st_mtime
    try:
        told = json.loads(path.read_text("utf-8"))
    except ValueError:  # it is being written
        told = {}
    return Holder(max(numbers), told, age)


def status(run_dir: Path) -> str:
    """One word and who: waiting, running (who), dead (who), stopped, failed (why), or done."""
    found = holder(run_dir)
    if (run_dir / "result.json").exists() and not (found and found.lives):
        return "done"
    if found is None:
        return "waiting"
    if found.lives:
        return f"running: {found}"
    state, why = found.told.get("state", RUNNING), found.told.get("why", "")
    if state == RUNNING:
        return f"dead: {found}; the same command takes it over"
    return f"{state}: {why}" if why else state


class Held:
    """`with Held(run_dir) as held:` holds an item; `held.check()` before anything is written.

    Raises `Taken` if a living process holds it. What a dead one left is taken over: `before` is
    that holder, None if the item was free.
    """

    def __init__(self, run_dir: Path):
        self.run_dir = run_dir
        self.before: Holder | None = None
        self._over = threading.Event()

    def __enter__(self) -> Self:
        (self.run_dir / FOLDER).mkdir(parents=True, exist_ok=True)
        while not self._take():
            pass
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, kind: Any, error: Any, _: Any) -> None:
        self._over.set()
        if not isinstance(error, Lost):
            self.told |= {"state": ending(kind), "why": " ".join(str(error or "").split())}
            write_file(self.path, json.dumps(self.told, indent=1).encode())

    def check(self) -> None:
        """Raise `Lost` if the item has another holder by now."""
        if file_of(self.run_dir, self.number + 1).exists():
            raise Lost(
                f"{self.run_dir} was taken over by {holder(self.run_dir)}, since this process "
                f"gave no sign of life for {DEAD_AFTER:.0f} s; that one goes on with it"
            )

    def _take(self) -> bool:
        """Whether the next number became this process's. Raises `Taken`."""
        found = holder(self.run_dir, now(self.run_dir / FOLDER))
        if found is not None and found.lives:
            raise Taken(f"{self.run_dir} is held by {found}; wait for it, or stop it")
        self.number = found.number + 1 if found else 1
        self.path = file_of(self.run_dir, self.number)
        self.told = {
            "host": socket.gethostname(),
            "machine": machine(),
            "pid": os.getpid(),
            "born": born(os.getpid()),
            "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            "state": RUNNING,
        }
        try:
            with self.path.open("x", encoding="utf-8") as file:
                file.write(json.dumps(self.told, indent=1))
        except FileExistsError:
            return False  # another one was faster: look at it
        is_dead = found is not None and found.told.get("state", RUNNING) == RUNNING
        self.before = found if is_dead else None
        return True

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            try:
                os.utime(self.path)
            except OSError:
                return  # the run directory is gone


def ending(kind: type | None) -> str:
    """The state that an item is left in, by the exception that ended the work at it."""
    if kind is None:
        return "done"
    return "stopped" if issubclass(kind, Stopped | KeyboardInterrupt) else "failed"


def file_of(run_dir: Path, number: int) -> Path:
    """The file of a holder."""
    return run_dir / FOLDER / f"{number:06d}.json"


def now(folder: Path) -> float:
    """The time of the folder's own file system, whose clock may differ from this machine's."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock-") as file:
        return os.stat(file.fileno()).st_mtime


def machine() -> str:
    """What tells this machine, and its space of process numbers, from all others."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def born(pid: int) -> str:
    """When a process began, in clock ticks after the machine; "" if it does not run."""
    try:
        state, *numbers = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else numbers[18]  # Z, X: ended, but its parent has not looked

"""Taking a source into a trace store, each of its episodes exactly once.

How far the store has come stands in the manifest that names the episodes, under the name and the
place of the source: a kill at any instant leaves both as they were, or both as they are to be.
"""

import glob
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dreaming.errors import ConfigError, TraceError
from envs.traces import TraceStore
from experiments.config import SourceConfig

FINGERPRINT = "fingerprint"


class Intake:
    """A source, and the store at `path` that it is added to."""

    def __init__(self, source: Any, config: SourceConfig, path: Path):
        self.source, self.path = source, path
        self._before = f"{config.name}:{config.uri}"  # the name in stores of former versions
        self.name = f"{config.name}:{place(config.uri)}"
        self.has_batches = hasattr(source, "batches")
        given = getattr(source, "given", {}) if self.has_batches else source.schema()
        self.store = TraceStore(path, **given, provenance={"source": self.name})

    def once(self) -> int:
        """Add what is new; returns the number of episodes that were added."""
        before = len(self.store)
        if self.has_batches:
            if hasattr(self.source, "judge"):
                self.source.judge = self.store.judge()
            for traces, token in self.source.batches(after=self._known()):
                self.store.extend(traces, resume={self.name: token})
        else:
            self._whole()
        return len(self.store) - before

    def follow(self, poll: float, idle: float | None, stop: Callable[[], None]) -> Iterator[int]:
        """The numbers of episodes that are added, whenever some are, looking every `poll` seconds.

        Ends after `idle` seconds without any (None = never), or when `stop()` raises.
        """
        if not self.has_batches:
            what = "cannot be followed: it has no method batches()"
            raise ConfigError(f"source {self.name} {what}; run the command again for what is new")
        last = time.monotonic()
        while idle is None or time.monotonic() - last < idle:
            stop()
            if added := self.once():
                last = time.monotonic()
                yield added
            else:
                time.sleep(poll)

    def _known(self) -> Any:
        """How far the store has come with the source; None if it is new."""
        return self.store.resume.get(self.name, self.store.resume.get(self._before))

    def _whole(self) -> None:
        """Add the whole source, unless the store holds it already."""
        look = getattr(self.source, "fingerprint", None)
        token = {FINGERPRINT: look() if look is not None else None}
        known = self._known()
        if known is None:
            self.store.extend(self.source, resume={self.name: token})
        elif known != token or look is None:
            what = "was added before" if look is None else "has changed since it was added"
            raise TraceError(
                f"{self.path}: {self.name} {what}, and cannot say what is new; "
                "choose a new path, which takes all of it"
            )

    def told(self, added: int) -> str:
        """What was added, and what became of the lines of the source, in words."""
        episodes, steps = len(self.store), self.store.num_steps
        text = [f"added {added} episodes: {self.path} holds {episodes}, {steps} steps"]
        if (tally := getattr(self.source, "tally", None)) is not None:
            text.append(f"  lines: {tally.lines}, used {tally.used}, waiting {tally.waiting}")
            for reason, (count, where) in tally.skipped.items():
                text.append(f"  skipped {count}: {reason} (first in {where})")
        if (accounts := getattr(self.source, "accounts", None)) is not None:
            text += [f"  {line}" for line in accounts.in_words()]
        if callable(files := getattr(self.source, "files", None)) and not files():
            text.append(f"  no file is at {self.source.uri} yet")
        return "\n".join(text)


def place(uri: str | None) -> str | None:
    """A uri that does not depend on how it was written, if it is the path or pattern of files."""
    is_local = uri is not None and bool(os.path.exists(uri) or glob.glob(uri, recursive=True))
    return os.path.realpath(uri) if uri is not None and is_local else uri

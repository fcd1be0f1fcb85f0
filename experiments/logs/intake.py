"""Taking a source into a trace store, each of its episodes exactly once.

How far the store has come stands in the manifest that names the episodes, under the name and the
place of the source: a kill at any instant leaves both as they were, or both as they are to be.
"""

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
        self.name = f"{config.name}:{config.uri}"
        self.has_batches = hasattr(source, "batches")
        given = getattr(source, "given", {}) if self.has_batches else source.schema()
        self.store = TraceStore(path, **given, provenance={"source": self.name})

    def once(self) -> int:
        """Add what is new; returns the number of episodes that were added."""
        before = len(self.store)
        if self.has_batches:
            for traces, token in self.source.batches(after=self.store.resume.get(self.name)):
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

    def _whole(self) -> None:
        """Add the whole source, unless the store holds it already."""
        look = getattr(self.source, "fingerprint", None)
        token = {FINGERPRINT: look() if look is not None else None}
        known = self.store.resume.get(self.name)
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
        return "\n".join(text)

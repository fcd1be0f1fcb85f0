"""A TraceStore directory as a source."""

from __future__ import annotations

from envs.journal import recover
from envs.traces import TraceStore
from envs.types import TraceError


class StoreSource(TraceStore):
    """The episodes of the store at `uri`, which must hold at least one."""

    def __init__(self, uri: str):
        recover(uri)  # episodes of recorders that were stopped
        super().__init__(uri)
        if len(self) == 0:
            what = "is an empty store" if self.path.exists() else "does not exist"
            raise TraceError(
                f"{self.path}: {what}; expected recorded traces (see `dreaming record`)"
            )

    def fingerprint(self) -> str:
        """Another text whenever the store holds other episodes."""
        return self.digest()

"""Resuming stage by stage: the saved state of a stage is used if its configuration is the same."""

import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from dreaming.checkpoint import (
    SCHEMA_VERSION,
    NoState,
    Saved,
    Say,
    commit,
    load,
    newest,
    units_of,
    warn,
)
from dreaming.errors import CheckpointError


def config_hash(fields: Mapping[str, Any]) -> str:
    """16 hex digits over the fields a stage reads and the schema version of its state."""
    text = json.dumps([SCHEMA_VERSION, fields], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stage_key(key: jax.Array, stage: str) -> jax.Array:
    """The key of a stage. It depends on the name alone, so skipping finished stages is harmless."""
    return jax.random.fold_in(key, zlib.crc32(stage.encode()))


class Stages:
    """The finished stages of a run: `if not stages.done("fit"): ...; stages.commit("fit", ...)`.

    `configs[stage]` are the fields the stage reads. Messages go to `say`, by default a warning.
    """

    def __init__(
        self,
        run_dir: str | os.PathLike,
        configs: Mapping[str, Mapping[str, Any]],
        say: Say | None = None,
    ):
        self.run_dir, self.configs, self.say = Path(run_dir), configs, say or warn

    def done(self, stage: str) -> bool:
        """Whether the stage's state is complete. `CheckpointError` for another configuration.

        A damaged state is reported to `say` and counts as not done: the stage runs again.
        """
        directory = self._directory(stage)
        if not units_of(directory):
            return False
        try:
            saved = newest(directory, self.say)
        except NoState:
            self.say(f"{directory}: no good state is left; stage {stage} runs again")
            return False
        if saved.manifest["config_hash"] != config_hash(self.configs[stage]):
            was = saved.manifest["extra"].get("config", {})
            raise CheckpointError(
                f"{self.run_dir} was made with another configuration "
                f"(stage {stage}: {_difference(was, self.configs[stage])}); "
                "choose another hydra.run.dir, or delete this one"
            )
        return True

    def load(self, stage: str, like: Any) -> Any:
        """The stage's state in the structure of `like`. Raises `CheckpointError`."""
        return load(
            self._directory(stage),
            like,
            stage=stage,
            config_hash=config_hash(self.configs[stage]),
            say=self.say,
        )

    def unit(self, stage: str) -> Saved:
        """The stage's newest good state as it is on disk. Raises `CheckpointError`."""
        return newest(self._directory(stage), self.say)

    def info(self, stage: str) -> dict[str, Any]:
        """The `info` that the stage was committed with. Raises `CheckpointError`."""
        return self.unit(stage).manifest["extra"]["info"]

    def commit(self, stage: str, state: Any, info: dict[str, Any] | None = None) -> Path:
        """Save the stage's state; `info` is JSON. Raises `CheckpointError`."""
        fields = self.configs[stage]
        extra = {"config": json.loads(json.dumps(fields, default=str)), "info": info or {}}
        directory = self._directory(stage)
        return commit(directory, state, stage=stage, config_hash=config_hash(fields), extra=extra)

    def _directory(self, stage: str) -> Path:
        return self.run_dir / "state" / stage


def _difference(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first three fields that differ, as `name was x, is y`."""
    now = json.loads(json.dumps(now, default=str))
    before, after = dict(_flat(was)), dict(_flat(now))
    changed = [
        f"{name} was {before.get(name, 'absent')}, is {after.get(name, 'absent')}"
        for name in sorted({*before, *after})
        if before.get(name, "absent") != after.get(name, "absent")
    ]
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    return "; ".join(changed[:3]) + more


def _flat(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value

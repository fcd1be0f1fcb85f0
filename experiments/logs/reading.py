"""The log that a run learns from: read or recorded, copied into its directory, checked."""

import math
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dreaming.checkpoint import atomic_write
from dreaming.config import LogConfig
from dreaming.errors import ConfigError, TraceError
from dreaming.observe.log import Log
from dreaming.observe.rights import permitted, told
from dreaming.observe.sample import chosen_episodes, most_rows
from envs.frames import is_frame
from envs.real import make_real
from envs.traces import TraceStore
from envs.types import Features, action_features
from experiments.config import EnvConfig, WorldConfig
from experiments.logs.recording import recording
from experiments.logs.source import checked, named_log
from experiments.pages.words import to_json
from worldmodels.actions import MOST_COMBINATIONS

INTAKE = "intake.json"  # what became of the rows of a table


def read_log(config: WorldConfig, run_dir: Path, once: Any) -> Log:
    """The log to learn from, copied into the run directory and verified; `once` is the run's."""
    folder = run_dir / "traces"

    def fill(update: Callable) -> str:
        shutil.rmtree(folder, ignore_errors=True)  # of an interrupted attempt
        source, spaces = log_source(config, update)
        store = TraceStore(folder, **spaces)
        withheld = Counter[str]()
        store.extend(permitted(checked(source, spaces), time.time(), withheld))
        keep_accounts(source, run_dir, once)
        if withheld:
            once.progress.log(f"not learned from: {told(withheld)} (consent, keep_until)")
        return store.digest()

    recorded = config.traces is None and config.source.name is None
    digest = once("record", config.env.real_steps if recorded else None, "", fill)
    store = TraceStore(folder)
    store.verify()
    if store.digest() != digest:
        raise TraceError(
            f"{folder} changed since it was recorded; delete {run_dir} and start again"
        )
    if not len(store):
        raise TraceError(f"{folder}: the log is empty; name a log with at least one episode")
    schema = store.schema()
    observation = Features(schema["observation_space"])
    chosen = chosen_of(store, observation, config.log)
    if chosen.size < len(store):
        once.progress.log(
            f"a long log: {chosen.size:,} of {len(store):,} episodes are learned from, evenly "
            "spread (log.most_steps, log.most_mib)"
        )
    traces = list(store.traces(chosen))
    drawn_from = store.num_steps if len(traces) < len(store) else 0
    log = Log(traces, observation, action_features(schema["action_space"]), drawn_from=drawn_from)
    check_task(config, log)
    check_window(config.context.window, log)
    if hint := factors_hint(log):
        once.progress.log(hint)
    return log


def chosen_of(store: TraceStore, observation: Features, config: LogConfig) -> np.ndarray:
    """Which episodes of a store are learned from."""
    index = store.index()
    policy = np.array(index.column("policy").to_pylist(), object)
    newest = np.flatnonzero(policy == policy[-1])
    rows = np.asarray(index.column("rows"))
    return chosen_episodes(rows, most_rows(config, observation.row_bytes), newest)


def keep_accounts(source: Any, run_dir: Path, once: Any) -> None:
    """Write what became of the rows of a table to the run directory, and say what was left out."""
    if (accounts := getattr(source, "accounts", None)) is None:
        return
    atomic_write(run_dir / INTAKE, to_json(accounts.to_json()))
    for line in accounts.in_words():
        once.progress.log(line)


def kind_of(config: WorldConfig, run_dir: Path, once: Any) -> str:
    """Whether observations are "frames" or "vectors"; nothing is recorded to find out, and a run
    that has its log already needs no other."""
    if once.stages.done("record"):
        spaces = TraceStore(run_dir / "traces").schema()
    else:
        spaces = log_source(config, lambda n: None)[1]
    return "frames" if is_frame(spaces["observation_space"]) else "vectors"


def check_window(window: int, log: Log) -> None:
    """Raise `ConfigError` if no episode has `window` observations."""
    longest = 1 + max(len(trace) for trace in log.traces)
    if window > longest:
        raise ConfigError(
            f"context.window={window}, but the longest of {len(log.traces)} episodes has "
            f"{longest} observations; choose at most {longest}"
        )


def factors_hint(log: Log) -> str | None:
    """A note if actions are searched factor by factor, else None."""
    if log.head.kind != "factored":
        return None
    count = math.prod(log.head.factors)
    return (
        f"{count} combinations of actions are more than {MOST_COMBINATIONS}: they are searched "
        "factor by factor"
    )


def check_task(config: WorldConfig, log: Log) -> None:
    """Raise `ConfigError` if the spaces of the real task differ from those of the log."""
    advice = "name the task that was logged, or give its spaces in source.mapping"
    if config.env.id != "none":
        check_spaces(config.env, log.observation, log.action, "the log", advice)


def check_spaces(
    env: EnvConfig, observation: Features, action: Features, whose: str, advice: str
) -> None:
    """Raise `ConfigError` if the spaces of a task differ from those of a log or policy."""
    task = make_real(env.id, env.options)
    theirs = Features(task.observation_space), action_features(task.action_space)
    task.close()
    for name, real, seen in zip(
        ("observation", "action"), theirs, (observation, action), strict=True
    ):
        if real.layout != seen.layout:
            raise ConfigError(
                f"{env.id} has the {name} space {real.space}, {whose} has {seen.space}; {advice}"
            )


def log_source(config: WorldConfig, update: Callable) -> tuple[Any, dict[str, Any]]:
    """(an iterable of traces, their spaces): the named log, or one that is recorded now."""
    opened = named_log(config.traces, config.source)
    if opened is not None:
        return opened, opened.schema()
    if config.env.id == "none":
        raise ConfigError("env=none has nothing to record; name a log with traces= or source.name=")
    return recording(config.env, config.seed, update)

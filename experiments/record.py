"""Record real episodes of any Gymnasium task, or of a source.

The probability of every action is recorded with it. An existing log is only
extended with append=true. Examples:
  dreaming record path=traces/cartpole
  dreaming record env=mountaincar seed=1 path=traces/mountaincar
  dreaming record env=gym env.id=Acrobot-v1 env.behaviour=sticky_random
  dreaming record path=traces/cartpole append=true \\
      env.behaviour=runs/dream/CartPole-v1/seed0/policy
A source is copied into a store; again, and only what is new is added. With
follow=true it goes on until interrupted, and a kill neither loses nor doubles:
  dreaming record source.name=minari source.uri=my/log-v0 path=traces/log
  dreaming record source.name=steps source.uri=logs/ path=traces/live \\
      follow=true
Learn from it with `dreaming dream traces=path/to/store`.
"""

import sys
from pathlib import Path
from typing import Any

from experiments.command.alone import LOCK, alone_in
from experiments.command.cli import run_verb
from experiments.command.progress import Progress
from experiments.command.unread import GIVEN, record_rules, refuse
from experiments.config import RecordConfig


def run(config: RecordConfig, run_dir: Path) -> int:
    """Record into the trace store at `config.path`."""
    from dreaming.errors import ConfigError

    refuse(record_rules(config))
    if config.source.name is not None:
        return take_in(config)
    path, env = Path(config.path), config.env
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{path} is a file; choose the path of a new directory")
    with alone_in(path), Progress() as progress:
        from dreaming.observe.behaviours import BEHAVIOURS
        from envs.traces import TraceStore
        from experiments.command import runtime
        from experiments.logs.recording import recording

        if env.behaviour not in BEHAVIOURS:  # a policy needs JAX
            runtime.configure()
        stored = _stored(path, config.append)
        progress.log(f"recording {env.id} in {path}: {env.behaviour}, seed {config.seed}")
        with progress.stage("record", total=env.real_steps) as stage:
            traces, spaces = recording(env, config.seed, stage.update, skip=stored)
            who = {"env": env.id, "options": str(env.options), "behaviour": env.behaviour}
            store = TraceStore(path, **spaces, provenance=who | {"seed": config.seed})
            store.extend(traces)
    print(summary(store, stored))
    return 0


def take_in(config: RecordConfig) -> int:
    """Add the new episodes of the source to the store at `config.path`."""
    from dreaming.errors import ConfigError
    from experiments.command.stopping import Stopped, Stopping
    from experiments.logs.intake import Intake
    from experiments.logs.source import named_log

    if "path" not in GIVEN.get():
        raise ConfigError("path is needed beside source.name: the store to add to")
    path = Path(config.path)
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{path} is a file; choose the path of a directory")
    source = named_log(None, config.source)
    with alone_in(path), Stopping() as stop:
        intake = Intake(source, config.source, path)
        print(intake.told(intake.once()), flush=True)
        if config.follow:
            try:
                for added in intake.follow(config.poll, config.idle, stop):
                    print(intake.told(added), flush=True)
            except Stopped as why:
                print(f"stopped: {why}; the same command goes on")
    return 0


def _stored(path: Path, append: bool) -> int:
    """The number of episodes in the store at `path`. Raises `UserError` if it cannot be used."""
    from dreaming.errors import ConfigError
    from envs.traces import MANIFEST, TraceStore

    stored = len(TraceStore(path))
    others = {file.name for file in path.iterdir()} - {LOCK}
    is_other = others and not (path / MANIFEST).exists()
    if not append and (stored or is_other):
        what = f"holds {stored} episodes" if stored else "is not empty"
        raise ConfigError(f"{path} {what}; add append=true, or choose another path")
    return stored


def summary(store: Any, stored: int) -> str:
    """The printed summary of the episodes of `store` from number `stored` on."""
    import numpy as np

    index = store.index().slice(stored)
    columns = {name: np.array(index[name]) for name in ("rows", "return")}
    terminated, truncated = (np.array(index[name], bool) for name in ("terminated", "truncated"))
    steps, closed = int(columns["rows"].sum()) - len(index), terminated | truncated
    lines = [f"recorded {len(index)} episodes, {steps} steps"]
    if closed.any():
        r = columns["return"][closed]
        lines.append(f"  returns: mean {r.mean():.4g}, lowest {r.min():.4g}, best {r.max():.4g}")
    lines.append(
        f"  ended by the task: {terminated.sum()}, by its clock: {truncated.sum()}, "
        f"still open when the steps were used up: {(~closed).sum()}"
    )
    whole = f" ({len(store)} episodes, {store.num_steps} steps in all)" if stored else ""
    return "\n".join([*lines, f"  in {store.path}{whole}"])


def main(argv: list[str] | None = None) -> int:
    """The command line of this verb; returns the exit code."""
    return run_verb(run, argv, config_name="record", schema=RecordConfig)


if __name__ == "__main__":
    sys.exit(main())

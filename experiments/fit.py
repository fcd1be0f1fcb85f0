"""Fit a world model on a log; test it on unseen episodes.

What `dream` does first, without a policy: record (or read) the log, fit, judge.
The directory then holds world.dream, an ordinary Gymnasium environment, and
result.json with its fidelity. Examples:
  dreaming fit env=cartpole
  dreaming fit traces=logs/cartpole env=none fit.steps=5000
  dreaming fit env=none source.name=parquet source.uri='logs/*.parquet' \\
      source.mapping=mapping.yaml
`dreaming dream hydra.run.dir=<the same directory>`, with the same options, goes
on from here.
"""

import functools
import sys
from pathlib import Path
from typing import Any

from experiments.cli import run_verb
from experiments.config import WorldConfig
from experiments.progress import Progress


def run(config: WorldConfig, run_dir: Path) -> int:
    """Fit; everything that is found is in `run_dir` afterwards."""
    with Progress(run_dir) as progress:
        task = config.traces or config.source.uri or config.env.id
        progress.log(f"fitting a world to {task}, seed {config.seed}, in {run_dir}")
        from experiments import runtime
        from experiments.trackers import final_figures, open_tracker

        progress.track(open_tracker(config, run_dir))
        runtime.configure(devices=config.devices)
        result = fit_world(config, run_dir, progress)
        progress.finish(result["real_steps"], final_figures(result))
    print(summary(result, run_dir))
    return 0


def fit_world(config: WorldConfig, run_dir: Path, progress: Progress) -> dict[str, Any]:
    """The stages that `fit` shares with `dream`; the content of result.json."""
    import jax

    from dreaming.checkpoint import atomic_write
    from dreaming.config import SearchConfig
    from dreaming.errors import ConfigError
    from dreaming.log import split_log
    from dreaming.physics import LearnedPhysics
    from dreaming.round import stage_key
    from envs.dreamfile import write_dream
    from experiments import loop
    from experiments.desk import Desk
    from experiments.options import config_yaml
    from experiments.report import render, to_json
    from experiments.strip import dream_strip

    if (run_dir / "policy").exists():
        raise ConfigError(f"{run_dir} holds a whole run of `dream`; choose another hydra.run.dir")
    desk = Desk(run_dir, loop.world_fields(config), progress)
    log = loop.read_log(config, run_dir, desk)
    if not (run_dir / "config.yaml").exists():  # one that is there is of this run until it ends
        atomic_write(run_dir / "config.yaml", config_yaml(config))
    physics = LearnedPhysics(config.model, config.fit, config.judge, config.images)
    key_of = functools.partial(stage_key, jax.random.key(config.seed % 2**32))

    # As in dreaming.round, with the same keys: a dream that goes on from here finds it all done.
    seen, judged = split_log(log, physics.judge, key_of("split"))
    learn = functools.partial(physics.learn, seen, key_of("fit"))
    learned = desk("fit", physics.steps(seen), physics.blank(seen), learn)
    second = functools.partial(physics.learn_judges, judged, key_of("judge"))
    judges = desk("judge", physics.judge.steps, physics.blank_judges(judged), second)
    fidelity, skill = physics.certify(learned, judges, seen, judged, key_of("certify"))
    world = physics.world(seen, learned, loop.dream_horizon(config, log), SearchConfig(), fidelity)

    write_dream(run_dir / "world.dream", world)
    result = loop.world_result(config, log, fidelity, desk.seconds, learned)
    figures = {"open_loop": skill, "strip": dream_strip(world, log)}
    atomic_write(run_dir / "config.yaml", config_yaml(config))
    atomic_write(run_dir / "figures.json", to_json(figures))
    atomic_write(run_dir / "result.json", to_json(result))
    render(run_dir)
    return result


def summary(result: dict[str, Any], run_dir: Path) -> str:
    """What a fit says at its end."""
    lines = ["", "fidelity, on episodes that the tested model never saw:"]
    lines += [f"  {name:<28}{value:.4g}" for name, value in sorted(result["fidelity"].items())]
    lines += [f"world: {run_dir / 'world.dream'}", f"report: {run_dir / 'report.html'}"]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """The verb."""
    return run_verb(run, argv, config_name="fit", schema=WorldConfig, apart=True)


if __name__ == "__main__":
    sys.exit(main())

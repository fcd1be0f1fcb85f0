"""A world without a policy: the stages that `fit` shares with `dream`."""

import functools
from pathlib import Path
from typing import Any

import jax

from dreaming.checkpoint import atomic_write
from dreaming.config import SearchConfig
from dreaming.errors import ConfigError
from dreaming.observe.log import split_log
from dreaming.round import stage_key
from dreaming.world.physics import LearnedPhysics
from envs.dreamfile import write_dream
from experiments.command.options import config_yaml
from experiments.command.progress import Progress
from experiments.config import WorldConfig
from experiments.logs.reading import read_log
from experiments.pages.run import render
from experiments.pages.strip import dream_strip
from experiments.pages.words import to_json
from experiments.runs.offline import world_fields
from experiments.runs.once import Desk
from experiments.runs.results import world_result
from experiments.runs.scoring import dream_horizon


def fit_world(config: WorldConfig, run_dir: Path, progress: Progress) -> dict[str, Any]:
    """The stages that `fit` shares with `dream`; the content of result.json."""
    if (run_dir / "policy").exists():
        raise ConfigError(f"{run_dir} holds a whole run of `dream`; choose another hydra.run.dir")
    desk = Desk(run_dir, world_fields(config), progress)
    log = read_log(config, run_dir, desk)
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
    world = physics.world(seen, learned, dream_horizon(config, log), SearchConfig(), fidelity)

    write_dream(run_dir / "world.dream", world)
    result = world_result(config, log, fidelity, desk.seconds, learned)
    figures = {"open_loop": skill, "strip": dream_strip(world, log)}
    atomic_write(run_dir / "config.yaml", config_yaml(config))
    atomic_write(run_dir / "figures.json", to_json(figures))
    atomic_write(run_dir / "result.json", to_json(result))
    render(run_dir)
    return result

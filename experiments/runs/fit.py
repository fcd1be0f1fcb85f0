"""A world without a policy: the stages that `fit` shares with `dream`."""

from pathlib import Path
from typing import Any

from dreaming.config import SearchConfig
from dreaming.errors import ConfigError
from dreaming.world.discount import discount_line
from dreaming.world.fitting import check_name
from dreaming.world.physics import LearnedPhysics
from envs.dreamfile import check_key, write_dream
from experiments.command.progress import Progress
from experiments.command.unread import fit_rules, refuse
from experiments.config import WorldConfig
from experiments.logs.reading import kind_of, read_log
from experiments.pages.strip import dream_strip
from experiments.runs.costs import cost_line
from experiments.runs.directory import begin, finish
from experiments.runs.dream import world_fields
from experiments.runs.once import Once
from experiments.runs.results import root_key, world_result
from experiments.runs.scoring import dream_horizon


def make_world(config: WorldConfig, run_dir: Path, progress: Progress) -> dict[str, Any]:
    """Everything `dreaming fit` does; the content of result.json."""
    if (run_dir / "candidate").exists() or (run_dir / "policy").exists():
        raise ConfigError(f"{run_dir} holds a whole run of `dream`; choose another hydra.run.dir")
    check_name(config.model.name)
    check_key()
    once = Once(run_dir, world_fields(config), progress)
    refuse(fit_rules(config, kind_of(config, run_dir, once)))
    log = read_log(config, run_dir, once)
    begin(run_dir, config)
    progress.log(discount_line(config.fit, log.traces))
    physics = LearnedPhysics(config.model, config.fit, config.judge, config.images)
    if not once.stages.done("fit") and (line := cost_line(log, physics)):
        progress.log(line)
    # With the keys of a round, so that `dream` can continue from these stages.
    horizon, key = dream_horizon(config, log), root_key(config)
    fitted = physics.fitted(log, SearchConfig(), horizon, key, once)
    write_dream(run_dir / "world.dream", fitted.world)
    result = world_result(config, log, fitted, once)
    figures = {"open_loop": fitted.skill, "strip": dream_strip(fitted.world, log)}
    finish(run_dir, config, result, figures)
    return result

"""`part=vectors` of the benchmark: fit, dream, search and rehearsal of `dream` on CartPole.

The sizes are those of `dreaming dream`: 5 members, width 64, latent 32, 16 simulations.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dreaming.config import RehearseConfig, RoundConfig, SearchConfig
from dreaming.observe.collect import record
from dreaming.observe.log import Log
from dreaming.search.teachers import make_teacher, model_steps
from dreaming.student.distill import CHUNK as REHEARSALS
from dreaming.student.distill import practise
from dreaming.student.network import head_of
from dreaming.world.fitting import CHUNK as FIT_STEPS
from dreaming.world.physics import LearnedPhysics, world_of
from envs.real import make_real
from envs.shells import DreamEnv, DreamVectorEnv
from envs.types import Features, action_features
from experiments.bench.clock import each, paced, timed
from experiments.command.progress import Progress
from experiments.config import BenchmarkConfig
from worldmodels.config import FitConfig

DREAMS = 1024
BATCHES = (1, 64, 512)
REAL_STEPS = 2000  # length of the CartPole log that everything is measured on


def measure(config: BenchmarkConfig, progress: Progress) -> dict[str, float]:
    """All figures by flat names that contain their units."""
    task = make_real("CartPole-v1")
    spaces = Features(task.observation_space), action_features(task.action_space)
    log = Log(list(record("CartPole-v1", "random", REAL_STEPS, config.seed)), *spaces)
    chunks, key, search = config.repetitions + 1, jax.random.key(config.seed), SearchConfig()
    physics = LearnedPhysics(fit=FitConfig(steps=FIT_STEPS * chunks))
    figures: dict[str, float] = {}

    planner = physics.planner(log)
    fit = functools.partial(planner.learn, key)
    with progress.stage("fit", total=physics.fit.steps) as stage:
        learned, seconds, compiled = paced(fit, stage.update)
        figures |= {"fit/steps_per_s": 1 / seconds, "fit/compile_s": compiled}
    world = world_of(planner, learned, 500, search, {})

    with progress.stage("dream") as stage:
        figures |= dream_figures(world, config)
    for teacher in ("search", "one_step"):
        with progress.stage(teacher, total=len(BATCHES)) as stage:
            figures |= search_figures(world, teacher, config, stage.update)

    rehearse = RehearseConfig(iterations=REHEARSALS * chunks)
    rules = RoundConfig(search=search, rehearse=rehearse)
    work = functools.partial(practise, log, world, rules, None, key)
    with progress.stage("rehearse", total=rehearse.iterations) as stage:
        _, seconds, compiled = paced(work, stage.update)
        figures |= {"rehearse/iterations_per_s": 1 / seconds, "rehearse/compile_s": compiled}
    return figures


def dream_figures(world: Any, config: BenchmarkConfig) -> dict[str, float]:
    """Rates of many dreams at once and of a single dream, through Gymnasium's interface."""
    many: Any = DreamVectorEnv(world=world, num_envs=DREAMS)
    one: Any = DreamEnv(world=world)
    many.reset(seed=config.seed)
    one.reset(seed=config.seed)
    many.action_space.seed(config.seed)
    actions = many.action_space.sample()

    def step_one() -> None:
        _, _, terminated, truncated, _ = one.step(one.action_space.start)
        if terminated or truncated:
            one.reset()

    seconds, first = timed(lambda: many.step(actions), config.repetitions)
    alone, _ = each(step_one, 100 * config.repetitions)
    return {
        f"dream/steps_per_s_of_{DREAMS}": DREAMS / seconds,
        "dream/compile_s": first,
        "dream/single_step_us": 1e6 * alone,
    }


def search_figures(
    world: Any, teacher: str, config: BenchmarkConfig, update: Callable
) -> dict[str, float]:
    """Searches of one teacher per second, at several batch sizes."""
    search, figures = SearchConfig(teacher=teacher), {}
    head = head_of(world.action_space)
    teach = jax.jit(make_teacher(world.model, head, search, world.card["discount"]))
    span, key = jnp.float32(world.card["value_span"]), jax.random.key(config.seed)
    for batch in BATCHES:
        context = jax.tree.map(lambda x, size=batch: jnp.asarray(x[:size]), world.starts)
        z = world.model.root(world.params, context)
        call = functools.partial(teach, world.params, z, key, span)
        seconds, first = timed(lambda call=call: jax.block_until_ready(call()), config.repetitions)
        figures[f"{teacher}/searches_per_s_of_{batch}"] = batch / seconds
        figures[f"{teacher}/compile_s_of_{batch}"] = first
        update(1)
    rate = figures[f"{teacher}/searches_per_s_of_{BATCHES[-1]}"]
    figures[f"{teacher}/simulations_per_s"] = rate * model_steps(world.model, head, search)
    return figures

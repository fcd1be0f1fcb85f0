"""How fast dreams, searches, rehearsals and fits are here.

Shapes are those of the main job on CartPole: 5 members, width 64, latent 32, 16
simulations. Every figure is a median after warm-up; programs are compiled anew,
without the cache. Examples:
  dreaming benchmark
  dreaming benchmark path=benchmark.json
  dreaming benchmark devices=1 repetitions=9
"""

import functools
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.cli import run_verb
from experiments.config import BenchmarkConfig
from experiments.progress import Progress

DREAMS = 1024
BATCHES = (1, 64, 512)
SHORTEST = 0.2  # seconds that a repetition lasts at least; calls that are shorter are repeated
REAL_STEPS = 2000  # of CartPole, which all of it is measured on


def run(config: BenchmarkConfig, run_dir: Path) -> int:
    """Measure, print a table, and write it to `config.path` if there is one."""
    with Progress() as progress:
        progress.log(f"measuring on {platform.machine()}; this takes a minute or two")
        from experiments import runtime

        runtime.configure(devices=config.devices, cache_dir="")
        from dreaming.checkpoint import atomic_write
        from experiments.report import to_json

        figures = measure(config, progress)
    figures["peak_memory_mb"] = peak_memory()
    result = {"figures": figures, "machine": machine()}
    print(table(figures, result["machine"]))
    if config.path is not None:
        atomic_write(config.path, to_json(result))
        print(f"written to {config.path}")
    return 0


def measure(config: BenchmarkConfig, progress: Progress) -> dict[str, float]:
    """Flat name -> figure, with its unit in the name."""
    import jax

    from dreaming.collect import record
    from dreaming.config import DistillConfig, RehearseConfig, SearchConfig
    from dreaming.distill import CHUNK as REHEARSALS
    from dreaming.distill import practise
    from dreaming.log import Log
    from dreaming.physics import CHUNK as FIT_STEPS
    from dreaming.physics import LearnedPhysics
    from envs.real import make_real
    from envs.types import Features, action_features
    from worldmodels.config import FitConfig

    task = make_real("CartPole-v1")
    spaces = Features(task.observation_space), action_features(task.action_space)
    log = Log(list(record("CartPole-v1", "random", REAL_STEPS, config.seed)), *spaces)
    chunks, key, search = config.repetitions + 1, jax.random.key(config.seed), SearchConfig()
    physics = LearnedPhysics(fit=FitConfig(steps=FIT_STEPS * chunks))
    figures: dict[str, float] = {}

    fit = functools.partial(physics.learn, log, key)
    with progress.stage("fit", total=physics.fit.steps) as stage:
        learned, seconds, compiled = paced(fit, stage.update)
        figures |= {"fit/steps_per_s": 1 / seconds, "fit/compile_s": compiled}
    world = physics.world(log, learned, 500, search, {})

    with progress.stage("dream") as stage:
        figures |= dream_figures(world, config)
    for teacher in ("search", "one_step"):
        with progress.stage(teacher, total=len(BATCHES)) as stage:
            figures |= search_figures(world, teacher, config, stage.update)

    rehearse = RehearseConfig(iterations=REHEARSALS * chunks)
    work = functools.partial(practise, log, world, search, rehearse, DistillConfig(), None, key)
    with progress.stage("rehearse", total=rehearse.iterations) as stage:
        _, seconds, compiled = paced(work, stage.update)
        figures |= {"rehearse/iterations_per_s": 1 / seconds, "rehearse/compile_s": compiled}
    return figures


def dream_figures(world: Any, config: BenchmarkConfig) -> dict[str, float]:
    """Many dreams at once, and one dream step by step, through Gymnasium's own interface."""
    from envs.shells import DreamEnv, DreamVectorEnv

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
    import jax
    import jax.numpy as jnp

    from dreaming.policy import head_of
    from dreaming.search import SearchConfig, make_teacher, model_steps

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


def timed(call: Callable[[], Any], repetitions: int) -> tuple[float, float]:
    """(median seconds of a call, seconds that the first one took longer)."""
    clock = time.perf_counter
    begun = clock()
    call()
    first, begun = clock() - begun, clock()
    call()
    times = max(1, round(SHORTEST / max(clock() - begun, 1e-6)))
    seconds = []
    for _ in range(repetitions):
        begun = clock()
        for _ in range(times):
            call()
        seconds.append((clock() - begun) / times)
    median = statistics.median(seconds)
    return median, max(first - median, 0.0)


def each(call: Callable[[], Any], calls: int) -> tuple[float, float]:
    """(median, longest) seconds of single calls, after one to warm up."""
    call()
    seconds = []
    for _ in range(calls):
        begun = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds), max(seconds)


def paced(work: Callable[[Callable], Any], update: Callable) -> tuple[Any, float, float]:
    """(what `work` made, median seconds per unit, seconds that the first chunk took longer).

    `work(update)` calls `update(n)` whenever `n` more units are done.
    """
    pace: list[tuple[float, float]] = []  # (seconds, units) of every chunk
    begun = time.perf_counter()

    def heard(n: float = 1, **_: Any) -> None:
        nonlocal begun
        now = time.perf_counter()
        pace.append((now - begun, n))
        begun = now
        update(n)

    made = work(heard)
    (first, units), *rest = pace
    median = statistics.median(seconds / n for seconds, n in rest)
    return made, median, max(first - median * units, 0.0)


def peak_memory() -> float:
    """The most memory that this process ever held, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import jax

    from experiments.runtime import usable_cores

    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "devices": [str(device) for device in jax.devices()],
        "cores": usable_cores(),
    }


def table(figures: dict[str, float], machine: dict[str, Any]) -> str:
    """The figures for a reader, one part after the other."""
    lines = ["", f"{machine['cores']} cores, devices {', '.join(machine['devices'])}"]
    for name, value in figures.items():
        shown = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
        lines.append(f"  {name:<32}{shown:>12}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """The verb."""
    return run_verb(run, argv, config_name="benchmark", schema=BenchmarkConfig)


if __name__ == "__main__":
    sys.exit(main())

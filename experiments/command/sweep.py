"""The jobs of `--multirun` through one of Hydra's launchers: other processes, or a cluster.

`hydra/launcher=processes` runs them side by side on this machine (joblib), `hydra/launcher=slurm`
submits them (submitit). Both need the extra `sweep`.
"""

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf

from experiments.command.jobs import run_one
from experiments.command.options import VerbOptions
from experiments.command.process import ended_by_interrupts, make_printable, raised_by_interrupts

# Runs have their own directories and logs: none of Hydra's.
QUIET = ["hydra.sweep.dir=.", "hydra.sweep.subdir=.", "hydra.output_subdir=null"]
QUIET += ["hydra/job_logging=none", "hydra/hydra_logging=none"]


@dataclass(frozen=True)
class Job:
    """One run of a sweep, called with its config in a process that the launcher started."""

    run: Callable[[Any, Path], int | None]
    names: Sequence[str]  # of all jobs
    overrides: Sequence[Sequence[str]]  # of all jobs

    def __call__(self, config: DictConfig) -> int:
        hydra = HydraConfig.get()
        run_dir, number = Path(hydra.run.dir), hydra.job.num
        log = run_dir.parent / f"{run_dir.name or f'job{number}'}.log"
        make_printable(sys.stdout)
        words = f"[{number + 1}/{len(self.names)}] {self.names[number]}"
        print(f"{words}: started, see {log}", flush=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        with (
            log.open("w", encoding="utf-8") as file,
            contextlib.redirect_stdout(file),
            ended_by_interrupts(line=""),  # the process that started this one says it
        ):
            code = run_one(self.run, OmegaConf.to_object(config), run_dir, self.overrides[number])
        print(f"{words}: {'failed' if code else 'done'}", flush=True)
        return code


def launch(
    options: VerbOptions,
    run: Callable[[Any, Path], int | None],
    overrides: Sequence[str],
    jobs: Sequence[Sequence[str]],
) -> int:
    """Run all jobs; returns the worst exit code. Raises `UserError` if the launcher fails."""
    from hydra._internal.callbacks import Callbacks

    task = lambda words: [word for word in words if not word.startswith(("hydra.", "hydra/"))]
    shared = set(jobs[0]).intersection(*jobs)
    names = [" ".join(word for word in words if word not in shared) for words in jobs]
    with options.loader() as loader:
        config = loader.load_configuration(
            options.name, [*QUIET, *overrides], run_mode=RunMode.MULTIRUN
        )
        name = config.hydra.runtime.choices["hydra/launcher"]
        print(f"{len(jobs)} jobs through hydra/launcher={name}", flush=True)
        try:
            launcher = Plugins.instance().instantiate_launcher(
                hydra_context=HydraContext(config_loader=loader, callbacks=Callbacks()),
                task_function=Job(run, names, jobs),
                config=config,
            )
            with raised_by_interrupts():
                ends = launcher.launch([task(words) for words in jobs], initial_job_idx=0)
            codes = [end.return_value for end in ends]
        except Exception as error:
            from envs.types import UserError

            line = " ".join(str(error).split())
            raise UserError(f"hydra/launcher={name} failed: {line[:300]}") from error
    print(f"{codes.count(0)} of {len(jobs)} jobs are done", flush=True)
    return max(codes)

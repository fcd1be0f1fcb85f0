"""Stages of a run that run once: with progress while they run, committed at their end."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dreaming.errors import ConfigError
from dreaming.stages import Stages
from experiments.command.progress import Progress


class Once:
    """`once("fit", total, like, work)` is the state of stage "fit", computed or loaded.

    `configs[stage]` are the options that the stage depends on. The seconds of a stage are saved
    with it, so that a resumed run reports the time it really took.
    """

    def __init__(self, run_dir: Path, configs: dict[str, dict], progress: Progress):
        self.run_dir, self.progress = run_dir, progress
        self.stages = Stages(run_dir, configs, say=progress.log)
        self.seconds: dict[str, float] = {}

    def __call__(
        self, stage: str, total: int | None, like: Any, work: Callable, start: int = 0
    ) -> Any:
        """The state of `stage`; `work(update)` computes it, `like` has its structure.

        Progress counts its steps from `start` to `total`.
        """
        if self.stages.done(stage):
            self.progress.log(f"{stage}: done before")
            self.seconds[stage] = self.stages.info(stage)["seconds"]
            return self.stages.load(stage, like)
        with self.progress.stage(stage, total, start) as shown:
            state = work(shown.update)
        self.seconds[stage] = round(self.progress.seconds[stage], 3)
        self.stages.commit(stage, state, {"seconds": self.seconds[stage]})
        # Loaded again, so that a resumed and an undisturbed run use exactly the same state.
        return self.stages.load(stage, like)


class Finished(Once):
    """The stages of a finished run: raises `ConfigError` for a stage that is not finished."""

    def __call__(
        self, stage: str, total: int | None, like: Any, work: Callable, start: int = 0
    ) -> Any:
        """The saved state of `stage`; `work` is never called."""
        if not self.stages.done(stage):
            raise ConfigError(
                f"{self.run_dir}: stage {stage} is not finished; finish the run with `dreaming "
                f"dream hydra.run.dir={self.run_dir}`"
            )
        return self.stages.load(stage, like)


def kept_nowhere(progress: Progress) -> Callable:
    """A `once` that always computes and saves nothing."""

    def work_out(stage: str, total: int | None, like: Any, work: Callable) -> Any:
        with progress.stage(stage, total=total) as shown:
            return work(shown.update)

    return work_out

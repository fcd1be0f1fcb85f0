"""Stages of a run that run once: with progress while they run, committed at their end."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dreaming.errors import ConfigError
from dreaming.stages import Stages
from experiments.command.progress import Progress
from experiments.runs.pace import Pace


class Once:
    """`once("fit", total, like, work)` is the state of stage "fit", computed or loaded.

    `configs[stage]` are the options that the stage depends on. The seconds of a stage are saved
    with it, so that a resumed run reports the time it really took; so is the share of its steps
    that was left out to keep within the `pace`.
    """

    def __init__(
        self, run_dir: Path, configs: dict[str, dict], progress: Progress, pace: Pace | None = None
    ):
        self.run_dir, self.progress, self.pace = run_dir, progress, pace or Pace(0)
        self.stages = Stages(run_dir, configs, say=progress.log)
        self.seconds: dict[str, float] = {}
        self.left_out: dict[str, float] = {}

    def __call__(
        self, stage: str, total: int | None, like: Any, work: Callable, start: int = 0
    ) -> Any:
        """The state of `stage`; `work(update)` computes it, `like` has its structure.

        Progress counts its steps from `start` to `total`.
        """
        if self.stages.done(stage):
            self.progress.log(f"{stage}: done before")
            self._note(stage, self.stages.info(stage))
            self.pace.finished(stage, self.seconds[stage])
            return self.stages.load(stage, like)
        with self.progress.stage(stage, total, start, self.pace.limit(stage)) as shown:
            state = work(shown.update)
        info = {"seconds": round(self.progress.seconds[stage], 3)}
        if total and shown.left_out:
            info["left_out"] = round(shown.left_out / total, 4)
        self.stages.commit(stage, state, info)
        self._note(stage, info)
        # Loaded again, so that a resumed and an undisturbed run use exactly the same state.
        return self.stages.load(stage, like)

    def _note(self, stage: str, info: dict[str, float]) -> None:
        self.seconds[stage] = info["seconds"]
        if share := info.get("left_out"):
            self.left_out[stage] = share
            self.progress.log(f"{stage}: {share:.0%} of its steps were left out (budget_minutes)")


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

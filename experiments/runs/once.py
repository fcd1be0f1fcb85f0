"""Stages of a run that are done once: shown while they work, committed when they are done."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dreaming.stages import Stages
from experiments.command.progress import Progress


class Desk:
    """`desk("fit", total, like, work)` is the state of stage "fit", worked out or loaded.

    `configs[stage]` are the fields the stage depends on. Seconds of a stage are kept with it, so
    that a resumed run reports the time it really took.
    """

    def __init__(self, run_dir: Path, configs: dict[str, dict], progress: Progress):
        self.stages = Stages(run_dir, configs, say=progress.log)
        self.progress = progress
        self.seconds: dict[str, float] = {}

    def __call__(
        self, stage: str, total: int | None, like: Any, work: Callable, start: int = 0
    ) -> Any:
        """The state of `stage`; `work(update)` makes it, `like` has its structure.

        Its steps are counted from `start` to `total`.
        """
        if self.stages.done(stage):
            self.progress.log(f"{stage}: done before")
            self.seconds[stage] = self.stages.info(stage)["seconds"]
            return self.stages.load(stage, like)
        with self.progress.stage(stage, total, start) as shown:
            state = work(shown.update)
        self.seconds[stage] = round(self.progress.seconds[stage], 3)
        self.stages.commit(stage, state, {"seconds": self.seconds[stage]})
        # Loaded rather than handed on: a resumed run and an undisturbed one see the same thing.
        return self.stages.load(stage, like)

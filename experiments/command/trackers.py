"""A second place for the metrics of a run: TensorBoard or Weights & Biases.

`metrics.jsonl` and the report are always written; a tracker gets the same numbers during the run.
Each package is an optional extra, imported only if it is chosen.
"""

import dataclasses
import importlib
from pathlib import Path
from typing import Any


class TensorBoard:
    """Event files in `<run_dir>/tensorboard`; look at them with `tensorboard --logdir runs`."""

    def __init__(self, config: Any, run_dir: Path):
        self.where = str(run_dir / "tensorboard")
        self._writer = _import("tensorboard", "tensorboard.summary").Writer(self.where)

    def write(self, stage: str, step: int, metrics: dict[str, Any]) -> None:
        """Scalars over the steps of their own stage."""
        for name, value in metrics.items():
            if value is not None:
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush everything to disk and close."""
        self._writer.close()


class WandB:
    """A run of the project `dreaming`; WANDB_MODE=offline keeps it on this machine."""

    def __init__(self, config: Any, run_dir: Path):
        wandb = _import("wandb", "wandb")
        group = f"{config.experiment}/{config.env.id}"
        run_dir.mkdir(parents=True, exist_ok=True)
        try:
            self._run = wandb.init(
                project="dreaming",
                group=group,
                name=f"{group}/seed{config.seed}",
                dir=str(run_dir),
                config=dataclasses.asdict(config),
                settings=wandb.Settings(silent=True, console="off"),
            )
        except Exception as error:  # of W&B: no key, no network, ...
            from dreaming.errors import UserError

            line = " ".join(str(error).split())[:200]
            raise UserError(
                f"tracker=wandb cannot start ({line}); log in with `wandb login`, or set "
                "WANDB_MODE=offline"
            ) from error
        self.where = self._run.dir if self._run.offline else self._run.url
        self._known: set[str] = set()

    def write(self, stage: str, step: int, metrics: dict[str, Any]) -> None:
        """Scalars over the steps of their own stage, not over W&B's global step."""
        axis = f"{stage}/step"
        for name in metrics.keys() - self._known:
            self._run.define_metric(name, step_metric=axis)
            self._known.add(name)
        numbers = {name: value for name, value in metrics.items() if value is not None}
        self._run.log(numbers | {axis: step})

    def close(self) -> None:
        """Send or store everything and close."""
        self._run.finish()


TRACKERS = {"tensorboard": TensorBoard, "wandb": WandB}


def open_tracker(config: Any, run_dir: Path) -> Any:
    """The tracker that `config.tracker` names, None for "none". Raises `UserError`."""
    return None if config.tracker == "none" else TRACKERS[config.tracker](config, run_dir)


def final_figures(result: dict[str, Any]) -> dict[str, Any]:
    """The means and the fidelity of a result, under flat names."""
    returns = {name: x["mean"] for name, x in result.items() if name.endswith("_return") and x}
    figures = returns | (result.get("fidelity") or {})
    if "verdict" in result:
        figures["accepted"] = float(result["verdict"] != "reject")
    return {f"result/{name}": float(value) for name, value in figures.items()}


def _import(extra: str, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        from dreaming.errors import ConfigError

        raise ConfigError(
            f"tracker={extra} needs a package that is missing; pip install 'dreaming[{extra}]'"
        ) from error

"""Progress of the stages of a run: bars on a terminal, plain lines elsewhere, `metrics.jsonl`.

with Progress(run_dir) as progress:
    with progress.stage("fit", total=4000) as stage:
        stage.update(100, value_loss=0.3)
"""

import json
import math
import time
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from envs.atomic import write_file
from experiments.pages.words import duration


class Progress:
    """Shows stages one after the other and writes their metrics to `<run_dir>/metrics.jsonl`.

    A line holds `stage`, `step`, `seconds` (since the stage began) and metrics with flat names
    such as `fit/value_loss`. `seconds` maps each finished stage to its wall seconds.
    Without `run_dir` nothing is written. Plain lines are printed at most every `interval` seconds.
    A tracker (`trackers.py`) gets the same numbers; it is closed at the end.
    """

    def __init__(
        self, run_dir: Path | None = None, *, stream: TextIO | None = None, interval: float = 3.0
    ):
        self.seconds: dict[str, float] = {}
        self.interval = interval
        self.tracker: Any = None
        self.console = Console(file=stream, highlight=False)
        self.bars = _bars(self.console) if self.console.is_terminal else None
        self._path = Path(run_dir) / "metrics.jsonl" if run_dir is not None else None
        self._file: TextIO | None = None

    def __enter__(self) -> "Progress":
        if self.bars:
            self.bars.start()
        return self

    def __exit__(self, *_) -> None:
        if self.bars:
            self.bars.stop()
        if self._file:
            self._file.close()
            self._file = None
        if self.tracker is not None:
            self.tracker.close()

    def track(self, tracker: Any) -> None:
        """Send all later metrics to `tracker`, unless it is None."""
        self.tracker = tracker
        if tracker is not None:
            self.log(f"metrics also go to {tracker.where}")

    def finish(self, real_steps: int, figures: dict[str, Any]) -> None:
        """Send the final figures of a run to the tracker; result.json holds them as well."""
        if self.tracker is not None:
            self.tracker.write("result", real_steps, figures)

    def stage(
        self, name: str, total: int | None = None, start: int = 0, limit: float = math.inf
    ) -> "Stage":
        """A stage of `total` steps (None = unknown) that begins after step `start` and should last
        at most `limit` seconds.

        Removes lines of this stage after step `start` that an earlier attempt left in the file.
        """
        if self._path:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._file:
                self._file.close()
            _forget(self._path, name, start)
            self._file = self._path.open("a", encoding="utf-8")
        return Stage(self, name, total, start, limit)

    def log(self, message: str) -> None:
        """Print one line above the bars."""
        self.console.print(message, markup=False, soft_wrap=True)

    def write(self, stage: str, step: int, seconds: float, metrics: dict[str, Any]) -> None:
        """Append one line to `metrics.jsonl`, and send it to the tracker."""
        if self.tracker is not None:
            self.tracker.write(stage, step, metrics)
        if self._file:
            line = {"stage": stage, "step": step, "seconds": round(seconds, 3), **metrics}
            try:
                self._file.write(json.dumps(line) + "\n")
                self._file.flush()
            except OSError as error:
                error.filename = str(self._path)
                raise


class Stage:
    """A running stage; made by `Progress.stage`."""

    def __init__(
        self,
        progress: Progress,
        name: str,
        total: int | None,
        start: int,
        limit: float = math.inf,
    ):
        self.progress, self.name, self.total = progress, name, total
        self.step: Any = start  # a fraction, where several fits are one stage
        self.limit, self.left_out = limit, 0.0  # seconds it may last; steps that were left out
        self._paced: tuple[float, float] | None = None  # (seconds, steps) at the first update
        self.metrics: dict[str, float | None] = {}  # name -> newest value
        self._start, self._began = start, time.monotonic()
        self._shown = -math.inf
        self._bar: TaskID | None = None

    def __enter__(self) -> "Stage":
        self._began = time.monotonic()
        if self.progress.bars:
            self._bar = self.progress.bars.add_task(
                self.name, total=self.total, completed=self.step, metrics=""
            )
        self._show(force=True)
        return self

    def __exit__(self, kind, *_) -> None:
        seconds = time.monotonic() - self._began
        if kind is None:
            self.progress.seconds[self.name] = seconds
            self._show(force=True, last=f"done in {duration(seconds)}")

    @property
    def elapsed(self) -> float:
        """Seconds since the stage began."""
        return time.monotonic() - self._began

    def update(self, n: float = 1, left_out: float = 0, **metrics: Any) -> float:
        """Report `n` more steps, of which some were `left_out`; metrics are numbers, written as
        `<stage>/<name>`.

        A name with a slash is written as it is: `update(1, **{"gate/lower_bound": 3.0})`. Returns
        how many steps to leave out now, so that the stage ends in time; whoever can't, need not.
        """
        self.step += n
        self.left_out += left_out
        late = self._late(n - left_out)
        if metrics:
            numbers = {self._flat(name): _number(value) for name, value in metrics.items()}
            self.metrics |= numbers
            self.progress.write(self.name, self.step, self.elapsed, numbers)
        self._show()
        return late

    def _late(self, each: float) -> float:
        """Steps to leave out for each `each` that are taken, so that the stage ends in time and
        they are left out evenly."""
        if not math.isfinite(self.limit) or not self.total:
            return 0.0
        now, taken = self.elapsed, self.step - self.left_out
        if self._paced is None:  # the first steps, which compile, tell nothing of the pace
            self._paced = now, taken
        seconds, steps = now - self._paced[0], taken - self._paced[1]
        if not steps:
            return 0.0
        affordable = max(self.limit - now, 0.0) * steps / max(seconds, 1e-9)
        return each * max(0.0, (self.total - self.step) / max(affordable, each) - 1)

    def _flat(self, name: str) -> str:
        return name if "/" in name else f"{self.name}/{name}"

    def _show(self, force: bool = False, last: str = "") -> None:
        now = time.monotonic()
        if self.progress.bars and self._bar is not None:
            self.progress.bars.update(self._bar, completed=self.step, metrics=self._figures(2))
        elif force or now - self._shown >= self.progress.interval:
            self._shown = now
            parts = [f"{self.name:<10}", self._count(), last or self._left(now), self._figures(4)]
            self.progress.log("  ".join(part for part in parts if part))

    def _count(self) -> str:
        return f"{self.step}/{self.total}" if self.total else str(self.step or "")

    def _left(self, now: float) -> str:
        done, seconds = self.step - self._start, now - self._began
        if not done or not self.total:
            return duration(seconds) if seconds >= 1 else ""
        return f"{duration(seconds / done * max(self.total - self.step, 0))} left"

    def _figures(self, most: int) -> str:
        known = [(name, value) for name, value in self.metrics.items() if value is not None]
        return "  ".join(f"{name.rpartition('/')[2]} {value:.4g}" for name, value in known[:most])


def _bars(console: Console) -> Bars:
    return Bars(
        TextColumn("{task.description:<10}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[metrics]}"),
        console=console,
    )


def _number(value: Any) -> float | int | None:
    """A number for JSON; None (null) for NaN and infinity."""
    if isinstance(value, int):
        return value
    value = float(value)
    return value if math.isfinite(value) else None


def _forget(path: Path, stage: str, start: int) -> None:
    """Remove the lines of `stage` after step `start`, and an incomplete last line."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines()
        kept = [line + "\n" for line in lines if _keep(line, stage, start)]
        write_file(path, "".join(kept).encode())


def _keep(line: str, stage: str, start: int) -> bool:
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return isinstance(record, dict) and (record["stage"] != stage or record["step"] <= start)

"""The range of a task, to compare results over tasks: best known less uniformly random return.

python -m experiments.study.ranges                                    all tasks
python -m experiments.study.ranges tasks=Taxi-v4,Acrobot-v1 episodes=2000 seed=0 path=ranges.csv

Returns are real and undiscounted, within `horizon` steps; x is the share (x - random) / range. How
the best is known: exact (by value iteration on the task's table, for a policy that sees the clock;
random is exact too), limit (no return is higher) or measured (in `episodes` real episodes, as the
random return is then). Random is uniform over all actions, legal or not.
"""

import csv
import dataclasses
import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

import dreaming  # noqa: F401  registers tasks
from dreaming.statistics import t_interval
from envs import tabular
from envs.atomic import write_file
from envs.real import horizon, make_real
from envs.types import EnvError
from experiments.study import best
from experiments.study.blackjack import blackjack
from experiments.study.episodes import play_task

TABLE = Path(__file__).with_name("ranges.csv")
OPTIONS = {"tasks": "all", "episodes": 2000, "seed": 0, "path": str(TABLE)}
FRESH = 1_000_000  # added to the seed for the episodes of the best policy
NO_LIMIT = 1000  # steps, for a task without a limit of its own
EXACT = ("FrozenLake-v1", "FrozenLake8x8-v1", "Taxi-v4", "CliffWalking-v1", "Blackjack-v1")
LIMIT = ("CartPole-v1", "dreaming/HalfSeenCartPole-v0")  # a step earns one
POLICIES: dict[str, tuple[Callable[[int], best.Policy], str]] = {  # of a horizon
    "MountainCar-v0": (best.mountain_car().policy, "value iteration on a grid of 361 x 281"),
    "Pendulum-v1": (best.pendulum().policy, "value iteration on a grid of 401 x 321; 21 torques"),
    "Acrobot-v1": (best.swing_up, "sign of a linear controller; cross-entropy method"),
}
TASKS = (*LIMIT, *EXACT, *POLICIES)
TEXT = {"task": str, "horizon": int, "how": str, "source": str}  # what is no float in the table
Number = TypeVar("Number", float, np.ndarray)


@dataclass(frozen=True)
class Range:
    """A row of the table. A `_ci` is half the width of a 95 % interval, 0 for what is exact."""

    task: str
    horizon: int
    random: float
    random_ci: float
    best: float
    best_ci: float
    how: str
    source: str

    def share(self, x: Number) -> Number:
        """0 for the random return, 1 for the best known."""
        return (x - self.random) / (self.best - self.random)


def read_ranges(path: str | Path = TABLE) -> dict[str, Range]:
    """The table, by task."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = [
            {name: TEXT.get(name, float)(x) for name, x in row.items()}
            for row in csv.DictReader(file)
        ]
    return {row["task"]: Range(**row) for row in rows}


def share(task: str, x: Number) -> Number:
    """Where returns lie in the range of a task. Raises `EnvError` for a task without one."""
    known = read_ranges()
    if task not in known:
        raise EnvError(f"{task} has no range; {TABLE.name} has those of {', '.join(known)}")
    return known[task].share(x)


def exact(task: str, steps: int) -> Range:
    """The range of a task that has a table."""
    table = blackjack() if task == "Blackjack-v1" else tabular.from_gym(task)
    uniform = np.full((table.num_states, table.num_actions), 1 / table.num_actions)
    random, top = tabular.evaluate(table, uniform, steps), tabular.optimum(table, steps)
    return Range(task, steps, random, 0.0, top, 0.0, "exact", "value iteration on its table")


def measured(task: str, steps: int, episodes: int, seed: int) -> Range:
    """The range of a task whose random return is measured, and its best unless it is a limit."""
    random, ci = _mean(play_task(task, None, episodes, seed, steps))
    if task in LIMIT:
        top, source = float(steps), "every step earns 1, until the step limit"
        return Range(task, steps, random, ci, top, 0.0, "limit", source)
    make, source = POLICIES[task]
    top, top_ci = _mean(play_task(task, make(steps), episodes, seed + FRESH, steps))
    return Range(task, steps, random, ci, top, top_ci, "measured", source)


def _mean(returns: np.ndarray) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval."""
    low, high = t_interval(returns)
    return float(returns.mean()), (high - low) / 2


def write_ranges(ranges: dict[str, Range], path: Path) -> None:
    """Write the table, with six digits of every number."""
    file = io.StringIO()
    names = [field.name for field in dataclasses.fields(Range)]
    out = csv.DictWriter(file, names, lineterminator="\n")
    out.writeheader()
    for task in (task for task in TASKS if task in ranges):
        row = dataclasses.asdict(ranges[task])
        out.writerow({k: f"{x:.6g}" if isinstance(x, float) else x for k, x in row.items()})
    write_file(path, file.getvalue().encode())


def main(argv: Sequence[str] | None = None) -> int:
    """Measure tasks and put them in the table; returns the exit code."""
    given = dict(each.split("=", 1) for each in (sys.argv[1:] if argv is None else argv))
    chosen = {name: type(x)(given.get(name, x)) for name, x in OPTIONS.items()}
    tasks = TASKS if chosen["tasks"] == "all" else str(chosen["tasks"]).split(",")
    if set(given) - set(OPTIONS) or set(tasks) - set(TASKS):
        known = f"options are {', '.join(f'{name}=' for name in OPTIONS)}"
        print(f"{known}; tasks are {', '.join(TASKS)}", file=sys.stderr)
        return 2
    path = Path(str(chosen["path"]))
    ranges = read_ranges(path) if path.exists() else {}
    for task in tasks:
        with make_real(task) as env:
            steps = horizon(env) or NO_LIMIT
        if task in EXACT:
            found = exact(task, steps)
        else:
            found = measured(task, steps, int(chosen["episodes"]), int(chosen["seed"]))
        write_ranges(ranges := ranges | {task: found}, path)
        print(f"{task}: {found.random:.6g} to {found.best:.6g} ({found.how})", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The cases of the gate's study: tasks, logs and policies, fixed before the gate was tuned.

A case asks whether a candidate may replace an incumbent, on a log of another behaviour. Its true
effect is known: policies are mixed until the candidate's exact return differs from the incumbent's
by a given share of the task's return range (best minus worst policy).
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from envs import tabular
from envs.types import Trace

HARMS = ("random", "flipped", "overrated", "stale")
BEHAVIOURS = ("uniform", "exploring")  # "exploring": the incumbent, 30 % uniform
EXPLORING = 0.3
SABOTAGE = (-0.05, -0.10, -0.20)
KNOWN_GOOD = (0.25, 0.50)
POWER = (-0.4, -0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)


@dataclass(frozen=True)
class Task:
    """A tabular task: its table, its step limit, and the length of its logs."""

    name: str
    table: tabular.Table
    drifted: tabular.Table  # the changed task for which the stale policy is optimal
    horizon: int
    log_steps: int
    discount: float = 0.99

    def value(self, policy: np.ndarray) -> float:
        """Exact expected return per episode, undiscounted, in raw rewards."""
        return tabular.evaluate(self.table, policy, self.horizon)


@dataclass(frozen=True)
class Case:
    """One question to the gate. `effect` is the wanted effect, as a share of the return range."""

    task: str
    seed: int
    behaviour: str
    kind: str  # one of HARMS, or "good"
    effect: float


@dataclass(frozen=True)
class Policies:
    """Candidate and incumbent as probabilities [S, A], and the true effect in raw returns."""

    candidate: np.ndarray
    incumbent: np.ndarray
    effect: float


def cab(goal: int, side: int = 4) -> tabular.Table:
    """A small Taxi: fetch a passenger from one of two corners, bring it to corner `goal`.

    State = cell + cells * (0, 1: waiting at the other corners in turn; 2: in the cab). Actions:
    four moves, pick up, put down. -1 per step, +20 for the delivery, which ends the episode.
    """
    cells = side * side
    corners = [0, side - 1, cells - side, cells - 1]
    waiting = [corner for corner in corners if corner != goal][:2]
    p, r, ends = np.zeros((3, 3 * cells, 6, 3 * cells))
    for s in range(3 * cells):
        where, cell = divmod(s, cells)
        row, column = divmod(cell, side)
        for a in range(6):
            n, gain, over = s, -1.0, False
            if a < 4:
                down, right = ((-1, 0), (1, 0), (0, -1), (0, 1))[a]
                to = np.clip([row + down, column + right], 0, side - 1)
                n = where * cells + int(to[0]) * side + int(to[1])
            elif a == 4 and where < 2 and cell == waiting[where]:
                n = 2 * cells + cell
            elif a == 5 and where == 2 and cell == goal:
                gain, over = 19.0, True
            p[s, a, n], r[s, a, n], ends[s, a, n] = 1, gain, over
    start = np.repeat([1.0, 1.0, 0.0], cells)
    return tabular.Table(p, r, ends, start / start.sum())


def lake(rows: list[str]) -> tabular.Table:
    """Slippery FrozenLake on a map."""
    import gymnasium

    return tabular.from_gym(gymnasium.make("FrozenLake-v1", desc=rows, is_slippery=True))


def mirrored(table: tabular.Table) -> tabular.Table:
    """The same task with the order of its actions reversed."""
    return tabular.Table(table.p[:, ::-1], table.r[:, ::-1], table.terminated[:, ::-1], table.start)


@functools.cache
def tasks() -> dict[str, Task]:
    """The tabular tasks by name."""
    first, second = ["SFFF", "FHFH", "FFFH", "HFFG"], ["SFFF", "FFFH", "FHFF", "FFFG"]
    corridor = tabular.corridor(8, slip=0.1)
    every = (
        Task("lake", lake(first), lake(second), 100, 4000),
        Task("open_lake", lake(second), lake(first), 100, 4000),
        Task("corridor", corridor, mirrored(corridor), 20, 2000),
        Task("cab", cab(goal=15), cab(goal=0), 60, 5000),
    )
    return {task.name: task for task in every}


@functools.cache
def landmarks(name: str) -> dict[str, np.ndarray]:
    """The best, worst, uniform and stale policy of a task, as tables [S, A]."""
    task = tasks()[name]
    table, num_actions = task.table, task.table.num_actions
    eye = np.eye(num_actions)
    turned = tabular.Table(table.p, -table.r, table.terminated, table.start)
    greedy = lambda table: eye[tabular.solve(table, task.discount)[2]]
    uniform = np.full((table.num_states, num_actions), 1 / num_actions)
    return {
        "best": greedy(table),
        "flipped": greedy(turned),
        "random": uniform,
        "stale": greedy(task.drifted),
    }


def blend(
    value: Callable[[np.ndarray], float], start: np.ndarray, end: np.ndarray, target: float
) -> np.ndarray:
    """The mixture of `start` and `end` whose value is `target`, by bisection.

    Raises `ValueError` if `target` is not between their values.
    """
    ends = value(start), value(end)
    if not min(ends) <= target <= max(ends):
        raise ValueError(f"no mixture earns {target:.3g}: the ends earn {ends}")
    low, high = 0.0, 1.0
    for _ in range(50):
        share = (low + high) / 2
        above = value((1 - share) * start + share * end) > target
        low, high = (share, high) if above == (ends[0] > ends[1]) else (low, share)
    return (1 - low) * start + low * end


def value_range(task: Task) -> tuple[float, float]:
    """Returns of the worst and of the best policy."""
    known = landmarks(task.name)
    return task.value(known["flipped"]), task.value(known["best"])


@functools.cache
def incumbent_of(name: str, effect: float) -> np.ndarray:
    """An incumbent with room for the effect: its value is at 60 % of the range (40 % for gains).

    The best policy is mixed with uniform noise or, where that is not bad enough, with the worst.
    """
    task, known = tasks()[name], landmarks(name)
    low, high = value_range(task)
    target = low + (0.4 if effect > 0 else 0.6) * (high - low)
    worse = "random" if task.value(known["random"]) < target else "flipped"
    return blend(task.value, known["best"], known[worse], target)


def behaviour_of(case: Case) -> np.ndarray:
    """The behaviour that records the log."""
    uniform = landmarks(case.task)["random"]
    if case.behaviour == "uniform":
        return uniform
    return (1 - EXPLORING) * incumbent_of(case.task, case.effect) + EXPLORING * uniform


def policies_of(case: Case, traces: list[Trace]) -> Policies:
    """Candidate and incumbent of a tabular case; only "overrated" candidates depend on the log."""
    task, known = tasks()[case.task], landmarks(case.task)
    low, high = value_range(task)
    incumbent = incumbent_of(case.task, case.effect)
    before = task.value(incumbent)
    target = before + case.effect * (high - low)
    ends = [known["best"]] if case.kind == "good" else [known.get(case.kind), known["flipped"]]
    if case.kind == "overrated":
        ends[0] = overrated(task, traces)
    # Where this harm is too small for the effect, the worst policy is mixed in instead.
    end = ends[0] if case.kind == "good" or task.value(ends[0]) <= target else ends[1]
    if case.effect == 0:  # worse in some states, as much better in others
        # Half of each of two policies can earn more than either.
        halves = [(incumbent + worse) / 2 for worse in (end, known["flipped"])]
        start = next(half for half in halves if task.value(half) <= target)
        candidate = blend(task.value, start, known["best"], target)
    else:
        candidate = blend(task.value, incumbent, end, target)
    return Policies(candidate, incumbent, task.value(candidate) - before)


def overrated(task: Task, traces: list[Trace]) -> np.ndarray:
    """In each state, the action whose value the log's count model overrates most: the policy of a
    search that exploits errors of its model."""
    counts = tabular.from_traces(traces, task.table.num_states, task.table.num_actions)
    believed, real = (tabular.solve(x, task.discount)[1] for x in (counts, task.table))
    return np.eye(task.table.num_actions)[(believed - real).argmax(-1)]


def record(task: Task, policy: np.ndarray, seed: int) -> list[Trace]:
    """Episodes of a policy in the true task, with propensities, until the log has its steps."""
    random, table, traces, steps = np.random.default_rng(seed), task.table, [], 0
    draw = lambda p: int(np.searchsorted(np.cumsum(p), random.random() * p.sum(), side="right"))
    while steps < task.log_steps:
        o, a, r, p, ended = [draw(table.start)], [], [], [], False
        while not ended and len(a) < min(task.horizon, task.log_steps - steps):
            s = o[-1]
            a.append(draw(policy[s]))
            p.append(policy[s, a[-1]])
            o.append(draw(table.p[s, a[-1]]))
            at = s, a[-1], o[-1]
            r.append(table.r[at])
            ended = bool(random.random() < table.terminated[at])
        steps += len(a)
        o, a, r, p = (np.array(x) for x in (o, a, r, p))
        truncated = not ended and len(a) == task.horizon
        traces.append(Trace(o, a, r, ended, truncated, propensities=p))
    return traces


def suite(effects: tuple[float, ...], count: int, first_seed: int) -> list[Case]:
    """`count` tabular cases that go through effects, tasks, harms and behaviours in turn."""
    names, cases = list(tasks()), []
    for i in range(count):
        effect = effects[i % len(effects)]
        turn = i // len(effects)
        name = names[turn % len(names)]
        harm = HARMS[turn // len(names) % len(HARMS)]
        later = turn // len(names)
        behaviour = BEHAVIOURS[(turn + later + later // len(HARMS)) % len(BEHAVIOURS)]
        kind = "good" if effect > 0 else harm
        cases.append(Case(name, first_seed + i, behaviour, kind, effect))
    return cases

"""Online learning in rounds: collect, one round on all that was collected, and again.

A round's student goes on to collect, the last one too; the one that earned most then is deployed.
"""

import dataclasses
import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dreaming import statistics
from dreaming.checkpoint import state_sha256
from dreaming.config import RoundConfig
from dreaming.errors import TraceError
from dreaming.observe.collect import behaviour_return, record
from dreaming.observe.log import MULTIPLE, Log
from dreaming.round import Report, RoundState, one_round
from dreaming.search.teachers import model_steps
from dreaming.student.network import network, with_uniform
from dreaming.student.policy import Policy
from dreaming.world.discount import discount_line
from dreaming.world.fitting import check_name
from dreaming.world.physics import LearnedPhysics
from envs.real import make_real
from envs.traces import TraceStore
from envs.types import Features, Trace, action_features
from experiments.command.progress import Progress
from experiments.command.stopping import stopping
from experiments.config import OnlineConfig
from experiments.logs.reading import check_window
from experiments.runs.directory import begin, finish, values_of
from experiments.runs.dream import save_artifacts
from experiments.runs.lineage import Lineage
from experiments.runs.once import Once
from experiments.runs.results import REPORT_SEED, common, root_key
from experiments.runs.scoring import real_scorer, task_limit


def learn_online(
    config: OnlineConfig, run_dir: Path, progress: Progress, stop: Callable
) -> dict[str, Any]:
    """Everything `dreaming online` does; the content of result.json.

    `stop` is called where the run could be interrupted. Raises `UserError` for what the user can
    mend.
    """
    check_name(config.model.name)
    stages = Once(run_dir, stage_fields(config), progress)
    begin(run_dir, config)
    collector, state, students = Collector(config, run_dir), RoundState(), []
    for number, until in enumerate(plan(config)):
        once = in_round(stages, number, stop)
        log = collector.collect(state.incumbent, number, until, once)
        check_window(config.model.window, log)
        progress.log(discount_line(config.fit, log.traces))
        state, report = play_round(config, state, number, log, once)
        students.append(state.incumbent)
    rounds = len(students)
    once = in_round(stages, rounds, stop)
    log = collector.collect(state.incumbent, rounds, config.env.real_steps, once)
    earned = earned_by(log.traces, rounds)
    report = dataclasses.replace(report, deployed=students[best(earned)])
    returns = evaluate_student(config, report, log, in_round(stages, None, stop))
    save_artifacts(Lineage(run_dir), log, report)
    result = make_result(config, log, report, returns, earned, stages)
    figures = {"returns": {name: x.tolist() for name, x in returns.items() if x.ndim}}
    finish(run_dir, config, result, figures)
    return result


def plan(config: OnlineConfig) -> list[int]:
    """The real steps there are before each round; those after the last one try its student."""
    last, collect = config.env.real_steps, config.collect
    first = min(collect.first, last)
    return [first, *range(first + collect.steps, last, collect.steps)]


def earned_by(traces: Sequence[Trace], rounds: int) -> list[float | None]:
    """Mean return of the episodes each round's student collected and finished, None of none."""
    returns = lambda name: [t.rewards.sum() for t in traces if t.policy == name and not t.is_open]
    found = [returns(f"student-{number + 1}") for number in range(rounds)]
    return [float(np.mean(each)) if each else None for each in found]


def best(earned: Sequence[float | None]) -> int:
    """The round whose student earned most, of equals the last; the last, if nothing is known of it.

    A round's student is seldom worse than the one before, but it can be, and a dream may not know.
    """
    if earned[-1] is None:
        return len(earned) - 1
    return max((x, number) for number, x in enumerate(earned) if x is not None)[1]


def stage_fields(config: OnlineConfig) -> dict[str, dict[str, Any]]:
    """The fields that each stage depends on; a run of other fields is another run."""
    every = values_of(config)
    for name in ("experiment", "budget_minutes", "devices", "tracker"):
        every.pop(name)
    learned = {name: value for name, value in every.items() if name != "evaluation"}
    stages = ("collect", "fit", "rehearse")
    rounds = len(plan(config))
    names = [f"{stage}-{n}" for n in range(rounds) for stage in stages] + [f"collect-{rounds}"]
    return dict.fromkeys(names, learned) | {"evaluate": every}


def in_round(once: Once, number: int | None, stop: Callable) -> Callable:
    """The `once` of a round: its stages have its number, and can be stopped. None = of no round."""

    def of_round(
        stage: str, total: int, like: Any, work: Callable, start: int | None = None
    ) -> Any:
        stoppable = lambda update: work(stopping(update, stop))
        if number is None:
            return once(stage, total, like, stoppable)
        if start is None:
            start, total = number * total, (number + 1) * total
        return once(f"{stage}-{number}", total, like, stoppable, start)

    return of_round


class Collector:
    """Collects real steps into the trace store of a run.

    An episode is recorded whole, or up to the last step before a round. A round's episodes are
    added to the store all at once: what a killed run left there is complete.
    """

    def __init__(self, config: OnlineConfig, run_dir: Path):
        self.config, self.folder = config, run_dir / "traces"
        task = make_real(config.env.id, config.env.options)
        self.spaces = {
            "observation_space": task.observation_space,
            "action_space": task.action_space,
        }
        task.close()
        self.observation = Features(self.spaces["observation_space"])
        self.action = action_features(self.spaces["action_space"])
        self.policy: Policy | None = None  # one, whose params change: it compiles once

    def collect(self, student: Any, number: int, until: int, once: Callable) -> Log:
        """The log of `until` real steps; those that are missing are taken by `student`."""

        def fill(update: Callable) -> str:
            if number == 0:
                shutil.rmtree(self.folder, ignore_errors=True)  # of an attempt that was cut
            store = TraceStore(self.folder, **self.spaces)
            if store.num_steps < until:
                store.extend(self.episodes(student, number, until - store.num_steps, update))
            return digest(self.traces(until))

        start = plan(self.config)[number - 1] if number else 0
        expected, traces = once("collect", until, "", fill, start), self.traces(until)
        if digest(traces) != expected:
            raise TraceError(
                f"{self.folder} changed since it was collected; delete {self.folder.parent} and "
                "start again"
            )
        most = 2 * self.config.env.real_steps  # rows there can be: all rounds share their shapes
        return Log(traces, self.observation, self.action, -(-most // MULTIPLE) * MULTIPLE)

    def traces(self, until: int) -> list[Trace]:
        """The episodes of the first `until` steps."""
        store = TraceStore(self.folder)
        ends = np.cumsum(np.array(store.index()["rows"]) - 1)
        return list(itertools.islice(store.traces(), int(np.searchsorted(ends, until)) + 1))

    def episodes(self, student: Any, number: int, steps: int, update: Callable) -> Iterator[Trace]:
        """New episodes of `steps` steps in all."""
        env = self.config.env
        source = np.random.SeedSequence(self.config.seed % 2**64, spawn_key=(number,))
        seed = int(source.generate_state(1)[0])
        options = {"switch": env.switch, "epsilon": env.epsilon, "env_options": env.options}
        policy = None if student is None else self.exploring(student)
        name = env.behaviour if student is None else f"student-{number}"
        for trace in record(env.id, name, steps, seed, policy=policy, **options):
            r = trace.rewards.sum()
            update(len(trace), **({} if trace.is_open else {"collect/return": r}))
            yield trace

    def exploring(self, student: Any) -> Callable:
        """What makes the behaviour of an episode: a student that draws its actions."""
        params = network(student) | {"greedy": jnp.array(False)}
        params = with_uniform(params, self.config.collect.epsilon)
        if self.policy is None:
            self.policy = Policy(params, **self.spaces, window=self.config.model.window)
        self.policy.params = params
        return self.policy.behaviour


def digest(traces: list[Trace]) -> str:
    """SHA-256 over what was observed, done and earned."""
    return state_sha256([(trace.observations, trace.actions, trace.rewards) for trace in traces])


def play_round(
    config: OnlineConfig, state: RoundState, number: int, log: Log, once: Callable
) -> tuple[RoundState, Report]:
    """One round without a gate, on all that was collected."""
    parts = {name: getattr(config, name) for name in ("search", "rehearse", "distill")}
    return one_round(
        state,
        jax.random.fold_in(root_key(config), number),
        log=log,
        physics=LearnedPhysics(config.model, config.fit, imitates=False),
        config=RoundConfig(**parts, gate=None),
        horizon=task_limit(config.env) or max(len(trace) for trace in log.traces),
        real=None,
        once=once,
    )


def evaluate_student(
    config: OnlineConfig, report: Report, log: Log, once: Callable
) -> dict[str, np.ndarray]:
    """Returns of the deployed student in fresh real episodes, and of the first episodes."""
    count, window = config.evaluation.episodes, config.model.window
    limit = int(report.world.horizon)
    real = real_scorer(config.env, log.observation, log.action, window, limit)
    seeds = list(range(REPORT_SEED, REPORT_SEED + count))

    def work(update: Callable) -> dict[str, np.ndarray]:
        returns, lengths = real(report.deployed, seeds, update)
        return {"deployed": returns, "steps": np.array(lengths.sum())}

    like = {"deployed": np.zeros(count), "steps": np.array(0)}
    first = itertools.takewhile(lambda trace: trace.policy == config.env.behaviour, log.traces)
    return {"behaviour": behaviour_return(first)} | once("evaluate", count, like, work)


def make_result(
    config: OnlineConfig,
    log: Log,
    report: Report,
    returns: dict[str, np.ndarray],
    earned: Sequence[float | None],
    once: Once,
) -> dict[str, Any]:
    """The flat object of result.json."""
    summed = lambda x: statistics.summary(x) if x.size else None
    rehearse, rounds = config.rehearse, len(plan(config))
    iterations = rounds * int(report.rehearsed.iterations)
    walked = iterations * rehearse.dreams * rehearse.horizon
    taught = iterations * rehearse.taught
    counters = np.array([len(log), rounds])
    learned = report.fitted.learned, report.rehearsed
    return common(config, once) | {
        "teacher": config.teacher,
        "discount": report.world.card["discount"],  # of the last round
        "verdict": report.verdict.word,
        "rounds": rounds,
        "earned_by_round": earned,
        "deployed_round": best(earned),
        "real_steps": len(log),
        "gate_steps": 0,
        "evaluation_steps": int(returns["steps"]),
        "dream_steps": walked,
        "search_steps": taught * model_steps(report.world.model, log.head, config.search),
        "behaviour_return": summed(returns["behaviour"]),
        "deployed_return": summed(returns["deployed"]),
        "fidelity": report.fidelity,
        "state_sha256": state_sha256(*learned, log.replay(), counters),
    }

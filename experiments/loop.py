"""The main job step by step: log, one round, report episodes, files."""

import dataclasses
import functools
import math
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dreaming import statistics
from dreaming.checkpoint import atomic_write, state_sha256
from dreaming.collect import behaviour_return
from dreaming.config import FIRST_SEED, RoundConfig
from dreaming.errors import ConfigError, TraceError
from dreaming.evaluate import dream_returns, evaluate
from dreaming.log import Log
from dreaming.physics import LearnedPhysics
from dreaming.policy import Policy, save_policy
from dreaming.round import Report, RoundState, one_round, stage_key
from dreaming.search import model_steps
from dreaming.student import act
from envs import tabular
from envs.dreamfile import write_dream
from envs.real import horizon as step_limit
from envs.real import make_real
from envs.traces import TraceStore
from envs.types import Features, action_features
from experiments.config import DreamConfig, EnvConfig, OnlineConfig, WorldConfig
from experiments.desk import Desk
from experiments.options import config_yaml
from experiments.progress import Progress
from experiments.record import recording
from experiments.report import render, to_json
from experiments.source import named_log
from experiments.strip import dream_strip
from experiments.trial import make_certificate, ranking_stage
from worldmodels.actions import MOST_COMBINATIONS, make_head

SCHEMA_VERSION = 1
REPORT_SEED = 10 * FIRST_SEED
CHANCE = 0.4  # share of unexplained change from which a deterministic model is doubted
VERSIONS = ("jax", "jaxlib", "flax", "optax", "mctx", "gymnasium", "numpy")


def whole_loop(config: DreamConfig, run_dir: Path, progress: Progress) -> dict[str, Any]:
    """Everything `dreaming dream` does; the content of result.json.

    Raises `UserError` for what the user can mend.
    """
    desk = Desk(run_dir, stage_fields(config), progress)
    log = read_log(config, run_dir, desk)
    if not (run_dir / "config.yaml").exists():  # one that is there is of this run until it ends
        atomic_write(run_dir / "config.yaml", config_yaml(config))
    report = play_round(config, log, desk)
    if hint := chance_hint(report):
        progress.log(hint)
    returns = report_episodes(config, log, report, desk)
    certificate, steps = certify_run(config, log, report, desk)
    progress.log(f"certified: {certificate['sentence']}")
    save_artifacts(run_dir, log, report)
    report = dataclasses.replace(report, fidelity=certificate["figures"])
    returns["steps"] = returns["steps"] + steps
    result = make_result(config, log, report, returns, desk)
    shown = {name: x.tolist() for name, x in returns.items() if x.ndim and x.size}
    strip = dream_strip(report.world, log)
    figures = {"returns": shown, "open_loop": report.skill, "strip": strip}
    atomic_write(run_dir / "config.yaml", config_yaml(config))
    atomic_write(run_dir / "figures.json", to_json(figures))
    atomic_write(run_dir / "certificate.json", to_json(certificate))
    atomic_write(run_dir / "result.json", to_json(result))
    render(run_dir)
    return result


def play_round(config: DreamConfig, log: Log, once: Callable) -> Report:
    """The round of a run; `once` is that of `one_round`."""
    parts = ("search", "rehearse", "distill", "baselines", "gate")
    rules = RoundConfig(**{name: getattr(config, name) for name in parts})
    physics = LearnedPhysics(config.model, config.fit, config.judge, config.images)
    physics.check(log, config.search)
    _, report = one_round(
        RoundState(),
        root_key(config),
        log=log,
        physics=physics,
        config=rules,
        horizon=dream_horizon(config, log),
        real=scorer(config, log),
        once=once,
    )
    return report


def root_key(config: DreamConfig | OnlineConfig) -> jax.Array:
    """The key that the keys of all stages come from."""
    return jax.random.key(config.seed % 2**32)


def stage_fields(config: DreamConfig) -> dict[str, dict[str, Any]]:
    """The fields that each stage depends on; a run of other fields is another run."""
    fields = functools.partial(_fields, config)
    stages = world_fields(config)
    rehearse = stages["fit"] | fields("search", "rehearse", "distill")
    gated = rehearse | fields("gate", "baselines")
    return stages | {
        "clone": stages["record"] | fields("baselines") | {"discount": config.fit.discount},
        "rehearse": rehearse,
        "gate": gated,
        "evaluate": gated | fields("evaluation"),
        "certify": rehearse | fields("baselines", "certify"),
    }


def world_fields(config: WorldConfig) -> dict[str, dict[str, Any]]:
    """The fields that the stages of a world depend on; `fit` and `dream` share these stages."""
    log = _fields(config, "seed", "env", "traces", "source")
    fit = log | _fields(config, "model", "images", "fit", "judge")
    return {"record": log, "fit": fit, "judge": fit}


def _fields(config: Any, *names: str) -> dict[str, Any]:
    every = dataclasses.asdict(config)
    return {name: every[name] for name in names}


def read_log(config: WorldConfig, run_dir: Path, desk: Callable) -> Log:
    """The learning log, copied into the run directory and verified."""
    folder = run_dir / "traces"

    def fill(update: Callable) -> str:
        shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was cut
        source, spaces = log_source(config, update)
        store = TraceStore(folder, **spaces)
        store.extend(source)
        return store.digest()

    recorded = config.traces is None and config.source.name is None
    digest = desk("record", config.env.real_steps if recorded else None, "", fill)
    store = TraceStore(folder)
    store.verify()
    if store.digest() != digest:
        raise TraceError(
            f"{folder} changed since it was recorded; delete {run_dir} and start again"
        )
    if not len(store):
        raise TraceError(f"{folder}: the log is empty; name a log with at least one episode")
    schema = store.schema()
    observation = Features(schema["observation_space"])
    log = Log(list(store.traces()), observation, action_features(schema["action_space"]))
    check_task(config, log)
    check_window(config.context.window, log)
    if hint := factors_hint(log):
        desk.progress.log(hint)
    return log


def check_window(window: int, log: Log) -> None:
    """Raise `ConfigError` when no episode is long enough to fill a context once."""
    longest = 1 + max(len(trace) for trace in log.traces)
    if window > longest:
        raise ConfigError(
            f"context.window={window}, but the longest of {len(log.traces)} episodes has "
            f"{longest} observations; choose at most {longest}"
        )


def factors_hint(log: Log) -> str | None:
    """A line when there are too many actions to search each of them."""
    if log.head.kind != "factored":
        return None
    count = math.prod(log.head.factors)
    return (
        f"{count} combinations of actions are more than {MOST_COMBINATIONS}: they are searched "
        "factor by factor"
    )


def check_task(config: WorldConfig, log: Log) -> None:
    """Raise `ConfigError` when the real task is not the one that was logged."""
    advice = "name the task that was logged, or give its spaces in source.mapping"
    if config.env.id != "none":
        check_spaces(config.env, log.observation, log.action, "the log", advice)


def check_spaces(
    env: EnvConfig, observation: Features, action: Features, whose: str, advice: str
) -> None:
    """Raise `ConfigError` when a task does not have the spaces of a log or a policy."""
    task = make_real(env.id, **env.options)
    theirs = Features(task.observation_space), action_features(task.action_space)
    task.close()
    for name, real, seen in zip(
        ("observation", "action"), theirs, (observation, action), strict=True
    ):
        if real.layout != seen.layout:
            raise ConfigError(
                f"{env.id} has the {name} space {real.space}, {whose} has {seen.space}; {advice}"
            )


def log_source(config: WorldConfig, update: Callable) -> tuple[Any, dict[str, Any]]:
    """(an iterable of traces, the spaces they live in), recorded now or read from elsewhere."""
    opened = named_log(config.traces, config.source)
    if opened is not None:
        return opened, opened.schema()
    if config.env.id == "none":
        raise ConfigError("env=none has nothing to record; name a log with traces= or source.name=")
    return recording(config.env, config.seed, update)


def dream_horizon(config: WorldConfig, log: Log) -> int:
    """The task's step limit, else the longest logged episode."""
    return task_limit(config.env) or max(len(trace) for trace in log.traces)


def task_limit(env: EnvConfig) -> int | None:
    """The step limit of the real task; None where it has none, or where there is no task."""
    if env.id == "none":
        return None
    task = make_real(env.id, **env.options)
    limit = step_limit(task)
    task.close()
    return limit


def scorer(config: DreamConfig, log: Log) -> Callable | None:
    """`real(student, seeds, update) -> (returns, lengths)` in the real task, or None."""
    if config.env.id == "none":
        return None
    limit = dream_horizon(config, log)
    return real_scorer(config.env, log.observation, log.action, config.model.window, limit)


def real_scorer(
    env: EnvConfig, observation: Features, action: Features, window: int, limit: int
) -> Callable:
    """`real(student, seeds, update) -> (returns, lengths)`; `limit` ends tasks that never do."""
    make = lambda: make_real(env.id, **env.options)
    head = make_head(action.factors, action.size)
    compiled = jax.jit(
        lambda student, context, keys, legal: act(student, context, keys, head, legal)
    )

    def real(student: Any, seeds: list[int], update: Callable) -> tuple[np.ndarray, np.ndarray]:
        done = 0

        def shown(finished: int) -> None:
            nonlocal done
            update(finished - done)
            done = finished

        evaluation = evaluate(
            make,
            lambda context, keys, legal: compiled(student, context, keys, legal),
            seeds,
            observation=observation,
            action=action,
            window=window,
            max_steps=limit,
            progress=shown,
        )
        return evaluation.returns, evaluation.lengths

    return real


def report_episodes(
    config: DreamConfig, log: Log, report: Report, desk: Desk
) -> dict[str, np.ndarray]:
    """Returns of every policy in fresh real episodes, and of the candidate in its dream."""
    key = stage_key(root_key(config), "dream_return")
    real, episodes = scorer(config, log), config.evaluation.episodes
    policies = report.baselines | {"candidate": report.rehearsed.student}
    seeds = list(range(REPORT_SEED, REPORT_SEED + episodes))

    def work(update: Callable) -> dict[str, np.ndarray]:
        scores = {} if real is None else {
            name: real(student, seeds, update) for name, student in policies.items()
        }  # fmt: skip
        returns = {name: x for name, (x, _) in scores.items()}
        returns["steps"] = np.array(sum(int(lengths.sum()) for _, lengths in scores.values()))
        student = report.rehearsed.student
        dreams = dream_returns(report.world, student, key, config.evaluation.dreams)
        return returns | {"dream": np.asarray(dreams, np.float64)}

    names = [] if real is None else list(policies)
    like = {name: np.zeros(episodes) for name in names}
    like |= {"steps": np.array(0), "dream": np.zeros(config.evaluation.dreams)}
    returns = desk("evaluate", episodes * len(names) or None, like, work)
    behaviour = behaviour_return(log.traces)
    return {"behaviour": behaviour, **returns}


def certify_run(
    config: DreamConfig, log: Log, report: Report, once: Callable
) -> tuple[dict[str, Any], int]:
    """(the certificate of a round's world, the real steps that ranking policies took)."""
    tried = ranking_stage(
        config.certify,
        report.world,
        report.judges,
        report.baselines["behaviour_cloning"],
        report.rehearsed.student,
        scorer(config, log),
        stage_key(root_key(config), "rank"),
        once,
    )
    regions = report.skill.get("regions")
    certificate = make_certificate(report.fidelity, regions, report.world, log, tried)
    return certificate | {"env": config.env.id}, int(tried.get("steps", 0))


def chance_hint(report: Report) -> str | None:
    """A line when the log looks random to a deterministic model."""
    share = report.fidelity.get("chance", 0.0)
    if report.world.model.num_codes > 1 or share < CHANCE:
        return None
    return (
        f"hint: {share:.0%} of what changes in a step is random to the members of this model, "
        "who agree with each other; try model.chance_codes=4"
    )


def save_artifacts(run_dir: Path, log: Log, report: Report) -> None:
    """The dream file and the deployed policy."""
    write_dream(run_dir / "world.dream", report.world)
    spaces = log.observation.space, log.action.space
    card = {"verdict": report.verdict.word, "discount": report.world.card["discount"]}
    card["horizon"] = int(report.world.horizon)
    policy = Policy(report.deployed, *spaces, report.world.model.window, card)
    save_policy(run_dir / "policy", policy)


def make_result(
    config: DreamConfig, log: Log, report: Report, returns: dict[str, np.ndarray], desk: Desk
) -> dict[str, Any]:
    """The flat object of result.json."""
    missing = np.array([])
    summed = lambda name: (
        statistics.summary(returns[name]) if returns.get(name, missing).size else None
    )
    deployed = "candidate" if report.verdict.accept else "behaviour_cloning"
    baselines = {name: summed(name) for name in report.baselines}
    fidelity, tabular_return = dict(report.fidelity), None
    if exact := exact_scores(config, log, report):
        tabular_return = exact.pop("tabular")
        fidelity |= exact
    if tabular_return is not None:
        baselines["tabular"] = tabular_return
    rehearse, iterations = config.rehearse, int(report.rehearsed.iterations)
    walked = iterations * rehearse.dreams * rehearse.horizon
    taught = iterations * rehearse.taught
    counters = np.array([len(log), walked, report.gate_steps])
    return {
        "schema_version": SCHEMA_VERSION,
        "experiment": config.experiment,
        "env": config.env.id,
        "seed": config.seed,
        "teacher": config.teacher,
        "real_steps": len(log),
        "gate_steps": report.gate_steps,
        "evaluation_steps": int(returns["steps"]),
        "dream_steps": walked,
        "search_steps": taught * model_steps(report.world.model, log.head, config.search),
        "behaviour_return": summed("behaviour"),
        "incumbent_return": summed("behaviour_cloning"),
        "candidate_return": summed("candidate"),
        "deployed_return": summed(deployed),
        "dream_return": summed("dream"),
        "verdict": report.verdict.word,
        "reasons": list(report.verdict.reasons),
        "baselines": baselines,
        "fidelity": fidelity,
        "seconds": desk.seconds,
        "versions": {name: version(name) for name in VERSIONS},
        "state_sha256": state_sha256(report.learned, report.rehearsed, log.replay(), counters),
    }


def world_result(
    config: WorldConfig, log: Log, fidelity: dict, seconds: dict, learned: Any
) -> dict[str, Any]:
    """The flat object of result.json of a world that has no policy yet."""
    behaviour = behaviour_return(log.traces)
    return {
        "schema_version": SCHEMA_VERSION,
        "experiment": config.experiment,
        "env": config.env.id,
        "seed": config.seed,
        "real_steps": len(log),
        "behaviour_return": statistics.summary(behaviour) if behaviour.size else None,
        "fidelity": fidelity,
        "seconds": seconds,
        "versions": {name: version(name) for name in VERSIONS},
        "state_sha256": state_sha256(learned, log.replay(), np.array([len(log)])),
    }


def exact_scores(config: DreamConfig, log: Log, report: Report) -> dict[str, Any] | None:
    """Exact expected returns where the task is a small table, else None.

    `tabular` is the optimal policy of the log's count model, scored in the true task.
    """
    if config.env.id == "none" or log.observation.kind != "discrete":
        return None
    task = make_real(config.env.id, **config.env.options)
    if not hasattr(task.unwrapped, "P"):
        return None
    true, limit = tabular.from_gym(task), dream_horizon(config, log)
    counts = tabular.from_traces(log.traces, log.observation.size, log.action.size)
    solution = tabular.solve(counts, config.fit.discount)[2]
    candidate = greedy_table(report.rehearsed.student, log)
    score = lambda table, policy: float(tabular.evaluate(table, policy, limit))
    mean = score(true, solution)
    return {
        "tabular": {"mean": mean, "iqm": mean, "ci": [mean, mean], "episodes": 0},
        "exact_true": score(true, candidate),
        "exact_true_of_counts": mean,
        "exact_in_counts": score(counts, candidate),
        "exact_in_counts_optimum": score(counts, solution),
    }


def greedy_table(student: Any, log: Log) -> np.ndarray:
    """The greedy action of a student in every state of a discrete task."""
    from envs.dream import start_context

    size = log.observation.size
    context = start_context(np.eye(size, dtype=np.float32), log.action.size)
    keys = jnp.zeros((size, 2), jnp.uint32)
    return np.asarray(act(student, context, keys, log.head)).argmax(-1)

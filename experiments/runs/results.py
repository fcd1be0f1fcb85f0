"""result.json: the flat object that says what a run found."""

from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dreaming import statistics
from dreaming.checkpoint import state_sha256
from dreaming.config import FIRST_SEED
from dreaming.observe.collect import behaviour_return
from dreaming.observe.log import Log
from dreaming.round import Report
from dreaming.search.teachers import model_steps
from dreaming.student.network import act
from dreaming.world.physics import Fitted
from envs import tabular
from envs.real import make_real
from experiments.config import DreamConfig, OnlineConfig, WorldConfig
from experiments.runs.directory import RESULT_VERSION
from experiments.runs.lineage import POLICY, Lineage, files_of, sha256_of
from experiments.runs.once import Once
from experiments.runs.scoring import dream_horizon

REPORT_SEED = 10 * FIRST_SEED
VERSIONS = ("jax", "jaxlib", "flax", "optax", "mctx", "gymnasium", "numpy")


def root_key(config: WorldConfig | OnlineConfig) -> jax.Array:
    """The key that the keys of all stages come from."""
    return jax.random.key(config.seed % 2**32)


def common(config: WorldConfig | OnlineConfig, once: Once) -> dict[str, Any]:
    """What every result.json says."""
    return {
        "schema_version": RESULT_VERSION,
        "experiment": config.experiment,
        "env": config.env.id,
        "seed": config.seed,
        "seconds": once.seconds,
        "left_out": once.left_out,
        "versions": {name: version(name) for name in VERSIONS},
    }


def make_result(
    config: DreamConfig,
    log: Log,
    report: Report,
    returns: dict[str, np.ndarray],
    lineage: Lineage,
    once: Once,
) -> dict[str, Any]:
    """The flat object of result.json."""
    missing = np.array([])
    summed = lambda name: (
        statistics.summary(returns[name]) if returns.get(name, missing).size else None
    )
    verdict = report.verdict
    incumbent = summed("incumbent") or summed("as_it_ran") or summed("behaviour_cloning")
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
    counters = np.array([len(log), walked, verdict.steps])
    learned = report.fitted.learned, report.rehearsed
    return common(config, once) | {
        "teacher": config.teacher,
        "discount": report.world.card["discount"],
        "round": lineage.number,
        "trial": verdict.trial,
        "real_steps": len(log),
        "logged_steps": log.drawn_from or len(log),
        "real_episodes": len(log.traces),
        "gate_steps": verdict.steps,
        "gate_episodes": verdict.episodes,
        "evaluation_steps": int(returns["steps"]),
        "dream_steps": walked,
        "search_steps": taught * model_steps(report.world.model, log.head, config.search),
        "behaviour_return": summed("behaviour"),
        "incumbent_return": incumbent,
        "candidate_return": summed("candidate"),
        "deployed_return": summed("candidate") if verdict.accept else incumbent,
        "dream_return": summed("dream"),
        "verdict": verdict.word,
        "reasons": list(verdict.reasons),
        "deployed_sha256": sha256_of(files_of(lineage.root / POLICY)),
        "baselines": baselines,
        "fidelity": fidelity,
        "state_sha256": state_sha256(*learned, log.replay(), counters),
    }


def world_result(config: WorldConfig, log: Log, fitted: Fitted, once: Once) -> dict[str, Any]:
    """The flat object of result.json of a world that has no policy yet."""
    behaviour = behaviour_return(log.traces)
    return common(config, once) | {
        "discount": fitted.world.card["discount"],
        "real_steps": len(log),
        "logged_steps": log.drawn_from or len(log),
        "behaviour_return": statistics.summary(behaviour) if behaviour.size else None,
        "fidelity": fitted.fidelity,
        "state_sha256": state_sha256(fitted.learned, log.replay(), np.array([len(log)])),
    }


def exact_scores(config: DreamConfig, log: Log, report: Report) -> dict[str, Any] | None:
    """Exact expected returns where the task is a small table, else None.

    `tabular` is the optimal policy of the log's count model, scored in the true task.
    """
    if config.env.id == "none" or log.observation.kind != "discrete":
        return None
    task = make_real(config.env.id, config.env.options)
    if not hasattr(task.unwrapped, "P"):
        return None
    true, limit = tabular.from_gym(task), dream_horizon(config, log)
    counts = tabular.from_traces(log.traces, log.observation.size, log.action.size)
    solution = tabular.solve(counts, report.world.card["discount"])[2]
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

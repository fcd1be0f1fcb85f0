"""What the verbs of sessions do: they open a registry, ask it, and say what came of it."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dreaming.checkpoint import atomic_write
from dreaming.errors import ConfigError
from dreaming.sessions.deltas import AllWeights, LowRank, Masked
from dreaming.sessions.family import Family, load_family
from dreaming.sessions.learn import Learned, compact_session, dream_session
from dreaming.sessions.pretrain import held_back, make_pool, pretrain
from dreaming.sessions.registry import Registry
from dreaming.sessions.retention import old_dreams
from dreaming.sessions.session import Session
from dreaming.stages import stage_key

OLD = 64  # sessions of other deployments whose answers a base has to keep


def make_registry(config: Any, update: Callable[..., Any]) -> Registry:
    """Pretrain a base on a family, and found a registry with it."""
    path = Path(config.registry)
    if path.exists() and any(path.iterdir()):
        raise ConfigError(f"{path} is not empty; choose another registry=")
    family, begun = load_family(config.family), time.monotonic()
    params, shape = pretrain(family, config.pretrain, config.seed, update)
    key = stage_key(jax.random.key(config.seed % 2**32), "old dreams")
    pool_key, key = jax.random.split(key)
    stream = np.asarray(jax.random.key_data(pool_key)).tolist()  # of its own, not pretraining's
    pool = make_pool(family, held_back(config.seed, OLD), config.pretrain.steps, stream)
    old = old_dreams(params, shape, pool, key, OLD)
    seconds = round(time.monotonic() - begun, 1)
    report = {"seconds": seconds, "seed": config.seed}
    return Registry.create(path, params, shape, family, old=old, report=report)


def start(config: Any) -> tuple[Registry, str]:
    """(registry, name of a new session), after `steps` decisions in the family's deployment."""
    registry = Registry(config.registry)
    if config.steps == 0:
        session = registry.session(config.deployment, consent=config.consent)
        session.leave()
        return registry, session.id
    if config.family is None or not str(config.deployment).isdigit():
        raise ConfigError("steps= needs family= and the number of a deployment of it")
    family = load_family(config.family)
    registry.check_family(family)
    session = registry.session(config.deployment, consent=config.consent)
    try:
        number = int(session.id.rpartition("-")[2])  # each session has other items and draws
        seed = config.seed % 2**32, number
        work(session, family, int(config.deployment), config.steps, seed)
    finally:
        session.leave()
    return registry, session.id


def work(session: Session, family: Family, number: int, steps: int, seed: Any) -> float:
    """Work `steps` decisions of a deployment in a session; the sum of rewards."""
    task, random, earned = family.deployment(number), np.random.default_rng(seed), 0.0
    options = {"skill": family.skills[0]} if family.skills else None
    begin = lambda: task.reset(seed=int(random.integers(2**31)), options=options)
    o, info = begin()
    for _ in range(steps):
        draw = int(random.integers(2**31))
        a = session.act(o, action_mask=info.get("action_mask"), seed=draw)
        o, r, terminated, truncated, info = task.step(a)
        outcome, ended = info.get("outcome", -1), terminated or truncated
        session.observe(reward=float(r), outcome=outcome, ended=ended)
        earned += float(r)
        if ended:
            o, info = begin()
    return earned


def dream(config: Any, update: Callable[..., Any]) -> Learned:
    """Learn from a session."""
    if config.rank and config.share != 1:
        raise ConfigError("rank= and share= are two ways to change fewer weights; give one of them")
    form = Masked(config.share) if config.share < 1 else AllWeights()
    form = LowRank(config.rank) if config.rank else form
    options = {"form": form, "seed": config.seed, "least_reviews": config.reviews}
    registry = Registry(config.registry)
    return dream_session(
        registry, config.session, config=config.self_distil, update=update, **options
    )


def compact(config: Any) -> Learned:
    """Keep a few rows of a session as context."""
    registry = Registry(config.registry)
    return compact_session(registry, config.session, config.rows, least_reviews=config.reviews)


def status(config: Any) -> list[dict[str, Any]]:
    """A summary of one session, or of all."""
    registry = Registry(config.registry)
    ids = registry.session_ids() if config.session is None else [config.session]
    return [registry.record(each).summary() for each in ids]


def history(registry: Registry) -> list[dict[str, Any]]:
    """Every head: number, cause, weights by deployment, sessions with their reviews."""
    found = []
    for head in registry.heads():
        said = {"head": head.number, "time": head.time, "cause": head.cause, "to": head.to}
        said |= {"state": head.state, "base": head.base, "weights": head.deltas}
        said |= {"contexts": head.contexts, "sessions": head.sessions, "report": head.report}
        found.append(said)
    return found


def history_lines(heads: list[dict[str, Any]]) -> list[str]:
    """The history as text, oldest head first; the last one is deployed."""
    lines = []
    for head in heads:
        what = f"rollback to head {head['to']}" if head["cause"] == "rollback" else head["cause"]
        lines.append(f"head {head['head']}  {head['time']}  {what}  state {head['state'][:12]}")
        for session in head["sessions"]:
            review = (session["review"] or {}).get("verdict", "not reviewed")
            lines.append(f"    from session {session['id']} ({review})")
        lines += [f"    {name}: weights {sha[:12]}" for name, sha in head["weights"].items()]
        lines += [f"    {name}: context {sha[:12]}" for name, sha in head["contexts"].items()]
    return [*lines, f"deployed: head {heads[-1]['head']}"]


def write_json(path: str | None, content: Any) -> None:
    """Write JSON where it was asked for."""
    if path is not None:
        atomic_write(path, json.dumps(content, indent=1))


def draw_history(path: Path, heads: list[dict[str, Any]]) -> None:
    """The history as a picture: a row of heads, their sessions above, rollbacks as arcs below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(4.0, 1.6 * len(heads)), 3.0))
    axes = figure.subplots()
    axes.plot(range(len(heads)), [0] * len(heads), color="0.7", zorder=0)
    for x, head in enumerate(heads):
        is_newest = x == len(heads) - 1
        axes.scatter([x], [0], s=120, color="tab:green" if is_newest else "tab:blue")
        axes.text(x, -0.25, f"{head['head']}: {head['cause']}\n{head['state'][:8]}", ha="center",
                  va="top", fontsize=8)  # fmt: skip
        told = [f"{s['id']} ({(s['review'] or {}).get('verdict', '?')})" for s in head["sessions"]]
        axes.text(x, 0.25, "\n".join(told), ha="center", va="bottom", fontsize=8)
        if head["to"] is not None:
            arrow = {"arrowstyle": "->", "connectionstyle": "arc3,rad=0.4", "color": "tab:red"}
            axes.annotate("", (head["to"], 0), (x, 0), arrowprops=arrow)
    axes.set(ylim=(-1.4, 1.2), xlim=(-0.7, len(heads) - 0.3), title="what was deployed, and why")
    axes.axis("off")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight")

"""What is kept of a session in the weights, by every arm, measured exactly on desks.

    python -m experiments.study.desk registry=registries/desks [deployments=4] [first=500000000]
        [days=5] [arms=clone,right,...] [forgetting=true] [rewards=true] [self_distil settings ...]

For each deployment: the policy works `days` days, an arm learns from them, and the share of right
decisions on the invoice desk is worked out over all items (the oracle's is 1), greedily.
kept = (J - J0) / (Jc - J0): J0 by the base's weights alone, Jc with the session as context.
Drops, in points: on the desks that are the same everywhere; on another deployment's desk, with
that one's session as context. Nothing is written.
"""

import dataclasses
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dreaming.sessions.baselines import ARMS, learn_from_log
from dreaming.sessions.compaction import compact
from dreaming.sessions.config import SelfDistilConfig
from dreaming.sessions.deltas import AllWeights, LowRank, Masked, apply, difference
from dreaming.sessions.family import Family, load_family
from dreaming.sessions.network import ReaderShape, nothing, pi_logits, read
from dreaming.sessions.play import Learner, play
from dreaming.sessions.registry import Registry
from dreaming.sessions.self_distil import self_distil, transitions
from dreaming.sessions.types import Memory, Rows
from envs.processes.desk import DAY
from envs.processes.desk_score import right_share
from experiments.command import runtime
from experiments.runs.session_config import FAMILY
from worldmodels.factors import FactorModel, factor_sizes

CHUNK = 3840  # items scored at once
OWN = {"registry": "registry", "family": FAMILY, "deployments": "4", "first": "500000000"}
OWN |= {"days": "5", "arms": "self_distil", "forgetting": "true", "rewards": "true", "seed": "0"}


def main(argv: list[str]) -> None:
    """Measure, and print a line per deployment and arm, then the means."""
    words = dict(word.split("=", 1) for word in argv)
    own = {name: words.pop(name, default) for name, default in OWN.items()}
    runtime.configure(devices=1)
    study = Study(own, settings(words))
    found: dict[str, list[dict[str, float]]] = {}
    for i in range(len(study.tasks)):
        for arm in own["arms"].split(","):
            figures = study.measure(i, arm)
            found.setdefault(arm, []).append(figures)
            print(f"{study.numbers[i]} {arm:<16}{line(figures)}", flush=True)
    for arm, rows in found.items():
        mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        print(f"mean {arm:<16}{line(mean)}  worst kept {min(row['kept'] for row in rows):.3f}")


def settings(words: dict[str, str]) -> SelfDistilConfig:
    """Settings of self-distillation from words."""
    kinds = {each.name: type(getattr(SelfDistilConfig(), each.name))
             for each in dataclasses.fields(SelfDistilConfig)}  # fmt: skip
    return SelfDistilConfig(**{name: kinds[name](value) for name, value in words.items()})


def line(figures: dict[str, float]) -> str:
    """Figures as text."""
    return "  ".join(f"{name} {x:.3f}" for name, x in figures.items())


class Study:
    """Sessions of some deployments, and what arms make of them."""

    def __init__(self, own: dict[str, str], config: SelfDistilConfig):
        self.registry, self.config = Registry(own["registry"]), config
        self.family: Family = load_family(own["family"])
        self.registry.check_family(self.family)
        head, self.shape = self.registry.head(), self.registry.shape
        self.base = self.registry.weights(head, "")
        self.old = self.registry.old_dreams(head)
        first, count = int(own["first"]), int(own["deployments"])
        self.numbers = [first + i for i in range(count)]
        self.tasks = [self.family.deployment(number) for number in self.numbers]
        self.forgetting, self.seed = own["forgetting"] == "true", int(own["seed"])
        self.rows, self.propensities = self._sessions(int(own["days"]), own["rewards"] == "true")
        self._greedy = jax.jit(greedy, static_argnums=1)
        self._alone: dict[int, tuple[float, float]] = {}

    def _sessions(self, days: int, rewards: bool) -> tuple[list[Rows], list[np.ndarray]]:
        steps, count = days * DAY, len(self.tasks)
        learner = Learner(self.base, self.shape, count, steps, self.seed)
        random, skill = np.random.default_rng(self.seed), self.family.skills[0]
        options: dict[str, Any] = {"steps": steps, "random": random, "skill": skill}
        rows = play(self.family, self.tasks, learner.chooses, seen=learner.seen, **options)
        each: list[Rows] = [
            jax.tree.map(lambda x, i=i: jnp.asarray(x[i]), rows) for i in range(count)
        ]
        if not rewards:
            each = [dataclasses.replace(x, known=jnp.zeros_like(x.known)) for x in each]
        return each, list(np.stack(learner.propensities, 1))

    def score(self, params: Any, i: int, memory: Memory | None = None, desk: str = "") -> float:
        """The share of right decisions of weights on a desk of deployment i."""
        memory = nothing(self.shape) if memory is None else memory

        def decides(items: np.ndarray) -> np.ndarray:
            o = self.family.observation.flatten(items)
            parts = [o[at : at + CHUNK] for at in range(0, len(o), CHUNK)]
            found = [self._greedy(params, self.shape, memory, part) for part in parts]
            return np.concatenate([np.asarray(x) for x in found])

        return right_share(self.tasks[i], decides, desk or self.family.skills[0])

    def measure(self, i: int, arm: str) -> dict[str, float]:
        """The figures of an arm in deployment i."""
        if i not in self._alone:
            with_rows = self.score(self.base, i, read(self.base, self.shape, self.rows[i]))
            self._alone[i] = self.score(self.base, i), with_rows
        without, context = self._alone[i]
        begun = time.monotonic()
        new, memory = self.learn(i, arm)
        seconds = time.monotonic() - begun
        j = self.score(new, i, memory)
        kept = (j - without) / (context - without)
        figures = {"J0": without, "Jc": context, "J": j, "kept": kept}
        if self.forgetting:
            other = (i + 1) % len(self.tasks)
            seen = lambda w: self.score(w, other, read(w, self.shape, self.rows[other]))
            fixed = [self.score(w, i, desk="travel") for w in (self.base, new)]
            figures |= {"fixed": 100 * (fixed[0] - fixed[1])}
            figures |= {"others": 100 * (seen(self.base) - seen(new))}
        return figures | {"share": difference(self.base, new).share, "seconds": seconds}

    def learn(self, i: int, arm: str) -> tuple[Any, Memory | None]:
        """(weights, context) after an arm: mask10 changes 10 % of weights, rank8 adds products of
        rank 8, compact16 keeps 16 rows, self_distil changes all."""
        rows, base, shape = self.rows[i], self.base, self.shape
        if arm in ARMS:
            return learn_from_log(base, shape, rows, self.propensities[i], arm=arm), None
        if arm.startswith("compact"):
            kept = compact(base, shape, rows, int(arm.removeprefix("compact")))
            return base, read(base, shape, jax.tree.map(jnp.asarray, kept))
        dream = FactorModel(factor_sizes(self.family.observation.parts))
        delta = self_distil(
            base,
            shape,
            rows,
            (dream, dream.fit(*transitions(rows))),
            jax.random.key(self.numbers[i] + self.seed),
            config=self.config,
            old=self.old,
            form=form_of(arm),
        )
        return apply(base, delta), None


def form_of(arm: str) -> AllWeights:
    """In which form an arm changes weights."""
    if arm.startswith("mask"):
        return Masked(float(arm.removeprefix("mask")) / 100)
    return LowRank(int(arm.removeprefix("rank"))) if arm.startswith("rank") else AllWeights()


def greedy(params: Any, shape: ReaderShape, memory: Memory, o: Any) -> Any:
    """One-hot decisions at observations."""
    return jax.nn.one_hot(pi_logits(params, shape, memory, o).argmax(-1), shape.num_actions)


if __name__ == "__main__":
    main(sys.argv[1:])

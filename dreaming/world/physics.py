"""Where a round's physics comes from: fitted on the log, or an oracle that knows them already.

Both make a `World`; nothing after it can tell which.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dreaming.config import JudgeConfig, SearchConfig
from dreaming.metrics import in_chunks
from dreaming.observe.log import Log
from dreaming.observe.replay import contexts, sample_windows
from dreaming.world.certify import foreseen, held_out, summarise
from dreaming.world.judge import Judge
from dreaming.world.makers import FrameMaker, VectorMaker
from envs.dream import World
from worldmodels.config import FitConfig, FrameModelConfig, ModelConfig
from worldmodels.fit import init_fit, make_fit
from worldmodels.loops import repeated
from worldmodels.types import TrainState

CHUNK = 100  # steps per compiled call, and per progress line
LEAST_STEPS, PER_STEP = 3000, 0.3  # steps of a fit: at least, and per step of the log
CLONE_BATCH, CLONE_STEPS, CLONE_PASSES = 256, 2000, 40  # of the policy head; the fewer steps
MOST_STARTS = 4096  # contexts that a dream file carries to begin from,
START_BYTES = 256 << 20  # at most so many bytes of them


@dataclass
class LearnedPhysics:
    """A world model fitted on the log, and judges fitted on other parts of it."""

    model: ModelConfig = field(default_factory=ModelConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    images: FrameModelConfig = field(default_factory=FrameModelConfig)  # in place of `model`
    imitates: bool = True  # the policy head clones the log once the rest is fitted

    @property
    def discount(self) -> float:
        """Discount of all values."""
        return self.fit.discount

    def blank(self, log: Log) -> TrainState:
        """The structure of a fitted state, without its numbers."""
        (model, scale), config = self._shape(log), self._sized(log)
        return jax.eval_shape(lambda: init_fit(model, config, scale, jax.random.key(0)))

    def steps(self, log: Log) -> int:
        """Steps of the fit of a log."""
        return self.fit.steps or max(LEAST_STEPS, CHUNK * round(PER_STEP * len(log) / CHUNK))

    def learn(
        self, log: Log, key: jax.Array, update: Callable, reanalysis: Callable | None = None
    ) -> TrainState:
        """Fit the log; `update(steps, **metrics)` is called after each chunk.

        `reanalysis(replay)` caches searches in an earlier world beside the rows, if there is one.

        Raises `UserError` when a term of the loss stops being finite.
        """
        maker, config = self._maker(log), self._sized(log)
        model, scale = maker.shape(log)
        bootstrap_key, init_key = jax.random.split(key)
        replay = log.replay(maker.members, bootstrap_key)
        if reanalysis is not None:
            replay = reanalysis(replay)
        state = init_fit(model, config, scale, init_key)
        chunk = math.gcd(CHUNK, config.steps)
        fit = compiled_fit(model, config, log.head, self.model.window, chunk, maker.loss)
        advance = lambda state: fit(state, replay)
        state = in_chunks(advance, state, config.steps // chunk, chunk, update)
        params = maker.measured(model, state.params, replay, len(log) + len(log.traces))
        if self.imitates:
            params = imitate(model, params, replay, jax.random.fold_in(init_key, 1))
        return state.replace(params=params)

    def blank_judges(self, judged: list[tuple[Log, Log]]) -> list[TrainState]:
        """The structure of the fitted judges."""
        return [self._as_judge().blank(log) for log, _ in judged]

    def learn_judges(
        self, judged: list[tuple[Log, Log]], key: jax.Array, update: Callable
    ) -> list[TrainState]:
        """A model per part of the log, smaller and sooner done than the planner's."""
        keys = jax.random.split(key, len(judged))
        each = lambda n, **metrics: update(n / len(judged), **metrics)
        judge = self._as_judge()
        return [judge.learn(log, k, each) for (log, _), k in zip(judged, keys, strict=True)]

    def certify(
        self,
        learned: TrainState,
        judges: list[TrainState],
        seen: Log,
        judged: list[tuple[Log, Log]],
        key: jax.Array,
    ) -> tuple[dict[str, float], dict[str, list]]:
        """(figures, open-loop error by k and weak regions) on episodes the tested model never saw.

        With an episode set held out the planner itself is tested; else each judge is, on the
        half that the other one was fitted on, and the figures are averaged. Without a judge there
        are none.
        """
        if not judged:
            return {}, {}
        if len(judged) == 1 and judged[0][0] is judged[0][1] and judged[0][0] is not seen:
            tested = [(self._shape(seen)[0], learned.params, judged[0][1])]
        else:
            shape = self._as_judge()._shape
            tested = [
                (shape(log)[0], state.params, other)
                for (log, other), state in zip(judged, judges, strict=True)
            ]
        span = lambda model, params: float(model.value_span(params))
        common = {"discount": self.discount, "window": self.model.window}
        tests = [
            held_out(model, params, log, k, span=span(model, params), **common)
            for (model, params, log), k in zip(
                tested, jax.random.split(key, len(tested)), strict=True
            )
        ]
        figures, skill = summarise(tests, seen, seen.observation.kind)
        known = [foreseen(*test, window=self.model.window) for test in tested]
        return figures | {"behaviour_explained": float(np.mean(known))}, skill

    def make_judge(
        self,
        judges: list[TrainState],
        judged: list[tuple[Log, Log]],
        seen: Log,
        clone: Any,
        horizon: int,
        key: jax.Array,
    ) -> Judge:
        """The judges' worlds, each with a part of the log that it was not fitted on."""
        judge, worlds, held = self._as_judge(), [], []
        for (log, other), state in zip(judged, judges, strict=True):
            unseen = seen if other is log else other
            if unseen is not log:
                worlds.append(judge.world(log, state, horizon, SearchConfig(), {}))
                held.append(unseen)
        return Judge(worlds, held, clone, key)

    def check(self, log: Log, search: SearchConfig) -> None:
        """Raise `UserError`, before anything is fitted, for what the log's model cannot do."""
        self._maker(log).searched(self._shape(log)[0], search.pessimism)

    def world(
        self, log: Log, learned: TrainState, horizon: int, search: SearchConfig, figures: dict
    ) -> World:
        """The dream of a fitted state, with the log's own starts."""
        model = self._maker(log).searched(self._shape(log)[0], search.pessimism)
        card = {"value_span": float(model.value_span(learned.params)), "fidelity": figures}
        card |= {"discount": self.discount, "search": dataclasses.asdict(search)}
        params = learned.params | {"behaviour": model.heads(learned.params)["policy"]}
        world = make_world(model, params, log, horizon, card)
        return dataclasses.replace(world, u_max=figures.get("uncertainty_99", float("inf")))

    def _sized(self, log: Log) -> FitConfig:
        return dataclasses.replace(self.fit, steps=self.steps(log))

    def _as_judge(self) -> "LearnedPhysics":
        model = dataclasses.replace(self.model, members=self.judge.members)
        return dataclasses.replace(
            self, model=model, fit=dataclasses.replace(self.fit, steps=self.judge.steps)
        )

    def _maker(self, log: Log) -> VectorMaker | FrameMaker:
        """The one place that tells frames from vectors."""
        if log.observation.kind == "frames":
            return FrameMaker(self.images, self.model.window, self.discount)
        return VectorMaker(self.model, self.discount)

    def _shape(self, log: Log) -> tuple[Any, dict]:
        return self._maker(log).shape(log)


def imitate(model: Any, params: Any, replay: Any, key: jax.Array) -> Any:
    """`params` whose policy head clones the log's behaviour, on latents that stay as they are.

    In the loss of the model it counts for little, or a random log's noise would bend the latents;
    what it then knows of a purposeful behaviour is too little to tell what that avoided. Few passes
    over a short log, or the head would learn it by heart.
    """
    passes = CLONE_PASSES * int(replay.num_starts) // CLONE_BATCH
    steps = min(CLONE_STEPS, max(1, passes))
    heads = model.heads(params)
    fresh = model.heads(model.init(key, params["scale"]))["policy"]
    optimiser = optax.adamw(optax.cosine_decay_schedule(3e-3, steps, 0.05), weight_decay=0.1)
    with_policy = lambda policy: model.with_heads(params, heads | {"policy": policy})

    def loss_of(policy, rows):
        z = model.root(params, contexts(replay, rows, model.window))
        _, pi, _ = model.predict(with_policy(policy), z)
        return jnp.mean(model.head.imitation(model.head.target(replay.a[rows]), pi))

    def step(state, i, keys):
        policy, opt_state = state
        rows = replay.starts[jax.random.randint(keys[i], (CLONE_BATCH,), 0, replay.num_starts)]
        grads = jax.grad(loss_of)(policy, rows)
        updates, opt_state = optimiser.update(grads, opt_state, policy)
        return (optax.apply_updates(policy, updates), opt_state), ()

    clone = repeated(step, steps, convolves=model.convolves)
    (policy, _), _ = clone((fresh, optimiser.init(fresh)), jax.random.split(key, steps))
    return with_policy(policy)


@dataclass
class OraclePhysics:
    """A model that needs no fitting, such as the true dynamics of a table (`envs.tabular`)."""

    model: Any
    params: Any
    discount: float = 0.99
    judge: JudgeConfig = field(default_factory=lambda: JudgeConfig(steps=0))

    def blank(self, log: Log) -> dict:
        """Nothing is learned."""
        return {}

    def steps(self, log: Log) -> int:
        """Nothing is learned."""
        return 0

    def learn(self, log: Log, key: jax.Array, update: Callable, reanalysis: Any = None) -> dict:
        """Nothing is learned."""
        return {}

    def blank_judges(self, judged: list) -> list:
        """Nobody needs to judge an oracle."""
        return []

    def learn_judges(self, judged: list, key: jax.Array, update: Callable) -> list:
        """Nobody needs to judge an oracle."""
        return []

    def certify(self, *_: Any) -> tuple[dict, dict]:
        """An oracle is right."""
        return {}, {}

    def make_judge(self, *_: Any) -> Judge:
        """Nobody needs to judge an oracle."""
        return Judge([], [], None, jax.random.key(0))

    def world(
        self, log: Log, learned: dict, horizon: int, search: SearchConfig, figures: dict
    ) -> World:
        """The oracle's dream."""
        card = {"discount": self.discount, "search": dataclasses.asdict(search)}
        card["value_span"] = float(self.model.value_span(self.params))
        return make_world(self.model, self.params, log, horizon, card)


@functools.lru_cache(maxsize=8)
def compiled_fit(
    model: Any, config: FitConfig, head: Any, window: int, chunk: int, loss: Callable
) -> Callable:
    """`make_fit` on windows of a log; the next round of the same shape uses the same program."""
    sample = functools.partial(sample_windows, head=head, window=window)
    return make_fit(model, config, sample, chunk, loss)


def make_world(model: Any, params: Any, log: Log, horizon: int, card: dict) -> World:
    """A world over `log`: every episode's first context, and others spread evenly."""
    replay = log.replay()
    rows = np.asarray(replay.starts)[: int(replay.num_starts)]
    initial = rows == np.asarray(replay.first)[rows]
    each = model.window * replay.o.shape[1] * replay.o.dtype.itemsize
    most = min(MOST_STARTS, max(1, START_BYTES // each))
    firsts, others = np.flatnonzero(initial)[:most], np.flatnonzero(~initial)
    room = min(most - firsts.size, others.size)
    kept = others[np.linspace(0, others.size - 1, room).astype(int)]
    chosen = np.sort(np.concatenate([firsts, kept]))
    starts = jax.tree.map(np.asarray, contexts(replay, jnp.asarray(rows[chosen]), model.window))
    return World(
        model=model,
        params=params,
        observation_space=log.observation.space,
        action_space=log.action.space,
        horizon=horizon,
        starts=starts,
        initial=initial[chosen],
        card=card,
    )

"""Where a round's physics comes from: fitted on the log, or an oracle that knows them already.

Both make a `Fitted`; nothing after it can tell which.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dreaming.config import JudgeConfig, SearchConfig
from dreaming.observe.log import Log
from dreaming.observe.replay import contexts
from dreaming.observe.split import Split, split_log
from dreaming.stages import stage_key
from dreaming.world.certify import foreseen, held_out, summarise
from dreaming.world.discount import discounted
from dreaming.world.fitting import LogFit
from dreaming.world.judge import Judge
from envs.dream import World
from worldmodels.config import FitConfig, FrameModelConfig, ModelConfig
from worldmodels.protocol import ModelSettings, WorldModel
from worldmodels.types import TrainState

MOST_STARTS = 4096  # contexts that a dream file carries to begin from,
START_BYTES = 256 << 20  # at most so many bytes of them
UNTESTED = -1.0  # largest trusted uncertainty of a world that nothing was held out for: none is


@dataclass(frozen=True)
class Fitted:
    """A world, and what is known of how far it can be trusted."""

    world: World
    seen: Log  # the episodes that it was fitted on
    learned: Any = None  # what a fit carried to its end
    judges: Sequence[World] = ()  # models that do not plan,
    held: Sequence[Log] = ()  # each with a part of the log that it was not fitted on
    is_independent: bool = False  # no judge was fitted on an episode in `seen`
    fidelity: dict[str, float] = field(default_factory=dict)
    skill: dict[str, list] = field(default_factory=dict)  # open-loop error by k, `regions`

    def judge(self, clone: Any, key: jax.Array) -> Judge:
        """The judges, with a clone of the log's behaviour to measure their errors by."""
        return Judge(self.judges, self.held, clone, key, self.is_independent)


@dataclass
class LearnedPhysics:
    """A world model fitted on the log, and judges fitted on other parts of it."""

    model: ModelConfig = field(default_factory=ModelConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    images: FrameModelConfig = field(default_factory=FrameModelConfig)  # of frames
    imitates: bool = True  # policy heads clone the log

    def fitted(
        self,
        log: Log,
        search: SearchConfig,
        horizon: int,
        key: jax.Array,
        once: Callable,
        *,
        is_judged: bool = True,
        decides: bool = False,
    ) -> Fitted:
        """Fit, judge and certify; each stage has a key of its own name, whoever asks.

        `once(stage, total, like, work)` is that of `one_round`. Without judges nothing is held out;
        where the verdict depends on them (`decides`), more.
        """
        key_of = functools.partial(stage_key, key)
        config = self.judge.sized(decides)
        sized = self.sized(log)
        split = split_log(log, config, key_of("split"), decides) if is_judged else Split(log)
        seen, judged = split.seen, split.judged
        planner, judges = sized.planner(seen), [sized.second(part, config) for part, _ in judged]
        learn = functools.partial(planner.learn, key_of("fit"))
        learned = once("fit", planner.config.steps, planner.blank(), learn)
        states: list[TrainState] = []
        if judges:
            blank = [judge.blank() for judge in judges]
            second = functools.partial(learn_each, judges, key_of("judge"))
            states = once("judge", judges[0].config.steps, blank, second)
        tested = tests(planner, learned, judged, judges, states)
        fidelity, skill = certified(tested, seen, key_of("certify"))
        opinions = second_opinions(seen, judged, judges, states, horizon)
        world = world_of(planner, learned, horizon, search, fidelity)
        return Fitted(
            world=world if tested else dataclasses.replace(world, u_max=UNTESTED),
            seen=seen,
            learned=learned,
            judges=[world for world, _ in opinions],
            held=[held for _, held in opinions],
            is_independent=split.is_independent,
            fidelity=fidelity,
            skill=skill,
        )

    def planner(self, log: Log) -> LogFit:
        """The fit of the model that plans."""
        return self._fit(log, self.model, self.fit)

    def second(self, log: Log, config: JudgeConfig) -> LogFit:
        """The fit of a judge (`config` is `sized`): smaller and sooner done."""
        model = dataclasses.replace(self.model, members=config.members)
        return self._fit(log, model, dataclasses.replace(self.fit, steps=config.steps))

    def sized(self, log: Log) -> "LearnedPhysics":
        """With the discount of a log: planner and judges share that of the whole."""
        return dataclasses.replace(self, fit=discounted(self.fit, log.traces))

    def _fit(self, log: Log, model: ModelConfig, fit: FitConfig) -> LogFit:
        fit = discounted(fit, log.traces)
        settings = ModelSettings(model, self.images, fit.discount)
        return LogFit.of(log, settings, fit, self.imitates)

    def check(self, log: Log, search: SearchConfig, behaviour_penalty: float = 0.0) -> None:
        """Raise `UserError`, before anything is fitted, for what the log's model cannot do."""
        ways = {"pessimism": search.pessimism, "behaviour_penalty": behaviour_penalty}
        self.planner(log).searched(**ways)


@dataclass
class OraclePhysics:
    """A model that needs no fitting and no judge, such as a table's true dynamics
    (`envs.tabular`)."""

    model: WorldModel
    params: Any
    discount: float = 0.99

    def fitted(
        self, log: Log, search: SearchConfig, horizon: int, key: Any, once: Any, **_: Any
    ) -> Fitted:
        """The oracle's dream."""
        return Fitted(self.world(log, search, horizon), log)

    def world(self, log: Log, search: SearchConfig, horizon: int) -> World:
        """The oracle's dream, with the log's own starts."""
        card = {"discount": self.discount, "search": dataclasses.asdict(search)}
        card["value_span"] = float(self.model.value_span(self.params))
        return make_world(self.model, self.params, log, horizon, card)


def learn_each(fits: Sequence[LogFit], key: jax.Array, update: Callable) -> list[TrainState]:
    """Every fit in turn; to `update` they are one."""
    parts = len(fits)

    def each(n: float, left_out: float = 0, **metrics: Any) -> float:
        late = update(n / parts, left_out=left_out / parts, **metrics)
        return parts * (late or 0)

    keys = jax.random.split(key, len(fits))
    return [fit.learn(k, each) for fit, k in zip(fits, keys, strict=True)]


def tests(
    planner: LogFit,
    learned: TrainState,
    judged: Sequence[tuple[Log, Log]],
    judges: Sequence[LogFit],
    states: Sequence[TrainState],
) -> list[tuple[LogFit, Any, Log]]:
    """(fit, its params, episodes that it never saw) of each model that is tested.

    With an episode set held out the planner itself is tested; else each judge is, on the half that
    the other one was fitted on. Without a judge nothing is.
    """
    if len(judged) == 1 and judged[0][0] is judged[0][1] and judged[0][0] is not planner.log:
        return [(planner, learned.params, judged[0][1])]
    return [
        (judge, state.params, other)
        for judge, state, (_, other) in zip(judges, states, judged, strict=True)
    ]


def certified(
    tested: Sequence[tuple[LogFit, Any, Log]], seen: Log, key: jax.Array
) -> tuple[dict[str, float], dict[str, list]]:
    """(figures averaged over the tests, open-loop error by k and weak regions); none of none."""
    if not tested:
        return {}, {}
    found = [
        held_out(
            fit.model,
            params,
            log,
            k,
            discount=fit.config.discount,
            span=float(fit.model.value_span(params)),
            window=fit.model.window,
        )
        for (fit, params, log), k in zip(tested, jax.random.split(key, len(tested)), strict=True)
    ]
    figures, skill = summarise(found, seen, seen.observation.kind)
    known = [foreseen(fit.model, params, log, fit.model.window) for fit, params, log in tested]
    return figures | {"behaviour_explained": float(np.mean(known))}, skill


def second_opinions(
    seen: Log,
    judged: Sequence[tuple[Log, Log]],
    judges: Sequence[LogFit],
    states: Sequence[TrainState],
    horizon: int,
) -> list[tuple[World, Log]]:
    """The judges' worlds, each with a part of the log that it was not fitted on."""
    found = []
    for (log, other), judge, state in zip(judged, judges, states, strict=True):
        unseen = seen if other is log else other
        if unseen is not log:
            found.append((world_of(judge, state, horizon, SearchConfig(), {}), unseen))
    return found


def world_of(
    fit: LogFit, learned: TrainState, horizon: int, search: SearchConfig, figures: dict
) -> World:
    """The dream of a fitted state, with the log's own starts."""
    model = fit.searched(pessimism=search.pessimism)
    card = {"value_span": float(model.value_span(learned.params)), "fidelity": figures}
    card |= {"discount": fit.config.discount, "search": dataclasses.asdict(search)}
    params = learned.params | {"behaviour": model.heads(learned.params)["policy"]}
    world = make_world(model, params, fit.log, horizon, card)
    return dataclasses.replace(world, u_max=figures.get("uncertainty_99", float("inf")))


def make_world(model: WorldModel, params: Any, log: Log, horizon: int, card: dict) -> World:
    """A world over `log`: every episode's first context, and others spread evenly."""
    replay = log.replay()
    rows = np.asarray(replay.starts)[: int(replay.num_starts)]
    initial = rows == np.asarray(replay.first)[rows]
    each = model.window * log.observation.size * replay.o.dtype.itemsize
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

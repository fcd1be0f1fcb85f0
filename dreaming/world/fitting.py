"""Fitting one model on one log: its shape, its steps, the clone of the log's policy."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dreaming.errors import ConfigError
from dreaming.metrics import chunk_sizes, in_chunks
from dreaming.observe.log import Log
from dreaming.observe.replay import contexts, every_row, sample_windows
from envs.frames import frame_shape
from worldmodels import registry
from worldmodels.config import FitConfig
from worldmodels.fit import init_fit, make_fit
from worldmodels.loops import further, repeated
from worldmodels.protocol import LogFacts, ModelError, ModelSettings, Trainable
from worldmodels.types import TrainState

CHUNK = 100  # steps per compiled call, and per progress line;
WIDE, FEW = 1000, 20  # of observations with more features, so many: a step takes long
LEAST_STEPS, PER_STEP = 3000, 0.3  # steps of a fit: at least, and per step of the log,
LONG, MOST_TIMES = 40_000, 4  # up to this length; of longer logs the batch grows, so many times
EARLY = 0.6  # share of a fit's steps before what is measured on the log is measured for the rest
CLONE_BATCH, CLONE_STEPS, CLONE_PASSES = 256, 2000, 40  # of the policy head; the fewer steps


def check_name(name: str) -> None:
    """Raise `ConfigError` for a `model.name` that nothing stands behind."""
    try:
        if name != "auto":
            registry.find(name)
    except ModelError as error:
        raise ConfigError(str(error)) from error


def facts_of(log: Log) -> LogFacts:
    """What models are shaped by."""
    space, traces = log.observation.space, log.traces
    is_frames = log.observation.kind == "frames"
    return LogFacts(
        o=Flattened(log),
        packed=log.packed(),
        a=[log.action.flatten(trace.actions) for trace in traces],
        r=[np.asarray(trace.rewards, float) for trace in traces],
        terminated=[bool(trace.terminated[-1]) for trace in traces],
        kind=log.observation.kind,
        parts=log.parts,
        is_number=log.is_number,
        head=log.head,
        action_space=str(log.action.space),
        frame=frame_shape(space) if is_frames else None,
        frame_std=log.frame_scale()[1] if is_frames else 1.0,
        has_masks=any(trace.action_masks is not None for trace in traces),
    )


@dataclass(frozen=True)
class Flattened(Sequence):
    """Every episode's observation features [T + 1, O], worked out when they are asked for."""

    log: Log

    def __len__(self) -> int:
        return len(self.log.traces)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        return self.log.observation.flatten(self.log.traces[i].observations)


@dataclass(frozen=True)
class LogFit:
    """One model that is fitted on one log."""

    log: Log
    model: Trainable
    scale: dict
    config: FitConfig  # with its number of steps
    imitates: bool = True  # the policy head clones the log once the rest is fitted

    @classmethod
    def of(cls, log: Log, settings: ModelSettings, config: FitConfig, imitates: bool) -> "LogFit":
        """With the model that `settings` ask for. Raises `ConfigError` where there is none."""
        try:
            model, scale = registry.make_model(facts_of(log), settings)
        except ModelError as error:
            raise ConfigError(str(error)) from error
        steps, batch = fit_sizes(config, len(log))
        steps = 0 if model.is_closed_form else steps
        sized = dataclasses.replace(config, steps=steps, batch=batch)
        return cls(log, model, scale, sized, imitates)

    def searched(self, **ways: float) -> Trainable:
        """The model as searches see it (`Trainable.adjusted`). Raises `ConfigError` for what it
        cannot do."""
        try:
            return self.model.adjusted(**ways)
        except ModelError as error:
            raise ConfigError(str(error)) from error

    def blank(self) -> TrainState:
        """The structure of a fitted state, without its numbers."""
        start = lambda: init_fit(self.model, self.config, self.scale, jax.random.key(0))
        return jax.eval_shape(start)

    def learn(self, key: jax.Array, update: Callable) -> TrainState:
        """Fit the model; `update(steps, **metrics)` is called after each chunk.

        Raises `UserError` when a term of the loss stops being finite.
        """
        log, model, steps = self.log, self.model, self.config.steps
        bootstrap_key, init_key, clone_key = jax.random.split(key, 3)
        replay = log.replay(model.num_members, bootstrap_key)
        rows = lambda: every_row(replay, len(log) + len(log.traces), log.head, model.window)
        state = init_fit(model, self.config, self.scale, init_key)
        if prepare := getattr(model, "prepared", None):
            params = prepare(state.params, rows())
            state = state.replace(params=params, target_params=params)
        is_wide = log.observation.size > WIDE and log.observation.kind != "frames"
        sizes = chunk_sizes(steps, FEW if is_wide else CHUNK)
        early = int(EARLY * len(sizes))
        fit = functools.partial(compiled_fit, model, self.config, log.head, model.window)
        advance = lambda state, size: fit(size)(state, replay)
        if early:  # the rest is learned of dreams as they will be
            state = in_chunks(advance, state, sizes[:early], update, hastened)
            params = model.measured(state.params, rows())
            slow = state.target_params | {"scale": params["scale"]}
            state = state.replace(params=params, target_params=slow)
        state = in_chunks(advance, state, sizes[early:], update, hastened)
        params = model.measured(state.params, rows())
        if self.imitates:
            params = imitate(model, params, replay, clone_key)
        return state.replace(params=params)


def hastened(state: TrainState, steps: int) -> TrainState:
    """A fit whose learning rate is where it would be after so many more steps."""
    return state.replace(opt_state=further(state.opt_state, steps))


def fit_sizes(config: FitConfig, real_steps: int) -> tuple[int, int]:
    """(steps, batch) of the fit of a log of so many steps."""
    steps = CHUNK * round(PER_STEP * min(real_steps, LONG) / CHUNK)
    times = 2 ** int(math.log2(min(max(real_steps / LONG, 1), MOST_TIMES)))
    return config.steps or max(LEAST_STEPS, steps), times * config.batch


@functools.lru_cache(maxsize=8)
def compiled_fit(model: Any, config: FitConfig, head: Any, window: int, chunk: int) -> Callable:
    """`make_fit` on windows of a log; the next round of the same shape uses the same program."""
    sample = functools.partial(sample_windows, head=head, window=window)
    return make_fit(model, config, sample, chunk)


def imitate(model: Trainable, params: Any, replay: Any, key: jax.Array) -> Any:
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

"""Options that a run does not read, and the refusal of those that were given all the same.

One schema serves every kind of run of a verb, so some of its options have no effect on some of
them. `tests/experiments/command/test_unread.py` holds this table against what runs really read.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

GIVEN: ContextVar[tuple[str, ...]] = ContextVar("given", default=())


@dataclass(frozen=True)
class Unread:
    """Options without effect; a name that ends in a dot stands for all that begin so."""

    options: tuple[str, ...]
    on: str  # on what run
    instead: str  # what is read in their place

    def covers(self, name: str) -> bool:
        """Whether the option, or the whole group of options, is one of these."""
        return any(
            f"{name}.".startswith(each) if each.endswith(".") else name == each
            for each in self.options
        )


@contextmanager
def given(overrides: Sequence[str]) -> Iterator[None]:
    """What the command line sets, for as long as the run lasts."""
    token = GIVEN.set(tuple(names_of(overrides)))
    try:
        yield
    finally:
        GIVEN.reset(token)


def names_of(overrides: Sequence[str]) -> Iterator[str]:
    """The dotted names that overrides set; of `fit={steps:9}` it is `fit.steps`."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    for override in OverridesParser.create().parse_overrides(overrides=list(overrides)):
        yield from leaves(override.key_or_group, override.value())


def leaves(name: str, value: Any) -> list[str]:
    """The dotted names in a value that may be a tree of dicts."""
    if not isinstance(value, dict) or not value:
        return [name]
    return [leaf for key, inner in value.items() for leaf in leaves(f"{name}.{key}", inner)]


def refuse(rules: Iterable[Unread]) -> None:
    """Raise `ConfigError` for the first option that was given and has no effect."""
    from dreaming.errors import ConfigError

    rules = list(rules)
    for name in GIVEN.get():
        for rule in rules:
            if rule.covers(name):
                raise ConfigError(f"{name} has no effect on {rule.on}; {rule.instead}")


# What is not read, by verb. `kind` is that of the observations: "frames" or "vectors".

NAMES = ("latent", "width", "chance_codes", "reward_bins", "value_bins", "recurrent")
SHAPE = tuple(f"model.{name}" for name in (*NAMES, "features", "clip_margin"))
NAMES = ("num_simulations", "max_considered", "c_visit", "c_scale", "readout", "floor")
NAMES += ("batched_passes",)
TREE = tuple(f"search.{name}" for name in NAMES)
RECORDING = ("env.behaviour", "env.real_steps", "env.switch", "env.epsilon")
IMAGES = ("size", "batch", "searches", "num_simulations", "refresh_batch", "capacity", "dreams")
IMAGES += ("updates_per_call", "unroll_steps", "prefix_horizon", "envs", "frame", "window")
IMAGES += ("num_actions", "bins", "compute", "real_steps")  # of the benchmark
OWN = {
    "mlp": "its options are model.*",
    "efficientzero": "its options are images.* and model.window",
    "counts": "its options are model.members and fit.discount",
}
VECTORS = "a run on vectors"
FRAMES = "a run on frames"
OF_THE_AGENT = {  # option -> what the agent for frames reads in its place
    "teacher": "agent.search.teacher",
    "search.": "agent.search.*",
    "model.": "agent.size",
    "context.": "agent.window",
    "fit.": "agent.optimiser.*",
    "rehearse.": "agent.imagine.*",
    "distill.": "agent.optimiser.*",
    "collect.first": "agent.learn_after",
    "collect.steps": "collect.ticks",
    "collect.epsilon": "agent.search.*",
    "env.behaviour": "agent.search.*",
    "env.switch": "agent.search.*",
    "env.epsilon": "agent.search.*",
}


def model_rules(config: Any, kind: str) -> Iterator[Unread]:
    """Of a fit of a world model."""
    name = config.model.name
    if name == "auto":
        name = "efficientzero" if kind == "frames" else "mlp"
    on = f"a run whose model is {name}"
    if name in OWN:
        yield Unread(("model.options.",), on, OWN[name])
    if name in ("mlp", "counts"):
        yield Unread(("images.",), on, OWN[name])
    if name == "mlp":
        yield Unread(("fit.gradient_scale",), on, "each of its steps begins at a real state")
    if name == "mlp" and config.model.window == 1:
        yield Unread(("fit.noise",), "a window of 1", "it is read with context.window")
    if name == "efficientzero":
        options = ("model.members", "judge.members", "context.recurrent")
        options += ("fit.noise", "fit.weights.", "fit.target_decay")
        yield Unread((*SHAPE, *options), on, OWN[name])
    if name == "counts":
        names = ("batch", "unroll_steps", "td_steps", "learning_rate", "weight_decay", "clip_norm")
        names += ("target_decay", "noise", "gradient_scale", "steps", "weights.")
        steps = tuple(f"fit.{each}" for each in names)
        yield Unread((*SHAPE, "context.recurrent", "judge.steps", *steps), on, OWN[name])


def log_rules(config: Any) -> Iterator[Unread]:
    """Of a run that reads or records a log."""
    if config.source.name is None:
        options = ("source.uri", "source.mapping", "source.options.")
        yield Unread(options, "a run without a source", "name one with source.name")
    if config.traces is not None or config.source.name is not None:
        on = "a run that records nothing"
        yield Unread(RECORDING, on, "its log is that of traces or source.name")
    else:
        yield from behaviour_rules(config)


def behaviour_rules(config: Any) -> Iterator[Unread]:
    """Of a run that records."""
    for option, behaviour in (("switch", "sticky_random"), ("epsilon", "half_random")):
        if config.env.behaviour != behaviour:
            on = f"env.behaviour={config.env.behaviour}"
            yield Unread((f"env.{option}",), on, f"it is read with env.behaviour={behaviour}")


def record_rules(config: Any) -> Iterator[Unread]:
    """Of `record`."""
    if config.source.name is None:
        options = ("source.uri", "source.mapping", "source.options.", "follow", "poll", "idle")
        yield Unread(options, "a run without a source", "name one with source.name")
        yield from behaviour_rules(config)
        return
    told = "the log is that of source.name, and each of its episodes is added once"
    yield Unread(("env", "env.", "seed", "append"), "a run with a source", told)
    if not config.follow:
        yield Unread(("poll", "idle"), "a run that does not follow", "set follow=true")


def search_rules(config: Any) -> Iterator[Unread]:
    """Of a run with a teacher."""
    if config.search.teacher == "one_step":
        yield Unread(TREE, "teacher=one_step", "it reads search.temperature")
    else:
        told = "it reads search.num_simulations and search.c_scale"
        yield Unread(("search.temperature",), "teacher=search", told)


def dream_rules(config: Any, kind: str) -> Iterator[Unread]:
    """Of `dream`."""
    yield from world_rules(config, kind)
    yield from search_rules(config)
    if config.env.id == "none":
        options = ("gate.episodes", "evaluation.episodes")
        yield Unread(options, "env=none", "without a real task the gate reads gate.members")
    else:
        options = ("gate.members", "gate.width", "gate.least_effective")
        yield Unread(options, "a run with a real task", "its gate reads gate.episodes")
        told = "its judges decide nothing; it reads judge.share"
        yield Unread(("judge.most",), "a run with a real task", told)


def fit_rules(config: Any, kind: str) -> Iterator[Unread]:
    """Of `fit`."""
    yield from world_rules(config, kind)
    yield Unread(("judge.most",), "`fit`", "its judges decide nothing; it reads judge.share")


def world_rules(config: Any, kind: str) -> Iterator[Unread]:
    """Of what `fit` and `dream` share."""
    yield from model_rules(config, kind)
    yield from log_rules(config)
    if config.env.id == "none":
        yield Unread(("env.options.",), "env=none", "name the task with env= or env.id")


def online_rules(config: Any, kind: str) -> Iterator[Unread]:
    """Of `online`."""
    yield Unread(("evaluation.dreams",), "an online run", "it reads evaluation.episodes")
    if kind == "frames":
        for option, instead in OF_THE_AGENT.items():
            yield Unread((option,), FRAMES, f"its agent reads {instead}")
        yield from agent_rules(config.agent)
        return
    told = "it reads model.*, fit.*, search.*, rehearse.* and distill.*"
    yield Unread(("agent.", "collect.ticks", "collect.save_every", "collect.traces"), VECTORS, told)
    yield from model_rules(config, kind)
    yield from search_rules(config)
    yield from behaviour_rules(config)


def agent_rules(agent: Any) -> Iterator[Unread]:
    """Of the agent for frames."""
    told = "it reads agent.search.num_simulations"
    options = ("pessimism", "temperature")
    if agent.search.teacher == "puct":
        options += ("max_considered", "uniform_share", "c_visit", "c_scale", "readout", "penalty")
        options += ("batched_passes",)
    on = f"agent.search.teacher={agent.search.teacher}"
    yield Unread(tuple(f"agent.search.{name}" for name in options), on, told)
    if agent.imagine.weight == 0:
        options = tuple(f"agent.imagine.{name}" for name in ("batch", "roots", "steps"))
        yield Unread(options, "agent.imagine.weight=0", "set agent.imagine.weight")
    if agent.reset.every == 0:
        yield Unread(("agent.reset.keep",), "agent.reset.every=0", "set agent.reset.every")
    if agent.reset.anneal == 0:
        options = ("agent.reset.td_steps", "agent.reset.discount")
        yield Unread(options, "agent.reset.anneal=0", "set agent.reset.anneal")
    if agent.late_unroll_steps == 0:
        told = "set agent.late_unroll_steps"
        yield Unread(("agent.late_from",), "agent.late_unroll_steps=0", told)
    on = f"agent.target.kind={agent.target.kind}"
    if agent.target.kind != "td":
        yield Unread(("agent.target.shorten",), on, "it is read with agent.target.kind=td")
    if agent.target.kind == "search":
        options = ("agent.target.td_until", "agent.target.td_newest")
        yield Unread(options, on, "they are read with agent.target.kind=mixed")


def atari_rules(config: Any) -> Iterator[Unread]:
    """Of `atari100k`."""
    yield Unread(("agent.real_steps",), "a game of Atari-100k", "it reads real_steps")
    yield from agent_rules(config.agent)


def evaluate_rules(config: Any, is_agent: bool) -> Iterator[Unread]:
    """Of `evaluate`."""
    yield Unread(RECORDING, "evaluate", "it reads env.id and env.options")
    if not is_agent:
        yield Unread(("search",), "a student", "give world= to score it in a dream")
    if config.world is None:
        told = "give world= to score the policy in a dream"
        yield Unread(("evaluation.dreams", "trust"), "a run without a world", told)
    if config.env.id == "none":
        on = "env=none"
        yield Unread(("evaluation.episodes", "env.options."), on, "it reads evaluation.dreams")


def certify_rules(config: Any) -> Iterator[Unread]:
    """Of `certify`."""
    if config.run is not None:
        told = "the run knows its own; it reads episodes and dreams"
        options = (*RECORDING, "env.options.", "source.uri", "source.mapping", "source.options.")
        yield Unread(("seed", "trust", *options), "run=", told)
        return
    yield Unread(RECORDING, "world=", "it reads env.id and env.options")
    if config.source.name is None:
        options = ("source.uri", "source.mapping", "source.options.")
        yield Unread(options, "a log in traces=", "name a source with source.name")
    if config.policy is None:
        told = "name a candidate with policy="
        yield Unread(("episodes", "dreams"), "world= without policy=", told)
    if config.env.id == "none":
        yield Unread(("env.options.",), "env=none", "name the task with env= or env.id")


def inspect_rules(config: Any) -> Iterator[Unread]:
    """Of `inspect-traces`."""
    if config.source.name is None:
        options = ("source.uri", "source.mapping", "source.options.")
        yield Unread(options, "a log in path=", "name a source with source.name")
    if config.suggest:
        options = ("json", "path")
        yield Unread(options, "suggest=true", "it writes a mapping, to source.mapping")


def forget_rules(config: Any) -> Iterator[Unread]:
    """Of `forget`."""
    if config.runs is None:
        yield Unread(("remove",), "a run without runs=", "name a directory of runs with runs=")


def export_rules(config: Any) -> Iterator[Unread]:
    """Of `export`."""
    options = ("source.uri", "source.mapping", "source.options.")
    if config.run is not None:
        yield Unread(("traces", "source.name", *options), "run=", "it copies what the run made")
    elif config.source.name is None:
        yield Unread(options, "a log in traces=", "name a source with source.name")


def benchmark_rules(config: Any) -> Iterator[Unread]:
    """Of `benchmark`."""
    if config.part == "vectors":
        yield Unread(IMAGES, "part=vectors", "it reads repetitions and seed")

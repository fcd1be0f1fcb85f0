"""What a run does not read it refuses, in one line that names what it does read."""

import dataclasses
from types import SimpleNamespace

import pytest

from experiments.command import unread
from experiments.command.unread import Unread, given, names_of
from tests.experiments.reading import Reads, reading, recorded

BEHAVIOUR = ("env.switch", "env.epsilon")  # handed to behaviours that do not use them


@pytest.mark.parametrize("run", ["tiny_run", "tiny_fit"])
def test_every_option_of_a_run_is_read_or_refused(run, request):
    reads = Reads.load(request.getfixturevalue(run).parent / "reads.json")
    assert {"seed", "fit.steps", "model.width"} <= reads.read  # what was recorded is real
    assert {"images.bins", "model.options", "judge.most"} <= reads.declared
    assert ("run" in reads.read) == (run == "tiny_run")  # by the verb, at the start
    assert (reads.silent, reads.wronged(*BEHAVIOUR, "source.uri", "fit.noise")) == (set(), set())


KINDS = {  # words, kind, what is handed to what does not use it
    "counts": (
        ["env=frozenlake", "model.name=counts"],
        "vectors",
        (*BEHAVIOUR, "source.uri", "judge.steps", "fit.steps"),
    ),
    "one_step": (
        ["teacher=one_step"],
        "vectors",
        (*BEHAVIOUR, "source.uri", "fit.noise", "search.num_simulations"),
    ),
    "no task": (
        ["env=none", "traces={run}/traces"],
        "vectors",
        ("fit.noise", "evaluation.episodes"),
    ),
    "frames": (
        ["env=catch", "images.bins=21", "baselines.batch=16", "env.real_steps=120"],
        "frames",
        (*BEHAVIOUR, "source.uri", "fit.target_decay", "judge.members"),
    ),
}


@pytest.mark.slow  # whole runs, made small
@pytest.mark.parametrize("name", KINDS)
def test_so_is_every_option_of_runs_of_other_kinds(name, verb, tiny_run, tmp_path):
    words, kind, for_nothing = KINDS[name]
    words = [word.format(run=tiny_run) for word in words]
    with reading(lambda config: unread.dream_rules(config, kind)) as reads:
        code, _, err = verb("dream", *words, f"hydra.run.dir={tmp_path / 'run'}")
    assert code == 0, err
    assert (reads.silent, reads.wronged(*for_nothing)) == (set(), set())


SMALL = {
    "evaluate": (
        ("policy={run}/candidate", "env=cartpole"),
        ("policy={run}/candidate", "env=cartpole", "world={run}/world.dream"),
        ("policy={run}/candidate", "env=none", "world={run}/world.dream"),
    ),
    "certify": (
        ("run={run}", "episodes=2", "dreams=2", "path={tmp}/certificate.json"),
        ("world={run}/world.dream", "traces={run}/traces"),
        (
            "world={run}/world.dream",
            "traces={run}/traces",
            "policy={run}/candidate",
            "env=cartpole",
        ),
    ),
    "inspect-traces": (("path={run}/traces",),),
    "record": (
        ("env=cartpole", "env.real_steps=30", "path={tmp}/a"),
        ("env=cartpole", "env.real_steps=30", "path={tmp}/b", "env.behaviour=sticky_random"),
    ),
}
RULES = {
    "evaluate": lambda config: unread.evaluate_rules(config, is_agent=False),
    "certify": unread.certify_rules,
    "inspect-traces": unread.inspect_rules,
    "record": unread.record_rules,
}


@pytest.mark.parametrize(("name", "words"), [(x, y) for x in SMALL for y in SMALL[x]])
def test_so_is_every_option_of_the_other_verbs(name, words, verb, tiny_run, tmp_path):
    words = [word.format(run=tiny_run, tmp=tmp_path) for word in words]
    if name == "certify" and len(words) > 3:
        words += ["episodes=2", "dreams=2"]
    with reading(RULES[name]) as reads:
        code, _, err = verb(name, *words)
    assert code == 0, err
    for_nothing = (*BEHAVIOUR, "env.behaviour") if name == "record" else ()
    assert (reads.silent, reads.wronged(*for_nothing)) == (set(), set())


def test_a_benchmark_of_vectors_reads_nothing_of_images():
    rules = list(unread.benchmark_rules(SimpleNamespace(part="vectors")))
    covered = lambda name: any(rule.covers(name) for rule in rules)
    assert covered("frame") and covered("dreams") and not covered("repetitions")
    assert not list(unread.benchmark_rules(SimpleNamespace(part="all")))


@pytest.mark.parametrize(
    ("name", "words", "told"),
    [
        ("online", ["env=catch", "search.num_simulations=9"], "its agent reads agent.search.*"),
        ("online", ["env=catch", "fit.steps=9"], "its agent reads agent.optimiser.*"),
        ("online", ["env=catch", "fit={steps:9}"], "fit.steps has no effect on a run on frames"),
        ("online", ["env=catch", "teacher=one_step"], "its agent reads agent.search.teacher"),
        ("online", ["env=catch", "agent.reset.keep=0.9"], "set agent.reset.every"),
        ("online", ["env=catch", "agent.reset.td_steps=9"], "set agent.reset.anneal"),
        ("online", ["env=catch", "agent={search:{temperature:0.1}}"], "agent.search.temperature"),
        ("online", ["agent=base"], "it reads model.*, fit.*, search.*"),
        ("dream", ["images.bins=21"], "its options are model.*"),
        ("dream", ["env=catch", "model.width=9"], "its options are images.* and model.window"),
        ("dream", ["+model.options.x=9"], "its options are model.*"),
        ("dream", ["env=frozenlake", "model.name=counts", "model.width=9"], "model.members"),
        ("dream", ["search.temperature=0.1"], "it reads search.num_simulations"),
        ("dream", ["teacher=one_step", "search.c_scale=0.2"], "it reads search.temperature"),
        ("dream", ["gate.members=9"], "its gate reads gate.episodes"),
        ("dream", ["judge.most=0.4"], "judge.most has no effect on"),
        ("fit", ["judge.most=0.4"], "judge.most has no effect on"),
        ("dream", ["env.switch=0.5"], "it is read with env.behaviour=sticky_random"),
        ("fit", ["source.uri=x"], "name one with source.name"),
        ("record", ["path={tmp}/a", "env=cartpole", "env.epsilon=0.1"], "half_random"),
        ("certify", ["run={tmp}", "seed=3"], "it reads episodes and dreams"),
        ("inspect-traces", ["path={tmp}", "source.uri=x"], "name a source with source.name"),
        ("benchmark", ["part=vectors", "batch=3"], "it reads repetitions and seed"),
    ],
)
def test_what_has_no_effect_is_refused(name, words, told, tmp_path, capsys):
    from experiments.command.cli import main

    words = [word.format(tmp=tmp_path) if "{tmp}" in word else word for word in words]
    if name in ("dream", "fit", "online"):
        words.append(f"hydra.run.dir={tmp_path / 'run'}")
    assert main([name, *words]) == 2
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1 and " has no effect on " in err[0] and told in err[0], err
    assert not (tmp_path / "run/traces").exists()  # and before anything was recorded


@pytest.mark.parametrize(
    ("rules", "words", "name"),
    [
        ("online", ["agent.reset.anneal=400"], "agent.reset.td_steps"),
        ("online", ["agent.reset.every=400"], "agent.reset.keep"),
        ("online", ["agent.target.kind=td"], "agent.target.shorten"),
        ("online", ["agent.imagine.weight=1"], "agent.imagine.steps"),
        ("dream", ["search.teacher=one_step"], "search.temperature"),
        ("dream", ["env=none", "traces=x"], "certify.dreams"),
        ("dream", ["env=none", "traces=x"], "gate.members"),
        ("dream", ["env=none", "traces=x"], "judge.most"),
        ("dream", ["env=none", "traces=x", "run=y"], "run"),
        ("dream", ["model.name=somebody_s"], "images.bins"),
        ("dream", ["model.name=somebody_s"], "model.options"),
        ("dream", ["env.behaviour=sticky_random"], "env.switch"),
        ("dream", ["context.window=2"], "fit.noise"),
        ("certify", ["world=w", "traces=x", "env=cartpole"], "env.options"),
        ("evaluate", ["policy=p", "world=w"], "evaluation.dreams"),
    ],
)
def test_what_has_an_effect_is_not_refused(rules, words, name):
    from experiments import config as configs
    from experiments.command.options import VerbOptions

    schema = {"certify": "CertifyVerb"}.get(rules, rules.capitalize())
    config, _ = VerbOptions(rules, getattr(configs, f"{schema}Config")).compose(words)
    table = {
        "online": lambda: unread.online_rules(config, "frames"),
        "dream": lambda: unread.dream_rules(config, "vectors"),
        "certify": lambda: unread.certify_rules(config),
        "evaluate": lambda: unread.evaluate_rules(config, is_agent=False),
    }
    assert not any(rule.covers(name) for rule in table[rules]())


def test_the_group_is_refused_with_all_that_is_in_it():
    rule = Unread(("agent.", "collect.ticks"), "", "")
    assert all(map(rule.covers, ("agent", "agent.size", "agent.search.teacher", "collect.ticks")))
    assert not any(map(rule.covers, ("agents", "collect", "collect.ticksy")))


def test_names_of_what_is_given():
    words = ["seed=1", "+env.options.a=2", "agent=base", "fit={steps:9,weights:{value:8}}"]
    found = ["seed", "env.options.a", "agent", "fit.steps", "fit.weights.value"]
    assert list(names_of(words)) == found
    with given(["seed=1"]):
        assert unread.GIVEN.get() == ("seed",)
    assert unread.GIVEN.get() == ()


@dataclasses.dataclass(unsafe_hash=True)
class Inner:
    x: int = 1
    y: int = 2


@dataclasses.dataclass
class Outer:
    inner: Inner = dataclasses.field(default_factory=Inner)
    z: int = 3


def test_the_recorder_sees_who_asks_and_not_who_copies():
    read: set[str] = set()
    config = recorded(Outer(), read)
    assert hash(config.inner) == hash(dataclasses.replace(config.inner))
    assert dataclasses.asdict(config) == {"inner": {"x": 1, "y": 2}, "z": 3} and not read
    assert dataclasses.replace(config.inner, y=5).x == 1
    assert read == {"inner.x"}
    assert config.z == 3 and read == {"inner.x", "z"}

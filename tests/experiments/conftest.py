"""The main job as small as it can be, and one such run for every test that only looks at it."""

import importlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import jax
import jaxtyping
import pytest

from dreaming.gate.verdict import Verdict
from experiments import dream, fit
from experiments.command.cli import main
from experiments.command.unread import dream_rules, fit_rules
from tests.experiments.reading import reading

TINY = {
    "fit.steps": 20,
    "fit.batch": 8,
    "model.members": 2,
    "model.width": 16,
    "model.latent": 8,
    "judge.steps": 10,
    "judge.least": 0,
    "search.num_simulations": 4,
    "rehearse.iterations": 4,
    "rehearse.dreams": 8,
    "rehearse.horizon": 4,
    "rehearse.taught": 8,
    "distill.width": 16,
    "baselines.steps": 20,
    "gate.episodes": 4,
    "evaluation.episodes": 4,
    "evaluation.dreams": 4,
    "certify.episodes": 3,
    "certify.dreams": 3,
    "env.real_steps": 200,
}


# Which of these a verb takes.
TAKES = {
    "dream": "",
    "record": "env.",
    "fit": ("env.", "model.", "fit.", "judge."),
    "evaluate": "evaluation.",
    "online": ("env.", "model.", "fit.", "search.", "rehearse.", "distill.", "evaluation.episodes"),
}
# What of these has no effect beside a word of the command line, and would be refused.
IDLE = {
    "env=none": ("gate.episodes", "certify.", "evaluation.episodes", "env.real_steps"),
    "env=catch": ("model.",),
    "teacher=one_step": ("search.num_simulations",),
    "model.name=efficientzero": ("model.",),
    "model.name=counts": ("model.width", "model.latent", "fit.steps", "fit.batch", "judge.steps"),
}


def fill(tiny: Sequence[str], verb: str, argv: Sequence[str]) -> list[str]:
    """The words of a tiny run that the command line does not set, and that have an effect on it."""
    given = {word.partition("=")[0].lstrip("+") for word in argv}
    idle = [name for word, names in IDLE.items() if word in argv for name in names]
    if {"traces", "source.name"} & given:
        idle.append("env.real_steps")
    if verb == "evaluate" and "world" not in given:
        idle.append("evaluation.dreams")
    if verb == "evaluate" and "env" not in given:
        idle.append("evaluation.episodes")
    words = [word for word in tiny if word.partition("=")[0] not in given]
    words = [word for word in words if word.startswith(TAKES[verb])] if verb in TAKES else []
    return [word for word in words if not word.startswith(tuple(idle))]


@contextmanager
def as_users_run():
    """No checks of shapes and ranks: whole runs compile what users compile, and faster."""
    was = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with jax.numpy_rank_promotion("allow"):
            yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", was)


@pytest.fixture(autouse=True)
def unchecked():
    """Every test here runs the code as users do."""
    with as_users_run():
        yield


@pytest.fixture(scope="session", autouse=True)
def signing_key(tmp_path_factory):
    """Dream files are signed with a key of these tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    """Overrides that make a run take seconds."""
    return [f"{name}={value}" for name, value in TINY.items()]


BECAUSE = "because a test says so"


@contextmanager
def deciding(accept: bool) -> Iterator[list[Verdict]]:
    """The gate plays, tells and counts as ever, but what it says is `accept`; yields the verdicts
    that it gave, so that nobody trusts a gate that was not asked."""
    module = importlib.import_module("dreaming.gate.decide")
    ask, said = module.real_gate, list[Verdict]()

    def told(*args, **kwargs):
        said.append(replace(ask(*args, **kwargs), accept=accept, reasons=(BECAUSE,)))
        return said[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "real_gate", told)
        yield said


@pytest.fixture(scope="session")
def tiny_run(tiny, tmp_path_factory) -> Path:
    """The directory of a finished run, whose candidate was rejected: it learned next to nothing.
    Copy it before you change anything in it."""
    run_dir = tmp_path_factory.mktemp("tiny") / "run"
    with as_users_run(), reading(lambda config: dream_rules(config, "vectors")) as reads:
        assert dream.main([*tiny, f"hydra.run.dir={run_dir}"]) == 0
    reads.save(run_dir.parent / "reads.json")
    return run_dir


@pytest.fixture(scope="session")
def accepted_run(tiny_run, tiny, tmp_path_factory) -> Path:
    """The same run, whose gate let everything pass. Copy it before you change anything in it."""
    run_dir = Path(shutil.copytree(tiny_run, tmp_path_factory.mktemp("accepted") / "run"))
    with as_users_run(), deciding(True) as said:
        assert dream.main([*tiny, f"hydra.run.dir={run_dir}"]) == 0
    assert len(said) == 1
    return run_dir


@pytest.fixture(scope="session")
def tiny_fit(tiny, tmp_path_factory) -> Path:
    """The directory of a finished fit. Copy it before you change anything in it."""
    run_dir = tmp_path_factory.mktemp("tiny") / "fit"
    words = [word for word in tiny if word.startswith(TAKES["fit"])]
    with as_users_run(), reading(lambda config: fit_rules(config, "vectors")) as reads:
        assert fit.main([*words, f"hydra.run.dir={run_dir}"]) == 0
    reads.save(run_dir.parent / "reads.json")
    return run_dir


@pytest.fixture
def verb(tiny, capsys, monkeypatch):
    """Run a verb in this process: (exit code, stdout, lines on stderr)."""
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)

    def call(name, *argv):
        words = list(map(str, argv))
        capsys.readouterr()
        code = main([name, *fill(tiny, name, words), *words])
        out, err = capsys.readouterr()
        return code, out, err.splitlines()

    return call


@pytest.fixture
def fails(verb):
    """A verb must fail: its one line, which holds all of `words`."""

    def check(name, *argv, words=(), code=(1, 2)):
        got, _, err = verb(name, *argv)
        assert got in code, (got, err)
        assert len(err) == 1 and err[0].startswith("error: "), err
        for word in words:
            assert str(word) in err[0], (word, err[0])
        return err[0]

    return check

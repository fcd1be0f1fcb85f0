"""The command line: exit codes, one-line errors, help without JAX, overrides that count."""

import enum
import re
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import pytest

from experiments.command import cli
from experiments.command.options import VerbOptions, config_yaml

ROOT = Path(__file__).parents[3]


class Teacher(enum.Enum):
    search = "search"
    one_step = "one_step"


@dataclass
class EnvConfig:
    id: str = "???"
    real_steps: int = 2000  # length of the log


@dataclass
class DummyConfig:
    seed: int = 0  # everything random follows from it
    experiment: str = "dummy"
    lr: float = 1e-3
    sizes: list[int] = field(default_factory=lambda: [8, 8])
    teacher: Teacher = Teacher.search
    env: EnvConfig = field(default_factory=EnvConfig)
    options: dict[str, int] = field(default_factory=dict)

    def __post_init__(self):
        if isinstance(self.seed, int) and self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")


@pytest.fixture
def conf(tmp_path) -> Path:
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "cartpole.yaml").write_text("id: CartPole-v1\n")
    (tmp_path / "env" / "gym.yaml").write_text("id: ???\n")
    (tmp_path / "dummy.yaml").write_text(
        "defaults: [dummy_schema, {env: cartpole}, _self_]\n"
        "hydra: {run: {dir: 'runs/${experiment}/${env.id}/seed${seed}'}}\n"
    )
    return tmp_path


@pytest.fixture
def call(conf, capsys):
    """Run a dummy verb with arguments: (exit code, stdout, stderr lines, configs it was given)."""

    def call(*argv, error=None):
        seen = []

        def run(config, run_dir):
            seen.append((config, run_dir))
            if error is not None:
                raise error

        code = cli.run_verb(run, argv, config_name="dummy", schema=DummyConfig, conf_dir=conf)
        out, err = capsys.readouterr()
        return code, out, err.splitlines(), seen

    return call


def test_overrides_arrive_typed_and_the_run_directory_follows_them(call):
    code, _, err, [(config, run_dir)] = call("seed=3", "teacher=one_step", "sizes=[4]", "lr=1")
    assert (code, err) == (0, [])
    assert config == DummyConfig(
        seed=3, teacher=Teacher.one_step, sizes=[4], lr=1.0, env=EnvConfig("CartPole-v1", 2000)
    )
    assert run_dir == Path("runs/dummy/CartPole-v1/seed3")
    assert call("hydra.run.dir=elsewhere")[3][0][1] == Path("elsewhere")


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["options.x=1"], {"x": 1}),
        (["+options.x=1"], {"x": 1}),
        (["options={x: 1, y: {z: [a]}}"], {"x": 1, "y": {"z": ["a"]}}),
        (["++options={x: 1}", "options.y=2"], {"x": 1, "y": 2}),
        (["options.seed=3"], {"seed": 3}),
    ],
)
def test_what_goes_into_a_dictionary_needs_no_plus(call, words, options):
    [(config, _)] = call(*words)[3]
    assert config.options == options and config.seed == 0


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("sed=1", ["unknown option 'sed'", "did you mean 'seed'"]),
        ("+sed=1", ["unknown option 'sed'", "did you mean 'seed'"]),
        ("env.real_stes=1", ["unknown option 'env.real_stes'", "did you mean 'env.real_steps'"]),
        ("++env.z=1", ["unknown option 'env.z'"]),
        ("real_steps=1", ["unknown option 'real_steps'", "did you mean 'env.real_steps'"]),
        ("seed=abc", ["seed=abc", "Integer"]),
        ("env.real_steps=1.5", ["env.real_steps=1.5", "Integer"]),
        ("seed=null", ["seed=null", "not Optional"]),
        ("teacher=magic", ["teacher=magic", "search, one_step"]),
        ("env=moon", ["env=moon", "cartpole, gym"]),
        ("env=gym", ["option env.id has no value", "env.id=..."]),
        ("seed=1,2", ["seed=1,2", "--multirun"]),
        ("seed=-1", ["seed must be at least 0, got -1"]),
        ("seed", ["cannot read 'seed'", "key=value"]),
        ("lr=[1", ["cannot read 'lr=[1'"]),
        ("env.id=~/x", ["~ is not known", "env.id=$HOME/x"]),
        ("--fast", ["unknown flag '--fast'", "--help"]),
        ("--cfg=all", ["--cfg", "job"]),
    ],
)
def test_a_bad_argument_is_one_line_and_exit_code_2(call, override, words):
    code, out, err, seen = call(override)
    assert (code, out, seen) == (2, "", [])
    assert len(err) == 1 and err[0].startswith("error: "), err
    for word in words:
        assert word in err[0], err[0]


@pytest.mark.parametrize(
    "value", ["läuf/ü", "a=b", "run(1)", "it's", "a,b", "#1", 'a"b', "$x;", "ja!", "{1", "-> ö"]
)
def test_the_advice_on_quoting_is_read_as_the_value_that_was_meant(call, value):
    code, _, [error], _ = call(f"env.id={value}")
    found = re.search("(?:is quoted: |for a list, )(.+?)(?: for a text with commas)?$", error)
    [advised] = shlex.split(found[1] if found else "")
    assert code == 2 and call(advised)[3][0][0].env.id == value


def test_letters_that_the_locale_lost_are_told(call):
    code, _, err, _ = call("env.id=l\udce4uf")
    assert code == 2 and "'env.id=l\\udce4uf'" in err[0] and "PYTHONUTF8=1" in err[0]


def test_choices_of_a_group_by_glob_and_nothing_of_anything_else(call):
    _, _, _, seen = call("--multirun", "env=glob(cart*)", "seed=range(0,2)")
    assert [(config.env.id, config.seed) for config, _ in seen] == [
        ("CartPole-v1", 0),
        ("CartPole-v1", 1),
    ]
    code, _, err, seen = call("--multirun", "seed=glob(*)")
    assert code == 2 and "no jobs: glob(*) finds the choices of a group" in err[0] and not seen


def test_the_version_is_that_of_the_package(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"dreaming {metadata.version('dreaming')}\n"


def test_failures_are_one_line_with_their_exit_code(call, monkeypatch):
    from dreaming.errors import ConfigError, UserError

    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    told = lambda error: call(error=error)[::2]  # (code, stderr lines)
    assert told(UserError("log.parquet: row 3 is\n bad")) == (
        1,
        ["error: log.parquet: row 3 is bad"],
    )
    assert told(ConfigError("rounds must be 1")) == (2, ["error: rounds must be 1"])
    assert told(OSError(28, "No space left on device", "runs/x")) == (
        1,
        ["error: No space left on device: runs/x; make room and run the same command again"],
    )
    assert told(KeyboardInterrupt()) == (130, ["error: interrupted"])
    assert told(KeyError("z")) == (
        1,
        ["internal error: KeyError: 'z'; set HYDRA_FULL_ERROR=1 for the traceback"],
    )
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    code, err = told(KeyError("z"))
    assert code == 1 and "Traceback" in err[0]


def test_multirun_runs_every_combination_and_one_failure_does_not_stop_the_rest(call):
    code, out, _, seen = call("--multirun", "seed=0,1", "lr=1,2", "env.real_steps=5")
    assert code == 0
    assert [(config.seed, config.lr) for config, _ in seen] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert seen[-1][1] == Path("runs/dummy/CartPole-v1/seed1")
    code, _, err, seen = call("--multirun", "seed=0,1", error=RuntimeError("no"))
    assert (code, len(err), len(seen)) == (1, 2, 2)
    assert call("--multirun", "seed=0,x")[::3] == (2, [])  # nothing starts when one cannot


def test_cfg_job_shows_the_config_and_runs_nothing(call):
    code, out, _, seen = call("seed=4", "--cfg", "job")
    assert (code, seen) == (0, [])
    assert "seed: 4" in out and "id: CartPole-v1" in out and "hydra" not in out


def test_help_shows_every_option_with_its_default_and_reason(call):
    code, out, _, seen = call("--help")
    assert (code, seen) == (0, [])
    assert "seed=0" in out and "everything random follows from it" in out
    assert "env.real_steps=2000" in out and "length of the log" in out
    assert "teacher=search" in out and "one of cartpole, gym" in out
    assert "exit codes, one-line errors" in out  # this module's docstring


def test_a_config_survives_its_yaml(conf):
    config, _ = VerbOptions("dummy", DummyConfig, conf).compose(["seed=7", "sizes=[1,2,3]"])
    from omegaconf import OmegaConf

    again = OmegaConf.merge(
        OmegaConf.structured(DummyConfig), OmegaConf.create(config_yaml(config))
    )
    assert OmegaConf.to_object(again) == config


def test_an_unknown_verb_names_the_closest(capsys, monkeypatch):
    monkeypatch.setattr(cli, "available_verbs", lambda: ["dream", "record"])
    assert cli.main(["draem"]) == 2
    assert capsys.readouterr().err == (
        "error: unknown verb 'draem'; did you mean 'dream'?; see --help\n"
    )


def _modules_after(code: str) -> set[str]:
    code += "\nimport sys\nprint('MODULES', *sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return set(ran.stdout.rpartition("MODULES ")[2].split())


def test_help_does_not_import_jax_and_answers_within_a_second():
    seconds = []
    for _ in range(3):  # the fastest counts: other tests run beside this one
        begun = time.monotonic()
        modules = _modules_after(
            "from experiments.command.cli import main\nassert main(['--help']) == 0"
        )
        seconds.append(time.monotonic() - begun)
        assert not modules & {"jax", "numpy", "hydra"}
    assert min(seconds) < 1, seconds


@pytest.mark.parametrize("verb", cli.available_verbs())
def test_the_help_of_a_verb_has_examples_and_fits_a_terminal(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main([verb, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > 80] == []
    assert sum(line.startswith(f"  dreaming {verb}") for line in lines) >= 3
    assert any(line.startswith("options") for line in lines)


def test_the_overview_fits_a_terminal(capsys):
    assert cli.main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > 80] == []
    assert all(
        any(line.startswith(f"  {verb} ") for line in lines) for verb in cli.available_verbs()
    )


@pytest.mark.parametrize("verb", cli.available_verbs())
def test_the_help_of_a_verb_does_not_import_jax(verb):
    code = f"from experiments.command.cli import main\nassert main([{verb!r}, '--help']) == 0"
    assert not _modules_after(code) & {"jax", "flax", "pyarrow"}

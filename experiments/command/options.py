"""The options of a verb: Hydra's composition of `conf/`, and its errors in one line.

`conf/<name>.yaml` begins with the defaults list `[<name>_schema, {group: choice}, ..., _self_]`.
"""

import dataclasses
import inspect
import re
import shlex
import shutil
import textwrap
import typing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from experiments.command.jobs import UsageError, did_you_mean

CONF = Path(__file__).parents[2] / "conf"
COLUMN = 32  # where the comments of --help begin
GIVEN_AS = {"atari_size": "size"}  # groups by the word that chooses from them
LAUNCHERS = ("joblib", "submitit_local", "submitit_slurm")  # of the extra `sweep`


def config_yaml(config: Any) -> str:
    """A composed config (a dataclass instance) as YAML, for the run directory."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


class VerbOptions:
    """What can be set for one verb: `<conf_dir>/<name>.yaml` checked against `schema`."""

    def __init__(self, name: str, schema: type, conf_dir: Path | None = None):
        self.name, self.schema, self.conf_dir = name, schema, conf_dir or CONF
        ConfigStore.instance().store(name=f"{name}_schema", node=schema)

    def opened(self, overrides: Sequence[str]) -> list[str]:
        """The overrides with what goes into a dictionary, which has no keys yet, added to it."""
        names = list(_dictionaries(self.schema))
        is_open = lambda word: any(re.match(rf"{re.escape(name)}[.=]", word) for name in names)
        return [f"++{word}" if is_open(word) else word for word in overrides]

    def compose(self, overrides: Sequence[str] = ()) -> tuple[Any, Path]:
        """The config as an instance of the schema, and the run directory. Raises `UsageError`."""
        with self._errors():
            config = self._compose(overrides)
            missing = sorted(OmegaConf.missing_keys(_without_hydra(config)))
            if missing:
                raise UsageError(f"option {missing[0]} has no value yet; add {missing[0]}=...")
            for key in _unknown_keys(_without_hydra(config)):
                raise UsageError(f"unknown option '{key}'{self._suggest(key)}")
            run_dir = Path(config.hydra.run.dir)
            return OmegaConf.to_object(_without_hydra(config)), run_dir

    def yaml(self, overrides: Sequence[str] = ()) -> str:
        """The composed config as text. Raises `UsageError`."""
        with self._errors():
            return OmegaConf.to_yaml(_without_hydra(self._compose(overrides)))

    def sweep(self, overrides: Sequence[str]) -> list[list[str]]:
        """The overrides of every job of a sweep: `seed=0,1` makes two. Raises `UsageError`."""
        with self._errors():
            with self.loader() as loader:  # for choices by glob(*)
                parser = OverridesParser.create(config_loader=loader)
                parsed = parser.parse_overrides(overrides=list(overrides))
                jobs = BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]
        if not jobs:
            raise UsageError("no jobs: glob(*) finds the choices of a group, such as env=glob(c*)")
        return jobs

    def launcher(self, overrides: Sequence[str]) -> str:
        """Which of Hydra's launchers starts the jobs of a sweep. Raises `UsageError`."""
        named = [word for word in overrides if word.startswith("hydra/launcher=")]
        with self._errors():
            return self._compose(named).hydra.runtime.choices["hydra/launcher"]

    @contextmanager
    def loader(self) -> Iterator[ConfigLoader]:
        """Hydra's own loader of these options."""
        with initialize_config_dir(config_dir=str(self.conf_dir.resolve()), version_base="1.3"):
            yield GlobalHydra.instance().config_loader()

    def help(self, verb: str, doc: str) -> str:
        """What `--help` prints: the verb's docstring, and its options with their defaults."""
        with self._errors():
            config = self._compose(())
        choices = config.hydra.runtime.choices
        rows = []
        for key, value, comment in _rows(_without_hydra(config)):
            if key in choices:
                value, comment = choices[key], f"one of {', '.join(self._choices(key))}"
            if value == "???":
                value, comment = "...", f"needed: {comment}"
            if key in choices or value != "":
                rows += _option(f"{key}={'null' if value is None else value}", comment)
        if (run_dir := _plain(config.hydra.run)["dir"]) != ".":
            rows += _option(f"hydra.run.dir={run_dir}", "")
        lines = [f"usage: dreaming {verb} [key=value ...] [--multirun] [--cfg job]", ""]
        lines += [doc.strip(), "", "options and their defaults:", *rows, ""]
        lines += ["--multirun runs every combination of values: seed=0,1,2; to run them side by"]
        lines += ["side, add hydra/launcher=processes (extra sweep)"]
        lines += ["--cfg job prints the config and stops"]
        return "\n".join(lines)

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        with self.loader():
            return compose(self.name, overrides=list(overrides), return_hydra_config=True)

    def _choices(self, group: str) -> list[str]:
        return sorted(path.stem for path in (self.conf_dir / group).glob("*.yaml"))

    def _suggest(self, key: str) -> str:
        keys = [row[0] for row in _rows(OmegaConf.structured(self.schema), depth=9)]
        inner = [known for known in keys if known.rpartition(".")[2] == key]
        return f"; did you mean '{inner[0]}'?" if inner else did_you_mean(key, keys)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except UsageError:
            raise
        except (HydraException, OmegaConfBaseException, ValueError, TypeError) as error:
            raise UsageError(self._one_line(error)) from error

    def _one_line(self, error: Exception) -> str:
        text, cause = str(error), error.__cause__
        first = lambda message: str(message).strip().partition("\n")[0]
        if isinstance(error, OverrideParseException):
            return f"cannot read '{error.override}'; {_quoting(str(error.override))}"
        if isinstance(error, MissingConfigException):
            group, _, choice = (error.missing_cfg_file or "").rpartition("/")
            if group == "hydra/launcher" and choice in LAUNCHERS:
                return f"hydra/launcher: {choice} is missing; pip install 'dreaming[sweep]'"
            known = self._choices(group)
            if known:
                group = GIVEN_AS.get(group, group)
                return f"{group}={choice} does not exist; {group} is one of {', '.join(known)}"
        if found := re.match(r"Could not override '(.+?)'", text):
            return f"unknown option '{found[1]}'{self._suggest(found[1])}"
        if found := re.match(r"Error merging override (.*)", text):
            return f"{found[1]}: {first(cause)}"
        if found := re.match(r"Ambiguous value for argument '(.+)'", text):
            key, _, value = found[1].partition("=")
            return (
                f"{found[1]}: add --multirun to run each value, or write {key}=[{value}] for a "
                f"list, {_quoted(key, value)} for a text with commas"
            )
        if found := re.match(r"Multiple values for (\S+)\.", text):
            return f"{found[1]} is set twice; give it once, without a +"
        return first(text)


def _quoting(override: str) -> str:
    """How to write an override that could not be read."""
    key, sign, value = override.partition("=")
    if not sign or not re.fullmatch(r"[+~]*[\w./@]+", key):
        return "options are written key=value"
    if value.startswith("~/"):
        return f"~ is not known here; write {key}=$HOME/{value[2:]}"
    return f"a value with letters other than a-z, 0-9, / . - _ is quoted: {_quoted(key, value)}"


def _quoted(key: str, value: str) -> str:
    """`key=value` with the value as text, for a shell."""
    text = value.strip(value[0] if value[:1] in ("'", '"') else "").replace('"', '\\"')
    return shlex.quote(f'{key}="{text}"')


def _dictionaries(schema: type, prefix: str = "") -> Iterator[str]:
    """The dotted names of the options that are dictionaries without keys of their own."""
    for each in dataclasses.fields(schema):
        if typing.get_origin(each.type) is dict:
            yield f"{prefix}{each.name}"
        elif isinstance(each.type, type) and dataclasses.is_dataclass(each.type):
            yield from _dictionaries(each.type, f"{prefix}{each.name}.")


def _option(shown: str, comment: str) -> list[str]:
    """The lines of one option: its comment beside it, or below where it is long."""
    width = min(max(shutil.get_terminal_size().columns, 60), 100)
    first = f"  {shown:<{COLUMN - 3}} "
    wrapped = textwrap.wrap(comment, width - COLUMN)
    if len(first) > COLUMN:
        return [first.rstrip(), *(" " * COLUMN + line for line in wrapped)]
    lines = [first + (wrapped[0] if wrapped else "")]
    return [line.rstrip() for line in [*lines, *(" " * COLUMN + each for each in wrapped[1:])]]


def _without_hydra(config: DictConfig) -> DictConfig:
    config = config.copy()
    with open_dict(config):
        config.pop("hydra", None)
    return config


def _unknown_keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    """Keys added with `+` that the schema does not have: they would be dropped in silence."""
    kind = OmegaConf.get_type(config)
    fields = {f.name for f in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else None
    for key in config:
        if fields is not None and key not in fields:
            yield f"{prefix}{key}"
        elif not OmegaConf.is_missing(config, key) and isinstance(config[key], DictConfig):
            yield from _unknown_keys(config[key], f"{prefix}{key}.")


def _rows(config: DictConfig, prefix: str = "", depth: int = 3) -> Iterator[tuple[str, Any, str]]:
    """(key, default, comment) of every option, those of a nested config after its own row."""
    comments, plain = _comments(OmegaConf.get_type(config)), _plain(config)
    for key in config:
        name, comment = f"{prefix}{key}", comments.get(str(key), "")
        fixed = not (
            OmegaConf.is_missing(config, key) or OmegaConf.is_interpolation(config, str(key))
        )
        value = config[key] if fixed else None
        if isinstance(value, DictConfig) and dataclasses.is_dataclass(OmegaConf.get_type(value)):
            yield name, "", comment
            if depth > 1:
                yield from _rows(value, f"{name}.", depth - 1)
        else:
            yield name, plain[key], comment


def _plain(config: DictConfig) -> dict:
    """The config as written: enums by name, interpolations unresolved."""
    plain = OmegaConf.to_container(config, resolve=False, enum_to_str=True)
    assert isinstance(plain, dict), plain
    return plain


def _comments(kind: type | None) -> dict[str, str]:
    """The comment behind each field of a dataclass: the reason is written once, in the schema."""
    try:
        classes = [base for base in kind.__mro__[::-1] if base is not object] if kind else []
        source = "".join(inspect.getsource(base) for base in classes)
    except (OSError, TypeError):
        return {}
    return dict(re.findall(r"^    (\w+)\s*:.*?\s#\s*(.*)$", source, re.MULTILINE))

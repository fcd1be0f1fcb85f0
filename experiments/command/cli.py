"""The command line: `dreaming <verb> [key=value ...]`, the same as `python -m experiments.<verb>`.

Every verb is a module `experiments/<verb>.py` that ends like this:

    def run(config: DreamConfig, run_dir: Path) -> int | None: ...

    def main(argv: list[str] | None = None) -> int:
        return run_verb(run, argv, config_name="dream", schema=DreamConfig)

    if __name__ == "__main__":
        sys.exit(main())

The module's docstring is the help of the verb; its first line is shown in the list of verbs. Help
must not wait for JAX, so a verb imports modules that need JAX inside `run`.
"""

import ast
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.command.jobs import UsageError, did_you_mean, fail, run_one
from experiments.command.process import INTERRUPTED, as_command

VERBS = (
    "dream",
    "online",
    "record",
    "inspect-traces",
    "sources",
    "forget",
    "fit",
    "certify",
    "evaluate",
    "export",
    "pack",
    "unpack",
    "play",
    "atari100k",
    "benchmark",
    "report",
    "pretrain",
    "session-start",
    "session-end",
    "session-review",
    "session-status",
    "compact",
    "history",
    "rollback",
)
FLAGS = "--help, --multirun and --cfg job"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb named first in `argv`; returns the exit code.

    None: in what this process was started with; then Ctrl-C ends the process.
    """
    if argv is None:
        with as_command():
            return main(sys.argv[1:])
    argv, verbs = list(argv), available_verbs()
    if not argv or argv[0] in ("--help", "-h"):
        print(overview(verbs))
        return 0
    if argv[0] == "--version":
        from dreaming import __version__  # imports Gymnasium

        print(f"dreaming {__version__}")
        return 0
    verb = argv[0]
    if verb not in verbs:
        return fail(UsageError(f"unknown verb '{verb}'{did_you_mean(verb, verbs)}; see --help"))
    try:
        importlib.import_module("dreaming")  # first: it looks whose the packages beside it are
        module = importlib.import_module(f"experiments.{module_name(verb)}")
    except (Exception, KeyboardInterrupt) as error:
        return fail(error)
    return module.main(argv[1:])


def module_name(verb: str) -> str:
    """The module of a verb: `inspect-traces` is `inspect_traces`."""
    return verb.replace("-", "_")


def available_verbs() -> list[str]:
    """The verbs whose module file exists; imports nothing."""
    here = Path(__file__).parents[1]
    return [verb for verb in VERBS if (here / f"{module_name(verb)}.py").exists()]


def overview(verbs: Sequence[str]) -> str:
    """The text of `dreaming --help`."""
    lines = ["usage: dreaming <verb> [key=value ...]", "", "verbs:"]
    for verb in verbs:
        source = (Path(__file__).parents[1] / f"{module_name(verb)}.py").read_text("utf-8")
        doc = ast.get_docstring(ast.parse(source)) or ""
        lines.append(f"  {verb:<15} {doc.partition(chr(10))[0]}")
    lines += ["", "dreaming <verb> --help lists the options of a verb"]
    return "\n".join(lines)


def run_verb(
    run: Callable[[Any, Path], int | None],
    argv: Sequence[str] | None = None,
    *,
    config_name: str,
    schema: type,
    conf_dir: Path | None = None,
    apart: bool = False,
) -> int:
    """Compose the config of `conf/<config_name>.yaml` and call `run(config, run_dir)`.

    `config` is an instance of the dataclass `schema`. With `apart`, no two jobs of a sweep may have
    the same run directory. Returns the exit code: 0 success, 1 failure, 2 bad argument, 130
    interrupt. Every error is one line on stderr. `argv` None: what this process was started with.
    """
    if argv is None:
        with as_command():
            return run_verb(
                run,
                sys.argv[1:],
                config_name=config_name,
                schema=schema,
                conf_dir=conf_dir,
                apart=apart,
            )
    try:
        from experiments.command.options import VerbOptions  # imports Hydra

        flags, overrides = split_flags(argv)
        check_letters(overrides)
        options = VerbOptions(config_name, schema, conf_dir)
        overrides = options.opened(overrides)
        if "--help" in flags:
            print(options.help(*_verb_and_doc(run)))
            return 0
        if "--cfg" in flags:
            print(options.yaml(overrides), end="")
            return 0
        sweep = options.sweep(overrides) if "--multirun" in flags else [overrides]
        jobs = [options.compose(each) for each in sweep]
        if apart:
            check_apart([run_dir for _, run_dir in jobs])
        if "--multirun" in flags and options.launcher(overrides) != "basic":
            from experiments.command.sweep import launch

            return launch(options, run, overrides, sweep)
    except (Exception, KeyboardInterrupt) as error:
        return fail(error)
    return _one_by_one(run, jobs, sweep)


def _one_by_one(run: Callable, jobs: Sequence[tuple[Any, Path]], sweep: Sequence) -> int:
    """Run jobs (config, run directory) in this process; returns the worst exit code."""
    code = 0
    for index, (config, run_dir) in enumerate(jobs):
        if len(jobs) > 1:
            print(f"[{index + 1}/{len(jobs)}] {' '.join(sweep[index])}", flush=True)
        # A failing job does not stop the others.
        last = run_one(run, config, run_dir, sweep[index])
        if last == INTERRUPTED:
            return last
        code = max(code, last)
    return code


def check_letters(words: Sequence[str]) -> None:
    """Raise `UsageError` for words that this process could not read as text in its locale."""
    for word in words:
        if any("\udc80" <= letter <= "\udcff" for letter in word):
            raise UsageError(
                f"cannot read the letters of {ascii(word)} in this locale; set LC_ALL=C.UTF-8 or "
                "PYTHONUTF8=1"
            )


def check_apart(run_dirs: Sequence[Path]) -> None:
    """Raise `UsageError` if two jobs of a sweep would write into the same directory."""
    for number, run_dir in enumerate(run_dirs):
        first = run_dirs.index(run_dir)
        if first != number:
            raise UsageError(
                f"jobs {first + 1} and {number + 1} of this sweep would both write to {run_dir}; "
                "name what differs in it, for example "
                "'hydra.run.dir=runs/${experiment}/${env.id}/${teacher}/seed${seed}'"
            )


def split_flags(argv: Sequence[str]) -> tuple[set[str], list[str]]:
    """(flags, overrides `key=value`) in the arguments of a verb."""
    short = {"-h": "--help", "-m": "--multirun", "-c": "--cfg"}
    flags, overrides, rest = set(), [], list(argv)
    while rest:
        word = rest.pop(0)
        flag, _, value = word.partition("=")
        flag = short.get(flag, flag)
        if flag == "--cfg":
            value = value or (rest.pop(0) if rest else "")
            if value != "job":
                raise UsageError(f"--cfg shows 'job' only, got '{value}'")
            flags.add(flag)
        elif word.startswith("-"):
            if flag not in ("--help", "--multirun"):
                raise UsageError(f"unknown flag '{word}'; flags are {FLAGS}, options are key=value")
            flags.add(flag)
        else:
            overrides.append(word)
    return flags, overrides


def _verb_and_doc(run: Callable) -> tuple[str, str]:
    module = sys.modules[run.__module__]
    return Path(module.__file__ or "").stem.replace("_", "-"), module.__doc__ or ""

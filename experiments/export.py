"""Copy dream and policy out of a run directory; a log to Minari.

to=directory makes a new directory with world.dream, policy/ (if the run has
one) and a model card, README.md; to=file.dream copies the dream alone. The
copies are verified; nothing is overwritten.
Examples:
  dreaming export run=runs/dream/CartPole-v1/seed0 to=exports/cartpole
  dreaming export run=runs/fit/CartPole-v1/seed0 to=cartpole.dream
  dreaming export run=path/to/run to=/media/stick/robot-dream
A log becomes a Minari data set, without loss (extra minari):
  dreaming export traces=logs/cartpole to=minari:cartpole/random-v0
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from experiments.command.cli import run_verb
from experiments.command.unread import export_rules, refuse
from experiments.config import ExportConfig

MINARI = "minari:"
WORLD, POLICY, CANDIDATE, CARD = "world.dream", "policy", "candidate", "README.md"


def run(config: ExportConfig, run_dir: Path) -> int:
    """Copy, and print where."""
    from experiments.command import runtime

    refuse(export_rules(config))
    runtime.configure()
    if config.run is None:
        export_log(config)
        return 0
    source, target = Path(config.run), Path(config.to)
    check(source, target)
    if target.suffix == ".dream":
        copy_world(source / WORLD, target)
        print(f"{target}: {target.stat().st_size:,} bytes, verified")
        return 0
    export(source, target)
    for path in sorted(path for path in target.rglob("*") if path.is_file()):
        print(f"{path}: {path.stat().st_size:,} bytes")
    return 0


def export_log(config: ExportConfig) -> None:
    """Write the named log as a Minari data set, and print where. Raises `UserError`."""
    from dreaming.errors import ConfigError
    from envs.sources.minari import write_minari
    from experiments.logs.source import named_log

    log = named_log(config.traces, config.source)
    if log is None:
        raise ConfigError("nothing is named; add run=path/to/run, or traces=path/to/store")
    if not config.to.startswith(MINARI):
        what = "a log is exported as a Minari data set"
        raise ConfigError(f"to={config.to}: {what}; expected to={MINARI}cartpole/random-v0")
    path = write_minari(log, config.to.removeprefix(MINARI), **log.schema())
    print(f"{path}: open it with source.name=minari source.uri={config.to.removeprefix(MINARI)}")


def check(source: Path, target: Path) -> None:
    """Raise `ConfigError` if `source` holds no dream, or `target` cannot be made."""
    from dreaming.errors import ConfigError

    if not (source / WORLD).is_file():
        raise ConfigError(
            f"run={source} holds no {WORLD}; name the directory of a finished run of `dream` or "
            "`fit`"
        )
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ConfigError(f"to={target} exists already; choose another path, or remove it")


def export(source: Path, target: Path) -> None:
    """Write dream, policy and model card to the directory `target`, completely or not at all."""
    from dreaming import load_policy
    from envs.atomic import sync_directory, write_file

    draft = target.parent / f"{target.name}.tmp"
    shutil.rmtree(draft, ignore_errors=True)  # of an interrupted attempt
    draft.mkdir(parents=True)
    try:
        world = copy_world(source / WORLD, draft / WORLD)
        policies = {}
        for name in (POLICY, CANDIDATE):
            if (source / name).is_dir():
                (draft / name).mkdir()
                for path in sorted((source / name).iterdir()):
                    write_file(draft / name / path.name, path.read_bytes())
                policies[name] = load_policy(draft / name)
        write_file(draft / CARD, model_card(read_result(source), world, policies).encode())
        draft.replace(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    sync_directory(target.parent)


def copy_world(source: Path, target: Path) -> Any:
    """Copy a .dream file; returns the world in the copy. Raises `DreamFileError`."""
    from envs.atomic import sync_directory, write_file
    from envs.dreamfile import load_world

    load_world(source, trust=True)  # only checked: its programs are not run
    target.parent.mkdir(parents=True, exist_ok=True)
    write_file(target, source.read_bytes())
    sync_directory(target.parent)
    return load_world(target, trust=True)


def read_result(source: Path) -> dict[str, Any]:
    """result.json of a run; {} if it cannot be read."""
    try:
        return json.loads((source / "result.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}


def model_card(result: dict[str, Any], world: Any, policies: dict[str, Any]) -> str:
    """The model card README.md: what was exported, how far to trust it, how to use it.

    `policies` are the exported ones by the names of their directories.
    """
    task = result.get("env", "a task")
    lines = ["---", "library_name: dreaming", "tags: [world-model, gymnasium]", "---", ""]
    lines += [f"# A dream of {task if task != 'none' else 'a logged process'}", ""]
    steps = result.get("real_steps")
    learned = f"Learned from {steps:,} recorded real steps alone. " if steps else ""
    lines += [f"{learned}An environment like any other, made by `dreaming`.", ""]
    lines += ["| | |", "|---|---|"]
    rows = [("observations", f"`{world.observation_space}`")]
    rows += [("actions", f"`{world.action_space}`"), ("horizon", f"{world.horizon} steps")]
    rows += [("state", f"`{result['state_sha256']}`")] if result.get("state_sha256") else []
    rows += [(f"`{name}/`", standing(name, policy)) for name, policy in policies.items()]
    lines += [f"| {name} | {value} |" for name, value in rows]
    lines += ["", "## Use", "", "```python", "import dreaming, gymnasium", ""]
    lines += [f'env = gymnasium.make("dreaming/Dream-v0", path="{WORLD}")']
    if policies:
        lines += [f'policy = dreaming.load_policy("{next(iter(policies))}")']
        lines += ["o, info = env.reset(seed=0)"]
        lines += ["o, r, terminated, truncated, info = env.step(policy.act(o))"]
    lines += [
        "```",
        "",
        "The file holds programs and is signed with the key of the user who made it.",
    ]
    lines += ["Elsewhere add `trust=True`, if you trust where it comes from.", ""]
    return "\n".join([*lines, *_verdict(result), *_fidelity(result), *_versions(result)])


def standing(name: str, policy: Any) -> str:
    """What a policy is: deployed, tried and accepted, or tried and rejected."""
    if name == POLICY:
        return f"deployed, `{policy.name}`"
    verdict, reasons = policy.card.get("verdict"), policy.card.get("reasons") or ["?"]
    if verdict == "reject":
        return f"**rejected, not deployed**: {reasons[0]}"
    return f"the policy that was tried: {verdict}"


def _verdict(result: dict[str, Any]) -> list[str]:
    if "verdict" not in result:
        return ["## Verdict", "", "No policy has rehearsed in this world yet.", ""]
    lines = ["## Verdict", "", f"**{result['verdict']}**", ""]
    lines += [f"- {reason}" for reason in result.get("reasons") or []]
    named = [("behaviour in the log", result.get("behaviour_return"))]
    named += [(name.replace("_", " "), x) for name, x in (result.get("baselines") or {}).items()]
    named += [(name, result.get(f"{name}_return")) for name in ("candidate", "deployed")]
    rows = [
        f"| {name} | {x['mean']:.4g} | {x['ci'][0]:.4g} to {x['ci'][1]:.4g} | {x['episodes']} |"
        for name, x in named
        if x
    ]
    head = ["", "| real return | mean | 95% interval | episodes |", "|---|---|---|---|"]
    return [*lines, *(head + rows if rows else []), ""]


def _fidelity(result: dict[str, Any]) -> list[str]:
    figures = {
        k: v for k, v in (result.get("fidelity") or {}).items() if isinstance(v, int | float)
    }
    rows = [f"| {name} | {value:.4g} |" for name, value in sorted(figures.items())]
    about = "On episodes that the tested model never saw."
    return ["## Fidelity", "", about, "", "| | |", "|---|---|", *rows, ""] if rows else []


def _versions(result: dict[str, Any]) -> list[str]:
    named = [f"{name} {version}" for name, version in (result.get("versions") or {}).items()]
    return [f"Made with {', '.join(named)}."] if named else []


def main(argv: list[str] | None = None) -> int:
    """The command line of this verb; returns the exit code."""
    return run_verb(run, argv, config_name="export", schema=ExportConfig)


if __name__ == "__main__":
    sys.exit(main())

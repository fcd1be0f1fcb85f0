"""The whole loop: log, world model, dream, rehearsal, verdict.

Records a log (or reads one), fits a world model, lets a student rehearse in its
dream, and tests the new policy in the real task. A run that was stopped goes on
where it was when it is started again. Examples:
  dreaming dream                                CartPole, 2,000 random steps
  dreaming dream env=mountaincar seed=1 teacher=one_step
  dreaming dream env=gym env.id=Acrobot-v1 env.behaviour=sticky_random
  dreaming dream traces=path/to/store env=none  a log without a simulator
Later, when that log has grown, the next round of the same run:
  dreaming dream run=runs/dream/CartPole-v1/seed0 traces=path/to/store
Learn from a session of a registry instead (see session-start), with options of
its own (dreaming dream session=ID --help):
  dreaming dream registry=registries/desks session=7-1
Many seeds, two at a time, and then their common report:
  dreaming dream --multirun seed=0,1,2,3,4 hydra/launcher=processes devices=1
  dreaming report runs=runs/dream
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experiments.command.alone import alone_in
from experiments.command.cli import run_verb
from experiments.command.progress import Progress
from experiments.config import DreamConfig
from experiments.runs.session_config import DreamSessionConfig


def run(config: DreamConfig, run_dir: Path) -> int:
    """Run the whole loop and write all results to `run_dir`, or the next round of a run there."""
    if config.run is None:
        with begun(run_dir, config) as progress:
            from experiments.runs.dream import whole_loop

            result = whole_loop(config, run_dir, progress)
    else:
        from experiments.command import runtime

        runtime.configure(devices=config.devices)
        from experiments.runs.dream import next_round

        with alone_in(config.run):
            result, lineage = next_round(config, begun)
        run_dir = lineage.run_dir
    print(summary(result, run_dir))
    if config.run is not None:
        print(f"lineage: {Path(config.run) / 'lineage.html'}")
    return 0


@contextmanager
def begun(run_dir: Path, config: DreamConfig) -> Iterator[Progress]:
    """The progress of a run, with what it found in the end."""
    with alone_in(run_dir), Progress(run_dir) as progress:
        task = config.traces or config.source.uri or config.env.id
        progress.log(f"dreaming of {task}, seed {config.seed}, in {run_dir}")
        from experiments.command.trackers import final_figures, open_tracker

        progress.track(open_tracker(config, run_dir))
        from experiments.command import runtime

        runtime.configure(devices=config.devices)
        yield progress
        result = json.loads((run_dir / "result.json").read_text("utf-8"))
        progress.finish(result["real_steps"], final_figures(result))


def summary(result: dict[str, Any], run_dir: Path) -> str:
    """The text printed at the end of a run."""
    figure = lambda x: (
        "none" if x is None else f"{x['mean']:.1f} [{x['ci'][0]:.1f}, {x['ci'][1]:.1f}]"
    )
    rows = [
        ("behaviour in the log", result["behaviour_return"]),
        *((name.replace("_", " "), x) for name, x in result["baselines"].items()),
        ("candidate", result["candidate_return"]),
        ("deployed", result["deployed_return"]),
    ]
    lines = ["", f"verdict: {result['verdict']}"]
    lines += [f"  {reason}" for reason in result["reasons"]]
    lines += ["real return (mean, 95% interval):"]
    lines += [f"  {name:<24}{figure(x)}" for name, x in rows]
    lines += [f"report: {run_dir / 'report.html'}"]
    return "\n".join(lines)


def learn_from_session(config: DreamSessionConfig, run_dir: Path) -> int:
    """Learn from a session of a registry, and print what came of it."""
    from experiments.command import runtime

    with Progress() as progress:
        runtime.configure()
        from experiments.runs.sessions import dream

        with progress.stage("self-distil", total=config.self_distil.updates) as stage:
            learned = dream(config, stage.update)
    print(learned.reason)
    if learned.head is None:
        return 0
    print(f"head {learned.head.number}: {100 * learned.report['share']:.1f} % of weights changed")
    return 0


def main(argv: list[str] | None = None) -> int:
    """The command line of this verb; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    if any(word.startswith("session=") for word in words):
        return run_verb(
            learn_from_session, argv, config_name="dream_session", schema=DreamSessionConfig
        )
    return run_verb(run, argv, config_name="dream", schema=DreamConfig, apart=True)


if __name__ == "__main__":
    sys.exit(main())

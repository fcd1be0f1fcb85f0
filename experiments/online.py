"""Learn while collecting: real steps and rounds take turns.

The first steps are random; then the newest student collects, and each round of
world model and rehearsal uses all steps collected so far. Every student
collects, also the last one, and the one that earned most is deployed. A run
that was stopped goes on where it was when it is started again. Examples:
  dreaming online                         CartPole, 2,000 real steps in all
  dreaming online env=mountaincar seed=1
  dreaming online env=gym env.id=Acrobot-v1 env.real_steps=10000
  dreaming online budget_minutes=1        saves, stops, goes on next time
Where observations are frames, the agent of `agent=` acts by search and learns
from a replay of frames while its environments run:
  dreaming online env=catch               nano, on a CPU
  dreaming online env=gym env.id=... agent=base platform=gpu
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.command.alone import alone_in
from experiments.command.cli import run_verb
from experiments.command.progress import Progress
from experiments.command.stopping import Stopped, Stopping
from experiments.command.unread import online_rules, refuse
from experiments.config import OnlineConfig


def run(config: OnlineConfig, run_dir: Path) -> int:
    """Learn, and write all results to `run_dir`."""
    with (
        alone_in(run_dir),
        Progress(run_dir) as progress,
        Stopping(config.budget_minutes) as stop,
    ):
        progress.log(f"learning {config.env.id} online, seed {config.seed}, in {run_dir}")
        from experiments.command.trackers import final_figures, open_tracker

        progress.track(open_tracker(config, run_dir))
        from experiments.command import runtime

        runtime.configure(devices=config.devices, platform=config.platform)
        try:
            result = chosen(config)(config, run_dir, progress, stop)
        except Stopped as reason:
            progress.log(f"stopped, {reason}; the same command goes on where {run_dir} ends")
            return 0
        progress.finish(result["real_steps"], final_figures(result))
    print(summary(result, run_dir))
    return 0


def chosen(config: OnlineConfig) -> Callable:
    """The function that learns: in rounds or, for frames, `learn_from_frames`."""
    from dreaming.errors import ConfigError
    from envs.frames import is_frame
    from envs.real import make_real

    if config.env.id == "none":
        raise ConfigError("env=none has nothing to collect; name a task with env= or env.id=")
    task = make_real(config.env.id, config.env.options)
    space = task.observation_space
    task.close()
    kind = "frames" if is_frame(space) else "vectors"
    refuse(online_rules(config, kind))
    if kind == "frames":
        from experiments.runs.online_frames import learn_from_frames

        return learn_from_frames
    from experiments.runs.online_rounds import learn_online

    return learn_online


def summary(result: dict[str, Any], run_dir: Path) -> str:
    """The text printed at the end of a run."""
    from experiments.pages.learning import round_of

    figure = lambda x: f"{x['mean']:.1f} [{x['ci'][0]:.1f}, {x['ci'][1]:.1f}]"
    lines = ["", f"real return after {result['real_steps']} real steps (mean, 95% interval):"]
    rows = [("first, random steps", "behaviour_return"), ("deployed", "deployed_return")]
    lines += [f"  {name:<24}{figure(result[key])}" for name, key in rows if result.get(key)]
    if which := round_of(result):
        lines += [f"deployed is {which}"]
    lines += [f"report: {run_dir / 'report.html'}"]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """The command line of this verb; returns the exit code."""
    return run_verb(run, argv, config_name="online", schema=OnlineConfig, apart=True)


if __name__ == "__main__":
    sys.exit(main())

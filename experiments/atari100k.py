"""A game of Atari-100k: 100,000 decisions, then its score.

Scored are 100 games with the last weights. The agent is EfficientZero; `size`
is what it is learned with: nano (two cores of a CPU), small (one consumer GPU)
or base (EfficientZero's own). The rules are protocol.* and evaluation.*. The
emulator is the extra: pip install 'dreaming[atari]'. With --multirun a process
passes by what is finished and what others play, and takes over what a dead one
left; any number of them, on any machines that share the directory, play one
suite, and `dreaming report runs=` makes its table. Fewer decisions make a dry
run, shorter in all its parts. Examples:
  dreaming atari100k game=Breakout
  dreaming atari100k game=Breakout real_steps=300
  dreaming atari100k game=Pong size=base platform=gpu budget_minutes=50
  dreaming atari100k --multirun game=Boxing,Freeway,Pong seed=0,1,2
  dreaming report runs=runs/atari100k/nano
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.command.cli import run_verb
from experiments.command.process import as_command
from experiments.command.progress import Progress
from experiments.command.stopping import Stopped, Stopping
from experiments.command.unread import atari_rules, refuse
from experiments.runs.atari_options import AtariConfig, online


def run(config: AtariConfig, run_dir: Path) -> int:
    """Play a game, and write all results to `run_dir`."""
    from experiments.command import runtime

    refuse(atari_rules(config))
    runtime.configure(devices=config.devices, platform=config.platform)
    from experiments.runs.atari_game import check_game
    from experiments.runs.queue import Held

    check_game(config.game)
    with Progress(run_dir) as progress, Stopping(config.budget_minutes) as stop:
        try:
            with Held(run_dir) as held:
                result = learned(config, run_dir, progress, stop, held)
        except Stopped as reason:
            progress.log(f"stopped, {reason}; the same command goes on where {run_dir} ends")
            return 0
    print(summary(result, run_dir))
    return 0


def share(config: AtariConfig, run_dir: Path) -> int:
    """As `run`, of a suite that others may play as well: finished and taken games are passed."""
    from experiments.runs.atari_game import is_finished
    from experiments.runs.queue import Taken

    if is_finished(config, run_dir):
        print(f"{run_dir}: done before")
        return 0
    try:
        return run(config, run_dir)
    except Taken as reason:
        print(f"passed by: {reason}")
        return 0


def learned(
    config: AtariConfig, run_dir: Path, progress: Progress, stop: Stopping, held: Any
) -> dict[str, Any]:
    """The result of a game that this process holds."""
    from experiments.command.trackers import final_figures, open_tracker
    from experiments.runs.atari_game import play

    progress.log(f"playing {config.game}, seed {config.seed}, size {config.size}, in {run_dir}")
    if held.before is not None:
        progress.log(f"taken over from {held.before}, which is dead")
    progress.track(open_tracker(online(config), run_dir))
    result = play(config, run_dir, progress, both(stop, held), held)
    progress.finish(result["real_steps"], final_figures(result))
    return result


def both(stop: Stopping, held: Any) -> Any:
    """`stop()` that also ends a run which another process has taken over."""

    def check(*_: Any) -> None:
        held.check()
        stop()

    return check


def summary(result: dict[str, Any], run_dir: Path) -> str:
    """The text printed at the end of a game."""
    from experiments.atari.published import human_normalised

    game, score, sticky = (result[name] for name in ("env", "deployed_return", "sticky_return"))
    what = f"a dry run of {game}" if result["is_dry_run"] else game
    figure = lambda x: f"{x['mean']:.1f} [{x['ci'][0]:.1f}, {x['ci'][1]:.1f}] in {x['episodes']}"
    normal = human_normalised(game, score["mean"])
    lines = ["", f"{what} after {result['real_steps']} decisions, size {result['size']}:"]
    lines += [f"  score (95% interval)    {figure(score)} games"]
    lines += [f"  with sticky actions     {figure(sticky)} games"] if sticky else []
    lines += [f"  human-normalised        {normal:.3f} (0 = random, 1 = human)"]
    return "\n".join([*lines, f"report: {run_dir / 'report.html'}"])


def grouped(word: str) -> str:
    """`size=` as the group of Hydra's that it chooses from; a group named `size` would take that
    word from other verbs."""
    return f"atari_{word}" if word.startswith("size=") else word


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of this verb; returns the exit code."""
    if argv is None:
        with as_command():
            return main(sys.argv[1:])
    words = [grouped(word) for word in argv]
    work = share if {"--multirun", "-m"} & set(words) else run
    return run_verb(work, words, config_name="atari100k", schema=AtariConfig, apart=True)


if __name__ == "__main__":
    sys.exit(main())

"""Score a saved policy in the real task, in a dream, or both.

Episodes are new ones; those of seed=0 are the same as in a run's report. A
policy of `online` on frames acts by search, unless search=false.
Examples:
  dreaming evaluate policy=runs/dream/CartPole-v1/seed0/policy env=cartpole
  dreaming evaluate policy=path/to/policy env=gym env.id=Acrobot-v1 seed=1
  dreaming evaluate policy=path/to/policy world=runs/.../world.dream
Of the env options only env.id and env.options are used.
"""

import sys
from pathlib import Path
from typing import Any

from experiments.command.cli import run_verb
from experiments.command.progress import Progress
from experiments.config import EvaluateConfig


def run(config: EvaluateConfig, run_dir: Path) -> int:
    """Score the policy, print the returns, and write them to `config.json` if it is given."""
    with Progress() as progress:
        progress.log(f"evaluating {config.policy}, seed {config.seed}")
        from experiments.command import runtime

        runtime.configure(devices=config.devices)
        from dreaming.checkpoint import atomic_write
        from experiments.pages.words import to_json
        from experiments.runs.evaluate import score

        result = score(config, progress)
    print(summary(result))
    if config.json is not None:
        atomic_write(config.json, to_json(result))
        print(f"written to {config.json}")
    return 0


def summary(result: dict[str, Any]) -> str:
    """The printed text."""
    lines = ["", "return per episode (mean, 95% interval):"]
    for name, key in (("real", "real_return"), ("dream", "dream_return")):
        if x := result.get(key):
            figure = f"{x['mean']:.4g} [{x['ci'][0]:.4g}, {x['ci'][1]:.4g}]"
            where = result["env"] if name == "real" else result["world"]
            lines.append(f"  {name:<7}{figure:<28}{x['episodes']} episodes of {where}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """The command line of this verb; returns the exit code."""
    return run_verb(run, argv, config_name="evaluate", schema=EvaluateConfig)


if __name__ == "__main__":
    sys.exit(main())

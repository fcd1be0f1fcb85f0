"""Score a saved policy in the real task, in a dream, or both.

Every episode is a fresh one; seed=0 are the very episodes of a run's report. A
policy of `online` on images looks ahead as it did there, unless search=false.
Examples:
  dreaming evaluate policy=runs/dream/CartPole-v1/seed0/policy env=cartpole
  dreaming evaluate policy=path/to/policy env=gym env.id=Acrobot-v1 seed=1
  dreaming evaluate policy=path/to/policy world=runs/.../world.dream
Of env, only env.id and env.options count.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.cli import run_verb
from experiments.config import EvaluateConfig
from experiments.progress import Progress


def run(config: EvaluateConfig, run_dir: Path) -> int:
    """Score, print, and write `config.json` if it is named."""
    with Progress() as progress:
        progress.log(f"evaluating {config.policy}, seed {config.seed}")
        from experiments import runtime

        runtime.configure(devices=config.devices)
        from dreaming.checkpoint import atomic_write
        from experiments.report import to_json

        result = score(config, progress)
    print(summary(result))
    if config.json is not None:
        atomic_write(config.json, to_json(result))
        print(f"written to {config.json}")
    return 0


def score(config: EvaluateConfig, progress: Progress) -> dict[str, Any]:
    """Summaries of the returns. Raises `UserError` where policy, task and world do not agree."""
    import jax

    from dreaming import load_policy, statistics
    from dreaming.agent_policy import AgentPolicy
    from dreaming.errors import ConfigError
    from dreaming.evaluate import dream_returns
    from envs.dreamfile import load_world
    from envs.types import Features, action_features
    from experiments import loop

    if config.env.id == "none" and config.world is None:
        raise ConfigError(
            "nothing to score the policy in; name the task with env=cartpole or env=gym "
            "env.id=..., or a dream with world=path/to/world.dream"
        )
    policy = load_policy(config.policy)
    world = None if config.world is None else load_world(config.world, trust=config.trust)
    spaces = Features(policy.observation_space), action_features(policy.action_space)
    if world is not None:
        if isinstance(policy, AgentPolicy):
            raise ConfigError(f"{config.policy} is an agent with its own model; leave world= out")
        check_world(config, world, policy)
    episodes, result = config.evaluation.episodes, {"policy": config.policy, "seed": config.seed}
    if config.env.id != "none":
        advice = "evaluate it in the task it was made for"
        loop.check_spaces(config.env, *spaces, "the policy", advice)
        limit = loop.task_limit(config.env) or policy.card.get("horizon")
        first = loop.REPORT_SEED + config.seed * episodes
        seeds = list(range(first, first + episodes))
        with progress.stage("real", total=episodes) as stage:
            if isinstance(policy, AgentPolicy):
                returns, lengths = agent_returns(config, policy, limit, seeds, stage.update)
            elif limit is None:
                raise ConfigError(
                    f"{config.env.id} has no step limit; add +env.options.max_episode_steps=1000"
                )
            else:
                real = loop.real_scorer(config.env, *spaces, policy.window, limit)
                returns, lengths = real(policy.params, seeds, stage.update)
        result |= {"env": config.env.id, "real_return": statistics.summary(returns)}
        result |= {"real_steps": int(lengths.sum())}
    if world is not None:
        dreams, key = config.evaluation.dreams, jax.random.key(config.seed % 2**32)
        with progress.stage("dream"):
            returns = dream_returns(world, policy.params, key, dreams)
        result |= {"world": config.world, "dream_return": statistics.summary(returns)}
    return result


def agent_returns(
    config: EvaluateConfig, policy: Any, limit: int | None, seeds: list[int], update: Callable
) -> tuple[Any, Any]:
    """(returns, lengths) of an online agent's real episodes."""
    from dreaming.evaluate import evaluate
    from envs.real import make_real

    done = 0

    def told(finished: int) -> None:
        nonlocal done
        update(finished - done)
        done = finished

    found = evaluate(
        lambda: make_real(config.env.id, **config.env.options),
        policy.rows(config.search),
        seeds,
        observation=policy.observation,
        action=policy.action,
        window=policy.window,
        max_steps=limit,
        progress=told,
    )
    return found.returns, found.lengths


def check_world(config: EvaluateConfig, world: Any, policy: Any) -> None:
    """Raise `ConfigError` when the policy cannot live in the world."""
    from dreaming.errors import ConfigError

    for name in ("observation_space", "action_space"):
        theirs, ours = getattr(world, name), getattr(policy, name)
        if theirs != ours:
            raise ConfigError(
                f"{config.world} has the {name.replace('_', ' ')} {theirs}, the policy has {ours}; "
                "evaluate it in a dream of its own task"
            )
    if (window := world.starts.o.shape[1]) != policy.window:
        raise ConfigError(
            f"{config.world} shows {window} observations, the policy looks at {policy.window}; "
            "take both from the same run"
        )


def summary(result: dict[str, Any]) -> str:
    """What is printed."""
    lines = ["", "return per episode (mean, 95% interval):"]
    for name, key in (("real", "real_return"), ("dream", "dream_return")):
        if x := result.get(key):
            figure = f"{x['mean']:.4g} [{x['ci'][0]:.4g}, {x['ci'][1]:.4g}]"
            where = result["env"] if name == "real" else result["world"]
            lines.append(f"  {name:<7}{figure:<28}{x['episodes']} episodes of {where}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """The verb."""
    return run_verb(run, argv, config_name="evaluate", schema=EvaluateConfig)


if __name__ == "__main__":
    sys.exit(main())

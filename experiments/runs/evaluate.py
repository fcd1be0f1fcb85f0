"""Returns of a saved policy in the real task, in a dream, or both."""

from collections.abc import Callable
from typing import Any

import jax

from dreaming import load_policy, statistics
from dreaming.efficientzero.policy import AgentPolicy
from dreaming.errors import ConfigError
from dreaming.student.evaluate import evaluate
from dreaming.student.walks import dream_returns
from envs.dreamfile import load_world
from envs.real import make_real
from envs.types import Features, action_features
from experiments.command.progress import Progress
from experiments.command.unread import evaluate_rules, refuse
from experiments.config import EvaluateConfig
from experiments.logs.reading import check_spaces
from experiments.runs.results import REPORT_SEED
from experiments.runs.scoring import real_scorer, task_limit


def score(config: EvaluateConfig, progress: Progress) -> dict[str, Any]:
    """Summaries of the returns. Raises `UserError` if policy, task and world do not match."""
    if config.env.id == "none" and config.world is None:
        raise ConfigError(
            "nothing to score the policy in; name the task with env=cartpole or env=gym "
            "env.id=..., or a dream with world=path/to/world.dream"
        )
    policy = load_policy(config.policy)
    refuse(evaluate_rules(config, isinstance(policy, AgentPolicy)))
    world = None if config.world is None else load_world(config.world, trust=config.trust)
    spaces = Features(policy.observation_space), action_features(policy.action_space)
    if world is not None:
        if isinstance(policy, AgentPolicy):
            raise ConfigError(f"{config.policy} is an agent with its own model; leave world= out")
        check_world(config, world, policy)
    result: dict[str, Any] = {"policy": config.policy, "seed": config.seed}
    if config.env.id != "none":
        episodes = config.evaluation.episodes
        advice = "evaluate it in the task it was made for"
        check_spaces(config.env, *spaces, "the policy", advice)
        limit = task_limit(config.env) or policy.card.get("horizon")
        first = REPORT_SEED + config.seed * episodes
        seeds = list(range(first, first + episodes))
        with progress.stage("real", total=episodes) as stage:
            if isinstance(policy, AgentPolicy):
                returns, lengths = agent_returns(config, policy, limit, seeds, stage.update)
            elif limit is None:
                raise ConfigError(
                    f"{config.env.id} has no step limit; add env.options.max_episode_steps=1000"
                )
            else:
                real = real_scorer(config.env, *spaces, policy.window, limit)
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

    found = evaluate(
        lambda: make_real(config.env.id, config.env.options),
        policy.acting(config.search),
        seeds,
        observation=policy.observation,
        action=policy.action,
        window=policy.window,
        max_steps=limit,
        update=update,
    )
    return found.returns, found.lengths


def check_world(config: EvaluateConfig, world: Any, policy: Any) -> None:
    """Raise `ConfigError` if the policy's spaces or window differ from the world's."""
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

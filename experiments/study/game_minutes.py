"""Minutes that a game of Atari-100k takes, predicted from measured rates: an extrapolation.

python -m experiments.study.game_minutes size=nano game=Breakout capacity=512 calls=10

Rates are those of the size's own shapes, by the time that the process really computes, so that
other programs on the machine do not count: on one core these are minutes of an idle core. The
schedule is that of `dreaming atari100k`; without the final evaluation, checkpoints and compilation.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from envs.real import make_real
from experiments.bench.case import PassingOn, Workload, filled_state
from experiments.bench.predict import minutes_per_game
from experiments.command import runtime
from experiments.command.options import VerbOptions
from experiments.runs.atari_options import ENV, AtariConfig, online, training
from experiments.study.options import options

OPTIONS = {"size": "nano", "game": "Breakout", "capacity": "512", "calls": "10"}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    if (given := options(argv, OPTIONS)) is None:
        return 2
    runtime.configure(devices=1)
    words = [f"size={given['size']}", f"game={given['game']}"]
    config, _ = VerbOptions("atari100k", AtariConfig).compose(words)
    env = make_real(ENV, {"game": config.game, **training(config)})
    case = workload(config, env, int(given["capacity"]))
    rates = measured(case, int(given["calls"]))
    rates["emulator decisions"] = emulator_rate(env)
    for name, rate in rates.items():
        print(f"{name:<20}{rate:10.1f} per CPU second")
    game = config.agent
    minutes = minutes_per_game(
        game, rates["updates"], rates["refreshed states"], rates["decisions"]
    )
    minutes["emulator_minutes"] = game.real_steps / rates["emulator decisions"] / 60
    minutes["minutes_per_game"] += minutes["emulator_minutes"]
    for name, each in minutes.items():
        print(f"{name.replace('_', ' '):<20}{each:10.1f} (extrapolated)")
    return 0


def workload(config: AtariConfig, env: Any, capacity: int) -> Workload:
    """The agent of a game with a small ring, for the benchmark's parts."""
    side, channels = config.protocol.side, 1 if config.protocol.grey else 3
    agent = online(config).agent
    agent = replace(agent, replay=replace(agent.replay, capacity=capacity), updates_per_call=1)
    return Workload(
        config=agent,
        frame=(side, side, channels),
        num_actions=int(env.action_space.n),
        searches=agent.envs,
        dreams=1,
        repetitions=1,
        seed=0,
        devices=jax.devices(),
    )


def measured(case: Workload, calls: int) -> dict[str, float]:
    """Decisions, updates and refreshed states per CPU second."""
    state, agent = filled_state(case), case.agent
    shape = case.config.envs, case.config.window, *case.frame
    frames = jax.random.bits(case.key("frames"), shape, jnp.uint8)
    act = lambda: jax.block_until_ready(
        agent.act(state.params, state.key, 0, frames, state.updates)
    )
    found = {"decisions": case.config.envs / seconds(act, 5 * calls)}
    learn = PassingOn(lambda state: agent.learn(state)[0], state)
    found["updates"] = 1 / seconds(learn, calls)
    refresh = PassingOn(agent.refresh, learn.state)
    found["refreshed states"] = case.config.replay.capacity / seconds(refresh, max(1, calls // 5))
    return found


def emulator_rate(env: Any, decisions: int = 500) -> float:
    """Decisions per CPU second of one emulator, with uniformly random actions."""
    env.action_space.seed(0)
    env.reset(seed=0)

    def step() -> None:
        *_, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()

    return 1 / seconds(step, decisions)


def seconds(call: Callable[[], object], calls: int) -> float:
    """Mean CPU seconds of a call, after one to warm up."""
    call()
    began = time.process_time()
    for _ in range(calls):
        call()
    return (time.process_time() - began) / calls


if __name__ == "__main__":
    sys.exit(main())

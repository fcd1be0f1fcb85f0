"""Online learning from frames: turns of the agent and its environments, with checkpoints."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dreaming import statistics
from dreaming.checkpoint import state_sha256
from dreaming.efficientzero.actors import Actors
from dreaming.efficientzero.agent import Agent, make_agent
from dreaming.efficientzero.policy import AgentPolicy, agent_policy_files
from dreaming.efficientzero.recording import extend_once
from dreaming.efficientzero.turns import is_over, learn_due, take_turn
from dreaming.efficientzero.types import AgentState
from dreaming.gate.verdict import ungated
from dreaming.student.evaluate import evaluate
from envs.real import make_real
from envs.types import Trace
from experiments.command.progress import Progress, Stage
from experiments.command.stopping import Stopped, stopping
from experiments.config import OnlineConfig
from experiments.runs.directory import begin, finish, values_of
from experiments.runs.lineage import Lineage
from experiments.runs.memory import agent_knobs, out_of_memory_told
from experiments.runs.once import Once
from experiments.runs.results import REPORT_SEED, common, root_key

NAME = "learn"  # of the stage whose state is saved repeatedly
STATE_VERSION = 2  # version of the saved state of agent and environments
KNOBS = {x: f"agent.{x}" for x in ("replay.capacity", "replay.batch", "refresh_batch", "size")}


def learn_from_frames(
    config: OnlineConfig, run_dir: Path, progress: Progress, stop: Callable
) -> dict[str, Any]:
    """Everything `dreaming online` does where observations are frames; the content of result.json.

    Raises `UserError` for errors that a user can fix, and `Stopped` from `stop`, after saving.
    """
    once = Once(run_dir, stage_fields(config), progress)
    begin(run_dir, config)
    env = config.env
    make_env = lambda: make_real(env.id, env.options)
    actors = make_actors(config, make_env)
    shape = config.agent, actors.frame, actors.num_actions
    try:
        with out_of_memory_told(lambda: agent_knobs(*shape, KNOBS)):
            agent = make_agent(*shape, jax.devices() if config.devices else None)
            run = AgentRun(config, agent, actors, once, run_dir)
            run.resume()
            run.learn(stop)
            policy = run.policy(make_env)
            returns = run.evaluate(policy, make_env, stop)
    finally:
        actors.close()
    result = run.result(returns)
    files = agent_policy_files(policy)
    Lineage(run_dir).leave(files, files)
    figures = {"returns": {"deployed": returns["deployed"].tolist()}}
    finish(run_dir, config, result, figures)
    return result


def make_actors(config: OnlineConfig, make_env: Callable) -> Actors:
    """The environments of a run; they remember the episodes whose frames are in the ring."""
    agent = config.agent
    keep = agent.replay.capacity // agent.envs
    record = config.collect.traces
    return Actors(make_env, agent.envs, config.seed, agent.window, keep, record)


def stage_fields(config: OnlineConfig) -> dict[str, dict[str, Any]]:
    """The options that each stage depends on; with other values it is another run."""
    every = values_of(config)
    learned = {name: every[name] for name in ("seed", "env", "agent")}
    learned |= {"ticks": config.collect.ticks, "state": STATE_VERSION}
    return {NAME: learned, "evaluate": learned | {"evaluation": every["evaluation"]}}


class AgentRun:
    """A running job: the agent's state, its environments, and their checkpoints."""

    def __init__(
        self, config: OnlineConfig, agent: Agent, actors: Actors, once: Once, run_dir: Path
    ):
        self.config, self.agent, self.actors, self.once = config, agent, actors, once
        self.folder, self.traces = run_dir / "traces", list[Trace]()
        self.state: AgentState
        self.seconds = 0.0  # of earlier attempts

    def resume(self) -> None:
        """Begin, or continue from the newest checkpoint."""
        stages, key = self.once.stages, root_key(self.config)
        if not stages.done(NAME):
            self.state = self.agent.init(key)
            self.actors.begin()
            return
        info = stages.info(NAME)
        like = jax.eval_shape(self.agent.init, key)
        self.state = self.agent.place(stages.load(NAME, like))
        self.seconds = info["seconds"]
        if not is_over(self.config.agent, self.state):
            self.actors.restore(info["actors"])
        self.once.progress.log(f"{NAME}: goes on after {int(self.state.real_steps)} real steps")

    def learn(self, stop: Callable) -> None:
        """Take turns until the real steps are used up, then do the remaining updates."""
        config, start = self.config.agent, int(self.state.real_steps)
        ticks, every = self.config.collect.ticks, self.config.collect.save_every
        progress = self.once.progress
        with (
            progress.stage(NAME, config.real_steps, start) as shown,
            ThreadPoolExecutor(1) as thread,
        ):
            while not is_over(config, self.state):
                before = int(self.state.real_steps)
                self.state, collected, metrics = take_turn(
                    self.agent, config, self.actors, self.state, ticks, thread
                )
                self.traces += [x for each in self.actors.recordings for x in each.take()]
                if collected.returns:
                    metrics["collect/return"] = float(np.mean(collected.returns))
                if collected.real_steps:  # lines are identified by their step
                    shown.update(collected.real_steps, **metrics)
                if (before + collected.real_steps) // every > before // every:
                    self.save(shown)
                try:
                    stop()
                except Stopped:
                    self.save(shown)
                    raise
            updates = int(self.state.updates)
            self.state, _ = learn_due(self.agent, config, self.state)
            if int(self.state.updates) > updates or not self.once.stages.done(NAME):
                self.save(shown)
        self.once.seconds[NAME] = self.once.stages.info(NAME)["seconds"]

    def save(self, shown: Stage) -> None:
        """Save a checkpoint, and before it the finished episodes."""
        self.record()
        seconds = round(self.seconds + shown.elapsed, 3)
        info = {"actors": self.actors.saved(), "seconds": seconds}
        self.once.stages.commit(NAME, jax.device_get(self.state), info)

    def record(self) -> None:
        """Add finished episodes to the log in traces/; at the end also the running ones."""
        recordings = self.actors.recordings
        if not recordings:
            return
        if is_over(self.config.agent, self.state):
            self.traces += [x for each in recordings for x in each.running()]
        extend_once(self.folder, self.traces, recordings[0].env)
        self.traces = []

    def policy(self, make_env: Callable) -> AgentPolicy:
        """The learned policy."""
        env, config, state = make_env(), self.config, self.state
        env.close()
        card = {
            "env": config.env.id,
            "real_steps": int(state.real_steps),
            "updates": int(state.updates),
            "verdict": ungated().word,
        }
        spaces = env.observation_space, env.action_space
        known = {"card": card, "agent": self.agent}
        return AgentPolicy(state.params, state.key, config.agent, *spaces, **known)

    def evaluate(
        self, policy: AgentPolicy, make_env: Callable, stop: Callable, stage: str = "evaluate"
    ) -> dict[str, np.ndarray]:
        """Returns of new episodes, acting by search without noise; done once, as `stage`."""
        count = self.config.evaluation.episodes

        def work(update: Callable) -> dict[str, np.ndarray]:
            found = evaluate(
                make_env,
                policy.acting(search=True),
                range(REPORT_SEED, REPORT_SEED + count),
                observation=policy.observation,
                action=policy.action,
                window=policy.window,
                update=stopping(update, stop),
            )
            return {"deployed": found.returns, "steps": np.array(found.steps)}

        like = {"deployed": np.zeros(count), "steps": np.array(0)}
        return self.once(stage, count, like, work)

    def result(self, returns: dict[str, np.ndarray]) -> dict[str, Any]:
        """The content of result.json."""
        config, state = self.config, self.state
        updates, simulations = int(state.updates), config.agent.search.num_simulations
        searches = int(state.searches) + int(state.ring.added)
        return common(config, self.once) | {
            "verdict": ungated().word,
            "rounds": int(state.version),
            "real_steps": int(state.real_steps),
            "fit_steps": updates,
            "gate_steps": 0,
            "evaluation_steps": int(returns["steps"]),
            "search_steps": searches * simulations,
            "deployed_return": statistics.summary(returns["deployed"]),
            "fidelity": {},
            "state_sha256": state_sha256(jax.device_get(state)),
        }

"""The gate in the real task: what it has to beat, when it stops, which episodes, which words."""

import jax
import numpy as np
import pytest

from dreaming.config import FIRST_SEED, GateConfig
from dreaming.gate.boundary import errors_of_looks
from dreaming.gate.incumbent import Incumbent
from dreaming.gate.real import gate_seeds, judged, real_gate, unplayed
from envs.types import Trace

KEY = jax.random.key(3)
CONFIG = GateConfig(episodes=8)


def log(returns, policy="random", still_open=False):
    """An episode of one step for each return."""
    ends = (False, False) if still_open else (True, False)
    one = lambda r: Trace(np.zeros(2, int), np.zeros(1, int), np.array([r]), *ends, policy=policy)
    return [one(float(r)) for r in returns]


NO_LOG = Incumbent("old", False, np.zeros(0), [], None, np.zeros(0))


def incumbent(returns, deployed=None, policy="random"):
    return Incumbent.of(deployed, "clone", log(returns, policy))


class Task:
    """Episodes whose returns are normal about a mean per policy, with luck from the seed."""

    def __init__(self, noise=1.0, **means):
        self.means, self.noise, self.played = means, noise, []

    def __call__(self, who, seeds, update):
        self.played.append((who, seeds))
        luck = np.array([np.random.default_rng(seed).normal() for seed in seeds])
        own = [np.random.default_rng([seed, *who.encode()]).normal() for seed in seeds]
        return self.means[who] + luck + self.noise * np.array(own), np.full(len(seeds), 3)


def decide(task, before, config=CONFIG, trial=0, window=1):
    counted = []
    once = lambda stage, total, like, work: work(counted.append)
    ways = {"real": task, "trials": lambda: trial, "window": window, "key": KEY}
    verdict = real_gate("new", before, **ways, config=config, once=once)
    return verdict


def test_a_clear_gain_is_accepted_at_the_first_look():
    task = Task(new=12.0, clone=2.0)
    verdict = decide(task, incumbent(np.arange(20) % 4))
    assert verdict.accept and verdict.episodes == 8 and verdict.steps == 2 * 8 * 3
    assert [who for who, _ in task.played] == ["new", "clone"]
    assert task.played[0][1] == task.played[1][1] == gate_seeds(KEY, 0, 32)[:8]
    first, second = verdict.reasons
    assert "more per episode than behaviour cloning in the same 8 episodes" in first
    assert "more per episode than the process as it ran (1.5 in 20 logged episodes of random)" in (
        second
    )


def test_clear_harm_is_refused_at_the_first_look():
    verdict = decide(Task(new=0.0, clone=9.0), incumbent(np.full(12, 9.0)))
    assert not verdict.accept and verdict.episodes == 8 and verdict.upper < 0


def test_what_is_not_clear_is_looked_at_again():
    task = Task(new=2.4, old=2.0, noise=0.5)
    verdict = decide(task, NO_LOG)
    played = [len(seeds) for _, seeds in task.played]
    assert verdict.episodes > 8 and played in ([8, 8, 8, 8], [8, 8, 8, 8, 16, 16])
    every = sum((seeds for who, seeds in task.played if who == "new"), [])
    assert every == gate_seeds(KEY, 0, 32)[: verdict.episodes]  # no episode twice


def test_a_candidate_that_beats_the_clone_but_not_the_process_is_refused():
    """The half-seen expert: 500 in every logged episode, its clone 25, the candidate 42."""
    verdict = decide(Task(new=42.0, clone=25.0), incumbent(np.full(20, 500.0)), window=1)
    assert not verdict.accept and verdict.upper < -400
    told = " ".join(verdict.reasons)
    assert "more per episode than behaviour cloning" in told
    assert "less per episode than the process as it ran (500.0 in 20 logged episodes" in told
    assert "behaviour cloning earns 47" in told and "context.window=4" in told
    assert "context.window=16" in " ".join(
        decide(Task(new=42.0, clone=25.0), incumbent(np.full(20, 500.0)), window=4).reasons
    )


def test_and_one_that_beats_the_process_but_not_the_clone_is_refused():
    verdict = decide(Task(new=42.0, clone=50.0), incumbent(np.full(20, 5.0)))
    assert not verdict.accept and verdict.gain < 0


def test_too_few_logged_episodes_are_said_and_do_not_count():
    verdict = decide(Task(new=12.0, clone=2.0), incumbent(np.full(9, 500.0)))
    assert verdict.accept
    assert "the log holds 9 closed episodes by random" in verdict.reasons[-1]
    assert "behaviour cloning alone is what to beat" in verdict.reasons[-1]


def test_the_newest_policy_is_the_process_and_open_episodes_have_no_return():
    traces = log([1] * 20, "first") + log([7] * 12, "second") + log([99] * 3, "second", True)
    found = Incumbent.of(None, "clone", traces)
    assert found.returns.tolist() == [7] * 12 and found.newest == list(range(20, 32))
    assert found.policy == "second" and found.logged.size == 32
    own = Incumbent.of("deployed", "clone", traces, name="first")  # its own episodes, if any
    assert own.returns.tolist() == [1] * 20 and own.name == "the deployed policy"
    assert Incumbent.of("deployed", "clone", traces, name="third").policy == "second"


def test_no_difference_is_told_as_none():
    class Same:
        def __call__(self, who, seeds, update):
            return np.full(len(seeds), 5.0), np.ones(len(seeds), int)

    verdict = decide(Same(), NO_LOG)
    assert not verdict.accept and verdict.episodes == 8
    assert verdict.reasons[0].startswith("no difference: the candidate earned what the deployed")


def test_the_least_gain_asked_for_must_be_passed():
    config = GateConfig(episodes=8, min_gain=5.0)
    task = lambda gain: Task(noise=0.1, new=2.0 + gain, old=2.0)
    assert decide(task(6.0), NO_LOG, config).accept
    verdict = decide(task(4.0), NO_LOG, config)
    assert not verdict.accept and "is not above the least gain asked for, 5" in verdict.reasons[1]


def test_trials_have_their_own_episodes_and_runs_too():
    every = [gate_seeds(jax.random.key(seed), trial, 128) for seed in (0, 1) for trial in range(4)]
    assert all(len(set(seeds)) == 128 for seeds in every)
    assert all(FIRST_SEED <= seed < 10 * FIRST_SEED for seeds in every for seed in seeds)
    shared = [set(a) & set(b) for i, a in enumerate(every) for b in every[:i]]
    assert max(map(len, shared)) <= 2  # of nine million
    assert gate_seeds(KEY, 2, 32) == gate_seeds(KEY, 2, 32)


def test_a_later_trial_is_held_to_a_higher_level():
    """The k-th trial spends 6 / (pi k)^2 of the error, its looks what the boundary says."""
    played = unplayed(32)
    played["returns"][:, :8] = np.random.default_rng(0).normal(size=(2, 8))
    _, _, first = judged(played, NO_LOG, CONFIG)
    _, _, third = judged(played | {"trial": np.array(2)}, NO_LOG, CONFIG)
    assert first == errors_of_looks(0.05 * 6 / np.pi**2)[0]
    assert third == pytest.approx(first / 9, rel=0.01)


def test_a_resumed_trial_says_the_same():
    """What is stored is enough: the gate plays nothing again."""
    kept = {}
    task, before = Task(new=3.0, clone=2.0), incumbent(np.arange(20) % 4)
    keep = lambda stage, total, like, work: kept.setdefault(stage, work(lambda n: None))
    ways = {"real": task, "trials": lambda: 4, "window": 1, "key": KEY, "config": CONFIG}
    once = real_gate("new", before, **ways, once=keep)
    count = len(task.played)
    ways["trials"] = lambda: 1 / 0
    again = real_gate("new", before, **ways, once=lambda stage, *_: kept[stage])
    assert again == once and len(task.played) == count and again.trial == 4


def lineages(config, count, trials, seed):
    """How many of `count` candidates without merit are accepted in any of their trials."""
    random, found = np.random.default_rng(seed), 0
    for _ in range(count):
        for trial in range(trials):
            verdict = None
            returns = random.normal(size=(2, config.looks[-1]))
            for look in config.looks:
                played = unplayed(config.looks[-1]) | {"trial": np.array(trial)}
                played["returns"][:, :look] = returns[:, :look]
                verdict = judged(played, NO_LOG, config)[0]
                if verdict is not None:
                    break
            found += bool(verdict)
            if verdict:
                break
    return found


def test_a_lineage_without_merit_is_rarely_accepted():
    """Five trials of three looks each; 5 % of 100 lineages, and three deviations."""
    assert lineages(CONFIG, 100, 5, seed=0) <= 5 + 3 * np.sqrt(100 * 0.05 * 0.95)

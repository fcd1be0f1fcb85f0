"""A lineage: a run directory with its rounds, in which one error probability is spent.

DIR/               round 0, and policy/: what is deployed now
DIR/trials.json    what the gate has tried so far, written before each trial
DIR/rounds/k/      round k on a log that grew, a run directory of its own; incumbent/: what was
                   deployed when it began
DIR/lineage.html   all of it on one page
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dreaming.checkpoint import Damaged, atomic_write, seal, state_sha256, unseal
from dreaming.errors import CheckpointError, ConfigError, TraceError, UserError
from dreaming.student.policy import CANDIDATE, CARD, Policy, load_policy
from envs.atomic import clear_drafts, remove_directory, replace_directory, sync_directory
from envs.traces import TraceStore
from envs.types import Features, Trace, action_features
from experiments.runs.directory import RESULT, RESULT_VERSION

POLICY, INCUMBENT, ROUNDS, TRIALS = "policy", "incumbent", "rounds", "trials.json"
SCHEMA_VERSION = 1  # of trials.json


@dataclass(frozen=True)
class Lineage:
    """Round `number` of the lineage in `root`."""

    root: Path
    number: int = 0

    @classmethod
    def at(cls, run_dir: Path) -> "Lineage":
        """The round whose directory this is."""
        if run_dir.parent.name == ROUNDS and run_dir.name.isdigit():
            return cls(run_dir.parent.parent, int(run_dir.name))
        return cls(run_dir)

    @property
    def run_dir(self) -> Path:
        """Where this round keeps what it makes."""
        return self.root if self.number == 0 else self.root / ROUNDS / str(self.number)

    @property
    def before(self) -> "Lineage":
        """The round before this one."""
        return Lineage(self.root, self.number - 1)

    def incumbent(self) -> Policy | None:
        """What was deployed when this round began."""
        path = self.run_dir / INCUMBENT
        return load_policy(path) if self.number and (path / CARD).exists() else None

    def begin(self) -> None:
        """Put down what is deployed, so that a stopped round finds it, whatever came after."""
        if self.number == 0 or self.run_dir.exists():
            return
        files = files_of(self.root / POLICY)
        self.run_dir.parent.mkdir(parents=True, exist_ok=True)
        draft = self.run_dir.with_name(f".{self.number}.new")
        remove_directory(draft)
        draft.mkdir()
        if files:
            replace_directory(draft / INCUMBENT, files)
        draft.rename(self.run_dir)
        sync_directory(self.run_dir.parent)

    def trial(self, digest: str) -> int:
        """The number of the trial of what has this digest: that of a stopped one, or a new one,
        which is on disk before it is returned. Raises `CheckpointError`."""
        path, mine = self.root / TRIALS, {"round": self.number, "tried": digest}
        trials = read_trials(path)
        if mine not in trials:
            trials.append(mine)
            atomic_write(path, seal({"schema_version": SCHEMA_VERSION, "trials": trials}))
        return trials.index(mine)

    def leave(self, candidate: Mapping[str, bytes], deployed: Mapping[str, bytes] | None) -> None:
        """Write candidate/ and, if it is deployed, policy/; result.json comes last and is removed
        before anything changes, so that wherever it is it is true."""
        wanted = {CANDIDATE: dict(candidate), POLICY: dict(deployed or {})}
        if any(files_of(self.run_dir / name) != files for name, files in wanted.items()):
            (self.run_dir / RESULT).unlink(missing_ok=True)
            sync_directory(self.run_dir)
        for name, files in wanted.items():
            put(self.run_dir / name, files)
        if self.number:  # what was deployed before stays, or is put back
            put(self.root / POLICY, wanted[POLICY] or files_of(self.run_dir / INCUMBENT))

    def check_log(self, episodes: Sequence[str], spaces: Mapping[str, Any]) -> None:
        """Raise `ConfigError` for a log of another task, and `TraceError` unless it holds all
        `episodes` (their digests) of the round before, and more."""
        known = TraceStore(self.before.run_dir / "traces").schema()
        for name, space in known.items():
            if spaces[name] != space:
                raise ConfigError(
                    f"the log has the {name.replace('_', ' ')} {spaces[name]}, {self.root} learned "
                    f"from {space}; the next round of a run is on the same task"
                )
        old = Counter(episodes_of(self.before))
        missing = old - Counter(episodes)
        if missing:
            raise TraceError(
                f"the log lacks {missing.total()} of the {old.total()} episodes that round "
                f"{self.before.number} of {self.root} learned from; a lineage goes on with a log "
                "that grew"
            )
        if len(episodes) == old.total():
            raise TraceError(
                f"the log has not grown since round {self.before.number} of {self.root}; record "
                f"more, for example with env.behaviour={self.root / POLICY} append=true"
            )

    def check_incumbent(self, spaces: Mapping[str, Any], window: int) -> None:
        """Raise `ConfigError` if what is deployed was made for other spaces, or another window."""
        if not (self.root / POLICY).is_dir():
            return
        policy = load_policy(self.root / POLICY)
        ours = policy.observation_space, policy.action_space, policy.window
        theirs = spaces["observation_space"], spaces["action_space"], window
        names = "observation space", "action space", "window"
        for name, mine, other in zip(names, ours, theirs, strict=True):
            if mine != other:
                raise ConfigError(
                    f"{self.root / POLICY} has the {name} {mine}, the log has {other}; the next "
                    "round of a run is on the same task"
                )


def read_trials(path: Path) -> list[dict[str, Any]]:
    """What was tried so far. Raises `CheckpointError` if the file was changed by others."""
    try:
        return unseal(path.read_bytes())["trials"]
    except FileNotFoundError:
        return []
    except (OSError, Damaged, KeyError) as error:
        raise CheckpointError(
            f"{path} is damaged, so how much error probability was spent is not known; start "
            "another run"
        ) from error


def files_of(directory: Path) -> dict[str, bytes]:
    """The files of a directory by name; {} if there is none."""
    if not directory.is_dir():
        return {}
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def put(directory: Path, files: Mapping[str, bytes]) -> None:
    """Make a directory hold these files and no others; without any, remove it."""
    if not files:
        remove_directory(directory)
    elif files_of(directory) != files:
        replace_directory(directory, files)
    clear_drafts(directory)


def digest_of(trace: Trace, spaces: Mapping[str, Any]) -> str:
    """SHA-256 over what was observed, done and earned in an episode, and how it ended."""
    o = Features(spaces["observation_space"]).flatten(trace.observations)
    a = action_features(spaces["action_space"]).flatten(trace.actions)
    ends = bool(trace.terminated[-1]), bool(trace.truncated[-1])
    return state_sha256((o, a, np.asarray(trace.rewards, np.float64), ends))


def rounds_of(root: Path) -> list[Lineage]:
    """The rounds of a lineage, round 0 first; the last one may be unfinished."""
    folder = root / ROUNDS
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    numbers = [int(name) for name in names if name.isdigit()]
    return [Lineage(root), *(Lineage(root, k) for k in sorted(numbers))]


def read_result(lineage: Lineage) -> dict[str, Any] | None:
    """The result of a round; None if it has not finished."""
    try:
        return json.loads((lineage.run_dir / RESULT).read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{lineage.run_dir / RESULT} cannot be read: {error}") from error


def check_untouched(rounds: Sequence[Lineage], deployed: Path) -> None:
    """Raise `ConfigError` if results of finished rounds do not say what their policies say, or if
    the policy in `deployed` is not what the last one deployed."""
    for each in rounds:
        result = read_result(each) or {}
        card = _loaded(each.run_dir / CANDIDATE).card
        if result.get("verdict") != card.get("verdict"):
            raise ConfigError(
                f"{each.run_dir}: {RESULT} says {result.get('verdict')}, the candidate's own card "
                f"{card.get('verdict')}; a verdict is not edited, make the run anew"
            )
    if deployed.exists():
        _loaded(deployed)
    if (read_result(rounds[-1]) or {}).get("deployed_sha256") != sha256_of(files_of(deployed)):
        raise ConfigError(
            f"{deployed} is not what round {rounds[-1].number} deployed; put that back, or make "
            "the run anew"
        )
    known = len(read_trials(rounds[0].root / TRIALS))
    trials = [(read_result(each) or {}).get("trial") for each in rounds]
    used = max([1 + trial for trial in trials if trial is not None], default=0)
    if known < used:
        raise CheckpointError(
            f"{rounds[0].root / TRIALS} knows {known} trials, the rounds took {used}: how much "
            "error probability was spent is not known; start another run"
        )


def _loaded(directory: Path) -> Policy:
    """A policy of a lineage. Raises `ConfigError` where it is damaged."""
    try:
        return load_policy(directory)
    except UserError as error:
        raise ConfigError(f"{error}; put it back, or make the run anew") from error


def sha256_of(policy: Mapping[str, bytes]) -> str | None:
    """The hash in the card of a policy's files; None without files."""
    return json.loads(policy[CARD])["sha256"] if CARD in policy else None


def episodes_of(lineage: Lineage) -> list[str]:
    """The digests of the episodes that a round learned from."""
    store = TraceStore(lineage.run_dir / "traces")
    return [digest_of(trace, store.schema()) for trace in store.traces()]


def next_of(root: Path, episodes: Sequence[str]) -> Lineage:
    """The round to play: one that was stopped; the last one again if `episodes` (their digests)
    are those of its log; else a new one. Raises `ConfigError` where none can follow."""
    first = read_result(Lineage(root))
    if first is None or "candidate_return" not in first:
        raise ConfigError(f"run={root} is no finished run of `dream`; finish it first")
    if first["schema_version"] != RESULT_VERSION:
        raise ConfigError(f"run={root} was made by an earlier version; make it anew to go on")
    *finished, last = rounds_of(root)
    if read_result(last) is None:  # it may have been stopped while it deployed its policy
        check_untouched(finished, last.run_dir / INCUMBENT)
        return last
    check_untouched([*finished, last], root / POLICY)
    if last.number and list(episodes) == episodes_of(last):
        return last
    return Lineage(root, last.number + 1)

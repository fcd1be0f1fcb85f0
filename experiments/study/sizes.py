"""Memory and time of whole runs against the length of their logs.

python -m experiments.study.sizes out=runs/sizes                              all kinds and lengths
python -m experiments.study.sizes out=runs/sizes only=numbers lengths=10000000 minutes=10

Logs are written once to `out`, in a process of its own; each run is one of `dreaming dream` without
a real task. What is told is the peak of its resident memory, and which share of its steps was left
out to keep within the budget.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from gymnasium.spaces import Box, Discrete, Space

from envs.traces import TraceStore
from envs.types import Trace
from experiments.study.options import names_in, options

OPTIONS = {"out": "runs/sizes", "only": "", "lengths": "", "minutes": "10"}
STEPS, CATEGORIES, SIDE = 100, 5000, 96  # of an episode; of a category; of a frame
Part = Callable[[np.random.Generator, np.ndarray], np.ndarray]  # observations by actions


def numbers(random: np.random.Generator, a: np.ndarray) -> np.ndarray:
    """A point that is pushed, and another one that follows it."""
    push = 0.1 * (2 * a - 1) + 0.02 * random.normal(size=a.size)
    place = np.append(random.normal(), push).cumsum()
    follows = np.convolve(place, np.full(5, 0.2))[: place.size]
    speed = lambda x: np.diff(x, prepend=x[0])
    return np.stack([place, speed(place), follows, speed(follows)], 1).astype(np.float32)


def categories(random: np.random.Generator, a: np.ndarray) -> np.ndarray:
    """A ring of CATEGORIES places, left or right by up to two."""
    push = (2 * a - 1) * random.integers(1, 3, a.size)
    return np.append(random.integers(CATEGORIES), push).cumsum() % CATEGORIES


def frames(random: np.random.Generator, a: np.ndarray) -> np.ndarray:
    """A square of eight pixels that is pushed left or right."""
    at = np.clip(np.append(random.integers(80), 8 * (2 * a - 1)).cumsum(), 0, SIDE - 8)
    o = np.zeros((at.size, SIDE, SIDE, 3), np.uint8)
    for frame, x in zip(o, at, strict=True):
        frame[40:48, x : x + 8] = 255, 128, 64
    return o


KINDS: dict[str, tuple[Part, Space, tuple[int, ...]]] = {
    "numbers": (numbers, Box(-np.inf, np.inf, (4,)), (100_000, 1_000_000, 10_000_000)),
    "categories": (categories, Discrete(CATEGORIES), (100_000, 1_000_000)),
    "frames": (frames, Box(0, 255, (SIDE, SIDE, 3), np.uint8), (10_000, 50_000)),
}


def episodes(part: Part, length: int) -> Iterator[Trace]:
    """Random episodes of STEPS steps; right is paid."""
    random = np.random.default_rng(0)
    for _ in range(length // STEPS):
        a = random.integers(2, size=STEPS)
        half = np.full(STEPS, 0.5)
        yield Trace(part(random, a), a, a.astype(float), False, True, propensities=half)


def write(kind: str, length: int, path: Path) -> None:
    """The log, unless it is there."""
    if not (path / "manifest.json").exists():
        part, space, _ = KINDS[kind]
        shutil.rmtree(path, ignore_errors=True)
        unfinished = path.with_suffix(".part")
        shutil.rmtree(unfinished, ignore_errors=True)
        store = TraceStore(unfinished, observation_space=space, action_space=Discrete(2))
        store.extend(episodes(part, length))
        unfinished.rename(path)


def play(kind: str, length: int, out: Path, minutes: float) -> str:
    """A line on one run."""
    log, run_dir = out / f"{kind}{length}.log", out / f"{kind}{length}"
    subprocess.run(
        [sys.executable, "-m", __spec__.name, f"write={kind},{length},{log}"], check=True
    )
    command = [sys.executable, "-m", "experiments.dream", f"traces={log}", "env=none"]
    command += [f"budget_minutes={minutes:g}", f"hydra.run.dir={run_dir}"]
    with open(out / f"{kind}{length}.txt", "w", encoding="utf-8") as words:
        process = subprocess.Popen(command, stdout=words, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    peak = usage.ru_maxrss / 2**20
    if status:
        return f"{kind} {length:,}: status {status}; see {words.name}"
    result = json.loads((run_dir / "result.json").read_text("utf-8"))
    took = {stage: round(seconds) for stage, seconds in result["seconds"].items()}
    told = f"{kind} {length:,}: at most {peak:.1f} GiB, {sum(took.values()) / 60:.1f} min"
    return f"{told}, learned from {result['real_steps']:,}, left out {result['left_out']}, {took}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is asked for, the smaller ones first; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if len(words) == 1 and words[0].startswith("write="):
        kind, length, path = words[0].removeprefix("write=").split(",")
        write(kind, int(length), Path(path))
        return 0
    if (chosen := options(words, OPTIONS)) is None:
        return 2
    if (names := names_in(chosen["only"], KINDS)) is None:
        return 2
    out = Path(chosen["out"])
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        for length in [int(x) for x in chosen["lengths"].split(",") if x] or KINDS[name][2]:
            print(play(name, length, out, float(chosen["minutes"])), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

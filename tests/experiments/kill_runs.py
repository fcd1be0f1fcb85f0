"""Kill the main job at random instants, start it again, and compare how it ends.

    python -m tests.experiments.kill_runs [verb=dream] [kills=20] [draw=0] [keep=DIRECTORY]
        [overrides ...]

Two runs go undisturbed; each of the others gets SIGKILL at an instant drawn uniformly from the
wall time of the second, and is started again. Exit code 0 if all end with the same `state_sha256`.
"""

import functools
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def main(argv: list[str]) -> int:
    """The whole experiment; prints a line per kill."""
    own = {"kills": "20", "draw": "0", "keep": "", "verb": "dream"}
    own |= {name: value for name, _, value in (w.partition("=") for w in argv) if name in own}
    overrides = [word for word in argv if word.partition("=")[0] not in own]
    start = functools.partial(start_run, own["verb"], overrides)
    chance, kills = random.Random(int(own["draw"])), int(own["kills"])
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(own["keep"] or temporary)
        finish(start(place / "first"))  # compiles what all the others find compiled
        begun = time.monotonic()
        finish(start(place / "whole"))
        seconds, expected = time.monotonic() - begun, sha256(place / "whole")
        assert expected == sha256(place / "first"), "two undisturbed runs differ"
        print(f"undisturbed: {seconds:.1f} s, state_sha256 {expected[:16]}", flush=True)
        agree = 0
        for number in range(1, kills + 1):
            run_dir, instant = place / f"kill{number:02d}", chance.uniform(0, seconds)
            stage = kill_after(instant, run_dir, start)
            finish(start(run_dir))
            same = sha256(run_dir) == expected
            agree += same
            word = "agrees" if same else "DIFFERS"
            print(f"kill {number:>2} at {instant:6.1f} s, {stage:<22}: {word}", flush=True)
    print(f"{agree} of {kills} agree")
    return 0 if agree == kills else 1


def start_run(verb: str, overrides: list[str], run_dir: Path) -> subprocess.Popen:
    """A verb as a process of its own group."""
    command = [sys.executable, "-m", f"experiments.{verb}", *overrides, f"hydra.run.dir={run_dir}"]
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    log = open(run_dir.with_suffix(".log"), "a")
    return subprocess.Popen(
        command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )


def finish(process: subprocess.Popen) -> None:
    """Wait for a run that must succeed."""
    if code := process.wait():
        raise SystemExit(f"a run ended with exit code {code}; keep=DIRECTORY keeps its log")


def kill_after(seconds: float, run_dir: Path, start: Callable[[Path], Any]) -> str:
    """Start a run and kill it; in which stage it was."""
    process = start(run_dir)
    try:
        process.wait(seconds)
        return "after its end"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return stage_of(run_dir)


def stage_of(run_dir: Path) -> str:
    """What a killed run was doing, by its log and by what it had committed."""
    log = run_dir.with_suffix(".log").read_text()
    shown = re.findall(r"^([a-z]+(?:-\d+)?) +\d*(?:/\d+|$)", log, re.MULTILINE)
    is_done = lambda stage: list((run_dir / "state" / stage).glob("[0-9]*"))
    begun = list(dict.fromkeys(shown))
    done = [stage for stage in begun if is_done(stage)]
    working = [stage for stage in begun if stage not in done]
    if working:
        return f"in {working[-1]}, before its first commit"
    return f"after a commit of {done[-1]}" if done else "before the first stage"


def sha256(run_dir: Path) -> str:
    """How a run ended."""
    return json.loads((run_dir / "result.json").read_text())["state_sha256"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Press Ctrl-C at random instants of verbs that compile everything anew.

    python -m tests.experiments.interrupt_runs [count=30] [draw=0] [longest=20] [verbs=fit,dream]

Every verb is interrupted `count` times, every third time twice, within its first `longest` seconds.
Exit code 0 if every process ended within 5 seconds with exit code 130 and one line.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
VERBS = {
    "record": ["env.real_steps=10000000", "path={place}"],
    "fit": ["env.real_steps=400", "hydra.run.dir={place}"],
    "dream": ["env.real_steps=400", "hydra.run.dir={place}"],
    "online": ["env=catch", "hydra.run.dir={place}"],
    "benchmark": ["part=vectors"],
}
BEGUN = 1.0  # seconds in which Python itself has started
SOON = 5.0  # seconds within which an interrupted process has ended
LINE = "error: interrupted\n"


def main(argv: list[str]) -> int:
    """The whole experiment; prints a line per interrupt."""
    own = {"count": "30", "draw": "0", "longest": "20", "verbs": ",".join(VERBS)}
    own |= dict(word.split("=", 1) for word in argv)
    chance, good, total = random.Random(int(own["draw"])), 0, 0
    for verb in own["verbs"].split(","):
        for number in range(int(own["count"])):
            instant = chance.uniform(BEGUN, float(own["longest"]))
            with tempfile.TemporaryDirectory() as place:
                code, said, seconds = interrupted(verb, Path(place), instant, number % 3 == 0)
            is_good = (code, said) == (130, LINE) and seconds < SOON
            good, total = good + is_good, total + 1
            word = "as promised" if is_good else f"exit code {code}: {said!r}"
            print(f"{verb} after {instant:4.1f} s, ended {seconds:.1f} s later, {word}", flush=True)
    print(f"{good} of {total} ended as promised")
    return 0 if good == total else 1


def interrupted(verb: str, place: Path, instant: float, twice: bool) -> tuple[int, str, float]:
    """(exit code, what is on stderr, seconds until it ended) of an interrupted verb."""
    words = [word.format(place=place / "run") for word in VERBS[verb]]
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments", verb, *words],
        cwd=ROOT,
        env=os.environ | {"XDG_CACHE_HOME": str(place / "cache")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(instant)
    begun = time.monotonic()
    for _ in range(1 + twice):
        process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=300)
    return process.returncode, said, time.monotonic() - begun


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

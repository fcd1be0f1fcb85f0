"""How often the gates accept harm, and how often they accept a gain.

python -m experiments.gate_study                          every suite, by both gates
python -m experiments.gate_study suite=sabotage count=20 seed=7 out=pilot.json gate=offline

Suites: sabotage (true effects of -5, -10, -20 % of the return range), known_good (+25, +50 %),
power (a curve over effects) and lineages (no effect, five trials each; in the real task alone).
Gates: offline (from a log) and real (paired episodes in the task, also with a fixed number of
episodes, the mean that the gate used at that effect). A fifth of the cases are CartPole, offline
with fitted judges as in a round; the others are tables, with exact true effects and count models as
judges. Deterministic: `seed` is the first of the seeds. A study that was stopped goes on where it
was: decided cases are kept in the file `out` with the ending .partial.
"""

import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dreaming.checkpoint import atomic_write

GATES = ("offline", "real")
OPTIONS = {"suite": "all", "gate": "all", "count": 0, "seed": 2_000_000, "out": "gate_study.json"}
COUNTS = {"sabotage": 200, "known_good": 100, "power": 264, "lineages": 400}
TRIALS = 5  # of a lineage
ESTIMATES = ("G1", "G2", "G3")
RATE = ("cases", "accepted", "whole", "rate", "ci")
COVERED = 0.05  # error probability of each end of the intervals whose coverage is counted


def cases_of(suite: str, count: int, seed: int) -> list[Any]:
    """The cases of a suite, a fifth of them CartPole."""
    from experiments.study import cartpole, cases

    effects = {
        "sabotage": cases.SABOTAGE,
        "known_good": cases.KNOWN_GOOD,
        "power": cases.POWER,
        "lineages": (0.0,),
    }[suite]
    first = seed + 10_000 * list(COUNTS).index(suite)
    if suite == "lineages":  # an exact zero is a matter of tables
        return cases.suite(effects, count, first)
    carts = count // 5
    tables = cases.suite(effects, count - carts, first)
    logs = 4 if suite == "sabotage" else 2  # judges are fitted per log, which takes long
    return tables + cartpole.suite(effects, carts, first, logs)


def decide_offline(case: Any) -> dict[str, Any]:
    """The verdict from the log alone, with the true effect, and whether it was covered."""
    from dreaming.config import GateConfig
    from dreaming.gate.offline import offline_verdict, weigh
    from dreaming.gate.verdict import improvable
    from experiments.study.judges import ask

    config = GateConfig()
    question = ask(case, config)
    true = {"true_effect": question.gains[0] / question.unit}
    if not improvable(question.evidence.log.traces)[0]:
        return true | UNASKED
    evidence = question.evidence
    given = evidence.of, question.candidate, question.incumbent
    found = weigh(*given, config, counts=evidence.counts)
    names = question.evidence.incumbent.name, "the process as it ran"
    verdict = offline_verdict(found, config, names)
    return true | {
        "accept": verdict.accept,
        "share": verdict.share if verdict.accept else 0.0,
        "intervals": told(found["intervals"][0]),
        "covered": covered(question),
        "reasons": list(verdict.reasons),
    }


UNASKED: dict[str, Any] = {  # nothing in the log distinguishes good from bad
    "accept": False,
    "share": 0.0,
    "intervals": [[None] * 3] * 3,
    "covered": [[None] * 2] * 3,
    "reasons": ["not improvable"],
}


def covered(question: Any) -> list[list[bool | None]]:
    """For each estimate, whether its 90 % interval holds the true gain over the incumbent, and over
    the process as it ran; None where it does not speak."""
    evidence = question.evidence
    gains = evidence.gains(evidence.asked(question.candidate), COVERED)
    known = lambda gain: gain.mean == gain.mean
    near = 1e-6 * question.unit  # a difference of nothing is not exact in float32
    holds = lambda gain, true: (
        bool(gain.lower - near <= true <= gain.upper + near) if known(gain) else None
    )
    return [[holds(*x) for x in zip(each, question.gains, strict=True)] for each in gains]


def told(intervals: Any) -> list[list[float | None]]:
    """Numbers for JSON."""
    return [[None if x != x else x for x in row] for row in intervals.tolist()]


def decide_real(case: Any, trials: int = 1) -> dict[str, Any]:
    """The verdict of the gate in the real task, and all the episodes it could have asked for."""
    import jax

    from dreaming.config import GateConfig
    from dreaming.gate.incumbent import Incumbent
    from dreaming.gate.real import gate_seeds, real_gate
    from experiments.study.judges import real_question

    config, key = GateConfig(), jax.random.key(case.seed)
    candidate, incumbent, effect, play = real_question(case)
    before = Incumbent(incumbent, False, np.zeros(0), [], None, np.zeros(0))  # there is no log
    quiet = lambda *_, **__: None
    real = lambda policy, seeds, update: play(policy, seeds)
    once = lambda stage, total, like, work: work(quiet)
    verdicts = []
    for trial in range(trials):
        ways = {"real": real, "trials": lambda n=trial: n, "window": 1, "key": key}
        verdicts.append(real_gate(candidate, before, **ways, config=config, once=once))
        if verdicts[-1].accept:
            break
    every = [play(who, gate_seeds(key, 0, config.looks[-1]))[0] for who in (candidate, incumbent)]
    return {
        "true_effect": effect,
        "accept": verdicts[-1].accept,
        "share": float(verdicts[-1].accept),
        "episodes": verdicts[0].episodes,
        "differences": (every[0] - every[1]).tolist(),
        "reasons": list(verdicts[-1].reasons),
    }


def rate(outcomes: Sequence[dict]) -> dict[str, Any]:
    """Acceptance rate with its exact (Clopper-Pearson) 95 % interval."""
    from scipy.stats import binomtest

    accepted, count = sum(x["accept"] for x in outcomes), len(outcomes)
    low, high = binomtest(accepted, count).proportion_ci(method="exact")
    whole = sum(x["share"] == 1 for x in outcomes)
    return {
        "cases": count,
        "accepted": accepted,
        "whole": whole,
        "rate": accepted / count,
        "ci": [float(low), float(high)],
    }


def grouped(outcomes: Sequence[dict], *names: str) -> list[dict[str, Any]]:
    """A row per combination of the named fields: its `rate`, and what its gate knows besides."""
    keys = sorted({tuple(x[name] for name in names) for x in outcomes})
    rows = []
    for key in keys:
        mine = [x for x in outcomes if tuple(x[name] for name in names) == key]
        more = fixed(mine) if "episodes" in mine[0] else estimates(mine)
        rows.append(dict(zip(names, key, strict=True)) | rate(mine) | more)
    return rows


def estimates(outcomes: Sequence[dict]) -> dict[str, str]:
    """Of each estimate: how often above and below zero of how often known, and how often its 90 %
    interval held the true gains over the policy and over the process as it ran."""
    row = {}
    for k, name in enumerate(ESTIMATES):
        known = [x["intervals"][k] for x in outcomes if x["intervals"][k][0] is not None]
        above, below = (sum(f(x) for x in known) for f in (lambda x: x[1] > 0, lambda x: x[2] < 0))
        row[f"{name} +/-"] = f"{above}/{below} of {len(known)}"
        for over, which in enumerate(("policy", "log")):
            held = [x["covered"][k][over] for x in outcomes if x["covered"][k][over] is not None]
            row[f"{name} holds ({which})"] = f"{sum(held)}/{len(held)}"
    return row


def fixed(outcomes: Sequence[dict]) -> dict[str, Any]:
    """Mean episodes that the gate used, and what a gate of so many, no fewer and no more, says."""
    from dreaming.config import GateConfig
    from dreaming.gate.returns import paired_gain

    used = statistics.mean(x["episodes"] for x in outcomes)
    error = 1 - GateConfig().level_of(0)
    drawn = [np.array(x["differences"][: round(used)]) for x in outcomes]
    passed = sum(paired_gain(x, np.zeros(len(x)), error).lower > 0 for x in drawn)
    return {"mean episodes": f"{used:.1f}", "with so many": f"{passed}/{len(outcomes)}"}


def table(title: str, rows: Sequence[dict[str, Any]]) -> str:
    """Rows of `grouped` as text."""
    fields = [name for name in rows[0] if name in ("suite", "task", "behaviour", "kind", "effect")]
    more = [name for name in rows[0] if name not in (*fields, *RATE)]
    lines = [[*fields, "accepted", "whole", "rate", "95 % interval", *more]]
    for row in rows:
        low, high = row["ci"]
        shown = [f"{row[x]:+.0%}" if x == "effect" else str(row[x]) for x in fields]
        shown += [f"{row['accepted']}/{row['cases']}", str(row["whole"]), f"{row['rate']:.0%}"]
        lines.append([*shown, f"{low:.1%} to {high:.1%}", *(str(row[x]) for x in more)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    fit = lambda line: "  ".join(x.ljust(w) for x, w in zip(line, widths, strict=True)).rstrip()
    return "\n".join([title, *map(fit, lines)])


def options(argv: Sequence[str]) -> dict[str, Any]:
    """The options from `name=value` arguments. Raises `ValueError` for other arguments."""
    chosen = dict(OPTIONS)
    for argument in argv:
        name, _, value = argument.partition("=")
        if name not in OPTIONS or not value:
            raise ValueError(f"{argument} is not one of {', '.join(f'{x}=' for x in OPTIONS)}")
        chosen[name] = type(OPTIONS[name])(value)
    for name, known in (("suite", list(COUNTS)), ("gate", list(GATES))):
        if chosen[name] not in ("all", *known):
            raise ValueError(f"{name}={chosen[name]} does not exist; choose all or {known}")
    return chosen


def main(argv: Sequence[str] | None = None) -> int:
    """Run the suites and write the results; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if "--help" in argv:
        print(__doc__)
        return 0
    try:
        chosen = options(argv)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    from experiments.command import runtime

    runtime.configure(devices=1)
    of = lambda name, every: list(every) if chosen[name] == "all" else [chosen[name]]
    asked = [(gate, suite) for gate in of("gate", GATES) for suite in of("suite", COUNTS)]
    asked = [pair for pair in asked if pair != ("offline", "lineages")]
    write(chosen, {f"{gate} {suite}": study(chosen, gate, suite) for gate, suite in asked})
    partial(chosen).unlink()
    return 0


def partial(chosen: dict[str, Any]) -> Path:
    """The file of decided cases, one JSON object per line."""
    return Path(f"{chosen['out']}.partial")


def decide(gate: str, suite: str, case: Any) -> dict[str, Any]:
    """What a gate says of a case."""
    if gate == "offline":
        found = decide_offline(case)
    else:
        found = decide_real(case, TRIALS if suite == "lineages" else 1)
    return vars(case) | found


def study(chosen: dict[str, Any], gate: str, suite: str) -> list[dict[str, Any]]:
    """A gate's verdicts on all cases of a suite; cases in the partial file are not repeated."""
    path = partial(chosen)
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    decided = {x["name"]: x for x in map(json.loads, lines)}
    cases = cases_of(suite, chosen["count"] or COUNTS[suite], chosen["seed"])
    outcomes = []
    for i, case in enumerate(cases):
        name, began = f"{gate} {suite} {case}", time.monotonic()
        if name not in decided:
            decided[name] = {"name": name} | decide(gate, suite, case)
            decided[name]["seconds"] = time.monotonic() - began
            atomic_write(path, "".join(json.dumps(x) + "\n" for x in decided.values()))
        outcomes.append(decided[name])
        print(f"\r{gate} {suite} {i + 1}/{len(cases)}", end="", file=sys.stderr)
    print(file=sys.stderr)
    return outcomes


def write(chosen: dict[str, Any], found: dict[str, list[dict]]) -> None:
    """Print the tables, and write everything as JSON."""
    seconds = sum(x["seconds"] for outcomes in found.values() for x in outcomes)
    tables = {}
    for suite, outcomes in found.items():
        named = [x | {"suite": suite} for x in outcomes]
        tables[suite] = grouped(named, "suite")
        tables[f"{suite} by effect"] = grouped(named, "effect")
        tables[f"{suite} by task and log"] = grouped(named, "task", "behaviour")
    print("\n\n".join(table(title, rows) for title, rows in tables.items()))
    print(
        f"\n{seconds:.0f} s; +/-: estimates above/below zero of those that were known; holds: 90 % "
        "intervals that hold the true gain over the incumbent, and over what recorded the log"
    )
    content = {"options": chosen, "seconds": seconds, "tables": tables, "cases": found}
    atomic_write(chosen["out"], json.dumps(content, indent=1))


if __name__ == "__main__":
    sys.exit(main())

"""How often the offline gate accepts harm, and how often it accepts a gain.

python -m experiments.gate_study                          every suite
python -m experiments.gate_study suite=sabotage count=20 seed=7 out=pilot.json

Suites: sabotage (true effects of -5, -10, -20 % of the return range), known_good (+25, +50 %) and
power (a curve over effects). A fifth of the cases are CartPole with fitted judges, as in a round;
the others are tables, with exact true effects and count models as judges.
Deterministic: `seed` is the first of the seeds of the logs. A study that was stopped goes on
where it was: decided cases are kept in the file `out` with the ending .partial.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dreaming.checkpoint import atomic_write

OPTIONS = {"suite": "all", "count": 0, "seed": 1_000_000, "out": "gate_study.json"}
COUNTS = {"sabotage": 200, "known_good": 100, "power": 264}


def cases_of(suite: str, count: int, seed: int) -> list[Any]:
    """The cases of a suite, a fifth of them CartPole."""
    from experiments.study import cartpole, cases

    effects = {
        "sabotage": cases.SABOTAGE,
        "known_good": cases.KNOWN_GOOD,
        "power": cases.POWER,
    }[suite]
    carts = count // 5
    first = seed + 10_000 * list(COUNTS).index(suite)
    tables = cases.suite(effects, count - carts, first)
    logs = 4 if suite == "sabotage" else 2  # judges are fitted per log, which takes long
    return tables + cartpole.suite(effects, carts, first, logs)


def decide(case: Any) -> dict[str, Any]:
    """The gate's verdict on a case, with the true effect."""
    from dreaming.config import GateConfig
    from dreaming.gate.offline import offline_verdict, weigh
    from experiments.study.judges import ask

    config = GateConfig()
    question = ask(case, config)
    found = weigh(question.evidence.of, question.candidate, question.incumbent, config.min_gain)
    verdict = offline_verdict(found, config, config.level_of(0))
    return {
        **vars(case),
        "effect": case.effect,
        "true_effect": question.effect,
        "accept": verdict.accept,
        "share": verdict.share if verdict.accept else 0.0,
        "intervals": [
            [None if x != x else x for x in row] for row in found["intervals"][0].tolist()
        ],
        "reasons": list(verdict.reasons),
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
    """A row per combination of the named fields: its `rate`, and counts of known estimates."""
    keys = sorted({tuple(x[name] for name in names) for x in outcomes})
    rows = []
    for key in keys:
        mine = [x for x in outcomes if tuple(x[name] for name in names) == key]
        rows.append(dict(zip(names, key, strict=True)) | rate(mine))
        for k, name in enumerate(("fitted_q", "doubly_robust", "judge")):
            rows[-1][name] = sum(x["intervals"][k][0] is not None for x in mine)
            rows[-1][f"{name}_above"] = sum((x["intervals"][k][1] or -1) > 0 for x in mine)
            rows[-1][f"{name}_below"] = sum((x["intervals"][k][2] or 1) < 0 for x in mine)
    return rows


def table(title: str, rows: Sequence[dict[str, Any]]) -> str:
    """Rows of `grouped` as text."""
    fields = [name for name in rows[0] if name in ("suite", "task", "behaviour", "kind", "effect")]
    head = [*fields, "accepted", "whole", "rate", "95 % interval", "G1 +/-", "G2 +/-", "G3 +/-"]
    lines = [head]
    for row in rows:
        low, high = row["ci"]
        signs = [
            f"{row[f'{name}_above']}/{row[f'{name}_below']} of {row[name]}"
            for name in ("fitted_q", "doubly_robust", "judge")
        ]
        shown = [f"{row[x]:+.0%}" if x == "effect" else str(row[x]) for x in fields]
        shown += [f"{row['accepted']}/{row['cases']}", str(row["whole"]), f"{row['rate']:.0%}"]
        lines.append([*shown, f"{low:.1%} to {high:.1%}", *signs])
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
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
    if chosen["suite"] not in ("all", *COUNTS):
        raise ValueError(f"suite={chosen['suite']} does not exist; choose all or {list(COUNTS)}")
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
    suites = list(COUNTS) if chosen["suite"] == "all" else [chosen["suite"]]
    write(chosen, {suite: study(chosen, suite) for suite in suites})
    partial(chosen).unlink()
    return 0


def partial(chosen: dict[str, Any]) -> Path:
    """The file of decided cases, one JSON object per line."""
    return Path(f"{chosen['out']}.partial")


def study(chosen: dict[str, Any], suite: str) -> list[dict[str, Any]]:
    """The gate's verdicts on all cases of a suite; cases in the partial file are not repeated."""
    path = partial(chosen)
    lines = path.read_text().splitlines() if path.exists() else []
    decided = {x["name"]: x for x in map(json.loads, lines)}
    cases = cases_of(suite, chosen["count"] or COUNTS[suite], chosen["seed"])
    outcomes = []
    for i, case in enumerate(cases):
        name, began = f"{suite} {case}", time.monotonic()
        if name not in decided:
            decided[name] = {"name": name} | decide(case)
            decided[name]["seconds"] = time.monotonic() - began
            atomic_write(path, "".join(json.dumps(x) + "\n" for x in decided.values()))
        outcomes.append(decided[name])
        print(f"\r{suite} {i + 1}/{len(cases)}", end="", file=sys.stderr)
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
    print(f"\n{seconds:.0f} s; G+/-: estimates above/below zero of those that were known")
    content = {"options": chosen, "seconds": seconds, "tables": tables, "cases": found}
    atomic_write(chosen["out"], json.dumps(content, indent=1))


if __name__ == "__main__":
    sys.exit(main())

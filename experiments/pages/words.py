"""Text for readers: names of policies, durations, JSON."""

import json
import math
from typing import Any

NAMES = {
    "behaviour": "behaviour in the log",
    "behaviour_cloning": "behaviour cloning",
    "conservative_q": "conservative Q",
    "tabular": "count model, exact",
    "incumbent": "incumbent",
    "candidate": "candidate",
    "deployed": "deployed",
}
ONLINE_NAMES = {"behaviour": "first, random steps"}


def to_json(content: Any) -> str:
    """JSON text with sorted keys; NaN and infinity become null."""
    clean = lambda x: (
        {name: clean(value) for name, value in x.items()}
        if isinstance(x, dict)
        else [clean(value) for value in x]
        if isinstance(x, list | tuple)
        else None
        if isinstance(x, float) and not math.isfinite(x)
        else x
    )
    return json.dumps(clean(content), indent=2, sort_keys=True) + "\n"


def duration(seconds: float) -> str:
    """Seconds as text: `8 s`, `2 min 05 s`, `1 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def name_of(policy: str, online: bool = False) -> str:
    """The name of a policy in words: `candidate_uniform_0.3` is "candidate, 30% uniform"."""
    who, _, share = policy.partition("_uniform_")
    known = NAMES | ONLINE_NAMES if online else NAMES
    name = known.get(who, who.replace("_", " "))
    return f"{name}, {float(share):.0%} uniform" if share else name

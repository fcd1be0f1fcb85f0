"""Words and numbers for readers: names of policies, durations, JSON."""

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
    """41 s, 2 min 05 s, 1 h 03 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def name_of(policy: str, online: bool = False) -> str:
    """What a policy is called in a report."""
    known = NAMES | ONLINE_NAMES if online else NAMES
    return known.get(policy, policy.replace("_", " "))

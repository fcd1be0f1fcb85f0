"""What a certificate says of its figures beside how far the world can be trusted. No JAX here, so
that reports stay fast."""

from collections.abc import Mapping

WRONG = 0.15  # share by which dreamed episodes may last longer or shorter than logged ones
UNSUPPORTED = 0.5  # share of a promised gain that judges may not see


def is_life_wrong(figures: Mapping[str, float]) -> bool:
    """Whether dreamed episodes last longer or shorter than the log's, beyond what that tells."""
    dreamed, logged, low, high = _life(figures)
    return abs(dreamed - logged) > WRONG * logged and not low <= dreamed <= high


def life_sentence(figures: Mapping[str, float]) -> str:
    """What is wrong with the length of dreamed episodes; '' for nothing."""
    if "life_dreamed" not in figures or not is_life_wrong(figures):
        return ""
    dreamed, logged, low, high = _life(figures)
    soon = "soon" if dreamed < logged else "late"
    steps = f"{dreamed:.0f} steps for {logged:.0f} [{low:.0f}, {high:.0f}] in the log"
    return f" Its episodes end too {soon}: {steps}."


def _life(figures: Mapping[str, float]) -> tuple[float, ...]:
    names = ("dreamed", "logged", "logged_low", "logged_high")
    return tuple(figures[f"life_{name}"] for name in names)


def is_unsupported(figures: Mapping[str, float]) -> bool:
    """Whether judges do not see the better part of a promised gain, beyond what dreams scatter."""
    missing = figures["promise"] - figures["promise_judged"]
    return figures["unsupported"] > UNSUPPORTED and missing > 2 * figures["promise_error"]


def promise_sentence(figures: Mapping[str, float]) -> str:
    """What is wrong with a promise; '' for nothing."""
    if "unsupported" not in figures or not is_unsupported(figures):
        return ""
    promised, judged = (figures[f"promise{of}"] for of in ("", "_judged"))
    return (
        f" It promises more than it can know: the candidate dreams of {promised:.4g}, models that "
        f"did not plan of {judged:.4g}."
    )

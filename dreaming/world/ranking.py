"""Whether a dream ranks policies as the real task does."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from dreaming.statistics import bootstrap_interval
from dreaming.student.network import with_uniform
from dreaming.student.walks import dream_episodes, dream_returns

SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of uniform actions mixed into the candidate
RESAMPLES = 1000
NO_JUDGE = "there is no model at hand that did not plan"
NO_GAIN = "the dream promises no gain over the log's clone"
NO_DRAW = "the model has no draws but those that were rehearsed in"


def fixed_set(clone: Any, candidate: Any) -> dict[str, Any]:
    """The policies that every certificate ranks.

    The behaviour is ranked, too: by the log's own returns in reality, by its clone in dreams.
    """
    mixtures = {f"candidate_uniform_{share}": with_uniform(candidate, share) for share in SHARES}
    return {"behaviour_cloning": clone, "candidate": candidate, **mixtures}


def distinguishable(
    returns: Sequence[Float[np.ndarray, " _"]], level: float = 0.95
) -> Bool[np.ndarray, "P P"]:
    """Pairs whose mean returns differ significantly: Welch's t-test, two-sided.

    Policies whose returns do not vary are distinguishable if these differ. A policy with a single
    episode is never distinguishable.
    """
    count = np.array([len(x) for x in returns], float)
    mean = np.array([np.mean(x) for x in returns])
    variance = np.array([np.var(x, ddof=1) if len(x) > 1 else 0.0 for x in returns]) / count
    together = variance[:, None] + variance
    difference = np.abs(mean[:, None] - mean)
    enough = np.maximum(count - 1, 1)
    freedom = np.square(variance) / enough
    freedom = np.square(together) / np.maximum(freedom[:, None] + freedom, 1e-300)
    t = difference / np.sqrt(np.maximum(together, 1e-300))
    known = (count > 1)[:, None] & (count > 1)
    certain = (together == 0) & (difference > 0)
    return known & (certain | (2 * stats.t.sf(t, np.maximum(freedom, 1)) < 1 - level))


def rank_correlation(
    dream: Float[np.ndarray, "*R P"],
    real: Float[np.ndarray, "*R P"],
    pairs: Bool[np.ndarray, "P P"],
) -> Float[np.ndarray, "*R"]:
    """Spearman's rho in which only `pairs` count.

    A policy's rank is the number of its `pairs` in which it beats the other policy, minus the
    number in which it is beaten; exact ties count 0. With all pairs this is Spearman's rho with
    tied ranks averaged. NaN if all ranks are 0 in reality or in the dream.
    """
    d, r = (_wins(x, pairs).sum(-1) for x in (dream, real))
    with np.errstate(invalid="ignore"):
        size = np.sqrt(np.square(d).sum(-1) * np.square(r).sum(-1))
        return np.asarray((d * r).sum(-1) / size)


def rank_agreement(
    dream: Float[np.ndarray, "*R P"],
    real: Float[np.ndarray, "*R P"],
    pairs: Bool[np.ndarray, "P P"],
) -> Float[np.ndarray, "*R"]:
    """Share of `pairs` that the dream orders as reality does; a tie in the dream counts half."""
    same = _wins(dream, pairs) * _wins(real, pairs)
    return np.asarray(same.sum((-2, -1)) / np.maximum(pairs.sum(), 1) / 2 + 0.5)


def _wins(x: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """[*R, P, P]: 1 where the row beats the column, -1 where it is beaten, 0 outside `pairs`."""
    return np.sign(x[..., :, None] - x[..., None, :]) * pairs


@dataclass(frozen=True)
class Ranking:
    """Agreement of two rankings; `why` says why `correlation` is None. 95 % bootstrap interval."""

    correlation: float | None
    interval: tuple[float, float] | None
    agreement: float | None
    pairs: int
    why: str = ""


def rank(
    dream: Sequence[Float[np.ndarray, " _"]], real: Sequence[Float[np.ndarray, " _"]], seed: int = 0
) -> Ranking:
    """How well mean dream returns rank P policies, compared with mean real returns.

    The bootstrap resamples dreamed and real episodes within every policy; the distinguishable pairs
    are always those of the whole sample.
    """
    pairs = distinguishable(real)
    count = int(pairs.sum()) // 2
    if not count:
        return Ranking(None, None, None, 0, "no two of the policies can be told apart in reality")
    mean = lambda episodes: np.array([np.mean(x) for x in episodes])
    agreement = float(rank_agreement(mean(dream), mean(real), pairs))
    rho = float(rank_correlation(mean(dream), mean(real), pairs))
    if not np.isfinite(rho):
        return Ranking(None, None, agreement, count, "the dream earns the same with all policies")
    random = np.random.default_rng(seed)
    draw = lambda x: np.asarray(x)[random.integers(len(x), size=(RESAMPLES, len(x)))].mean(1)
    drawn = lambda episodes: np.stack([draw(x) for x in episodes], axis=1)
    rhos = rank_correlation(drawn(dream), drawn(real), pairs)
    rhos = np.nan_to_num(rhos)  # a resample in which all policies are equal has correlation 0
    low, high = np.quantile(rhos, [0.025, 0.975])
    return Ranking(rho, (float(low), float(high)), agreement, count)


def try_policies(
    policies: Mapping[str, Any],
    world: Any,
    judges: Sequence[Any],
    real: Callable | None,
    seeds: list[int],
    *,
    key: Any,
    dreams: int,
    update: Callable,
) -> dict[str, np.ndarray]:
    """Returns of each policy: `planner` [P, m] in `world`, `judges` [P, m * judges], `real` [P, n];
    of the candidate in other draws of `world`, `redrawn` [m], of size 0 where there are none.

    `trusted` [P] is the share of steps in `world` with uncertainty at most `u_max`, `steps` the
    number of real steps. Without judges or a real task their returns have size 0.
    """
    students, none = list(policies.values()), np.zeros((len(policies), 0))
    planner = dream_episodes(world, students, key, dreams)
    judged = [dream_episodes(judge, students, key, dreams).returns for judge in judges]
    scores = [real(student, seeds, update) for student in students] if real is not None else []
    return {
        "planner": planner.returns,
        "redrawn": again(world, policies["candidate"], key, dreams),
        "trusted": planner.trusted,
        "judges": np.concatenate([none, *judged], axis=1),
        "real": np.stack([np.asarray(r, np.float64) for r, _ in scores]) if scores else none,
        "steps": np.array(sum(int(lengths.sum()) for _, lengths in scores)),
    }


def redraw(world: Any) -> Any:
    """The world by members that nobody rehearsed in; None where there are none."""
    draw = getattr(world.model, "redrawn", None)
    params = draw(world.params) if draw else None
    return None if params is None else replace(world, params=params)


def again(world: Any, candidate: Any, key: Any, dreams: int) -> Float[np.ndarray, " _"]:
    """Returns of the candidate in other draws of `world`, with starts and keys as in `world`."""
    if (other := redraw(world)) is None:
        return np.zeros(0)
    return dream_returns(other, candidate, key, dreams)


def blank_tries(
    policies: int, judges: int, episodes: int, dreams: int, redrawn: bool = False
) -> dict[str, np.ndarray]:
    """Arrays of the shapes that `try_policies` returns."""
    sizes = {"planner": dreams, "judges": dreams * judges, "real": episodes}
    blank = {name: np.zeros((policies, size)) for name, size in sizes.items()}
    other = {"redrawn": np.zeros(dreams if redrawn else 0)}
    return blank | other | {"trusted": np.zeros(policies), "steps": np.array(0)}


def rank_figures(
    names: Sequence[str],
    tried: Mapping[str, np.ndarray],
    behaviour: Float[np.ndarray, " n"],
    has_limit: bool,
) -> tuple[dict[str, float], dict[str, str], list[dict[str, Any]]]:
    """(figures, reasons for missing ones, a row per policy) from tries and the log's own returns.

    `rank_correlation` is that of the judges' dreams, `rank_correlation_planner` that of the
    planner's. `has_limit`: whether `trusted` was measured against a finite `u_max`.
    """
    at, figures, missing = list(names).index("candidate"), {}, {}
    real, dreams = list(tried["real"]), {name: list(tried[name]) for name in ("judges", "planner")}
    has_real, clone = tried["real"].size > 0, list(names).index("behaviour_cloning")
    if has_limit:
        figures["candidate_coverage"] = float(tried["trusted"][at])
    else:
        missing["candidate_coverage"] = "the world knows no limit of uncertainty"
    if not has_real:
        why = "there is no real environment to try policies in"
        missing |= dict.fromkeys(
            ("rank_correlation", "rank_correlation_planner", "exploitation_gap"), why
        )
    promised, why_not = promise(tried, at, clone)
    figures, missing = figures | promised, missing | why_not
    names = list(names)
    if len(behaviour) > 1:  # in dreams by its clone
        names, real = ["behaviour", *names], [behaviour, *real]
        dreams = {name: [each[clone], *each] for name, each in dreams.items()}
    if has_real:
        found, whys = _compared(dreams, real)
        figures, missing = figures | found, missing | whys
        everything = np.concatenate(real)
        if (span := np.ptp(everything)) > 0:
            gap = tried["planner"][at].mean() - tried["real"][at].mean()
            figures["exploitation_gap"] = float(gap / span)
        else:
            missing["exploitation_gap"] = "every real episode returned the same"
    mean = lambda x: float(np.mean(x)) if len(x) else None
    rows = [
        {
            "name": name,
            "real": mean(real[i]) if has_real else mean(behaviour) if name == "behaviour" else None,
            "interval": list(bootstrap_interval(real[i])) if has_real else None,
            "judges": mean(dreams["judges"][i]),
            "planner": mean(dreams["planner"][i]),
        }
        for i, name in enumerate(names)
    ]
    return figures, missing, rows


def promise(
    tried: Mapping[str, np.ndarray], candidate: int, clone: int
) -> tuple[dict[str, float], dict[str, str]]:
    """(figures, reasons for missing ones) of what the planner's dream promises of the candidate.

    The mean of whole episodes, its standard error, and their 5 % and 95 % quantiles; what judges
    and other draws of the world say, and the shares of the promised gain over the log's clone that
    they do not see.
    """
    dreamed, judged, other = tried["planner"], tried["judges"], tried["redrawn"]
    low, high = np.quantile(dreamed[candidate], [0.05, 0.95])
    means = dreamed.mean(1)
    found = {"promise": means[candidate], "promise_low": low, "promise_high": high}
    missing, gain = {}, means[candidate] - means[clone]
    if gain <= 0:
        missing["unrepeated"] = NO_GAIN
    elif not other.size:
        missing["unrepeated"] = NO_DRAW
    else:
        found["promise_redrawn"] = other.mean()
        found["unrepeated"] = max(0.0, means[candidate] - other.mean()) / gain
    if not judged.size:
        missing["unsupported"] = NO_JUDGE
    elif gain <= 0:
        missing["unsupported"] = NO_GAIN
    else:
        seen, scatter = judged[candidate].mean(), dreamed[candidate].var() / dreamed.shape[1]
        error = np.sqrt(scatter + judged[candidate].var() / judged.shape[1])
        unseen = max(0.0, means[candidate] - seen)
        found |= {"promise_judged": seen, "promise_error": error, "unsupported": unseen / gain}
    return {name: float(x) for name, x in found.items()}, missing


def _compared(dreams: Mapping[str, list], real: list) -> tuple[dict[str, float], dict[str, str]]:
    """(rank figures, reasons for missing ones) of planner and judges."""
    figures, missing = {}, {}
    for who, name in (("planner", "rank_correlation_planner"), ("judges", "rank_correlation")):
        if not dreams[who][0].size:
            missing[name] = NO_JUDGE
            continue
        found = rank(dreams[who], real)
        figures["rank_pairs"] = float(found.pairs)
        if found.correlation is None or found.interval is None:
            missing[name] = found.why
            continue
        figures[name] = found.correlation
        if who == "judges" and found.agreement is not None:
            figures["rank_low"], figures["rank_high"] = found.interval
            figures["rank_agreement"] = found.agreement
    return figures, missing

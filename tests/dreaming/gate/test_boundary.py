"""Looks at a growing test spend what they may, and no more."""

import math

import numpy as np
import pytest
from scipy import stats

from dreaming.gate.boundary import SHARES, errors_of_looks, first_most

ERROR = 0.025
THIRDS = (1 / 3, 2 / 3, 1.0)


def obrien_fleming(share: float) -> float:
    return float(2 * stats.norm.sf(stats.norm.isf(ERROR / 2) / math.sqrt(share)) / ERROR)


def pocock(share: float) -> float:
    return math.log(1 + (math.e - 1) * share)


@pytest.mark.parametrize(
    "spent, z",
    [(obrien_fleming, [3.710, 2.511, 1.993]), (pocock, [2.279, 2.295, 2.296])],
)
def test_boundaries_are_those_of_the_books(spent, z):
    """Three equal looks at a one-sided 2.5 % (Lan & DeMets' functions, as tabulated)."""
    found = stats.norm.isf(errors_of_looks(ERROR, THIRDS, spent))
    np.testing.assert_allclose(found, z, atol=0.01)


def test_a_single_look_spends_everything():
    assert errors_of_looks(ERROR, (1.0,))[0] == pytest.approx(ERROR, rel=1e-3)


def test_the_first_look_spends_most_and_all_of_them_what_there_is():
    """Brownian motions without drift leave the boundary as often as they may."""
    first, *_ = found = errors_of_looks(0.05)
    assert first == pytest.approx(0.05 * first_most(SHARES[0]), rel=1e-3)
    spent = np.diff([0, *(first_most(share) for share in SHARES)])
    assert spent[0] > spent[1:].max()
    random = np.random.default_rng(0)
    steps = np.diff([0, *SHARES]) ** 0.5 * random.normal(size=(200_000, 3))
    z = steps.cumsum(1) / np.sqrt(SHARES)
    crossed = (z > stats.norm.isf(found)).any(1).mean()
    assert abs(crossed - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 200_000)

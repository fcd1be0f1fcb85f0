"""The conflict report, by hand."""

import jax
import numpy as np
import pytest

from dreaming.sessions.conflict import auroc, conflict


def test_auroc_by_hand():
    score = np.array([3.0, 1.0, 2.0, 2.0])
    assert auroc(score, np.array([True, False, True, False])) == pytest.approx(3.5 / 4)
    with pytest.raises(ValueError, match="both kinds"):
        auroc(score, np.ones(4, bool))


def test_the_same_weights_are_not_in_conflict_and_others_are(params, shape):
    o = np.eye(shape.o_size, dtype=np.float32)
    assert conflict(params, params, shape, o).share == 0
    assert conflict(params, params, shape, o).divergence.max() == 0
    turned = jax.device_get(params)
    bias = np.array([3.0, -3.0, 0.0, 0.0], np.float32)
    turned = turned | {"pi": [turned["pi"][0] | {"b": bias}]}
    other = turned | {"pi": [turned["pi"][0] | {"b": bias[[1, 0, 2, 3]]}]}
    found = conflict(turned, other, shape, o)
    assert found.share == 1 and len(found.worst(3)) == 3
    assert found.divergence[found.worst(1)[0]] == found.divergence.max()

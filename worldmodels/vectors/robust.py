"""Robust regression: the law that most rows of a log follow, and the posterior of its weights.

What is left over is Student's t, so that the rare steps that no smooth law explains (a car that
hits a wall) do not bend the law elsewhere: rows are weighed by how far they lie from it (EM; Lange,
Little and Taylor, 1989). By least squares, walls cost MountainCar's law a hundredfold everywhere.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from worldmodels.vectors.base import base_features

FREEDOM = 1.0  # of the t distribution of what is left over: Cauchy's
NEAR = 0.01  # typical changes from the law, within which a row counts in full
ROUNDS, FIRM = 6, 1e-3  # of the weighing of rows, and its ridge
MOST_ROWS = 4096  # by which a law is found,
MOST_KNOWN = 1 << 17  # and its posterior
MOST_OPEN = 1e-9  # least ridge of the draws
LEAST_NOISE = 1e-5  # of a change, in `o_step`: what float32 resolves
CHUNK = 4096  # rows whose features are held at once

_features = jax.jit(base_features)


class Law(NamedTuple):
    """A regression, and the usual deviation of what it leaves over."""

    weights: Any  # [G, O]
    usual: Any  # [O]
    is_number: Any  # [O]

    def weigh(self, phi, change) -> Float[np.ndarray, "N 1"]:
        """`row_weights` of rows."""
        return row_weights(change - phi @ self.weights, self.usual, self.is_number)


def robust(phi: Float[np.ndarray, "N G"], change: Float[np.ndarray, "N O"], is_number):
    """(the law of these rows, their weights [N, 1])."""
    weigh = np.ones((len(phi), 1))
    for _ in range(ROUNDS):
        weighed = phi * weigh
        gram = phi.T @ weighed + FIRM * np.eye(phi.shape[1])
        weights = np.linalg.solve(gram, weighed.T @ change)
        law = Law(weights, _deviation(change - phi @ weights), is_number)
        weigh = law.weigh(phi, change)
    return law, weigh


def row_weights(error: Float[np.ndarray, "N O"], usual, is_number) -> Float[np.ndarray, "N 1"]:
    """Weights of rows: the expected precision of each under a t distribution of all numbers, in
    their `usual` deviations [O]; 1 at most."""
    far = np.square(error / np.maximum(usual, NEAR))[:, is_number].sum(1, keepdims=True)
    return np.minimum(1, (FREEDOM + is_number.sum()) / (FREEDOM + far))


def noise_of(error: Float[np.ndarray, "N O"], is_number) -> Float[np.ndarray, " O"]:
    """Deviations of errors: by their median, or by their weighted squares where that is more, as of
    a number that seldom changes."""
    usual = _deviation(error)
    return np.maximum(usual, np.sqrt(np.mean(row_weights(error, usual, is_number) * error**2, 0)))


def _deviation(error: Float[np.ndarray, "N O"]) -> Float[np.ndarray, " O"]:
    """That of a normal distribution with the median of these absolute errors."""
    return 1.4826 * np.median(np.abs(error), axis=0) + LEAST_NOISE


def evenly(rows: np.ndarray, most: int = MOST_ROWS) -> np.ndarray:
    """At most so many of these rows, evenly spread."""
    return rows[np.linspace(0, rows.size - 1, min(rows.size, most)).astype(int)]


def rows_of(base: dict, x, a) -> Float[np.ndarray, "N G"]:
    """Features in float64."""
    return np.asarray(_features(base, x, a), np.float64)


def moments(base: dict, x, a, change, law: Law) -> tuple[np.ndarray, np.ndarray]:
    """(features' features [G, G], features' changes [G, O]) of rows, weighed as by `law`."""
    gram, moment = 0.0, 0.0
    for at in range(0, len(x), CHUNK):
        part = slice(at, at + CHUNK)
        phi = rows_of(base, x[part], a[part])
        weighed = phi * law.weigh(phi, change[part])
        gram, moment = gram + phi.T @ weighed, moment + weighed.T @ change[part]
    return np.asarray(gram), np.asarray(moment)


def posterior(gram, moment, ridge: float, noise, normal: Float[np.ndarray, "E G O"]):
    """Draws [E, G, O] of the weights: their mean under `ridge`, plus their spread times standard
    normals, centred so that the members' mean is the posterior's, and scaled to its variance.

    The ridge was chosen for how the mean dreams. How far weights may lie from it where no row
    speaks, the mean itself says: a prior as wide as its well-known weights (MacKay, 1992).
    """
    members = len(normal)
    values, vectors = np.linalg.eigh(gram)
    values = np.maximum(values, 0)[:, None]
    mean = vectors @ (vectors.T @ moment / (values + ridge))
    known = np.sum(values / (values + ridge))
    precision = known * np.square(noise) / np.maximum(np.square(mean).sum(0), LEAST_NOISE**2)
    centred = (normal - normal.mean(0)) * np.sqrt(members / max(1, members - 1))
    spread = vectors @ (noise / np.sqrt(values + np.maximum(precision, MOST_OPEN)) * centred)
    return jnp.asarray(mean + spread, jnp.float32)

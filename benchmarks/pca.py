"""PCA and whitening of wide features against faiss.PCAMatrix and scikit-learn's PCA."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.data import Scale
from benchmarks.table import Row, Side, race
from ucl import pca

Matrix = NDArray[np.float32]

SAME = 1e-5
"""Largest difference of a value between whitened rows of unit length, as `cluster` goes on with them, up to a component's sign."""

SINGLE = 1e-2
"""The same for scikit-learn's solver, which works in float32 throughout."""

REPEATS = 3
"""Most pairs of a row whose other side takes a minute."""


@dataclass
class Kept:
    """Holds what a side made last."""

    rows: Matrix


@functools.cache
def wide(scale: Scale) -> Matrix:
    """Features as wide as AlexNet's last hidden layer: (3068, 4096) float32, with means as large as the first deviations.

    The deviations of the components fall by e in 128, over a floor of noise.  So neighbours are told apart by 1.6 % of their variance;
    where two variances are equal no two programs agree on the components.
    """
    n, d = scale.of(3_068, 300), scale.of(4_096, 512)
    rng = np.random.default_rng(0)
    rank = min(n, d) - 1
    left, _ = np.linalg.qr(rng.standard_normal((n, rank)))
    right, _ = np.linalg.qr(rng.standard_normal((d, rank)))
    deviation = np.exp(-np.arange(rank) / 128) + 0.001
    return np.asarray(np.sqrt(n) * (left * deviation) @ right.T + rng.random(d), np.float32)


def largest_difference(mine: Matrix, theirs: Matrix) -> float:
    """Largest difference of two whitened matrices (N, D), made unit rows, after each component of ``theirs`` was given our sign.

    faiss and scikit-learn scale by other constants (the scatter matrix, N - 1); unit rows know no scale.
    """
    a, b = (m.astype(np.float64) / np.linalg.norm(m.astype(np.float64), axis=1, keepdims=True) for m in (mine, theirs))
    return float(np.abs(a - b * np.sign((a * b).sum(0))).max())


def _row(name: str, other: str, right: Callable[[], Matrix], scale: Scale, *, goal: float | None, same: float | None, repeat: int) -> Row:
    x = wide(scale)
    kept = {"ours": Kept(x), "other": Kept(x)}

    def keep(side: str, make: Callable[[], Matrix]) -> Side:
        def run() -> None:
            kept[side].rows = make()
        return run

    count = scale.of(256, 64)
    timed = race(keep("ours", lambda: pca.apply(pca.fit(x, count, threads=scale.threads), x, threads=scale.threads)), keep("other", right),
                 repeat, warm=False)
    apart = largest_difference(kept["ours"].rows, kept["other"].rows)
    faults = (f"unit rows differ by {apart:.1e}",) if same is not None and apart > same else ()
    return Row(name, "pca.fit and apply", other, timed, kind="gain", goal=goal, faults=faults,
               note=f"{x.shape[0]} x {x.shape[1]} to {count}, whitened; unit rows differ by {apart:.1e} at most")


def against_faiss(scale: Scale) -> Row:
    """The released DeepCluster's call."""
    import faiss

    x = wide(scale)

    def right() -> Matrix:
        matrix = faiss.PCAMatrix(x.shape[1], scale.of(256, 64), -0.5)
        matrix.train(x)
        made: Matrix = matrix.apply(x)
        return made

    return _row("pca-faiss", "faiss.PCAMatrix", right, scale, goal=10, same=SAME, repeat=min(REPEATS, scale.repeat))


def _sklearn(scale: Scale, solver: str) -> Callable[[], Matrix]:
    from sklearn.decomposition import PCA

    def right() -> Matrix:
        job: Any = PCA(scale.of(256, 64), whiten=True, svd_solver=solver, random_state=0)
        made: Matrix = job.fit_transform(wide(scale))
        return made

    return right


def exact(scale: Scale) -> Row:
    """The solver that gives the same rows."""
    return _row("pca-sklearn", "sklearn PCA(full)", _sklearn(scale, "full"), scale, goal=1, same=SINGLE, repeat=min(REPEATS, scale.repeat))


def default(scale: Scale) -> Row:
    """What scikit-learn does unasked at this size: a randomised solver, whose rows are not exact."""
    return _row("pca-sklearn-auto", "sklearn PCA(auto)", _sklearn(scale, "auto"), scale, goal=None, same=None, repeat=scale.repeat)


ROWS: dict[str, Callable[[Scale], Row]] = {"pca-faiss": against_faiss, "pca-sklearn": exact, "pca-sklearn-auto": default}

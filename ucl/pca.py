"""From raw features to the space that is clustered: usable rows, exact PCA, whitening, unit length.

DeepCluster, section 4.1, projects the features on 256 principal components, whitens them and normalises every
row. The released code does so with faiss (`PCAMatrix(d, 256, eigen_power=-0.5)`); here the same map comes
from a float64 eigenproblem, so that it is exact, has fixed signs, and takes seconds where faiss takes a
minute on wide features.

Whitening gives unit variance: the covariance, with 1/N, of the rows it was fitted on is I.  faiss divides by
the square roots of the eigenvalues of the *scatter* matrix, which is N times the covariance: its rows are
shorter by the constant factor sqrt(N), and the L2 normalisation that follows makes both the same.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ucl.artifacts import Features, Pca
from ucl.errors import DataError
from ucl.matrix import Rows, chunks, columns
from ucl.memory import PROJECT_ROWS

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

log = logging.getLogger(__name__)

ROWS = PROJECT_ROWS
"""Rows worked on at a time.  A constant: the order of summation, and so the last bits, depend on it."""

RANK_TOLERANCE = 1e-10
"""An eigenvalue at most this share of the largest counts as zero."""

TIE = 1e-6
"""Entries of an eigenvector whose magnitudes differ by less, relatively, tie when its sign is chosen."""

EPSILON = 1e-10
"""Added to a row's norm before dividing, so that a zero row stays zero."""


def blas_threads(threads: int) -> AbstractContextManager[object]:
    """Limit numpy's and scipy's BLAS to ``threads`` threads inside a ``with``; 0 leaves them alone."""
    if threads <= 0:
        return contextlib.nullcontext()
    from threadpoolctl import threadpool_limits

    limits: AbstractContextManager[object] = threadpool_limits(limits=threads)
    return limits


def usable_rows(features: Features) -> NDArray[np.int64]:
    """Row numbers whose status is OK, in order; (n,) int64.

    Raises:
        DataError: such a row holds a NaN or an infinity (the first one is named), or there is no such row.
    """
    x, samples = features.features, features.samples
    ok = np.ones(len(x), bool) if samples is None else samples.ok
    for part in chunks(len(x), ROWS):
        bad = ok[part] & ~np.isfinite(x[part]).all(axis=1)
        if bad.any():
            row = part.start + int(np.argmax(bad))
            path = "" if samples is None else f" ({samples.path[row].decode(errors='replace')})"
            raise DataError(f"/features: row {row}{path}: not finite, expected finite numbers",
                            "training has diverged: go back an epoch, or lower the learning rate")
    rows = np.flatnonzero(ok).astype(np.int64)
    if not len(rows):
        raise DataError(f"/features: none of {len(x)} rows is usable, expected some whose status is OK",
                        "ucl info shows the status of every image")
    return rows


def fit(x: Rows, dimensions: int, *, whiten: bool = True, rank_deficient: str = "reduce",
        threads: int = 0) -> Pca:
    """Exact principal components of ``x``.

    The eigenproblem is that of the scatter matrix (d, d), or of the Gram matrix (N, N) where N < d, in
    float64.  Of each eigenvector the entry of largest magnitude is made positive, the first of them on a tie.
    Takes two float64 squares of side min(N, d) and 4,096 rows or columns; ``x`` is read in chunks of so many, three times.

    Args:
        x: features (N, d) float32, finite; wherever they lie, the result has the same bits.
        dimensions: components wanted; min(dimensions, d, N - 1, rank) are given.
        whiten: scale each component to unit variance.
        rank_deficient: "reduce" gives fewer components, with a warning, where the rank is smaller than
            min(dimensions, d, N - 1); "error" refuses.
        threads: threads of the BLAS; 0 leaves it alone.  Equal bits are promised for equal threads only.

    Raises:
        DataError: constant features (rank 0), or too small a rank under "error".
    """
    n, d = x.shape
    wanted = min(dimensions, d, n - 1)
    with blas_threads(threads):
        mean = _mean(x)
        matrix, varies = _scatter(x, mean) if n >= d else _gram(x, mean)
        if wanted < 1 or not varies:
            raise DataError(f"/features: rank 0, all {n} rows are equal; expected rows that differ",
                            "the network has collapsed to one point: go back to an earlier generation")
        values, vectors = _largest(matrix, wanted)
        del matrix
        rank = int((values > RANK_TOLERANCE * values[0]).sum())
        if rank < wanted:
            _deficient(rank, wanted, rank_deficient)
        values, vectors = values[:rank], vectors[:, :rank]
        if n < d:
            vectors = _back(x, mean, vectors) / np.sqrt(values)
    size = np.abs(vectors)
    pivot = (size >= size.max(axis=0) * (1 - TIE)).argmax(axis=0)
    vectors = vectors * np.where(vectors[pivot, np.arange(rank)] < 0, -1.0, 1.0)
    variance = values / n
    if whiten:
        vectors = vectors / np.sqrt(variance)
    return Pca(mean.astype(np.float32), np.ascontiguousarray(vectors, np.float32), variance)


def apply(pca: Pca, x: NDArray[np.float32], *, threads: int = 0) -> NDArray[np.float32]:
    """``(x - mean) @ components``, in float64 by chunks, rounded once; (N, d) -> (N, D) float32.

    Raises:
        DataError: ``x`` has another number of dimensions than the PCA was fitted on.
    """
    project = projector(pca, x.shape[1])
    out = np.empty((len(x), pca.components.shape[1]), np.float32)
    with blas_threads(threads):
        for part in chunks(len(x), ROWS):
            out[part] = project(x[part])
    return out


def projector(pca: Pca, d: int) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """What `apply` does to one chunk of `ROWS` rows of ``d`` dimensions.

    Raises:
        DataError: the PCA was fitted on another number of dimensions.
    """
    if d != len(pca.mean):
        raise DataError(f"/features: {d} dimensions, expected {len(pca.mean)} as in /pca/mean",
                        "use features of the same layer of the same model")
    mean, components = pca.mean.astype(np.float64), pca.components.astype(np.float64)

    def project(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = ((rows - mean) @ components).astype(np.float32)
        return found

    return project


def unit_rows(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Every row divided by its length + 1e-10.

    So does mmselfsup; the released DeepCluster divides by the bare length and makes NaN of a zero row.

    Args:
        x: (N, D) float32.

    Returns:
        (N, D) float32, a new C-contiguous array; zero rows stay zero.
    """
    out = np.empty(x.shape, np.float32)
    for part in chunks(len(x), ROWS):
        rows = x[part].astype(np.float64)
        out[part] = rows / (np.sqrt(np.einsum("nd,nd->n", rows, rows)) + EPSILON)[:, None]
    return out


def _mean(x: Rows) -> NDArray[np.float64]:
    """Mean row (d,) float64."""
    total = np.zeros(x.shape[1], np.float64)
    for part in chunks(len(x), ROWS):
        total += x[part].sum(axis=0, dtype=np.float64)
    mean: NDArray[np.float64] = total / len(x)
    return mean


def _noise(x_rows: int, mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of squares (d,) that float32's rounding of a constant column alone can amount to."""
    noise: NDArray[np.float64] = x_rows * (float(np.finfo(np.float32).eps) * np.abs(mean)) ** 2
    return noise


def _scatter(x: Rows, mean: NDArray[np.float64]) -> tuple[NDArray[np.float64], bool]:
    """Scatter matrix (d, d) float64, and whether any column varies by more than rounding."""
    total = np.zeros((x.shape[1], x.shape[1]), np.float64)
    for part in chunks(len(x), ROWS):
        centred = x[part] - mean
        total += centred.T @ centred
    return total, bool((total.diagonal() > _noise(len(x), mean)).any())


def _gram(x: Rows, mean: NDArray[np.float64]) -> tuple[NDArray[np.float64], bool]:
    """Gram matrix of the centred rows (N, N) float64, and whether any column varies by more than rounding."""
    total = np.zeros((len(x), len(x)), np.float64)
    noise, varies = _noise(len(x), mean), False
    for part in chunks(x.shape[1], ROWS):
        centred = columns(x, part, ROWS) - mean[part]
        total += centred @ centred.T
        varies = varies or bool((np.einsum("nd,nd->d", centred, centred) > noise[part]).any())
    return total, varies


def _largest(matrix: NDArray[np.float64], count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The ``count`` largest eigenvalues (count,), largest first, and their eigenvectors (side, count).

    On one thread: two gain a third on idle cores (side 3,068: 1.1 s after 1.7), but they meet at every column, and beside other
    busy processes took 4 to 16 s.
    """
    from scipy.linalg import eigh

    side = len(matrix)
    # symmetric to the last bit, so the transpose is the same matrix, in the order in which LAPACK works in place
    with blas_threads(1):
        values, vectors = eigh(matrix.T, subset_by_index=[side - count, side - 1], overwrite_a=True, check_finite=False)
    return values[::-1].copy(), vectors[:, ::-1]


def _back(x: Rows, mean: NDArray[np.float64], u: NDArray[np.float64]) -> NDArray[np.float64]:
    """Eigenvectors u (N, D) of the Gram matrix as directions (d, D), of length sqrt(eigenvalue)."""
    out = np.empty((x.shape[1], u.shape[1]), np.float64)
    for part in chunks(x.shape[1], ROWS):
        out[part] = (columns(x, part, ROWS) - mean[part]).T @ u
    return out


def _deficient(rank: int, wanted: int, policy: str) -> None:
    if policy == "error":
        raise DataError(f"/features: rank {rank}, fewer than the {wanted} dimensions wanted of the PCA",
                        f"--pca {rank}, or --rank-deficient reduce")
    log.warning("features have rank %d: PCA keeps %d dimensions instead of %d", rank, rank, wanted)

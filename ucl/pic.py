"""Power iteration clustering as DeepCluster's appendix uses it: a graph of neighbours, a walk on it, and who points to whom.

Lin and Cohen, "Power iteration clustering", ICML 2010; Caron et al., ECCV 2018, released code, class PIC, as it has been since
March 2019 (before, two assignments were swapped, and a row pointed to the last neighbour uphill instead of the steepest; that
is not reproduced).  The number of clusters comes out of it.

    D = squared distances to the M nearest rows        A = exp(-D / sigma^2), W = A + A^T
    v = 1/N; 200 times: v = alpha W v + (1 - alpha) / N, divided by its sum
    row i points to the neighbour j of the largest W_ij (v_j - v_i), if that is positive, else to itself
    a cluster is all rows whose pointers lead to one that points to itself

Affinities and v are float64, as the released code's are under numpy 1.

Memory beside ``x`` (N, D): (24 + 160 M) N bytes, and what `ucl.search` takes for blocks.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ucl.errors import UsageError
from ucl.matrix import Rows
from ucl.search import Points, nearest

if TYPE_CHECKING:
    from scipy.sparse import csr_array

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PicResult:
    """What power iteration clustering found.

    Attributes:
        labels: (N,) int32, 0..K-1, in the order of the rows that the clusters' pointers end at.
        k: number of clusters.
        joined: rows that were alone and joined a neighbour's cluster.
        alone: rows that still are.
    """

    labels: NDArray[np.int32]
    k: int
    joined: int
    alone: int


def pic(x: Rows, *, neighbors: int, sigma: float, alpha: float, iterations: int, distribute: bool, threads: int = 0) -> PicResult:
    """Clusters of the rows; equal arguments give equal labels, wherever the rows lie.

    Args:
        x: rows (N, D) float32, finite.
        neighbors: M, nearest rows of each.
        sigma: width of the affinity, in the units of ``x``.
        alpha: weight of the graph in the walk.
        iterations: steps of the walk.
        distribute: rows alone in their cluster join that of their nearest neighbour that is not alone.
        threads: threads of the search; labels do not depend on them.

    Raises:
        UsageError: no more rows than neighbours.
    """
    if neighbors >= len(x):
        raise UsageError(f"neighbors: found {neighbors}, wanted fewer than {len(x)}, the number of usable images",
                         f"--neighbors {max(1, len(x) - 1)} or fewer")
    near, distance = nearest_rows(x, neighbors, threads)
    graph = affinities(near, distance, sigma)
    root = follow(uphill(graph, walk(graph, alpha, iterations)))
    after, joined, alone = root, 0, int((np.bincount(root, minlength=len(root)) == 1).sum())
    if distribute:
        after = without_singletons(root, near)
        joined = int((after != root).sum())
        alone -= joined
    ids, labels = np.unique(after, return_inverse=True)
    return PicResult(labels.astype(np.int32), len(ids), joined, alone)


def nearest_rows(x: Rows, count: int, threads: int = 0) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The ``count`` nearest other rows of each row and their squared distances, nearest first, the lower row on a tie.

    A row is left out of its own list by its number: where rows are equal it need not be the first.

    Returns:
        (N, count) int64 and (N, count) float64.
    """
    points = Points(x, cosine=False)
    near, half = nearest(points, points, count, threads=threads)
    return near, 2 * half


def affinities(near: NDArray[np.int64], distance: NDArray[np.float64], sigma: float) -> csr_array:
    """W = A + A^T of A_ij = exp(-D_ij / sigma^2) for the listed neighbours, so that mutual ones count twice; (N, N) float64."""
    from scipy.sparse import csr_array

    n, count = near.shape
    weight = np.exp(-distance / sigma**2)
    lost = int((weight == 0).all(axis=1).sum())
    if lost:
        log.warning("pic: %d rows are so far from all of their neighbours that their affinities are 0: sigma %g is too small for them",
                    lost, sigma)
    a = csr_array((weight.ravel(), near.ravel(), np.arange(n + 1) * count), shape=(n, n))
    a.sort_indices()
    w = csr_array(a + a.T)
    w.sort_indices()
    return w


def walk(graph: csr_array, alpha: float, iterations: int) -> NDArray[np.float64]:
    """The walk's v (N,) float64; it sums to 1 after each step."""
    n = graph.shape[0]
    v: NDArray[np.float64] = np.full(n, 1 / n)
    for _ in range(iterations):
        v = step(graph, v, alpha)
    return v


def step(graph: csr_array, v: NDArray[np.float64], alpha: float) -> NDArray[np.float64]:
    """One step of the walk; ``graph`` is symmetric, so W^T v = W v."""
    moved = alpha * (graph @ v) + (1 - alpha) / len(v)
    found: NDArray[np.float64] = moved / moved.sum()
    return found


def uphill(graph: csr_array, v: NDArray[np.float64]) -> NDArray[np.int64]:
    """For each row the neighbour j of the largest W_ij (v_j - v_i), the lowest on a tie; itself where none is positive; (N,) int64."""
    n = len(v)
    row = np.repeat(np.arange(n), np.diff(graph.indptr))
    gain = graph.data * (v[graph.indices] - v[row])
    best = np.zeros(n)
    np.maximum.at(best, row, gain)
    hit = np.flatnonzero((gain > 0) & (gain == best[row]))
    who, first = np.unique(row[hit], return_index=True)
    pointer = np.arange(n)
    pointer[who] = graph.indices[hit[first]]
    return pointer


def follow(pointer: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each row's pointers end; (N,) int64.  v grows along them, so they end."""
    while True:
        further = pointer[pointer]
        if np.array_equal(further, pointer):
            return further
        pointer = further


def without_singletons(root: NDArray[np.int64], near: NDArray[np.int64]) -> NDArray[Any]:
    """Roots (N,) after each row that is alone has joined its nearest listed neighbour that is not, if there is one.

    Who is alone is judged before anybody moves.
    """
    size = np.bincount(root, minlength=len(root))
    alone = np.flatnonzero(size[root] == 1)
    company = size[root[near[alone]]] > 1
    joins = company.any(axis=1)
    moved = root.copy()
    moved[alone[joins]] = root[near[alone[joins], company[joins].argmax(axis=1)]]
    return moved

"""`neighbors` against the exact searches of faiss and scikit-learn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks.data import Scale
from benchmarks.table import Row, race
from ucl.artifacts import Features, Neighbors
from ucl.context import Context
from ucl.neighbors import neighbors
from ucl.settings import NeighborsSettings

COUNT = 20
SAME = 0.9999
"""Share of neighbours that both sides have to agree on; the rest may tie within float32."""

Numbers = NDArray[np.int64]


def against(name: str, other: str, goal: float | None, theirs: Callable[[NDArray[np.float32]], Numbers], scale: Scale) -> Row:
    """Features of many small groups, searched among themselves, each row one of its own neighbours on both sides."""
    n, d = scale.of(50_000, 2_000), 128
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n // 10, d), np.float32)[rng.integers(0, n // 10, n)] + rng.standard_normal((n, d), np.float32)
    settings = NeighborsSettings(neighbors=COUNT, include_self=True)
    found: list[Numbers] = [np.empty(0, np.int64), np.empty(0, np.int64)]

    def ours() -> None:
        made = neighbors(Features(x), settings, Context(), threads=scale.threads)
        assert isinstance(made, Neighbors)
        found[0] = made.neighbors.astype(np.int64)

    def search() -> None:
        found[1] = theirs(x / np.linalg.norm(x, axis=1, keepdims=True))

    pairs = race(ours, search, scale.repeat, warm=False)
    same = float((found[0] == found[1]).mean())
    return Row(name, "neighbors", other, pairs, goal=goal, faults=() if same >= SAME else (f"only {same:.4%} of the neighbours are the same",),
               note=f"{n} x {d}, {COUNT} nearest by cosine; {same:.4%} of them the same")


def faiss_flat(scale: Scale) -> Row:
    """faiss' IndexFlatIP on unit rows."""
    import faiss

    faiss.omp_set_num_threads(scale.threads)

    def search(x: NDArray[np.float32]) -> Numbers:
        index = faiss.IndexFlatIP(x.shape[1])
        index.add(x)
        found: Numbers = index.search(x, COUNT)[1]
        return found

    return against("neighbors-faiss", "faiss IndexFlatIP on unit rows", 1.0, search, scale)


def sklearn_brute(scale: Scale) -> Row:
    """scikit-learn's NearestNeighbors on unit rows, which takes its fused search by products for them."""
    from sklearn.neighbors import NearestNeighbors

    def search(x: NDArray[np.float32]) -> Numbers:
        found: Numbers = NearestNeighbors(n_neighbors=COUNT, algorithm="brute").fit(x).kneighbors(x, return_distance=False)
        return found

    return against("neighbors-sklearn", "scikit-learn NearestNeighbors, brute", 1.0, search, scale)


ROWS: dict[str, Callable[[Scale], Row]] = {"neighbors-faiss": faiss_flat, "neighbors-sklearn": sklearn_brute}

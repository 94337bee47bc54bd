"""k-means against faiss.Kmeans and scikit-learn's KMeans, to the same objective; `cluster` against DeepCluster's own recipe."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.commands import ucl
from benchmarks.data import Scale, trained
from benchmarks.table import Row, race
from ucl.keys import Key
from ucl.kmeans import KMeansResult, initial_means, kmeans, squared_distances

Matrix = NDArray[np.float32]

ITERATIONS = 20
CLOSE = 2e-3
"""Objectives that differ by less, relatively, are equal: sums in another order move a few rows between clusters."""


GENERATIONS = {"deepcluster": (2, 4), "persistent": (2, 4, 6, 8)}
"""Generations of a method's run whose features are clustered; the network changes less from one to the next the longer it trains."""

MINIBATCH_WORSE = 0.02
"""Share by which the objective of mini-batches, drawn otherwise on both sides, may lie above the other one's."""

SEEDS = 3
"""Cold starts whose median objective a warm one must reach."""


@dataclass(frozen=True)
class Drift:
    """Features of one generation (N, D), ready to be clustered, and the labels (N,) of the generation before, K clusters."""

    generation: int
    x: Matrix
    before: NDArray[np.int32]
    k: int


@functools.cache
def drift(scale: Scale, method: str) -> tuple[Drift, ...]:
    """Features of some generations of a run, each with the labels that the epoch before was trained on.

    They are projected as `cluster` does: PCA, whitening, unit length.
    """
    from ucl import pca, read

    run = trained(scale, method, max(GENERATIONS[method]))
    found = []
    for generation in GENERATIONS[method]:
        out = scale.work / f"features-{method}-{generation}.h5"
        place = f"epochs/{generation:04d}"
        ucl("extract", "images.h5", "--model", f"{place}/model.h5", "-o", str(out), "-j", str(scale.threads), cwd=run)
        raw = read(out).features
        x = pca.unit_rows(pca.apply(pca.fit(raw, 256, threads=scale.threads), raw, threads=scale.threads))
        labels = read(run / place / "labels.h5")
        found.append(Drift(generation, x, labels.labels, labels.k))
    return tuple(found)


def blobs(n: int, d: int, k: int) -> Matrix:
    """Unit rows around k directions, with noise as large as they are apart: (n, d) float32."""
    rng = np.random.default_rng(0)
    centre = rng.standard_normal((k, d), np.float32)
    x = centre[rng.integers(0, k, n)] + rng.standard_normal((n, d), np.float32)
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)


def ours(x: Matrix, k: int, threads: int, *, iterations: int = ITERATIONS, init: Matrix | None = None) -> KMeansResult:
    """What `cluster` calls."""
    return kmeans(x, k, iterations=iterations, redo=1, seed=0, spherical=False, max_points=0, empty="leave", init=init, threads=threads)


def faiss_kmeans(x: Matrix, k: int, *, seed: int = 0, gpu: bool = False) -> tuple[Matrix, NDArray[np.int64]]:
    """faiss.Kmeans with its subsampling and early stop off, and the labels to its last centroids; centroids (K, D), labels (N,)."""
    import faiss

    more = {"early_stop_threshold": -1.0} if hasattr(faiss.ClusteringParameters(), "early_stop_threshold") else {}
    job = faiss.Kmeans(x.shape[1], k, niter=ITERATIONS, seed=seed, gpu=gpu, min_points_per_centroid=1, max_points_per_centroid=len(x) // k + 1,
                       **more)
    job.train(x)
    assert job.centroids is not None
    return job.centroids, job.index.search(x, 1)[1][:, 0]


def objective(x: Matrix, centroid: Matrix, labels: NDArray[Any]) -> float:
    """Sum of squared distances, in float64, measured alike for every side."""
    return float(squared_distances(x, np.asarray(centroid, np.float32), labels.astype(np.int32)).sum())


def unequal(mine: float, theirs: float) -> tuple[str, ...]:
    """A fault where our objective is the larger one by more than `CLOSE`, or theirs."""
    return () if abs(mine / theirs - 1) <= CLOSE else (f"objectives differ: {mine:.6g}, {theirs:.6g}",)


def _against_faiss(name: str, x: Matrix, k: int, scale: Scale) -> Row:
    mine, (centroid, labels) = ours(x, k, scale.threads), faiss_kmeans(x, k)
    theirs = objective(x, centroid, labels)

    def left() -> None:
        ours(x, k, scale.threads)

    def right() -> None:
        faiss_kmeans(x, k)

    return Row(name, "kmeans, 20 iterations", "faiss.Kmeans", race(left, right, scale.repeat, warm=False), goal=1.0,
               faults=unequal(mine.objective, theirs),
               note=f"{len(x)} x {x.shape[1]}, K = {k}; objectives {mine.objective:.6g} and {theirs:.6g}")


def cold(scale: Scale) -> Row:
    """Learned features, 50 images a cluster."""
    last = drift(scale, "deepcluster")[-1]
    return _against_faiss("kmeans-cold", last.x, last.k, scale)


def large(scale: Scale) -> Row:
    """More rows and clusters than caches hold."""
    n, k = scale.of(50_000, 2_000), scale.of(1_000, 40)
    return _against_faiss("kmeans-large", blobs(n, 256, k), k, scale)


def against_sklearn(scale: Scale) -> Row:
    """The same rows as initial centroids, Lloyd's iterations, no early stop."""
    from sklearn.cluster import KMeans

    last = drift(scale, "deepcluster")[-1]
    x, k = last.x, last.k
    start = x[np.sort(Key(0).permutation("start", len(x))[:k])]

    def left() -> KMeansResult:
        return ours(x, k, scale.threads, init=start)

    def right() -> Any:
        return KMeans(k, init=start, n_init=1, max_iter=ITERATIONS, tol=0.0, algorithm="lloyd").fit(x)

    mine, theirs = left(), right()
    other = objective(x, theirs.cluster_centers_, theirs.labels_)
    timed = race(lambda: void(left()), lambda: void(right()), scale.repeat, warm=False)
    return Row("kmeans-sklearn", "kmeans, 20 iterations", "sklearn KMeans (lloyd)", timed, goal=1.0, faults=unequal(mine.objective, other),
               note=f"{len(x)} x {x.shape[1]}, K = {k}, same start; objectives {mine.objective:.6g} and {other:.6g}; sklearn ran "
                    f"{theirs.n_iter_} iterations")


def void(made: object) -> None:
    """Forget what a side made."""


def warm(scale: Scale) -> Row:
    """As the method `persistent` uses it: the last labels were found by a warm start too."""
    return _warm_row(scale, "kmeans-warm", "persistent")


def warm_after_cold(scale: Scale) -> Row:
    """From labels of a cold start, one epoch old: the first warm start of a run."""
    return _warm_row(scale, "kmeans-warm-first", "deepcluster")


def _warm_row(scale: Scale, name: str, method: str) -> Row:
    """From the last labels' means to the objective that faiss.Kmeans has after 20 iterations from a random start.

    Where 20 warm iterations do not reach it they are what is timed, and the note tells what is missing.
    """
    timed: list[tuple[float, float]] = []
    notes = []
    for at in drift(scale, method):
        target = float(np.median([objective(at.x, *faiss_kmeans(at.x, at.k, seed=seed)) for seed in range(SEEDS)]))
        reached = [_warm(at, m, scale.threads).objective for m in range(1, ITERATIONS + 1)]
        needed = next((m for m, found in enumerate(reached, 1) if found <= target), None)
        count = needed or ITERATIONS

        def left(at: Drift = at, count: int = count) -> None:
            _warm(at, count, scale.threads)

        def right(at: Drift = at) -> None:
            faiss_kmeans(at.x, at.k)

        pairs = race(left, right, scale.repeat, warm=False)
        timed += pairs
        sooner = statistics.median(b / a for a, b in pairs)
        how = f"{needed} iterations, {sooner:.1f} times" if needed else f"not reached, {reached[-1] / target - 1:.2%} above it after {ITERATIONS}"
        notes.append(f"generation {at.generation}: {how} ({reached[4] / target - 1:+.2%} after 5)")
    first = drift(scale, method)[0]
    return Row(name, "kmeans from the last labels", "faiss.Kmeans, 20 iterations", tuple(timed), kind="gain", goal=3.5,
               note=f"{len(first.x)} x {first.x.shape[1]}, K = {first.k}; " + ", ".join(notes))


def _warm(at: Drift, iterations: int, threads: int) -> KMeansResult:
    init, _ = initial_means(at.x, at.before, at.k, Key(0))
    return ours(at.x, at.k, threads, iterations=iterations, init=init)


def recipe(scale: Scale) -> Row:
    """The whole verb, with distances, means, anchors and history, against the released DeepCluster's preprocessing and k-means."""
    import faiss

    from ucl import read
    from ucl.cluster import cluster
    from ucl.context import Context
    from ucl.settings import ClusterSettings

    k = drift(scale, "deepcluster")[-1].k
    features = read(scale.work / "features-deepcluster-4.h5")
    raw = np.asarray(features.features)
    settings = ClusterSettings(k=k)

    def left() -> None:
        cluster(features, settings, Context(), threads=scale.threads)

    def right() -> None:
        matrix = faiss.PCAMatrix(raw.shape[1], min(256, raw.shape[1]), -0.5)
        matrix.train(raw)
        x = matrix.apply(raw)
        x /= np.maximum(np.linalg.norm(x, axis=1), 1e-10)[:, None]
        faiss_kmeans(x, k)

    return Row("cluster", "cluster (PCA, whiten, L2, k-means)", "faiss PCAMatrix, L2, Kmeans", race(left, right, scale.repeat),
               note=f"{raw.shape[0]} x {raw.shape[1]}, K = {k}, cold; ours also makes distances, means, anchors")


def _other_method(name: str, method: str, rival: str, right: Callable[[Matrix, int], float | None], note: str, scale: Scale) -> Row:
    """`cluster` by another method, with nothing before it: no PCA, no L2; ``right`` returns its objective, if it has one."""
    from ucl.artifacts import Features, Samples
    from ucl.cluster import cluster
    from ucl.context import Context
    from ucl.settings import ClusterSettings

    row = Row(name, f"cluster --method {method}", rival)
    if "method" not in ClusterSettings().as_dict():
        return replace(row, absent="cluster has no --method")
    n, k = scale.of(50_000, 6_000), scale.of(1_000, 40)
    x = blobs(n, 256, k)
    features = Features(x, Samples(np.array([b"%08d" % i for i in range(n)]), np.zeros(n, np.uint8)), "", "", "", "")
    settings = ClusterSettings().override({"method": method, "pca": 0, "l2": False, **({"k": k} if method != "pic" else {})})
    objectives: dict[str, float] = {}

    def left() -> None:
        labels = cluster(features, settings, Context(), threads=scale.threads)
        objectives["ours"] = float(labels.info.get("objective") or 0)

    def timed_right() -> None:
        objectives["other"] = right(x, k) or 0.0

    pairs = race(left, timed_right, scale.repeat)
    if not objectives["other"]:
        return replace(row, pairs=pairs, note=f"{n} x 256; {note}")
    apart = objectives["ours"] / objectives["other"] - 1
    return replace(row, pairs=pairs, faults=(f"objective {apart:.1%} above",) if apart > MINIBATCH_WORSE else (),
                   note=f"{n} x 256, K = {k}; {note}; our objective {apart:+.2%}")


def minibatch(scale: Scale) -> Row:
    """As many batches of as many rows, the same reassignment, no early stop; then labels of all rows on both sides."""

    def right(x: Matrix, k: int) -> float:
        from sklearn.cluster import MiniBatchKMeans

        job: Any = MiniBatchKMeans(k, init="random", n_init=1, batch_size=4096, max_iter=5, tol=0.0, max_no_improvement=None,
                                   reassignment_ratio=0.01, random_state=0)
        return float(job.fit(x).inertia_)

    return _other_method("kmeans-minibatch", "minibatch", "sklearn MiniBatchKMeans", right, "batches of 4,096, 5 passes", scale)


def pic(scale: Scale) -> Row:
    """Power iteration clustering against the exact neighbour search alone, which it cannot do without."""

    def right(x: Matrix, k: int) -> None:
        import faiss

        index = faiss.IndexFlatL2(x.shape[1])
        index.add(x)
        index.search(x, 6)

    return _other_method("pic", "pic", "faiss IndexFlatL2, 6 nearest", right, "5 neighbours, 200 steps of the walk", scale)


ROWS: dict[str, Callable[[Scale], Row]] = {
    "kmeans-cold": cold, "kmeans-large": large, "kmeans-sklearn": against_sklearn, "kmeans-warm": warm,
    "kmeans-warm-first": warm_after_cold, "kmeans-minibatch": minibatch, "pic": pic, "cluster": recipe}

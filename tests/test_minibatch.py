"""ucl.minibatch against plain loops and scikit-learn."""

import numpy as np
import pytest
from sklearn.cluster import MiniBatchKMeans

from ucl.artifacts import OK, Features, Samples
from ucl.cluster import cluster
from ucl.context import Context
from ucl.errors import DataError, UsageError
from ucl.keys import Key
from ucl.kmeans import KMeansResult, member_means, nearest
from ucl.matrix import SpooledRows
from ucl.minibatch import minibatch
from ucl.settings import ClusterSettings


def blobs(n: int, d: int, groups: int, spread: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((groups, d))[rng.integers(0, groups, n)] + spread * rng.standard_normal((n, d))).astype(np.float32)


def run(x: np.ndarray, k: int, **changes: object) -> KMeansResult:
    options = {"batch": 256, "passes": 3, "reassign": 0.01, "redo": 1, "spherical": False, "empty": "leave", "key": Key(seed=3), "threads": 1}
    return minibatch(x, k, **(options | changes))


@pytest.mark.parametrize(("n", "d", "groups", "k", "spread"), [(6000, 16, 60, 80, 0.8), (8000, 8, 100, 200, 0.5), (5000, 32, 500, 50, 1.0)])
def test_objective_of_scikit_learn(n: int, d: int, groups: int, k: int, spread: float) -> None:
    """At most 3 % above its objective on the same rows, with as many in a batch."""
    x = blobs(n, d, groups, spread)
    theirs = MiniBatchKMeans(k, batch_size=1024, n_init=3, random_state=0).fit(x)
    ours = run(x, k, batch=1024, passes=5)
    assert ours.objective <= 1.03 * theirs.inertia_
    assert ours.iterations_run == 5 * -(-n // 1024)
    assert ours.objectives[-1] < ours.objectives[0]


def test_one_batch_of_everything_is_one_iteration_of_k_means() -> None:
    x = blobs(500, 6, 8, 0.5)
    found = run(x, 8, batch=500, passes=1, reassign=0, init=x[:8].copy())
    mean, size = member_means(x, nearest(x, x[:8]), 8)
    assert (size > 0).all()
    np.testing.assert_allclose(found.centroid, mean, rtol=1e-6)
    assert found.labels.tolist() == nearest(x, found.centroid).tolist()


def test_the_update_by_a_plain_loop() -> None:
    """Sculley's algorithm 1: each row moves its centroid by 1 / (rows it has had), members fixed before the batch."""
    x = blobs(300, 4, 5, 0.6)
    key = Key(seed=9)
    found = run(x, 5, batch=64, passes=2, reassign=0, init=x[:5].copy(), key=key)
    centre, count = x[:5].astype(np.float64), np.zeros(5)
    for number in range(2):
        order = key.permutation(f"minibatch-{number}", 300)
        for start in range(0, 300, 64):
            rows = np.sort(order[start:start + 64])
            near = [int(((x[r] - centre) ** 2).sum(axis=1).argmin()) for r in rows]
            for r, c in zip(rows, near, strict=True):
                count[c] += 1
                centre[c] += (x[r] - centre[c]) / count[c]
    np.testing.assert_allclose(found.centroid, centre, rtol=1e-5, atol=1e-6)
    assert count.sum() == 600


def test_starved_centroids_are_put_elsewhere() -> None:
    x = blobs(2000, 4, 20, 0.1)
    start = np.full((20, 4), 1000, np.float32)
    start[0] = 0
    left, moved = run(x, 20, init=start, reassign=0), run(x, 20, init=start, passes=5)
    assert left.empty == 19
    assert moved.splits > 0
    assert moved.empty <= 2
    assert moved.objective < 0.5 * left.objective


def test_bits_are_equal_wherever_the_rows_lie() -> None:
    x = blobs(5000, 32, 30, 1.0)
    spooled = SpooledRows(*x.shape, "a test")
    spooled[:] = x
    one, two, three, other = run(x, 30), run(x, 30), run(spooled, 30), run(x, 30, key=Key(seed=4))
    assert one.centroid.tobytes() == two.centroid.tobytes() == three.centroid.tobytes() != other.centroid.tobytes()
    assert one.labels.tobytes() == three.labels.tobytes()
    assert (one.objective, one.objectives) == (three.objective, three.objectives)


def test_the_rest_of_the_contract() -> None:
    x = blobs(400, 6, 10, 0.7)
    every = ((x[:, None].astype(np.float64) - run(x, 20).centroid[None]) ** 2).sum(axis=2)
    assert (run(x, 20).labels == every.argmin(axis=1)).mean() > 0.999
    assert run(x, 400).labels.tolist() == list(range(400))
    for k in (1, 401):
        with pytest.raises(UsageError, match="k: found"):
            run(x, k)
    unit = run(x / np.linalg.norm(x, axis=1, keepdims=True), 10, spherical=True)
    np.testing.assert_allclose(np.linalg.norm(unit.centroid, axis=1), 1, atol=1e-6)
    assert run(x, 20, redo=3).objective <= run(x, 20).objective
    few = np.repeat(x[:9], 40, axis=0)
    assert run(few, 20).empty >= 11
    assert run(few, 20, empty="relocate").empty == 0
    with pytest.raises(DataError, match="of 20 clusters are empty"):
        run(few, 20, empty="error")


def test_in_the_verb() -> None:
    x = blobs(600, 12, 12, 0.3)
    f = Features(x, Samples(np.array([b"%06d.png" % i for i in range(600)]), np.full(600, OK, np.uint8)))
    settings = ClusterSettings(method="minibatch", k=12, pca=6, batch=100, warm_start=True)
    y = cluster(f, settings, Context(), threads=1)
    assert (y.info["method"], y.info["batches"], y.info["warm_start"], y.k) == ("minibatch", 30, False, 12)
    again = cluster(f, settings, Context(), threads=1)
    assert y.labels.tobytes() == again.labels.tobytes()
    moved = Features((x + 0.02 * np.random.default_rng(1).standard_normal(x.shape)).astype(np.float32), f.samples)
    second = cluster(moved, settings, Context(epoch=1), previous=y, threads=1)
    assert second.info["warm_start"] is True
    assert (second.labels == y.labels).mean() > 0.95
    cold = cluster(f, ClusterSettings(method="minibatch", k=12, pca=6, batch=100), Context(epoch=1), threads=1)
    assert (cold.labels == y.labels).mean() < 0.5

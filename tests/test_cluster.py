"""ucl.kmeans and ucl.cluster against brute force, faiss.Kmeans and scikit-learn; facts D1, D3, D6 to D9."""

import dataclasses
import logging

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from ucl import kmeans as kmeans_module
from ucl.artifacts import BAD_IMAGE, KEPT, MISSING, OK, Features, Labels, Samples
from ucl.cluster import assign, cluster, default_k
from ucl.context import Context
from ucl.errors import DataError, UsageError
from ucl.keys import Key
from ucl.kmeans import KMeansResult, faiss_threads, initial_means, kmeans, member_means
from ucl.settings import ClusterSettings

PLAIN = ClusterSettings(k=10, pca=0, l2=False)


def blobs(n: int = 300, d: int = 8, k: int = 10, spread: float = 0.1, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centre = rng.standard_normal((k, d))
    return (centre[np.arange(n) % k] + spread * rng.standard_normal((n, d))).astype(np.float32)


def samples(n: int) -> Samples:
    return Samples(np.array([b"%06d.png" % i for i in range(n)]), np.full(n, OK, np.uint8))


def features(x: np.ndarray) -> Features:
    return Features(x, samples(len(x)))


def run(x: np.ndarray, k: int = 10, **changes: object) -> KMeansResult:
    options = {"iterations": 20, "redo": 1, "seed": 3, "spherical": False, "max_points": 0, "empty": "leave",
               "key": Key(), "threads": 1}
    return kmeans(x, k, **(options | changes))


def nearest_of_all(x: np.ndarray, centroid: np.ndarray) -> np.ndarray:
    """Squared distances (N, K) by differences in float64."""
    return ((x[:, None].astype(np.float64) - centroid[None]) ** 2).sum(axis=2)


def check_argmin(x: np.ndarray, centroid: np.ndarray, labels: np.ndarray, tolerance: float = 1e-5) -> None:
    """D6: no centroid is nearer than the label's, ties and float32's rounding aside."""
    all_of_them = nearest_of_all(x, centroid)
    own = all_of_them[np.arange(len(x)), labels]
    scale = 1 + (x.astype(np.float64) ** 2).sum(axis=1).max()
    assert (own <= all_of_them.min(axis=1) + tolerance * scale).all()


# k-means

def test_four_points_by_hand() -> None:
    x = np.array([[0, 0], [0, 2], [10, 0], [10, 2]], np.float32)
    found = run(x, 2, redo=10)
    assert sorted(found.centroid.tolist()) == [[0, 1], [10, 1]]
    assert found.objective == 4.0
    assert found.labels[0] == found.labels[1] != found.labels[2] == found.labels[3]


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("redo", [1, 3])
def test_same_as_faiss_kmeans(spherical: bool, redo: int) -> None:
    x = blobs(2000, 16, 60, spread=0.7)
    if spherical:
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    found = run(x, 40, seed=7, redo=redo, spherical=spherical)
    reference = faiss.Kmeans(16, 40, niter=20, nredo=redo, seed=7, max_points_per_centroid=10**7)
    reference.cp.early_stop_threshold = -1.0
    reference.cp.spherical = spherical           # the flat L2 index stays, as faiss.Clustering by itself
    reference.train(x)
    assert found.faiss_objective == pytest.approx(float(reference.obj[-1]), rel=1e-6)
    assert found.centroid.tobytes() == reference.centroids.tobytes()
    assert found.labels.tolist() == reference.assign(x)[1].tolist()
    assert found.iterations_run == 20


def by_faiss(x: np.ndarray, k: int, iterations: int, seed: int) -> tuple[np.ndarray, list[float], int]:
    """Centroids, objectives and splits of faiss.Clustering."""
    job = faiss.Clustering(x.shape[1], k)
    job.niter, job.seed, job.early_stop_threshold = iterations, seed, -1.0
    job.min_points_per_centroid, job.max_points_per_centroid = 1, len(x) // k + 1
    job.train(x, faiss.IndexFlatL2(x.shape[1]))
    stats = [job.iteration_stats.at(i) for i in range(iterations)]
    return faiss.vector_to_array(job.centroids).reshape(k, -1), [s.obj for s in stats], sum(s.nsplit for s in stats)


@pytest.mark.parametrize(("n", "d", "k"), [(20_000, 16, 40), (8195, 33, 20), (200_003, 2, 15), (100, 3, 10), (12_289, 16, 900)])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_bits_of_faiss_over_chunks_of_rows(n: int, d: int, k: int, threads: int) -> None:
    rng = np.random.default_rng(n)
    x = (rng.standard_normal((k, d))[rng.integers(0, k, n)] + 0.3 * rng.standard_normal((n, d))).astype(np.float32)
    with faiss_threads(threads):
        centroid, objectives, splits = by_faiss(x, k, 5, 3)
    found = run(x, k, iterations=5, threads=threads)
    assert found.centroid.tobytes() == centroid.tobytes()
    assert (list(found.objectives), found.splits) == (objectives, splits)


@pytest.mark.parametrize("seed", [*range(40), 745])                   # with 745 no cluster takes the offer for ten rounds
def test_the_splits_of_faiss(seed: int) -> None:
    rng = np.random.default_rng(seed)
    k = int(rng.integers(60, 200))
    n = int(rng.integers(k + 20, 600))
    x = rng.integers(0, int(rng.integers(5, 40)), (n, 1)).astype(np.float32)
    with faiss_threads(1):
        centroid, objectives, splits = by_faiss(x, k, 1 + seed % 4, seed)
    found = run(x, k, iterations=1 + seed % 4, seed=seed)
    assert splits > 0
    assert found.centroid.tobytes() == centroid.tobytes()
    assert (list(found.objectives), found.splits) == (objectives, splits)


def test_iterations_that_change_nothing_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    x = blobs(600, 16, 4, spread=0.05)
    centroid, objectives, _ = by_faiss(x, 4, 30, 3)
    searches = []
    original = kmeans_module._search
    monkeypatch.setattr(kmeans_module, "_search", lambda *args: searches.append(1) or original(*args))
    found = run(x, 4, iterations=30)
    assert len(searches) < 15
    assert found.centroid.tobytes() == centroid.tobytes()
    assert list(found.objectives) == objectives
    assert found.iterations_run == 30


def test_same_as_scikit_learn_from_the_same_start() -> None:
    x = blobs(1000, 12, 15, spread=0.5)
    start = x[:15].copy()
    ours = run(x, 15, init=start, iterations=100)
    theirs = KMeans(15, init=start, n_init=1, max_iter=100, tol=0, algorithm="lloyd").fit(x)
    assert ours.objective == pytest.approx(theirs.inertia_, rel=1e-5)
    assert (ours.labels == theirs.labels_).mean() > 0.999


def test_labels_are_the_argmin_and_objective_is_their_sum() -> None:
    x = blobs(500, 6, 7, spread=1.0)
    found = run(x, 25)
    check_argmin(x, found.centroid, found.labels)
    own = nearest_of_all(x, found.centroid)[np.arange(500), found.labels]
    assert found.objective == pytest.approx(own.sum(), rel=1e-12)
    assert found.objective <= found.faiss_objective * (1 + 1e-6)
    assert list(found.objectives) == sorted(found.objectives, reverse=True)


@pytest.mark.parametrize("threads", [1, 2])
def test_equal_seeds_equal_bits(threads: int) -> None:
    x = blobs(3000, 32, 50, spread=1.0)
    one, two, other = (run(x, 50, seed=s, threads=threads) for s in (1, 1, 2))
    assert one.labels.tobytes() == two.labels.tobytes()
    assert one.centroid.tobytes() == two.centroid.tobytes()
    assert one.labels.tobytes() != other.labels.tobytes()


def test_as_many_clusters_as_rows() -> None:
    x = blobs(30)
    x[5] = x[4]
    found = run(x, 30)
    assert found.labels.tolist() == list(range(30))
    assert (found.objective, found.empty, found.iterations_run) == (0.0, 0, 0)


@pytest.mark.parametrize("method", ["kmeans", "minibatch"])
def test_each_row_its_own_cluster_needs_no_search(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """As many clusters as usable rows: the labels are 0 to n - 1 in their order, whatever was there before, and nothing is searched."""
    for name in ("kmeans", "minibatch"):
        monkeypatch.setattr(f"ucl.cluster.{name}", lambda *a, **more: pytest.fail("searched"))
    x = blobs(30)
    x[5] = x[4]
    status = np.full(30, OK, np.uint8)
    status[[2, 9]] = MISSING
    features = Features(x, Samples(np.array([f"{i:02d}".encode() for i in range(30)]), status))
    good = np.flatnonzero(status == OK)
    previous = Labels(np.zeros(30, np.int32), history=np.zeros((2, 30), np.int32), history_epoch=np.array([0, 1], np.int32))
    for s in (ClusterSettings(k=28, method=method, pca=0, l2=False, history=3), ClusterSettings(k=28, method=method, warm_start=True, pca=4)):
        made = cluster(features, s, Context(epoch=2), previous=previous, threads=1)
        assert made.labels[good].tolist() == list(range(28))
        assert made.labels[[2, 9]].tolist() == [-1, -1]
        assert made.flag[[2, 9]].tolist() == [BAD_IMAGE] * 2
        assert not made.distance[good].any()
        assert made.size.tolist() == [1] * 28
        assert made.anchor.tolist() == good.tolist()
        assert made.history[-1].tolist() == made.labels.tolist()
        assert made.info["objective"] == made.info["empty"] == 0
    assert len(made.history) == 2
    plain = cluster(features, ClusterSettings(k=28, method=method, pca=0, l2=False), Context(), threads=1)
    assert (plain.centroid == x[good]).all()
    assert (plain.mean == x[good]).all()


@pytest.mark.parametrize("k", [0, 1, 31])
def test_impossible_k(k: int) -> None:
    with pytest.raises(UsageError) as raised:
        run(blobs(30), k)
    assert raised.value.exit_code == 2


def test_max_points() -> None:
    x = blobs(1000, spread=0.5)
    key = Key(seed=4)
    found = run(x, 10, max_points=100, key=key)
    rows = np.sort(key.permutation("max-points", 1000)[:100])
    assert found.centroid.tobytes() == run(x[rows], 10).centroid.tobytes()
    assert len(found.labels) == 1000
    check_argmin(x, found.centroid, found.labels)
    assert run(x, 10, max_points=10, key=key).empty == 0
    with pytest.raises(UsageError, match="max_points"):
        run(x, 10, max_points=9)


def test_faiss_never_subsamples_or_warns(capfd: pytest.CaptureFixture[str]) -> None:
    x = blobs(2000, 4, 2, spread=0.01)                    # 1,000 rows for each: faiss' default would take 256
    found = run(x, 2, iterations=5)
    np.testing.assert_allclose(found.centroid, member_means(x, found.labels, 2)[0], atol=1e-6)
    run(x, 200, iterations=1)                             # 10 rows for each: faiss would warn below 39
    assert capfd.readouterr() == ("", "")


def gappy(seed: int) -> np.ndarray:
    """Rows on few places, so that k-means leaves clusters empty."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 3, (60, 2)).astype(np.float32)


def test_empties_are_left_counted_or_refused() -> None:
    x = gappy(0)                                          # 9 places
    found = run(x, 20)
    assert found.empty == 20 - len(np.unique(found.labels)) >= 11
    with pytest.raises(DataError, match="of 20 clusters are empty") as raised:
        run(x, 20, empty="error")
    assert raised.value.exit_code == 65


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 59), st.booleans())
def test_relocation_leaves_none_empty_and_labels_are_the_argmin(seed: int, k: int, spherical: bool) -> None:
    x = gappy(seed)
    if spherical:
        x = (x + 1) / np.linalg.norm(x + 1, axis=1, keepdims=True)
    found = run(x, k, iterations=3, empty="relocate", spherical=spherical)
    left = run(x, k, iterations=3, spherical=spherical)
    assert found.empty == 0
    assert len(np.unique(found.labels)) == k
    assert (found.relocated > 0) == (left.empty > 0)
    assert found.objective <= left.objective
    check_argmin(x, found.centroid, found.labels)


def test_relocation_takes_the_farthest_rows() -> None:
    x = np.array([[0.0], [0.1], [0.2], [5.0], [9.0]], np.float32)
    start = np.array([[0.1], [100.0], [200.0]], np.float32)
    found = run(x, 3, init=start, iterations=1, empty="relocate")
    check_argmin(x, found.centroid, found.labels)
    assert found.empty == 0


def test_member_means() -> None:
    x = blobs(20000, 5)
    labels = (np.arange(20000) * 7 % 13 - 1).astype(np.int32)
    mean, size = member_means(x, labels, 14)
    for c in range(12):
        np.testing.assert_allclose(mean[c], x[labels == c].mean(axis=0, dtype=np.float64), rtol=1e-12)
    assert size.tolist() == [*np.bincount(labels[labels >= 0]).tolist(), 0, 0]
    assert not mean[12:].any()


def test_initial_means_draw_distinct_rows_for_the_empty() -> None:
    x = np.arange(40, dtype=np.float32).reshape(20, 2)
    labels = np.where(np.arange(20) < 10, 1, 4).astype(np.int32)
    start, drawn = initial_means(x, labels, 6, Key(seed=1))
    assert drawn == 4
    np.testing.assert_array_equal(start[1], x[:10].mean(axis=0))
    assert len(np.unique(start[[0, 2, 3, 5]], axis=0)) == 4
    assert all((x == row).all(axis=1).any() for row in start[[0, 2, 3, 5]])
    assert initial_means(x, labels, 6, Key(seed=1))[0].tobytes() == start.tobytes()


# cluster

def test_labels_are_complete() -> None:
    x = blobs(200, 12)
    f = features(x)
    f.samples.status[[3, 50]] = MISSING
    x[[3, 50]] = np.nan
    y = cluster(f, ClusterSettings(k=8, pca=6), Context(epoch=4, seed=2), threads=1)
    bad = np.isin(np.arange(200), [3, 50])
    assert (y.labels[bad] == -1).all()
    assert (y.labels[~bad] >= 0).all()
    assert (y.flag == np.where(bad, BAD_IMAGE, KEPT)).all()
    assert (y.weight == ~bad).all()
    assert np.isnan(y.score).all()
    assert (np.isnan(y.distance) == bad).all()
    assert [a.dtype.str for a in (y.labels, y.flag, y.distance, y.score, y.weight, y.centroid, y.mean, y.size,
                                  y.anchor, y.history, y.history_epoch)] == [
        "<i4", "|u1", "<f4", "<f4", "<f4", "<f4", "<f4", "<i8", "<i8", "<i4", "<i4"]
    assert y.size.tolist() == np.bincount(y.labels[~bad], minlength=8).tolist()
    assert y.centroid.shape == y.mean.shape == (8, 6)
    assert (y.history == y.labels[None]).all()
    assert y.history_epoch.tolist() == [4]
    assert (y.context.stage, y.context.epoch, y.samples) == ("cluster", 4, f.samples)
    assert y.info["k"] == 8
    assert y.info["l2"] is True
    assert set(y.arrays()) >= {"/labels", "/pca/components", "/clusters/info", "/history/labels"}


def test_distances_and_anchors_by_a_plain_loop() -> None:
    x = blobs(300, spread=0.8)
    x[11] = x[1]                                           # equal distances: the lower row is the anchor
    y = cluster(features(x), PLAIN, Context(), threads=1)
    for c in range(10):
        rows = np.flatnonzero(y.labels == c)
        if not len(rows):
            assert y.anchor[c] == -1
            continue
        np.testing.assert_allclose(y.mean[c], x[rows].mean(axis=0, dtype=np.float64), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(y.distance[rows], np.linalg.norm(x[rows] - y.mean[c], axis=1), rtol=1e-5)
        assert y.anchor[c] == rows[np.argmin(y.distance[rows])]


def test_whole_chain_against_faiss() -> None:
    """DeepCluster's preprocess_features and run_kmeans, with faiss alone; equal up to ties at borders."""
    x = blobs(1500, 40, 30, spread=0.6)
    y = cluster(features(x), ClusterSettings(k=30, pca=16), Context(seed=5), threads=1)
    p = faiss.PCAMatrix(40, 16, -0.5)
    p.train(x)
    z = p.apply(x)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    reference = faiss.Kmeans(16, 30, niter=20, seed=Key(5, 0, "cluster", 0).small("kmeans"),
                             max_points_per_centroid=10**7)
    reference.cp.early_stop_threshold = -1.0
    reference.train(z)
    assert y.info["faiss_objective"] == pytest.approx(float(reference.obj[-1]), rel=1e-3)
    assert (y.labels == reference.assign(z)[1]).mean() > 0.99


def test_seed_differs_between_epochs_and_runs_repeat() -> None:
    x = blobs(400, 8, 20, spread=1.0)
    places = [Context(seed=seed, epoch=epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    runs = [cluster(features(x), PLAIN, place, threads=1).labels.tobytes() for place in places]
    assert len(set(runs)) == 6
    assert cluster(features(x), PLAIN, places[-1], threads=1).labels.tobytes() == runs[-1]


def test_inputs_are_unchanged() -> None:
    f = features(blobs(200))
    before = f.features.tobytes()
    y = cluster(f, ClusterSettings(k=5, pca=0), Context(), threads=1)
    kept = (y.labels.tobytes(), y.history.tobytes(), dict(y.info))
    cluster(f, ClusterSettings(k=5, pca=4, warm_start=True), Context(epoch=1), previous=y, threads=1)
    assert f.features.tobytes() == before
    assert (y.labels.tobytes(), y.history.tobytes(), y.info) == kept


@pytest.mark.parametrize(("n", "k"), [(50_000, 1000), (1797, 36), (100, 2), (3, 2), (125, 3)])
def test_default_k(n: int, k: int) -> None:
    assert default_k(n) == k


@pytest.mark.parametrize("k", [1, 61])
def test_k_out_of_range(k: int) -> None:
    with pytest.raises(UsageError):
        cluster(features(blobs(60)), ClusterSettings(k=k), Context(), threads=1)


def test_k_is_compared_with_usable_rows() -> None:
    f = features(blobs(60))
    f.samples.status[:10] = MISSING
    y = cluster(f, ClusterSettings(k=50), Context(), threads=1)
    assert y.labels.tolist() == [-1] * 10 + list(range(50))
    assert y.anchor.tolist() == list(range(10, 60))
    assert y.info["objective"] == 0
    with pytest.raises(UsageError, match="at most 50"):
        cluster(f, ClusterSettings(k=51), Context(), threads=1)


def test_zero_row_stays_zero_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    x = blobs(100)
    x[[7, 9]] = 0
    with caplog.at_level(logging.WARNING):
        y = cluster(features(x), ClusterSettings(k=5, pca=0), Context(), threads=1)
    assert "2 rows" in caplog.text
    assert "000007.png" in caplog.text
    assert np.isfinite(y.distance).all()


def test_not_finite_is_an_error_naming_the_first_row() -> None:
    x = blobs(100)
    x[42, 3], x[77, 0] = np.nan, np.inf
    with pytest.raises(DataError, match=r"row 42 \(000042.png\)") as raised:
        cluster(features(x), PLAIN, Context(), threads=1)
    assert raised.value.exit_code == 65


def test_constant_features(caplog: pytest.LogCaptureFixture) -> None:
    x = np.ones((40, 5), np.float32)
    with pytest.raises(DataError, match="rank 0"):
        cluster(features(x), ClusterSettings(k=4), Context(), threads=1)
    with caplog.at_level(logging.WARNING):
        y = cluster(features(x), ClusterSettings(k=4, pca=0), Context(), threads=1)
    assert (y.labels >= 0).all()
    assert "1 of 4 clusters have members" in caplog.text
    assert y.info["empty"] == 3
    np.testing.assert_allclose(y.mean[y.size == 0], y.centroid[y.size == 0])


def test_history_replaces_the_same_epoch_and_keeps_the_newest() -> None:
    f, y = features(blobs(100)), None
    settings_ = dataclasses.replace(PLAIN, history=3)
    for epoch in (0, 1, 1, 2, 3):
        y = cluster(f, settings_, Context(epoch=epoch), previous=y, threads=1)
        assert y.history_epoch.tolist() == list(range(max(0, epoch - 2), epoch + 1))
    assert (y.history[-1] == y.labels).all()
    assert (y.history[0] == cluster(f, settings_, Context(epoch=1), threads=1).labels).all()
    later = cluster(f, settings_, Context(epoch=3, round=1), previous=y, threads=1)
    assert later.history_epoch.tolist() == [2, 3, 3]


def test_previous_labels_of_other_images_are_refused() -> None:
    y = cluster(features(blobs(100)), PLAIN, Context(), threads=1)
    with pytest.raises(DataError, match="90 images"):
        cluster(features(blobs(90)), PLAIN, Context(epoch=1), previous=y, threads=1)
    f = features(blobs(100))
    f.samples.path[0] = b"other.png"
    with pytest.raises(DataError, match="expected the same images"):
        cluster(dataclasses.replace(f, samples=Samples(f.samples.path, f.samples.status)), PLAIN,
                Context(epoch=1), previous=y, threads=1)


def test_warm_start_keeps_ids() -> None:
    x = blobs(600, 8, 12, spread=0.3)
    warm = dataclasses.replace(PLAIN, k=12, warm_start=True)
    first = cluster(features(x), warm, Context(), threads=1)
    assert first.info["warm_start"] is False
    rng = np.random.default_rng(1)
    moved = (x + 0.05 * rng.standard_normal(x.shape)).astype(np.float32)
    second = cluster(features(moved), warm, Context(epoch=1), previous=first, threads=1)
    assert second.info["warm_start"] is True
    assert (first.labels == second.labels).mean() > 0.95
    cold = cluster(features(moved), dataclasses.replace(warm, warm_start=False), Context(epoch=1),
                   previous=first, threads=1)
    assert (first.labels == cold.labels).mean() < 0.5


def test_warm_start_reads_raw_labels_and_starts_cold_from_another_k(caplog: pytest.LogCaptureFixture) -> None:
    x = blobs(300)
    warm = dataclasses.replace(PLAIN, warm_start=True)
    first = cluster(features(x), warm, Context(), threads=1)
    cut = dataclasses.replace(first, labels=np.full(300, -1, np.int32))
    one, two = (cluster(features(x), warm, Context(epoch=1), previous=p, threads=1) for p in (first, cut))
    assert one.labels.tobytes() == two.labels.tobytes()
    nine = dataclasses.replace(warm, k=9, iterations=5)
    started = cluster(features(x), nine, Context(epoch=1), previous=first, threads=1)
    assert "10 clusters, not 9: started cold, 20 iterations" in caplog.text
    cold = cluster(features(x), dataclasses.replace(PLAIN, k=9, iterations=20), Context(epoch=1), threads=1)
    assert started.labels.tobytes() == cold.labels.tobytes()
    assert started.info["warm_start"] is False


# assign

@pytest.mark.parametrize("changes", [{}, {"pca": 0}, {"l2": False}, {"pca": 0, "l2": False},
                                     {"spherical": True}])
def test_assign_the_same_images_gives_the_same_labels(changes: dict[str, object]) -> None:
    x = blobs(300, spread=0.6)
    y = cluster(features(x), ClusterSettings(k=10, pca=5).override(changes), Context(), threads=1)
    again = assign(features(x), y, Context(), threads=1)
    assert again.labels.tolist() == y.labels.tolist()
    np.testing.assert_allclose(again.distance, y.distance, atol=1e-6)
    assert again.anchor.tolist() == y.anchor.tolist()


def test_permuted_rows_get_permuted_labels() -> None:
    """Rounding in other GEMM blocks may turn a tie; at most one row in a hundred."""
    x = blobs(500, spread=0.8)
    y = cluster(features(x), ClusterSettings(k=10, pca=5), Context(), threads=1)
    order = np.random.default_rng(0).permutation(500)
    permuted = assign(Features(x[order]), y, Context(), threads=1)
    assert (permuted.labels == y.labels[order]).mean() >= 0.99


def test_assign_new_images_with_a_bad_one() -> None:
    y = cluster(features(blobs(300)), ClusterSettings(k=10, pca=5), Context(), threads=1)
    f = features(blobs(40, seed=0))
    f.samples.status[2] = MISSING
    f.features[2] = np.nan
    new = assign(f, y, Context(), threads=1)
    assert new.labels[2] == -1
    assert new.size.sum() == 39
    assert (new.centroid == y.centroid).all()


def test_assign_refuses() -> None:
    y = cluster(features(blobs(300)), PLAIN, Context(), threads=1)
    with pytest.raises(DataError, match="5 dimensions, expected 8"):
        assign(features(blobs(20, 5)), y, Context(), threads=1)
    with pytest.raises(DataError, match="no /clusters/centroid") as raised:
        assign(features(blobs(20)), Labels(y.labels), Context(), threads=1)
    assert raised.value.hint

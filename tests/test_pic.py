"""ucl.pic against plain loops, scikit-learn's graph and brute force; fact D12."""

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components
from sklearn.neighbors import kneighbors_graph

from ucl import search
from ucl.artifacts import OK, Features, Samples
from ucl.cluster import assign, cluster
from ucl.context import Context
from ucl.errors import UsageError
from ucl.matrix import SpooledRows
from ucl.pic import affinities, follow, nearest_rows, pic, step, uphill, walk, without_singletons
from ucl.settings import ClusterSettings

DEFAULTS = {"neighbors": 5, "sigma": 0.2, "alpha": 0.001, "iterations": 200, "distribute": True, "threads": 1}


def unit(n: int, d: int, seed: int, groups: int = 6) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((groups, d))[np.arange(n) % groups] + 0.5 * rng.standard_normal((n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def gappy(n: int, d: int, seed: int) -> np.ndarray:
    """Rows of which many are equal."""
    return (np.random.default_rng(seed).integers(0, 3, (n, d)) / 4).astype(np.float32)


def features(x: np.ndarray) -> Features:
    return Features(x, Samples(np.array([b"%06d.png" % i for i in range(len(x))]), np.full(len(x), OK, np.uint8)))


# The reference: loops over Python numbers, nothing of ucl.

def neighbours_by_loop(x: np.ndarray, count: int) -> list[list[tuple[float, int]]]:
    rows = [[float(v) for v in row] for row in x]
    lists = []
    for i, a in enumerate(rows):
        every = [(sum((p - q) ** 2 for p, q in zip(a, b, strict=True)), j) for j, b in enumerate(rows) if j != i]
        lists.append(sorted(every)[:count])
    return lists


def graph_by_loop(lists: list[list[tuple[float, int]]], sigma: float) -> list[dict[int, float]]:
    w: list[dict[int, float]] = [{} for _ in lists]
    for i, near in enumerate(lists):
        for distance, j in near:
            a = float(np.exp(-distance / sigma**2))
            w[i][j] = w[i].get(j, 0.0) + a
            w[j][i] = w[j].get(i, 0.0) + a
    return w


def walk_by_loop(w: list[dict[int, float]], alpha: float, iterations: int) -> list[float]:
    n = len(w)
    v = [1 / n] * n
    for _ in range(iterations):
        v = [alpha * sum(w[j][i] * v[j] for j in sorted(w[i])) + (1 - alpha) / n for i in range(n)]
        total = sum(v)
        v = [value / total for value in v]
    return v


def roots_by_loop(w: list[dict[int, float]], v: list[float]) -> list[int]:
    pointer = []
    for i in range(len(w)):
        best, to = 0.0, i
        for j in sorted(w[i]):
            if w[i][j] * (v[j] - v[i]) > best:
                best, to = w[i][j] * (v[j] - v[i]), j
        pointer.append(to)
    roots = []
    for i in range(len(w)):
        seen = {i}
        while pointer[i] != i:
            i = pointer[i]
            assert i not in seen                            # a forest
            seen.add(i)
        roots.append(i)
    return roots


def distributed_by_loop(roots: list[int], lists: list[list[int]]) -> list[int]:
    size = {r: roots.count(r) for r in roots}
    out = list(roots)
    for i, near in enumerate(lists):
        if size[roots[i]] == 1:
            out[i] = next((roots[j] for j in near if size[roots[j]] > 1), roots[i])
    return out


def partition(labels: object) -> list[int]:
    """Numbers in the order in which they first occur, so that equal partitions are equal lists."""
    seen: dict[int, int] = {}
    return [seen.setdefault(int(v), len(seen)) for v in labels]  # type: ignore[attr-defined]


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("distribute", [True, False])
def test_same_as_plain_loops(seed: int, distribute: bool) -> None:
    x = unit(40 + seed, 3 + seed % 5, seed)
    count, sigma = 3 + seed % 4, (0.2, 0.5, 0.1)[seed % 3]
    lists = neighbours_by_loop(x, count)
    w = graph_by_loop(lists, sigma)
    roots = roots_by_loop(w, walk_by_loop(w, 0.001, 200))
    if distribute:
        roots = distributed_by_loop(roots, [[j for _, j in near] for near in lists])
    found = pic(x, **(DEFAULTS | {"neighbors": count, "sigma": sigma, "distribute": distribute}))
    assert partition(found.labels) == partition(roots)
    assert found.k == len(set(roots))
    assert np.unique(found.labels).tolist() == list(range(found.k))
    assert found.labels.tolist() == np.unique(roots, return_inverse=True)[1].tolist()
    assert found.alone == sum(roots.count(r) == 1 for r in roots)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(8, 60), st.integers(1, 5), st.booleans())
def test_every_stage_with_equal_rows(seed: int, n: int, count: int, equal: bool) -> None:
    """Where rows are equal the walk's last bits may decide; each stage is compared on its own input."""
    x = gappy(n, 2, seed) if equal else unit(n, 4, seed)
    near, distance = nearest_rows(x, count)
    lists = [list(zip(d.tolist(), i.tolist(), strict=True)) for d, i in zip(distance, near, strict=True)]
    graph = affinities(near, distance, 0.3)
    w = graph_by_loop(lists, 0.3)
    dense = np.zeros((n, n))
    for i, row in enumerate(w):
        for j, value in row.items():
            dense[i, j] = value
    np.testing.assert_array_equal(graph.toarray(), dense)
    np.testing.assert_array_equal(graph.toarray(), graph.T.toarray())
    v = walk(graph, 0.001, 50)
    np.testing.assert_allclose(v, walk_by_loop(w, 0.001, 50), rtol=1e-13)
    roots = follow(uphill(graph, v))
    assert roots.tolist() == roots_by_loop(w, v.tolist())
    assert without_singletons(roots, near).tolist() == distributed_by_loop(roots.tolist(), near.tolist())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(8, 80), st.integers(1, 5), st.booleans(), st.booleans())
def test_d12(seed: int, n: int, count: int, equal: bool, distribute: bool) -> None:
    x = gappy(n, 3, seed) if equal else unit(n, 4, seed)
    found = pic(x, **(DEFAULTS | {"neighbors": count, "distribute": distribute}))
    near, _ = nearest_rows(x, count)
    edges = np.zeros((n, n), bool)
    edges[np.repeat(np.arange(n), count), near.ravel()] = True
    number, component = connected_components(edges, directed=False)
    assert found.k >= number
    for c in range(found.k):
        assert len(np.unique(component[found.labels == c])) == 1
    size = np.bincount(found.labels)
    alone = np.flatnonzero(size[found.labels] == 1)
    assert found.alone == len(alone)
    if distribute:
        assert (size[found.labels[near[alone]]] == 1).all()


def test_the_walk_sums_to_one_after_each_step() -> None:
    near, distance = nearest_rows(unit(200, 8, 0), 5)
    graph = affinities(near, distance, 0.2)
    v = np.full(200, 1 / 200)
    for _ in range(200):
        v = step(graph, v, 0.001)
        assert v.sum() == pytest.approx(1, abs=1e-14)
        assert (v > 0).all()
        assert v.dtype == np.float64
    np.testing.assert_array_equal(v, walk(graph, 0.001, 200))


def test_mutual_neighbours_count_twice() -> None:
    near, distance = np.array([[1], [0], [1]]), np.array([[0.04], [0.04], [0.08]])
    w = affinities(near, distance, 0.2).toarray()
    np.testing.assert_allclose(w, [[0, 2 * np.exp(-1), 0], [2 * np.exp(-1), 0, np.exp(-2)], [0, np.exp(-2), 0]])


def test_who_is_alone_is_judged_before_anybody_moves() -> None:
    roots = np.array([0, 1, 2, 2, 2])
    near = np.array([[1, 3], [2, 0], [3, 4], [2, 4], [2, 3]])
    assert without_singletons(roots, near).tolist() == [2, 2, 2, 2, 2]
    assert without_singletons(roots, near[:, :1]).tolist() == [0, 2, 2, 2, 2]      # 0's only neighbour was alone itself


@pytest.mark.parametrize(("n", "d"), [(30, 4), (2500, 5), (1100, 40)])
def test_neighbours_are_exact(n: int, d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "SEARCH_BYTES", 1)                               # blocks of 1,024 rows
    x = np.random.default_rng(n).standard_normal((n, d)).astype(np.float32)
    near, distance = nearest_rows(x, 6)
    every = ((x[:, None].astype(np.float64) - x[None]) ** 2).sum(axis=2)
    np.fill_diagonal(every, np.inf)
    wanted = np.argsort(every, axis=1, kind="stable")[:, :6]
    np.testing.assert_array_equal(near, wanted)
    np.testing.assert_allclose(distance, np.take_along_axis(every, wanted, axis=1), rtol=1e-12)
    theirs = kneighbors_graph(x, 6).toarray()
    assert theirs[np.arange(n)[:, None], near].all()


def test_equal_rows_leave_themselves_out_by_number() -> None:
    x = np.repeat(unit(10, 4, 0), 12, axis=0)
    near, distance = nearest_rows(x, 5)
    assert (near != np.arange(120)[:, None]).all()
    assert (near // 12 == np.arange(120)[:, None] // 12).all()
    assert not distance.any()


def test_rows_outside_of_memory_and_repeats_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "SEARCH_BYTES", 1)
    x = unit(3000, 12, 3, groups=200)
    spooled = SpooledRows(*x.shape, "a test")
    spooled[:] = x
    one, two, three = pic(x, **DEFAULTS), pic(x, **DEFAULTS), pic(spooled, **DEFAULTS)
    assert one.labels.tobytes() == two.labels.tobytes() == three.labels.tobytes()
    assert one.labels.dtype == np.int32


def test_too_few_rows_and_too_small_a_sigma(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UsageError, match="neighbors: found 5, wanted fewer than 5") as raised:
        pic(unit(5, 3, 0), **DEFAULTS)
    assert raised.value.hint == "--neighbors 4 or fewer"
    with caplog.at_level(logging.WARNING):
        found = pic(1000 * unit(50, 3, 0), **DEFAULTS)
    assert "50 rows are so far from all of their neighbours" in caplog.text
    assert (found.k, found.alone) == (50, 50)


# In the verb

def test_labels_are_complete_and_can_be_assigned_to() -> None:
    x = unit(300, 12, 1, groups=20)
    x[[3, 50]] = np.nan
    f = features(x)
    f.samples.status[[3, 50]] = 4
    y = cluster(f, ClusterSettings(method="pic", pca=8, k=60), Context(epoch=2), threads=1)     # a plan's own k says nothing
    good = np.setdiff1d(np.arange(300), [3, 50])
    z = cluster(features(x[good]), ClusterSettings(method="pic", pca=8), Context(epoch=2), threads=1)
    assert y.labels[good].tolist() == z.labels.tolist()
    assert (y.labels[[3, 50]] == -1).all()
    assert y.k == y.info["k"] == y.labels.max() + 1
    assert y.size.tolist() == np.bincount(y.labels[good]).tolist()
    np.testing.assert_array_equal(y.centroid, y.mean)
    assert (y.info["method"], y.info["empty"], y.info["neighbors"], y.info["sigma"]) == ("pic", 0, 5, 0.2)
    assert y.info["objective"] == pytest.approx(np.nansum(y.distance.astype(np.float64) ** 2), rel=1e-5)
    assert y.history_epoch.tolist() == [2]
    again = assign(f, y, Context(), threads=1)
    assert (again.labels[[3, 50]] == -1).all()
    assert again.k == y.k
    assert (again.distance[good] <= y.distance[good] + 1e-6).all()                  # to the nearest mean
    assert (y.labels[y.anchor] == np.arange(y.k)).all()


def test_the_number_of_clusters_may_change_between_epochs() -> None:
    settings_ = ClusterSettings(method="pic", pca=0, history=3)
    y = cluster(features(unit(200, 6, 0)), settings_, Context(epoch=0), threads=1)
    later = cluster(features(unit(200, 6, 5, groups=40)), settings_, Context(epoch=1), previous=y, threads=1)
    assert y.k != later.k
    assert later.history_epoch.tolist() == [0, 1]
    np.testing.assert_array_equal(later.history, [y.labels, later.labels])


def test_no_warm_start() -> None:
    with pytest.raises(UsageError, match="warm_start: pic starts from nothing"):
        ClusterSettings(method="pic", warm_start=True)

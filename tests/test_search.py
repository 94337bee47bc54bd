"""ucl.search against brute force in float64, scikit-learn and faiss."""

import threading

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from ucl import search
from ucl.errors import UsageError
from ucl.matrix import SpooledRows
from ucl.search import Points, nearest, pairs


def blobs(n: int, d: int, seed: int, shift: float = 0.0, spread: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (shift + spread * (rng.standard_normal((10, d))[rng.integers(0, 10, n)] + 0.5 * rng.standard_normal((n, d)))).astype(np.float32)


def gappy(n: int, d: int, seed: int) -> np.ndarray:
    """Rows of which many are equal, and many distances; few are zero."""
    return (np.random.default_rng(seed).integers(-1, 2, (n, d)) / 4).astype(np.float32)


def every(x: np.ndarray, y: np.ndarray, *, cosine: bool) -> np.ndarray:
    """Half the squared distances of all pairs, in float64 and pair by pair; rows of zeros at 1 from all but each other by cosine."""
    a, b = x.astype(np.float64), y.astype(np.float64)
    if cosine:
        a, b = (v * (1 / np.where(length == 0, 1, length))[:, None] for v in (a, b) for length in [np.sqrt(np.einsum("nd,nd->n", v, v))])
    found = np.array([[(difference := p - q) @ difference / 2 for q in b] for p in a])
    if cosine:
        one = (x == 0).all(axis=1)[:, None] ^ (y == 0).all(axis=1)
        found[one] = 1
    return found


def brute(distance: np.ndarray, count: int, *, leave_out: bool) -> tuple[np.ndarray, np.ndarray]:
    distance = distance.copy()
    if leave_out:
        np.fill_diagonal(distance, np.inf)
    index = np.argsort(np.round(distance, 12), axis=1, kind="stable")[:, :count]
    return index, np.take_along_axis(distance, index, axis=1)


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many blocks and tiles of few rows."""
    monkeypatch.setattr(search, "TILE", 7)
    monkeypatch.setattr(search, "EXACT_ROWS", 5)
    monkeypatch.setattr(search, "SEARCH_BYTES", 1000)


@pytest.mark.parametrize("cosine", [True, False])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("count", [1, 6, 60])
@pytest.mark.usefixtures("small_tiles")
def test_within_one_set(cosine: bool, own: bool, count: int) -> None:
    x = blobs(90, 5, count)
    points = Points(x, cosine=cosine)
    near, distance = nearest(points, points, count, own=own, threads=1)
    wanted, far = brute(every(x, x, cosine=cosine), count, leave_out=not own)
    np.testing.assert_array_equal(near, wanted)
    np.testing.assert_allclose(distance, far, rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("cosine", [True, False])
@pytest.mark.usefixtures("small_tiles")
def test_among_other_rows(cosine: bool) -> None:
    x, y = blobs(40, 4, 0), blobs(95, 4, 1)
    near, distance = nearest(Points(x, cosine=cosine), Points(y, cosine=cosine), 9, threads=1)
    wanted, far = brute(every(x, y, cosine=cosine), 9, leave_out=False)
    np.testing.assert_array_equal(near, wanted)
    np.testing.assert_allclose(distance, far, rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 80), st.integers(1, 3), st.integers(1, 12), st.booleans(), st.booleans(), st.integers(1, 3))
def test_ties_go_to_the_lower_row(seed: int, n: int, d: int, count: int, cosine: bool, own: bool, threads: int) -> None:
    """Equal rows and equal distances in plenty; rows of zeros among them."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("TILE", 8), ("EXACT_ROWS", 5), ("SEARCH_BYTES", 500), ("SEARCH_SPARE", 1)):
            patch.setattr(search, name, value)
        x = gappy(n, d, seed)
        points = Points(x, cosine=cosine)
        near, distance = nearest(points, points, count, own=own, threads=threads)
    wanted, far = brute(every(x, x, cosine=cosine), min(count, n), leave_out=not own)
    there = np.isfinite(far)
    if cosine:
        zero = ~x.any(axis=1)
        assert (distance[zero][(near[zero] >= 0) & ~zero[near[zero]]] == 1).all()
    else:                                                   # in binary fractions all is exact
        np.testing.assert_array_equal(near[:, :wanted.shape[1]], np.where(there, wanted, -1))
    np.testing.assert_allclose(distance[:, :far.shape[1]][there], far[there], rtol=1e-12, atol=1e-15)
    assert (near[:, far.shape[1]:] == -1).all()
    assert np.isinf(distance[near < 0]).all()
    for row in range(n):
        mine = near[row][near[row] >= 0]
        assert len(set(mine.tolist())) == len(mine)
        assert own or row not in mine
        assert (np.lexsort((mine, distance[row][:len(mine)])) == np.arange(len(mine))).all()


def test_equal_rows_by_cosine() -> None:
    x = np.repeat(blobs(10, 6, 3), 12, axis=0)
    x[::2] *= 4                                             # another length, the same direction
    points = Points(x, cosine=True)
    near, distance = nearest(points, points, 5, threads=1)
    group = np.arange(120) // 12
    assert not distance.any()
    for row in range(120):
        assert near[row].tolist() == [j for j in range(120) if group[j] == group[row] and j != row][:5]


@pytest.mark.parametrize(("shift", "spread"), [(0, 1), (100, 0.01), (0, 1e-18), (0, 1e18), (1, 1e-5)])
@pytest.mark.parametrize("cosine", [True, False])
def test_far_from_the_origin_and_of_any_size(shift: float, spread: float, cosine: bool) -> None:
    """Products in float32 alone would see nothing here."""
    x = blobs(400, 16, 1, shift, spread)
    points = Points(x, cosine=cosine)
    near, _ = nearest(points, points, 7, threads=1)
    a = x.astype(np.float64) / (np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True) if cosine else 1)
    all_pairs = ((a[:, None] - a[None]) ** 2).sum(axis=2)
    np.fill_diagonal(all_pairs, np.inf)
    np.testing.assert_array_equal(near, np.argsort(all_pairs, axis=1, kind="stable")[:, :7])


def test_one_row_that_is_very_far() -> None:
    """The others' products underflow beside it; they are told apart all the same."""
    x = blobs(200, 4, 5)
    x[17] = 1e25
    points = Points(x, cosine=False)
    near, distance = nearest(points, points, 4, threads=1)
    wanted, far = brute(every(x, x, cosine=False), 4, leave_out=True)
    keep = np.arange(200) != 17
    np.testing.assert_array_equal(near[keep], wanted[keep])
    np.testing.assert_allclose(distance, far, rtol=1e-12)


def test_as_faiss_and_scikit_learn_find() -> None:
    x = blobs(5000, 32, 2)
    points = Points(x, cosine=True)
    near, distance = nearest(points, points, 20, own=True, threads=2)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    index = faiss.IndexFlatIP(32)
    index.add(unit)
    similar, theirs = index.search(unit, 20)
    np.testing.assert_allclose(1 - distance, similar, atol=1e-6)
    assert (near == theirs).mean() > 0.9995
    assert (near[:, 0] == np.arange(5000)).all()
    far, others = NearestNeighbors(n_neighbors=20, algorithm="brute").fit(x[:1000]).kneighbors(x)
    near, distance = nearest(Points(x, cosine=False), Points(x[:1000], cosine=False), 20, threads=2)
    np.testing.assert_allclose(np.sqrt(2 * distance), far, rtol=1e-4, atol=5e-3)    # theirs is by products too, and 0 is not quite 0
    assert (near == others).mean() > 0.9995


def test_blocks_threads_and_places_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.concatenate([blobs(2500, 12, 0), blobs(300, 12, 0)])
    spooled = SpooledRows(*x.shape, "a test")
    spooled[:] = x
    one = nearest(Points(x, cosine=True), Points(x, cosine=True), 8, threads=1)
    points = Points(x, cosine=True)
    again = [nearest(points, points, 8, own=True, threads=3)]
    monkeypatch.setattr(search, "SEARCH_BYTES", 1)
    outside = Points(spooled, cosine=True)
    again += [nearest(outside, outside, 8, own=True, threads=2)]
    monkeypatch.setattr(search, "TILE", 300)
    again += [nearest(points, points, 8, own=True, threads=1)]
    for near, distance in again:
        np.testing.assert_array_equal(near, one[0])
        np.testing.assert_array_equal(distance, one[1])
    assert threading.active_count() < 10


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.usefixtures("small_tiles")
def test_pairs(threads: int) -> None:
    x, y = gappy(60, 4, 1), np.concatenate([gappy(30, 4, 2), blobs(11, 4, 2)])
    x, y = x[x.any(axis=1)], y[y.any(axis=1)]
    for base, distance in ((None, every(x, x, cosine=True)), (y, every(x, y, cosine=True))):
        points = Points(x, cosine=True)
        found = list(pairs(points, points if base is None else Points(base, cosine=True), 0.3, threads=threads))
        first, second, far = (np.concatenate(part) for part in zip(*found, strict=True))
        near = (distance <= 0.3) & (np.triu(np.ones(distance.shape, bool), 1) if base is None else True)
        np.testing.assert_array_equal(np.stack([first, second]), np.nonzero(near))
        np.testing.assert_allclose(far, distance[near], rtol=1e-12, atol=1e-16)
    with pytest.raises(UsageError, match="more than 5 pairs"):
        list(pairs(points, points, 0.3, threads=threads, limit=5))


@pytest.mark.parametrize("cosine", [True, False])
@pytest.mark.parametrize("value", [0, 0.3])
def test_all_rows_are_equal(cosine: bool, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that has collapsed costs no more than others."""
    points = Points(np.full((20_000, 8), value, np.float32), cosine=cosine)
    monkeypatch.setattr(search, "measured", None)
    near, distance = nearest(points, points, 3)
    assert near[[0, 1, 2, 3, 19_999]].tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2], [0, 1, 2]]
    assert not distance.any()
    few = Points(np.full((3, 8), value, np.float32), cosine=cosine)
    assert nearest(few, few, 4, own=True)[0].tolist() == [[0, 1, 2, -1]] * 3
    assert nearest(few, few, 4)[0].tolist() == [[1, 2, -1, -1], [0, 2, -1, -1], [0, 1, -1, -1]]
    assert nearest(few, points, 2)[0].tolist() == [[0, 1]] * 3


def test_copies_are_found_at_zero() -> None:
    x = blobs(3000, 20, 8)
    x[2000] = x[5]
    x[2999] = 8 * x[1500]
    points = Points(x, cosine=True)
    (first, second, far), *rest = [p for p in pairs(points, points, 0.0) if len(p[0])]
    rest = [(5, 2000), *[(int(a[0]), int(b[0])) for a, b, _ in rest]]
    assert (first.tolist(), second.tolist(), far.tolist()) == ([5], [2000], [0.0])
    assert rest == [(5, 2000), (1500, 2999)]

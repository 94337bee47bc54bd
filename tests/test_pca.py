"""ucl.pca against numpy's SVD and faiss' PCAMatrix; facts D3 and D9 of the specification."""

import logging

import faiss
import numpy as np
import pytest

from ucl import pca
from ucl.artifacts import NOT_FINITE, OK, Features, Samples
from ucl.errors import DataError


def data(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Correlated rows with a mean, spectrum falling to a hundredth."""
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.standard_normal((d, d)))
    x = rng.standard_normal((n, d)) * np.geomspace(1, 0.01, d)
    return (x @ q + rng.standard_normal(d)).astype(np.float32)


@pytest.mark.parametrize(("n", "d"), [(400, 60), (50, 120), (60, 60), (5000, 8)])
def test_whitened_rows_have_covariance_one(n: int, d: int) -> None:
    x = data(n, d)
    p = pca.fit(x, 20, threads=1)
    z = pca.apply(p, x).astype(np.float64)
    wanted = min(20, d, n - 1)
    assert z.shape == (n, wanted)
    np.testing.assert_allclose(z.T @ z / n, np.eye(wanted), atol=1e-3)
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-4)
    assert np.abs(np.linalg.norm(pca.unit_rows(z.astype(np.float32)), axis=1) - 1).max() < 1e-5


@pytest.mark.parametrize(("n", "d"), [(300, 40), (40, 90)])
def test_components_are_those_of_the_svd_with_fixed_signs(n: int, d: int) -> None:
    x = data(n, d, seed=3)
    p = pca.fit(x, 10, whiten=False)
    _, s, vt = np.linalg.svd(x.astype(np.float64) - x.mean(axis=0, dtype=np.float64), full_matrices=False)
    np.testing.assert_allclose(p.eigenvalues, s[:10] ** 2 / n, rtol=1e-8)
    np.testing.assert_allclose(np.abs((vt[:10] * p.components.T).sum(axis=1)), 1, atol=1e-6)
    pivot = np.abs(p.components).argmax(axis=0)
    assert (p.components[pivot, np.arange(10)] > 0).all()
    assert p.mean.dtype == p.components.dtype == np.float32
    assert p.eigenvalues.dtype == np.float64


def test_sign_tie_goes_to_the_lowest_index() -> None:
    x = np.array([[1, -1], [-1, 1], [2, -2], [-2, 2]], np.float32)      # direction (1, -1) / sqrt(2)
    p = pca.fit(x, 1, whiten=False)
    np.testing.assert_allclose(p.components[:, 0], [0.5**0.5, -(0.5**0.5)], atol=1e-7)
    np.testing.assert_allclose(p.eigenvalues, [5.0])


@pytest.mark.parametrize(("n", "d", "out"), [(1000, 64, 32), (2000, 100, 20), (50, 80, 30)])
def test_unit_rows_agree_with_the_svd_in_float64(n: int, d: int, out: int) -> None:
    x = data(n, d, seed=1)
    mean = x.mean(axis=0, dtype=np.float64)
    _, s, vt = np.linalg.svd(x.astype(np.float64) - mean, full_matrices=False)
    z = (x - mean) @ vt[:out].T / s[:out]
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    ours = pca.unit_rows(pca.apply(pca.fit(x, out), x))
    np.testing.assert_allclose(ours, z * np.sign((z * ours).sum(axis=0)), atol=1e-6)


@pytest.mark.parametrize(("n", "d", "out"), [(2000, 32, 16), (40, 60, 20)])
def test_unit_rows_agree_with_faiss(n: int, d: int, out: int) -> None:
    """On centred rows of a separated spectrum only: elsewhere faiss' float32 is off by 1e-4."""
    rng = np.random.default_rng(1)
    q, _ = np.linalg.qr(rng.standard_normal((n, d if n > d else n)))
    r, _ = np.linalg.qr(rng.standard_normal((d, d)))
    x = ((q - q.mean(axis=0)) * np.geomspace(1, 0.1, q.shape[1]) @ r[:q.shape[1]]).astype(np.float32)
    reference = faiss.PCAMatrix(d, out, -0.5)
    reference.train(x)
    theirs = pca.unit_rows(reference.apply(x))
    p = pca.fit(x, out)
    ours = pca.unit_rows(pca.apply(p, x))
    sign = np.sign((theirs * ours).sum(axis=0))
    np.testing.assert_allclose(ours, theirs * sign, atol=1e-5)
    scale = np.linalg.norm(pca.apply(p, x)) / np.linalg.norm(reference.apply(x))
    assert scale == pytest.approx(n**0.5, rel=1e-4)                     # scatter against covariance


def test_bits_are_equal_and_the_input_is_unchanged() -> None:
    x = data(300, 30)
    before = x.copy()
    one, two = (pca.fit(x, 10, threads=1) for _ in range(2))
    assert one.components.tobytes() == two.components.tobytes()
    assert pca.apply(one, x).tobytes() == pca.apply(two, x).tobytes()
    assert x.tobytes() == before.tobytes()


@pytest.mark.parametrize("shape", [(200, 40), (30, 80)])
def test_rank_deficient_features(shape: tuple[int, int], caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    low = rng.integers(-4, 5, (shape[0], 5)) @ rng.integers(-4, 5, (5, shape[1]))
    x = low.astype(np.float32)
    with caplog.at_level(logging.WARNING):
        p = pca.fit(x, 20)
    assert p.components.shape[1] == 5
    assert "rank 5" in caplog.text
    z = pca.apply(p, x)
    assert np.isfinite(z).all()
    np.testing.assert_allclose(z.T @ z / len(x), np.eye(5), atol=1e-3)
    with pytest.raises(DataError, match="rank 5") as raised:
        pca.fit(x, 20, rank_deficient="error")
    assert raised.value.exit_code == 65
    assert "--pca 5" in raised.value.hint
    assert pca.fit(x, 5, rank_deficient="error").components.shape[1] == 5


@pytest.mark.parametrize("policy", ["reduce", "error"])
@pytest.mark.parametrize("shape", [(50, 8), (8, 50), (1, 4)])
def test_constant_features_are_an_error(shape: tuple[int, int], policy: str) -> None:
    x = np.broadcast_to(np.float32(0.1) * np.arange(1, shape[1] + 1, dtype=np.float32), shape).copy()
    with pytest.raises(DataError, match="rank 0"):
        pca.fit(x, 4, rank_deficient=policy)


@pytest.mark.parametrize("shape", [(50, 8), (8, 50)])
def test_rounding_alone_is_no_variation(shape: tuple[int, int]) -> None:
    x = np.full(shape, 1000.0, np.float32)
    x[::2] = np.nextafter(x[::2], np.float32(2000))
    with pytest.raises(DataError, match="rank 0"):
        pca.fit(x, 4)
    x[0, 0] = 1001
    assert pca.fit(x, 4).components.shape[1] >= 1


def test_dimensions_are_at_most_one_less_than_rows(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert pca.fit(data(6, 20), 256).components.shape == (20, 5)
    assert not caplog.records


def test_apply_refuses_other_dimensions() -> None:
    with pytest.raises(DataError, match="7 dimensions, expected 8"):
        pca.apply(pca.fit(data(50, 8), 4), data(50, 7))


def test_unit_rows_keep_a_zero_row() -> None:
    out = pca.unit_rows(np.array([[3, 4], [0, 0]], np.float32))
    np.testing.assert_allclose(out, [[0.6, 0.8], [0, 0]], atol=1e-7)


def test_usable_rows() -> None:
    x = np.ones((4, 2), np.float32)
    x[1] = np.nan
    path = np.array([b"a", b"b", b"c", b"d"])
    status = np.array([OK, NOT_FINITE, OK, OK], np.uint8)
    assert pca.usable_rows(Features(x, Samples(path, status))).tolist() == [0, 2, 3]
    x[3, 1] = np.inf
    with pytest.raises(DataError, match=r"row 3 \(d\): not finite"):
        pca.usable_rows(Features(x, Samples(path, status)))
    with pytest.raises(DataError, match="row 1: not finite"):
        pca.usable_rows(Features(x))
    with pytest.raises(DataError, match="none of 4 rows"):
        pca.usable_rows(Features(x, Samples(path, np.full(4, NOT_FINITE, np.uint8))))

"""ucl.evaluate.knn against a plain loop, scikit-learn and the digits."""

import logging

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from ucl.artifacts import LEFT_OUT, MISSING, OK, Features, Samples
from ucl.errors import DataError
from ucl.evaluate import knn
from ucl.evaluate.knn import evaluate_knn, wilson
from ucl.settings import KnnSettings


def noisy(n: int = 200, d: int = 6, c: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, c, n)
    centre = np.random.default_rng(99).standard_normal((c, d))
    return (centre[y] + 0.9 * rng.standard_normal((n, d))).astype(np.float32), y


def loop(x: np.ndarray, y: np.ndarray, q: np.ndarray, k: int, tau: float, leave_one_out: bool) -> np.ndarray:
    u, v = (a.astype(np.float64) / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, q))
    said = []
    for i, row in enumerate(v):
        s = u @ row
        if leave_one_out:
            s[i] = -np.inf
        votes = np.zeros(y.max() + 1)
        for j in np.argsort(-s)[:k]:
            votes[y[j]] += np.exp(s[j] / tau)
        said.append(votes.argmax())
    return np.array(said)


@pytest.mark.parametrize("k", [1, 5, 20])
def test_leave_one_out_by_a_plain_loop(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = noisy()
    monkeypatch.setattr(knn, "QUERIES", 64)
    e = evaluate_knn(Features(x), y, KnnSettings(k, 0.1), threads=1)
    assert e.value("knn_top1") == (loop(x, y, x, k, 0.1, True) == y).mean()
    name, value, low, high, n, protocol = e.rows[0]
    assert (name, n) == ("knn_top1", 200)
    assert low < value < high
    assert protocol == f"cosine, k={k}, exp(s/0.1), leave-one-out"


@pytest.mark.parametrize("tau", [0.02, 0.1, 1.0])
def test_train_and_test_by_a_plain_loop(tau: float) -> None:
    (x, y), (q, t) = noisy(), noisy(90, seed=1)
    e = evaluate_knn(Features(x), y, KnnSettings(10, tau), test=(Features(q), t), threads=1)
    said = loop(x, y, q, 10, tau, False)
    assert e.value("knn_top1") == (said == t).mean()
    assert e.predicted is not None
    assert e.correct is not None
    assert e.truth is not None
    assert (e.predicted.tolist(), e.correct.tolist(), e.truth.tolist()) == (said.tolist(), (said == t).tolist(), t.tolist())


def test_equal_weights_as_scikit_learn() -> None:
    (x, y), (q, t) = noisy(500), noisy(300, seed=2)
    e = evaluate_knn(Features(x), y, KnnSettings(7, 1e18), test=(Features(q), t), threads=1)
    theirs = KNeighborsClassifier(7, metric="cosine", algorithm="brute").fit(x, y).score(q, t)
    assert e.value("knn_top1") == theirs                          # both give a tie to the lowest class


def test_self_is_left_out_by_row_even_among_copies() -> None:
    x = np.ones((30, 4), np.float32)
    y = np.arange(30) % 2
    e = evaluate_knn(Features(x), y, KnnSettings(29), threads=1)
    assert e.value("knn_top1") == 0                               # 14 of one's own class against 15
    pairs = np.repeat(np.eye(8, dtype=np.float32), 2, axis=0)
    for classes, right in ((np.repeat(np.arange(8), 2), 1), (np.arange(16), 0)):
        assert evaluate_knn(Features(pairs), classes, KnnSettings(1), threads=1).value("knn_top1") == right


def test_tie_goes_to_the_lowest_class() -> None:
    x = np.array([[1, 0], [1, 0]], np.float32)
    q = Features(np.array([[1, 0]], np.float32))
    e = evaluate_knn(Features(x), np.array([9, 4]), KnnSettings(2), test=(q, np.array([4])), threads=1)
    assert e.value("knn_top1") == 1


def test_rows_left_out_and_fewer_neighbours(caplog: pytest.LogCaptureFixture) -> None:
    x, y = noisy(20)
    status = np.full(20, OK, np.uint8)
    status[3] = MISSING
    x[3] = np.nan
    y[[5, 6]] = -1
    f = Features(x, Samples(np.array([b"%d" % i for i in range(20)]), status))
    with caplog.at_level(logging.WARNING):
        e = evaluate_knn(f, y, KnnSettings(50, 0.1), threads=1)
    assert "16 neighbours instead of 50" in caplog.text
    assert e.value("left_out") == 3
    keep = [i for i in range(20) if i not in (3, 5, 6)]
    said = loop(x[keep], y[keep], x[keep], 16, 0.1, True)
    assert e.value("knn_top1") == (said == y[keep]).mean()
    assert e.samples is f.samples
    assert e.correct is not None
    assert e.predicted is not None
    assert (e.correct[[3, 5, 6]] == LEFT_OUT).all()
    assert (e.predicted[[3, 5, 6]] == -1).all()
    assert e.predicted[keep].tolist() == said.tolist()
    assert e.correct[keep].tolist() == (said == y[keep]).tolist()


def test_refuses() -> None:
    x, y = noisy(20)
    with pytest.raises(DataError, match="targets"):
        evaluate_knn(Features(x), y[:5], KnnSettings(), threads=1)
    with pytest.raises(DataError, match="known class"):
        evaluate_knn(Features(x), np.full(20, -1), KnnSettings(), threads=1)
    with pytest.raises(DataError, match="at least two"):
        evaluate_knn(Features(x[:1]), y[:1], KnnSettings(), threads=1)
    with pytest.raises(DataError, match="5 dimensions, expected 6"):
        evaluate_knn(Features(x), y, KnnSettings(), test=(Features(x[:, :5].copy()), y), threads=1)
    x[4, 0] = np.inf
    with pytest.raises(DataError, match="row 4"):
        evaluate_knn(Features(x), y, KnnSettings(), threads=1)


def test_small_tau_does_not_overflow() -> None:
    x, y = noisy()
    nearest = evaluate_knn(Features(x), y, KnnSettings(1), threads=1).value("knn_top1")
    assert evaluate_knn(Features(x), y, KnnSettings(10, 1e-6), threads=1).value("knn_top1") == nearest


@pytest.mark.parametrize(("right", "n", "low", "high"), [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0),
                                                         (50, 100, 0.4038, 0.5962)])
def test_wilson(right: int, n: int, low: float, high: float) -> None:
    assert wilson(right, n) == pytest.approx((low, high), abs=1e-4)


def test_pixels_of_the_digits() -> None:
    x, y = load_digits(return_X_y=True)
    e = evaluate_knn(Features(x.astype(np.float32)), y, KnnSettings(1), threads=1)
    assert e.value("knn_top1") == pytest.approx(0.989, abs=0.003)

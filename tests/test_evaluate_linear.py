"""ucl.evaluate.linear against scikit-learn used directly, plain loops and the digits."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from ucl.artifacts import MISSING, OK, Features, Samples
from ucl.device import resolve
from ucl.errors import DataError, UsageError
from ucl.evaluate import linear
from ucl.evaluate.knn import wilson
from ucl.evaluate.linear import GRID, evaluate_linear, folds
from ucl.keys import Key
from ucl.settings import LinearSettings

RUNTIME = resolve("cpu", 1, "float32")


def noisy(n: int = 200, d: int = 6, c: int = 4, seed: int = 0, noise: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, c, n)
    centre = 3 + 2 * np.random.default_rng(99).standard_normal((c, d))
    return ((centre[y] + noise * rng.standard_normal((n, d))) * np.arange(1, d + 1)).astype(np.float32), y


def evaluated(x: np.ndarray, y: np.ndarray, test: Any = None, seed: int = 0, **settings: Any) -> Any:
    return evaluate_linear(Features(x), y, LinearSettings(**settings), test=test and (Features(test[0]), test[1]), seed=seed, runtime=RUNTIME)


def theirs(scale: str, c: float) -> Any:
    step = {"standard": [StandardScaler()], "l2": [Normalizer()], "none": []}[scale]
    return make_pipeline(*step, LogisticRegression(C=c, max_iter=2000))


@pytest.mark.parametrize("scale", ["standard", "l2", "none"])
@pytest.mark.parametrize("c", ["0.01", "1"])
def test_train_and_test_as_scikit_learn(scale: str, c: str) -> None:
    (x, y), (q, t) = noisy(300), noisy(400, seed=1)
    e = evaluated(x, y, (q, t), scale=scale, c=c, iterations=2000)
    model = theirs(scale, float(c)).fit(x.astype(np.float64), y)
    assert e.value("linear_top1") == model.score(q.astype(np.float64), t)
    name, value, low, high, n, protocol = e.rows[0]
    assert (name, n) == ("linear_top1", 400)
    assert (low, high) == wilson(round(value * 400), 400)
    assert protocol == f"logistic, C={c}, {dict(standard='standardised', l2='l2', none='as is')[scale]}, train/test"
    assert [r[0] for r in e.rows] == ["linear_top1", "c", "iterations", "converged", "left_out"]      # four classes: no top-5
    assert e.value("converged") == 1
    assert e.value("c") == float(c)


def test_two_classes() -> None:
    (x, y), (q, t) = noisy(200, c=2), noisy(200, c=2, seed=1)
    assert evaluated(x, y, (q, t)).value("linear_top1") == theirs("standard", 1.0).fit(x.astype(float), y).score(q.astype(float), t)


def test_top_five_by_sorting() -> None:
    (x, y), (q, t) = noisy(600, c=9, noise=4.0), noisy(500, c=9, seed=1, noise=4.0)
    e = evaluated(x, y, (q, t))
    model = theirs("standard", 1.0).fit(x.astype(float), y)
    order = np.argsort(-model.decision_function(q.astype(float)), axis=1, kind="stable")
    assert e.value("linear_top1") == (order[:, 0] == t).mean() < 0.9
    assert e.value("linear_top5") == (order[:, :5] == t[:, None]).any(axis=1).mean() > e.value("linear_top1")


def test_folds_are_stratified_and_balanced() -> None:
    y = np.repeat([0, 1, 2, 7], [50, 33, 8, 2])
    fold = folds(y, 5, Key(3))
    assert np.ptp(np.bincount(fold)) <= 1
    for c in np.unique(y):
        assert np.ptp(np.bincount(fold[y == c], minlength=5)) <= 1
    assert (fold == folds(y, 5, Key(3))).all()
    assert (fold != folds(y, 5, Key(4))).any()
    with pytest.raises(DataError, match="3 images of known class, expected at least 5"):
        folds(np.arange(3), 5, Key())


def test_cross_validation_by_a_plain_loop() -> None:
    x, y = noisy(203, noise=2.5)
    e = evaluated(x, y, seed=5, folds=4)
    fold = folds(y, 4, Key(5, stage="evaluate-linear"))
    said = np.empty(203, int)
    for f in range(4):
        said[fold == f] = theirs("standard", 1.0).fit(x[fold != f].astype(float), y[fold != f]).predict(x[fold == f].astype(float))
    assert e.value("linear_top1") == (said == y).mean()
    assert (e.predicted.tolist(), e.correct.tolist()) == (said.tolist(), (said == y).tolist())
    assert e.rows[0][4] == 203
    assert e.rows[0][5] == "logistic, C=1, standardised, 4-fold"
    assert "most of 4 fits" in [r[5] for r in e.rows]


def test_c_is_chosen_on_the_training_images_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a plain loop over the grid; the test images have no say."""
    monkeypatch.setattr(linear, "GRID", (1e-4, 1e-2, 1.0))
    (x, y), (q, t) = noisy(150, d=30, noise=6.0), noisy(100, d=30, seed=1, noise=6.0)
    e = evaluated(x, y, (q, t), c="auto", folds=3, iterations=3000)
    fold = folds(y, 3, Key(0, stage="evaluate-linear"))
    right = [sum(int((theirs("standard", c).fit(x[fold != f].astype(float), y[fold != f]).predict(x[fold == f].astype(float)) == y[fold == f]).sum())
                 for f in range(3)) for c in linear.GRID]
    best = linear.GRID[int(np.argmax(right))]
    assert len(set(right)) > 1
    assert e.value("c") == best
    assert e.value("linear_top1") == theirs("standard", best).fit(x.astype(float), y).score(q.astype(float), t)
    assert evaluated(x, y, (q, np.zeros_like(t)), c="auto", folds=3, iterations=3000).value("c") == best
    assert "chosen of 3 by 3-fold on training images" in [r[5] for r in e.rows]
    nested = evaluated(x, y, c="auto", folds=3)
    assert "C=auto" in nested.rows[0][5]
    assert "median of 3 fits" in next(r[5] for r in nested.rows if r[0] == "c")


def test_the_edge_of_the_grid_is_told(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "GRID", (1e-6, 1e-5))
    x, y = noisy(120, noise=0.1)
    with caplog.at_level(logging.WARNING):
        evaluated(x, y, (x, y), c="auto", folds=2)
    assert "at the edge of those tried" in caplog.text
    assert tuple(10.0**e for e in range(-5, 3)) == GRID


def test_not_converged_is_told(caplog: pytest.LogCaptureFixture) -> None:
    x, y = noisy()
    with caplog.at_level(logging.WARNING):
        e = evaluated(x, y, (x, y), iterations=2)
    assert "stopped after 2 iterations without converging" in caplog.text
    assert e.value("converged") == 0
    assert e.value("iterations") == 2


def test_rows_left_out_and_classes_never_trained() -> None:
    (x, y), (q, t) = noisy(60), noisy(50, seed=1)
    status = np.full(60, OK, np.uint8)
    status[3] = MISSING
    x[3] = np.nan
    y[[5, 6]] = -1
    f = Features(x, Samples(np.array([b"%d" % i for i in range(60)]), status))
    t[:7] = 11                                                            # only among the test images
    e = evaluate_linear(f, y, LinearSettings(), test=(Features(q), t), runtime=RUNTIME)
    keep = [i for i in range(60) if i not in (3, 5, 6)]
    assert e.value("left_out") == 3
    said = theirs("standard", 1.0).fit(x[keep].astype(float), y[keep]).predict(q.astype(float))
    assert e.value("linear_top1") == (said == t).mean()
    assert (e.predicted.tolist(), e.correct.tolist(), e.truth.tolist()) == (said.tolist(), (said == t).tolist(), t.tolist())


def test_a_constant_dimension_does_no_harm() -> None:
    x, y = noisy()
    wide = np.concatenate([x, np.full((len(x), 1), 7, np.float32)], axis=1)
    assert evaluated(wide, y, (wide, y)).value("linear_top1") == evaluated(x, y, (x, y)).value("linear_top1")


def test_refuses() -> None:
    x, y = noisy(20)
    with pytest.raises(DataError, match="targets"):
        evaluated(x, y[:5])
    with pytest.raises(DataError, match="known class"):
        evaluated(x, np.full(20, -1))
    with pytest.raises(DataError, match="one class"):
        evaluated(x, np.zeros(20, int), (x, y))
    with pytest.raises(DataError, match="5 dimensions, expected 6"):
        evaluated(x, y, (x[:, :5].copy(), y))
    x[4, 0] = np.inf
    with pytest.raises(DataError, match="row 4"):
        evaluated(x, y)
    for c in ("0", "-1", "inf", "nan", "much"):
        with pytest.raises(UsageError, match="c: found"):
            LinearSettings(c=c)
    with pytest.raises(UsageError, match="folds"):
        LinearSettings(folds=1)


def test_selas_protocol_by_a_plain_loop() -> None:
    """Momentum, decay, steps and order, in numpy."""
    (x, y), (q, t) = noisy(400, noise=3.0), noisy(300, seed=1, noise=3.0)
    e = evaluated(x, y, (q, t), solver="sgd", seed=2)
    z = (x - x.mean(0)) / x.std(0)
    w, b, vw, vb = np.zeros((4, 6)), np.zeros(4), np.zeros((4, 6)), np.zeros(4)
    for epoch in range(36):
        lr = 0.01 / 10 ** ((epoch >= 10) + (epoch >= 20) + (epoch >= 30))
        order = Key(2, stage="evaluate-linear", epoch=epoch).permutation("order", 400)
        for s in range(0, 400, 192):
            rows = order[s:s + 192]
            p = np.exp(z[rows] @ w.T + b)
            g = (p / p.sum(1, keepdims=True) - np.eye(4)[y[rows]]) / len(rows)
            vw, vb = 0.9 * vw + g.T @ z[rows] + 1e-5 * w, 0.9 * vb + g.sum(0) + 1e-5 * b
            w, b = w - lr * vw, b - lr * vb
    said = (((q - x.mean(0)) / x.std(0)) @ w.T + b).argmax(1)
    assert e.value("linear_top1") == (said == t).mean()
    assert e.rows[0][5] == "SeLa's sgd, standardised, train/test"
    assert [r[0] for r in e.rows] == ["linear_top1", "left_out"]


def test_protocols_fit_their_field() -> None:
    x, y = noisy(40, c=7)
    for s in ({"c": "auto", "folds": 3}, {"c": "0.000123456789", "scale": "l2"}, {"solver": "sgd"}):
        made = evaluated(x, y, **s)
        for row in made.rows:
            assert len(row[5].encode()) <= 64, row
            assert len(row[0].encode()) <= 32


def test_pixels_of_the_digits() -> None:
    """scikit-learn's own example reaches about 0.97 by a linear classifier."""
    x, y = load_digits(return_X_y=True)
    e = evaluated(x.astype(np.float32), y, c="0.1")
    assert e.value("linear_top1") == pytest.approx(0.969, abs=0.006)
    assert e.value("linear_top5") > 0.995

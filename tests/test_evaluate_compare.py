"""ucl.evaluate.compare against resampling image by image, scipy's bootstrap and binomial sums."""

from __future__ import annotations

import logging
from dataclasses import replace
from math import comb
from typing import Any

import numpy as np
import pytest
from scipy import stats

from ucl.artifacts import LEFT_OUT, Evaluation, Samples
from ucl.errors import DataError
from ucl.evaluate.compare import Comparison, compare, mcnemar
from ucl.evaluate.knn import wilson
from ucl.keys import Key
from ucl.settings import CompareSettings

PROTOCOL = "cosine, k=20, exp(s/0.1), train/test"


def report(right: np.ndarray, left_out: tuple[int, ...] = (), classes: tuple[str, ...] = ("ant", "bee"), **changes: Any) -> Evaluation:
    """Images alternate between two classes; a wrong answer is the other class."""
    n = len(right)
    correct = np.where(np.isin(np.arange(n), left_out), LEFT_OUT, right).astype(np.uint8)
    truth = (np.arange(n) % 2).astype(np.int32)
    predicted = np.where(correct == LEFT_OUT, -1, np.where(right, truth, 1 - truth)).astype(np.int32)
    asked, k = n - len(left_out), int((correct == 1).sum())
    samples = Samples(np.array([b"%s/%04d.png" % ((b"ant", b"bee")[i % 2], i) for i in range(n)]), np.zeros(n, np.uint8))
    made = Evaluation([("knn_top1", k / asked, *wilson(k, asked), asked, PROTOCOL)], None, samples, correct, predicted, truth, list(classes))
    return replace(made, **changes)


def pair(n: int = 400, seed: int = 0, lift: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Answers that hang together: an image is as hard for both."""
    rng = np.random.default_rng(seed)
    hard = rng.random(n)
    return hard + 0.2 * rng.standard_normal(n) < 0.5, hard + 0.2 * rng.standard_normal(n) < 0.5 + lift


def compared(a: list[Evaluation], b: list[Evaluation], seed: int = 0, **settings: Any) -> Comparison:
    return compare([(f"a-{i}.h5", e) for i, e in enumerate(a)], [(f"b-{i}.h5", e) for i, e in enumerate(b)], CompareSettings(**settings), Key(seed))


def plain_bootstrap(d: np.ndarray, resamples: int = 20_000) -> np.ndarray:
    """Percentiles of the means of resampled images, one resample at a time."""
    rng = np.random.default_rng(1)
    return np.percentile([d[rng.integers(0, len(d), len(d))].mean() for _ in range(resamples)], [2.5, 97.5])


def test_one_pair_by_resampling_images() -> None:
    x, y = pair()
    found = compared([report(x)], [report(y)], resamples=20_000)
    value, low, high = found.difference
    assert value == pytest.approx(y.mean() - x.mean(), abs=1e-15)
    d = y.astype(float) - x
    assert (low, high) == pytest.approx(tuple(plain_bootstrap(d)), abs=0.0035)                 # a step is 0.0025
    theirs = stats.bootstrap((d,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)).confidence_interval
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.0035)
    assert high - low == pytest.approx(2 * 1.96 * d.std() / 20, rel=0.06)
    unpaired = 1.96 * 2 * np.sqrt((x.var() + y.var()) / 400)
    assert high - low < 0.8 * unpaired                                                        # pairing is what it is for
    assert found.a == (x.mean(), *wilson(int(x.sum()), 400))
    assert found.b == (y.mean(), *wilson(int(y.sum()), 400))
    assert (found.images, found.metric, found.resamples) == (400, "knn_top1", 20_000)
    assert found.alone == ((x & ~y).sum(), (y & ~x).sum())


def test_the_interval_covers() -> None:
    """Of samples of a population with a known difference some 95 % have an interval that holds it."""
    big = pair(200_000)
    true = big[1].mean() - big[0].mean()
    rng = np.random.default_rng(5)
    held = 0
    for i in range(300):
        rows = rng.integers(0, 200_000, 250)
        _, low, high = compared([report(big[0][rows])], [report(big[1][rows])], seed=i, resamples=500).difference
        held += low <= true <= high
    assert 0.90 < held / 300 < 0.985


def test_seeds_count_by_their_share() -> None:
    a, b = [pair(seed=s)[0] for s in range(3)], [pair(seed=s, lift=0.15)[1] for s in range(2)]
    a[1], a[2] = a[0] ^ (np.arange(400) % 9 == 0), a[0] ^ (np.arange(400) % 7 == 0)
    b[1] = b[0] ^ (np.arange(400) % 5 == 0)
    found = compared([report(r) for r in a], [report(r) for r in b], resamples=20_000)
    d = np.mean(b, axis=0) - np.mean(a, axis=0)
    assert found.difference[0] == pytest.approx(d.mean(), abs=1e-15)
    assert found.difference[1:] == pytest.approx(tuple(plain_bootstrap(d)), abs=0.003)
    assert found.a[0] == pytest.approx(np.mean(a), abs=1e-15)
    assert found.a[1:] == pytest.approx(tuple(plain_bootstrap(np.mean(a, axis=0))), abs=0.003)
    assert found.values == ([r.mean() for r in a], [r.mean() for r in b])
    assert (found.alone, found.p) == (None, None)
    assert [r[0] for r in found.rows()] == ["a", "b", "b_minus_a"]
    assert "mean of 3: " in found.rows()[0][5]


@pytest.mark.parametrize(("b", "c"), [(0, 0), (0, 5), (3, 3), (10, 2), (7, 31), (200, 260)])
def test_mcnemar_by_binomial_sums(b: int, c: int) -> None:
    """Twice the smaller tail, at most 1: the distribution is symmetric."""
    n = b + c
    tail = sum(comb(n, i) for i in range(min(b, c) + 1)) / 2**n
    assert mcnemar(b, c) == pytest.approx(min(1.0, 2 * tail), rel=1e-9)


def test_one_pair_has_mcnemars_test() -> None:
    x, y = pair()
    found = compared([report(x)], [report(y)])
    only_a, only_b = int((x & ~y).sum()), int((y & ~x).sum())
    assert found.p == mcnemar(only_a, only_b) < 0.01
    rows = [("only_a", only_a, 400), ("only_b", only_b, 400), ("mcnemar_p", found.p, only_a + only_b)]
    assert [(r[0], r[1], r[4]) for r in found.rows()[3:]] == rows
    swapped = compared([report(y)], [report(x)])
    assert swapped.p == found.p
    assert swapped.difference[0] == -found.difference[0]


def test_equal_reports_do_not_differ() -> None:
    x, _ = pair()
    found = compared([report(x)], [report(x)])
    assert (found.difference, found.p, found.alone) == ((0.0, 0.0, 0.0), 1.0, (0, 0))


def test_draws_are_keyed() -> None:
    x, y = pair()
    a, b = [report(x)], [report(y)]
    assert compared(a, b, seed=3, resamples=200).difference == compared(a, b, seed=3, resamples=200).difference
    assert len({compared(a, b, seed=s, resamples=200).difference for s in range(8)}) > 1


def test_images_left_out_take_no_part() -> None:
    x, y = pair()
    out = (3, 77, 399)
    rest = np.setdiff1d(np.arange(400), out)
    found = compared([report(x, out)], [report(y, out)])
    assert found.images == 397
    assert found.difference[0] == pytest.approx(y[rest].mean() - x[rest].mean(), abs=1e-15)


def test_classes_are_compared_by_name() -> None:
    """A report whose training set had a further class numbers them otherwise."""
    x, y = pair()
    shifted = report(y, classes=("aardvark", "ant", "bee"))
    assert shifted.truth is not None
    shifted = replace(shifted, truth=shifted.truth + 1)
    assert compared([report(x)], [shifted]).difference == compared([report(x)], [report(y)]).difference


def test_refuses_what_is_no_pair() -> None:
    x, y = pair(40)
    a, b = report(x), report(y)
    assert b.samples is not None
    assert b.truth is not None
    names = b.samples.path.copy()
    names[7] = b"bee/tree.png"
    turned = Samples(b.samples.path[::-1].copy(), b.samples.status)
    truth = b.truth.copy()
    truth[9] = 0
    row = b.rows[0]
    for wrong, said in ((replace(b, samples=Samples(names, b.samples.status)), r"row 7 is bee/tree.png, expected bee/0007.png as in a-0.h5"),
                        (replace(b, samples=turned), "the same images in another order"),
                        (report(y[:30]), "30 images, expected 40 as in a-0.h5"),
                        (replace(b, rows=[("linear_top1", *row[1:])]), "measures linear_top1, expected knn_top1"),
                        (replace(b, rows=[(*row[:5], "cosine, k=5")]), "by the protocol 'cosine, k=5', expected 'cosine, k=20"),
                        (report(y, (4,)), "row 4, ant/0004.png, was left out, and asked about in a-0.h5"),
                        (replace(b, truth=truth), "row 9, bee/0009.png, is of class ant, expected bee as in a-0.h5"),
                        (replace(b, correct=None), "/per_sample/correct: missing"), (replace(b, samples=None), "/samples/path: missing"),
                        (replace(b, rows=[]), "/metrics: missing"),
                        (replace(b, correct=np.full(40, LEFT_OUT, np.uint8)), "every image was left out")):
        with pytest.raises(DataError, match=r"b-0\.h5: ") as told:
            compared([a], [wrong])
        assert said in told.value.message
        with pytest.raises(DataError, match=r"a-1\.h5: "):
            compared([a, wrong], [b])
    other = compared([a], [replace(b, rows=[(*row[:5], "cosine, k=5")])], any_protocol=True)
    assert other.protocols == ((PROTOCOL,), ("cosine, k=5",))


def test_a_file_given_twice_is_told(caplog: pytest.LogCaptureFixture) -> None:
    x, y = pair(40)
    with caplog.at_level(logging.WARNING):
        compared([report(x, digest="1"), report(y, digest="2")], [report(x, digest="1")])
        assert not caplog.text
        compared([report(x, digest="1"), report(x, digest="1")], [report(y, digest="2")])
    assert "a-1.h5 has the content of a-0.h5" in caplog.text


def test_many_images_cost_little() -> None:
    """A resample is drawn by the numbers of its kinds of images: 10^10 single draws would take minutes, and their indices 80 GB."""
    x, y = pair(1_000_000)
    samples = Samples(np.full(1_000_000, b"ant/x.png"), np.zeros(1_000_000, np.uint8))
    made = [Evaluation([("knn_top1", float(r.mean()), 0.0, 1.0, len(r), PROTOCOL)], None, samples, r.astype(np.uint8)) for r in (x, y)]
    value, low, high = compared(made[:1], made[1:]).difference
    assert high - low == pytest.approx(2 * 1.96 * (y.astype(float) - x).std() / 1000, rel=0.05)
    assert low < value < high

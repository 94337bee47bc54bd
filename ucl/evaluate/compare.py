"""`ucl evaluate compare`: two evaluations of the same images, paired image by image."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ucl.artifacts import LEFT_OUT, RIGHT, Evaluation
from ucl.decode import show
from ucl.errors import DataError
from ucl.keys import Key
from ucl.settings import CompareSettings

log = logging.getLogger(__name__)

Named = tuple[str, Evaluation]
Interval = tuple[float, float, float]


@dataclass(frozen=True)
class Comparison:
    """How much more often B is right than A.

    Attributes:
        metric: what both measure; protocols: how A's reports did and how B's did, without repetition.
        images: n, those that were asked about.
        values: accuracy of each report of A, and of each of B.
        a, b: their means over the reports; difference: b - a; (value, low, high), low and high a 95 % interval.
        resamples: of the bootstrap that made the intervals.
        alone: of one report on each side, images that A alone has right and that B alone has; else None.
        p: then McNemar's exact two-sided p.
    """

    metric: str
    protocols: tuple[tuple[str, ...], tuple[str, ...]]
    images: int
    values: tuple[list[float], list[float]]
    a: Interval
    b: Interval
    difference: Interval
    resamples: int
    alone: tuple[int, int] | None = None
    p: float | None = None

    def rows(self) -> list[tuple[str, float, float, float, int, str]]:
        """As the rows of an `Evaluation`."""
        nan, n = float("nan"), self.images
        found: list[tuple[str, float, float, float, int, str]] = []
        for name, value, values, protocols in zip("ab", (self.a, self.b), self.values, self.protocols, strict=True):
            mean = f"mean of {len(values)}: {' '.join(f'{v:.4f}' for v in values)}; " if len(values) > 1 else ""
            found.append((name, *value, n, f"{self.metric}, {mean}{' | '.join(protocols)}"))
        found.append(("b_minus_a", *self.difference, n, f"bootstrap over images, {self.resamples} resamples"))
        if self.alone is not None and self.p is not None:
            found += [(f"only_{side}", float(count), nan, nan, n, f"right in {side} alone") for side, count in zip("ab", self.alone, strict=True)]
            found.append(("mcnemar_p", self.p, nan, nan, sum(self.alone), "exact, two-sided"))
        return found


def compare(a: Sequence[Named], b: Sequence[Named], settings: CompareSettings, key: Key) -> Comparison:
    """The difference of two accuracies over the same images.

    Of several reports on a side, as of several seeds, an image counts by the share of them that have it right.  The intervals are
    the bootstrap's over images (Efron and Tibshirani 1993, percentiles): images are drawn with replacement, each with all that is
    known of it, so that what both sides find hard cancels.  As a resample's means depend only on how many images of each
    combination of counts it has, these numbers are drawn, from their multinomial distribution: the same bootstrap as
    `scipy.stats.bootstrap` does with method "percentile", at a cost that does not grow with the number of images.  The seeds are
    taken as they are: the intervals do not say what other seeds would give.  The interval of one report's own accuracy is the report's.
    Of one report on each side, McNemar's exact test (a binomial test of the images that one side alone has right).

    Args:
        a, b: (name for messages, evaluation); at least one each.
        settings: what `ucl evaluate compare --help` lists.
        key: of the resamples.

    Raises:
        DataError: a report that does not tell which images are right; other images, classes or left-out images than the first
            report's, another metric, or another protocol (unless `any_protocol`).
    """
    first = (*a, *b)[0]
    _tells(first)
    for other in (*a, *b)[1:]:
        _tells(other)
        _same(first, other, any_protocol=settings.any_protocol)
    for side in (a, b):
        _warn_of_copies(side)
    correct = first[1].correct
    assert correct is not None
    asked = correct != LEFT_OUT
    right = [np.sum([e.correct[asked] == RIGHT for _, e in side], axis=0) for side in (a, b)]      # type: ignore[index]
    mean_a, mean_b, difference = _bootstrap(right[0], right[1], (len(a), len(b)), settings.resamples, key)
    protocols = (tuple(dict.fromkeys(e.rows[0][5] for _, e in a)), tuple(dict.fromkeys(e.rows[0][5] for _, e in b)))
    values = ([e.rows[0][1] for _, e in a], [e.rows[0][1] for _, e in b])
    if len(a) == 1:
        mean_a = first[1].rows[0][1:4]
    if len(b) == 1:
        mean_b = b[0][1].rows[0][1:4]
    made = (first[1].rows[0][0], protocols, int(asked.sum()), values, mean_a, mean_b, difference, settings.resamples)
    if len(a) > 1 or len(b) > 1:
        return Comparison(*made)
    alone = int((right[0] > right[1]).sum()), int((right[1] > right[0]).sum())
    return Comparison(*made, alone, mcnemar(*alone))


def mcnemar(only_a: int, only_b: int) -> float:
    """McNemar's exact two-sided p of the images that one side alone has right; 1 where there are none."""
    from scipy.stats import binomtest

    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def _bootstrap(a: NDArray[np.int64], b: NDArray[np.int64], of: tuple[int, int], resamples: int, key: Key) -> tuple[Interval, Interval, Interval]:
    """(mean, 2.5 %, 97.5 %) of a / of[0], of b / of[1], and of the difference; a, b (n,) int64 count right answers."""
    n = len(a)
    cell, count = np.unique(a * (of[1] + 1) + b, return_counts=True)
    share_a, share_b = (cell // (of[1] + 1)) / of[0], (cell % (of[1] + 1)) / of[1]
    kinds = np.stack([share_a, share_b, share_b - share_a], axis=1)                                # (cells, 3)
    draws = np.random.Generator(np.random.PCG64(key.word("bootstrap"))).multinomial(n, count / n, size=resamples)
    low, high = np.quantile(draws @ kinds / n, (0.025, 0.975), axis=0)
    x, y = int(a.sum()), int(b.sum())
    means = (x / (n * of[0]), y / (n * of[1]), (y * of[0] - x * of[1]) / (n * of[0] * of[1]))
    found = [(value, float(low[i]), float(high[i])) for i, value in enumerate(means)]
    return found[0], found[1], found[2]


def _tells(report: Named) -> None:
    """Refuse a report that does not say which images are right."""
    name, e = report
    if e.correct is None or e.samples is None or not e.rows:
        what = "/per_sample/correct" if e.correct is None else "/samples/path" if e.samples is None else "/metrics"
        raise DataError(f"{name}: {what}: missing, expected it to tell which images are right",
                        "ucl evaluate knn FEATURES -o REPORT makes such a report")
    if not (e.correct != LEFT_OUT).any():
        raise DataError(f"{name}: /per_sample/correct: every image was left out, expected some that were asked about")


def _same(first: Named, other: Named, *, any_protocol: bool) -> None:
    """Refuse what is not to be paired, by its first difference."""
    (of, x), (name, y) = first, other
    assert x.samples is not None
    assert y.samples is not None
    if x.samples.digest != y.samples.digest:
        raise DataError(f"{name}: {y.samples.unlike(x.samples, of)}",
                        "evaluate both on the same test images; ucl align puts features in the order of others")
    if x.rows[0][0] != y.rows[0][0]:
        raise DataError(f"{name}: measures {y.rows[0][0]}, expected {x.rows[0][0]} as in {of}", "make both by the same ucl evaluate")
    if x.rows[0][5] != y.rows[0][5] and not any_protocol:
        raise DataError(f"{name}: by the protocol {y.rows[0][5]!r}, expected {x.rows[0][5]!r} as in {of}",
                        "make both with the same settings, or --any-protocol")
    assert x.correct is not None
    assert y.correct is not None
    row = _first((x.correct == LEFT_OUT) != (y.correct == LEFT_OUT))
    if row >= 0:
        here, there = ("left out", "asked about") if y.correct[row] == LEFT_OUT else ("asked about", "left out")
        raise DataError(f"{name}: row {row}, {show(x.samples.path[row])}, was {here}, and {there} in {of}",
                        "evaluate both on images that both can use; ucl select takes them")
    if x.truth is None or y.truth is None:
        return
    row = _first(_named(x) != _named(y))
    if row >= 0:
        found, wanted = (show(np.bytes_(_named(e)[row].encode())) for e in (y, x))
        raise DataError(f"{name}: row {row}, {show(x.samples.path[row])}, is of class {found}, expected {wanted} as in {of}",
                        "give both the same --targets and --labels")


def _named(e: Evaluation) -> NDArray[np.str_]:
    """The true class of each image by its name, as reports may number them otherwise; "" for unknown."""
    assert e.truth is not None
    top = int(e.truth.max(initial=-1)) + 1
    names = e.classes if len(e.classes) >= top else [str(i) for i in range(top)]
    return np.array([*names, ""])[np.where(e.truth < 0, len(names), e.truth)]


def _first(differs: NDArray[np.bool_]) -> int:
    """The first true row, -1 if there is none."""
    return int(np.argmax(differs)) if differs.any() else -1


def _warn_of_copies(side: Sequence[Named]) -> None:
    """Tell of two reports on one side with the same content: often one file under two names."""
    seen: dict[str, str] = {}
    for name, e in side:
        if e.digest and e.digest in seen:
            log.warning("compare: %s has the content of %s, and counts beside it", name, seen[e.digest])
        seen.setdefault(e.digest, name)

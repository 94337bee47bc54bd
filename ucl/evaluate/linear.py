"""`ucl evaluate linear`: a linear classifier on frozen features of one layer."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ucl.artifacts import Evaluation, Features
from ucl.errors import DataError
from ucl.evaluate.knn import judged, labelled, wilson
from ucl.keys import Key
from ucl.matrix import chunks
from ucl.memory import PROJECT_ROWS
from ucl.pca import blas_threads, unit_rows
from ucl.settings import LinearSettings

if TYPE_CHECKING:
    from ucl.device import Runtime

log = logging.getLogger(__name__)

ONE_THREAD = 1 << 26
"""Features with fewer values are fitted on one thread: an iteration is short, and threads that wait for each other on a busy
machine cost far more than they gain (measured: 5,000 x 256, 0.26 s of one core, 8.8 s of two)."""

GRID = tuple(10.0**e for e in range(-5, 3))
"""Values of C that ``--c auto`` tries, strongest penalty first."""

SELA_EPOCHS, SELA_STEPS, SELA_LR, SELA_MOMENTUM, SELA_DECAY, SELA_BATCH = 36, (10, 20, 30), 0.01, 0.9, 1e-5, 192
"""SeLa's probe (Asano et al., ICLR 2020, released code)."""

Scores = NDArray[np.float64]
Classes = NDArray[np.int64]


def evaluate_linear(features: Features, truth: Classes, settings: LinearSettings, *, test: tuple[Features, Classes] | None = None,
                    seed: int = 0, runtime: Runtime) -> Evaluation:
    """Share of images that a linear classifier on their features puts in their class.

    ``lbfgs`` is multinomial logistic regression with an L2 penalty, 0.5 |W|^2 + C * sum of the losses, by scikit-learn; it is
    convex, so its result does not depend on where it starts.  ``sgd`` is SeLa's protocol: one linear layer from zero, 36 epochs
    of SGD in batches of 192, learning rate 0.01, divided by 10 after 10, 20 and 30 epochs, momentum 0.9, weight decay 1e-5;
    without augmentation here, since the features are frozen.  C = auto takes the C of the best accuracy in stratified
    cross-validation on the *training* images (the smaller of equals), as DeepCluster chose its probes' hyper-parameters.

    Without ``test`` every image is classified once by a classifier that was trained on the other folds; with C = auto, C is
    chosen anew within each.  Rows that are not OK or of unknown class take no part.
    Memory: two copies of each set, float64 for lbfgs and float32 for sgd.

    Args:
        features: (N, D) float32 of the training images.
        truth: their classes (N,), -1 = unknown.
        settings: what `ucl evaluate linear --help` lists.
        test: features and classes of the images that are classified; None = cross-validation.
        seed: of folds and of sgd's order.
        runtime: threads (of large features; `ONE_THREAD`), and for sgd the device.

    Returns:
        ``linear_top1``, and ``linear_top5`` where there are more than five classes, with 95 % Wilson intervals; ``c``,
        ``iterations`` and ``converged`` of lbfgs (the worst of several fits); ``left_out``: rows that took no part; and what became
        of each image asked about.

    Raises:
        DataError: classes of another length, features of other dimensions, a usable row that is not finite, one class only,
            or fewer images than folds.
    """
    x, y, asked = labelled(features, truth)
    queries, classes, out = None, y, len(truth) - len(asked)
    if test is not None:
        queries, classes, asked = labelled(*test)
        out += len(test[1]) - len(asked)
        if queries.shape[1] != x.shape[1]:
            raise DataError(f"/features: {queries.shape[1]} dimensions, expected {x.shape[1]} as in the training images",
                            "use features of the same layer of the same model")
    probe = _Probe(settings, Key(seed, stage="evaluate-linear"), runtime)
    with blas_threads(runtime.threads if x.size >= ONE_THREAD else 1):
        rank, said = _cross(x, y, settings.folds, probe) if queries is None else _judge(probe(x, y)(queries), classes)
    rows = probe.rows(rank, f"{settings.folds}-fold" if queries is None else "train/test", len(np.unique(y)))
    return Evaluation([*rows, ("left_out", float(out), math.nan, math.nan, len(classes) + out, "count")],
                      **judged(test or (features, truth), asked, said), context=features.context)


class _Probe:
    """Fits classifiers and remembers how it went."""

    def __init__(self, settings: LinearSettings, key: Key, runtime: Runtime) -> None:
        self.settings, self.key, self.runtime = settings, key, runtime
        self.chosen: list[float] = []
        self.iterations: list[int] = []

    def __call__(self, x: NDArray[np.float32], y: Classes) -> Callable[[NDArray[np.float32]], Scores]:
        """A function from features (Q, D) to scores (Q, classes up to the largest of ``y``); -inf for a class not in ``y``."""
        prepare = _scaler(x, self.settings.scale)
        known, index = np.unique(y, return_inverse=True)
        if len(known) < 2:
            raise DataError("the training images are of one class, expected at least two", "give the classes of more images")
        if self.settings.solver == "sgd":
            weight, bias = _sgd(_prepared(prepare, x, np.float32), index, len(known), self.key, self.runtime)
        else:
            weight, bias = self._lbfgs(x, index)

        def scores(queries: NDArray[np.float32]) -> Scores:
            found = np.full((len(queries), int(known[-1]) + 1), -np.inf)
            for part in chunks(len(queries), PROJECT_ROWS):
                found[part, known] = prepare(queries[part]) @ weight.T + bias
            return found

        return scores

    def _lbfgs(self, x: NDArray[np.float32], y: Classes) -> tuple[Scores, Scores]:
        c = self._chosen_c(x, y) if self.settings.c == "auto" else float(self.settings.c)
        weight, bias, iterations = _logistic(_prepared(_scaler(x, self.settings.scale), x), y, c, self.settings.iterations)
        self.chosen.append(c)
        self.iterations.append(iterations)
        return weight, bias

    def _chosen_c(self, x: NDArray[np.float32], y: Classes) -> float:
        """The C of the most images put right in cross-validation; each fold's fits start from the C before."""
        fold = folds(y, self.settings.folds, self.key)
        right = np.zeros(len(GRID), np.int64)
        for f in range(self.settings.folds):
            inside = fold != f
            if not inside.any() or inside.all() or len(np.unique(y[inside])) < 2:
                continue
            prepare = _scaler(x[inside], self.settings.scale)
            train, held, known = _prepared(prepare, x[inside]), _prepared(prepare, x[~inside]), np.unique(y[inside])
            start = None
            for i, c in enumerate(GRID):
                weight, bias, _ = start = _logistic(train, np.searchsorted(known, y[inside]), c, self.settings.iterations, start)
                right[i] += int((known[(held @ weight.T + bias).argmax(axis=1)] == y[~inside]).sum())
        best = int(right.argmax())
        if best in (0, len(GRID) - 1):
            log.warning("linear: C = %g is at the edge of those tried (%g to %g)", GRID[best], GRID[0], GRID[-1])
        return GRID[best]

    def rows(self, rank: Classes, way: str, classes: int) -> list[tuple[str, float, float, float, int, str]]:
        """The rows of the evaluation, from the rank of each image's class (0 = first)."""
        n, s = len(rank), self.settings
        scale = {"standard": "standardised", "l2": "l2", "none": "as is"}[s.scale]
        if s.solver == "sgd":
            protocol = f"SeLa's sgd, {scale}, {way}"
        else:
            c = "auto" if s.c == "auto" else f"{float(s.c):g}"
            protocol = f"logistic, C={c}, {scale}, {way}"
        rows = []
        for k in (1, 5) if classes > 5 else (1,):
            right = int((rank < k).sum())
            rows.append((f"linear_top{k}", right / n, *wilson(right, n), n, protocol))
        if s.solver != "lbfgs":
            return rows
        fits = len(self.chosen)
        worst = max(self.iterations)
        if worst >= s.iterations:
            log.warning("linear: lbfgs stopped after %d iterations without converging; --iterations allows more", worst)
        one = f"of {fits} fits" if fits > 1 else "of the fit"
        by = f"chosen of {len(GRID)} by {s.folds}-fold on training images" if s.c == "auto" else "as set"
        rows.append(("c", float(np.median(self.chosen)), math.nan, math.nan, n, by + (f", median {one}" if fits > 1 else "")))
        rows.append(("iterations", float(worst), math.nan, math.nan, n, ("most " if fits > 1 else "") + one))
        rows.append(("converged", float(worst < s.iterations), math.nan, math.nan, n, f"lbfgs, at most {s.iterations} iterations"))
        return rows


def folds(y: Classes, count: int, key: Key) -> NDArray[np.int64]:
    """Stratified folds: each class dealt out in a keyed order, going on where the class before stopped; (N,) int64.

    Raises:
        DataError: fewer images than folds.
    """
    if len(y) < count:
        raise DataError(f"{len(y)} images of known class, expected at least {count}, one per fold", "--folds, or the classes of more images")
    shuffled = key.permutation("folds", len(y))
    order = shuffled[np.argsort(y[shuffled], kind="stable")]
    fold = np.empty(len(y), np.int64)
    fold[order] = np.arange(len(y)) % count
    return fold


def _cross(x: NDArray[np.float32], y: Classes, count: int, probe: _Probe) -> tuple[Classes, Classes]:
    """Rank of each image's class by the classifier of the other folds, and the class this one predicts; (N,) each."""
    fold = folds(y, count, probe.key)
    rank, said = np.empty(len(y), np.int64), np.empty(len(y), np.int64)
    for f in range(count):
        inside = fold != f
        rank[~inside], said[~inside] = _judge(probe(x[inside], y[inside])(x[~inside]), y[~inside])
    return rank, said


def _judge(scores: Scores, y: Classes) -> tuple[Classes, Classes]:
    """`_ranks`, and the class of the highest score, the lowest of equals, so that it is the true one where the rank is 0."""
    return _ranks(scores, y), scores.argmax(axis=1)


def _ranks(scores: Scores, y: Classes) -> Classes:
    """How many classes go before the true one, equal scores by class number; a class never trained comes last; (Q,)."""
    rank = np.full(len(y), np.iinfo(np.int64).max)
    some = y < scores.shape[1]
    own = np.full(len(y), -np.inf)
    own[some] = scores[np.flatnonzero(some), y[some]]
    trained = np.isfinite(own)
    s, mine = scores[trained], own[trained, None]
    rank[trained] = (s > mine).sum(axis=1) + ((s == mine) & (np.arange(s.shape[1]) < y[trained, None])).sum(axis=1)
    return rank


def _scaler(x: NDArray[np.float32], how: str) -> Callable[[NDArray[np.float32]], Scores]:
    """What is done to every row before the classifier, from the training rows alone; float64."""
    if how == "l2":
        return lambda rows: unit_rows(rows).astype(np.float64)
    if how == "none":
        return lambda rows: rows.astype(np.float64)
    mean = np.zeros(x.shape[1])
    square = np.zeros(x.shape[1])
    for part in chunks(len(x), PROJECT_ROWS):
        mean += x[part].sum(axis=0, dtype=np.float64) / len(x)
    for part in chunks(len(x), PROJECT_ROWS):
        square += ((x[part] - mean) ** 2).sum(axis=0) / len(x)
    std = np.sqrt(square)
    std[std <= 1e-7 * np.maximum(np.abs(mean), 1e-30)] = 1.0
    return lambda rows: (rows - mean) / std


def _prepared(prepare: Callable[[NDArray[np.float32]], Scores], x: NDArray[np.float32], dtype: type[np.floating[Any]] = np.float64) -> NDArray[Any]:
    """All rows, scaled in chunks; (N, D)."""
    out = np.empty(x.shape, dtype)
    for part in chunks(len(x), PROJECT_ROWS):
        out[part] = prepare(x[part])
    return out


def _logistic(x: Scores, y: Classes, c: float, iterations: int,
              start: tuple[Scores, Scores, int] | None = None) -> tuple[Scores, Scores, int]:
    """(weights (C, D), biases (C,), iterations) of scikit-learn's logistic regression; y are 0 .. C-1."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=c, max_iter=iterations, warm_start=start is not None)
    binary = int(y.max()) == 1
    if start is not None:
        model.coef_ = start[0][1:] - start[0][:1] if binary else start[0].copy()
        model.intercept_ = start[1][1:] - start[1][:1] if binary else start[1].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, y)
    weight, bias = np.asarray(model.coef_, np.float64), np.asarray(model.intercept_, np.float64)
    if binary:  # one row, for the second class
        weight, bias = np.concatenate([np.zeros_like(weight), weight]), np.concatenate([np.zeros_like(bias), bias])
    return weight, bias, int(np.max(model.n_iter_))


def _sgd(x: NDArray[np.float32], y: Classes, classes: int, key: Key, runtime: Runtime) -> tuple[Scores, Scores]:
    """(weights (C, D), biases (C,)) of SeLa's protocol; each epoch in a keyed order."""
    import torch
    from torch import nn

    device = torch.device(runtime.device)
    layer = nn.Linear(x.shape[1], classes).to(device)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    images, targets = torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)
    optimizer = torch.optim.SGD(layer.parameters(), SELA_LR, SELA_MOMENTUM, weight_decay=SELA_DECAY)
    for epoch in range(SELA_EPOCHS):
        for group in optimizer.param_groups:
            group["lr"] = SELA_LR * 0.1 ** sum(epoch >= step for step in SELA_STEPS)
        order = torch.from_numpy(key.at(epoch=epoch).permutation("order", len(x))).to(device)
        for start in range(0, len(x), SELA_BATCH):
            rows = order[start:start + SELA_BATCH]
            loss = nn.functional.cross_entropy(layer(images[rows]), targets[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    if not torch.isfinite(layer.weight).all():
        raise DataError("/features: SGD diverged on these features", "--scale standard, or --solver lbfgs")
    return layer.weight.detach().cpu().numpy().astype(np.float64), layer.bias.detach().cpu().numpy().astype(np.float64)

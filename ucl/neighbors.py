"""`ucl neighbors`: features in, the nearest images of each image out, or the pairs of images that are near duplicates.

Rows whose status is not OK take no part.  The search is exact (`ucl.search`); what it finds does not depend on where the rows
lie, nor on threads.
"""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
from numpy.typing import NDArray

from ucl.artifacts import Features, Neighbors, Pairs
from ucl.context import Context
from ucl.errors import DataError, UsageError
from ucl.matrix import picked
from ucl.memory import UNLIMITED, need_of_neighbors
from ucl.pca import usable_rows
from ucl.search import Points, nearest, pairs
from ucl.settings import NeighborsSettings

log = logging.getLogger(__name__)

PAIR_BYTES = 80
"""What a pair takes while pairs are put together."""
HALF_ULP = 2.0**-54
"""A distance so small leaves a cosine of 1."""
FEW_PAIRS = 1 << 16
"""So many are always taken."""


def neighbors(features: Features, settings: NeighborsSettings, context: Context, *, among: Features | None = None, threads: int,
              memory: int = UNLIMITED) -> Neighbors | Pairs:
    """The nearest usable rows of every usable row, or all pairs of rows that are alike.

    Args:
        features: (N, D) float32 of the images asked about; an array, or `matrix.Rows` elsewhere.
        settings: what `ucl neighbors --help` lists.
        context: where in a plan this happens.
        among: (R, D) features of the images searched; None = those asked about, each without itself unless
            ``settings.include_self``.
        threads: threads; the result does not depend on them.
        memory: bytes to keep to.

    Returns:
        Neighbors (N, K), or with ``settings.duplicates`` Pairs of a cosine of at least that.

    Raises:
        UsageError: ``include_self`` among other images, more pairs than fit into memory, or not even what the search needs.
        DataError: features of other dimensions or another model, a usable row that is not finite, no usable row.
    """
    if among is not None:
        check(settings, features, features.features.shape[1], among)
    context = dataclasses.replace(context, stage=context.stage or "neighbors")
    n, d = features.features.shape
    wanted = need_of_neighbors(n, d, settings, among=0 if among is None else len(among.features))
    wanted.check(memory, f"searching {n} x {d} features")
    held = sum(f.features.nbytes for f in (features, among) if f is not None and isinstance(f.features, np.ndarray))
    rows, asked = _points(features, settings)
    found, base = (rows, asked) if among is None else _points(among, settings)
    if settings.duplicates is not None:
        return _pairs(features, among, (rows, asked), (found, base), settings.duplicates, context, threads, memory - wanted.least - held)
    if len(base) - (among is None and not settings.include_self) < settings.neighbors:
        log.warning("%d neighbours wanted of each image, there are only %d: the rest is -1", settings.neighbors,
                    len(base) - (among is None and not settings.include_self))
    near, distance = nearest(asked, base, settings.neighbors, own=settings.include_self, threads=threads)
    distance = np.sqrt(2 * distance) if settings.metric == "euclidean" else distance
    size = len(features.features if among is None else among.features)
    index = np.full((n, settings.neighbors), -1, np.int32 if size < 2**31 else np.int64)
    far = np.full(index.shape, np.nan, np.float32)
    index[rows] = np.where(near < 0, -1, found[near])
    far[rows] = np.where(near < 0, np.nan, distance)
    return Neighbors(index, far, samples=features.samples, among=_names(among), metric=settings.metric,
                     self_included=settings.include_self, context=context)


def check(settings: NeighborsSettings, features: Features, d: int, among: Features) -> None:
    """Refuse to search among features that cannot be compared; a file that does not say what made it passes.

    Args:
        settings: those of the search.
        features: those asked about, or what their header tells.
        d: their dimensions.
        among: those searched.

    Raises:
        UsageError: an image is to be among its own neighbours, but others are searched.
        DataError: other dimensions, model, weights, layer or image preparation.
    """
    if settings.include_self:
        raise UsageError("include_self: other images are searched, an image is not among them", "--no-include-self, or one file of features")
    if d != among.features.shape[1]:
        raise DataError(f"/features: {among.features.shape[1]} dimensions in the second file, expected {d} as in the first",
                        "use features of the same layer of the same model")
    for what in ("model", "weights", "layer", "transform"):
        first, second = getattr(features, what), getattr(among, what)
        if first not in ("", "{}") and second not in ("", "{}") and first != second:
            raise DataError(f"{what}: the second file's features are of {_short(second)}, expected {_short(first)} as in the first",
                            "extract both with one model, layer and image preparation")


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def _points(features: Features, settings: NeighborsSettings) -> tuple[NDArray[np.int64], Points]:
    """Usable rows and these as points."""
    rows = usable_rows(features)
    points = Points(picked(features.features, rows), cosine=settings.metric == "cosine")
    if points.blank:
        assert points.inverse is not None
        row = int(rows[np.argmax(points.inverse == 0)])
        path = "" if features.samples is None else f" ({features.samples.path[row].decode(errors='replace')})"
        log.warning("%d rows of the features are zero vectors, which have no direction: by cosine they are at distance 1 from all others "
                    "and 0 from each other; the first is row %d%s", int((points.inverse == 0).sum()), row, path)
    return rows, points


def _names(among: Features | None) -> NDArray[np.bytes_] | None:
    """The images searched, where they are others; by their numbers where the file does not name them."""
    if among is None:
        return None
    return np.arange(len(among.features)).astype(np.bytes_) if among.samples is None else among.samples.path


def _pairs(features: Features, among: Features | None, asked: tuple[NDArray[np.int64], Points], base: tuple[NDArray[np.int64], Points],
           least: float, context: Context, threads: int, room: int) -> Pairs:
    """Pairs of a cosine of at least ``least``, by rows."""
    made, similar, most = [], [], max(room // PAIR_BYTES, FEW_PAIRS)
    for first, second, distance in pairs(asked[1], base[1], 1 - least + HALF_ULP, threads=threads, limit=most):
        made.append(np.stack([asked[0][first], base[0][second]], axis=1))
        similar.append(1 - distance)
    return Pairs(np.concatenate(made), np.concatenate(similar), samples=features.samples, among=_names(among),
                 threshold=least, context=context)

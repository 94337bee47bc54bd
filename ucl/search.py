"""Exact nearest neighbours: the nearest rows of each row, and all pairs that are near.

Matrix products in float32 give, of every pair, a lower bound of its distance; whoever could be among the nearest by these bounds
is measured again by differences in float64, and that decides.  So what is found depends neither on the order of the products
nor on blocks or threads, equal rows are at distance 0, and of equal distances the lower row comes first.

Rows are centred and scaled by a power of two first: errors are then relative to the spread of the rows and not to their length.
With z = row - mean and h = |z|^2 / 2, half the squared distance is h_i + h_j - z_i.z_j, and its error in float32 at most
G (h_i + h_j), G = 2 (D + 6) 2^-24 (Higham, "Accuracy and Stability of Numerical Algorithms", section 3.1).  The lower bound is
therefore one product of rows (z, 1, (1 - G) h) and (-z, (1 - G) h, 1), D + 2 long; among the rows of one set each product
serves both of its rows.

Distances here are half the squared ones: 1 - cosine where rows are brought to unit length.

Memory beside the rows: 16 K + 120 bytes for each that is asked about, K neighbours of each (28 K + 220 for K below 12), 8 or 16 for each
that is searched, three blocks of 32 MiB, 8 MiB for each thread (at most 16), and 20 D x 1,024 x 4 bytes.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ucl.errors import UsageError
from ucl.matrix import Rows, chunks, gather
from ucl.memory import SEARCH_BYTES, SEARCH_SPARE, SEARCH_THREADS
from ucl.pca import blas_threads

TILE = 768
"""Rows and columns of one product."""

EXACT_ROWS = 1024
"""Rows whose neighbours are measured at a time."""

TINY = 1e-30
"""More than underflow takes from a product of rows whose lengths are at most 2."""

UNIT = 2.0**-24

MOST = np.finfo(np.float32).max
"""The limit of a query before anything was seen; above all distances, below that of what is left out."""

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Numbers = NDArray[np.int64]
T = TypeVar("T")
R = TypeVar("R")


class Points:
    """Rows as points in 64 bits; by cosine of unit length.

    A row of zeros has no direction: by cosine it gets one of its own, at distance 1 from all rows but other rows of zeros.
    """

    def __init__(self, rows: Rows, *, cosine: bool) -> None:
        self.rows = rows
        self.inverse: Doubles | None = None
        self.blank = False
        if cosine:
            self.inverse = np.empty(len(rows))
            for part in chunks(len(rows), _piece(rows.shape[1])):
                x = rows[part].astype(np.float64)
                self.inverse[part] = np.sqrt(np.einsum("nd,nd->n", x, x))
            zero = self.inverse == 0
            self.blank = bool(zero.any())
            self.inverse = np.where(zero, 0.0, 1 / np.where(zero, 1.0, self.inverse))

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, part: slice, wide: bool) -> Doubles:
        """Some rows in order, (n, D) float64, or (n, D + 1) where ``wide``."""
        return self._made(self.rows[part], None if self.inverse is None else self.inverse[part], wide)

    def gather(self, index: Numbers, wide: bool) -> Doubles:
        """Rows of any numbers, likewise."""
        return self._made(gather(self.rows, index), None if self.inverse is None else self.inverse[index], wide)

    def _made(self, x: Floats, inverse: Doubles | None, wide: bool) -> Doubles:
        if inverse is None:
            return x.astype(np.float64)
        made: Doubles = x * inverse[:, None]
        return np.concatenate([made, (inverse == 0)[:, None]], axis=1) if wide else made


@dataclass(frozen=True)
class _Frame:
    """What both sets are centred and scaled by: mean (D,) float64, a power of two, and whether rows have the column for zeros."""

    mean: Doubles
    scale: float
    wide: bool

    @property
    def share(self) -> float:
        """G: the error of a product as a share of h_i + h_j."""
        return 2 * (len(self.mean) + 6) * UNIT


def _piece(d: int) -> int:
    """Rows worked on at a time in float64."""
    return max(1, (4 << 20) // (8 * (d + 1)))


def _frame(sets: Sequence[Points], base: Points) -> _Frame:
    d = base.rows.shape[1]
    wide = any(points.blank for points in sets)
    total, longest = np.zeros(d + wide), 0.0
    for points in {id(p): p for p in sets}.values():
        for part in chunks(len(points), _piece(d)):
            x = points.part(part, wide)
            longest = max(longest, float(np.einsum("nd,nd->n", x, x).max()))
            if points is base:
                total += x.sum(axis=0)
    return _Frame(total / max(1, len(base)), 2.0 ** -math.frexp(math.sqrt(longest))[1] if longest else 1.0, wide)


class _Side:
    """One set of points within a frame, as blocks for the products."""

    def __init__(self, points: Points, frame: _Frame) -> None:
        self.points, self.frame = points, frame
        self.half = np.empty(len(points), np.float32)
        for part in chunks(len(points), _piece(points.rows.shape[1])):
            self.half[part] = self._halved(self._centred(part))

    def __len__(self) -> int:
        return len(self.points)

    @property
    def size(self) -> int:
        """Rows of a block."""
        return max(1, SEARCH_BYTES // (4 * (len(self.frame.mean) + 2)) // TILE) * TILE

    def block(self, part: slice, *, left: bool) -> Floats:
        """(z, 1, (1 - G) h), or (-z, (1 - G) h, 1) on the right side; (n, D + 2) float32."""
        d = len(self.frame.mean)
        out = np.empty((part.stop - part.start, d + 2), np.float32)
        for some in chunks(len(out), _piece(d)):
            z = self._centred(slice(part.start + some.start, part.start + some.stop))
            out[some, :d] = z if left else -z
        out[:, d if left else d + 1] = 1
        out[:, d + 1 if left else d] = (1 - self.frame.share) * self.half[part].astype(np.float64)
        return out

    def _centred(self, part: slice) -> Floats:
        x = self.points.part(part, self.frame.wide)
        x -= self.frame.mean
        x *= self.frame.scale
        return x.astype(np.float32)

    @staticmethod
    def _halved(z: Floats) -> Floats:
        wide = z.astype(np.float64)
        halved: Floats = (np.einsum("nd,nd->n", wide, wide) / 2).astype(np.float32)
        return halved


class _Tile(NamedTuple):
    """One product to be made: rows and columns, and their parts of the blocks."""

    rows: slice
    columns: slice
    left: Floats
    right: Floats

    def product(self, room: _Room) -> Floats:
        """Lower bounds (R, C), in memory that is used again."""
        shape = len(self.left), len(self.right)
        found = room.memory[:shape[0] * shape[1]].reshape(shape)
        np.matmul(self.left, self.right.T, out=found)
        return found


class _Room(threading.local):
    """Memory of one thread for its products."""

    def __init__(self) -> None:
        self.memory = np.empty(TILE * TILE, np.float32)


def _tiles(left: _Side, right: _Side) -> Iterator[_Tile]:
    """All products, block by block; within one set those on and above the diagonal.  Those of a row come from left to right."""
    for outer in chunks(len(left), left.size):
        rows = left.block(outer, left=True)
        for inner in chunks(len(right), right.size):
            if left is right and inner.stop <= outer.start:
                continue
            columns = right.block(inner, left=False)
            for a in chunks(len(rows), TILE):
                for b in chunks(len(columns), TILE):
                    tile = _Tile(slice(outer.start + a.start, outer.start + a.stop), slice(inner.start + b.start, inner.start + b.stop),
                                 rows[a], columns[b])
                    if left is not right or tile.columns.start >= tile.rows.start:
                        yield tile


def _each(work: Callable[[T], R], items: Iterator[T], threads: int) -> Iterator[R]:
    """``work`` of every item, in order; a few at a time by ``threads`` threads."""
    if threads <= 1:
        with blas_threads(threads):
            yield from map(work, items)
        return
    threads = min(threads, SEARCH_THREADS)
    with blas_threads(1), ThreadPoolExecutor(threads) as pool:
        under_way = deque(pool.submit(work, item) for item in islice(items, 2 * threads))
        while under_way:
            yield under_way.popleft().result()
            under_way.extend(pool.submit(work, item) for item in islice(items, 1))


class _Hits(NamedTuple):
    """Pairs of a tile: positions in the queries' block (ascending) and in the base, and the lower bounds."""

    row: Numbers
    base: Numbers
    low: Floats

    def where(self, chosen: NDArray[np.bool_]) -> _Hits:
        """Some of them."""
        return _Hits(self.row[chosen], self.base[chosen], self.low[chosen])


class _Best:
    """For each query the base rows that can still be among its ``count`` nearest: (n, room) numbers and lower bounds, unordered.

    ``limit`` (n,) is an upper bound of the distance of the last of them.
    """

    def __init__(self, queries: _Side, base: _Side, count: int) -> None:
        self.queries, self.base, self.count = queries, base, count
        self.room = count + max(count, SEARCH_SPARE)
        self.index = np.full((len(queries), self.room), -1, np.int32 if len(base) < 2**31 else np.int64)
        self.low = np.full((len(queries), self.room), np.inf, np.float32)
        self.held = np.zeros(len(queries), np.int32)
        self.limit = np.full(len(queries), MOST, np.float32)

    def high(self, low: Floats, query_half: Floats, base_half: Floats | np.float32) -> Floats:
        """Upper bounds from lower ones."""
        share = np.float32(2 * self.queries.frame.share + 8 * UNIT)
        found: Floats = low + share * (query_half + base_half) + np.float32(2 * TINY)
        return found

    def first(self, tile: Floats, queries: slice, base: slice) -> Floats:
        """Limits of queries that have none yet, from one tile (R, C)."""
        if tile.shape[1] < self.count:
            return self.limit[queries]
        last = np.partition(tile, self.count - 1, axis=1)[:, self.count - 1]
        return self.high(last, self.queries.half[queries], self.base.half[base].max())

    def add(self, start: int, hits: _Hits) -> None:
        """Take what a tile has found for the queries from ``start`` on."""
        if not len(hits.row):
            return
        over = self._full(start, hits)
        if len(over):
            self._prune(over)
            hits = hits.where(hits.low <= self.limit[start + hits.row])
            over = self._full(start, hits)
        if len(over):
            among = np.isin(start + hits.row, over)
            crowded = over[2 * self.held[over] > self.count + self.room]    # more of them within rounding of the last than pruning helps
            measure = np.isin(start + hits.row, crowded)
            self._measure(crowded, start + hits.row[measure], hits.base[measure])
            split = hits.where(among & ~measure)                            # half of them lower the limit for the others
            half = np.arange(len(split.row)) % 2 == 0
            self.add(start, split.where(half))
            self.add(start, split.where(~half))
            hits = hits.where(~among)
        rows = start + hits.row
        number = np.bincount(hits.row)
        at = self.held[rows] + np.arange(len(rows)) - (np.cumsum(number) - number)[hits.row]
        self.index[rows, at] = hits.base
        self.low[rows, at] = hits.low
        self.held[start:start + len(number)] += number.astype(np.int32)

    def _full(self, start: int, hits: _Hits) -> Numbers:
        """Queries with no room for their hits."""
        number = np.bincount(hits.row)
        return start + np.flatnonzero(self.held[start:start + len(number)] + number > self.room)

    def _prune(self, rows: Numbers) -> None:
        """Lower the limits of some queries, and let go of what lies beyond."""
        for part in chunks(len(rows), 8 * TILE):
            some = rows[part]
            low, index = self.low[some], self.index[some]
            high = self.high(low, self.queries.half[some, None], self.base.half[index])
            last = np.partition(high, self.count - 1, axis=1)[:, self.count - 1]
            self.limit[some] = np.minimum(self.limit[some], last)
            keep = (low <= self.limit[some, None]) & (index >= 0)
            held = keep.sum(axis=1)
            row, column = np.nonzero(keep)
            at = np.arange(len(row)) - np.repeat(np.cumsum(held) - held, held)
            self.held[some] = held
            self.index[some], self.low[some] = -1, np.inf
            self.index[some[row], at] = index[row, column]
            self.low[some[row], at] = low[row, column]

    def _measure(self, full: Numbers, rows: Numbers, base: Numbers) -> None:
        """Queries with more candidates than room, all within rounding of the last: their distances decide at once."""
        first, last = np.searchsorted(rows, full), np.searchsorted(rows, full, side="right")
        scale = self.queries.frame.scale**2
        for row, a, b in zip(full.tolist(), first.tolist(), last.tolist(), strict=True):
            index = np.sort(np.concatenate([self.index[row, :self.held[row]].astype(np.int64), base[a:b]]))
            distance = np.concatenate([measured(self.queries, self.base, np.array([row]), index[None, some])[0]
                                       for some in chunks(len(index), EXACT_ROWS)])
            best = np.argsort(distance, kind="stable")[:self.count]
            self.index[row], self.low[row] = -1, np.inf
            self.index[row, :len(best)] = index[best]
            near = (distance[best] * scale).astype(np.float32)
            self.low[row, :len(best)] = near - np.spacing(near)
            self.held[row] = len(best)
            if len(best) == self.count:
                self.limit[row] = min(self.limit[row], near[-1] + 2 * np.spacing(near[-1]) + np.float32(TINY))

    def ranked(self) -> tuple[Numbers, Doubles]:
        """The nearest of each query by (distance, row): (n, count) int64, -1 where there are no more, and float64 distances, there infinite."""
        n = len(self.queries)
        near, found = np.full((n, self.count), -1, np.int64), np.full((n, self.count), np.inf)
        for part in chunks(n, EXACT_ROWS):
            rows = np.arange(part.start, part.stop)
            self._prune(rows)
            index = self.index[part, :max(1, int(self.held[part].max()))].astype(np.int64)
            index = np.sort(np.where(index < 0, len(self.base), index), axis=1)
            index[index == len(self.base)] = -1
            distance = measured(self.queries, self.base, rows, index)
            best = np.argsort(distance, axis=1, kind="stable")[:, :self.count]
            near[part, :best.shape[1]] = np.take_along_axis(index, best, axis=1)
            found[part, :best.shape[1]] = np.take_along_axis(distance, best, axis=1)
        return near, found


def measured(queries: _Side, base: _Side, rows: Numbers, index: Numbers) -> Doubles:
    """Half the squared distances by differences: rows (R,) to base rows ``index`` (R, C) or (1, C) for one row; infinite for -1."""
    wide = queries.frame.wide
    x = queries.points.gather(rows, wide)
    if len(rows) == 1:
        difference = base.points.gather(np.maximum(index[0], 0), wide) - x
        distance: Doubles = np.einsum("nd,nd->n", difference, difference)[None] / 2
    else:
        distance = np.empty(index.shape)
        for column in range(index.shape[1]):
            difference = base.points.gather(np.maximum(index[:, column], 0), wide)
            difference -= x
            distance[:, column] = np.einsum("nd,nd->n", difference, difference)
        distance /= 2
    if queries.points.inverse is not None and base.points.inverse is not None and wide:
        mixed = (queries.points.inverse[rows] == 0)[:, None] != (base.points.inverse[np.maximum(index, 0)] == 0)
        distance[mixed] = 1                                 # and not 1 up to the rounding of another row's length
    distance[index < 0] = np.inf
    return distance


def nearest(queries: Points, base: Points, count: int, *, own: bool = False, threads: int = 0) -> tuple[Numbers, Doubles]:
    """The ``count`` nearest base rows of every query, nearest first, the lower row of equal distances.

    Args:
        queries: n points.
        base: the points searched; the very same object for neighbours within one set.
        count: neighbours of each.
        own: within one set, each row is among its own neighbours; else it is left out by its number.
        threads: threads; 0 leaves the BLAS alone.  What is found does not depend on it.

    Returns:
        (n, count) int64, -1 where there are no more; and float64 half squared distances (1 - cosine), there infinite.
    """
    within = queries is base
    if _one_point(queries, base):
        return _lowest(len(queries), len(base), count, leave_out=within and not own)
    frame = _frame([queries, base], base)
    right = _Side(base, frame)
    left = right if within else _Side(queries, frame)
    best, room = _Best(left, right, count), _Room()

    def work(tile: _Tile) -> tuple[_Tile, _Hits, _Hits | None]:
        product = tile.product(room)
        if within and not own and tile.rows == tile.columns:
            np.fill_diagonal(product, np.inf)
        found = _below(product, tile.rows, tile.columns, best)
        return tile, found, _below(product.T, tile.columns, tile.rows, best) if within and tile.rows != tile.columns else None

    for tile, forth, back in _each(work, _tiles(left, right), threads):
        best.add(tile.rows.start, forth)
        if back is not None:
            best.add(tile.columns.start, back)
    return best.ranked()


def _one_point(queries: Points, base: Points) -> bool:
    """Whether all rows are equal, as of a network that has collapsed: every pair would have to be measured."""
    only = base.part(slice(0, 1), wide=True)
    return len(base) > 0 and all((points.part(part, wide=True) == only).all() for points in (base, queries)
                                 for part in chunks(len(points), _piece(points.rows.shape[1])))


def _lowest(n: int, size: int, count: int, *, leave_out: bool) -> tuple[Numbers, Doubles]:
    """The neighbours of n equal rows among ``size`` of them."""
    near = np.tile(np.arange(count), (n, 1))
    if leave_out:
        near += near >= np.arange(n)[:, None]
    near[near >= size] = -1
    return near, np.where(near < 0, np.inf, 0.0)


def _below(product: Floats, queries: slice, base: slice, best: _Best) -> _Hits:
    """What of a tile (R, C), transposed or not, lies within the limits of its rows."""
    limit = best.limit[queries]
    if (limit == MOST).any():
        np.minimum(limit, best.first(product, queries, base), out=limit)    # in place; a thread that overwrites another's loses nothing
    if product.flags.c_contiguous:
        row, column = np.divmod(np.flatnonzero(product <= limit[:, None]), product.shape[1])
        return _Hits(row, base.start + column, product[row, column])
    column, row = np.divmod(np.flatnonzero(limit >= product.T), product.shape[0])
    order = np.argsort(row.astype(np.uint16), kind="stable")
    row, column = row[order], column[order]
    return _Hits(row, base.start + column, product[row, column])


def pairs(queries: Points, base: Points, most: float, *, threads: int = 0, limit: int = 1 << 62) -> Iterator[tuple[Numbers, Numbers, Doubles]]:
    """All pairs at half a squared distance (1 - cosine) of at most ``most``; within one set, the same object, each pair once, i < j.

    Yields:
        Rows of the queries, rows of the base (n,) int64 and distances (n,) float64; all pairs of a row in one go, rows ascending.

    Raises:
        UsageError: more than ``limit`` pairs.
    """
    within = queries is base
    frame = _frame([queries, base], base)
    right = _Side(base, frame)
    left = right if within else _Side(queries, frame)
    room = _Room()
    bound = np.nextafter(np.float32(most * frame.scale**2 + TINY), np.float32(np.inf))

    def work(tile: _Tile) -> tuple[_Tile, Numbers, Numbers, Doubles]:
        product = tile.product(room)
        row, column = np.divmod(np.flatnonzero(product <= bound), product.shape[1])
        if within and tile.rows == tile.columns:
            row, column = row[row < column], column[row < column]
        row, column = tile.rows.start + row, tile.columns.start + column
        distance = np.concatenate([np.zeros(0), *(measured(left, right, row[some], column[some, None])[:, 0]
                                                  for some in chunks(len(row), EXACT_ROWS))])
        keep = distance <= most
        return tile, row[keep], column[keep], distance[keep]

    kept: dict[int, list[tuple[Numbers, Numbers, Doubles]]] = {}
    total = 0
    for tile, row, column, distance in _each(work, _tiles(left, right), threads):
        total += len(row)
        if total > limit:
            raise UsageError(f"more than {limit} pairs are so near, all that fit into memory", "a larger similarity, or more --memory")
        kept.setdefault(tile.rows.start, []).append((row, column, distance))
        if tile.columns.stop == len(base):
            first, second, near = (np.concatenate(found) for found in zip(*kept.pop(tile.rows.start), strict=True))
            order = np.lexsort((second, first))
            yield first[order], second[order], near[order]

"""Labels that move, with each cluster's size and members at hand at any time; numpy alone.

A cluster's members lie side by side in one pool, with room to grow: who leaves is replaced by the cluster's last member, who comes
is put behind it, and a cluster without room moves to the pool's free end.  Moving M images costs O(M log M), wherever they come
from, and the pool is laid out anew after so many moves that this is O(1) for each.  Nothing is ever counted over all N images.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_ROOM = 8
"""Least room for newcomers."""


class Partition:
    """N images in K clusters.

    Attributes:
        labels: (N,) int32, -1 = in no cluster, for good; change them by `move` alone.
        size: (K,) int64, members of each cluster.

    Memory: about 28 bytes an image.
    """

    def __init__(self, labels: NDArray[np.int32], k: int) -> None:
        self.labels = np.array(labels, np.int32)
        self._k = k
        self._lay_out()

    def _lay_out(self) -> None:
        """Sizes, and a pool in which each cluster has half its size to grow, and all of them as much again."""
        inside = np.flatnonzero(self.labels >= 0)
        order = inside[np.argsort(self.labels[inside], kind="stable")]
        self.size = np.bincount(self.labels[inside], minlength=self._k).astype(np.int64)
        self._room = self.size + self.size // 2 + _ROOM
        self._start = np.cumsum(self._room) - self._room
        self._used = int(self._room.sum())
        self._pool = np.empty(self._used + len(inside) + _ROOM * self._k, np.int32)
        self._place = np.full(len(self.labels), -1, np.int64)
        places = np.repeat(self._start - (np.cumsum(self.size) - self.size), self.size) + np.arange(len(order))
        self._pool[places], self._place[order] = order, places

    def members(self, cluster: int) -> NDArray[np.int64]:
        """Images of a cluster, ascending; int64."""
        start = self._start[cluster]
        return np.sort(self._pool[start:start + self.size[cluster]]).astype(np.int64)

    def move(self, rows: NDArray[np.int64], to: NDArray[np.int64]) -> int:
        """Put images into clusters; returns how many were elsewhere.

        Args:
            rows: (M,) different images, all of them in clusters.
            to: (M,) their clusters from now on, 0..K-1.
        """
        before = self.labels[rows]
        moved = before != to
        rows, to, before = rows[moved], np.asarray(to)[moved], before[moved]
        if len(rows):
            self._take(rows, before)
            self.labels[rows] = to
            self._put(rows, to)
        return len(rows)

    def _take(self, rows: NDArray[np.int64], cluster: NDArray[np.int32]) -> None:
        """Take images out: the last members of each cluster fill the holes."""
        order, ids, first, count = _grouped(cluster)
        hole = self._place[rows[order]]
        end = self._start[ids] + self.size[ids] - count              # of what stays of each cluster
        tail = _ranges(end, first, count)
        last = hole >= np.repeat(end, count)                          # they leave from the tail itself
        stays = np.ones(len(rows), bool)
        stays[(hole - np.repeat(end - first, count))[last]] = False
        hole, fill = hole[~last], self._pool[tail[stays]]
        self._pool[hole], self._place[fill] = fill, hole
        self.size[ids] -= count

    def _put(self, rows: NDArray[np.int64], cluster: NDArray[np.int64]) -> None:
        """Put images, whose labels are these already, behind the members of their clusters."""
        order, ids, first, count = _grouped(cluster)
        for c, size in zip(ids.tolist(), (self.size[ids] + count).tolist(), strict=True):
            if size > self._room[c]:
                room = 2 * size + _ROOM
                if self._used + room > len(self._pool):
                    self._lay_out()
                    return
                here, there, n = self._start[c], self._used, self.size[c]
                self._pool[there:there + n] = self._pool[here:here + n]
                self._place[self._pool[there:there + n]] = np.arange(there, there + n)
                self._start[c], self._room[c], self._used = there, room, there + room
        places = _ranges(self._start[ids] + self.size[ids], first, count)
        self._pool[places], self._place[rows[order]] = rows[order], places
        self.size[ids] += count


def _grouped(cluster: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.integer], NDArray[np.int64], NDArray[np.int64]]:
    """An order by cluster; the clusters, where each begins in that order, and how often it stands."""
    order = np.argsort(cluster, kind="stable")
    ids, first, count = np.unique(cluster[order], return_index=True, return_counts=True)
    return order, ids, first, count


def _ranges(start: NDArray[np.int64], first: NDArray[np.int64], count: NDArray[np.int64]) -> NDArray[np.int64]:
    """start, start + 1, ... of each group, ``count`` of them, one group after the other."""
    found: NDArray[np.int64] = np.repeat(start - first, count) + np.arange(int(count.sum()))
    return found

"""Rows that may be larger than memory: in an array, in an artifact's file, or in a temporary file without a name.

Whoever works on rows takes ``x[start:stop]`` in chunks of a fixed size and `gather` for single rows; a numpy array is one of
the things that can be so read.  What is computed is then the same, bit for bit, wherever the rows lie.  Files are read by
`pread`, not mapped: a file that goes away under a map kills the process without a word, and pages of a map count as the
process's memory.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ucl.errors import StorageError
from ucl.formats.atomic import explain, fill
from ucl.formats.digest import as_bytes
from ucl.formats.spool import spool_file

if TYPE_CHECKING:
    from ucl.formats.reader import Artifact


class Rows(Protocol):
    """(N, D) float32 numbers; a slice of rows is an array."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D)."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> NDArray[np.float32]: ...


class _Chunked:
    """What rows outside of memory share."""

    ndim = 2
    dtype = np.dtype(np.float32)

    def __init__(self, n: int, d: int) -> None:
        self.shape = (n, d)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: slice) -> NDArray[np.float32]:
        start, stop, step = part.indices(len(self))
        if step != 1:
            raise IndexError("rows are read in order")
        return self.read(start, max(start, stop))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype)

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows start to stop, an array of their own."""
        raise NotImplementedError

    def gather(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Rows of any numbers, in the order of ``index``; read in ascending order, neighbours at once."""
        out = np.empty((len(index), self.shape[1]), np.float32)
        order = np.argsort(index, kind="stable")
        wanted = np.asarray(index)[order]
        breaks = np.flatnonzero(np.diff(wanted) != 1) + 1
        for run in np.split(np.arange(len(wanted)), breaks):
            if len(run):
                out[order[run]] = self.read(int(wanted[run[0]]), int(wanted[run[-1]]) + 1)
        return out


class FileRows(_Chunked):
    """A dataset (N, D) of an artifact in a file, which stays open as long as they live; float16 becomes float32 as it is read."""

    def __init__(self, file: Artifact, path: str) -> None:
        n, d = file.shape(path)
        super().__init__(n, d)
        self._file, self._path = file, path
        weakref.finalize(self, file.close)

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        return np.ascontiguousarray(self._file.read_rows(self._path, start, stop), dtype=np.float32)


class SpooledRows(_Chunked):
    """Rows in a temporary file, writable by slices.

    Raises:
        StorageError: no room for them in the spool folder, or writing fails.
    """

    def __init__(self, n: int, d: int, what: str) -> None:
        super().__init__(n, d)
        self._what = what
        with spool_file(what, n * d * 4) as file:
            self._fd = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._fd)

    def __setitem__(self, part: slice, rows: NDArray[np.float32]) -> None:
        start, stop, _ = part.indices(len(self))
        data = np.ascontiguousarray(rows, np.float32)
        if data.shape != (stop - start, self.shape[1]):
            raise ValueError(f"rows {start} to {stop}: shape {data.shape}")
        view, at = as_bytes(data), start * self.shape[1] * 4
        try:
            while len(view):
                n = os.pwrite(self._fd, view[:1 << 30], at)
                view, at = view[n:], at + n
        except OSError as e:
            raise explain(e, "TMPDIR", f"spool {self._what}") from e

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        out = np.empty((stop - start, self.shape[1]), np.float32)
        view, at = as_bytes(out), start * self.shape[1] * 4
        try:
            if not fill(self._fd, view, at):
                raise StorageError(f"TMPDIR: {self._what}: the spool file has become shorter")
        except OSError as e:
            raise StorageError(f"TMPDIR: cannot read back {self._what}: {e.strerror}") from e
        return out


class PickedRows(_Chunked):
    """Some rows of others, in ascending order."""

    def __init__(self, rows: Rows, index: NDArray[np.int64]) -> None:
        super().__init__(len(index), rows.shape[1])
        self._rows, self._index = rows, index

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        index = self._index[start:stop]
        if not len(index):
            return np.empty((0, self.shape[1]), np.float32)
        first, last = int(index[0]), int(index[-1]) + 1
        if last - first > 2 * len(index):
            return gather(self._rows, index)
        return np.ascontiguousarray(self._rows[first:last][index - first])

    def gather(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        return gather(self._rows, self._index[index])


def picked(rows: Rows, index: NDArray[np.int64]) -> Rows:
    """The rows of ``index`` (ascending): the rows themselves if that is all, a copy of an array's, else read when asked for."""
    if len(index) == len(rows):
        return rows
    return rows[index] if isinstance(rows, np.ndarray) else PickedRows(rows, index)


def gather(rows: Rows, index: NDArray[np.int64]) -> NDArray[np.float32]:
    """Rows ``index`` (M,) in that order; (M, D) float32, a copy."""
    if isinstance(rows, _Chunked):
        return rows.gather(index)
    found: NDArray[np.float32] = np.asarray(rows)[index]
    return found


def columns(rows: Rows, part: slice, size: int) -> NDArray[np.float32]:
    """Columns ``part`` of all rows, read ``size`` rows at a time; (N, width) float32."""
    if isinstance(rows, np.ndarray):
        return rows[:, part]
    width = len(range(*part.indices(rows.shape[1])))
    out = np.empty((len(rows), width), np.float32)
    for chunk in chunks(len(rows), size):
        out[chunk] = rows[chunk][:, part]
    return out


def place(n: int, d: int, room: int, what: str) -> NDArray[np.float32] | SpooledRows:
    """Where n rows of d numbers can be put: memory if they fit into ``room`` bytes, else a temporary file."""
    return np.empty((n, d), np.float32) if 4 * n * d <= room else SpooledRows(n, d, what)


def chunks(n: int, size: int) -> Iterator[slice]:
    """Slices of at most ``size`` that cover 0..n-1 in order."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))

"""Squares of pixels while they are made: in memory while they are few, else in a temporary file without a name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ucl import decode
from ucl.formats.spool import Spool

IN_MEMORY = 256 << 20
"""Bytes of pixels that are kept in memory."""

NATIVE_LIMIT = 64
"""Square images up to this side are packed as they are."""

_BLOCK = 4 << 20


class Squares:
    """(N, S, S, 3) uint8, filled row by row.

    The side need not be known before: as long as every picture is a square of one side up to `NATIVE_LIMIT` and ``size``, pictures
    are kept as they are.  The first other one turns those kept so far into centre squares of ``size``, which are what
    decoding them again would give, so that no header has to be read twice.

    Args:
        n: number of rows.
        size: side of the centre squares.
        native: keep pictures as they are while they agree; else centre squares from the start.
        budget: most bytes that all squares may take; nothing is kept beyond.  None: any number.
        folder: where a temporary file goes; None: the system's place.

    Attributes:
        side: S; 0 while no picture has come.
        dropped: the squares exceed the budget, and none is kept.
    """

    def __init__(self, n: int, size: int, *, native: bool, budget: int | None = None, folder: Path | None = None) -> None:
        self.n, self.size, self.native = n, size, native
        self.budget, self.folder = budget, folder
        self.side = 0
        self.dropped = False
        self._rows = 0
        self._array: NDArray[np.uint8] | None = None
        self._file: Spool | None = None
        self._pending: list[NDArray[np.uint8]] = []

    def prepare(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], bool]:
        """What `put` is to be given of a picture (H, W, 3); workers may call it at any time.

        Returns:
            The picture and True if it may stay as it is, else its centre square and False.
        """
        if self.native and image.shape[0] == image.shape[1] <= min(NATIVE_LIMIT, self.size):
            return image, True
        return decode.square(image, self.size), False

    def put(self, square: NDArray[np.uint8] | None, as_it_is: bool = False) -> None:
        """The next row, as `prepare` gave it; None for zeros.

        Raises:
            StorageError: no room for the temporary file.
        """
        if square is not None and not self.dropped:
            if self.native and as_it_is and self.side in (0, square.shape[0]):
                self._begin(square.shape[0])
            elif self.native or not self.side:
                self.native = False
                self._begin(self.size)
            if not self.dropped:
                self._add(decode.square(square, self.side))
        elif self.side and not self.dropped:
            self._add(np.zeros((self.side, self.side, 3), np.uint8))
        self._rows += 1

    def array(self) -> NDArray[np.uint8] | None:
        """All rows, once all were put: in memory, or mapped; None if there are none to keep."""
        if self.dropped or not self.side:
            return None
        if self._file is None:
            return self._array
        self._flush()
        return self._file.mapped((self.n, self.side, self.side, 3))

    def blocks(self) -> Iterator[NDArray[np.uint8]]:
        """All rows a few at a time, read and not mapped, so that memory does not grow with them."""
        each = self.side * self.side * 3
        step = max(1, _BLOCK // max(each, 1))
        for start in range(0, self._rows, step):
            stop = min(start + step, self._rows)
            if self._file is None:
                assert self._array is not None
                yield self._array[start:stop]
            else:
                self._flush()
                data = os.pread(self._file.fileno(), (stop - start) * each, start * each)
                yield np.frombuffer(data, np.uint8).reshape(stop - start, self.side, self.side, 3)

    def _begin(self, side: int) -> None:
        """Go on with squares of ``side``, those put so far among them."""
        if side == self.side:
            return
        total = self.n * side * side * 3
        if self.budget is not None and total > self.budget:
            self.dropped = True
            self._array = self._file = None
            return
        before, had = self.blocks() if self.side else iter(()), bool(self.side)
        grown = Squares(self.n, side, native=False, folder=self.folder)
        grown.side = side
        if total <= IN_MEMORY:
            grown._array = np.zeros((self.n, side, side, 3), np.uint8)
        else:
            grown._file = Spool(self.folder)
        for block in before:
            for row in block:
                grown._add(decode.square(row, side))
                grown._rows += 1
        for _ in range(0 if had else self._rows):
            grown._add(np.zeros((side, side, 3), np.uint8))
            grown._rows += 1
        grown._flush()
        self.side, self._array, self._file = side, grown._array, grown._file

    def _add(self, square: NDArray[np.uint8]) -> None:
        if self._file is None:
            assert self._array is not None
            self._array[self._rows] = square
            return
        self._pending.append(square)
        if len(self._pending) * square.nbytes >= _BLOCK:
            self._flush()

    def _flush(self) -> None:
        if self._file is None or not self._pending:
            return
        self._file.write(np.stack(self._pending).data)
        self._pending = []

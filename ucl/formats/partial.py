"""A file whose finished rows outlive a kill.

`.NAME.partial` has the length and the layout of the file that it is going to be: the header, then rows as they come.  The
status of a row stays PENDING until the row's bytes are on disk, so whatever is not PENDING may be trusted.  Behind the end
lies a line of JSON, the *note*, which says what the rows belong to; it is cut off when the file takes its name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ucl.errors import Busy, DataError, OutputRefused, StorageError
from ucl.formats.atomic import _UNSUPPORTED, AtomicFile, _fsync, explain
from ucl.formats.digest import as_bytes
from ucl.formats.layout import STATUS
from ucl.formats.reader import FileArtifact
from ucl.formats.writer import ArtifactWriter

ROWS, MARKS = "/features", "/samples/status"
_NOTE_LIMIT = 1 << 16
_PENDING = STATUS["PENDING"]


class KeptRows(FileArtifact):
    """What an earlier process left in a partial file; ``fd`` is taken over.

    Attributes:
        note: what the rows belong to.
        status: (count,) uint8 of the finished rows, which are the first ones.

    Raises:
        DataError: not a partial file, or damaged.
    """

    def __init__(self, fd: int, name: str) -> None:
        super().__init__(fd, name, "ucl/features")
        try:
            self.note = self._read_note()
            marks = self.read(MARKS)
            pending = np.flatnonzero(marks == _PENDING)
            self.status: NDArray[np.uint8] = marks[: pending[0] if len(pending) else len(marks)].astype(np.uint8)
        except BaseException:
            self.close()
            raise

    def _read_note(self) -> dict[str, Any]:
        try:
            return dict(json.loads(os.pread(self._fd, _NOTE_LIMIT, self.declared or 0)))
        except (ValueError, TypeError) as e:
            raise DataError(f"{self.name}: no note behind its end: its writer did not come far") from e

    def _check_end(self) -> None:
        """It has none yet."""

    def blocks(self, count: int, batch: int) -> Iterator[NDArray[np.float32]]:
        """The first ``count`` rows, ``batch`` at a time."""
        for start in range(0, count, batch):
            yield np.ascontiguousarray(self.read_rows(ROWS, start, min(start + batch, count)), np.float32)


class PartialFile(AtomicFile):
    """An `AtomicFile` that is written under the name ``partial``, and stays there if its writer stops.

    Bytes come in order, through `write`, or rows alone, through `put`; after `lay_out` both may be marked as finished with
    `mark`.  Leaving the block with an exception keeps the file if there are finished rows, and removes it if not.

    Args:
        path: the file to make.  partial: its name until then.  force: replace an existing file.

    Attributes:
        EVERY: seconds between two marks of `tick`.
        kept: what an earlier process left there, or None.
        damage: why that cannot be used; empty if it can, or if there is nothing.

    Raises:
        Busy: another process holds it.  Otherwise as `AtomicFile`.
    """

    EVERY = 1.0

    def __init__(self, path: str | os.PathLike[str], partial: str | os.PathLike[str], force: bool = False) -> None:
        self.partial = Path(partial)
        self.kept: KeptRows | None = None
        self.damage = ""
        self._at = self._size = self._checked = self._from = 0
        self._rows = self._marked = self._row_bytes = self._n = self._rows_at = self._marks_at = 0
        self._note = b""
        self._last = time.monotonic()
        super().__init__(path, force)
        try:
            if os.fstat(self._fd).st_size:
                self.kept = KeptRows(os.dup(self._fd), str(self.partial))
        except DataError as e:
            self.damage = e.message
        except BaseException:
            self._tmp = None
            self._close()
            raise

    def _open(self, mode: int) -> int:
        while True:
            try:
                fd = os.open(self.partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
            except OSError as e:
                raise explain(e, str(self.partial)) from e
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as e:
                if e.errno in (errno.EAGAIN, errno.EACCES):
                    os.close(fd)
                    raise Busy(f"{self.partial}: another process is writing it", "wait for it") from e
            if self._is_mine(fd):
                self._tmp = self.partial
                return fd
            os.close(fd)  # its owner finished and renamed it between our opening and our lock

    def _is_mine(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), self.partial.stat(follow_symlinks=False))
        except FileNotFoundError:
            return False

    def reserve(self, nbytes: int) -> None:
        """Claims disk space, and gives the file its length; a file with rows has both.

        Raises:
            DataError: its length is another one.  StorageError: it does not fit.
        """
        self._size = nbytes
        if self.kept is not None:
            if self.kept.declared != nbytes:
                raise DataError(f"{self.partial}: {self.kept.declared} bytes, expected {nbytes}", f"rm {self.partial}")
            return
        super().reserve(nbytes)
        try:
            os.ftruncate(self._fd, nbytes)
        except OSError as e:
            raise explain(e, self.name, f"reserve {nbytes} bytes") from e

    def forget(self) -> None:
        """Start with an empty file, whatever was there."""
        if self.kept is not None:
            self.kept.close()
            self.kept = None
        self._at = self._checked = self._from = self._rows = self._marked = 0
        try:
            os.ftruncate(self._fd, 0)
        except OSError as e:
            raise explain(e, self.name) from e

    def writer(self, kind: str, attrs: Mapping[str, Any], specs: Mapping[str, Any], provenance: list[str],
               note: Mapping[str, Any]) -> ArtifactWriter:
        """A writer into this file.  With rows `kept` it is to be given those rows again, which are not written but counted into
        the checksums, and what comes before them must be the very bytes that are there.

        Args:
            kind, attrs, specs, provenance: as `ArtifactWriter`.  note: what the rows belong to.

        Raises:
            DataError: what is there begins otherwise.
        """
        if self.kept is not None:
            rows, count = self.kept.entry(ROWS), len(self.kept.status)
            self._from = rows.offset or 0
            self._checked = self._from + count * (rows.nbytes // max(1, rows.rows))
        made = ArtifactWriter(self, kind, attrs, specs, provenance)
        self._rows_at, nbytes = made.place(ROWS)
        self._marks_at, self._n = made.place(MARKS)
        self._row_bytes = nbytes // max(1, self._n)
        self._note = json.dumps(dict(note), sort_keys=True).encode()
        if self.kept is None:
            self._pwrite(b"\xff" * self._n, self._marks_at)
            self._sync()  # no note without marks, or unwritten marks would read as OK after a power failure
            self._pwrite(self._note, self._size)
        else:
            self._rows = self._marked = len(self.kept.status)
        return made

    @property
    def rows(self) -> int:
        """Number of rows, from the first one, that are written."""
        if not self._row_bytes:
            return 0
        return max(self._rows, min(self._n, (self._at - self._rows_at) // self._row_bytes))

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Writes all of ``data`` behind what was written before."""
        view = memoryview(data).cast("B")
        total = len(view)
        while len(view) and self._at < self._checked:
            head = self._at < self._from
            part = view[: (self._from if head else self._checked) - self._at]
            if head and os.pread(self._fd, len(part), self._at) != part:
                raise DataError(f"{self.partial}: begins otherwise than what is written now, in the {len(part)} bytes from {self._at}",
                                f"rm {self.partial}")
            self._at += len(part)
            view = view[len(part):]
        self._pwrite(view, self._at)
        self._at += len(view)
        return total

    def put(self, start: int, rows: NDArray[np.float32]) -> None:
        """Rows from number ``start`` on, which must not be beyond the first row that is missing."""
        self._pwrite(as_bytes(np.ascontiguousarray(rows)), self._rows_at + start * self._row_bytes)
        self._rows = max(self._rows, start + len(rows))

    def _pwrite(self, data: bytes | memoryview, at: int) -> None:
        view = memoryview(data).cast("B")
        try:
            while len(view):
                n = os.pwrite(self._fd, view, at)
                view, at = view[n:], at + n
        except OSError as e:
            raise explain(e, self.name) from e

    def mark(self, status: NDArray[np.uint8]) -> None:
        """Make the rows that are written durable, then say so.

        Args:
            status: (N,) uint8, final for these rows.
        """
        rows = self.rows
        if rows <= self._marked:
            return
        self._sync()
        self._pwrite(status[self._marked:rows].tobytes(), self._marks_at + self._marked)
        self._marked = rows

    def tick(self, status: NDArray[np.uint8]) -> None:
        """`mark`, if the last one was a while ago."""
        if time.monotonic() - self._last >= self.EVERY:
            self.mark(status)
            self._last = time.monotonic()

    def _sync(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError as e:
            if e.errno not in _UNSUPPORTED:
                raise explain(e, str(self.partial), "sync") from e

    def commit(self) -> None:
        """Makes the file durable and gives it its name.

        Raises:
            OutputRefused: the partial file is another one now.  Otherwise as `AtomicFile`; the rows are kept then.
        """
        try:
            _fsync(self._fd, self.name)
            if not self._is_mine(self._fd):
                raise OutputRefused(f"{self.partial}: another process replaced it", "run the same line again")
        except BaseException:
            self.discard()
            raise
        os.lseek(self._fd, self._at, os.SEEK_SET)
        self._reserved = self._at + len(self._note)
        super().commit()

    def discard(self) -> None:
        """Keeps what is finished; leaves nothing if nothing is."""
        if self._closed:
            return
        if not self._is_mine(self._fd):
            self._tmp = None
        elif self._marked or self.kept is not None:
            self._tmp = None
            if self._note:
                with contextlib.suppress(StorageError):
                    self._pwrite(self._note, self._size)  # a commit that failed has cut it off
        super().discard()

    def _close(self) -> None:
        if self.kept is not None:
            self.kept.close()
            self.kept = None
        super()._close()

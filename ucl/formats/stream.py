"""An artifact that comes through a pipe: rows as they arrive, checked to the last byte."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ucl.errors import DataError, StorageError
from ucl.formats.atomic import explain
from ucl.formats.digest import BlockCrc, as_bytes
from ucl.formats.layout import CRC_BLOCK, END_MARK
from ucl.formats.reader import (
    SIGNATURE,
    Artifact,
    FileArtifact,
    declared_size,
    empty,
    not_hdf5,
)
from ucl.formats.safe_open import H5_ERRORS, Entry, open_fileobj, scan
from ucl.formats.spool import spool_file

MAX_HEADER = 16 << 20
KEEP = 64 << 20
_STEP = 1 << 20
_PIPE_SIZE = 1 << 20
_UPSTREAM = "look at the messages of the command before the pipe"


class PrefixFile:
    """The first bytes of a file; the rest reads as zeros, which no checksum accepts."""

    def __init__(self, head: bytes | bytearray, size: int) -> None:
        self.head, self.size, self.at = head, size, 0

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset + (0, self.at, self.size)[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        part = self.head[self.at : self.at + len(view)]
        view[: len(part)] = part
        view[len(part) :] = bytes(len(view) - len(part))
        self.at += len(view)
        return len(view)

    def flush(self) -> None:
        """Read only."""


def _read_some(fd: int, view: memoryview, name: str) -> int:
    """What there is of the next bytes; 0 at the end."""
    try:
        while True:
            try:
                return os.readv(fd, [view])
            except BlockingIOError:
                select.select([fd], [], [])
    except OSError as e:
        raise StorageError(f"{name}: cannot read: {e.strerror}") from e


def _read_up_to(fd: int, n: int, name: str) -> bytearray:
    out = bytearray(n)
    got = 0
    while got < n:
        k = _read_some(fd, memoryview(out)[got:], name)
        if not k:
            break
        got += k
    return out[:got]


def cut_short(name: str, got: int, total: int | None) -> DataError:
    """The error for a stream that ends too early."""
    of = f" of {total}" if total else ""
    return DataError(f"{name}: stream ends after {got}{of} bytes: the producer did not finish",
                     _UPSTREAM)  # fmt: skip


def open_stream(
    fd: int, name: str, expect: str | tuple[str, ...] | None, tmpdir: str | os.PathLike[str] | None
) -> Artifact:
    """An artifact from a descriptor that cannot seek; `fd` is taken over. As `open_artifact`."""
    try:
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        buf = _read_up_to(fd, 48, name)
        if not buf:
            raise DataError(f"{name}: empty: the producer wrote nothing", _UPSTREAM)
        if not buf.startswith(SIGNATURE[: len(buf)]):
            raise not_hdf5(name, bytes(buf))
        total = declared_size(bytes(buf))
        if len(buf) < 48:
            raise cut_short(name, len(buf), total)
        if buf[8] in (2, 3) and total is not None:
            parsed = _parse_header(fd, buf, total, name)
            if parsed is not None and _can_stream(parsed[1], total):
                return StreamArtifact(fd, buf, total, name, parsed, expect)
        spooled = _spool(fd, buf, total, name, tmpdir)
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(fd)
        raise
    os.close(fd)
    return FileArtifact(spooled, name, expect)


def _parse_header(
    fd: int, buf: bytearray, total: int, name: str
) -> tuple[dict[str, Any], list[Entry]] | None:
    """Reads on until libhdf5 understands the header; None if it does not within 16 MiB."""
    if total < len(buf):
        raise DataError(f"{name}: damaged HDF5: says it is {total} bytes long", _UPSTREAM)
    want = 4096
    while True:
        want = min(want, total)
        buf += _read_up_to(fd, want - len(buf), name)
        if len(buf) < want:
            raise cut_short(name, len(buf), total)
        fid = None
        view = PrefixFile(buf, total)
        try:
            fid = open_fileobj(view)
            return scan(fid, total, name)
        except H5_ERRORS:
            if want >= min(total, MAX_HEADER):
                return None
        finally:
            if fid is not None:
                fid.close()
        want *= 2


def _can_stream(entries: Sequence[Entry], total: int) -> bool:
    """Whether the rows can be taken as they come, and the end be verified."""
    have = {e.path: e for e in entries}
    if not all(f"/integrity/{n}" in have for n in ("crc32", "content_sha256", "end")):
        return False
    if any(e.stored is None or (e.offset is None and e.nbytes) for e in entries):
        return False
    pos = 0
    for e in sorted((e for e in entries if e.nbytes), key=lambda e: e.offset or 0):
        if e.offset is None or e.offset < pos:
            return False
        pos = e.offset + e.nbytes
    end = have["/integrity/end"]
    return pos == total and (end.offset or 0) + end.nbytes == total


def _spool(
    fd: int, buf: bytearray, total: int | None, name: str, tmpdir: str | os.PathLike[str] | None
) -> int:
    """Copies the stream into a file without a name."""
    folder = os.fspath(tmpdir) if tmpdir is not None else tempfile.gettempdir()
    got = 0
    try:
        with spool_file(name, total, tmpdir) as f:
            part: bytearray | memoryview = buf
            scratch = memoryview(bytearray(_STEP))
            while len(part):
                f.write(part)
                got += len(part)
                if total is not None and got > total:
                    raise DataError(f"{name}: bytes after the end of the HDF5 stream", _UPSTREAM)
                part = scratch[: _read_some(fd, scratch, name)]
            f.flush()
            if total is not None and got < total:
                raise cut_short(name, got, total)
            return os.dup(f.fileno())
    except OSError as e:
        raise explain(e, folder, f"spool {name}") from e


class StreamArtifact(Artifact):
    """Datasets in the order in which they come.

    `read` and `rows` keep what they pass over.  A dataset handed out by `rows` is not kept and has
    gone by.  After the largest dataset the rest is read at once and the end verified; so it is on
    leaving the `with` block.
    """

    streaming = True

    def __init__(
        self, fd: int, head: bytearray, total: int, name: str,
        parsed: tuple[dict[str, Any], list[Entry]], expect: str | tuple[str, ...] | None,
    ) -> None:  # fmt: skip
        super().__init__(name, parsed[0], parsed[1], expect)
        self._fd, self._head, self.total = fd, head, total
        covers = self._entries["/integrity/crc32"].offset or 0
        self._crc = BlockCrc(covers)
        self._pos = 0
        self._kept: dict[str, NDArray[Any]] = {}
        self._gone: set[str] = set()
        self._ended = False
        self._queue: list[Entry] = []
        for e in self._entries.values():
            if e.nbytes:
                self._queue.append(e)
            else:
                self._kept[e.path] = np.empty(e.shape, e.dtype)
        self._queue.sort(key=lambda e: e.offset or 0)
        self._largest = max(self._queue, key=lambda e: e.nbytes).path

    @property
    def position(self) -> int:
        """Bytes taken so far."""
        return self._pos

    def _fill(self, view: memoryview) -> None:
        """The next bytes of the stream."""
        while len(view):
            if self._pos < len(self._head):
                n = min(len(self._head) - self._pos, len(view))
                view[:n] = self._head[self._pos : self._pos + n]
            else:
                n = _read_some(self._fd, view[:_STEP], self.name)
                if not n:
                    raise cut_short(self.name, self._pos, self.total)
            self._crc.update(view[:n])
            self._pos += n
            view = view[n:]

    def _skip_to(self, offset: int) -> None:
        scratch = memoryview(bytearray(min(_STEP, max(0, offset - self._pos))))
        while self._pos < offset:
            self._fill(scratch[: offset - self._pos])

    def _take(self, e: Entry, start: int, stop: int) -> NDArray[Any]:
        """Rows of the dataset whose turn it is."""
        if e.stored is None or e.offset is None:
            raise ValueError(f"{e.path} cannot be streamed")
        self._skip_to(e.offset + start * (e.nbytes // e.rows))
        stored = np.dtype("u1") if e.stored.kind == "b" else e.stored
        out = empty(self.name, e, (stop - start, *e.shape[1:]) if e.shape else (), stored)
        self._fill(as_bytes(out))
        return self._convert(e, out)

    def _advance(self, path: str) -> None:
        """Keeps everything before `path`; it is then first in the queue."""
        if path in self._gone:
            raise ValueError(f"{self.name}: {path} has gone by; read it before the rows after it")
        while self._queue[0].path != path:
            e = self._queue.pop(0)
            if e.path not in self._gone:
                self._kept[e.path] = self._take(e, 0, e.rows)

    def read(self, path: str) -> NDArray[Any]:
        self.entry(path)
        if path not in self._kept:
            self._advance(path)
            e = self._queue.pop(0)
            self._kept[path] = self._take(e, 0, e.rows)
            if path == self._largest:
                self.drain()
        return self._kept[path]

    def read_rows(self, path: str, start: int, stop: int) -> NDArray[Any]:
        return self.read(path)[start:stop]

    def rows(self, path: str, batch: int = 4096) -> Iterator[NDArray[Any]]:
        e = self.entry(path)
        if path in self._kept:
            for start in range(0, e.rows, batch):
                yield self._kept[path][start : start + batch]
            return
        self._advance(path)
        self._gone.add(path)
        for start in range(0, e.rows, batch):
            yield self._take(e, start, min(e.rows, start + batch))
        self._queue.pop(0)
        if path == self._largest:
            self.drain()

    @property
    def digest(self) -> str:
        self.drain()
        return super().digest

    def drain(self) -> None:
        """Reads to the end, keeping what is small, and verifies it.

        Raises:
            DataError: cut short, damaged, or not at its end where it should be.
        """
        if self._ended:
            return
        while self._queue:
            e = self._queue.pop(0)
            if e.path in self._gone:
                continue
            if e.nbytes <= KEEP:
                self._kept[e.path] = self._take(e, 0, e.rows)
            else:
                self._gone.add(e.path)
        self._skip_to(self.total)
        if _read_some(self._fd, memoryview(bytearray(1)), self.name):
            raise DataError(f"{self.name}: bytes after the end of the HDF5 stream",
                            "one artifact per pipe")  # fmt: skip
        self._ended = True
        self._verify()

    def _verify(self) -> None:
        if self._kept["/integrity/end"].tolist() != [END_MARK.encode()]:
            raise cut_short(self.name, self._pos, self.total)
        found, stored = self._crc.array(), self._kept["/integrity/crc32"]
        if found.shape != stored.shape:
            raise DataError(f"{self.name}: /integrity/crc32: {len(stored)} values, "
                            f"wanted {len(found)}")  # fmt: skip
        bad = np.flatnonzero(found != stored)
        if len(bad):
            raise DataError(
                f"{self.name}: damaged on the way: checksum of MiB {bad[0]} differs "
                f"(bytes {bad[0] * CRC_BLOCK} to {(bad[0] + 1) * CRC_BLOCK})",
                "run it again; check memory, disk and network",
            )

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

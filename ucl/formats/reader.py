"""Reads an artifact from a path, a file descriptor or a pipe.

Whatever the source, the caller sees an `Artifact`: header first (kind, attributes, shapes), then
rows.  From a file the header goes through libhdf5, after `safe_open` has looked at every object,
and rows through `pread`.  From a pipe the header is parsed as soon as it is there and rows are
handed on as they come; what cannot be read that way, because somebody else wrote it, is copied to a
temporary file without a name first.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ucl.errors import DataError, InputMissing, NotPermitted, StorageError
from ucl.formats._h5 import h5d, h5py
from ucl.formats.atomic import fill
from ucl.formats.check import identify, validate
from ucl.formats.digest import DatasetHash, as_bytes, combine, is_content
from ucl.formats.layout import END_MARK, PROFILE
from ucl.formats.safe_open import H5_ERRORS, Entry, open_fileobj, scan
from ucl.formats.types import cast

__all__ = ["Artifact", "hdf5_version", "open_artifact", "validate"]

SIGNATURE = b"\x89HDF\r\n\x1a\n"
AGAIN = "the writer or the copy did not finish: make the file again"
_MAGIC = {
    b"\x1f\x8b": "gzip data (zcat it)", b"\x89PNG": "a PNG image", b"\xff\xd8\xff": "a JPEG image",
    b"PK\x03\x04": "a zip archive, perhaps a PyTorch checkpoint (ucl import)",
    b"\x93NUMPY": "a NumPy array (.npy)", b"\x28\xb5\x2f\xfd": "zstd data", b"\x80\x02": "a pickle",
    b"\x80\x04": "a pickle", b"BZh": "bzip2 data", b"\xfd7zXZ": "xz data",
}  # fmt: skip


def hdf5_version() -> str:
    """Version of the HDF5 library in use."""
    return str(h5py.version.hdf5_version)


def looks_like(head: bytes) -> str:
    """What a file that is not HDF5 seems to be."""
    for magic, what in _MAGIC.items():
        if head.startswith(magic):
            return what
    if not head.strip(b"\0"):
        return "zeros"
    with contextlib.suppress(UnicodeDecodeError):
        text = head.decode().splitlines()[0][:40]
        if text.isprintable():
            return f"text: {text!r}"
    return f"bytes {head[:8].hex(' ')}"


def not_hdf5(name: str, head: bytes) -> DataError:
    """The error for a file or stream with another signature."""
    return DataError(f"{name}: not HDF5: begins like {looks_like(head)}",
                     "give a file or stream that ucl wrote")  # fmt: skip


def declared_size(head: bytes) -> int | None:
    """Length of the file according to its superblock; None if it does not say."""
    if len(head) < 48 or not head.startswith(SIGNATURE):
        return None
    where = {0: (24, 40), 1: (28, 44), 2: (12, 28), 3: (12, 28)}.get(head[8])
    width = head[13] if head[8] < 2 else head[9]
    if where is None or width != 8 or len(head) < where[1] + 8:
        return None
    base, end = (struct.unpack_from("<Q", head, at)[0] for at in where)
    return int(base + end)


def empty(name: str, e: Entry, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Memory for some rows.

    Raises:
        StorageError: there is not enough.
    """
    try:
        return np.empty(shape, dtype)
    except (MemoryError, ValueError) as err:
        raise StorageError(f"{name}: {e.path}: {e.nbytes} bytes do not fit into memory") from err


class Artifact:
    """One open artifact; a context manager.

    Attributes:
        kind: `ucl/features`, `ucl/labels`, ...
        attrs: root attributes, decoded; None where the value is never read (variable-length).
        name: for messages.
        names: paths of the datasets in file order, without `/provenance` and `/integrity`.
        foreign: written by something else than ucl.
        streaming: comes through a pipe; datasets go by once, in file order.
    """

    streaming = False

    def __init__(
        self, name: str, attrs: dict[str, Any], entries: Sequence[Entry],
        expect: str | tuple[str, ...] | None,
    ) -> None:  # fmt: skip
        self.name = name
        self.attrs = attrs
        self.foreign = not isinstance(attrs.get("encoding-type"), str)
        self.kind = identify(name, attrs, entries, expect)
        ordered = sorted(entries, key=lambda e: (e.offset or 0, e.path))
        self._entries = {e.path: e for e in ordered}
        self.names: tuple[str, ...] = tuple(p for p in self._entries if is_content(p))

    def __contains__(self, path: str) -> bool:
        return path in self._entries

    def entry(self, path: str) -> Entry:
        """The header's view of a dataset.

        Raises:
            DataError: there is none.
        """
        try:
            return self._entries[path]
        except KeyError:
            have = " ".join(self.names[:12])
            raise DataError(f"{self.name}: no dataset {path}: found {have}") from None

    def shape(self, path: str) -> tuple[int, ...]:
        """Shape of a dataset."""
        return self.entry(path).shape

    def dtype(self, path: str) -> np.dtype[Any]:
        """dtype of what `read` returns."""
        return self.entry(path).dtype

    def dataset_attrs(self, path: str) -> dict[str, Any]:
        """Attributes of a dataset."""
        return self.entry(path).attrs

    def read(self, path: str) -> NDArray[Any]:
        """A whole dataset; strings as `S` arrays of UTF-8.

        Raises:
            DataError: truncated or damaged.
        """
        e = self.entry(path)
        return self.read_rows(path, 0, e.rows)

    def read_rows(self, path: str, start: int, stop: int) -> NDArray[Any]:
        """Rows start to stop; as `read`."""
        raise NotImplementedError

    def rows(self, path: str, batch: int = 4096) -> Iterator[NDArray[Any]]:
        """The dataset in batches of (at most) `batch` rows."""
        n = self.entry(path).rows
        for start in range(0, n, batch):
            yield self.read_rows(path, start, min(n, start + batch))

    def strings(self, path: str) -> list[str]:
        """A dataset of strings, decoded.

        Raises:
            DataError: not UTF-8.
        """
        try:
            return [s.decode() for s in self.read(path).ravel().tolist()]
        except UnicodeDecodeError as e:
            raise DataError(f"{self.name}: {path}: not UTF-8: {e.object[:60]!r}") from e

    @property
    def provenance(self) -> list[str]:
        """JSON texts, oldest first; empty if there are none."""
        return self.strings("/provenance") if "/provenance" in self else []

    @property
    def digest(self) -> str:
        """The content digest: the stored one, or computed where there is none."""
        if "/integrity/content_sha256" in self:
            return bytes(self.read("/integrity/content_sha256").tobytes()).hex()
        return self.compute_digest()

    def compute_digest(self) -> str:
        """The content digest of the datasets as they are now; reads everything."""
        hashes = {}
        for path in self.names:
            e = self.entry(path)
            h = DatasetHash(path, e.dtype, e.shape, e.attrs)
            step = max(1, (4 << 20) * e.rows // max(1, e.nbytes))
            for rows in self.rows(path, step):
                h.update(np.ascontiguousarray(rows))
            hashes[path] = h.hexdigest()
        return combine(self.kind, self.attrs, hashes)

    def drain(self) -> None:
        """From a pipe: reads to the end and verifies it. From a file: nothing to do."""

    def close(self) -> None:
        """Lets go of the source."""

    def __enter__(self) -> Artifact:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.drain()
        finally:
            self.close()

    def _convert(self, e: Entry, raw: NDArray[Any]) -> NDArray[Any]:
        """Stored values as they are handed out."""
        if e.dtype.kind == "b" and raw.dtype.kind != "b":
            return np.asarray(raw != 0)
        if raw.dtype == e.dtype:
            return raw
        if e.dtype.kind == "S":
            return raw.astype(e.dtype)
        try:
            return cast(e.path, raw, e.dtype)
        except DataError as err:
            raise DataError(f"{self.name}: {err.message}", err.hint) from err


class FileView:
    """What libhdf5 needs of a Python file, over `pread`: position-free, no buffering."""

    def __init__(self, fd: int, size: int) -> None:
        self.fd, self.size, self.at = fd, size, 0

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset + (0, self.at, self.size)[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        n = os.preadv(self.fd, [view], self.at)
        if n < len(view):
            view[n:] = bytes(len(view) - n)
        self.at += len(view)
        return len(view)

    def flush(self) -> None:
        """Read only."""


class FileArtifact(Artifact):
    """An artifact in a seekable file; `fd` is taken over."""

    def __init__(self, fd: int, name: str, expect: str | tuple[str, ...] | None) -> None:
        self._fd = fd
        self._fid: Any = None
        try:
            self.size = os.fstat(fd).st_size
            attrs, entries = self._header(name)
            super().__init__(name, attrs, entries, expect)
            self._check_end()
        except BaseException:
            self.close()
            raise

    def _header(self, name: str) -> tuple[dict[str, Any], list[Entry]]:
        head = os.pread(self._fd, 64, 0)
        if not head:
            raise DataError(f"{name}: empty: 0 bytes, wanted HDF5", AGAIN)
        if not head.startswith(SIGNATURE[: len(head)]):
            raise not_hdf5(name, head)
        self.declared = declared_size(head)
        if len(head) < 48 or (self.declared or 0) > self.size:
            raise DataError(
                f"{name}: truncated: ends after {self.size} of {self.declared or '?'} bytes", AGAIN
            )
        self._view = FileView(self._fd, self.size)
        try:
            self._fid = open_fileobj(self._view)
            return scan(self._fid, self.size, name)
        except H5_ERRORS as e:
            raise DataError(f"{name}: damaged HDF5: {str(e)[:160]}", AGAIN) from e

    def _check_end(self) -> None:
        if self.attrs.get("profile") != PROFILE or self.foreign:
            return
        if self.declared is not None and self.size > self.declared:
            extra = self.size - self.declared
            raise DataError(f"{self.name}: {extra} bytes after the end of the HDF5 data",
                            "one artifact per file; nothing may be appended")  # fmt: skip
        if "/integrity/end" not in self or self.read("/integrity/end").tolist() != [
            END_MARK.encode()
        ]:
            raise DataError(f"{self.name}: no end mark: the writer did not finish", AGAIN)

    @property
    def modified(self) -> bool:
        """Whether something was added after ucl had finished the file."""
        end = self._entries.get("/integrity/end")
        return end is not None and (end.offset or 0) + end.nbytes != self.size

    @property
    def digest(self) -> str:
        return self.compute_digest() if self.modified else super().digest

    def read_rows(self, path: str, start: int, stop: int) -> NDArray[Any]:
        e = self.entry(path)
        start, stop = max(0, start), min(stop, e.rows)
        shape = (max(0, stop - start), *e.shape[1:]) if e.shape else ()
        if e.stored is None or (e.offset is None and e.nbytes):
            return self._convert(e, self._through_hdf5(e, start, stop))
        stored = np.dtype("u1") if e.stored.kind == "b" else e.stored
        out = empty(self.name, e, shape, stored)
        if out.size and e.offset is not None:
            self._pread(as_bytes(out), e.offset + start * (e.nbytes // e.rows))
        return self._convert(e, out)

    def _through_hdf5(self, e: Entry, start: int, stop: int) -> NDArray[Any]:
        try:
            data = h5py.Dataset(h5d.open(self._fid, e.source.encode()))
            return np.asarray(data[start:stop] if e.shape else data[()])
        except H5_ERRORS as err:
            raise DataError(f"{self.name}: {e.path}: damaged: {str(err)[:160]}", AGAIN) from err

    def _pread(self, view: memoryview, offset: int) -> None:
        try:
            whole = fill(self._fd, view, offset)
        except OSError as e:
            raise StorageError(f"{self.name}: cannot read: {e.strerror}") from e
        if not whole:
            raise DataError(f"{self.name}: truncated while it was read", AGAIN)

    def each_block(self, feed: Callable[[memoryview], None], stop: int) -> None:
        """Calls `feed` with the file's bytes from 0 to `stop`, a MiB at a time."""
        scratch = memoryview(bytearray(1 << 20))
        for at in range(0, stop, 1 << 20):
            part = scratch[: min(1 << 20, stop - at)]
            self._pread(part, at)
            feed(part)

    def mapped(self, path: str) -> NDArray[Any]:
        """A read-only memory map of a dataset for random rows; `read` where there can be none."""
        e = self.entry(path)
        if e.stored is None or e.offset is None or e.stored != e.dtype or not e.nbytes:
            return self.read(path)
        with open(self._fd, "rb", closefd=False) as f:
            return np.memmap(f, e.stored, "r", e.offset, e.shape)

    def close(self) -> None:
        if self._fid is not None:
            with contextlib.suppress(Exception):
                self._fid.close()
            self._fid = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def open_artifact(
    source: str | os.PathLike[str] | int,
    expect: str | tuple[str, ...] | None = None,
    *,
    name: str = "",
    tmpdir: str | os.PathLike[str] | None = None,
) -> Artifact:
    """Opens an artifact.

    Args:
        source: path, or file descriptor (0 is standard input; it is not closed).
        expect: the kind, or kinds, that will do.
        name: for messages; the path, or `stdin`.
        tmpdir: where a foreign stream is spooled; default TMPDIR.

    Returns:
        An `Artifact`, whose header has been checked against the schema.

    Raises:
        DataError: empty, truncated, damaged, not HDF5, unsafe, another kind, another MAJOR version.
        InputMissing: no such file.
        NotPermitted: it may not be read.
        StorageError: reading failed, or no room to spool.
    """
    if isinstance(source, int):
        fd, name = os.dup(source), name or ("stdin" if source == 0 else f"fd {source}")
    else:
        name = name or os.fspath(source)
        fd = _open(source, name)
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            raise DataError(f"{name}: is a folder, wanted an HDF5 file", f"ls {name}/*.h5")
    except BaseException:
        os.close(fd)
        raise
    if stat.S_ISREG(mode):
        return FileArtifact(fd, name, expect)
    from ucl.formats.stream import open_stream

    return open_stream(fd, name, expect, tmpdir)


def _open(path: str | os.PathLike[str], name: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as e:
        if e.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENXIO):
            raise InputMissing(f"{name}: no such file", "look at the path") from e
        if e.errno in (errno.EACCES, errno.EPERM):
            raise NotPermitted(f"{name}: cannot read: {e.strerror}", f"ls -l {name}") from e
        raise StorageError(f"{name}: cannot open: {e.strerror}") from e

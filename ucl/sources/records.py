"""Rows as bytes, and bytes as pictures: files of their own, or records inside larger files.

An archive, a release such as CIFAR-10's batches and a packed images.h5 are larger files that hold one record per
row; a record is read by its offset, whole, and nothing around it is looked at.  No torch in this module.
"""

# Paths are bytes here, since names need not be UTF-8, and pathlib knows only str.
# ruff: noqa: PTH118
from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ucl import decode
from ucl.errors import DataError
from ucl.formats.spool import Spool

if TYPE_CHECKING:
    from ucl.formats.reader import Artifact

IMAGE = "image"
"""Form of a record that is an image file."""

RAW = ("planes", "columns", "pixels")
"""Forms of raw pictures, written with their side as ``planes:32``: three planes of rows; three planes of columns; rows of
RGB triples."""

_OPEN_FILES = 64  # descriptors kept; beyond that a file is opened for each record
_LARGEST_SIDE = 1 << 15


@dataclass(frozen=True)
class Records:
    """Where the rows of a list begin inside larger files.

    Attributes:
        form: how a record becomes a picture, `IMAGE` or one of `RAW` with its side.
        files: paths of the larger files below the list's root; ``b"."`` is the root itself.  In a MATLAB file offsets
            count within the data of its variable X.
        file: (N,) i4, index into ``files``.
        offset: (N,) i8, first byte of each record.
        length: (N,) i8, bytes of each record; 0 where there is none.
        spool: the only file, unpacked to a temporary one without a name, or None.
    """

    form: str
    files: tuple[bytes, ...]
    file: NDArray[np.int32]
    offset: NDArray[np.int64]
    length: NDArray[np.int64]
    spool: Spool | None = field(default=None, compare=False)

    def take(self, rows: NDArray[np.int64]) -> Records:
        """The same files with some of the rows."""
        return Records(self.form, self.files, self.file[rows], self.offset[rows], self.length[rows], self.spool)


def side_of(form: str) -> int | None:
    """Side of the raw pictures of a form; None for image files.

    Raises:
        DataError: no form that this program knows.
    """
    name, _, side = form.partition(":")
    if form == IMAGE:
        return None
    if name not in RAW or not side.isdecimal() or not 0 < int(side) <= _LARGEST_SIDE:
        raise DataError(f"records of form {form[:40]!r}: found no such form, wanted {IMAGE} or one of {', '.join(RAW)} with a side",
                        "a newer ucl may have written the list")
    return int(side)


def picture(form: str, data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    """A record as (H, W, 3) uint8 RGB, upright.

    Raises:
        decode.Undecodable: a damaged image file, a raw record of another length, or more than ``max_pixels``.
    """
    side = side_of(form)
    if side is None:
        return decode.decode(data, max_pixels=max_pixels)
    if side * side > max_pixels:
        raise decode.Undecodable(decode.TOO_LARGE, f"{side} x {side} pixels, more than {max_pixels}")
    if len(data) != side * side * 3:
        raise decode.Undecodable(decode.UNREADABLE, f"found {len(data)} bytes, wanted {side * side * 3}")
    flat = np.frombuffer(data, np.uint8)
    if form.startswith("pixels"):
        return flat.reshape(side, side, 3).copy()
    planes = flat.reshape(3, side, side)
    return np.ascontiguousarray(planes.transpose(1, 2, 0) if form.startswith("planes") else planes.transpose(2, 1, 0))


class Reader:
    """Reads the bytes of rows; may be used by several threads.

    Args:
        root: what the paths are relative to.
        paths: stored path of every row.
        escaped: the paths are percent-encoded.
        records: where the rows lie; None for files of their own.
    """

    def __init__(self, root: str, paths: Sequence[bytes] | NDArray[np.bytes_], escaped: bool, records: Records | None) -> None:
        self.root, self.paths, self.escaped, self.records = root, paths, escaped, records
        self._fds: dict[int, int] = {}
        self._matlab: dict[int, NDArray[np.uint8]] = {}
        self._lock = threading.Lock()

    @property
    def form(self) -> str:
        """How the bytes become a picture."""
        return IMAGE if self.records is None else self.records.form

    def length(self, row: int) -> int:
        """Bytes of a row, from a list or from stat(2); 0 where it cannot be said."""
        if self.records is not None:
            return int(self.records.length[row])
        try:
            return decode.file_size(decode.full_path(self.root, bytes(self.paths[row]), self.escaped))
        except decode.Undecodable:
            return 0

    def read(self, row: int) -> bytes:
        """The bytes of a row.

        Raises:
            decode.Undecodable: with status MISSING, UNREADABLE or TOO_LARGE.
        """
        if self.records is None:
            return decode.read_file(decode.full_path(self.root, bytes(self.paths[row]), self.escaped))
        number, offset, length = int(self.records.file[row]), int(self.records.offset[row]), int(self.records.length[row])
        if not 0 <= number < len(self.records.files) or offset < 0 or length < 0:
            raise decode.Undecodable(decode.UNREADABLE, "the list names a place that no file has")
        if length > decode.MAX_FILE_BYTES:
            raise decode.Undecodable(decode.TOO_LARGE, f"the record has {length} bytes, more than {decode.MAX_FILE_BYTES}")
        if self.records.files[number].endswith(b".mat"):
            return self._variable(number)[offset:offset + length].tobytes()
        data = self._pread(number, offset, length)
        if len(data) < length:
            raise decode.Undecodable(decode.UNREADABLE, f"the file ends after {offset + len(data)} bytes, wanted {offset + length}")
        return data

    def picture(self, data: bytes, max_pixels: int) -> NDArray[np.uint8]:
        """See `picture`."""
        return picture(self.form, data, max_pixels)

    def close(self) -> None:
        """Lets go of the files."""
        with self._lock:
            for fd in self._fds.values():
                os.close(fd)
            self._fds.clear()
            self._matlab.clear()

    def __del__(self) -> None:
        self.close()

    def _place(self, number: int) -> bytes:
        """Path of a larger file.

        Raises:
            DataError: the list names one outside of its root.
        """
        assert self.records is not None
        name = self.records.files[number]
        if name == b".":
            return os.fsencode(self.root)
        decode.check_path(name)
        return os.path.join(os.fsencode(self.root), name)

    def _pread(self, number: int, offset: int, length: int) -> bytes:
        assert self.records is not None
        if self.records.spool is not None:
            return _pread(self.records.spool.fileno(), offset, length)
        keep = len(self.records.files) <= _OPEN_FILES
        with self._lock:
            fd = self._fds.get(number)
            if fd is None:
                fd = decode.open_file(self._place(number))
                if keep:
                    self._fds[number] = fd
        try:
            return _pread(fd, offset, length)
        finally:
            if not keep:
                os.close(fd)

    def _variable(self, number: int) -> NDArray[np.uint8]:
        """The data of X in a MATLAB file, in the order of the file."""
        from ucl.sources.matlab import pictures

        with self._lock:
            if number not in self._matlab:
                path = self._place(number)
                decode.file_size(path)
                self._matlab[number] = pictures(os.fsdecode(path))
            return self._matlab[number]


def _pread(fd: int, offset: int, length: int) -> bytes:
    """Up to ``length`` bytes from ``offset``; fewer at the end of the file."""
    parts = []
    try:
        while length and (part := os.pread(fd, length, offset)):
            parts.append(part)
            offset, length = offset + len(part), length - len(part)
    except OSError as error:
        raise decode.Undecodable(decode.UNREADABLE, error.strerror or str(error)) from None
    return parts[0] if len(parts) == 1 else b"".join(parts)


def begins(path: str | os.PathLike[str], length: int = 512) -> bytes:
    """The first bytes of a regular file; empty for anything else."""
    where = Path(path)
    if not where.is_file():
        return b""
    with where.open("rb") as file:
        return file.read(length)


def read_records(file: Artifact, size: NDArray[np.uint64]) -> Records | None:
    """Where the rows of an image list lie inside larger files, or inside the list's own file; None for files of their own.

    Raises:
        DataError: half of it is missing, a form that is not known, or packed bytes that come through a pipe.
    """
    if "/encoded" not in file and "/files/path" not in file:
        return None
    form, length = str(file.attrs.get("record") or "image"), size.astype(np.int64)
    side_of(form)
    if "/samples/offset" not in file or ("/samples/file" not in file and "/encoded" not in file):
        raise DataError(f"{file.name}: /samples/offset: missing, expected where each image begins", "make the list again")
    offset = file.read("/samples/offset")
    if "/encoded" in file:
        packed = file.entry("/encoded")
        if file.streaming or packed.offset is None:
            raise DataError(f"{file.name}: packed images can only be read from a file in one piece", "write the stream to a file first")
        if len(offset) and (offset.min() < 0 or (offset + length).max() > packed.nbytes):
            raise DataError(f"{file.name}: /samples/offset: an image beyond the {packed.nbytes} bytes of /encoded", "make the list again")
        return Records(form, (b".",), np.zeros(len(offset), np.int32), offset + packed.offset, length)
    files, number = tuple(file.read("/files/path").tolist()), file.read("/samples/file")
    if len(number) and (number.min() < 0 or number.max() >= len(files)):
        raise DataError(f"{file.name}: /samples/file: {number.max()}, but there are {len(files)} files", "make the list again")
    return Records(form, files, number, offset, length)

"""Lays a file out before its first byte: the header, and where every dataset will lie.

HDF5 lets raw data be anywhere, and raw data carries no checksum of its own.  If all metadata is
created first, space is handed out strictly at the end of the file, and the datasets are then
allocated one after the other in streaming order, header plus dataset bytes *is* the file, so it can
go down a pipe while the rows are still being computed.  The layout comes from libhdf5 itself,
working on sparse pages in memory of which only the header is kept: no temporary file, and no limit
on sizes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ucl.errors import DataError
from ucl.formats._h5 import h5a, h5d, h5f, h5fd, h5g, h5p, h5s, h5t
from ucl.formats.types import disk_size, hdf5_type, string_type

ALIGN = 4096
ALIGN_FROM = 2048
MAX_ATTR = 60 << 10
_UNDEFINED = 0xFFFFFFFFFFFFFFFF


@dataclass
class Planned:
    """A dataset to be laid out; `offset` and `nbytes` are filled in by `lay_out`."""

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    enum: Mapping[str, int] | None = None
    attrs: dict[str, Any] = field(default_factory=dict)
    offset: int = 0
    nbytes: int = 0


def lookup3(key: bytes) -> int:
    """Bob Jenkins' hashlittle(): the checksum of HDF5's version 2 metadata."""
    mask = 0xFFFFFFFF

    def rot(x: int, k: int) -> int:
        return ((x << k) | (x >> (32 - k))) & mask

    a: int = (0xDEADBEEF + len(key)) & mask
    b: int = a
    c: int = a
    i, n = 0, len(key)
    while n > 12:
        x, y, z = struct.unpack_from("<III", key, i)
        a, b, c = (a + x) & mask, (b + y) & mask, (c + z) & mask
        a = ((a - c) & mask) ^ rot(c, 4)
        c = (c + b) & mask
        b = ((b - a) & mask) ^ rot(a, 6)
        a = (a + c) & mask
        c = ((c - b) & mask) ^ rot(b, 8)
        b = (b + a) & mask
        a = ((a - c) & mask) ^ rot(c, 16)
        c = (c + b) & mask
        b = ((b - a) & mask) ^ rot(a, 19)
        a = (a + c) & mask
        c = ((c - b) & mask) ^ rot(b, 4)
        b = (b + a) & mask
        i, n = i + 12, n - 12
    if n == 0:
        return c
    x, y, z = struct.unpack("<III", key[i:].ljust(12, b"\0"))
    a, b, c = (a + x) & mask, (b + y) & mask, (c + z) & mask
    c = ((c ^ b) - rot(b, 14)) & mask
    a = ((a ^ c) - rot(c, 11)) & mask
    b = ((b ^ a) - rot(a, 25)) & mask
    c = ((c ^ b) - rot(b, 16)) & mask
    a = ((a ^ c) - rot(c, 4)) & mask
    b = ((b ^ a) - rot(a, 14)) & mask
    return ((c ^ b) - rot(b, 24)) & mask


def strip_times(head: bytearray) -> None:
    """Zeroes the timestamps of the superblock extension, which no property list turns off."""
    ext = struct.unpack_from("<Q", head, 20)[0]
    if ext == _UNDEFINED or not head[ext + 5] & 0x20:
        return
    width = 1 << (head[ext + 5] & 3)
    at = ext + 22 + (4 if head[ext + 5] & 0x10 else 0)
    end = at + width + int.from_bytes(head[at : at + width], "little")
    if struct.unpack_from("<I", head, end)[0] != lookup3(bytes(head[ext:end])):
        raise RuntimeError("superblock extension is not laid out as expected")
    head[ext + 6 : ext + 22] = bytes(16)
    struct.pack_into("<I", head, end, lookup3(bytes(head[ext:end])))


def put_attr(oid: Any, name: str, value: Any) -> Any:
    """Writes one attribute: strings as fixed-length UTF-8, whole numbers as i8, others as f8."""
    if isinstance(value, str | bytes):
        raw = value.encode() if isinstance(value, str) else value
        if len(raw) > MAX_ATTR:
            raise DataError(f"attribute {name}: {len(raw)} bytes, at most {MAX_ATTR} are possible",
                            "store it as a dataset")  # fmt: skip
        t = string_type(max(1, len(raw)), False)
        a = h5a.create(oid, name.encode(), t, h5s.create(h5s.SCALAR))
        a.write(np.array(raw, dtype=f"S{max(1, len(raw))}"), mtype=t)
        return a
    number = np.asarray(value)
    number = number.astype("<i8" if number.dtype.kind in "iub" else "<f8")
    if number.nbytes > MAX_ATTR:
        raise DataError(f"attribute {name}: {number.nbytes} bytes, at most {MAX_ATTR} are possible")
    space = h5s.create_simple(number.shape) if number.shape else h5s.create(h5s.SCALAR)
    a = h5a.create(oid, name.encode(), h5t.py_create(number.dtype), space)
    a.write(number)
    return a


class SparsePages:
    """A file of any length in memory, of which only the pages that were written exist."""

    def __init__(self) -> None:
        self.pages: dict[int, bytearray] = {}
        self.size = self.at = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset + (0, self.at, self.size)[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def flush(self) -> None:
        """Nothing to do."""

    def truncate(self, size: int) -> int:
        self.size = size
        return size

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            page, start = divmod(self.at + done, ALIGN)
            part = view[done : done + ALIGN - start]
            self.pages.setdefault(page, bytearray(ALIGN))[start : start + len(part)] = part
            done += len(part)
        self.at += done
        self.size = max(self.size, self.at)
        return done

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        view[:] = self.get(self.at, len(view))
        self.at += len(view)
        return len(view)

    def get(self, at: int, n: int) -> bytes:
        """`n` bytes from `at`; zeros where nothing was written."""
        first, last = at // ALIGN, -(-(at + n) // ALIGN)
        whole = b"".join(bytes(self.pages.get(p, b"") or ALIGN) for p in range(first, last))
        return whole[at - first * ALIGN :][:n]


def _create_file(page_file: SparsePages) -> Any:
    fapl = h5p.create(h5p.FILE_ACCESS)
    fapl.set_fileobj_driver(h5fd.fileobj_driver, page_file)
    fapl.set_libver_bounds(h5f.LIBVER_V18, h5f.LIBVER_V110)
    fapl.set_alignment(ALIGN_FROM, ALIGN)
    fapl.set_fclose_degree(h5f.CLOSE_STRONG)
    fcpl = h5p.create(h5p.FILE_CREATE)
    fcpl.set_file_space_strategy(h5f.FSPACE_STRATEGY_NONE, False, 1)
    fcpl.set_obj_track_times(False)
    return h5f.create(b"plan", h5f.ACC_TRUNC, fcpl=fcpl, fapl=fapl)


def _create_datasets(fid: Any, attrs: Mapping[str, Any], datasets: Sequence[Planned]) -> list[Any]:
    gcpl = h5p.create(h5p.GROUP_CREATE)
    gcpl.set_obj_track_times(False)
    groups = {"": h5g.open(fid, b"/")}

    def group(path: str) -> Any:
        if path not in groups:
            parent, _, name = path.rpartition("/")
            groups[path] = h5g.create(group(parent), name.encode(), gcpl=gcpl)
        return groups[path]

    for name, value in attrs.items():
        put_attr(groups[""], name, value)
    ids = []
    for d in datasets:
        parent, _, name = d.path.rpartition("/")
        dcpl = h5p.create(h5p.DATASET_CREATE)
        dcpl.set_layout(h5d.CONTIGUOUS)
        dcpl.set_alloc_time(h5d.ALLOC_TIME_LATE)
        dcpl.set_fill_time(h5d.FILL_TIME_NEVER)
        dcpl.set_obj_track_times(False)
        space = h5s.create_simple(d.shape) if d.shape else h5s.create(h5s.SCALAR)
        did = h5d.create(group(parent), name.encode(), hdf5_type(d.dtype, d.enum), space, dcpl=dcpl)
        for key, value in d.attrs.items():
            put_attr(did, key, value)
        ids.append(did)
    return ids


def _allocate(did: Any, d: Planned) -> None:
    """Touches one element, which gives the whole dataset its place at the end of the file."""
    d.nbytes = disk_size(d.dtype) * int(np.prod(d.shape, dtype=object))
    if not d.nbytes:
        return
    space = did.get_space()
    if d.shape:
        space.select_hyperslab((0,) * len(d.shape), (1,) * len(d.shape))
    one = np.zeros(1, did.dtype)
    did.write(h5s.create_simple((1,)), space, one, mtype=did.get_type())
    d.offset = did.get_offset()


def lay_out(
    attrs: Mapping[str, Any], datasets: Sequence[Planned], patch: tuple[str, str] | None = None
) -> tuple[bytes, int]:
    """Fills in the places of the datasets.

    Args:
        attrs: root attributes.
        datasets: in streaming order; `offset` and `nbytes` are set.
        patch: (dataset, attribute): that attribute is given the dataset's own offset.

    Returns:
        The header, and the length of the whole file.

    Raises:
        RuntimeError: libhdf5 put something where it may not be.
    """
    page_file = SparsePages()
    fid = _create_file(page_file)
    ids = _create_datasets(fid, attrs, datasets)
    h5f.flush(fid)
    for d, did in zip(datasets, ids, strict=True):
        _allocate(did, d)
        if patch is not None and d.path == patch[0]:
            h5a.open(did, patch[1].encode()).write(np.array(d.offset, "<i8"))
    fid.close()  # only a closed file has the header of a finished one
    return _check(page_file, datasets)


def _check(page_file: SparsePages, datasets: Sequence[Planned]) -> tuple[bytes, int]:
    """The header, once it is certain that metadata comes first and the data in order."""
    size = page_file.size
    placed = [d for d in datasets if d.nbytes]
    pos = first = min((d.offset for d in placed), default=size)
    for d in placed:
        if not 0 <= d.offset - pos < ALIGN:
            raise RuntimeError(f"{d.path} at {d.offset}, expected just after {pos}")
        pos = d.offset + d.nbytes
    head = bytearray(page_file.get(0, first))
    strip_times(head)
    eof = struct.unpack_from("<Q", head, 28)[0]
    if not eof == size == pos:
        raise RuntimeError(f"metadata after the data: {eof}, {size}, {pos}")
    return bytes(head), int(eof)

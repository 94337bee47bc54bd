"""NumPy arrays and foreign HDF5 datasets as rows in blocks; memory does not grow with the number of rows.

``.npy`` files are read as they lie (mapped, if in Fortran order), members of an ``.npz`` as a stream of bytes, compressed
or not.  Object arrays are pickles and never read.  What is written depends on the values alone: no time stamps, and the same bytes to a file and
down a pipe.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ucl.errors import DataError, UsageError
from ucl.formats.types import encode_strings

BLOCK = 4 << 20
"""Bytes of rows handled at a time."""

PATHS = ("path", "paths", "filename", "filenames", "file", "files", "name", "names")
"""What a column or an array of sample names may be called."""

LABELS = ("label", "labels", "cluster", "clusters")
EXTRAS = ("flag", "distance", "score", "weight")
MAX_HELD = 1 << 28
MAX_EXPANSION = 1000


@dataclass
class Rows:
    """An array that is read in order.

    Attributes:
        name: for messages.
        shape: (N, ...); dtype: of the blocks.
        blocks: gives the rows in order, each time it is called.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    blocks: Callable[[], Iterator[NDArray[Any]]]

    def collect(self) -> NDArray[Any]:
        """All rows in memory."""
        found = list(self.blocks())
        return np.concatenate(found) if found else np.empty(self.shape, self.dtype)


@dataclass
class Found:
    """What a foreign file holds.

    Attributes:
        rows: the array that was asked for.
        paths: (N,) S sample names, or None.
        columns: flag, distance, score and weight, as far as they are there; (N,) each.
        labelled: the file calls the array labels (True) or features (False); None if it does not say.
    """

    rows: Rows
    paths: NDArray[np.bytes_] | None = None
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)
    labelled: bool | None = None


def step_of(shape: tuple[int, ...], itemsize: int) -> int:
    """Rows in a block."""
    row = itemsize * int(np.prod(shape[1:], dtype=np.int64))
    return max(1, BLOCK // max(1, row))


def in_blocks(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """An array (a memory map) in blocks of rows."""
    step = step_of(array.shape, array.itemsize)
    for start in range(0, len(array), step):
        yield np.asarray(array[start:start + step])


# -- npy and npz -----------------------------------------------------------------------------------------------------------------


def _header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """(shape, Fortran order, dtype) of a .npy whose start ``file`` is at; leaves it at the first value."""
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read(file)
    except (ValueError, KeyError, OSError) as error:
        raise DataError(f"{name}: damaged .npy: {str(error)[:120]}", "np.save writes such files") from error
    if dtype.hasobject:
        raise DataError(f"{name}: an object array, which is a pickle and never read", "save numbers, or names as np.array(names, dtype=str)")
    return shape, fortran, dtype


def read_npy(file: IO[bytes], name: str) -> Found:
    """A .npy file; C order is read as it lies, Fortran order mapped.

    Args:
        file: a seekable file.  name: for messages.

    Raises:
        DataError: damaged, truncated, or an object array.
    """
    file.seek(0)
    shape, fortran, dtype = _header(file, name)
    at, size = file.tell(), os.fstat(file.fileno()).st_size
    wanted = at + dtype.itemsize * int(np.prod(shape, dtype=object))
    if size < wanted:
        raise DataError(f"{name}: truncated: ends after {size} of {wanted} bytes", "the writer or the copy did not finish: make the file again")
    if not wanted - at:
        return Found(Rows(name, shape, dtype, lambda: iter(())))
    if fortran and len(shape) > 1:
        array = np.memmap(file, dtype, "r", at, shape, order="F")
        return Found(Rows(name, shape, dtype, lambda: in_blocks(array)))
    return Found(Rows(name, shape, dtype, lambda: _read_blocks(file.fileno(), name, at, shape, dtype)))


def _read_blocks(fd: int, name: str, at: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    """Rows as they lie in a file from byte ``at``; read, not mapped, so that what has gone by takes no memory."""
    row, step = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64)), step_of(shape, dtype.itemsize)
    for start in range(0, shape[0] if shape else 0, step):
        rows = min(step, shape[0] - start)
        data = os.pread(fd, rows * row, at + start * row)
        if len(data) != rows * row:
            raise DataError(f"{name}: truncated while it was read", "make the file again")
        yield np.frombuffer(data, dtype).reshape(rows, *shape[1:])


def read_npz(file: IO[bytes], name: str, wanted: str | None) -> Found:
    """One array of a .npz, and the names and columns that lie beside it.

    Args:
        file: a seekable file.  name: for messages.
        wanted: the array's name; None: the only one that can be features or labels, or the one called so.

    Raises:
        DataError: damaged, or an object array.  UsageError: several arrays and no name, or no array of that name.
    """
    try:
        archive = zipfile.ZipFile(file)
        members = {m.filename.removesuffix(".npy"): m for m in archive.infolist() if m.filename.endswith(".npy")}
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{name}: not a whole .npz: {error}", "np.savez writes such files") from error
    arrays = {key: _member(archive, member, name, key) for key, member in members.items()}
    key = _choose(arrays, wanted, name)
    if arrays[key] is None:
        _opened(archive, members[key], f"{name}: {key}")  # raises: says why it cannot be read
    rows = arrays[key]
    assert rows is not None
    paths = next((p for p in PATHS if p in members and p != key), None)
    found = Found(rows, labelled=True if key in LABELS else False if key == "features" else None)
    if paths is not None:
        named = arrays[paths] or _opened(archive, members[paths], f"{name}: {paths}")
        found.paths = names_of(_held(named, members[paths]), f"{name}: {paths}", rows)
    for extra in EXTRAS:
        if extra in members and extra != key and (one := arrays[extra]) is not None and one.shape == rows.shape[:1]:
            found.columns[extra] = _held(one, members[extra])
    return found


def _held(rows: Rows, member: zipfile.ZipInfo) -> NDArray[Any]:
    if member.file_size > MAX_HELD and member.file_size > MAX_EXPANSION * member.compress_size:
        raise DataError(f"{rows.name}: {member.file_size} bytes declared, {member.compress_size} stored", "save it without compression")
    return rows.collect()


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str, key: str) -> Rows | None:
    """An array of a .npz; None for an object array, which nobody may have asked for."""
    try:
        return _opened(archive, member, f"{name}: {key}")
    except DataError as error:
        if "object array" in error.message:
            return None
        raise


def _opened(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> Rows:
    try:
        with archive.open(member) as stream:
            shape, fortran, dtype = _header(stream, name)
            at = stream.tell()
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{name}: damaged .npz: {error}", "np.savez writes such files") from error
    if at + dtype.itemsize * int(np.prod(shape, dtype=object)) != member.file_size:
        raise DataError(f"{name}: {member.file_size} bytes, wanted {at} and those of {shape} {dtype}", "np.savez writes such files")
    return Rows(name, shape, dtype, lambda: _unzip(archive, member, name, shape, dtype, fortran))


def _unzip(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str, shape: tuple[int, ...], dtype: np.dtype[Any],
           fortran: bool) -> Iterator[NDArray[Any]]:
    try:
        with archive.open(member) as stream:
            if fortran and len(shape) > 1:
                yield from in_blocks(np.lib.format.read_array(stream, allow_pickle=False))
                return
            _header(stream, name)
            row, n = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64)), shape[0] if shape else 0
            step = step_of(shape, dtype.itemsize)
            for start in range(0, n, step):
                rows = min(step, n - start)
                yield np.frombuffer(stream.read(rows * row), dtype).reshape(rows, *shape[1:])
            stream.read()  # to the end, where the checksum is
    except (zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
        raise DataError(f"{name}: damaged .npz: {error}", "make the file again") from error


def _choose(arrays: dict[str, Rows | None], wanted: str | None, name: str) -> str:
    """The key of the array that is meant."""
    listed = ", ".join(f"{key} {'object' if a is None else f'{a.shape} {a.dtype}'}" for key, a in arrays.items()) or "nothing"
    if wanted is not None:
        if wanted not in arrays:
            raise UsageError(f"{name}: no array {wanted!r}; it holds {listed}", "--array NAME")
        return wanted
    usable = [k for k, a in arrays.items() if a is not None and a.dtype.kind in "iufb" and len(a.shape) in (1, 2) and k not in EXTRAS]
    for word in ("features", *LABELS[:2]):
        if word in usable:
            return word
    if len(usable) != 1:
        raise UsageError(f"{name}: {len(usable)} arrays that could be features or labels; it holds {listed}", "--array NAME")
    return usable[0]


def names_of(array: NDArray[Any], where: str, rows: Rows) -> NDArray[np.bytes_]:
    """An array of strings as UTF-8 sample names, one per row.

    Raises:
        DataError: no strings, or of another length.
    """
    if array.ndim != 1 or array.dtype.kind not in "SU":
        raise DataError(f"{where}: {array.dtype} {array.shape}, wanted strings (N,)", "np.array(names, dtype=str)")
    if len(array) != rows.shape[0]:
        raise DataError(f"{where}: {len(array)} names for {rows.shape[0]} rows", "one name per row")
    return encode_strings("/samples/path", array)


def read_dataset(path: str, wanted: str) -> Found:
    """One dataset of an HDF5 file that somebody else wrote, chunked and compressed ones too, looked at by `safe_open` first.

    Raises:
        DataError: not accepted, damaged, or no numbers.  UsageError: no such dataset.
    """
    from ucl.formats.safe_open import H5_ERRORS, safe_open

    try:
        file = safe_open(path)
    except H5_ERRORS as error:
        raise DataError(f"{path}: damaged HDF5: {str(error)[:160]}", "the writer or the copy did not finish: make the file again") from error
    key = "/" + wanted.strip("/")
    listed: list[str] = []
    file.visititems(lambda name, item: listed.append(f"/{name} {item.shape} {item.dtype}") if hasattr(item, "shape") else None)
    if key not in file or not hasattr(file[key], "shape"):
        raise UsageError(f"{path}: no dataset {key}; it holds {', '.join(listed[:12]) or 'nothing'}", "--array NAME")
    dataset = file[key]

    def blocks() -> Iterator[NDArray[Any]]:
        step = step_of(dataset.shape, dataset.dtype.itemsize)
        try:
            for start in range(0, dataset.shape[0], step):
                yield dataset[start:start + step]
        except H5_ERRORS as error:
            raise DataError(f"{path}: {key}: damaged: {str(error)[:160]}", "make the file again") from error

    rows = Rows(f"{path}: {key}", dataset.shape, dataset.dtype, blocks)
    for name in ("samples/path", *PATHS):
        if name in file and f"/{name}" != key and getattr(file[name], "dtype", np.dtype("f4")).kind == "S":
            return Found(rows, names_of(file[name][:], f"{path}: /{name}", rows))
    return Found(rows)


def write_npy(out: IO[bytes], rows: Rows) -> None:
    """A .npy of version 1.0: little-endian, C order."""
    dtype = rows.dtype.newbyteorder("<")
    out.write(_npy_head(rows.shape, dtype))
    for block in rows.blocks():
        out.write(np.ascontiguousarray(block, dtype).tobytes())


def _npy_head(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape})
    return head.getvalue()


class _Forward:
    """A sink without positions, so that a zip file is the same in a file and down a pipe."""

    def __init__(self, out: IO[bytes]) -> None:
        self.out = out

    def write(self, data: bytes) -> int:
        self.out.write(data)
        return len(data)

    def flush(self) -> None:
        self.out.flush()


def write_npz(out: IO[bytes], arrays: dict[str, Rows]) -> None:
    """A .npz as `np.savez` writes it, without compression and without times."""
    with zipfile.ZipFile(_Forward(out), "w") as archive:  # type: ignore[call-overload]
        for key, rows in arrays.items():
            member = zipfile.ZipInfo(f"{key}.npy", (1980, 1, 1, 0, 0, 0))
            member.external_attr = 0o600 << 16
            with archive.open(member, "w", force_zip64=True) as stream:
                write_npy(stream, rows)

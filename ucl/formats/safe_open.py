"""Opens HDF5 that somebody else wrote without following anything out of it.

HDF5 files may point at other files (external links, external and virtual storage), ask for code
(filters), declare petabytes in a few bytes, and contain cycles.  Nothing of the kind is needed for
arrays, so nothing of the kind is accepted: only link *names* are listed and only hard links
resolved.  Variable-length values live in a heap without checksum, in which a damaged byte makes
libhdf5 loop for ever; they are never read: as attributes they are left out, as datasets refused.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ucl.errors import DataError
from ucl.formats._h5 import h5a, h5d, h5f, h5fd, h5g, h5l, h5o, h5p, h5py, h5s, h5t
from ucl.formats.types import numpy_type

MAX_OBJECTS = 10_000
MAX_DEPTH = 64
MAX_DECLARED = 1 << 28
MAX_EXPANSION = 1000
MAX_ATTR = 1 << 16
FILTERS = frozenset({1, 2, 3})  # deflate, shuffle, fletcher32: built in
H5_ERRORS = (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError)


@dataclass
class Entry:
    """One dataset of a file, as its header tells.

    Attributes:
        path: absolute name.
        shape: its shape.
        dtype: numpy dtype of the values handed out.
        stored: numpy dtype of the bytes at `offset`, None if only HDF5 can read them.
        terminated: strings end in NUL.
        offset: where the bytes start, None if they are not in one piece.
        nbytes: bytes of all elements.
        attrs: readable attributes.
        enum: value names, for enumerations.
        source: the name in the file, where `path` is an alias.
    """

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    stored: np.dtype[Any] | None
    terminated: bool
    offset: int | None
    nbytes: int
    attrs: dict[str, Any] = field(default_factory=dict)
    enum: dict[str, int] | None = None
    source: str = ""
    is_enum: bool = False

    @property
    def rows(self) -> int:
        """Length of the first axis; 1 for a scalar."""
        return self.shape[0] if self.shape else 1

    @property
    def size(self) -> int:
        """Number of elements."""
        n = 1
        for s in self.shape:
            n *= s
        return n


def open_fileobj(fileobj: BinaryIO | Any) -> Any:
    """A read-only HDF5 file id over a Python file object; the object must outlive it."""
    fapl = h5p.create(h5p.FILE_ACCESS)
    fapl.set_fileobj_driver(h5fd.fileobj_driver, fileobj)
    fapl.set_fclose_degree(h5f.CLOSE_STRONG)
    return h5f.open(b"ucl", h5f.ACC_RDONLY, fapl=fapl)


def safe_open(path: str | os.PathLike[str]) -> h5py.File:
    """An `h5py.File` open for reading, after everything in it was looked at.

    Raises:
        DataError: the file asks for something that is not accepted.
        OSError: libhdf5 cannot open it.
    """
    fapl = h5p.create(h5p.FILE_ACCESS)
    fapl.set_file_locking(False, True)
    fid = h5f.open(os.fsencode(path), h5f.ACC_RDONLY, fapl=fapl)
    try:
        scan(fid, Path(path).stat().st_size, str(path))
    except BaseException:
        fid.close()
        raise
    return h5py.File(fid)


def scan(fid: Any, size: int, name: str) -> tuple[dict[str, Any], list[Entry]]:
    """Looks at every object of an open file.

    Args:
        fid: HDF5 file id.
        size: length of the file in bytes.
        name: for messages.

    Returns:
        Root attributes and the datasets.

    Raises:
        DataError: something in it is not accepted.
    """
    root = h5g.open(fid, b"/")
    attrs = safe_attrs(root, name)
    entries: list[Entry] = []
    info = h5o.get_info(root)
    seen = {(info.fileno, info.addr)}
    stack = [(root, "/", 0)]
    count = 0
    while stack:
        gid, where, depth = stack.pop()
        for link in gid:
            count += 1
            path = where + link.decode("utf-8", "backslashreplace")
            if count > MAX_OBJECTS or depth > MAX_DEPTH:
                raise _refuse(name, path, f"more than {MAX_OBJECTS} objects or {MAX_DEPTH} levels")
            kind, obj = _resolve(gid, link, name, path, seen)
            if kind == h5o.TYPE_GROUP:
                stack.append((obj, path + "/", depth + 1))
            else:
                entries.append(_look(obj, size, name, path))
    return attrs, entries


def _resolve(gid: Any, link: bytes, name: str, path: str, seen: set[Any]) -> tuple[int, Any]:
    kind = gid.links.get_info(link).type
    if kind != h5l.TYPE_HARD:
        what = {h5l.TYPE_SOFT: "a soft link", h5l.TYPE_EXTERNAL: "an external link"}
        raise _refuse(name, path, what.get(kind, "a user-defined link"))
    info = h5o.get_info(gid, link)
    if info.type == h5o.TYPE_GROUP:
        key = (info.fileno, info.addr)
        if key in seen:
            raise _refuse(name, path, "a group linked twice")
        seen.add(key)
        return info.type, h5g.open(gid, link)
    if info.type == h5o.TYPE_DATASET:
        return info.type, h5d.open(gid, link)
    raise _refuse(name, path, "a committed datatype")


def _look(did: Any, size: int, name: str, path: str) -> Entry:
    """One dataset's entry, or a refusal."""
    plist, tid = did.get_create_plist(), did.get_type()
    if plist.get_external_count():
        raise _refuse(name, path, "external storage")
    if plist.get_layout() == h5d.VIRTUAL:
        raise _refuse(name, path, "a virtual dataset")
    for i in range(plist.get_nfilters()):
        code = plist.get_filter(i)[0]
        if code not in FILTERS:
            raise _refuse(name, path, f"filter {code}, which is not built in")
    if not _is_fixed(tid):
        raise _refuse(name, path, "variable-length or reference values",
                      "store strings with a fixed length: np.array(x, 'S')")  # fmt: skip
    space = did.get_space()
    if space.get_simple_extent_type() == h5s.NULL:
        raise _refuse(name, path, "a dataset without a shape")
    shape = tuple(int(n) for n in space.get_simple_extent_dims())
    known = numpy_type(tid)
    entry = Entry(path, shape, did.dtype if known is None else known[0],
                  known and known[0], bool(known and known[1]), did.get_offset(), 0)  # fmt: skip
    entry.nbytes = entry.size * int(tid.get_size())
    stored = did.get_storage_size()
    if entry.nbytes > MAX_DECLARED and entry.nbytes > MAX_EXPANSION * stored:
        raise _refuse(name, path, f"{entry.nbytes} bytes declared, {stored} stored")
    if entry.offset is not None and entry.offset + max(stored, entry.nbytes) > size:
        raise _refuse(name, path, "values beyond the end of the file")
    if tid.get_class() == h5t.ENUM:
        entry.is_enum = True
        entry.enum = {
            tid.get_member_name(i).decode("utf-8", "replace"): int(tid.get_member_value(i))
            for i in range(tid.get_nmembers())
        }
    if entry.terminated:
        entry.dtype = np.dtype(f"S{max(1, entry.dtype.itemsize - 1)}")
    entry.dtype = entry.dtype.newbyteorder("<")
    entry.attrs = safe_attrs(did, name)
    entry.source = path
    return entry


def _is_fixed(tid: Any) -> bool:
    if tid.get_class() == h5t.STRING:
        return not tid.is_variable_str()
    if tid.get_class() == h5t.COMPOUND:
        return all(_is_fixed(tid.get_member_type(i)) for i in range(tid.get_nmembers()))
    if tid.get_class() == h5t.ARRAY:
        return _is_fixed(tid.get_super())
    return tid.get_class() in (h5t.INTEGER, h5t.FLOAT, h5t.ENUM, h5t.BITFIELD, h5t.OPAQUE)


def safe_attrs(oid: Any, name: str = "") -> dict[str, Any]:
    """The attributes of an object whose values lie in its checksummed header.

    Args:
        oid: HDF5 object id.
        name: file, for messages.

    Returns:
        Name to str, int, float, list or array; None where the value is of a kind that is never
        read.

    Raises:
        DataError: an attribute beyond 64 KiB.
    """
    out: dict[str, Any] = {}
    for i in range(h5a.get_num_attrs(oid)):
        a = h5a.open(oid, index=i)
        key = a.name.decode("utf-8", "backslashreplace")
        tid = a.get_type()
        if not _is_fixed(tid) or a.get_space().get_simple_extent_type() == h5s.NULL:
            out[key] = None
            continue
        if a.get_storage_size() > MAX_ATTR:
            raise _refuse(name, f"attribute {key}", "a value larger than 64 KiB")
        value = np.empty(a.shape, a.dtype)
        a.read(value, mtype=tid if tid.get_class() == h5t.STRING else None)
        out[key] = _simplify(value)
    return dict(sorted(out.items()))


def _simplify(value: np.ndarray[Any, Any]) -> Any:
    plain = value[()] if value.shape == () else value
    if isinstance(plain, bytes):
        return plain.decode("utf-8", "backslashreplace")
    return plain.item() if isinstance(plain, np.generic) and plain.dtype.names is None else plain


def _refuse(name: str, path: str, what: str, hint: str = "") -> DataError:
    where = f"{name}: {path}" if name else path
    return DataError(f"{where}: found {what}, wanted plain datasets",
                     hint or "copy the arrays into a new file")  # fmt: skip

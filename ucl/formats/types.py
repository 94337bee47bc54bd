"""Between numpy arrays and what is on disk: strings, enumerations, compounds, byte order."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ucl.errors import DataError
from ucl.formats._h5 import h5t
from ucl.formats.layout import SCHEMA, Item, compound_fields

MAX_PATH = 4095
_FLOATS = {2: h5t.IEEE_F16LE, 4: h5t.IEEE_F32LE, 8: h5t.IEEE_F64LE}


def item_of(kind: str, path: str) -> Item | None:
    """The schema's entry for a dataset, or None."""
    return SCHEMA[kind].item(path) if kind in SCHEMA else None


def schema_dtype(code: str) -> np.dtype[Any]:
    """A schema dtype (one alternative, or a compound) as little-endian numpy."""
    fields = compound_fields(code)
    if fields:
        return np.dtype([(name, np.dtype(c).newbyteorder("<")) for name, c in fields])
    return np.dtype(code).newbyteorder("<")


def disk_dtype(kind: str, path: str, dtype: DTypeLike) -> np.dtype[Any]:
    """The little-endian dtype in which a dataset is stored.

    Raises:
        DataError: the schema wants another type, or HDF5 has none for it.
    """
    dt = np.dtype(dtype).newbyteorder("<")
    if dt.kind == "U":
        dt = np.dtype(f"S{max(1, dt.itemsize)}")  # four bytes a letter: the most that UTF-8 takes
    item = item_of(kind, path)
    if item is not None and " " in item.dtype:
        return schema_dtype(item.dtype)
    allowed = item.dtype.split("|") if item is not None else ["*"]
    if allowed != ["*"] and allowed != ["S"]:
        wanted = [schema_dtype(code) for code in allowed]
        return dt if dt in wanted else wanted[0]
    if allowed == ["S"] and dt.kind not in "SU":
        raise DataError(f"{path}: is {dt}, wanted strings")
    if dt.kind not in "biufSUV" or (dt.kind == "V" and dt.names is None) or dt.itemsize > 1 << 26:
        raise DataError(f"{path}: {dt} has no place in a ucl file", "store real numbers or strings")
    if dt.kind == "f" and dt.itemsize not in _FLOATS:
        raise DataError(f"{path}: {dt} has no place in a ucl file", "use float16, 32 or 64")
    return dt


def on_disk(kind: str, path: str, array: ArrayLike) -> NDArray[Any]:
    """An array as it will be stored: little-endian, C order, strings as short as they can be.

    Args:
        kind: a key of `SCHEMA`.
        path: the dataset.
        array: anything numpy takes.

    Returns:
        Array of the same shape.

    Raises:
        DataError: values that the stored type cannot hold.
    """
    a = np.asarray(array)
    item = item_of(kind, path)
    if a.dtype.kind in "SUO" or (not a.size and item is not None and item.dtype == "S"):
        return encode_strings(path, a)
    return cast(path, a, disk_dtype(kind, path, a.dtype))


def encode_strings(path: str, array: NDArray[Any], width: int | None = None) -> NDArray[Any]:
    """Strings as UTF-8 bytes `S(width)`; `width` None takes the longest.

    Raises:
        DataError: not UTF-8, a NUL inside, longer than `width` or than a path may be.
    """
    a = np.asarray(array)
    if a.dtype.kind == "S" and (width is None or a.dtype.itemsize <= width) and _plain(a):
        longest = int(np.strings.str_len(a).max(initial=1))
        if path != "/samples/path" or longest <= MAX_PATH:
            return a.astype(f"S{max(1, longest) if width is None else width}", order="C")
    cells = a.ravel().tolist()
    raw: list[bytes] = []
    try:
        raw = [c.encode() if isinstance(c, str) else bytes(c) for c in cells]
        b"".join(raw).decode()
    except (UnicodeError, TypeError) as e:
        bad = _first_not_utf8(cells)
        raise DataError(f"{path}[{bad}]: not UTF-8 text: {cells[bad]!r}",
                        "rename the file, or --escape-names") from e  # fmt: skip
    longest = max((len(b) for b in raw), default=0)
    limit = MAX_PATH if path == "/samples/path" else None
    if limit is not None and longest > limit:
        raise DataError(f"{path}: a path of {longest} bytes, at most {limit} are possible")
    if width is not None and longest > width:
        raise DataError(f"{path}: a string of {longest} bytes, room for {width} was declared")
    if any(b"\0" in b for b in raw):
        raise DataError(f"{path}: a string with a NUL inside")
    out = np.array(raw, dtype=f"S{max(1, longest if width is None else width)}")
    return out.reshape(a.shape)


def _plain(a: NDArray[Any]) -> bool:
    """Whether all strings are ASCII without NUL inside, told without an object for each of a million paths."""
    flat = np.ascontiguousarray(a).reshape(-1).view(np.uint8) if a.size else np.zeros(0, np.uint8)
    if flat.size and flat.max() > 127:
        return False
    return bool(np.count_nonzero(flat) == np.strings.str_len(a).sum())


def _first_not_utf8(cells: list[Any]) -> int:
    for i, c in enumerate(cells):
        try:
            (c.encode() if isinstance(c, str) else bytes(c)).decode()
        except (UnicodeError, TypeError):
            return i
    return 0


def cast(path: str, a: NDArray[Any], want: np.dtype[Any]) -> NDArray[Any]:
    """Convert without losing anything but float precision.

    Raises:
        DataError: an integer out of range, a float where an integer belongs, overflow to infinity.
    """
    if a.dtype == want:
        return np.asarray(a, order="C")
    if want.names is not None or a.dtype.names is not None:
        if a.dtype.names != want.names:
            raise DataError(f"{path}: has fields {a.dtype.names}, wanted {want.names}")
        return a.astype(want, order="C")
    if not a.size:
        return a.astype(want, order="C")
    if want.kind in "iub" and a.dtype.kind not in "iub":
        raise DataError(f"{path}: is {a.dtype}, wanted {want}: whole numbers")
    if want.kind == "f" and a.dtype.kind not in "fiub":
        raise DataError(f"{path}: is {a.dtype}, wanted {want}")
    with np.errstate(over="ignore", invalid="ignore"):
        out = a.astype(want, order="C")
    if want.kind in "iu" and not np.can_cast(a.dtype, want) and not _same_integers(out, a):
        raise DataError(f"{path}: values do not fit in {want}")
    narrower = want.kind == "f" and want.itemsize < a.dtype.itemsize
    if narrower and not np.array_equal(np.isinf(out), np.isinf(a)):
        raise DataError(f"{path}: values overflow {want}", "use a wider float")
    return out


def _same_integers(out: NDArray[Any], a: NDArray[Any]) -> bool:
    return bool(np.array_equal(out, a) and np.array_equal(out < 0, a < 0))


def string_type(size: int, terminated: bool) -> Any:
    """HDF5 fixed-length UTF-8: NULLTERM for arrays, NULLPAD for attributes."""
    t = h5t.C_S1.copy()
    t.set_size(size)
    t.set_cset(h5t.CSET_UTF8)
    t.set_strpad(h5t.STR_NULLTERM if terminated else h5t.STR_NULLPAD)
    return t


def hdf5_type(dtype: np.dtype[Any], enum: Any = None) -> Any:
    """The HDF5 type of a dataset.

    Args:
        dtype: little-endian numpy dtype; `S40` is stored in 41 bytes.
        enum: names of the values, for u1 datasets.
    """
    if enum is not None:
        t = h5t.enum_create(h5t.STD_U8LE)
        for name, value in enum.items():
            t.enum_insert(name.encode(), value)
        return t
    if dtype.names is not None:
        t = h5t.create(h5t.COMPOUND, dtype.itemsize)
        for name in dtype.names:
            sub, offset = dtype.fields[name][:2]  # type: ignore[index]
            inner = string_type(sub.itemsize, False) if sub.kind == "S" else hdf5_type(sub)
            t.insert(name.encode(), offset, inner)
        return t
    if dtype.kind == "S":
        return string_type(dtype.itemsize + 1, True)
    if dtype.kind == "f":
        return _FLOATS[dtype.itemsize].copy()
    return h5t.py_create(dtype, logical=True)


def disk_size(dtype: np.dtype[Any]) -> int:
    """Bytes of one element on disk."""
    return dtype.itemsize + (dtype.kind == "S")


def disk_rows(rows: NDArray[Any]) -> NDArray[Any]:
    """Rows as they lie on disk: strings get their terminator."""
    return rows.astype(f"S{rows.dtype.itemsize + 1}") if rows.dtype.kind == "S" else rows


def numpy_type(tid: Any) -> tuple[np.dtype[Any], bool] | None:
    """The numpy dtype of stored elements, and whether strings among them end in NUL.

    Returns:
        None if the bytes on disk are not those of any numpy dtype; HDF5 has to convert.
    """
    cls = tid.get_class()
    if cls == h5t.STRING:
        return np.dtype(f"S{tid.get_size()}"), tid.get_strpad() == h5t.STR_NULLTERM
    if cls == h5t.COMPOUND:
        names, formats, offsets = [], [], []
        for i in range(tid.get_nmembers()):
            sub = numpy_type(tid.get_member_type(i))
            if sub is None:
                return None
            names.append(tid.get_member_name(i).decode("utf-8", "replace"))
            formats.append(sub[0])
            offsets.append(tid.get_member_offset(i))
        spec = {"names": names, "formats": formats, "offsets": offsets, "itemsize": tid.get_size()}
        return np.dtype(spec), False  # type: ignore[call-overload]
    if cls not in (h5t.INTEGER, h5t.FLOAT, h5t.ENUM):
        return None
    dt = tid.dtype
    base = tid.get_super() if cls == h5t.ENUM else tid
    plain_dt = np.dtype("i1") if dt.kind == "b" else np.dtype(dt.str)
    return (np.dtype(dt.str), False) if base.equal(h5t.py_create(plain_dt)) else None

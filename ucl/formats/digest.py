"""Content digest and checksums.

The digest says what a result *is*: two files with equal digests hold the same datasets with the
same bytes, whoever wrote them, when, where and from what command.  Its definition, for anybody who
wants to recompute it:

* a dataset: sha256 of one line of JSON `[path, dtype, shape, attributes]` (sorted keys, no spaces,
  UTF-8) and a newline, then its bytes in row order, little-endian.  Strings count as `S` whatever
  their width, each as its bytes and one NUL.
* the file: sha256 of `ucl-content-1\\n`, one line of JSON with the result-relevant root attributes,
  then for every dataset, sorted by path, `path`, a space, its sha256 in hex, and a newline.
  `/provenance` and `/integrity` stay out.
"""

from __future__ import annotations

import hashlib
import json
import queue
import threading
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ucl.formats.layout import CRC_BLOCK, SCHEMA, relevant_attrs

_MAGIC = b"ucl-content-1\n"


def plain(value: Any) -> Any:
    """An attribute's value as JSON knows it (numpy scalars, arrays and bytes included)."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


def _line(value: Any) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def dtype_name(dtype: np.dtype[Any]) -> str:
    """Canonical name of a dtype: `<f4`, `|u1`, `S` for strings, `{name:<f8,...}` for compounds."""
    if dtype.fields is not None:
        inner = ",".join(f"{n}:{_field_name(dtype[n])}" for n in dtype.names or ())
        return "{" + inner + "}"
    return "S" if dtype.kind == "S" else dtype.newbyteorder("<").str


def _field_name(dtype: np.dtype[Any]) -> str:
    return f"S{dtype.itemsize}" if dtype.kind == "S" else dtype_name(dtype)


class DatasetHash:
    """sha256 of one dataset, fed in row order.

    Args:
        path: absolute name.
        dtype: numpy dtype of the rows.
        shape: the whole shape.
        attrs: attributes of the dataset.
    """

    def __init__(
        self, path: str, dtype: np.dtype[Any], shape: tuple[int, ...], attrs: Mapping[str, Any]
    ) -> None:
        head = [path, dtype_name(dtype), list(shape), {k: plain(v) for k, v in attrs.items()}]
        self._sha = hashlib.sha256(_line(head))

    def update(self, rows: NDArray[Any]) -> None:
        """Rows in their on-disk dtype (little-endian, C order)."""
        if not rows.size:
            return
        if rows.dtype.kind == "S":
            self._sha.update(b"\0".join(rows.ravel().tolist()) + b"\0")
        else:
            self._sha.update(as_bytes(rows))

    def hexdigest(self) -> str:
        """Hex of what was fed so far."""
        return self._sha.hexdigest()


def as_bytes(rows: NDArray[Any]) -> memoryview:
    """The bytes of a C-contiguous array without a copy."""
    return memoryview(rows.reshape(-1).view(np.uint8).data) if rows.size else memoryview(b"")


def combine(kind: str, attrs: Mapping[str, Any], hashes: Mapping[str, str]) -> str:
    """The content digest from the digests of the datasets.

    Args:
        kind: `encoding-type`.
        attrs: root attributes; only the result-relevant ones are looked at.
        hashes: path to sha256 in hex.

    Returns:
        64 hex digits.
    """
    chosen = {k: plain(attrs[k]) for k in relevant_attrs() if k in attrs}
    chosen["encoding-type"] = kind
    sha = hashlib.sha256(_MAGIC + _line(chosen))
    for path in sorted(hashes):
        sha.update(f"{path} {hashes[path]}\n".encode())
    return sha.hexdigest()


def is_content(path: str) -> bool:
    """Whether a dataset counts for the digest."""
    return path != "/provenance" and not path.startswith("/integrity/")


def complete_attrs(
    kind: str, attrs: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    """The attributes with `n-samples` filled in from the shapes where the caller left it out."""
    out = {k: v for k, v in attrs.items() if v is not None}
    if "n-samples" not in out and kind in SCHEMA:
        for item in SCHEMA[kind].items:
            if "N" in item.dims and item.path in shapes:
                out["n-samples"] = int(shapes[item.path][item.dims.index("N")])
                break
    return out


def content_digest(
    kind: str,
    attrs: Mapping[str, Any],
    arrays: Mapping[str, Any],
    dataset_attrs: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """The digest that a file with these arrays would carry.

    Args:
        kind: a key of `SCHEMA`.
        attrs: root attributes.
        arrays: path to array; strings as `str`, `bytes` or numpy strings.
        dataset_attrs: attributes of the datasets.

    Returns:
        64 hex digits.

    Raises:
        DataError: an array that the file could not hold.
    """
    from ucl.formats.types import on_disk

    hashes = {}
    shapes = {}
    for path, array in arrays.items():
        rows = on_disk(kind, path, array)
        h = DatasetHash(path, rows.dtype, rows.shape, (dataset_attrs or {}).get(path, {}))
        h.update(rows)
        hashes[path] = h.hexdigest()
        shapes[path] = rows.shape
    return combine(kind, complete_attrs(kind, attrs, shapes), hashes)


def samples_digest(paths: Iterable[str | bytes]) -> str:
    """`sha256:` and the digest of every path and a newline, in row order."""
    sha = hashlib.sha256()
    for path in paths:
        sha.update((path.encode() if isinstance(path, str) else bytes(path)) + b"\n")
    return f"sha256:{sha.hexdigest()}"


class BlockCrc:
    """CRC-32 of every MiB of a byte stream, up to a given length."""

    def __init__(self, covers: int) -> None:
        self.covers = covers
        self.values: list[int] = []
        self._crc = 0
        self._seen = 0

    def update(self, data: memoryview | bytes) -> None:
        """The next bytes; those beyond `covers` are ignored."""
        view = memoryview(data)[: self.covers - self._seen]
        while len(view):
            room = CRC_BLOCK - self._seen % CRC_BLOCK
            part = view[:room]
            self._crc = zlib.crc32(part, self._crc)
            self._seen += len(part)
            if self._seen % CRC_BLOCK == 0 or self._seen == self.covers:
                self.values.append(self._crc)
                self._crc = 0
            view = view[room:]

    def array(self) -> NDArray[np.uint32]:
        """The finished CRCs (M,) u4."""
        return np.array(self.values, dtype="<u4")


class Background:
    """Runs calls one after the other in a helper thread, a few ahead at most.

    Args:
        threaded: False runs every call at once, in the caller's thread.
    """

    def __init__(self, threaded: bool) -> None:
        self._error: BaseException | None = None
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(maxsize=4)
        self._thread: threading.Thread | None = None
        self.threaded = threaded

    def call(self, job: Callable[[], None]) -> None:
        """Queue one call; blocks while four wait."""
        if not self.threaded:
            job()
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="ucl-hash", daemon=True)
            self._thread.start()
        self._queue.put(job)

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            if self._error is None:
                try:
                    job()
                except BaseException as e:
                    self._error = e

    def wait(self) -> None:
        """Until everything has run; raises what a call raised. Later calls start a new thread."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None
        if self._error is not None:
            raise self._error

"""Writes an artifact as a stream: header first, rows as they come, checksums and end mark last."""

from __future__ import annotations

import os
import select
from collections.abc import Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ucl.errors import DataError
from ucl.formats.atomic import explain
from ucl.formats.digest import Background, BlockCrc, DatasetHash, as_bytes, combine, complete_attrs
from ucl.formats.layout import CRC_BLOCK, END_MARK, PROFILE, SCHEMA, stream_order
from ucl.formats.plan import Planned, lay_out
from ucl.formats.types import (
    cast,
    disk_dtype,
    disk_rows,
    disk_size,
    encode_strings,
    item_of,
    on_disk,
)

_SHA, _CRC, _END = "/integrity/content_sha256", "/integrity/crc32", "/integrity/end"
_THREAD_FROM = 8 << 20
_BUFFER = 64 << 10
_LINGER = 4 << 10
_SLICE = 4 << 20

Spec = tuple[tuple[int, ...], DTypeLike]


def _creator() -> str:
    from ucl import __version__

    return f"ucl {__version__}"


class _Sink:
    """A file descriptor or binary file; small writes are gathered."""

    def __init__(self, sink: int | BinaryIO | Any) -> None:
        self._sink = sink
        self.name = "stdout" if sink == 1 else str(getattr(sink, "name", f"fd {sink}"))
        self._buffer = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        if len(self._buffer) + len(data) <= _BUFFER:
            self._buffer += data
            return
        self.flush()
        if len(data) <= _BUFFER // 2:
            self._buffer += data
        else:
            self._out(data)

    def flush(self, least: int = 0) -> None:
        """Hands on what was gathered, if it is more than `least` bytes."""
        if len(self._buffer) > least:
            out, self._buffer = self._buffer, bytearray()
            self._out(out)
            if not isinstance(self._sink, int):
                self._sink.flush()

    def _out(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        try:
            while len(view):
                view = view[self._write_some(view) :]
        except BrokenPipeError:
            raise
        except OSError as e:
            raise explain(e, self.name) from e


    def _write_some(self, view: memoryview) -> int:
        if isinstance(self._sink, int):
            try:
                return os.write(self._sink, view)
            except BlockingIOError:
                select.select([], [self._sink], [])
                return 0
        n = self._sink.write(view)
        return len(view) if n is None else int(n)


class ArtifactWriter:
    """Streams one artifact; O(batch) memory.

    The header goes out at once.  Then call `write` for every dataset of `order`, as often as
    needed, and `finish`.  Provenance, checksums and the end mark are the writer's own affair.

    Args:
        sink: file descriptor, binary file, or `AtomicFile` (whose space is reserved first).
        kind: a key of `SCHEMA`.
        attrs: root attributes (str, int, float); `encoding-*`, `profile`, `creator` and
            `n-samples` are added, None is left out.
        specs: path to (shape, dtype) of every dataset; strings as `S<longest in bytes>`.
        provenance: JSON texts, oldest first.
        dataset_attrs: path to attributes of that dataset.

    Attributes:
        order: the paths in the order in which they must be written.
        total: length of the finished file in bytes.

    Raises:
        DataError: shapes or types that the schema does not allow.
        StorageError: no room.
        BrokenPipeError: the reader went away; let it through.
    """

    def __init__(
        self,
        sink: int | BinaryIO | Any,
        kind: str,
        attrs: Mapping[str, Any],
        specs: Mapping[str, Spec],
        provenance: Sequence[str] = (),
        dataset_attrs: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.kind = kind
        notes = dataset_attrs or {}
        shapes = {p: tuple(int(n) for n in shape) for p, (shape, _) in specs.items()}
        self.attrs = _root_attrs(kind, attrs, shapes)
        self.order: tuple[str, ...] = tuple(stream_order(kind, list(specs)))
        dtypes = {p: disk_dtype(kind, p, specs[p][1]) for p in self.order}
        _check_specs(kind, shapes, dtypes, self.attrs)
        steps = encode_strings("/provenance", np.array(list(provenance), dtype=object))
        self._slots = [Planned("/provenance", steps.shape, steps.dtype)]
        for path in self.order:
            item = item_of(kind, path)
            enum = item.enum if item is not None else None
            note = dict(sorted(notes.get(path, {}).items()))
            self._slots.append(Planned(path, shapes[path], dtypes[path], enum, note))
        self._hashes = {
            s.path: DatasetHash(s.path, s.dtype, s.shape, s.attrs) for s in self._slots[1:]
        }
        header = self._lay_out()
        if hasattr(sink, "reserve"):
            sink.reserve(self.total)
        self._sink = _Sink(sink)
        self._crc = BlockCrc(self._slots[-2].offset)
        self._background = Background(self.total > _THREAD_FROM)
        self._index = self._rows = self._pos = 0
        self._finished = False
        self._emit(header)
        self._sink.flush()
        self._put(steps)

    def _lay_out(self) -> bytes:
        """Places everything; the number of CRCs depends on the header's length, hence the loop."""
        body = sum(_size(s) for s in self._slots)
        blocks = max(1, -(-(body + 8192) // CRC_BLOCK))
        data = self._slots
        while True:
            tail = [
                Planned(_SHA, (32,), np.dtype("u1")),
                Planned(_CRC, (blocks,), np.dtype("<u4"),
                        attrs={"block-size": CRC_BLOCK, "covers-bytes": 0}),
                Planned(_END, (1,), np.dtype(f"S{len(END_MARK)}")),
            ]  # fmt: skip
            header, self.total = lay_out(self.attrs, [*data, *tail], (_CRC, "covers-bytes"))
            need = -(-tail[1].offset // CRC_BLOCK)
            if need == blocks:
                self._slots = [*data, *tail]
                return header
            blocks = need

    @property
    def position(self) -> int:
        """Bytes written so far."""
        return self._pos

    def place(self, path: str) -> tuple[int, int]:
        """Where a dataset lies in the file: (offset, bytes)."""
        slot = next(s for s in self._slots if s.path == path)
        return slot.offset, slot.nbytes

    def write(self, path: str, rows: ArrayLike) -> None:
        """The next rows of a dataset.

        Args:
            path: the dataset whose turn it is (see `order`).
            rows: (B, ...) in row order; a scalar dataset takes a scalar.

        Raises:
            DataError: values that the declared type cannot hold.
            ValueError: not this dataset's turn, wrong shape, too many rows.
        """
        if path not in self._hashes:
            raise ValueError(f"{path} was not declared")
        while self._slots[self._index].path != path:
            self._close_slot()
        slot = self._slots[self._index]
        a = np.asarray(rows)
        text = slot.dtype.kind == "S"
        a = encode_strings(path, a, slot.dtype.itemsize) if text else cast(path, a, slot.dtype)
        if a.shape[1:] != slot.shape[1:] or a.ndim != len(slot.shape):
            raise ValueError(f"{path}: rows of shape {a.shape}, declared {slot.shape}")
        if slot.shape and self._rows + a.shape[0] > slot.shape[0]:
            raise ValueError(f"{path}: more than {slot.shape[0]} rows")
        self._put(a)
        self._sink.flush(_LINGER)

    def _put(self, a: NDArray[Any]) -> None:
        slot = self._slots[self._index]
        self._rows += a.shape[0] if slot.shape else 1
        if not a.size:
            return
        if self._pos < slot.offset:
            self._emit(bytes(slot.offset - self._pos))
        step = max(1, _SLICE * len(a) // max(1, a.nbytes)) if slot.shape else 1
        for i in range(0, len(a) if slot.shape else 1, step):
            part = a[i : i + step] if slot.shape else a
            self._feed(slot.path, part)
            self._emit(as_bytes(disk_rows(part)))

    def _feed(self, path: str, part: NDArray[Any]) -> None:
        h = self._hashes.get(path)
        if h is not None:
            keep = part.copy() if self._background.threaded else part
            self._background.call(partial(h.update, keep))

    def _emit(self, data: bytes | memoryview) -> None:
        if self._pos < self._crc.covers:
            self._crc.update(data)
        self._pos += len(data)
        self._sink.write(data)

    def _close_slot(self) -> None:
        slot = self._slots[self._index]
        want = slot.shape[0] if slot.shape else 1
        if self._rows != want and slot.nbytes:
            raise ValueError(f"{slot.path}: {self._rows} of {want} rows written")
        self._index += 1
        self._rows = 0

    def finish(self) -> str:
        """Writes checksums and end mark.

        Returns:
            The content digest, 64 hex digits.

        Raises:
            ValueError: rows are missing.
        """
        if self._finished:
            raise ValueError("already finished")
        while self._slots[self._index].path != _SHA:
            self._close_slot()
        self._background.wait()
        digest = combine(self.kind, self.attrs, {p: h.hexdigest() for p, h in self._hashes.items()})
        self._put(np.frombuffer(bytes.fromhex(digest), np.uint8))
        self._close_slot()
        if self._pos < self._slots[self._index].offset:
            self._emit(bytes(self._slots[self._index].offset - self._pos))
        self._put(self._crc.array())
        self._close_slot()
        self._put(np.array([END_MARK.encode()]))
        self._sink.flush()
        if self._pos != self.total:
            raise RuntimeError(f"{self._pos} of {self.total} bytes written")
        self._finished = True
        return digest

    def flush(self) -> None:
        """Hands on what small writes have gathered."""
        self._sink.flush()

    def close(self) -> None:
        """Stops the helper thread of a writer that will not finish."""
        if not self._finished:
            self._background.wait()

    def __enter__(self) -> ArtifactWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _size(slot: Planned) -> int:
    return disk_size(slot.dtype) * int(np.prod(slot.shape, dtype=object))


def _root_attrs(
    kind: str, attrs: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    own: dict[str, Any] = {
        "encoding-type": kind,
        "encoding-version": SCHEMA[kind].version,
        "profile": PROFILE,
        "creator": _creator(),
    }
    own |= complete_attrs(kind, attrs, shapes)
    own["encoding-type"] = kind
    return dict(sorted(own.items()))


def _check_specs(
    kind: str,
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, np.dtype[Any]],
    attrs: Mapping[str, Any],
) -> None:
    from ucl.formats.check import schema_problems

    problems = schema_problems(kind, shapes, dtypes, attrs)
    if problems:
        raise DataError(f"cannot write {kind}: {problems[0]}")


def write_artifact(
    sink: int | BinaryIO | Any,
    kind: str,
    attrs: Mapping[str, Any],
    arrays: Mapping[str, ArrayLike],
    provenance: Sequence[str] = (),
    dataset_attrs: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """Writes whole arrays; as `ArtifactWriter`.

    Returns:
        The content digest, 64 hex digits.
    """
    ready = {path: on_disk(kind, path, a) for path, a in arrays.items()}
    specs = {path: (a.shape, a.dtype) for path, a in ready.items()}
    with ArtifactWriter(sink, kind, attrs, specs, provenance, dataset_attrs) as w:
        for path in w.order:
            w.write(path, ready[path])
        return w.finish()

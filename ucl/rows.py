"""Rows of an artifact as an artifact: what `select` and `align` write.

The schema says which axis of which dataset counts samples, so whatever a file of ours holds is taken along, optional
datasets too.  Of labels the clusters stay what they were; their sizes are counted again, and a cluster whose anchor is
left out gets the nearest member that remains.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ucl.artifacts import BAD_IMAGE, MISSING, OK, Samples, samples_digest
from ucl.context import Context
from ucl.errors import DataError
from ucl.formats.layout import SCHEMA
from ucl.formats.writer import ArtifactWriter
from ucl.store import chain, header_of, recipe

BLOCK = 4 << 20
"""Bytes of rows handled at a time."""

DENSE = 4
"""Ascending rows that are more than one in so many are read with all that lies between them."""

FILL: Mapping[str, float] = {"/labels": -1, "/flag": BAD_IMAGE, "/weight": 0, "/history/labels": -1, "/pred": -1, "/samples/status": MISSING}
"""What a row that is not there gets; NaN in other floats."""

_KEPT_ATTRS = ("model", "weights-sha256", "layer", "transform", "normalized", "root", "path-escaping")


def samples_of(file: Any) -> Samples:
    """The sample names of an opened file; the status is all OK here, as it comes last on a stream.

    Raises:
        DataError: it names no samples.
    """
    if "/samples/path" not in file.names:
        raise DataError(f"{file.name}: no /samples/path, so its rows have no names", "ucl convert --paths FILE names the rows")
    path = file.read("/samples/path")
    return Samples(path, np.full(len(path), OK, np.uint8))


def write_rows(file: Any, rows: NDArray[np.int64], sink: IO[bytes], verb: str, settings: dict[str, Any], *,
               names: NDArray[np.bytes_] | None = None, seed: int = 0) -> None:
    """Write some rows of an opened file as a file of the same kind.

    A file is read where its rows lie, a pipe as it comes; of big datasets one block of rows is held at a time, except that the
    features of a pipe are held whole if ``rows`` do not ascend.

    Args:
        file: opened artifact (features, labels or images) with sample names.
        rows: (M,) int64 rows to take, in the order wanted; -1 = there is none: NaN features, label -1, status MISSING.
        sink: binary file.
        verb: the command, for the provenance.  settings: what was asked for.  seed: of its draws.
        names: (M,) S the names of the rows, where rows are -1; default: those of the rows.

    Raises:
        DataError: the file names no samples.
    """
    samples = samples_of(file)
    path = samples.path[rows] if names is None else names
    origin = header_of(file)
    settings = settings | {"rows": hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()}
    before = Context.from_json(file.attrs.get("context") or "{}", file.name)
    context = Context(seed=before.seed, images=len(rows), samples_digest=samples_digest(path))
    specs, made = _specs(file, rows, path)
    attrs = {k: file.attrs[k] for k in _KEPT_ATTRS if file.attrs.get(k) is not None}
    attrs |= {"title": _title(file, specs), "recipe-id": recipe(file.kind, verb, settings, seed, [origin]), "context": context.to_json(),
              "samples-digest": context.samples_digest, "n-samples": len(rows), "parent-digest": samples.digest}
    with ArtifactWriter(sink, file.kind, attrs, specs, chain(verb, settings, seed, [origin], "cpu", 0)) as writer:
        for name in writer.order:
            if name in made:
                writer.write(name, made[name])
                continue
            for block in _taken(file, name, rows):
                writer.write(name, block)
        writer.finish()


def _axis(kind: str, name: str) -> int | None:
    """The axis of a dataset that counts samples."""
    item = SCHEMA[kind].item(name)
    return item.dims.index("N") if item is not None and "N" in item.dims else None


def _specs(file: Any, rows: NDArray[np.int64], path: NDArray[np.bytes_]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Shape and dtype of every dataset, and the values of those that are made here and not taken row by row."""
    made: dict[str, NDArray[Any]] = {"/samples/path": path, "/samples/parent_row": rows}
    if file.kind == "ucl/labels":
        made |= _clusters(file, rows)
    if (rows < 0).any() and "/samples/status" not in file.names:
        made["/samples/status"] = np.where(rows < 0, MISSING, OK).astype(np.uint8)
    specs: dict[str, Any] = {name: (value.shape, value.dtype) for name, value in made.items()}
    for name in file.names:
        if name in specs or SCHEMA[file.kind].item(name) is None:
            continue
        shape, axis = list(file.shape(name)), _axis(file.kind, name)
        if axis is not None:
            shape[axis] = len(rows)
        specs[name] = (tuple(shape), file.dtype(name))
    return specs, made


def _clusters(file: Any, rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Sizes and anchors of the clusters among the rows."""
    made: dict[str, NDArray[Any]] = {}
    labels = _filled(file.read("/labels"), rows, 0, -1)
    k = next((file.shape(f"/clusters/{n}")[0] for n in ("size", "anchor", "mean", "centroid") if f"/clusters/{n}" in file.names), 0)
    if "/clusters/size" in file.names:
        made["/clusters/size"] = np.bincount(labels[labels >= 0], minlength=k).astype(np.int64)
    if "/clusters/anchor" in file.names:
        where = np.full(file.shape("/labels")[0] + 1, -1, np.int64)     # the last stands for row -1
        where[rows[::-1]] = np.arange(len(rows))[::-1]
        where[-1] = -1
        anchor = where[file.read("/clusters/anchor")]
        if "/distance" in file.names:
            anchor = _nearest(anchor, labels, _filled(file.read("/distance"), rows, 0, np.nan))
        made["/clusters/anchor"] = anchor
    return made


def _nearest(anchor: NDArray[np.int64], labels: NDArray[np.int32], distance: NDArray[np.float32]) -> NDArray[np.int64]:
    """The anchors, and for those that are -1 the nearest labelled row of the cluster, the first of equals; -1 without members."""
    anchor = anchor.copy()
    members = np.flatnonzero((labels >= 0) & ~np.isnan(distance))
    order = members[np.lexsort((members, distance[members], labels[members]))]
    cluster, first = np.unique(labels[order], return_index=True)
    found = np.full(len(anchor), -1, np.int64)
    found[cluster] = order[first]
    missing = anchor < 0
    anchor[missing] = found[missing]
    return anchor


def _filled(values: NDArray[Any], rows: NDArray[np.int64], axis: int, fill: float) -> NDArray[Any]:
    """Rows of an array along an axis; ``fill`` where the row is -1."""
    taken = np.take(values, np.maximum(rows, 0), axis)
    if (rows < 0).any():
        at: list[Any] = [slice(None)] * values.ndim
        at[axis] = rows < 0
        taken[tuple(at)] = fill
    return taken


def _taken(file: Any, name: str, rows: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
    """The rows of a dataset in blocks; a dataset that does not count samples as it is."""
    axis = _axis(file.kind, name)
    if axis is None:
        yield file.read(name)
        return
    dtype = file.dtype(name)
    fill = FILL.get(name, np.nan if dtype.kind == "f" else 0)
    if axis:
        yield _filled(file.read(name), rows, axis, fill)
        return
    entry = file.entry(name)
    step = max(1, BLOCK // max(1, entry.nbytes // max(1, entry.rows)))
    ascending = not len(rows) or (rows[0] >= 0 and bool((np.diff(rows) > 0).all()))
    dense = len(rows) * DENSE > entry.rows
    if ascending and (dense or file.streaming or entry.offset is None or entry.stored != entry.dtype):
        yield from _passing(file, name, rows, step)
        return
    values = file.read(name) if file.streaming else file.mapped(name)
    for start in range(0, len(rows), step):
        yield _filled(values, rows[start:start + step], 0, fill)


def _passing(file: Any, name: str, rows: NDArray[np.int64], step: int) -> Iterator[NDArray[Any]]:
    """Ascending rows of a dataset that goes by once."""
    at = 0
    for block in file.rows(name, step):
        a, b = np.searchsorted(rows, (at, at + len(block)))
        if a < b:
            yield np.ascontiguousarray(block[rows[a:b] - at])
        at += len(block)


def _title(file: Any, specs: dict[str, Any]) -> str:
    n = specs["/samples/path"][0][0]
    of = str(file.attrs.get("title") or file.kind)
    return f"{n} rows of: {of}"[:200]

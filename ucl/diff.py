"""`ucl diff`: what differs between two artifacts of one kind.

Equal means equal content, as `ucl digest` counts it: the datasets and the attributes that say which samples they speak of.
Titles, times and provenance are told where something else differs, and make no difference by themselves.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ucl.agreement import compare_labelings
from ucl.decode import show
from ucl.errors import DataError
from ucl.formats.layout import relevant_attrs

BLOCK = 4 << 20
"""Bytes compared at a time."""

JSONS = ("/config", "/clusters/info")


@dataclass
class Difference:
    """How one dataset differs.

    Attributes:
        path: its name.  what: in words, for people.
        rows: rows that differ, or None where they cannot be compared; of: rows there are.
        first: the first such row; name: its sample; largest: greatest absolute difference of numbers.
        relative: norm of the difference over the norm of the first file's values.
        values: of small JSON datasets and metrics, key -> (first, second).
    """

    path: str
    what: str = ""
    rows: int | None = None
    of: int = 0
    first: int = -1
    name: str = ""
    largest: float | None = None
    relative: float | None = None
    values: dict[str, tuple[Any, Any]] = field(default_factory=dict)

    def __str__(self) -> str:
        if self.values:
            some = list(self.values.items())
            shown = "; ".join(f"{k}: {_short(a)}, {_short(b)}" for k, (a, b) in some[:6])
            return shown + (f"; {len(some) - 6} more" if len(some) > 6 else "")
        if self.rows is None:
            return self.what
        text = f"{self.rows} of {self.of} rows differ, the first is {self.first}" + (f" ({self.name})" if self.name else "")
        text += f": {self.what}" if self.what else ""
        text += f"; largest difference {self.largest:.6g}" if self.largest is not None else ""
        return text + (f", relative norm {self.relative:.3g}" if self.relative is not None else "")


@dataclass
class Comparison:
    """Two artifacts compared.

    Attributes:
        kind: of both.
        equal: their contents are.
        datasets: the differences, in the order of the first file.
        attrs: attributes that are content, and differ: name -> (first, second).
        notes: attributes that are no content, likewise.
        labels: of labels over the same number of rows: churn, both NMI, ARI, and whether only the numbers differ.
        renumbering: cluster of the first file -> cluster of the second, where that is all.
        same_recipe: both say that they were made from the same input by the same settings.
    """

    kind: str
    datasets: list[Difference] = field(default_factory=list)
    attrs: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    notes: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    labels: dict[str, float] = field(default_factory=dict)
    renumbering: dict[int, int] | None = None
    same_recipe: bool = False

    @property
    def equal(self) -> bool:
        """Whether nothing that is content differs."""
        return not self.datasets and not self.attrs


def compare(a: Any, b: Any, tolerance: float | None = None) -> Comparison:
    """Compare two opened artifacts; rows are read in blocks, so memory does not grow with them.

    Args:
        a: the first; may be a stream.  b: the second, a file.
        tolerance: numbers that differ by no more are equal, and so are +0 and -0; None: bits are compared.  NaN equals NaN.

    Raises:
        DataError: of different kinds.
    """
    if a.kind != b.kind:
        raise DataError(f"{a.name} is {a.kind}, {b.name} is {b.kind}: nothing to compare", "give two files of one kind")
    made = Comparison(a.kind)
    for key in sorted({*a.attrs, *b.attrs} - {"profile"}):
        x, y = a.attrs.get(key), b.attrs.get(key)
        if not _same(x, y):
            (made.attrs if key in relevant_attrs() else made.notes)[key] = (x, y)
    if a.foreign or b.foreign:  # somebody else's file states no attributes
        made.attrs = {k: v for k, v in made.attrs.items() if None not in v}
    made.same_recipe = bool(a.attrs.get("recipe-id")) and a.attrs.get("recipe-id") == b.attrs.get("recipe-id")
    names = _names(a)
    kept: dict[str, NDArray[Any]] = {}
    for path in a.names:
        if path not in b.names:
            made.datasets.append(Difference(path, f"only in {a.name}"))
        elif found := _dataset(a, b, path, names, tolerance, kept):
            made.datasets.append(found)
    made.datasets += [Difference(path, f"only in {b.name}") for path in b.names if path not in a.names]
    if made.kind == "ucl/labels" and a.shape("/labels") == b.shape("/labels"):
        _labelings(made, kept.get("/labels", b.read("/labels")), b.read("/labels"))
    return made


def _same(x: Any, y: Any) -> bool:
    return bool(np.array_equal(x, y)) if isinstance(x, np.ndarray) or isinstance(y, np.ndarray) else bool(x == y)


def _names(a: Any) -> NDArray[np.bytes_] | None:
    return a.read("/samples/path") if "/samples/path" in a.names else None


def _dataset(a: Any, b: Any, path: str, names: NDArray[np.bytes_] | None, tolerance: float | None,
             kept: dict[str, NDArray[Any]]) -> Difference | None:
    """How a dataset of both differs; None if it does not."""
    if a.shape(path) != b.shape(path):
        return Difference(path, f"shape {a.shape(path)}, {b.shape(path)}")
    if a.dtype(path) != b.dtype(path) and "S" not in (a.dtype(path).kind, b.dtype(path).kind) and tolerance is None:
        return Difference(path, f"type {a.dtype(path)}, {b.dtype(path)}")
    if path in JSONS:
        return _json(a, b, path)
    if path == "/labels":
        kept[path] = a.read(path)
    if a.dtype(path).names is not None:
        return _table(path, a.read(path), b.read(path), tolerance)
    sampled = names is not None and a.shape(path)[:1] == names.shape
    return _rows(a, b, path, names if sampled else None, tolerance)


def _blocks(a: Any, b: Any, path: str) -> Iterator[tuple[int, NDArray[Any], NDArray[Any]]]:
    """(first row, rows of a, rows of b)."""
    entry = a.entry(path)
    step = max(1, BLOCK // max(1, entry.nbytes // max(1, entry.rows)))
    at = 0
    for rows in a.rows(path, step):
        rows = np.atleast_1d(rows)
        yield at, rows, np.atleast_1d(b.read_rows(path, at, at + len(rows)))
        at += len(rows)


def _rows(a: Any, b: Any, path: str, names: NDArray[np.bytes_] | None, tolerance: float | None) -> Difference | None:
    found = Difference(path, rows=0, of=a.entry(path).rows)
    number = a.dtype(path).kind in "fiub"
    largest, off, size = 0.0, 0.0, 0.0
    for at, x, y in _blocks(a, b, path):
        with np.errstate(invalid="ignore", over="ignore"):
            differs = _unequal(x, y, tolerance)
            if number:
                wide_x, wide_y = x.astype(np.float64), y.astype(np.float64)
                gap = np.abs(wide_x - wide_y)
                gap[np.isnan(wide_x) & np.isnan(wide_y) | (wide_x == wide_y)] = 0
                if differs.any():
                    largest = max(largest, float(np.nan_to_num(gap, nan=math.inf).max()))
                off, size = off + float(np.nansum(gap**2)), size + float(np.nansum(wide_x**2))
        rows = differs.reshape(len(differs), -1).any(axis=1)
        if not rows.any():
            continue
        if not found.rows:
            row = int(np.argmax(rows))
            found.first = at + row
            found.name = show(names[at + row]) if names is not None else ""
            at_cell = tuple(int(i) for i in np.argwhere(np.atleast_1d(differs[row]))[0]) if differs.ndim > 1 else ()
            found.what = f"{_cell(x[row], at_cell)}, {_cell(y[row], at_cell)}" + (f" in column {','.join(map(str, at_cell))}" if at_cell else "")
        found.rows = (found.rows or 0) + int(rows.sum())
    if not found.rows:
        return None
    if number:
        found.largest = largest
        found.relative = math.sqrt(off / size) if size and a.dtype(path).kind == "f" and math.isfinite(off) else None
    return found


def _unequal(x: NDArray[Any], y: NDArray[Any], tolerance: float | None) -> NDArray[np.bool_]:
    """Which elements differ."""
    if x.dtype.kind != "f" and y.dtype.kind != "f":
        return np.asarray(x != y)
    both = np.isnan(x) & np.isnan(y)
    if tolerance is None:
        code = f"u{x.dtype.itemsize}"
        return np.asarray((np.ascontiguousarray(x).view(code) != np.ascontiguousarray(y).view(code)) & ~both)
    near = (x == y) | (np.abs(x.astype(np.float64) - y.astype(np.float64)) <= tolerance)
    return np.asarray(~(near | both))


def _cell(row: Any, at: tuple[int, ...]) -> str:
    value = row[at] if at else row
    return show(bytes(value)) if isinstance(value, bytes) else f"{value:.9g}" if isinstance(value, np.floating) else str(value)


def _json(a: Any, b: Any, path: str) -> Difference | None:
    """Keys whose values differ in a dataset that holds one JSON object."""
    x, y = (_flat(json.loads(f.read(path)[0])) for f in (a, b))
    values = {k: (x.get(k), y.get(k)) for k in sorted({*x, *y}) if x.get(k) != y.get(k)}
    return Difference(path, values=values) if values else None


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for key, item in value.items() for k, v in _flat(item, f"{prefix}.{key}" if prefix else str(key)).items()}


def _table(path: str, x: NDArray[Any], y: NDArray[Any], tolerance: float | None) -> Difference | None:
    """Fields of one-row tables, and metrics by their names."""
    rows = [{(t["name"].decode() if "name" in t.dtype.names else ""): t for t in table} for table in (x, y)]
    values: dict[str, tuple[Any, Any]] = {}
    for key in dict.fromkeys([*rows[0], *rows[1]]):
        p, q = rows[0].get(key), rows[1].get(key)
        if p is None or q is None:
            values[key] = (None if p is None else "there", None if q is None else "there")
            continue
        for field_name in x.dtype.names or ():
            u, v = np.atleast_1d(p[field_name]), np.atleast_1d(q[field_name])
            if _unequal(u, v, tolerance).any():
                values[f"{key}.{field_name}".strip(".")] = (_plain(u[0]), _plain(v[0]))
    return Difference(path, values=values) if values else None


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return None if isinstance(value, float) and value != value else value


def _short(value: Any) -> str:
    text = "none" if value is None else f"{value:.9g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _labelings(made: Comparison, x: NDArray[np.int32], y: NDArray[np.int32]) -> None:
    """How two labelings agree, and whether one is the other with other numbers."""
    from sklearn.metrics import adjusted_rand_score

    if np.array_equal(x, y):
        return
    made.labels = compare_labelings(x.astype(np.int32), y.astype(np.int32))
    both = (x >= 0) & (y >= 0)
    made.labels["ari"] = float(adjusted_rand_score(x[both], y[both])) if both.any() else math.nan
    made.renumbering = renumbering(x, y)


def renumbering(x: NDArray[np.int32], y: NDArray[np.int32]) -> dict[int, int] | None:
    """The one-to-one map of ids that makes ``x`` into ``y``, -1 to itself; None if there is none."""
    pairs = np.unique(np.stack([x, y], axis=1), axis=0)
    if len(np.unique(pairs[:, 0])) != len(pairs) or len(np.unique(pairs[:, 1])) != len(pairs) or ((pairs < 0).sum(axis=1) == 1).any():
        return None
    return {int(p): int(q) for p, q in pairs.tolist() if p >= 0}

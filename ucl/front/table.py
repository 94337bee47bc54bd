"""Artifacts as tables of rows, for `view`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ucl.artifacts import FLAGS, STATUS
from ucl.errors import UsageError
from ucl.front import session
from ucl.front.streams import standard_input, stdin_is_data
from ucl.rundir import RunDir


class Named:
    """A column of names, looked up by their numbers when rows of it are taken; like an array of them."""

    def __init__(self, names: NDArray[np.bytes_], index: NDArray[Any]) -> None:
        self.names, self.index = names, index

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[np.bytes_]:
        found: NDArray[np.bytes_] = self.names[self.index[rows]]
        return found


Table = dict[str, Any]
"""Name of a column -> an array, or `Named`."""


def table_of(file: str | None) -> Table:
    """The rows of a file, or of the run directory's newest labels; of its image list where it has none.

    Raises:
        UsageError: nothing to show.
    """
    from ucl.formats.reader import open_artifact

    source: Path | int
    if file == "-" or (file is None and stdin_is_data()):
        source, name = standard_input(), "stdin"
    elif file is not None:
        source, name = Path(file), file
    else:
        run = RunDir.here()
        if run is None:
            raise UsageError("no FILE, and this is no run directory")
        labelled = session.has_labels(run)
        source = run.file(run.newest, "labels") if labelled else run.path / "images.h5"
        name = str(source)
    with open_artifact(source, name=name) as opened:
        table = _rows(opened)
        if source == 0:
            opened.drain()
    return table


def _rows(file: Any) -> Table:
    """Columns of whatever the file holds, in reading order."""
    found: dict[str, NDArray[Any]] = {}
    if "/metrics" in file.names:
        metrics = file.read("/metrics")
        return {str(name): metrics[name] for name in metrics.dtype.names}
    if file.kind in ("ucl/neighbors", "ucl/pairs"):
        return _near(file)
    for path in file.names:  # in the order of the file, so that a stream can be read
        name = path.rsplit("/", 1)[-1]
        if path in ("/labels", "/flag", "/distance", "/score", "/weight", "/samples/path", "/samples/status", "/samples/size", "/samples/crc32"):
            found[{"labels": "label"}.get(name, name)] = file.read(path)
    if not found:
        raise UsageError(f"{file.name}: {file.kind} has no rows to list", "ucl info describes it")
    n = len(next(iter(found.values())))
    for name, words in (("status", STATUS), ("flag", FLAGS)):
        if name in found:
            found[name] = np.array([w.encode() for w in words])[np.minimum(found[name], len(words) - 1)]
    first = [c for c in ("path", "label", "distance", "flag") if c in found]
    ordered: Table = {"row": np.arange(n)}
    ordered |= {c: found[c] for c in first}
    if "score" in found and np.isnan(found["score"]).all():
        del found["score"]
    return ordered | {c: v for c, v in found.items() if c not in ordered}


def _near(file: Any) -> Table:
    """One line for each neighbour that there is, or each pair."""
    names = file.read("/samples/path") if "/samples/path" in file.names else None
    others = file.read("/among/path") if "/among/path" in file.names else names
    if file.kind == "ucl/pairs":
        pairs = file.read("/pairs")
        row, other = pairs[:, 0], pairs[:, 1]
        measured = {"similarity": file.read("/similarity")} if "/similarity" in file.names else {}
        rank: Table = {}
        called = "other"
    else:
        near = file.read("/neighbors")
        there = near >= 0
        row, column = np.nonzero(there)
        other, rank, called = near[there], {"rank": column + 1}, "neighbor"
        measured = {"distance": file.read("/distances")[there]} if "/distances" in file.names else {}
    path: Table = {} if names is None else {"path": Named(names, row)}
    other_path: Table = {} if others is None else {f"{called}_path": Named(others, other)}
    return {"row": row, **path, **rank, called: other, **other_path, **measured}


def select(table: Table, columns: str | None, cluster: int | None, bad: bool, rows: str | None, head: int | None,
           sort: str | None) -> dict[str, NDArray[Any]]:
    """The rows and columns asked for.

    Raises:
        UsageError: an unknown column, or rows that read not as A:B.
    """
    n = len(next(iter(table.values())))
    keep = np.arange(n)
    if rows is not None:
        a, mark, b = rows.partition(":")
        if not mark or (a and not a.isdecimal()) or (b and not b.isdecimal()):
            raise UsageError(f"--rows: found {rows!r}, wanted A:B")
        number = _column(table, "row")[keep] if "row" in table else keep
        keep = keep[(number >= int(a or 0)) & (number < (int(b) if b else max(n, int(number.max(initial=0)) + 1)))]
    if cluster is not None:
        keep = keep[_column(table, "label")[keep] == cluster]
    if bad:
        keep = keep[_column(table, "status")[keep] != b"OK"]
    if sort is not None:
        keep = keep[np.argsort(_column(table, sort)[keep], kind="stable")]
    if head is not None:
        keep = keep[:max(head, 0)]
    names = columns.split(",") if columns else list(table)
    return {name: _column(table, name)[keep] for name in names}


def _column(table: Table, name: str) -> Any:
    if name not in table:
        raise UsageError(f"no column {name!r}", "columns: " + ", ".join(table))
    return table[name]

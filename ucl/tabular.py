"""CSV and TSV files as rows in blocks, in and out: lines of a name and a label, or of a name and D numbers.

A file is parsed line by line, and twice, as the number of rows must be known before the first is handed on; memory does
not grow with the number of values.  Quoting follows RFC 4180.
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ucl.artifacts import FLAGS
from ucl.errors import DataError
from ucl.foreign import EXTRAS, LABELS, PATHS, Found, Rows, step_of

log = logging.getLogger(__name__)


@dataclass
class _Plan:
    """What the columns of a CSV file are."""

    header: bool
    width: int
    path: int | None
    label: int | None
    extras: dict[str, int]
    values: list[int]
    ignored: list[str]


def read_csv(file: IO[bytes], name: str, mark: str, labelled: bool | None) -> Found:
    """A CSV or TSV file: names and a label, or names and D numbers; names and header may be missing.

    Args:
        file: a seekable file of UTF-8.  name: for messages.  mark: the separator.
        labelled: True or False where the caller knows what it holds.

    Raises:
        DataError: not UTF-8, a line of another length, or a field that is no number; the line is named.
    """
    plan = _plan(file, name, mark, labelled)
    is_labels = plan.label is not None
    if plan.ignored:
        log.warning("%s: columns not taken over: %s", name, ", ".join(plan.ignored[:8]))
    n, paths = 0, []
    extras: dict[str, list[str]] = {key: [] for key in plan.extras}
    for _, row in _lines(file, name, mark, plan):
        n += 1
        if plan.path is not None:
            paths.append(row[plan.path].encode())
        for key, at in plan.extras.items():
            extras[key].append(row[at])
    width = (n,) if is_labels else (n, len(plan.values))
    dtype = np.dtype("<i8" if is_labels else "<f4")
    rows = Rows(name, width, dtype, lambda: _numbers(file, name, mark, plan, dtype))
    columns = {key: _extra(values, key, name) for key, values in extras.items() if n}
    if plan.path is not None and any(not p for p in paths):
        raise DataError(f"{name}: row {[bool(p) for p in paths].index(False)}: an empty name", "one name per row")
    return Found(rows, np.array(paths) if paths else None, columns, is_labels)


def _lines(file: IO[bytes], name: str, mark: str, plan: _Plan | None = None) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of every row, without the header once there is a plan."""
    file.seek(0)
    text = io.TextIOWrapper(io.BufferedReader(_Unclosed(file)), "utf-8-sig", newline="")
    reader = csv.reader(text, delimiter=mark)
    skip = plan is not None and plan.header
    try:
        for row in reader:
            if not row:
                continue
            if skip:
                skip = False
                continue
            if plan is not None and len(row) != plan.width:
                raise DataError(f"{name}: line {reader.line_num}: {len(row)} fields, wanted {plan.width} as in the first",
                                "every line has the same columns")
            yield reader.line_num, row
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: line {reader.line_num + 1}: not UTF-8 text", "iconv -t utf-8 makes it so") from error
    except csv.Error as error:
        raise DataError(f"{name}: line {reader.line_num}: {error}", "fields are separated by commas or tabs, quoted by \"") from error


class _Unclosed(io.RawIOBase):
    """A file that a text wrapper may forget without closing it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.file.read(len(buffer))
        buffer[:len(data)] = data
        return len(data)


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _plan(file: IO[bytes], name: str, mark: str, labelled: bool | None) -> _Plan:
    """What the columns are, from the first two lines."""
    lines = _lines(file, name, mark)
    first = next(lines, (0, []))[1]
    second = next(lines, (0, None))[1]
    if not first:
        raise DataError(f"{name}: empty: no rows", "lines of path,label or of numbers")
    counted = len(first) >= 4 and first == [str(i) for i in range(len(first))]
    lower = [f.strip().lower() for f in first]
    header = counted or not first[0] or lower[0] in (*PATHS, *LABELS) or not any(_number(f) for f in (first[1:] or first))
    sample = second if header else first
    if sample is None:
        raise DataError(f"{name}: a header and no rows", "lines of path,label or of numbers")
    titles = lower if header else [""] * len(first)
    path = next((i for i, t in enumerate(titles) if t in PATHS), None)
    if path is None and not (sample[0] and _number(sample[0])):
        path = 0
    label = next((i for i, t in enumerate(titles) if t in LABELS and i != path), None)
    rest = [i for i in range(len(first)) if i != path and not (header and not counted and titles[i] == "")]
    if label is None and len(rest) == 1 and labelled is not False:
        whole = sample[rest[0]].strip().lstrip("+-").isdecimal()
        label = rest[0] if labelled or whole else None
    if not rest:
        raise DataError(f"{name}: found {first[0][:40]!r} and no column of values",
                        "lines of path,label or of numbers; a list of names goes to --paths")
    if labelled and label is None:
        raise DataError(f"{name}: {len(rest)} columns of values and none called label", "path,label")
    if label is None or labelled is False:
        return _Plan(header, len(first), path, None, {}, rest, [])
    extras = {t: i for i, t in enumerate(titles) if t in EXTRAS}
    ignored = [first[i] for i in rest if i != label and i not in extras.values()]
    return _Plan(header, len(first), path, label, extras, [label], ignored)


def _numbers(file: IO[bytes], name: str, mark: str, plan: _Plan, dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    """The values in blocks: (B,) int64 labels or (B, D) float32."""
    step = step_of((0, len(plan.values)), 32)
    numbers: list[int] = []
    rows: list[list[str]] = []

    def block() -> NDArray[Any]:
        made = _parse(rows, numbers, name, dtype)
        rows.clear()
        numbers.clear()
        return made

    for line, row in _lines(file, name, mark, plan):
        numbers.append(line)
        rows.append([row[i] for i in plan.values])
        if len(rows) == step:
            yield block()
    if rows:
        yield block()


def _parse(rows: list[list[str]], lines: list[int], name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    try:
        values = np.array(rows, dtype=np.float64)
    except ValueError as error:
        line, text = next((n, f) for n, row in zip(lines, rows, strict=True) for f in row if not _number(f))
        hint = ("labels are whole numbers from -1; classes by name: ucl targets --targets FILE" if dtype.kind == "i"
                else "a missing value is written nan")
        raise DataError(f"{name}: line {line}: found {text[:40]!r}, wanted a number", hint) from error
    if dtype.kind == "i":
        values = values[:, 0]
        bad = np.flatnonzero(~(np.abs(values) < 2**53) | (values != np.floor(values)))
        if len(bad):
            raise DataError(f"{name}: line {lines[bad[0]]}: found {rows[bad[0]][0][:40]!r}, wanted a whole number",
                            "labels are whole numbers from -1")
        return values.astype(dtype)
    with np.errstate(over="ignore"):
        made = values.astype(dtype)
    bad = np.flatnonzero((np.isinf(made) & ~np.isinf(values)).any(axis=1))
    if len(bad):
        raise DataError(f"{name}: line {lines[bad[0]]}: a value overflows float32", "scale the features")
    return made


def _extra(values: list[str], key: str, name: str) -> NDArray[Any]:
    """A column beside the labels."""
    if key == "flag":
        words = {word: code for code, word in enumerate(FLAGS)} | {str(code): code for code in range(len(FLAGS))}
        unknown = next((v for v in values if v not in words), None)
        if unknown is not None:
            raise DataError(f"{name}: flag {unknown[:40]!r}, wanted one of {', '.join(FLAGS)}", "leave the column out")
        return np.array([words[v] for v in values], np.uint8)
    try:
        return np.array(values, np.float64).astype(np.float32)
    except ValueError as error:
        bad = next(v for v in values if not _number(v))
        raise DataError(f"{name}: {key} {bad[:40]!r}, wanted a number", "leave the column out") from error


def quoted(text: str, mark: str) -> str:
    """A field as CSV (RFC 4180) writes it."""
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in (mark, '"', "\n", "\r")) or text != text.strip() else text


def write_csv(out: IO[bytes], titles: list[str], mark: str, columns: Iterable[tuple[list[Any], ...]], *, header: bool) -> None:
    """A CSV file: titles, then blocks of columns; floats with the digits that bring them back exactly.

    Args:
        titles: names of the columns.  mark: the separator.
        columns: per block one list per column: of bytes (names), str, int or float32 rows (lists of float).
        header: write the titles.
    """
    if header:
        out.write((mark.join(titles) + "\n").encode())
    for block in columns:
        texts = [_texts(column, mark) for column in block]
        out.write("".join(mark.join(row) + "\n" for row in zip(*texts, strict=True)).encode())


def _texts(column: list[Any], mark: str) -> list[str]:
    if column and isinstance(column[0], bytes):
        return [quoted(v.decode("utf-8", "replace"), mark) for v in column]
    if column and isinstance(column[0], list):
        form = mark.join(["%.9g"] * len(column[0]))
        return [form % tuple(row) for row in column]
    if column and isinstance(column[0], float):
        return [f"{v:.9g}" for v in column]
    return [str(v) for v in column]

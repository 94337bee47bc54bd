"""`ucl select`: which rows of a list are taken.  Every choice keeps the order; draws are keyed by seed and row."""

from __future__ import annotations

import fnmatch
import re

import numpy as np
from numpy.typing import NDArray

from ucl.decode import show
from ucl.errors import DataError, UsageError
from ucl.keys import Key
from ucl.names import Names, positions

Chosen = NDArray[np.int64]


def by_number(text: str, n: int) -> Chosen:
    """Rows named as "A:B", single numbers, or several of them with commas; ascending.

    Raises:
        UsageError: it does not read so, or names a row that is not there.
    """
    rows: set[int] = set()
    for part in text.split(","):
        a, mark, b = part.strip().partition(":")
        if not (a.isdecimal() or (mark and not a)) or (b and not b.isdecimal()):
            raise UsageError(f"--rows: found {part!r}, wanted A:B or a row number", "--rows 0:100,250")
        start = int(a or 0)
        stop = (int(b) if b else n) if mark else start + 1
        if stop > n or start >= stop:
            raise UsageError(f"--rows: found {part!r}, but the rows are 0 to {n - 1}")
        rows.update(range(start, stop))
    return np.array(sorted(rows), np.int64)


def by_name(names: Names, have: Names, where: str) -> Chosen:
    """Rows of the named images; ascending.

    Raises:
        DataError: a name that is not there; the first, and how many.
    """
    rows = positions(names, have)
    missing = np.flatnonzero(rows < 0)
    if len(missing):
        raise DataError(f"{where}: {len(missing)} of {len(names)} names are not among the rows; the first is {show(names[missing[0]])}",
                        "names as ucl view shows them, relative to the image folder")
    return np.unique(rows)


def by_glob(patterns: list[str], have: Names) -> Chosen:
    """Rows whose name matches one of some shell patterns, in which * also matches /."""
    match = re.compile("|".join(fnmatch.translate(p) for p in patterns)).match
    return np.array([row for row, name in enumerate(have.tolist()) if match(name.decode("utf-8", "surrogateescape"))], np.int64)


def by_value(values: NDArray[np.integer], wanted: list[int]) -> Chosen:
    """Rows with one of some values; ascending."""
    return np.flatnonzero(np.isin(values, wanted)).astype(np.int64)


def drawn(rows: Chosen, count: int, key: Key) -> Chosen:
    """``count`` of the rows at random, ascending.  A row's lot depends on seed and row alone, so a smaller draw is part of a larger one.

    Raises:
        UsageError: fewer rows than that.
    """
    if count > len(rows):
        raise UsageError(f"--sample: {count} of {len(rows)} rows", "ask for fewer")
    return np.sort(rows[np.argsort(key.bits("sample", rows), kind="stable")[:count]])

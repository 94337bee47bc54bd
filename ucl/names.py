"""Lists of sample names: read from a text file, checked, and found again in another list."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ucl.decode import check_path, show
from ucl.errors import DataError, InputMissing

Names = NDArray[np.bytes_]


def read_names(path: Path) -> Names:
    """One name per line, in order; empty lines, a byte-order mark and the CR of CRLF are dropped; (M,) S.

    Raises:
        InputMissing: no such file, or no names in it.  DataError: not UTF-8.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputMissing(f"{path}: no such file", "a text file with one path per line") from error
    except IsADirectoryError as error:
        raise InputMissing(f"{path}: a folder, wanted a text file", "one path per line, in the order of the rows") from error
    lines = [line.removesuffix(b"\r") for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n")]
    names = [line for line in lines if line]
    if not names:
        raise InputMissing(f"{path}: the list is empty", "one path per line")
    try:
        b"".join(names).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text", "one path per line, as ucl view shows them") from error
    return np.array(names)


def require_unique(names: Names, where: str) -> None:
    """Refuse a name that two rows have.

    Raises:
        DataError: the first such name, its rows, and how many there are.
    """
    seen: dict[bytes, int] = {}
    first: tuple[int, int] | None = None
    doubles = 0
    for row, name in enumerate(names.tolist()):
        if seen.setdefault(name, row) != row:
            doubles += 1
            first = first or (seen[name], row)
    if first is not None:
        raise DataError(f"{where}: rows {first[0]} and {first[1]} are both {show(names[first[0]])} ({doubles} rows repeat a name)",
                        "an image may be listed once; ucl view FILE --columns path | sort | uniq -d shows them")


def require_plain(names: Names, where: str) -> None:
    """Refuse names that no image list could hold: absolute, with "..", a NUL or a newline, or twice.

    Raises:
        DataError: the first of them.
    """
    for row, name in enumerate(names.tolist()):
        try:
            check_path(name)
        except DataError as error:
            raise DataError(f"{where}: row {row}: {error.message}", "write paths relative to the image folder, as ucl init lists them") from error
    require_unique(names, where)


def positions(wanted: Names, have: Names) -> NDArray[np.int64]:
    """Row of each wanted name in ``have``, -1 where it is not there; (M,) int64.  ``have`` must not repeat a name."""
    rows = {name: row for row, name in enumerate(have.tolist())}
    return np.array([rows.get(name, -1) for name in wanted.tolist()], np.int64)

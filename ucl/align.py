"""`ucl align`: rows in the order of another list, by name."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from ucl.decode import show
from ucl.errors import DataError
from ucl.names import Names, positions, require_unique

log = logging.getLogger(__name__)


def rows_in_order(have: Names, wanted: Names, where: str, of: str, *, fill: bool) -> NDArray[np.int64]:
    """Which row of ``have`` each of the ``wanted`` names is.

    Args:
        have: (N,) S names of the rows there are.  wanted: (M,) S names in the order wanted.
        where: the file that has them.  of: the list that wants them; both for messages.
        fill: names that are not there get -1; a warning says how many.

    Returns:
        (M,) int64 rows, -1 for none.

    Raises:
        DataError: a list that repeats a name, no name in common, or, without ``fill``, a name that is not there.
    """
    require_unique(have, where)
    require_unique(wanted, of)
    rows = positions(wanted, have)
    missing = np.flatnonzero(rows < 0)
    if not len(missing):
        return rows
    first = f"the first is row {missing[0]}, {show(wanted[missing[0]])}"
    if len(missing) == len(wanted):
        raise DataError(f"{where}: none of the {len(wanted)} images of {of}; {first}, and the first here is {show(have[0])}",
                        "names are relative to the image folder: were both made from the same one?")
    if not fill:
        raise DataError(f"{where}: {len(missing)} of the {len(wanted)} images of {of} are not in it; {first}",
                        "--fill writes NaN features, or labels -1, for them")
    log.warning("%d of %d images are filled in: %s; labels -1 or NaN features, status MISSING", len(missing), len(wanted), first)
    return rows

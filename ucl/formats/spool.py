"""Temporary files without a name, in the spool folder: nothing to clean up, whatever becomes of the process."""

from __future__ import annotations

import os
import tempfile
from typing import IO

from ucl.errors import StorageError
from ucl.formats.atomic import explain


def spool_file(what: str, total: int | None, folder: str | os.PathLike[str] | None = None) -> IO[bytes]:
    """An open file that nobody else sees.

    Args:
        what: what it will hold, for messages.
        total: bytes that it will hold, if that is known.
        folder: where; default TMPDIR.

    Raises:
        StorageError: no room for ``total`` bytes, or the folder cannot be written to.
    """
    place = os.fspath(folder) if folder is not None else tempfile.gettempdir()
    try:
        free = os.statvfs(place)
        if total and free.f_bavail * free.f_frsize < total:
            raise StorageError(f"{place}: no room to spool {what}: {total} bytes wanted, {free.f_bavail * free.f_frsize} free",
                               "TMPDIR=/somewhere/else")
        return tempfile.TemporaryFile(dir=place, prefix="ucl-spool-")
    except OSError as e:
        raise explain(e, place, f"spool {what}") from e

"""Temporary files without a name, in the spool folder: nothing to clean up, whatever becomes of the process."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

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


class Spool:
    """Bytes on disk that live as long as this object.

    Args:
        folder: where; None: the system's place (TMPDIR).

    Raises:
        StorageError: no room, from any method that writes.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._fd = -1
        self.where = str(folder or tempfile.gettempdir())
        with spool_file("images", None, folder) as file:
            self._fd = os.dup(file.fileno())

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def fileno(self) -> int:
        """The descriptor."""
        return self._fd

    def write(self, data: bytes | memoryview) -> None:
        """Appends bytes."""
        rest = memoryview(data).cast("B")
        try:
            while len(rest):
                rest = rest[os.write(self._fd, rest):]
        except OSError as error:
            raise explain(error, self.where) from error

    def mapped(self, shape: tuple[int, ...], offset: int = 0) -> NDArray[np.uint8]:
        """Bytes as a read-only array that keeps the file alive by itself."""
        with os.fdopen(os.dup(self._fd), "rb") as file:
            return np.memmap(file, np.uint8, "r", offset, shape)

"""Temporary files without a name: nothing is left behind, whatever happens."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ucl.formats.atomic import explain


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
        try:
            with tempfile.TemporaryFile(prefix="ucl-", dir=folder) as file:
                self._fd = os.dup(file.fileno())
        except OSError as error:
            raise explain(error, self.where) from error

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

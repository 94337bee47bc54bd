"""Which images the rows of an artifact speak of, and whether each could be used."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

OK, UNREADABLE, TOO_LARGE, NOT_FINITE, MISSING = range(5)
STATUS = ("OK", "UNREADABLE", "TOO_LARGE", "NOT_FINITE", "MISSING")


def samples_digest(path: NDArray[np.bytes_]) -> str:
    """Digest of an image list: every path and a newline, in row order; also fixes the order."""
    h = hashlib.sha256()
    for start in range(0, len(path), 65536):
        h.update(b"".join(p + b"\n" for p in path[start:start + 65536].tolist()))
    return "sha256:" + h.hexdigest()


@dataclass(frozen=True)
class Samples:
    """Which images the rows of an artifact speak of.

    Attributes:
        path: (N,) bytes, relative to the image list's root.
        status: (N,) uint8; 0 is OK, see STATUS.
    """

    path: NDArray[np.bytes_]
    status: NDArray[np.uint8]
    _digest: list[str] = field(default_factory=list, compare=False, repr=False)

    @property
    def digest(self) -> str:
        """The image list's digest, computed once."""
        if not self._digest:
            self._digest.append(samples_digest(self.path))
        return self._digest[0]

    @property
    def ok(self) -> NDArray[np.bool_]:
        """(N,) bool: rows that may be clustered, trained on and evaluated."""
        return np.asarray(self.status == OK)

    def __len__(self) -> int:
        return len(self.path)

    def unlike(self, wanted: Samples, of: str = "the image list") -> str:
        """Where this list first differs from the ``wanted`` one, that of ``of``, and whether it is a permutation, a subset or other images."""
        n = min(len(self), len(wanted))
        differs = np.flatnonzero(self.path[:n] != wanted.path[:n])
        mine, theirs = set(self.path.tolist()), set(wanted.path.tolist())
        kind = ("the same images in another order" if mine == theirs else "a part of those images" if mine < theirs
                else "those images and more" if mine > theirs else "other images")
        if not len(differs):
            return f"{len(self)} images, expected {len(wanted)} as in {of} ({kind})"
        row = int(differs[0])
        found, expected = (p.decode("utf-8", "replace").encode("unicode_escape").decode() for p in (self.path[row], wanted.path[row]))
        return f"row {row} is {found}, expected {expected} as in {of} ({kind})"

"""Files by name, in a folder or inside a tar archive: what the released data sets are read from."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ucl.errors import DataError
from ucl.formats.spool import Spool
from ucl.sources import tar

_LONGEST_TEXT = 1 << 26


@dataclass(frozen=True)
class Span:
    """Where a file lies: the larger file's path below the shelf's root (``b"."`` is the root itself), first byte, length."""

    file: bytes
    offset: int
    size: int


@dataclass(frozen=True)
class Shelf:
    """Files by name.

    Attributes:
        root: absolute path of the folder or of the archive.
        members: name -> place, for an archive; None for a folder, whose files are looked up.
        spool: the unpacked archive, if it was compressed.
    """

    root: str
    members: dict[str, Span] | None = None
    spool: Spool | None = field(default=None, compare=False)

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> Shelf | None:
        """The shelf of a folder or of a tar archive; None for any other file.

        Raises:
            DataError: a damaged archive.
        """
        root = os.path.abspath(path)  # noqa: PTH100
        if Path(root).is_dir():
            return cls(root)
        if not tar.is_tar(root):
            return None
        if tar.is_compressed(root):
            spool = tar.unpacked(root)
            return cls.of_members(root, tar.index(spool, root)[0], spool)
        with Path(root).open("rb") as file:
            return cls.of_members(root, tar.index(file, root)[0], None)

    @classmethod
    def of_members(cls, root: str, members: list[tar.Member], spool: Spool | None) -> Shelf:
        """The shelf of an archive that was indexed: files by their last name."""
        return cls(root, {m.name.rpartition(b"/")[2].decode("utf-8", "replace"): Span(b".", m.offset, m.size) for m in members}, spool)

    def find(self, name: str) -> Span | None:
        """Where a file is; None if there is none."""
        if self.members is not None:
            return self.members.get(name)
        path = Path(self.root) / name
        return Span(name.encode(), 0, path.stat().st_size) if path.is_file() else None

    def path(self, span: Span) -> Path:
        """The file on disk that holds a span."""
        return Path(self.root) if span.file == b"." else Path(self.root) / os.fsdecode(span.file)

    def show(self, name: str) -> str:
        """A file's name in messages."""
        return f"{self.root}: {name}" if self.members is not None else str(Path(self.root) / name)

    def bytes_of(self, span: Span) -> NDArray[np.uint8]:
        """A span mapped into memory, read-only."""
        if not span.size:
            return np.zeros(0, np.uint8)
        if self.spool is not None:
            return self.spool.mapped((span.size,), span.offset)
        return np.memmap(self.path(span), np.uint8, "r", span.offset, (span.size,))

    def lines(self, name: str) -> list[str] | None:
        """The lines of a small text file that are not blank, stripped; None if there is no such file.

        Raises:
            DataError: not UTF-8, or longer than 64 MiB.
        """
        span = self.find(name)
        if span is None:
            return None
        try:
            if span.size > _LONGEST_TEXT:
                raise DataError(f"{self.show(name)}: found {span.size} bytes, wanted a text of at most {_LONGEST_TEXT}")
            text = self.bytes_of(span).tobytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{self.show(name)}: not a text file: {error.reason}") from error
        return [line.strip() for line in text.split("\n") if line.strip()]

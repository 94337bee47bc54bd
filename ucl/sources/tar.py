"""Tar archives as rows of bytes: where each member lies, without unpacking anything.

Formats ustar, GNU and pax (POSIX.1-2001), as tar(1) writes them.  Unlike Python's tarfile, which takes a damaged header for the end of
the archive and keeps an object for every member, this index is strict and small.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ucl import decode
from ucl.errors import DataError
from ucl.formats.spool import Spool
from ucl.sources.records import begins

BLOCK = 512
GZIP = b"\x1f\x8b"
_REGULAR = (b"0", b"\0", b"7")
_HEADERS = (b"x", b"g", b"L", b"K")  # they speak of the member that follows; g of all that follow
_LONGEST = 1 << 20
_AGAIN = "copy the archive again"


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file in an archive: its name as stored, its first byte, its length."""

    name: bytes
    offset: int
    size: int


def is_tar(path: str) -> bool:
    """Whether a file is a tar archive, perhaps compressed by gzip."""
    if not Path(path).is_file():
        return False
    head = begins(path)
    return head.startswith(GZIP) or _is_header(head) or path.endswith(".tar")


def is_compressed(path: str) -> bool:
    """Whether a file is compressed by gzip."""
    return begins(path, 2) == GZIP


def unpacked(path: str) -> Spool:
    """A temporary copy of an archive that is compressed by gzip, unpacked.

    Raises:
        DataError: the compressed data are cut or damaged.
        StorageError: no room for the copy in TMPDIR.
    """
    import gzip
    import zlib

    spool = Spool()
    with gzip.open(path, "rb") as source:
        while True:
            try:
                part = source.read(1 << 20)
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise DataError(f"{path}: compressed data cut or damaged: {error}", _AGAIN) from error
            if not part:
                return spool
            spool.write(part)


def index(file: Spool | IO[bytes], where: str) -> tuple[list[Member], int]:
    """The regular files of an archive in its order, and the number of other members (links, devices, sparse files).

    Args:
        file: the open archive; its position is not used.
        where: its name, for messages.

    Raises:
        DataError: not a tar archive, a damaged header, or an archive that is cut; the byte is named.
    """
    fd = file.fileno()
    size = os.fstat(fd).st_size
    found: list[Member] = []
    others, at = 0, 0
    extra: dict[bytes, bytes] = {}
    common: dict[bytes, bytes] = {}
    while True:
        head = os.pread(fd, BLOCK, at)
        if not any(head) and len(head) == BLOCK:
            break
        _check_header(head, at, size, where)
        kind, data = head[156:157], at + BLOCK
        length = _size(head[124:136], where, at)
        if kind not in _HEADERS and b"size" in extra:
            length = _decimal(extra[b"size"], where, at)
        if kind in (b"1", b"2", b"3", b"4", b"5", b"6"):
            length = 0
        at = data + -(-length // BLOCK) * BLOCK
        if data + length > size:
            raise DataError(f"{where}: found {size} bytes, wanted {at + 2 * BLOCK} or more: the archive is cut within "
                            f"{decode.show(_name(head, extra))}", _AGAIN)
        if kind in _HEADERS:
            if length > _LONGEST:
                raise DataError(f"{where}: a header of {length} bytes at byte {data}, wanted at most {_LONGEST}", _AGAIN)
            text = os.pread(fd, length, data)
            if kind == b"g":
                common |= _pax(text, where, data)
            elif kind == b"x":
                extra |= _pax(text, where, data)
            elif kind == b"L":
                extra[b"path"] = text.rstrip(b"\0")
            continue
        name = _name(head, common | extra)
        sparse = kind == b"S" or any(key.startswith(b"GNU.sparse") for key in extra)
        if kind in _REGULAR and not sparse and not name.endswith(b"/"):
            found.append(Member(name, data, length))
        elif kind != b"5" and not name.endswith(b"/"):
            others += 1
        extra = {}
    if any(os.pread(fd, 64 << 10, at)):
        raise DataError(f"{where}: bytes after the end mark at byte {at}: a damaged archive, or several in one file",
                        "one archive per file: tar --concatenate joins several")
    return found, others


def _is_header(head: bytes) -> bool:
    if len(head) < BLOCK or not any(head):
        return False
    try:
        stated = int(head[148:156].strip(b" \0") or b"0", 8)
    except ValueError:
        return False
    blank = head[:148] + b" " * 8 + head[156:]
    return stated in (sum(blank), sum(blank) - 256 * sum(b > 127 for b in blank))


def _check_header(head: bytes, at: int, size: int, where: str) -> None:
    if len(head) < BLOCK:
        raise DataError(f"{where}: found {size} bytes, wanted {at + 2 * BLOCK} or more: the archive has no end mark, so it is cut", _AGAIN)
    if not _is_header(head):
        what = "not a tar archive" if at == 0 else "a damaged archive"
        raise DataError(f"{where}: {what}: no header at byte {at}", _AGAIN)


def _size(text: bytes, where: str, at: int) -> int:
    """A size in a header: octal digits, or base 256 behind a set bit."""
    if text[0] == 0x80:
        value = int.from_bytes(text[1:], "big")
        return _decimal(b"%d" % value, where, at)
    digits = text.strip(b" \0")
    if digits.strip(b"01234567"):
        raise DataError(f"{where}: a damaged archive: size {text!r} at byte {at}", _AGAIN)
    return int(digits or b"0", 8)


def _decimal(text: bytes, where: str, at: int) -> int:
    if not text.isdigit() or len(text) > 18:
        raise DataError(f"{where}: a damaged archive: size {text[:30]!r} at byte {at}", _AGAIN)
    return int(text)


def _name(head: bytes, extra: dict[bytes, bytes]) -> bytes:
    if b"path" in extra:
        return extra[b"path"]
    name = head[:100].split(b"\0", 1)[0]
    prefix = head[345:500].split(b"\0", 1)[0] if head[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _pax(text: bytes, where: str, at: int) -> dict[bytes, bytes]:
    """Records ``length key=value`` of a pax header."""
    found: dict[bytes, bytes] = {}
    position = 0
    while position < len(text) and text[position] != 0:
        digits, _, _ = text[position:position + 20].partition(b" ")
        end = position + int(digits) if digits.isdigit() else -1
        key, equals, value = text[position + len(digits) + 1:max(end - 1, 0)].partition(b"=")
        if end <= position or end > len(text) or not equals or text[end - 1:end] != b"\n":
            raise DataError(f"{where}: a damaged pax header at byte {at + position}", _AGAIN)
        found[key] = value
        position = end
    return found

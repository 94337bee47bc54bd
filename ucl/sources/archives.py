"""Image lists from tar archives: one archive, or a folder that holds nothing else.

The members are the files that tar(1) would unpack, listed as the folder would be, so that the archive of a folder gives the
list of the folder.
"""

# Paths are bytes here, since names need not be UTF-8, and pathlib knows only str.
# ruff: noqa: PTH118, PTH123
from __future__ import annotations

import os

import numpy as np

from ucl import decode
from ucl.errors import DataError
from ucl.formats.spool import Spool
from ucl.sources import tar
from ucl.sources.records import IMAGE, Records

SUFFIX = b".tar"


def shards_of(root: str) -> list[bytes]:
    """Names of the tar files of a folder that holds nothing else but hidden files, sorted bytewise; else empty."""
    found = []
    with os.scandir(os.fsencode(root)) as entries:
        for entry in entries:
            if entry.name.startswith(b"."):
                continue
            if not entry.name.endswith(SUFFIX) or not entry.is_file():
                return []
            found.append(entry.name)
    return sorted(found)


class Listed:
    """The images of some archives.

    Attributes:
        paths: stored paths, sorted bytewise.
        records: where they lie.
        ignored: members that are no images by their names, links, devices, and members that a later one of that name replaces.
    """

    def __init__(self, paths: list[bytes], records: Records, ignored: int) -> None:
        self.paths, self.records, self.ignored = paths, records, ignored


def list_archive(root: str, members: list[tar.Member], others: int, spool: Spool | None, extensions: tuple[bytes, ...],
                 escape_names: bool) -> Listed:
    """The images of one archive that was indexed.

    Raises:
        DataError: a member whose name leads out of the archive, is absolute, or cannot be stored.
    """
    taken, ignored = _images(members, root, extensions)
    top = _top(taken)
    return _listed({name.removeprefix(top): (0, m) for name, m in taken.items()}, (b".",), ignored + others, spool, escape_names)


def list_shards(root: str, shards: list[bytes], extensions: tuple[bytes, ...], escape_names: bool) -> Listed:
    """The images of all archives of a folder as one list.

    Images that lie in folders keep their paths, which must differ across the archives; where none does, as in archives
    of one class each, the archive's name without ``.tar`` stands for the folder.

    Raises:
        DataError: as `list_archive`, or a path that two archives have.
    """
    each: list[dict[bytes, tar.Member]] = []
    ignored = 0
    for shard in shards:
        where = os.fsdecode(os.path.join(os.fsencode(root), shard))
        with open(where, "rb") as file:
            members, others = tar.index(file, where)
        taken, more = _images(members, where, extensions)
        each.append(taken)
        ignored += more + others
    tops = {_top(taken) for taken in each if taken}
    top = tops.pop() if len(tops) == 1 else b""
    flat = not any(b"/" in name.removeprefix(top) for taken in each for name in taken)
    found: dict[bytes, tuple[int, tar.Member]] = {}
    for number, taken in enumerate(each):
        folder = shards[number].removesuffix(SUFFIX) + b"/" if flat else b""
        for name, member in taken.items():
            path = folder + name.removeprefix(top)
            if path in found:
                raise DataError(f"{root}: {decode.show(path)} is in {decode.show(shards[found[path][0]])} and in {decode.show(shards[number])}",
                                "an image may be listed once")
            found[path] = (number, member)
    return _listed(found, tuple(shards), ignored, None, escape_names)


def _images(members: list[tar.Member], where: str, extensions: tuple[bytes, ...]) -> tuple[dict[bytes, tar.Member], int]:
    """Name -> member of what is named like an image and not hidden; number of other files, hidden ones not counted."""
    found: dict[bytes, tar.Member] = {}
    ignored = 0
    for member in members:
        name = member.name.removeprefix(b"./")
        parts = name.split(b"/")
        if b".." in parts or b"" in parts or b"\0" in name:
            raise DataError(f"{where}: {decode.show(member.name)}: not a plain relative name (absolute, empty part or '..')",
                            "make the archive again from within the folder: tar -cf FILE.tar -C FOLDER .")
        if any(part.startswith(b".") for part in parts):
            continue
        if not name.lower().endswith(extensions):
            ignored += 1
            continue
        ignored += name in found
        found[name] = member
    return found, ignored


def _top(taken: dict[bytes, tar.Member]) -> bytes:
    """The folder, with its slash, that all lie in; none where the archive was made from within (names begin with ./)."""
    tops = {b"" if member.name.startswith(b"./") or b"/" not in name else name.split(b"/", 1)[0] + b"/" for name, member in taken.items()}
    return tops.pop() if len(tops) == 1 else b""


def _listed(found: dict[bytes, tuple[int, tar.Member]], files: tuple[bytes, ...], ignored: int, spool: Spool | None,
            escape_names: bool) -> Listed:
    rows = sorted((decode.stored_path(name, escape_names), number, m.offset, m.size) for name, (number, m) in found.items())
    records = Records(IMAGE, files, np.array([r[1] for r in rows], np.int32), np.array([r[2] for r in rows], np.int64),
                      np.array([r[3] for r in rows], np.int64), spool)
    return Listed([r[0] for r in rows], records, ignored)

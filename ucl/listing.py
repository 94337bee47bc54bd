"""Which images a run is about: an ordered list of paths, made once, no picture opened.

A folder is walked in byte-wise order of relative paths (so two machines agree); a list keeps its own order.  Names that are
not UTF-8, paths that leave the root and duplicates are refused.  What else can be listed (archives, released data sets,
packed lists) is known by its content and read by `ucl.sources`.  No torch in this module.
"""

# Paths are bytes here, since names need not be UTF-8, and pathlib knows only str.
# ruff: noqa: PTH100, PTH110, PTH112, PTH114, PTH116, PTH118, PTH119, PTH120, PTH123
from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ucl import decode
from ucl.errors import DataError, InputMissing, NotPermitted, UsageError
from ucl.sources import subsets, tar
from ucl.sources.records import Records, begins

if TYPE_CHECKING:
    from ucl.sources.archives import Listed
    from ucl.sources.releases import Release
    from ucl.sources.shelf import Shelf

DIGITS = "digits"
DIGITS_COUNT = 1797
DIGITS_ROOT = "builtin:digits"
"""``root`` of the built-in set; a folder's root is absolute, so the two cannot be confused."""

EXTENSIONS = (b".jpg", b".jpeg", b".png", b".webp", b".bmp")
HDF5 = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class Listing:
    """An ordered list of images, nothing opened yet.

    Attributes:
        root: absolute path the paths are relative to, or of the archive or packed list that holds them, or `DIGITS_ROOT`.
        paths: relative paths, UTF-8 bytes without NUL or newline.
        ignored: files that were passed over because their extension is no image's (hidden names are
            not counted).
        follow_links: links may lead out of the root.
        escaped: the paths are percent-encoded (bytes that are not UTF-8, control characters,
            ``%``).
        records: where the rows lie inside larger files; None for files of their own.
        status: (N,) u1, rows that are known to hold nothing; None for none.
        crc32: (N,) u4 that the bytes must have, or None.
    """

    root: str
    paths: list[bytes]
    ignored: int = 0
    follow_links: bool = False
    escaped: bool = False
    records: Records | None = None
    status: NDArray[np.uint8] | None = None
    crc32: NDArray[np.uint32] | None = None

    def take(self, rows: list[int]) -> Listing:
        """The same list with some of its rows."""
        at = np.array(rows, np.int64)
        return replace(self, paths=[self.paths[row] for row in rows], records=None if self.records is None else self.records.take(at),
                       status=None if self.status is None else self.status[at], crc32=None if self.crc32 is None else self.crc32[at])


def list_images(
    source: str | os.PathLike[str] | None,
    *,
    files_from: str | os.PathLike[str] | None = None,
    follow_links: bool = False,
    escape_names: bool = False,
    split: str | None = None,
    classes: str | os.PathLike[str] | None = None,
) -> Listing:
    """The images of a source, in an order that every machine agrees on.

    Args:
        source: ``digits``; a folder, nested or flat (sorted byte-wise by relative path, as ``LC_ALL=C sort`` does); a tar
            archive, or a folder of them; a released data set, as a folder or archive; an images.h5; with
            ``files_from``, the folder its relative paths start from (None: the working directory).
        files_from: a text file with one path per line, ``-`` for standard input; the order given is
            kept.
        follow_links: follow links to folders, and let links lead out of the root.
        escape_names: percent-encode names that are not UTF-8 or hold control characters, instead of
            refusing them.
        split: parts of a released data set, joined by ``+``; None is its training part.
        classes: a text file of class folders, one per line; only their images are listed.

    Returns:
        The listing; files that do not exist or are no regular files are rows all the same
        (`read_all` flags them).

    Raises:
        InputMissing: if the source does not exist or holds no image.
        DataError: for a path that is unsafe, too long, not UTF-8, or twice in the list; for a source that is damaged.
        NotPermitted: if a folder cannot be read.
        UsageError: for an unknown part, or a choice that this source does not offer.
    """
    found = None if files_from is not None else _special(source, split, escape_names)
    if found is not None:
        if classes and found.records is not None and found.records.form.startswith(("planes", "columns")):
            raise UsageError("--classes: these images lie in no class folders", "--split chooses the part of a released data set")
        return found if not classes else found.take(_some(subsets.of_classes(found.paths, os.fspath(classes)), classes))
    if source is not None and os.fspath(source) == DIGITS:
        if files_from is not None:
            raise UsageError(
                "digits is built in and takes no list of files",
                f"./{DIGITS} is a folder of that name",
            )
        _no_parts(split, classes, "digits")
        return Listing(DIGITS_ROOT, [b"digits/%04d.png" % row for row in range(DIGITS_COUNT)])
    _require_folder(source)
    _no_parts(split, None, "a folder of images")
    if files_from is not None:
        listed = _from_list(source, files_from, follow_links, escape_names)
        return listed if not classes else listed.take(_some(subsets.of_classes(listed.paths, os.fspath(classes)), classes))
    if source is None:
        raise UsageError("no images given", "give a folder of images, digits, or --files-from LIST")
    return _of_folder(os.path.abspath(source), os.fspath(source), follow_links, escape_names, classes)


def _some(rows: list[int], classes: str | os.PathLike[str]) -> list[int]:
    if not rows:
        raise InputMissing(f"{os.fspath(classes)}: none of its classes has an image")
    return rows


def _no_parts(split: str | None, classes: str | os.PathLike[str] | None, what: str) -> None:
    if split:
        raise UsageError(f"--split {split}: {what} has no parts", "give the folder of the part, or a list of files; released data sets have parts")
    if classes:
        raise UsageError(f"--classes: {what} has no class folders")


def _of_folder(root: str, name: str, follow_links: bool, escape_names: bool, classes: str | os.PathLike[str] | None) -> Listing:
    """A folder of image files."""
    only = None
    if classes:
        only = set(subsets.read_classes(os.fspath(classes), subsets.folders_of(os.fsencode(root))))
    found, ignored = _walk(os.fsencode(root), follow_links, only)
    if not found:
        raise InputMissing(
            f"{name}: no images in this folder ({ignored} other files)",
            "images end in .jpg, .jpeg, .png, .webp or .bmp",
        )
    found = [decode.stored_path(path, escape_names) for path in found]
    found.sort()
    return Listing(root, found, ignored, follow_links, escape_names)


def _special(source: str | os.PathLike[str] | None, split: str | None, escape_names: bool) -> Listing | None:
    """The listing of whatever is not a plain folder of image files; None for such a folder, or what is not there."""
    from ucl.sources import archives, packed, releases
    from ucl.sources.shelf import Shelf

    if source is None or os.fspath(source) == DIGITS or not os.path.exists(source):
        return None
    name, root = os.fspath(source), os.path.abspath(source)
    if os.path.isdir(root):
        if subsets.is_cub(root):
            return Listing(os.path.join(root, "images"), subsets.cub_paths(root, split or ""))
        release = releases.recognise(shelf := Shelf(root))
        if release is not None:
            return _of_release(shelf, release, split)
        shards = archives.shards_of(root)
        if not shards:
            return None
        _no_parts(split, None, "a folder of archives")
        return _of_archive(root, archives.list_shards(root, shards, EXTENSIONS, escape_names), name, escape_names)
    if begins(root, len(HDF5)) == HDF5:
        _no_parts(split, None, "an images.h5")
        got = packed.list_packed(root)
        return Listing(got.root, got.paths, 0, False, got.escaped, got.records, got.status, got.crc32)
    if root.endswith(".mat"):
        shelf = Shelf(os.path.dirname(root))
        part = next((part for part, files in releases.SVHN.parts.items() if os.path.basename(root) in files), None)
        if part is None or (split and split != part):
            raise UsageError(f"{name}: not the file of a part of SVHN" if part is None else f"--split {split}: {name} is part {part}",
                             "give the folder of train_32x32.mat, test_32x32.mat, extra_32x32.mat and --split")
        return _of_release(shelf, releases.SVHN, part)
    if not tar.is_tar(root):
        return None
    return _of_tar(root, name, split, escape_names)


def _of_tar(root: str, name: str, split: str | None, escape_names: bool) -> Listing:
    """A tar archive: of a released data set, or of image files."""
    from ucl.sources import archives, releases
    from ucl.sources.shelf import Shelf

    spool = tar.unpacked(root) if tar.is_compressed(root) else None
    if spool is not None:
        members, others = tar.index(spool, name)
    else:
        with open(root, "rb") as file:
            members, others = tar.index(file, name)
    shelf = Shelf.of_members(root, members, spool)
    release = releases.recognise(shelf)
    if release is not None:
        return _of_release(shelf, release, split)
    _no_parts(split, None, "an archive of images")
    return _of_archive(root, archives.list_archive(root, members, others, spool, EXTENSIONS, escape_names), name, escape_names)


def _of_release(shelf: Shelf, release: Release, split: str | None) -> Listing:
    from ucl.sources import releases

    paths, records = releases.list_release(shelf, release, split or "")
    return Listing(shelf.root, paths, records=records)


def _of_archive(root: str, found: Listed, name: str, escape_names: bool) -> Listing:
    if not found.paths:
        raise InputMissing(f"{name}: no images in this archive ({found.ignored} other members)",
                           "images end in .jpg, .jpeg, .png, .webp or .bmp")
    return Listing(root, found.paths, found.ignored, False, escape_names, found.records)


def _require_folder(source: str | os.PathLike[str] | None) -> None:
    if source is None or os.path.isdir(source):
        return
    if os.path.exists(source):
        raise UsageError(
            f"{os.fspath(source)}: not a folder, an archive (tar) or an images.h5",
            "a list of paths goes to --files-from",
        )
    raise InputMissing(f"{os.fspath(source)}: no such folder", "give a folder of images, or digits")


def _walk(root: bytes, follow_links: bool, only: set[bytes] | None = None) -> tuple[list[bytes], int]:
    """Relative paths of all below root that is named like an image; number of other files.  ``only``: the folders right
    below root that are looked into, and then no file right below it counts."""
    found: list[bytes] = []
    ignored = 0
    here = os.stat(root)
    todo: list[tuple[bytes, tuple[tuple[int, int], ...]]] = [(b"", ((here.st_dev, here.st_ino),))]
    while todo:
        folder, chain = todo.pop()
        try:
            entries = list(os.scandir(os.path.join(root, folder)))
        except PermissionError as error:
            raise NotPermitted(
                f"{decode.show(folder or root)}: the folder cannot be read", "ls -ld shows who may"
            ) from error
        for entry in entries:
            if entry.name.startswith(b".") or (only is not None and not folder and entry.name not in only):
                continue
            path = folder + b"/" + entry.name if folder else entry.name
            link = entry.is_symlink()
            if _is_folder(entry):
                if link and not follow_links:
                    _stay_inside(root, path)
                    ignored += 1  # it is listed where it really lies
                    continue
                mark = entry.stat()
                if (
                    mark.st_dev,
                    mark.st_ino,
                ) not in chain:  # a link to one of its own parents ends here
                    todo.append((path, (*chain, (mark.st_dev, mark.st_ino))))
            elif not entry.name.lower().endswith(EXTENSIONS):
                ignored += 1
            else:
                if link and not follow_links:
                    _stay_inside(root, path)
                found.append(path)
    return found, ignored


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads back to itself
        return False


def _stay_inside(root: bytes, path: bytes) -> None:
    """Refuses a path whose real place is not below the root's real place."""
    top = os.path.realpath(root)
    real = os.path.realpath(os.path.join(root, path))
    if os.path.commonpath([top, real]) != top:
        raise DataError(
            f"{decode.show(path)}: leads out of the image folder, to {decode.show(real)}",
            "--follow-links allows it",
        )


def _from_list(
    source: str | os.PathLike[str] | None,
    files_from: str | os.PathLike[str],
    follow_links: bool,
    escape_names: bool,
) -> Listing:
    """The listing of a text file; root: the folder given, else the cwd or the common parent."""
    lines = _read_lines(os.fspath(files_from))
    name = os.fspath(files_from)
    if not lines:
        raise InputMissing(f"{os.fspath(files_from)}: the list is empty", "one path per line")
    for number, line in lines:
        if b"\0" in line or b".." in line.split(b"/"):
            raise DataError(
                f"{name} line {number}: {decode.show(line)}: not a plain path (NUL or '..')",
                "write paths without '..'; find DIR prints such",
            )
    root = os.fsencode(os.path.abspath(source or "."))
    absolute = [os.path.normpath(os.path.join(root, line)) for _, line in lines]
    if source is None and any(line.startswith(b"/") for _, line in lines):
        root = os.path.commonpath([os.path.dirname(path) for path in absolute])
    seen: dict[bytes, int] = {}
    top, below = os.path.realpath(root), root.rstrip(b"/") + b"/"
    inside: dict[bytes, bool] = {}  # folders that really are below the root: they are few, the files many
    for (number, line), path in zip(lines, absolute, strict=True):
        if not path.startswith(below) or path == root:
            raise DataError(
                f"{name} line {number}: {decode.show(line)}: not below {decode.show(root)}",
                "leave the folder out to list files of several",
            )
        relative = path[len(below):]
        if not follow_links:
            folder = os.path.dirname(path)
            if folder not in inside:
                inside[folder] = os.path.commonpath([top, os.path.realpath(folder)]) == top
            if not inside[folder] or os.path.islink(path):
                _stay_inside(root, relative)
        stored = decode.stored_path(relative, escape_names)
        if stored in seen:
            raise DataError(
                f"{os.fspath(files_from)}: lines {seen[stored]} and {number} name the same image, "
                f"{decode.show(stored)}",
                "an image may be listed once",
            )
        seen[stored] = number
    return Listing(os.fsdecode(root), list(seen), 0, follow_links, escape_names)


def _read_lines(name: str) -> list[tuple[int, bytes]]:
    """(line number from 1, line) of every line that is not empty."""
    if name == "-":
        data = sys.stdin.buffer.read()
    else:
        try:
            with open(name, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            raise InputMissing(
                f"{name}: no such file", "--files-from takes a text file, or - for a pipe"
            ) from None
        except PermissionError:
            raise NotPermitted(f"{name}: cannot be read", "ls -l shows who may") from None
        except IsADirectoryError:
            raise UsageError(
                f"{name}: a folder, not a list of paths", "give the folder itself as IMAGES"
            ) from None
    lines = (line.removesuffix(b"\r") for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n"))
    return [(number, line) for number, line in enumerate(lines, 1) if line]

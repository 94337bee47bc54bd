"""Which images a run is about: an ordered list of paths, made once, nothing opened.

A folder is walked in byte-wise order of relative paths (so two machines agree); a list keeps its own order.  Names that are
not UTF-8, paths that leave the root and duplicates are refused.  No torch in this module.
"""

# Paths are bytes here, since names need not be UTF-8, and pathlib knows only str.
# ruff: noqa: PTH100, PTH110, PTH112, PTH116, PTH118, PTH120, PTH123
from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from ucl import decode
from ucl.errors import DataError, InputMissing, NotPermitted, UsageError

DIGITS = "digits"
DIGITS_COUNT = 1797
DIGITS_ROOT = "builtin:digits"
"""``root`` of the built-in set; a folder's root is absolute, so the two cannot be confused."""

EXTENSIONS = (b".jpg", b".jpeg", b".png", b".webp", b".bmp")


@dataclass(frozen=True)
class Listing:
    """An ordered list of images, nothing opened yet.

    Attributes:
        root: absolute path the paths are relative to, or `DIGITS_ROOT`.
        paths: relative paths, UTF-8 bytes without NUL or newline.
        ignored: files that were passed over because their extension is no image's (hidden names are
            not counted).
        follow_links: links may lead out of the root.
        escaped: the paths are percent-encoded (bytes that are not UTF-8, control characters,
            ``%``).
    """

    root: str
    paths: list[bytes]
    ignored: int = 0
    follow_links: bool = False
    escaped: bool = False


def list_images(
    source: str | os.PathLike[str] | None,
    *,
    files_from: str | os.PathLike[str] | None = None,
    follow_links: bool = False,
    escape_names: bool = False,
) -> Listing:
    """The images of a source, in an order that every machine agrees on.

    Args:
        source: ``digits``, or a folder, nested or flat (sorted byte-wise by relative path, as
            ``LC_ALL=C sort`` does); with ``files_from``, the folder its relative paths start from
            (None: the working directory).
        files_from: a text file with one path per line, ``-`` for standard input; the order given is
            kept.
        follow_links: follow links to folders, and let links lead out of the root.
        escape_names: percent-encode names that are not UTF-8 or hold control characters, instead of
            refusing them.

    Returns:
        The listing; files that do not exist or are no regular files are rows all the same
        (`read_all` flags them).

    Raises:
        InputMissing: if the source does not exist or holds no image.
        DataError: for a path that is unsafe, too long, not UTF-8, or twice in the list.
        NotPermitted: if a folder cannot be read.
    """
    if source is not None and os.fspath(source) == DIGITS:
        if files_from is not None:
            raise UsageError(
                "digits is built in and takes no list of files",
                f"./{DIGITS} is a folder of that name",
            )
        return Listing(DIGITS_ROOT, [b"digits/%04d.png" % row for row in range(DIGITS_COUNT)])
    _require_folder(source)
    if files_from is not None:
        return _from_list(source, files_from, follow_links, escape_names)
    if source is None:
        raise UsageError("no images given", "give a folder of images, digits, or --files-from LIST")
    root = os.path.abspath(source)
    found, ignored = _walk(os.fsencode(root), follow_links)
    if not found:
        raise InputMissing(
            f"{os.fspath(source)}: no images in this folder ({ignored} other files)",
            "images end in .jpg, .jpeg, .png, .webp or .bmp",
        )
    return Listing(
        root,
        sorted(decode.stored_path(path, escape_names) for path in found),
        ignored,
        follow_links,
        escape_names,
    )


def _require_folder(source: str | os.PathLike[str] | None) -> None:
    if source is None or os.path.isdir(source):
        return
    if os.path.exists(source):
        raise UsageError(
            f"{os.fspath(source)}: not a folder", "a list of paths goes to --files-from"
        )
    raise InputMissing(f"{os.fspath(source)}: no such folder", "give a folder of images, or digits")


def _walk(root: bytes, follow_links: bool) -> tuple[list[bytes], int]:
    """Relative paths of all below root that is named like an image; number of other files."""
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
            if entry.name.startswith(b"."):
                continue
            path = os.path.join(folder, entry.name)
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
    for (number, line), path in zip(lines, absolute, strict=True):
        if os.path.commonpath([root, path]) != root or path == root:
            raise DataError(
                f"{name} line {number}: {decode.show(line)}: not below {decode.show(root)}",
                "leave the folder out to list files of several",
            )
        relative = os.path.relpath(path, root)
        if not follow_links:
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

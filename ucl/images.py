"""Which images a run is about, and their pixels.

A list is made once (`list_images`), read once (`read_all`) and frozen: an `ImageSet` knows each
file's length and CRC-32, so that a file that changes later is noticed instead of trained on.  Rows
stay for good: an image that cannot be used keeps its row and gets a status.

Pixels are *packed* where they fit a budget, as squares of one size: small square images as they
are, others as the centre square at the working size (random crops are then taken inside that
square); ``pack="none"`` keeps files and decodes for every view, which is the exact path for
random-resized crops of large photos.

The built-in source ``digits`` is scikit-learn's 1,797 handwritten digits of 8 x 8 pixels.  No torch
in this module.
"""

# Paths are bytes here, since names need not be UTF-8, and pathlib knows only str.
# ruff: noqa: PTH100, PTH110, PTH112, PTH116, PTH118, PTH120, PTH123
from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ucl import decode
from ucl.errors import DataError, InputMissing, NotPermitted, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

DIGITS = "digits"
DIGITS_ROOT = "builtin:digits"
"""``root`` of the built-in set; a folder's root is absolute, so the two cannot be confused."""

EXTENSIONS = (b".jpg", b".jpeg", b".png", b".webp", b".bmp")
NATIVE_LIMIT = 64
"""Square images up to this side are packed as they are."""


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


@dataclass
class ImageSet:
    """A frozen image list with or without packed pixels.

    Attributes:
        paths: (N,) S, as in `Listing`.
        status: (N,) u1, codes of `ucl.decode`.
        size: (N,) u8, bytes of the file; 0 if it could not be read.
        crc32: (N,) u4, of those bytes.
        root: as in `Listing`.
        pixels: (N, S, S, 3) u1, zeros in rows that are not OK; None if not packed.
        height: (N,) u4, of the image as decoded (upright); 0 in rows that are not OK.
        width: (N,) u4.
        escaped: as in `Listing`.
        reasons: row -> why it is not OK (not stored).
    """

    paths: NDArray[np.bytes_]
    status: NDArray[np.uint8]
    size: NDArray[np.uint64]
    crc32: NDArray[np.uint32]
    root: str
    pixels: NDArray[np.uint8] | None
    height: NDArray[np.uint32]
    width: NDArray[np.uint32]
    escaped: bool = False
    reasons: dict[int, str] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.paths)

    def batch(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Packed pixels of some rows.

        Args:
            rows: (B,) int64; all must have status OK.

        Returns:
            (B, S, S, 3) uint8, a copy.

        Raises:
            DataError: if a row is not OK, or the pixels are not packed.
        """
        if self.pixels is None:
            raise DataError(
                f"{self.root}: the pixels of this image list are not packed", "ucl init --pack auto"
            )
        self._require_ok(rows)
        return np.asarray(self.pixels[np.asarray(rows)])

    def crops(
        self,
        rows: NDArray[np.int64],
        boxes: NDArray[np.float64] | None,
        size: int,
        workers: int = 1,
    ) -> NDArray[np.uint8]:
        """Crops decoded from the files, antialiased bilinear.

        Args:
            rows: (B,) int64; all must have status OK.
            boxes: (B, 4) float64, left, top, right, bottom as shares of width and height
                (`ucl.views.crop_boxes`);
                None: the centre square, which is the evaluation view.
            size: side of the crops.
            workers: threads; the result does not depend on it.

        Returns:
            (B, size, size, 3) uint8.

        Raises:
            DataError: if a row is not OK, or its file is gone or is not the one that was listed; it
                is named.
        """
        self._require_ok(rows)

        def work(start: int, stop: int) -> list[NDArray[np.uint8]]:
            boxes_here = [None] * (stop - start) if boxes is None else boxes[start:stop]
            return [
                decode.crop_share(self._reread(int(row)), box, size)
                for row, box in zip(rows[start:stop], boxes_here, strict=True)
            ]

        out = np.empty((len(rows), size, size, 3), np.uint8)
        with closing(decode.in_order(work, len(rows), workers)) as images:
            for index, image in enumerate(images):
                out[index] = image
        return out

    def _require_ok(self, rows: NDArray[np.int64]) -> None:
        bad = np.flatnonzero(self.status[rows] != decode.OK)
        if len(bad):
            row = int(np.asarray(rows)[bad[0]])
            name = decode.STATUS_NAMES.get(int(self.status[row]), str(self.status[row]))
            raise DataError(
                f"{decode.show(self.paths[row])}: its status is {name}, wanted OK (row {row})",
                "leave rows that are not OK out",
            )

    def _reread(self, row: int) -> NDArray[np.uint8]:
        path = bytes(self.paths[row])
        if self.root == DIGITS_ROOT:
            return _digit(row)
        decode.check_path(path)
        try:
            data = decode.read_file(decode.full_path(self.root, path, self.escaped))
            if len(data) != int(self.size[row]) or zlib.crc32(data) != int(self.crc32[row]):
                raise decode.Undecodable(
                    decode.UNREADABLE,
                    "the file is not the one that was listed: found "
                    f"{len(data)} bytes with CRC {zlib.crc32(data):08x}, wanted "
                    f"{int(self.size[row])} with {int(self.crc32[row]):08x}",
                )
            return decode.decode(data, max_pixels=sys.maxsize)
        except decode.Undecodable as fault:
            raise DataError(
                f"{decode.show(path)}: {fault.reason}",
                f"put the image back in {self.root}, or make a new list with ucl init",
            ) from fault


# -- listing ---------------------------------------------------------------------------------------


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
        return Listing(DIGITS_ROOT, [b"digits/%04d.png" % row for row in range(len(_digits()))])
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
    lines = (line.removesuffix(b"\r") for line in data.split(b"\n"))
    return [(number, line) for number, line in enumerate(lines, 1) if line]


# -- reading ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Read:
    """What reading one image gave."""

    status: int
    reason: str = ""
    size: int = 0
    crc32: int = 0
    height: int = 0
    width: int = 0
    pixels: NDArray[np.uint8] | None = None


def read_all(
    listing: Listing,
    *,
    size: int,
    pack: str | int = "auto",
    pack_budget: int = 1 << 31,
    on_error: str = "fail",
    max_bad: float | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    allocate: Callable[[tuple[int, ...]], NDArray[np.uint8]] | None = None,
    max_pixels: int = decode.MAX_PIXELS,
) -> ImageSet:
    """Decodes every image once: checks it, takes its length and CRC-32, and packs its pixels where
    they fit.

    Memory beyond the packed array does not grow with the number of images, and rows do not depend
    on ``workers``.

    Args:
        listing: what to read.
        size: working size, the side of the views.
        pack: ``auto``: square images of one size up to 64 as they are, others as the centre square
            at ``size``, nothing if that exceeds the budget; ``none``; or a side to pack at,
            whatever the budget.
        pack_budget: most bytes of pixels that ``auto`` packs.
        on_error: ``fail``: any bad image is an error, raised after all were tried; ``skip``: its
            row stays, flagged.
        max_bad: with ``skip``, the largest share of bad images that passes; None: any but all.
        workers: decoding threads.
        progress: called with (done, total) from this thread.
        allocate: makes the (N, S, S, 3) uint8 array, for a memory map; default ``np.empty``.
        max_pixels: larger images are TOO_LARGE.

    Returns:
        The image set, one row per path.

    Raises:
        DataError: with ``fail`` naming the first bad image, its reason and their number; with
            ``skip`` if there are too many, or no good one.
    """
    if on_error not in ("fail", "skip"):
        raise UsageError(f"--on-error: found {on_error!r}, wanted fail or skip")
    total = len(listing.paths)
    side = _pack_side(listing, size, pack, pack_budget, workers)
    made = _blank(listing)
    if side is not None:
        made.pixels = (allocate or _empty)((total, side, side, 3))

    _fill(made, listing, side, workers, progress, max_pixels)
    _judge(made, on_error, max_bad)
    return made


def _fill(
    made: ImageSet,
    listing: Listing,
    side: int | None,
    workers: int,
    progress: Callable[[int, int], None] | None,
    max_pixels: int,
) -> None:
    """Reads every image into its row."""

    def work(start: int, stop: int) -> list[_Read]:
        return [_read_one(listing, row, side, max_pixels) for row in range(start, stop)]

    with closing(decode.in_order(work, made.n, workers)) as results:
        for row, got in enumerate(results):
            made.status[row], made.size[row], made.crc32[row] = got.status, got.size, got.crc32
            made.height[row], made.width[row] = got.height, got.width
            if got.status != decode.OK:
                made.reasons[row] = got.reason
            if made.pixels is not None:
                made.pixels[row] = 0 if got.pixels is None else got.pixels
            if progress is not None:
                progress(row + 1, made.n)


def _blank(listing: Listing) -> ImageSet:
    """An image set with a row for every path and nothing read."""
    total = len(listing.paths)
    return ImageSet(
        np.array(listing.paths, dtype=np.bytes_),
        np.full(total, decode.PENDING, np.uint8),
        np.zeros(total, np.uint64),
        np.zeros(total, np.uint32),
        listing.root,
        None,
        np.zeros(total, np.uint32),
        np.zeros(total, np.uint32),
        listing.escaped,
    )


def _empty(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.empty(shape, np.uint8)


def _judge(made: ImageSet, on_error: str, max_bad: float | None) -> None:
    """Raises if there are more bad images than may pass."""
    bad = len(made.reasons)
    if not bad:
        return
    first = min(made.reasons)
    what = f"{decode.show(made.paths[first])}: {made.reasons[first]}"
    count = f"{bad} of {made.n} images cannot be used"
    if bad == made.n:
        raise DataError(
            f"{what}; no image can be used ({made.n} tried)", "is this the right folder?"
        )
    if on_error == "fail":
        raise DataError(f"{what} ({count})", "--on-error skip keeps their rows and leaves them out")
    if max_bad is not None and bad > max_bad * made.n:
        raise DataError(
            f"{what}; {count}, more than --max-bad {max_bad:g}",
            "mend the images, or raise --max-bad",
        )


def _pack_side(
    listing: Listing, size: int, pack: str | int, budget: int, workers: int
) -> int | None:
    """The side that pixels are packed at, None for not at all."""
    if pack == "none":
        return None
    if pack != "auto":
        if isinstance(pack, str) or pack < 1:
            raise UsageError(f"--pack: found {pack!r}, wanted auto, none or a side in pixels")
        return pack
    side = _common_side(listing, workers) or size
    return side if len(listing.paths) * side * side * 3 <= budget else None


def _common_side(listing: Listing, workers: int) -> int | None:
    """The side that all readable images share if they are square and small; header reads that stop
    at the first other.

    A damaged header does not count: its image is told apart by `read_all`.
    """
    if listing.root == DIGITS_ROOT:
        return 8
    side = None

    def work(start: int, stop: int) -> list[tuple[int, int] | None]:
        return [
            decode.peek(decode.full_path(listing.root, path, listing.escaped))
            for path in listing.paths[start:stop]
        ]

    with closing(decode.in_order(work, len(listing.paths), workers)) as shapes:
        for shape in shapes:
            if shape is None:
                continue
            if (
                shape[0] != shape[1]
                or shape[0] > NATIVE_LIMIT
                or (side is not None and shape[0] != side)
            ):
                return None
            side = shape[0]
    return side


def _read_one(listing: Listing, row: int, side: int | None, max_pixels: int) -> _Read:
    """Reads, checks and squares one image; a fault becomes a status."""
    size = crc32 = 0
    try:
        if listing.root == DIGITS_ROOT:
            image = _digit(row)
            data = image[:, :, 0].tobytes()
            size, crc32 = len(data), zlib.crc32(data)
        else:
            data = decode.read_file(
                decode.full_path(listing.root, listing.paths[row], listing.escaped)
            )
            size, crc32 = len(data), zlib.crc32(data)
            image = decode.decode(data, max_pixels=max_pixels)
    except decode.Undecodable as fault:
        return _Read(fault.status, fault.reason, size, crc32)
    pixels = None if side is None else decode.square(image, side)
    return _Read(decode.OK, "", size, crc32, image.shape[0], image.shape[1], pixels)


@lru_cache(maxsize=1)
def _digits() -> NDArray[np.uint8]:
    """scikit-learn's digits, (1797, 8, 8) uint8, 0..16 stretched to 0..255."""
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    return np.asarray(np.rint(load_digits().images * (255 / 16)), np.uint8)


def _digit(row: int) -> NDArray[np.uint8]:
    return np.repeat(_digits()[row, :, :, None], 3, 2)

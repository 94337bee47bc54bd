"""Which images a run is about, and their pixels.

A list is made once (`ucl.listing`), read once (`read_all`) and frozen: an `ImageSet` knows the length and CRC-32 of each
image's bytes, so that a file that changes later is noticed instead of trained on.  Rows
stay for good: an image that cannot be used keeps its row and gets a status.

Pixels are *packed* where they fit a budget, as squares of one size: small square images as they
are, others as the centre square at the working size (random crops are then taken inside that
square); ``pack="none"`` keeps files and decodes for every view, which is the exact path for
random-resized crops of large photos.

The built-in source ``digits`` is scikit-learn's 1,797 handwritten digits of 8 x 8 pixels.  No torch
in this module.
"""

# Paths are bytes here, since names need not be UTF-8, and pathlib knows only str.
from __future__ import annotations

import logging
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ucl import decode
from ucl.errors import DataError, UsageError
from ucl.listing import DIGITS_ROOT, Listing
from ucl.pixels import Squares
from ucl.sources.records import Reader, Records, side_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

@dataclass
class ImageSet:
    """A frozen image list with or without packed pixels.

    Attributes:
        paths: (N,) S, as in `Listing`.
        status: (N,) u1, codes of `ucl.decode`.
        size: (N,) u8, bytes of the file or record; 0 if it could not be read.
        crc32: (N,) u4, of those bytes.
        root: as in `Listing`.
        pixels: (N, S, S, 3) u1, zeros in rows that are not OK; None if not packed.
        height: (N,) u4, of the image as decoded (upright); 0 in rows that are not OK.
        width: (N,) u4.
        escaped: as in `Listing`.
        records: as in `Listing`; None where pixels are packed, which do without.
        squares: what the pixels were gathered in; None in a list that was loaded (not stored).
        reasons: row -> why it is not OK (not stored).
        slow: images were seen to take longer than `decode.WORTH_A_THREAD` to decode, so threads pay (not stored).
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
    records: Records | None = None
    squares: Squares | None = field(default=None, compare=False)
    reasons: dict[int, str] = field(default_factory=dict)
    slow: bool = field(default=False, compare=False)

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
        began = time.perf_counter()
        with closing(decode.in_order(work, len(rows), workers, slow=self.slow)) as images:
            for index, image in enumerate(images):
                out[index] = image
        self.slow = self.slow or time.perf_counter() - began > decode.WORTH_A_THREAD * max(len(rows), 1)
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

    @cached_property
    def _reader(self) -> Reader:
        return Reader(self.root, self.paths, self.escaped, self.records)

    def _reread(self, row: int) -> NDArray[np.uint8]:
        path = bytes(self.paths[row])
        if self.root == DIGITS_ROOT:
            return _digit(row)
        decode.check_path(path)
        try:
            data = self._reader.read(row)
            if len(data) != int(self.size[row]) or zlib.crc32(data) != int(self.crc32[row]):
                raise decode.Undecodable(
                    decode.UNREADABLE,
                    f"the {'file' if self.records is None else 'record'} is not the one that was listed: found "
                    f"{len(data)} bytes with CRC {zlib.crc32(data):08x}, wanted "
                    f"{int(self.size[row])} with {int(self.crc32[row]):08x}",
                )
            return self._reader.picture(data, sys.maxsize)
        except decode.Undecodable as fault:
            raise DataError(
                f"{decode.show(path)}: {fault.reason}",
                f"put the image back in {self.root}, or make a new list with ucl init",
            ) from fault


# -- reading ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Read:
    """What reading one image gave.

    Attributes:
        status, reason: why it cannot be used; `decode.OK` and nothing if it can.
        size, crc32: of its bytes.
        height, width: as decoded.
        pixels, as_it_is: what `Squares.prepare` made of it.
        data: its bytes, where they were asked for.
    """

    status: int
    reason: str = ""
    size: int = 0
    crc32: int = 0
    height: int = 0
    width: int = 0
    pixels: NDArray[np.uint8] | None = None
    as_it_is: bool = False
    data: bytes = b""


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
    folder: Path | None = None,
    max_pixels: int = decode.MAX_PIXELS,
) -> ImageSet:
    """Decodes every image once: checks it, takes its length and CRC-32, and packs its pixels where
    they fit.

    Memory grows with the paths and some 30 bytes an image; packed pixels beyond 256 MiB go to a temporary file.
    Rows do not depend on ``workers``.

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
        folder: where the temporary file goes; None: the system's place for such.
        max_pixels: larger images are TOO_LARGE.

    Returns:
        The image set, one row per path.

    Raises:
        DataError: with ``fail`` naming the first bad image, its reason and their number; with
            ``skip`` if there are too many, or no good one.
        UsageError: a compressed archive whose pixels are not packed.
    """
    check_on_error(on_error)
    squares = _squares(listing, size, pack, pack_budget, folder)
    _can_be_read_again(listing, squares)
    made = blank(listing)
    for row, got in enumerate(read_each(listing, squares, workers, max_pixels)):
        note(made, row, got)
        if squares is not None:
            squares.put(got.pixels, got.as_it_is)
        if progress is not None:
            progress(row + 1, made.n)
    judge(made, on_error, max_bad)
    made.pixels = None if squares is None else squares.array()
    if made.pixels is None:
        _can_be_read_again(listing, None)
    else:
        made.records, made.squares = None, squares
    return made


def check_on_error(on_error: str) -> None:
    """Refuse what --on-error does not know."""
    if on_error not in ("fail", "skip"):
        raise UsageError(f"--on-error: found {on_error!r}, wanted fail or skip")


def _can_be_read_again(listing: Listing, squares: Squares | None) -> None:
    """Refuse to keep no pixels of a compressed archive, which cannot be read by offset."""
    if listing.records is not None and listing.records.spool is not None and (squares is None or _exceeds(listing, squares)):
        raise UsageError(f"{listing.root}: compressed, so its images must be packed, and they are not",
                         "a larger --pack-budget, or unpack it: gunzip")


def _exceeds(listing: Listing, squares: Squares) -> bool:
    """Whether squares will be more than their budget, as far as can be said before reading."""
    side = squares.size
    if squares.native and listing.records is not None:
        side = min(side_of(listing.records.form) or side, side)
    return squares.budget is not None and squares.n * side * side * 3 > squares.budget


def read_each(listing: Listing, squares: Squares | None, workers: int, max_pixels: int, *, keep: bool = False) -> Iterator[Read]:
    """Reads every image of a list, in order.

    Args:
        listing: the list.
        squares: makes squares of the pictures, if wanted.
        workers: threads.
        max_pixels: larger images are TOO_LARGE.
        keep: also hand on the bytes.
    """
    reader = Reader(listing.root, listing.paths, listing.escaped, listing.records)

    def work(start: int, stop: int) -> list[Read]:
        return [_read_one(listing, reader, row, squares, max_pixels, keep) for row in range(start, stop)]

    with closing(reader), closing(decode.in_order(work, len(listing.paths), workers)) as results:
        yield from results


def note(made: ImageSet, row: int, got: Read) -> None:
    """Writes what reading gave into its row."""
    made.status[row], made.size[row], made.crc32[row] = got.status, got.size, got.crc32
    made.height[row], made.width[row] = got.height, got.width
    if got.status != decode.OK:
        made.reasons[row] = got.reason


def blank(listing: Listing) -> ImageSet:
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
        listing.records,
    )


def judge(made: ImageSet, on_error: str, max_bad: float | None) -> None:
    """Raises if there are more bad images than may pass.

    Raises:
        DataError: see `read_all`.
    """
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


def _squares(listing: Listing, size: int, pack: str | int, budget: int, folder: Path | None) -> Squares | None:
    """Where packed pixels are gathered; None for not at all."""
    if pack == "none":
        return None
    if pack == "auto":
        return Squares(len(listing.paths), size, native=True, budget=budget, folder=folder)
    if isinstance(pack, str) or pack < 1:
        raise UsageError(f"--pack: found {pack!r}, wanted auto, none or a side in pixels")
    if pack > size:
        log.warning("pixels packed at %d px for views of %d px: training views are resampled without a filter, so they alias", pack, size)
    return Squares(len(listing.paths), pack, native=False, folder=folder)


def _read_one(listing: Listing, reader: Reader, row: int, squares: Squares | None, max_pixels: int, keep: bool) -> Read:
    """Reads, checks and squares one image; a fault becomes a status."""
    size = crc32 = 0
    data = b""
    try:
        if listing.root == DIGITS_ROOT:
            image = _digit(row)
            data = image[:, :, 0].tobytes()
            size, crc32 = len(data), zlib.crc32(data)
        else:
            if listing.status is not None and listing.status[row] != decode.OK:
                raise decode.Undecodable(int(listing.status[row]), "could not be used when it was packed")
            data = reader.read(row)
            size, crc32 = len(data), zlib.crc32(data)
            if listing.crc32 is not None and crc32 != listing.crc32[row]:
                raise decode.Undecodable(
                    decode.UNREADABLE, f"the bytes are not those that were packed: CRC {crc32:08x}, wanted {int(listing.crc32[row]):08x}")
            image = reader.picture(data, max_pixels)
    except decode.Undecodable as fault:
        return Read(fault.status, fault.reason, size, crc32, data=data if keep else b"")
    pixels, as_it_is = (None, False) if squares is None else squares.prepare(image)
    return Read(decode.OK, "", size, crc32, image.shape[0], image.shape[1], pixels, as_it_is, data if keep else b"")


@lru_cache(maxsize=1)
def _digits() -> NDArray[np.uint8]:
    """scikit-learn's digits, (1797, 8, 8) uint8, 0..16 stretched to 0..255."""
    from sklearn.datasets import load_digits

    return np.asarray(np.rint(load_digits().images * (255 / 16)), np.uint8)


def _digit(row: int) -> NDArray[np.uint8]:
    return np.repeat(_digits()[row, :, :, None], 3, 2)

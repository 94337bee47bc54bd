"""Which images a run is about, and their pixels.

A list is made once (`ucl.listing`), read once (`read_all`) and frozen: an `ImageSet` knows each
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
from __future__ import annotations

import logging
import sys
import time
import zlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ucl import decode
from ucl.errors import DataError, UsageError
from ucl.listing import DIGITS_ROOT, Listing

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

NATIVE_LIMIT = 64
"""Square images up to this side are packed as they are."""


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
        if pack > size:
            log.warning("pixels packed at %d px for views of %d px: training views are resampled without a filter, so they alias", pack, size)
        return pack
    native = _common_side(listing, workers)
    side = native if native is not None and native <= size else size  # larger pixels would alias in the views
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
    from sklearn.datasets import load_digits

    return np.asarray(np.rint(load_digits().images * (255 / 16)), np.uint8)


def _digit(row: int) -> NDArray[np.uint8]:
    return np.repeat(_digits()[row, :, :, None], 3, 2)

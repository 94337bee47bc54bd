"""An images.h5 as a source: the bytes or pixels packed in it, or the files and records that it names."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ucl import decode
from ucl.artifacts import ImageList
from ucl.errors import DataError, InputMissing
from ucl.sources.records import Records


@dataclass(frozen=True)
class Packed:
    """What a packed list gives.

    Attributes:
        root, paths, escaped: as in `ucl.listing.Listing`.
        records: where the rows lie, or None for files of their own.
        status: (N,) u1; rows that are not OK have nothing to read.
        crc32: (N,) u4 of what was packed, or None where rows may have changed since.
    """

    root: str
    paths: list[bytes]
    escaped: bool
    records: Records | None
    status: NDArray[np.uint8] | None
    crc32: NDArray[np.uint32] | None


def list_packed(path: str) -> Packed:
    """The rows of an images.h5, in its order.

    Raises:
        DataError: not an image list, or pixels that are no squares.
        InputMissing: a list without rows.
    """
    from ucl.formats.reader import open_artifact

    root = os.path.abspath(path)  # noqa: PTH100
    with open_artifact(root, "ucl/images", name=path) as file:
        found = ImageList.load(file)
        offset = file.entry("/pixels").offset if "/pixels" in file else None
    paths = found.samples.path.tolist()
    if not paths:
        raise InputMissing(f"{path}: a list without images", "make it again")
    for name in paths:
        decode.check_path(name)
    if found.pixels is not None:
        return _of_pixels(root, paths, found, offset)
    inside = found.records is not None and found.root == root and found.records.files == (b".",)
    status = np.where(found.size == 0, found.samples.status, decode.OK).astype(np.uint8) if inside else None
    return Packed(found.root, paths, found.escaped, found.records, status, found.crc32 if inside else None)


def _of_pixels(root: str, paths: list[bytes], found: ImageList, offset: int | None) -> Packed:
    assert found.pixels is not None
    n, height, width = found.pixels.shape[:3]
    if height != width or offset is None:
        raise DataError(f"{root}: /pixels: found {height} x {width}, wanted squares stored in one piece", "make the list again with ucl pack")
    each = height * width * 3
    good = found.samples.status == decode.OK
    records = Records(f"pixels:{height}", (b".",), np.zeros(n, np.int32), offset + each * np.arange(n, dtype=np.int64),
                      np.where(good, each, 0).astype(np.int64))
    return Packed(root, paths, found.escaped, records, found.samples.status, None)

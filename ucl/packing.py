"""Writing image lists: with squares of pixels, or with the images' own bytes, a few megabytes at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ucl import decode, images
from ucl.artifacts import ImageList
from ucl.errors import DataError
from ucl.formats.types import on_disk
from ucl.formats.writer import ArtifactWriter
from ucl.listing import Listing
from ucl.pixels import Squares
from ucl.sources.records import IMAGE, Reader

_GATHER = 1 << 20
Sign = Callable[[ImageList], ImageList]


def write_list(out: IO[bytes] | int, found: ImageList, squares: Squares | None) -> str:
    """Writes an image list; its pixels come from ``squares`` in blocks, so that memory does not grow with them.

    Returns:
        The content digest, also noted in ``found``.
    """
    arrays = {path: on_disk(found.kind, path, array) for path, array in found.arrays().items() if path != "/pixels"}
    specs = {path: (array.shape, array.dtype) for path, array in arrays.items()}
    if found.pixels is not None:
        specs["/pixels"] = (found.pixels.shape, np.dtype("u1"))
    with ArtifactWriter(out, found.kind, found.root_attrs(), specs, found.provenance) as writer:
        for path in writer.order:
            if path == "/pixels" and squares is not None:
                for block in squares.blocks():
                    writer.write(path, block)
            else:
                writer.write(path, arrays[path] if path in arrays else np.asarray(found.pixels))
        found.digest = writer.finish()
    return found.digest


def lengths(listing: Listing, progress: Callable[[int, int], None]) -> NDArray[np.int64]:
    """Bytes of every image of a list, (N,): stat(2) for files of their own; 0 where there is nothing to read."""
    n = len(listing.paths)
    if listing.records is not None:
        return listing.records.length
    found = np.zeros(n, np.int64)
    with closing(Reader(listing.root, listing.paths, listing.escaped, None)) as reader:
        for row in range(n):
            found[row] = reader.length(row)
            progress(row + 1, n)
    return found


def write_encoded(out: IO[bytes] | int, listing: Listing, length: NDArray[np.int64], sign: Sign, *, on_error: str, max_bad: float | None,
                  max_pixels: int, workers: int, progress: Callable[[int, int], None]) -> images.ImageSet:
    """Writes a list with the bytes of its images, one after the other in list order, while they are read.

    Every image is decoded once, so that a bad one is told and flagged as `ucl init` does.  Memory grows with the paths alone.

    Args:
        out: where to.
        listing: N images.
        length: (N,) bytes of each, from `lengths`; they are promised in the header.
        sign: gives the list its context, recipe and provenance.
        on_error, max_bad, max_pixels, workers: as for `ucl.images.read_all`.
        progress: called with (done, total).

    Returns:
        The list, without the bytes.

    Raises:
        DataError: too many bad images, or one whose length is no longer what it was; what was written so far is not whole.
    """
    images.check_on_error(on_error)
    made = images.blank(listing)
    made.records = None
    offset = np.concatenate([[0], np.cumsum(length)])
    head = sign(ImageList.made(made))
    form = IMAGE if listing.records is None else listing.records.form
    path = on_disk(head.kind, "/samples/path", made.paths)
    trailing: dict[str, NDArray[Any]] = {"status": made.status, "size": made.size, "crc32": made.crc32, "height": made.height, "width": made.width}
    specs = {"/samples/path": (path.shape, path.dtype), "/samples/offset": ((made.n,), np.dtype("<i8")),
             "/encoded": ((int(offset[-1]),), np.dtype("u1"))}
    specs |= {f"/samples/{name}": (array.shape, array.dtype) for name, array in trailing.items()}
    attrs = head.root_attrs() | {"record": form, "title": f"{made.n} images, {offset[-1]} bytes as they were stored"}
    with ArtifactWriter(out, head.kind, attrs, specs, head.provenance) as writer:
        for name in writer.order:
            if name == "/samples/path":
                writer.write(name, path)
            elif name == "/samples/offset":
                writer.write(name, offset[:-1])
            elif name == "/encoded":
                for block in _gathered(_bytes(made, listing, length, workers, max_pixels, progress)):
                    writer.write(name, block)
                images.judge(made, on_error, max_bad)
            else:
                writer.write(name, trailing[name.rpartition("/")[2]])
        writer.finish()
    return made


def _bytes(made: images.ImageSet, listing: Listing, length: NDArray[np.int64], workers: int, max_pixels: int,
           progress: Callable[[int, int], None]) -> Iterator[bytes]:
    """The bytes of every row, as many as were promised; what reading gave is noted in ``made``."""
    for row, got in enumerate(images.read_each(listing, None, workers, max_pixels, keep=True)):
        if len(got.data) != length[row]:
            if got.data or got.status == decode.OK:
                raise DataError(f"{decode.show(made.paths[row])}: found {len(got.data)} bytes, and {length[row]} when it was listed",
                                "something writes to the images: pack them when it is done")
            got = dataclasses.replace(got, data=bytes(int(length[row])), size=0)  # it could not be read, and its room is promised
        images.note(made, row, got)
        progress(row + 1, made.n)
        yield got.data


def _gathered(parts: Iterator[bytes]) -> Iterator[NDArray[np.uint8]]:
    """The parts, joined to pieces of about a MiB."""
    held: list[bytes] = []
    size = 0
    for part in parts:
        held.append(part)
        size += len(part)
        if size >= _GATHER:
            yield np.frombuffer(b"".join(held), np.uint8)
            held, size = [], 0
    if size:
        yield np.frombuffer(b"".join(held), np.uint8)

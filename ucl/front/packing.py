"""`pack`: images into one images.h5."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import IO, Any

from ucl import store
from ucl.context import Context
from ucl.errors import UsageError
from ucl.front import session
from ucl.front.console import Progress, say
from ucl.front.create import tell_bad, ticking
from ucl.front.listing import listing_of
from ucl.front.options import Common
from ucl.front.streams import find_output, open_output
from ucl.settings import ListSettings

FORMS = ("encoded", "pixels")


def pack(images: str | None, files_from: str | None, form: str, size: int, settings: ListSettings, output: str | None, common: Common,
         as_json: bool, *, force: bool) -> int:
    """Write an images.h5 that holds the images themselves, and say what it is.

    Raises:
        UsageError: no images, an unknown form, or pixels of an unknown size.  DataError: unreadable images.
        OutputRefused: the output exists.
    """
    if form not in FORMS:
        raise UsageError(f"--as: found {form!r}, wanted {' or '.join(FORMS)}", "encoded keeps the bytes of the files, pixels makes squares")
    if size < 0 or (size and form == "encoded"):
        raise UsageError(f"--pack-size {size}: wanted at least 1, with --as pixels", "--as encoded keeps the images as they are")
    if images is None and files_from is None:
        raise UsageError("no images: found neither IMAGES nor --files-from", "ucl pack photos/ -o photos.h5")
    where = find_output(output, None, "images")
    began = time.monotonic()
    threads = session.threads_for(None, common)
    chosen = settings.as_dict() | {"as": form, "pack_size": size}

    def sign(made: Any) -> Any:
        made.context = Context(images=len(made.samples), samples_digest=made.samples.digest)
        made.provenance = store.chain("pack", chosen, 0, [], "cpu", threads)
        made.recipe = store.recipe(made.kind, "pack", chosen, 0, [])
        return made

    with open_output(where, force=force) as out, Progress("ucl pack", common) as progress:
        listing = listing_of(images, files_from, settings)
        if form == "encoded":
            made, held = _encoded(listing, settings, sign, out, progress, threads)
        else:
            made, held = _pixels(listing, size or _side(listing), settings, sign, out, Path(where), progress, threads)
    tell_bad(made, listing.ignored, common)
    seconds = time.monotonic() - began
    if as_json:
        say(json.dumps({"schema": "ucl.pack/1", "images": made.n, "bad": len(made.reasons), "as": form, "bytes": held, "seconds": round(seconds, 2)}))
    elif not common.quiet:
        say(f"ucl pack: {made.n} images ({len(made.reasons)} unreadable), {held} bytes of "
            f"{'image files' if form == 'encoded' else 'pixels'}" + (f" in {where}" if where != "-" else "") + f"; {seconds:.1f} s")
    return 0


def _side(listing: Any) -> int:
    """Side of the images of a data set whose images have one.

    Raises:
        UsageError: they have not.
    """
    from ucl.listing import DIGITS_ROOT
    from ucl.sources.records import side_of

    side = 8 if listing.root == DIGITS_ROOT else side_of(listing.records.form) if listing.records is not None else None
    if side is None:
        raise UsageError("--as pixels: found no --pack-size, and these images have no common one", "--pack-size 224")
    return side


def _encoded(listing: Any, settings: ListSettings, sign: Any, out: IO[bytes], progress: Progress, threads: int) -> tuple[Any, int]:
    from ucl.listing import DIGITS_ROOT
    from ucl.packing import lengths, write_encoded

    if listing.root == DIGITS_ROOT:
        raise UsageError("--as encoded: the digits are built in and lie in no file", "--as pixels")
    length = lengths(listing, ticking(progress, "listing"))
    made = write_encoded(out, listing, length, sign, on_error=settings.on_error, max_bad=settings.max_bad, max_pixels=settings.max_pixels,
                         workers=threads, progress=ticking(progress, "packing"))
    return made, int(length.sum())


def _pixels(listing: Any, size: int, settings: ListSettings, sign: Any, out: IO[bytes], where: Path, progress: Progress,
            threads: int) -> tuple[Any, int]:
    from ucl.artifacts import ImageList
    from ucl.images import read_all
    from ucl.packing import write_list

    folder = None if str(where) == "-" else where.absolute().parent
    made = read_all(listing, size=size, pack=size, on_error=settings.on_error, max_bad=settings.max_bad, max_pixels=settings.max_pixels,
                    workers=threads, progress=ticking(progress, "packing"), folder=folder)
    write_list(out, sign(ImageList.made(made)), made.squares)
    return made, made.n * size * size * 3

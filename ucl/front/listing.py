"""Image lists of a command line, without decoding a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ucl.errors import UsageError
from ucl.settings import ListSettings

if TYPE_CHECKING:
    from ucl.artifacts import Samples
    from ucl.listing import Listing
    from ucl.rundir import RunDir

SplitOption = Annotated[str | None, typer.Option("--split", metavar="NAME", help="Parts of a released data set, joined by +; all for all. Default: "
                                                 "its training part.", show_default=False)]
ClassesOption = Annotated[str | None, typer.Option("--classes", metavar="FILE", help="List of class folders, one per line; images of others are "
                                                   "left out.")]


def listing_of(images: str | None, files_from: str | None, settings: ListSettings) -> Listing:
    """The images that a command line names.

    Raises:
        See `ucl.listing.list_images`.
    """
    from ucl.listing import list_images

    return list_images(images or None, files_from=files_from or None, follow_links=settings.follow_links, escape_names=settings.escape_names,
                       split=settings.split, classes=settings.classes)


def list_of(images: str | None, run: RunDir | None, settings: ListSettings | None = None) -> tuple[Samples, str]:
    """Samples, and where they come from, of any IMAGES or of the run directory's list.

    Raises:
        UsageError: nothing was named.
    """
    import numpy as np

    from ucl.artifacts import Samples
    from ucl.formats.reader import open_artifact

    if images is None and run is None:
        raise UsageError("no images: found no run directory and no IMAGES")
    if images is None or is_hdf5(images):
        no_choice(settings.as_dict() if settings is not None else {})
        path = Path(images) if images is not None else run.path / "images.h5"  # type: ignore[union-attr]
        with open_artifact(path, "ucl/images") as file:
            return Samples(file.read("/samples/path"), file.read("/samples/status")), str(file.attrs.get("root") or "")
    found = listing_of(images, None, settings or ListSettings())
    return Samples(np.array(found.paths), np.zeros(len(found.paths), np.uint8)), found.root


def no_choice(settings: Mapping[str, Any]) -> None:
    """Refuse to choose from a list that is made already.

    Raises:
        UsageError: a split or classes were named.
    """
    if settings.get("split") or settings.get("classes"):
        raise UsageError("--split and --classes choose from a data set, and a list is given that is made already", "leave them out")


def is_hdf5(path: str) -> bool:
    """Whether a path is a file that begins as HDF5 does."""
    from ucl.listing import HDF5
    from ucl.sources.records import begins

    return begins(path, len(HDF5)) == HDF5


def names_in(source: str | None, run: RunDir | None) -> Samples:
    """Samples of features, labels or an image list in a file, of a folder, archive or data set, digits, or of the run directory's
    list; status all OK.

    Raises:
        UsageError: nothing was named.  DataError: a file that names no samples.
    """
    from ucl.formats.reader import open_artifact
    from ucl.rows import samples_of

    if source is None and run is None:
        raise UsageError("no list: found no run directory and no --to", "--to FILE")
    if source is None or not is_hdf5(source):
        return list_of(source, run)[0]
    with open_artifact(Path(source), ("ucl/images", "ucl/features", "ucl/labels")) as file:
        return samples_of(file)

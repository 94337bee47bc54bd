"""The samples of an image list, without decoding a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ucl.artifacts import Samples
from ucl.errors import UsageError
from ucl.rundir import RunDir


def list_of(images: str | None, run: RunDir | None) -> Samples:
    """Samples of an images.h5, a folder, digits, or the run directory's list.

    Raises:
        UsageError: nothing was named.
    """
    from ucl.formats.reader import open_artifact
    from ucl.listing import list_images

    if images is None and run is None:
        raise UsageError("no images: found no run directory and no IMAGES")
    if images is None or Path(images).is_file():
        path = Path(images) if images is not None else run.path / "images.h5"  # type: ignore[union-attr]
        with open_artifact(path, "ucl/images") as file:
            return Samples(file.read("/samples/path"), file.read("/samples/status"))
    paths = np.array(list_images(images).paths)
    return Samples(paths, np.zeros(len(paths), np.uint8))


def names_in(source: str | None, run: RunDir | None) -> Samples:
    """Samples of features, labels or an image list in a file, of a folder, digits, or of the run directory's list; status all OK.

    Raises:
        UsageError: nothing was named.  DataError: a file that names no samples.
    """
    from ucl.formats.reader import open_artifact
    from ucl.rows import samples_of

    if source is None and run is None:
        raise UsageError("no list: found no run directory and no --to", "--to FILE")
    if source is None or not Path(source).is_file():
        return list_of(source, run)
    with open_artifact(Path(source), ("ucl/images", "ucl/features", "ucl/labels")) as file:
        return samples_of(file)

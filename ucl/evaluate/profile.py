"""Lists of images with a class profile, made on purpose: so many of each class, or a long tail over the classes.

Here true classes choose images, before any learning: it makes a data set, as `targets` makes labels, and nothing of the
classes goes into what is written.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ucl.artifacts import Samples
from ucl.errors import DataError
from ucl.keys import Key
from ucl.targets import true_classes


def profile(size: NDArray[np.int64], per_class: int | None, ratio: float) -> NDArray[np.int64]:
    """Images of each class, from the first, which has the most, to the last: floor(n * ratio^(-c / (C - 1))), at least 1.

    The exponential profile of Cui et al. (CVPR 2019), on which ODC's long-tail ratios of 1 to 64 are read: ``ratio`` is the first
    class's number over the last's.

    Args:
        size: (C,) images there are, in the order of the classes.
        per_class: n; None: the most that every class can give.
        ratio: at least 1; 1 is the same number of each.

    Returns:
        (C,) int64; may exceed ``size`` only where ``per_class`` says so.
    """
    share = ratio ** (-np.arange(len(size)) / max(len(size) - 1, 1))
    most = int(per_class) if per_class is not None else int(((size + 1) / share).min())
    while True:
        wanted = np.maximum(1, np.floor(most * share + 1e-9).astype(np.int64))
        if per_class is not None or most <= 1 or (wanted <= size).all():
            return wanted
        most -= 1


def draw_profile(samples: Samples, rows: NDArray[np.int64], targets: str | None, *, per_class: int | None, ratio: float, order: str,
                 key: Key) -> tuple[NDArray[np.int64], dict[str, int]]:
    """Rows of a class profile, drawn within each class at random.

    Args:
        samples: N images.  rows: (M,) those to draw from.
        targets: as `targets.true_classes` takes it.
        per_class, ratio: see `profile`.
        order: which class is first: by name, by size (largest first), or random (keyed).
        key: of the draws; an image's lot depends on it and the row alone.

    Returns:
        (rows, ascending; class name -> number, in the order of the profile).  Images without a class are not drawn.

    Raises:
        DataError: no classes, or a class with fewer images than the profile wants.
    """
    names, truth = true_classes(samples, targets)
    classes = truth[rows]
    size = np.bincount(classes[classes >= 0], minlength=len(names))
    there = np.flatnonzero(size)
    if not len(there):
        raise DataError("none of the images has a class", "--targets FILE, lines of path<tab>class")
    if order == "size":
        there = there[np.argsort(-size[there], kind="stable")]
    elif order == "random":
        there = there[key.permutation("classes", len(there))]
    wanted = profile(size[there], per_class, ratio)
    short = np.flatnonzero(wanted > size[there])
    if len(short):
        c = short[0]
        raise DataError(f"class {names[there[c]]}: {size[there[c]]} images, the profile wants {wanted[c]} ({len(short)} classes are too small)",
                        "a smaller --per-class, or --class-order size")
    lot = key.bits("image", rows)
    taken = []
    for c, count in zip(there.tolist(), wanted.tolist(), strict=True):
        members = np.flatnonzero(classes == c)
        taken.append(rows[members[np.argsort(lot[members], kind="stable")[:count]]])
    return np.sort(np.concatenate(taken)), {names[c]: int(n) for c, n in zip(there, wanted, strict=True)}

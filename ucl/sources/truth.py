"""True classes from the label files of released data sets, read for `ucl.targets` and for nothing else (a test holds that)."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ucl import decode
from ucl.errors import DataError, InputMissing, UsageError
from ucl.sources import releases, subsets
from ucl.sources.records import begins
from ucl.sources.releases import CIFAR10, CIFAR100, RELEASES, STL10, SVHN, Release
from ucl.sources.shelf import Shelf

_HDF5 = b"\x89HDF\r\n\x1a\n"
_PATH = re.compile(rb"(" + b"|".join(r.name.encode() for r in RELEASES) + rb")/([a-z]+)/([0-9]+)\.png")
_AGAIN = "the file is damaged: fetch it again"


@dataclass(frozen=True)
class _Labels:
    """Where the labels of a data set are.

    Attributes:
        names: file of class names, one per line; empty if there is none.
        classes: number of classes.
        byte: position of the label in a record of the picture files; -1 if labels lie elsewhere.
        first: the first class's label.
    """

    names: str
    classes: int
    byte: int
    first: int


_SETS: dict[str, dict[str, _Labels]] = {
    CIFAR10.name: {"": _Labels("batches.meta.txt", 10, 0, 0)},
    CIFAR100.name: {"fine": _Labels("fine_label_names.txt", 100, 1, 0), "coarse": _Labels("coarse_label_names.txt", 20, 0, 0)},
    STL10.name: {"": _Labels("class_names.txt", 10, -1, 1)},
    SVHN.name: {"": _Labels("", 10, -1, 1)},
}

LABEL_SETS = ("fine", "coarse")
"""Names by which the classes of a data set that has several are chosen; the first is the default."""


def release_of(paths: list[bytes]) -> Release | None:
    """The data set that paths speak of, by their form (``cifar10/train/00017.png``); None for other paths."""
    match = _PATH.fullmatch(paths[0]) if paths else None
    return None if match is None else next(r for r in RELEASES if r.name.encode() == match[1])


def is_source(path: str) -> bool:
    """Whether a path may be a data set, and not a text file of targets."""
    return Path(path).is_dir() or path.endswith(".mat") or begins(path).startswith((b"\x1f\x8b", _HDF5)) or path.endswith(".tar")


def in_images(origin: str) -> bool:
    """Whether a list was made from the pictures of CUB-200-2011, whose folder is called images."""
    return Path(origin).name == "images" and subsets.is_cub(str(Path(origin).parent))


def find(where: str) -> Shelf | None:
    """The released data set, or CUB-200-2011, at ``where``; an images.h5 is followed to what it was made from.  None if there is none.

    Raises:
        DataError: a damaged archive or list.
    """
    for _ in range(4):
        if begins(where, len(_HDF5)) != _HDF5:
            break
        from ucl.formats.reader import open_artifact

        with open_artifact(where, "ucl/images") as file:
            where = str(file.attrs.get("root") or "")
    if where.endswith(".mat"):
        where = os.path.dirname(os.path.abspath(where))  # noqa: PTH100, PTH120
    if not Path(where).exists():
        return None
    for folder in (where, os.path.dirname(where)) if Path(where).name == "images" else (where,):  # noqa: PTH120
        if subsets.is_cub(folder):
            return Shelf(folder)
    shelf = Shelf.of(where)
    return shelf if shelf is not None and releases.recognise(shelf) is not None else None


def classes_of(paths: list[bytes], shelf: Shelf, labels: str) -> list[str | None]:
    """Name of the true class of each path; None for images without one, and for paths that the data set does not have.

    Args:
        paths: N paths.
        shelf: as `find` gives it.
        labels: which classes, where a data set has several (CIFAR-100: fine, the default, or coarse).

    Raises:
        DataError: a label out of range, more images than labels, or label files of another length.
        InputMissing: a label file that is not there.
        UsageError: unknown ``labels``.
    """
    if shelf.members is None and subsets.is_cub(shelf.root):
        if labels:
            raise UsageError(f"--labels {labels}: CUB-200-2011 has one set of classes", "leave it out")
        return _cub(paths, Path(shelf.root))
    release = releases.recognise(shelf)
    assert release is not None
    sets = _SETS[release.name]
    chosen = labels or next(iter(sets))
    if chosen not in sets:
        known = ", ".join(sets) if "" not in sets else "one set of classes"
        raise UsageError(f"--labels: found {labels!r}, {release.title} has {known}", "" if "" not in sets else "leave it out")
    how = sets[chosen]
    names = _names(shelf, how)
    table: dict[bytes, NDArray[np.int64]] = {}
    found: list[str | None] = []
    for path in paths:
        match = _PATH.fullmatch(path)
        if match is None or match[1] != release.name.encode():
            found.append(None)
            continue
        part = match[2]
        if part not in table:
            table[part] = _labels(shelf, release, how, part.decode())
        row = int(match[3])
        if len(table[part]) and row >= len(table[part]):
            raise DataError(f"{decode.show(path)}: {shelf.root} has {len(table[part])} images in that part",
                            "name the data set that the list was made from")
        label = int(table[part][row]) if len(table[part]) else -1
        found.append(None if label < 0 else names[label])
    return found


def _names(shelf: Shelf, how: _Labels) -> list[str]:
    """Names of the classes; numbers where the release has no text of them."""
    lines = shelf.lines(how.names) if how.names else None
    if lines is None:
        return [f"{i:0{len(str(how.classes - 1))}d}" for i in range(how.classes)]
    if len(lines) != how.classes or len(set(lines)) != how.classes:
        raise DataError(f"{shelf.show(how.names)}: found {len(set(lines))} names, wanted {how.classes}", _AGAIN)
    return lines


def _labels(shelf: Shelf, release: Release, how: _Labels, part: str) -> NDArray[np.int64]:
    """Class of every picture of a part, (n,) from 0; empty for a part without labels."""
    if part not in release.parts:
        return np.zeros(0, np.int64)
    if how.byte >= 0:
        return np.concatenate([_within(shelf, release, how, name) for name in release.parts[part]])
    if release is SVHN:
        return _svhn(shelf, release.parts[part][0], how)
    if part == "unlabeled":
        return np.zeros(0, np.int64)
    name = f"{part}_y.bin"
    span = shelf.find(name)
    if span is None:
        raise InputMissing(f"{shelf.show(name)}: missing; it holds the classes", "fetch the whole release")
    return _checked(shelf.bytes_of(span), how, shelf.show(name), _pictures(shelf, release, part))


def _pictures(shelf: Shelf, release: Release, part: str) -> int | None:
    """Pictures in a part; None if they are not there."""
    name = release.parts[part][0]
    span = shelf.find(name)
    return None if span is None else releases.count(shelf, release, name, span)


def _within(shelf: Shelf, release: Release, how: _Labels, name: str) -> NDArray[np.int64]:
    span = shelf.find(name)
    if span is None:
        raise InputMissing(f"{shelf.show(name)}: missing; it holds the classes", "fetch the whole release")
    n = releases.count(shelf, release, name, span)
    return _checked(shelf.bytes_of(span).reshape(n, release.record)[:, how.byte], how, shelf.show(name), n)


def _svhn(shelf: Shelf, name: str, how: _Labels) -> NDArray[np.int64]:
    """SVHN's y: 1 to 9 are these digits, 10 is the digit 0."""
    from ucl.sources import matlab

    span = shelf.find(name)
    if span is None:
        raise InputMissing(f"{shelf.show(name)}: missing; it holds the classes", "fetch the whole release")
    y = matlab.variable(str(shelf.path(span)), "y")
    if y.dtype.kind not in "iuf":
        raise DataError(f"{shelf.show(name)}: y: found {y.dtype}, wanted numbers", _AGAIN)
    label = _checked(y.ravel(), how, f"{shelf.show(name)}: y", releases.count(shelf, SVHN, name, span)) + how.first
    return label % 10


def _checked(raw: NDArray[np.generic], how: _Labels, where: str, n: int | None) -> NDArray[np.int64]:
    """Labels from 0, in range and as many as there are pictures."""
    label = raw.astype(np.int64) - how.first
    if n is not None and len(label) != n:
        raise DataError(f"{where}: found {len(label)} labels, wanted {n}, one per image", _AGAIN)
    bad = np.flatnonzero((label < 0) | (label >= how.classes))
    if len(bad):
        raise DataError(f"{where}: record {bad[0]}: found label {label[bad[0]] + how.first}, "
                        f"wanted {how.first} to {how.classes - 1 + how.first}", _AGAIN)
    return label


def _cub(paths: list[bytes], root: Path) -> list[str | None]:
    """CUB-200-2011's image_class_labels.txt ("id class") and, for the names, classes.txt."""
    label_file = root / "image_class_labels.txt"
    by_id = subsets.numbered(label_file)
    names = subsets.numbered(root / "classes.txt") if (root / "classes.txt").is_file() else {}
    of_path = {path: key for key, path in subsets.numbered(root / "images.txt").items()}
    found: list[str | None] = []
    for path in paths:
        key = of_path.get(path)
        if key is None:
            found.append(None)
            continue
        label = by_id.get(key)
        if label is None or not label.isdigit() or (names and label not in names):
            raise DataError(f"{label_file}: image {decode.show(key)}: found {decode.show(label or b'nothing')}, wanted the number of a class"
                            + (f" of {root / 'classes.txt'}" if names else ""), _AGAIN)
        found.append(names.get(label, b"%03d" % int(label)).decode("utf-8", "replace"))
    return found

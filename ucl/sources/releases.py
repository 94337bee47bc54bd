"""Data sets in the binary form in which they are released, each known by the names of its files.

The pictures alone are read here, by their offsets; labels lie elsewhere in the files and are read by `ucl.sources.truth`,
for `evaluate` and `targets`.  Layouts as their authors describe them: CIFAR-10 and CIFAR-100 (Krizhevsky, "binary version"), STL-10
(Coates, Ng, Lee 2011), SVHN (Netzer et al. 2011, format 2).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ucl.errors import DataError, InputMissing, UsageError
from ucl.sources.records import Records
from ucl.sources.shelf import Shelf, Span

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Release:
    """One data set.

    Attributes:
        name: first part of its samples' paths.
        title: for people.
        parts: name of a part -> its files, in order.
        form: of a picture, see `ucl.sources.records`.
        record: bytes of a record in a file.
        skip: bytes of a record before the picture.
        released: pictures in each file as released; another number warns.
        digits: digits of the number in a sample's path.
        folds: the file that lists parts of part "train" by index, or empty.
    """

    name: str
    title: str
    parts: Mapping[str, tuple[str, ...]]
    form: str
    record: int
    skip: int
    released: Mapping[str, int] = field(default_factory=dict)
    digits: int = 5
    folds: str = ""

    @property
    def picture_bytes(self) -> int:
        """Bytes of one picture."""
        return 3 * int(self.form.partition(":")[2]) ** 2


CIFAR10 = Release("cifar10", "CIFAR-10", {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)}, "planes:32",
                  3073, 1, {"train": 50_000, "test": 10_000})
CIFAR100 = Release("cifar100", "CIFAR-100", {"train": ("train.bin",), "test": ("test.bin",)}, "planes:32", 3074, 2,
                   {"train": 50_000, "test": 10_000})
STL10 = Release("stl10", "STL-10", {"train": ("train_X.bin",), "test": ("test_X.bin",), "unlabeled": ("unlabeled_X.bin",)}, "columns:96", 27648, 0,
                {"train": 5_000, "test": 8_000, "unlabeled": 100_000}, folds="fold_indices.txt")
SVHN = Release("svhn", "SVHN", {part: (f"{part}_32x32.mat",) for part in ("train", "test", "extra")}, "columns:32", 3072, 0,
               {"train": 73_257, "test": 26_032, "extra": 531_131}, digits=6)
RELEASES = (CIFAR10, STL10, SVHN, CIFAR100)
DEFAULT_SPLIT = "train"


def recognise(shelf: Shelf) -> Release | None:
    """The data set whose files a shelf holds, or None.

    Raises:
        DataError: CIFAR's Python version, which is pickled.
    """
    for release in RELEASES:
        spans = [span for files in release.parts.values() for name in files if (span := shelf.find(name)) is not None]
        if release is CIFAR100 and shelf.find("fine_label_names.txt") is None:
            spans = [span for span in spans if span.size and span.size % release.record == 0]  # names that others use too
        if spans:
            return release
    if any(shelf.find(name) for name in ("data_batch_1", "meta")) and any(shelf.find(name) for name in ("batches.meta", "test")):
        raise DataError(f"{shelf.root}: the Python version of CIFAR, whose files are pickles, which ucl never opens",
                        "get the binary version: cifar-10-binary.tar.gz or cifar-100-binary.tar.gz")
    return None


def split_parts(release: Release, split: str, shelf: Shelf) -> list[str]:
    """The parts that ``--split`` names, in its order; ``all`` are those that are there.

    Raises:
        UsageError: an unknown part, or one twice.
    """
    known = [*release.parts, *(f"fold{i}" for i in range(10) if release.folds)]
    if split == "all":
        return [part for part, files in release.parts.items() if shelf.find(files[0]) is not None]
    parts = (split or DEFAULT_SPLIT).split("+")
    for part in parts:
        if part not in known:
            raise UsageError(f"--split: found {part!r}, {release.title} has {', '.join(release.parts)}"
                             + (", fold0 to fold9" if release.folds else ""),
                             "join several with +, as in train+test; all stands for all that are there")
    if len(set(parts)) < len(parts) or (any(p.startswith("fold") for p in parts) and "train" in parts):
        raise UsageError(f"--split {split}: an image would be listed twice", "name each part once; folds are parts of train")
    return parts


def list_release(shelf: Shelf, release: Release, split: str) -> tuple[list[bytes], Records]:
    """Paths and places of the pictures of some parts, as ``cifar10/train/00017.png``; numbers count from 0 through a part's files.

    Raises:
        InputMissing: a file that is not there.
        DataError: a file whose length is no whole number of records; found and wanted bytes are named.
        UsageError: see `split_parts`.
    """
    paths: list[bytes] = []
    files: list[bytes] = []
    columns: list[tuple[NDArray[np.int32], NDArray[np.int64]]] = []
    taken: set[bytes] = set()
    for part in split_parts(release, split, shelf):
        of = "train" if part.startswith("fold") else part
        number, offset = _places(shelf, release, of, files)
        chosen = np.arange(len(offset)) if part == of else _fold(shelf, release, int(part[4:]), len(offset))
        named = [b"%s/%s/%0*d.png" % (release.name.encode(), of.encode(), release.digits, i) for i in chosen.tolist()]
        if part != of and not taken.isdisjoint(named):
            raise UsageError(f"--split {split}: the folds share images", "name one fold")
        taken.update(named if part != of else ())
        paths += named
        columns.append((number[chosen], offset[chosen]))
    where = np.concatenate([c[0] for c in columns]), np.concatenate([c[1] for c in columns])
    if not paths:
        raise InputMissing(f"{shelf.root}: {release.title} without a picture", "fetch the release again")
    return paths, Records(release.form, tuple(files), *where, np.full(len(paths), release.picture_bytes, np.int64), shelf.spool)


def _places(shelf: Shelf, release: Release, part: str, files: list[bytes]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """(file, offset) of every picture of a part; new files are added to ``files``."""
    number, offset = [], []
    for name in release.parts[part]:
        span = shelf.find(name)
        if span is None:
            raise InputMissing(f"{shelf.show(name)}: missing, and {release.title}'s part {part} needs it",
                               "fetch the whole release, or name another --split")
        if span.file not in files:
            files.append(span.file)
        n = count(shelf, release, name, span)
        number.append(np.full(n, files.index(span.file), np.int32))
        offset.append(span.offset + release.skip + release.record * np.arange(n, dtype=np.int64))
    found = sum(map(len, offset))
    if found != release.released.get(part, found):
        log.warning("%s: %s has %d images in its part %s, the release %d", shelf.root, release.title, found, part, release.released[part])
    return np.concatenate(number), np.concatenate(offset)


def count(shelf: Shelf, release: Release, name: str, span: Span) -> int:
    """Pictures in one file.

    Raises:
        DataError: its length is no whole number of records.
    """
    if release is SVHN:
        from ucl.sources import matlab

        if shelf.members is not None:
            raise UsageError(f"{shelf.show(name)}: a MATLAB file inside an archive", "unpack the archive, and give the folder")
        shape = matlab.shapes(str(shelf.path(span))).get("X")
        if shape is None or len(shape) != 4 or shape[:3] != (32, 32, 3):
            raise DataError(f"{shelf.show(name)}: X: found {shape or 'no such variable'}, wanted shape (32, 32, 3, N)",
                            "wanted is the cropped format: train_32x32.mat, test_32x32.mat, extra_32x32.mat")
        return shape[3]
    n, rest = divmod(span.size, release.record)
    if rest or not n:
        raise DataError(f"{shelf.show(name)}: found {span.size} bytes, wanted a multiple of {release.record} "
                        f"({_as_released(release, name)} as released)", "the file is cut or damaged: fetch it again")
    return n


def _as_released(release: Release, name: str) -> int:
    part = next(part for part, files in release.parts.items() if name in files)
    return release.released[part] // len(release.parts[part]) * release.record


def _fold(shelf: Shelf, release: Release, fold: int, n: int) -> NDArray[np.int64]:
    """Rows of part train that one of STL-10's folds names, ascending."""
    lines = shelf.lines(release.folds)
    if lines is None:
        raise InputMissing(f"{shelf.show(release.folds)}: missing, and it names the folds", "fetch the whole release")
    if fold >= len(lines):
        raise DataError(f"{shelf.show(release.folds)}: found {len(lines)} lines, fold{fold} is line {fold + 1}")
    words = lines[fold].split()
    if not all(w.isdecimal() and int(w) < n for w in words) or not words:
        bad = next((w for w in words if not w.isdecimal() or int(w) >= n), "nothing")
        raise DataError(f"{shelf.show(release.folds)}: line {fold + 1}: found {bad[:20]!r}, wanted numbers from 0 to {n - 1}")
    return np.unique(np.array([int(w) for w in words], np.int64))

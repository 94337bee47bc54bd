"""True classes, for `evaluate` and `targets` and for nothing else (a test holds that)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ucl.artifacts import Samples
from ucl.errors import DataError, InputMissing, UsageError
from ucl.listing import DIGITS_COUNT
from ucl.sources import truth
from ucl.sources.shelf import Shelf

DIGITS = "digits/"
LABEL_SETS = truth.LABEL_SETS


def true_classes(samples: Samples, targets: str | None = None, labels: str | None = None,
                 origin: str = "") -> tuple[list[str], NDArray[np.int64]]:
    """The true class of every image.

    From ``targets``: a text file of lines "path<tab>class" (or comma, or a blank), or a released data set, whose label files
    are read.  Without it: the label files of the data set that the list was made from, where it is known and there; else the
    built-in truth of digits; else the first folder of each path, as torchvision's ImageFolder has it.

    Args:
        samples: N images.
        targets: the file, folder or archive, or None.
        labels: which classes, where a data set has several.
        origin: what the list was made from, as images.h5 records it.

    Returns:
        (class names sorted, (N,) int64 index into them, -1 where the file does not name the image).

    Raises:
        DataError: no folders and no file, a malformed line, or a file that names none of the images.
        InputMissing: no such file.
        UsageError: ``labels`` where there is no choice.
    """
    paths = samples.path.tolist()
    shelf = _data_set(paths, targets, origin)
    if labels and shelf is None:
        raise UsageError(f"--labels {labels}: chooses between the classes of a released data set, and these come from elsewhere",
                         "--targets cifar-100-binary/ --labels coarse")
    if shelf is not None:
        names = truth.classes_of(paths, shelf, labels or "")
        if not any(names):
            raise DataError(f"{targets or origin}: knows the class of none of the {len(paths)} images; the first is "
                            f"{paths[0].decode('utf-8', 'replace') if paths else 'missing'}", "name the data set that the list was made from")
    elif targets is not None:
        names = _from_file(samples, Path(targets))
    elif all(p.startswith(DIGITS.encode()) for p in paths[:100]) and len(samples) == DIGITS_COUNT:
        from sklearn.datasets import load_digits

        known = load_digits().target
        return [str(d) for d in range(10)], np.array([known[int(p[len(DIGITS):-4])] for p in paths], np.int64)
    else:
        release = truth.release_of(paths)
        if release is not None:
            raise DataError(f"truth: the images are {release.title}'s, and their classes are in its files"
                            + (f", not found at {origin}" if origin else ""), "--targets FOLDER, the data set as released")
        names = [p.split(b"/", 1)[0].decode("utf-8", "replace") if b"/" in p else None for p in paths]
        if not any(names):
            raise DataError("truth: the images lie in no class folders", "--targets FILE, lines of path<tab>class")
    classes = sorted({n for n in names if n is not None})
    index = {name: i for i, name in enumerate(classes)}
    return classes, np.array([-1 if n is None else index[n] for n in names], np.int64)


def released(source: str) -> bool:
    """Whether images are named by a released data set, which has parts."""
    return truth.is_source(source) and truth.find(source) is not None


def _data_set(paths: list[bytes], targets: str | None, origin: str) -> Shelf | None:
    """The released data set that knows the classes; None if they come from a text, the folders or the digits."""
    if targets is not None:
        if not truth.is_source(targets):
            return None
        shelf = truth.find(targets)
        if shelf is None:
            raise DataError(f"{targets}: found no released data set, wanted one, or a text file of lines path<tab>class",
                            "class folders need no --targets")
        return shelf
    if not origin or (truth.release_of(paths) is None and not truth.in_images(origin)):
        return None
    return truth.find(origin)


def _from_file(samples: Samples, path: Path) -> list[str | None]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError as error:
        raise InputMissing(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file: {error.reason}", "lines of path<tab>class") from error
    table: dict[bytes, str] = {}
    known = set(samples.path.tolist())
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, mark, target = _fields(line, known)
        if not mark or not target.strip():
            raise DataError(f"{path}: line {number}: found {line[:60]!r}, wanted path<tab>class")
        if table.setdefault(name.encode(), target.strip()) != target.strip():
            raise DataError(f"{path}: line {number}: {name} has two classes")
    found = [table.get(p) for p in samples.path.tolist()]
    if not any(found):
        raise DataError(f"{path}: names none of the {len(samples)} images; the first is "
                        f"{samples.path[0].decode('utf-8', 'replace')}", "paths as ucl view shows them")
    return found


def _fields(line: str, known: set[bytes]) -> tuple[str, str, str]:
    """(path, separator, class) of a line; a blank separates if there is but one, or a known path before the last."""
    if "\t" in line:
        return line.partition("\t")
    if "," in line:
        return line.rpartition(",")
    name, mark, target = line.strip().rpartition(" ")
    name = name.rstrip()
    return (name, mark, target) if " " not in name or name.encode() in known else (line, "", "")


def join(a: tuple[list[str], NDArray[np.int64]], b: tuple[list[str], NDArray[np.int64]]) -> tuple[
        list[str], NDArray[np.int64], NDArray[np.int64]]:
    """All class names, and the class indices of two image lists under one numbering, by class name."""
    names = sorted(set(a[0]) | set(b[0]))
    index = {name: i for i, name in enumerate(names)}

    def renumber(classes: list[str], target: NDArray[np.int64]) -> NDArray[np.int64]:
        table = np.array([index[c] for c in classes] + [-1], np.int64)
        return table[target]

    return names, renumber(*a), renumber(*b)

"""True classes, for `evaluate` and `targets` and for nothing else (a test holds that)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ucl.artifacts import Samples
from ucl.errors import DataError, InputMissing
from ucl.listing import DIGITS_COUNT

DIGITS = "digits/"


def true_classes(samples: Samples, targets: str | None = None) -> tuple[list[str], NDArray[np.int64]]:
    """The true class of every image.

    From ``targets``, a text file of lines "path<tab>class" (or comma); else the built-in truth of digits; else the first
    folder of each path, as torchvision's ImageFolder has it.

    Args:
        samples: N images.
        targets: the file, or None.

    Returns:
        (class names sorted, (N,) int64 index into them, -1 where the file does not name the image).

    Raises:
        DataError: no folders and no file, a malformed line, or a file that names none of the images.
        InputMissing: no such file.
    """
    if targets is not None:
        names = _from_file(samples, Path(targets))
    elif all(p.startswith(DIGITS.encode()) for p in samples.path[:100].tolist()) and len(samples) == DIGITS_COUNT:
        from sklearn.datasets import load_digits

        truth = load_digits().target
        return [str(d) for d in range(10)], np.array([truth[int(p[len(DIGITS):-4])] for p in samples.path.tolist()], np.int64)
    else:
        names = [p.split(b"/", 1)[0].decode("utf-8", "replace") if b"/" in p else None for p in samples.path.tolist()]
        if not any(names):
            raise DataError("truth: the images lie in no class folders", "--targets FILE, lines of path<tab>class")
    classes = sorted({n for n in names if n is not None})
    index = {name: i for i, name in enumerate(classes)}
    return classes, np.array([-1 if n is None else index[n] for n in names], np.int64)


def _from_file(samples: Samples, path: Path) -> list[str | None]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError as error:
        raise InputMissing(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file: {error.reason}", "lines of path<tab>class") from error
    table: dict[bytes, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, mark, target = line.partition("\t") if "\t" in line else line.rpartition(",")
        if not mark or not target.strip():
            raise DataError(f"{path}: line {number}: found {line[:60]!r}, wanted path<tab>class")
        if table.setdefault(name.encode(), target.strip()) != target.strip():
            raise DataError(f"{path}: line {number}: {name} has two classes")
    found = [table.get(p) for p in samples.path.tolist()]
    if not any(found):
        raise DataError(f"{path}: names none of the {len(samples)} images; the first is "
                        f"{samples.path[0].decode('utf-8', 'replace')}", "paths as ucl view shows them")
    return found


def join(a: tuple[list[str], NDArray[np.int64]], b: tuple[list[str], NDArray[np.int64]]) -> tuple[
        NDArray[np.int64], NDArray[np.int64]]:
    """The class indices of two image lists under one numbering, by class name."""
    names = sorted(set(a[0]) | set(b[0]))
    index = {name: i for i, name in enumerate(names)}

    def renumber(classes: list[str], target: NDArray[np.int64]) -> NDArray[np.int64]:
        table = np.array([index[c] for c in classes] + [-1], np.int64)
        return table[target]

    return renumber(*a), renumber(*b)

"""SVHN's MATLAB files (version 5), read through SciPy, one variable at a time."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ucl.errors import DataError

_HEADER = 128
_AGAIN = "fetch the file again; wanted is the cropped format, MATLAB version 5, as released"


def shapes(path: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the variables, without their data.

    Raises:
        DataError: not a MATLAB file of version 5, or not a whole one; found and wanted bytes are named.
    """
    _whole(path)
    import scipy.io

    found = _guarded(path, lambda: scipy.io.whosmat(path))
    return {name: tuple(shape) for name, shape, _ in found}


def variable(path: str, name: str) -> NDArray[Any]:
    """One variable; no other is read.

    Raises:
        DataError: as `shapes`, or no such variable.
    """
    _whole(path)
    import scipy.io

    found = _guarded(path, lambda: scipy.io.loadmat(path, variable_names=[name]))
    if name not in found:
        raise DataError(f"{path}: found no variable {name}, wanted X and y", _AGAIN)
    return np.asarray(found[name])


def pictures(path: str) -> NDArray[np.uint8]:
    """The bytes of X (H, W, 3, N) in the order of the file: each picture in one piece, as three planes of columns.

    Raises:
        DataError: as `variable`, or X holds no bytes.
    """
    x = variable(path, "X")
    if x.dtype != np.uint8 or x.ndim != 4:
        raise DataError(f"{path}: X: found {x.dtype} of shape {x.shape}, wanted uint8 of shape (32, 32, 3, N)", _AGAIN)
    return x.reshape(-1, order="F")


def _guarded(path: str, read: Any) -> Any:
    """What SciPy reads; damaged files reach every corner of its parser, so any exception means a bad file."""
    try:
        return read()
    except (MemoryError, RecursionError):
        raise
    except Exception as error:
        raise DataError(f"{path}: cannot be read as MATLAB: {' '.join(str(error).split())[:160] or type(error).__name__}", _AGAIN) from error


def _whole(path: str) -> None:
    """Refuses what is no MATLAB file of version 5, and one whose elements do not add up to its length."""
    with Path(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(_HEADER)
        if len(head) < _HEADER or not head.startswith(b"MATLAB 5.0") or head[126:] not in (b"IM", b"MI"):
            raise DataError(f"{path}: not a MATLAB file of version 5: begins with {head[:20]!r}", _AGAIN)
        order = "<" if head[126:] == b"IM" else ">"
        at = _HEADER
        while at < size:
            file.seek(at)
            tag = file.read(8)
            if len(tag) < 8:
                at += 8
                break
            kind, length = struct.unpack(f"{order}II", tag)
            at += 8 + (length if kind == 15 else -(-length // 8) * 8)  # 15: compressed, the only kind that is not padded
        if at != size:
            raise DataError(f"{path}: found {size} bytes, wanted {at} or more: the file is cut or damaged", _AGAIN)

"""The files and streams of ucl: what is in them, and how they are written, read and checked.

    layout     every type as data: datasets, shapes, dtypes, attributes (imports nothing heavy)
    writer     arrays to an HDF5 stream, O(batch) memory, equal input gives equal bytes
    reader     a path, a file descriptor or a pipe to an `Artifact`; `validate`
    atomic     the old file or the new one, whatever happens
    safe_open  HDF5 that somebody else wrote, without following anything out of it

Import the submodules, or the names below: each is loaded when it is first touched, so that help and
completion pay for neither numpy nor h5py.
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "SCHEMA": "layout",
    "FileType": "layout",
    "Item": "layout",
    "ArtifactWriter": "writer",
    "write_artifact": "writer",
    "content_digest": "digest",
    "samples_digest": "digest",
    "Artifact": "reader",
    "open_artifact": "reader",
    "validate": "check",
    "AtomicFile": "atomic",
    "fsync_dir": "atomic",
    "write_bytes_atomic": "atomic",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])

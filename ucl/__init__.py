"""ucl: learn visual features without labels, by clustering, as Unix commands and as a library.

Six public names; each is imported when first used, so that ``import ucl`` stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["Checkpoint", "Features", "Labels", "UclError", "read", "walk"]

_HOME = {"Checkpoint": "ucl.artifacts", "Features": "ucl.artifacts", "Labels": "ucl.artifacts",
         "UclError": "ucl.errors", "read": "ucl.store", "walk": "ucl.run"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ucl' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)

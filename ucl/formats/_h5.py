"""The one place that imports h5py: plug-ins off first, no file makes HDF5 load a library."""

from __future__ import annotations

import os

os.environ["HDF5_PLUGIN_PRELOAD"] = "::"

import h5py
from h5py import h5a, h5d, h5f, h5fd, h5g, h5l, h5o, h5p, h5s, h5t

__all__ = ["h5a", "h5d", "h5f", "h5fd", "h5g", "h5l", "h5o", "h5p", "h5py", "h5s", "h5t"]

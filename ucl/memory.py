"""How much memory there is, and what clustering needs of it.

Nothing computed depends on either: what does not fit is read from a file in chunks of a fixed size, and so are the rows that
fit.  Only where rows lie is decided here, and what cannot be done at all.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ucl.errors import UsageError
from ucl.settings import ClusterSettings, NeighborsSettings, default_k

MIB = 1 << 20
UNLIMITED = 1 << 62

BASE = 320 * MIB
"""Python, numpy, scipy, faiss and HDF5: 312 MB as measured with faiss' build for GPUs, the largest."""

PROJECT_ROWS = 4096
SEARCH_ROWS = 8192
SEARCH_BYTES = 32 * MIB
"""A block of rows in the search of neighbours; three are held."""
SEARCH_SPARE = 12
"""Least number of candidates held beyond the neighbours wanted."""
SEARCH_THREADS = 16
"""Most threads of the search: each holds 8 MiB."""

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def parse_size(text: str) -> int:
    """Bytes written as a number with an optional suffix: 8G, 512M, 1.5GiB; units are of 1,024.

    Raises:
        UsageError: it is not so written.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", text.strip().lower())
    if not found:
        raise UsageError(f"--memory: found {text!r}, wanted bytes with a suffix K, M, G or T", "--memory 8G")
    return int(float(found[1]) * _UNITS[found[2]])


def machine_memory() -> int:
    """Bytes this process may use: the least of what the machine has available, its control group's limit and its Slurm job's."""
    limits = [_available(), *_cgroup_limits()]
    if (node := os.environ.get("SLURM_MEM_PER_NODE", "")).isdecimal():
        limits.append(int(node) * MIB)
    elif (each := os.environ.get("SLURM_MEM_PER_CPU", "")).isdecimal():
        cpus = os.environ.get("SLURM_CPUS_ON_NODE", "")
        limits.append(int(each) * MIB * (int(cpus) if cpus.isdecimal() else 1))
    return min((limit for limit in limits if limit > 0), default=UNLIMITED)


def budget(asked: str | None) -> int:
    """The memory to keep to, in bytes: what was asked for, else the machine's."""
    return parse_size(asked) if asked else machine_memory()


def _available() -> int:
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return int(found[1]) * 1024 if found else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _cgroup_limits(own: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """Limits of this process's memory control group and of all above it, versions 2 and 1."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        base, name = (root, "memory.max") if not controllers else (root / "memory", "memory.limit_in_bytes")
        group = base / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder == base.parent:
                break
            try:
                text = (folder / name).read_text(encoding="utf-8").strip()
            except OSError:
                continue
            if text.isdecimal():
                found.append(int(text))
    return found


def told(size: int) -> str:
    """Bytes for people and for --memory: 412M, 3.1G; rounded up."""
    if size < MIB:
        return str(size)
    if size < 1 << 30:
        return f"{-(-size // MIB)}M"
    return f"{-(-size * 10 // (1 << 30)) / 10:g}G"


@dataclass(frozen=True)
class Need:
    """What clustering takes, in bytes.

    Attributes:
        least: with every row outside of memory.
        features: the features as given.
        clustered: the rows in the space that is clustered; 0 where that is the features themselves.
        less: what would need less.
    """

    least: int
    features: int
    clustered: int
    less: str = "a smaller --pca or -k"

    def check(self, memory: int, what: str) -> None:
        """Refuse before work starts what cannot be done.

        Raises:
            UsageError: not even the least fits into ``memory``.
        """
        if self.least > memory:
            raise UsageError(f"--memory: {told(memory)} at hand, {what} needs at least {told(self.least)}",
                             f"--memory {told(self.least)} if this machine has it; {self.less} needs less")


def need(n: int, d: int, settings: ClusterSettings, *, path: int = 0) -> Need:
    """What `cluster` takes for n features of d dimensions.

    The formulas of ucl-cluster(1), "Memory".

    Args:
        path: bytes of a row's path.
    """
    out = min(settings.pca, d, max(n - 1, 1)) if settings.pca else d
    fit = _fit(n, d, out) if settings.pca else 0
    k = settings.k or default_k(n)
    if settings.method == "pic":
        work = n * (24 + 160 * settings.neighbors) + _search(out) + 60 * (n // 8) * out
    else:
        work = 60 * k * out + 24 * SEARCH_ROWS * out + 16 * n
    rows = n * (120 + 8 * settings.history + 3 * path)
    if settings.method == "argmax":
        return Need(BASE + rows + (1 << 28), 4 * n * d, 0)
    least = BASE + rows + max(fit, _project(d, out), work)
    return Need(least, 4 * n * d, 4 * n * out if settings.pca or settings.l2 else 0)


def need_of_assigning(n: int, d: int, out: int, k: int, *, path: int = 0) -> Need:
    """What `cluster --assign` takes: n features of d dimensions to K clusters of D."""
    least = BASE + n * (120 + 3 * path) + max(_project(d, out), 24 * SEARCH_ROWS * out) + 16 * k * out + 12 * d * out
    return Need(least, 4 * n * d, 4 * n * out)


def need_of_neighbors(n: int, d: int, settings: NeighborsSettings, *, among: int = 0, path: int = 0) -> Need:
    """What `neighbors` takes for n features of d dimensions, among those of another file or their own; of pairs what it takes without them.

    The formula of ucl-neighbors(1), "Memory".
    """
    each = 0 if settings.duplicates is not None else 16 * max(settings.neighbors, SEARCH_SPARE) + 28 * settings.neighbors
    return Need(BASE + n * (160 + each + 3 * path) + among * (100 + 3 * path) + _search(d), 4 * (n + among) * d, 0, "a smaller -k")


def _search(d: int) -> int:
    """Blocks and products of a search in d dimensions, and the rows that are measured."""
    return 3 * SEARCH_BYTES + 8 * MIB * SEARCH_THREADS + 20 * 4 * d * 1024


def _fit(n: int, d: int, out: int) -> int:
    """Two squares in float64, a chunk of rows or columns in float32 and twice in float64, the components."""
    side = min(n, d)
    return 16 * side * side + 20 * side * min(PROJECT_ROWS, max(n, d)) + 24 * d * out


def _project(d: int, out: int) -> int:
    """A chunk of rows before and after."""
    return PROJECT_ROWS * (20 * d + 40 * out) + 12 * d * out

"""What `select` takes of a file or a folder, and how it is written: as HDF5 or as a list of paths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
from numpy.typing import NDArray

from ucl.artifacts import OK, Samples
from ucl.decode import show
from ucl.errors import DataError, UsageError
from ucl.front.console import say
from ucl.front.listing import list_of
from ucl.front.options import Common
from ucl.front.streams import find_output, open_output, standard_input, stdin_is_data
from ucl.keys import Key
from ucl.names import read_names
from ucl.rows import samples_of, write_rows
from ucl.rundir import RunDir
from ucl.select import by_glob, by_name, by_number, by_value, drawn

Profile = Callable[[Samples, NDArray[np.int64]], tuple[NDArray[np.int64], dict[str, int]]]
KINDS = ("ucl/features", "ucl/labels", "ucl/images")


@dataclass(frozen=True)
class Choice:
    """What was asked for; each that is given narrows what is taken."""

    rows: str | None
    paths: str | None
    glob: list[str]
    cluster: list[int]
    flag: list[int]
    ok: bool
    sample: int | None
    key: Key

    def settings(self) -> dict[str, Any]:
        """For the provenance."""
        given = {"rows": self.rows, "paths": self.paths, "glob": self.glob, "cluster": self.cluster, "flag": self.flag, "ok": self.ok,
                 "sample": self.sample}
        return {f"select-{k}": v for k, v in given.items() if v}


def run_list(source: str | None, run: RunDir | None) -> str:
    """Where to select from: what was given, standard input, or the run directory's list.

    Raises:
        UsageError: nothing.
    """
    if source is not None:
        return source
    if stdin_is_data():
        return "-"
    if run is None:
        raise UsageError("no input: found no run directory, no INPUT and no data on standard input", "ucl select FILE --rows 0:10 --list")
    return str(run.path / "images.h5")


def of_folder(source: str, choice: Choice, profile: Profile | None, output: str | None, common: Common, *, force: bool) -> int:
    """Select from a folder or digits; always as a list of paths."""
    if choice.cluster or choice.flag:
        raise UsageError(f"--cluster and --flag choose by labels and flags, which {source} has not", "give a labels file")
    samples = list_of(source, None)[0]
    rows, counts = _chosen(samples, choice, profile, {})
    _write_list(samples.path[rows], output, force=force)
    return _told(rows, len(samples), counts, output, common)


def of_file(source: str, choice: Choice, profile: Profile | None, output: str | None, common: Common, *, force: bool, text: bool) -> int:
    """Select from a ucl file or stream; as a file of its kind, or as a list of paths."""
    from ucl.formats.reader import open_artifact

    where = "" if text else find_output(output, None, "labels")
    with open_artifact(standard_input() if source == "-" else Path(source), KINDS, name="stdin" if source == "-" else source) as file:
        if (choice.cluster and "/labels" not in file.names) or (choice.flag and "/flag" not in file.names):
            raise UsageError(f"--cluster and --flag choose by labels and flags, which {file.name} has not", "give a labels file")
        samples = samples_of(file)
        columns = {name: file.read(f"/{name}") for name, asked in (("labels", choice.cluster), ("flag", choice.flag)) if asked}
        if choice.ok and "/samples/status" in file.names:
            columns["status"] = file.read("/samples/status")
        rows, counts = _chosen(samples, choice, profile, columns)
        if text:
            escaped = file.attrs.get("path-escaping") == "percent"
            file.drain()
            _write_list(np.array([unquote_to_bytes(p) for p in samples.path[rows].tolist()]) if escaped else samples.path[rows], output, force=force)
        else:
            with open_output(where, force=force) as out:
                write_rows(file, rows, out, "select", choice.settings(), seed=choice.key.seed)
    return _told(rows, len(samples), counts, output if text else where, common)


def _chosen(samples: Samples, choice: Choice, profile: Profile | None, columns: dict[str, NDArray[Any]]) -> tuple[NDArray[np.int64], dict[str, int]]:
    """The rows, ascending, and the number of each class where a profile was drawn.

    Raises:
        UsageError, DataError: see `ucl.select`; or no row is left.
    """
    n = len(samples)
    taken = np.ones(n, bool)
    parts = []
    if choice.rows is not None:
        parts.append(by_number(choice.rows, n))
    if choice.paths is not None:
        parts.append(by_name(read_names(Path(choice.paths)), samples.path, choice.paths))
    if choice.glob:
        parts.append(by_glob(choice.glob, samples.path))
    if "labels" in columns:
        parts.append(by_value(columns["labels"], choice.cluster))
    if "flag" in columns:
        parts.append(by_value(columns["flag"], choice.flag))
    if "status" in columns:
        parts.append(by_value(columns["status"], [OK]))
    for part in parts:
        inside = np.zeros(n, bool)
        inside[part] = True
        taken &= inside
    rows = np.flatnonzero(taken).astype(np.int64)
    counts: dict[str, int] = {}
    if not len(rows):
        raise DataError(f"none of the {n} rows is chosen", "ucl view shows paths, labels and flags")
    if profile is not None:
        rows, counts = profile(samples, rows)
    if choice.sample is not None:
        rows = drawn(rows, choice.sample, choice.key)
    return rows, counts


def _write_list(names: NDArray[np.bytes_], output: str | None, *, force: bool) -> None:
    bad = next((n for n in names.tolist() if b"\n" in n), None)
    if bad is not None:
        raise DataError(f"{show(bad)}: a name with a newline has no line of its own", "rename it, or select HDF5")
    with open_output(output or "-", force=force) as out:
        for start in range(0, len(names), 65536):
            out.write(b"".join(n + b"\n" for n in names[start:start + 65536].tolist()))


def _told(rows: NDArray[np.int64], n: int, counts: dict[str, int], where: str | None, common: Common) -> int:
    if not common.quiet:
        some = list(counts.items())
        shown = ", ".join(f"{name} {count}" for name, count in (some if len(some) <= 12 else [*some[:3], *some[-3:]]))
        place = f"; in {where}" if where not in (None, "-") else ""
        say(f"ucl select: {len(rows)} of {n} rows" + (f"; by class: {shown}" if counts else "") + place)
    return 0

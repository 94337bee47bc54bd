"""``python -m benchmarks [ROW ...] [--quick] [--json FILE] [--repeat N]``: one table of ratios, printed as Markdown."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.table import Row, show
from ucl import __version__
from ucl.device import machine_threads, set_thread_variables

if TYPE_CHECKING:
    from benchmarks.data import Scale

MODULES = ("kmeans", "pca", "neighbors", "instances", "images", "moving", "contrast", "pipes", "startup", "gpu")
PACKAGES = ("torch", "torchvision", "faiss-gpu", "faiss-cpu", "scikit-learn", "numpy", "scipy", "h5py", "pillow")
BUSY = 0.1
"""Share of the cores' time that others may use before the header warns."""


def rows() -> dict[str, Callable[[Scale], Row | list[Row]]]:
    """Name -> what measures it, in the table's order."""
    return {name: make for module in MODULES for name, make in import_module(f"benchmarks.{module}").ROWS.items()}


def chosen(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """The rows asked for, in the table's order; all where none is named.  "kmeans" stands for every row whose name begins with it.

    Raises:
        ValueError: a name that is no row's, nor the beginning of one.
    """
    for name in names:
        if not any(row.startswith(name) for row in known):
            near = difflib.get_close_matches(name, known, n=1)
            raise ValueError(f"no row {name!r}" + (f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"))
    wanted = {row for name in names for row in known if row == name or (name not in known and row.startswith(name))}
    return [row for row in known if not names or row in wanted]


def cpu_times() -> tuple[float, float] | None:
    """(idle, all) seconds of all cores since the machine started; None where /proc does not tell."""
    try:
        fields = [float(word) for word in Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:9]]
    except (OSError, ValueError, IndexError):
        return None
    return fields[3] + fields[4], sum(fields)


def busy(seconds: float = 1.0) -> float:
    """Share of all cores' time that was used in the last ``seconds``, which this process slept through; 0 where unknown."""
    before = cpu_times()
    time.sleep(seconds)
    after = cpu_times()
    if before is None or after is None or after[1] <= before[1]:
        return 0.0
    return 1 - (after[0] - before[0]) / (after[1] - before[1])


def machine(threads: int, quick: bool, repeat: int, used: float) -> dict[str, Any]:
    """What the table was measured on."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    model = ""
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {"ucl": __version__, "python": platform.python_version(), "versions": versions, "cpu": model or platform.machine(),
            "cores": os.cpu_count(), "threads": threads, "load": list(os.getloadavg()), "busy": round(used, 3), "quick": quick,
            "repeat": repeat, "wait": os.environ.get("OMP_WAIT_POLICY", "")}


def header(about: dict[str, Any]) -> str:
    """The machine in words, and a warning where others use it."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines = [f"ucl {about['ucl']}, Python {about['python']}, {versions}",
             f"{about['cpu']}, {about['cores']} cores, {about['threads']} threads, OMP_WAIT_POLICY={about['wait']}; load average at the start "
             + ", ".join(f"{value:.2f}" for value in about["load"]) + f"; in use by others {about['busy']:.0%}",
             f"images: {about['images']}; {about['repeat']} pairs a row"]
    if about["busy"] > BUSY:
        lines.append("WARNING: the machine is busy with something else; ratios may be off, times are")
    if about["quick"]:
        lines.append("WARNING: --quick tests the rows themselves; its ratios say nothing")
    return "\n".join(lines) + "\n"


def measure(names: Sequence[str], scale: Scale) -> tuple[list[Row], list[str]]:
    """The rows, and the names of those that failed; Ctrl-C keeps what is done."""
    makers, done, failed = rows(), [], []
    for name in names:
        print(f"{name} ...", end="", file=sys.stderr, flush=True)
        began = time.monotonic()
        try:
            made = makers[name](scale)
        except KeyboardInterrupt:
            failed.append(name)
            break
        except Exception:  # one row must not cost the others
            traceback.print_exc()
            failed.append(name)
            continue
        found = made if isinstance(made, list) else [made]
        done += found
        print(f" {', '.join(row.absent or f'{row.ratio:.2f}' for row in found)} ({time.monotonic() - began:.0f} s)", file=sys.stderr, flush=True)
    return done, failed


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if a row could not be measured.  A goal that is missed is a result, not a failure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Ratios measured in one run; benchmarks/README.md tells how "
                                     "to read them.")
    parser.add_argument("rows", nargs="*", metavar="ROW", help="rows, or beginnings of their names; all if none is named")
    parser.add_argument("--quick", action="store_true", help="small sizes that test the rows themselves")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write everything measured to a file")
    parser.add_argument("--repeat", metavar="N", type=int, default=5, help="pairs of a row (default 5)")
    parser.add_argument("--images", metavar="FOLDER", type=Path, help="JPEG files to take instead of CIFAR-10's or drawn ones")
    parser.add_argument("--list", action="store_true", help="print the rows' names")
    asked = parser.parse_args(argv)
    threads = int(os.environ.get("UCL_THREADS") or 0) or machine_threads()
    set_thread_variables(threads)  # before numpy is loaded
    used = busy()
    known = list(rows())
    if asked.list:
        print("\n".join(known))
        return 0
    try:
        names = chosen(asked.rows, known)
    except ValueError as error:
        parser.error(str(error))
    if asked.repeat < 1:
        parser.error(f"--repeat: found {asked.repeat}, wanted at least 1")
    from benchmarks.data import Scale, source

    about = machine(threads, asked.quick, asked.repeat, used)
    with tempfile.TemporaryDirectory(prefix="ucl-benchmarks-") as work:
        scale = Scale(asked.quick, asked.repeat, threads, Path(work), asked.images)
        about["images"] = source(scale)
        print(header(about), flush=True)
        done, failed = measure(names, scale)
    print(show(done), end="", flush=True)
    if asked.json:
        text = json.dumps({"schema": "ucl.benchmarks/1", "machine": about, "rows": [row.as_dict() for row in done], "failed": failed}, indent=1)
        asked.json.write_text(text + "\n", encoding="utf-8")
    if failed:
        print(f"not measured: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

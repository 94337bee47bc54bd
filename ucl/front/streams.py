"""Which of the standard streams carries data, and where else input and output are.

``-`` and ``-o`` always say what is meant.  Without them standard output is data if it is a pipe, or a regular file that is
not also standard error; standard input likewise; and neither where the process is Slurm's own task (``srun ucl ...``,
whose streams are pipes to srun).  Else the run directory.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from ucl.errors import DataError, InputMissing, UsageError

if TYPE_CHECKING:
    from ucl.rundir import RunDir

_saved: list[int] = []


def _slurm_task() -> bool:
    return os.environ.get("SLURM_TASK_PID") == str(os.getpid())


def _kind(fd: int) -> str:
    """pipe, file, terminal or none (closed, /dev/null)."""
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return "none"
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        return "pipe"
    if stat.S_ISREG(mode):
        return "file"
    return "terminal" if os.isatty(fd) else "none"


def stdin_is_data() -> bool:
    """Whether standard input, unasked, is the artifact to read."""
    return not _slurm_task() and _kind(0) in ("pipe", "file")


def stdout_is_data() -> bool:
    """Whether standard output, unasked, is where the artifact goes."""
    if _slurm_task():
        return False
    fd, kind = (_saved[0] if _saved else 1), _kind(_saved[0] if _saved else 1)
    if kind == "file":
        try:
            return not os.path.samestat(os.fstat(fd), os.fstat(2))
        except OSError:
            return True
    return kind == "pipe"


def later_in_pipe() -> bool:
    """Whether this process reads from another one; such a stage shows no progress of its own."""
    return _kind(0) == "pipe" and not _slurm_task()


def take_stdout() -> int:
    """Standard output for data; from here on a stray print of any library goes to standard error."""
    if not _saved:
        sys.stdout.flush()
        _saved.append(os.dup(1))
        os.dup2(2, 1)
    return _saved[0]


def standard_input(what: str = "a file") -> int:
    """The descriptor of standard input, to read an artifact from.

    Raises:
        UsageError: it is a terminal.  DataError: it is closed or /dev/null.
    """
    if _kind(0) == "terminal":
        raise UsageError("standard input is a terminal; nothing to read", f"give a file, or pipe {what} into it")
    if _kind(0) == "none":
        raise DataError("stdin: empty: found no data, expected an HDF5 stream")
    return 0


def find_input(given: str | None, run: RunDir | None, work: str) -> tuple[Path | int, str]:
    """Where a command's input is: (path or file descriptor, its name in messages).

    Args:
        given: the argument: a path, "-", or None.
        run: the run directory, if there is one.
        work: its name in work/.

    Raises:
        UsageError: there is none.  InputMissing: work/ has none yet.
    """
    if given == "-" or (given is None and stdin_is_data()):
        return standard_input(work), "stdin"
    if given is not None:
        return Path(given), given
    if run is None:
        raise UsageError(f"no {work}: give a file, pipe it in, or work in a run directory")
    path = run.work(work)
    if not path.exists():
        raise InputMissing(f"{path}: not there yet", f"pipe the {work} in, as ucl status --next says, or make them first: the step before "
                                                     f"writes {path}")
    return path, str(path)


def find_output(given: str | None, run: RunDir | None, work: str) -> str:
    """Where a command's output goes: "-" or a path.

    Raises:
        UsageError: standard output is a terminal and nothing else was said.
    """
    if given == "-" or (given is None and stdout_is_data()):
        if _kind(_saved[0] if _saved else 1) == "terminal":
            raise UsageError("refusing to write HDF5 to a terminal", "give -o FILE, > FILE or a pipe")
        return "-"
    if given is not None:
        return given
    if run is None:
        what = "a terminal" if _kind(1) == "terminal" else "this standard output"
        raise UsageError(f"refusing to write HDF5 to {what}", "give -o FILE, > FILE or a pipe, or work in a run directory")
    return str(run.work(work))


def partial_of(where: str, run: RunDir | None) -> Path | None:
    """Where unfinished work on an output is kept; None if it goes to a stream, of which nothing can be."""
    path = Path(where)
    if where == "-" or (path.exists() and not path.is_file() and not path.is_dir()):
        return None
    if run is not None and path.parent == run.path / "work":
        return run.partial(path.stem)
    return path.with_name(f".{path.name}.partial")


@contextmanager
def open_output(where: str, *, force: bool, run: RunDir | None = None) -> Iterator[IO[bytes]]:
    """A binary file for the output: standard output, or a file that appears whole or not at all.

    Raises:
        OutputRefused: the file exists and ``force`` is off.
    """
    from ucl.formats.atomic import AtomicFile

    if where == "-":
        with os.fdopen(os.dup(take_stdout()), "wb", buffering=1 << 20) as out:
            yield out
        return
    path = Path(where)
    if run is not None and path.parent == run.path / "work":
        path.parent.mkdir(exist_ok=True)
        force = True
    if path.exists() and not path.is_file() and not path.is_dir():  # /dev/null or a FIFO is written to, never replaced
        with path.open("wb", buffering=1 << 20) as out:
            if out.isatty():
                raise UsageError("refusing to write HDF5 to a terminal", "give -o FILE, > FILE or a pipe")
            yield out
        return
    with AtomicFile(path, force=force) as whole:
        yield cast("IO[bytes]", whole)

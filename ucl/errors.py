"""Every way ucl can fail, with the exit code each one ends in.

    UclError                 70  a bug, if raised bare
    |-- UsageError            2  a wrong flag, k > N, HDF5 to a terminal
    |-- DataError            65  truncated, empty, corrupt, stale, mismatched or unsafe input
    |-- InputMissing         66  a file, folder or list that is not there or holds nothing
    |-- Unavailable          69  a device or an optional package that was asked for
    |-- OutputRefused        73  the output exists; somebody else committed first or holds the lock
    |   `-- Busy             73  another process is writing the same unfinished file
    |-- StorageError         74  a read or write that failed, a full disk
    |-- PlanFinished         76  past the plan's end: nothing left to do
    |-- NotPermitted         77  permission denied
    |-- ConfigError          78  ucl.toml
    `-- Stopped       75/130/143  a signal; everything finished so far is on disk

The library raises, `cli.main` prints: one line that says what, where, found and wanted, and one that says how to
mend it.  `ucl-exit-status(7)` is the table for users.
"""

from __future__ import annotations

import signal


class UclError(Exception):
    """A failure with a cure.

    Args:
        message: what is wrong, where, what was found, what was wanted; one line.
        hint: how to mend it; one line, printed after ``try:``.
    """

    exit_code = 70

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(UclError):
    """The command was misused (exit 2)."""

    exit_code = 2


class DataError(UclError):
    """The input is not what it should be (exit 65)."""

    exit_code = 65


class InputMissing(UclError):
    """An input does not exist or is empty (exit 66)."""

    exit_code = 66


class Unavailable(UclError):
    """A device or package that was asked for is missing (exit 69)."""

    exit_code = 69


class OutputRefused(UclError):
    """The output exists already, or another process was first (exit 73)."""

    exit_code = 73


class Busy(OutputRefused):
    """Another process is writing that very unfinished file (exit 73)."""


class StorageError(UclError):
    """Reading or writing failed (exit 74)."""

    exit_code = 74


class PlanFinished(UclError):
    """The plan has been walked to its end (exit 76)."""

    exit_code = 76


class NotPermitted(UclError):
    """Permission denied (exit 77)."""

    exit_code = 77


class ConfigError(UclError):
    """ucl.toml cannot be used as it stands (exit 78)."""

    exit_code = 78


class Stopped(UclError):
    """A signal asked for an orderly stop (exit 75 for USR1/USR2, else 128 + the signal's number)."""

    def __init__(self, signum: int, message: str = "", hint: str = "") -> None:
        name = signal.Signals(signum).name
        super().__init__(message or f"stopped by {name}; everything finished is on disk",
                         hint or "the same line again goes on from there")
        self.signum = signum

    @property
    def exit_code(self) -> int:  # type: ignore[override]
        if self.signum in (signal.SIGUSR1, signal.SIGUSR2):
            return 75
        return 128 + self.signum


EXIT_STATUS: dict[int, str] = {
    0: "done; bad images that --on-error skip let pass are reported and flagged, and are no error",
    1: "status --done: not done; diff: the contents differ",
    2: "usage: unknown option, wrong value, k larger than the number of images, HDF5 to a terminal",
    65: "bad data: truncated, empty pipe, corrupt, stale, mismatched images, non-finite values, unreadable images",
    66: "an input file, folder or list is missing or empty",
    69: "a device or an optional package is missing",
    70: "a bug in ucl; UCL_DEBUG=1 shows the traceback",
    73: "the output exists or cannot be created; another process committed first or holds the lock",
    74: "reading or writing failed; the disk is full",
    75: "stopped by USR1 or USR2 with everything finished on disk: run the same line again",
    76: "past the plan's end: nothing left to do",
    77: "permission denied",
    78: "ucl.toml has a fault",
    130: "interrupted (Ctrl-C)",
    141: "the reader of standard output went away (silent)",
    143: "terminated",
}

"""What a command says on standard error: progress, summary, warnings."""

from __future__ import annotations

import logging
import os
import sys
import time
from types import TracebackType
from typing import Any

from ucl.front import streams
from ucl.front.options import Common

EVERY_S = 30.0


def animated() -> bool:
    """Whether progress may be drawn: standard error is a terminal that can."""
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def say(text: str) -> None:
    """One line on standard error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


class Progress:
    """Progress of a command: a bar on a terminal, else a plain line every 30 s, nothing with -q.

    A stage that reads from another process draws none: one pipe, one voice.

    Args:
        name: the command, as "ucl extract".
        common: for -q.
        head: False for a stage that is not the head of its pipe.
    """

    def __init__(self, name: str, common: Common) -> None:
        self.name = name
        self.silent = common.quiet or streams.later_in_pipe()
        self.bar: Any = None
        self.tasks: dict[str, Any] = {}
        self.last = time.monotonic()
        self.start: dict[str, tuple[float, int]] = {}

    def __enter__(self) -> Progress:
        if not self.silent and animated():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self.bar = Bar(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                           console=Console(stderr=True), transient=True)
            self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Progress of one stage: ``done`` of ``total``."""
        if self.bar is not None:
            if what not in self.tasks:
                self.tasks[what] = self.bar.add_task(what, total=total)
            self.bar.update(self.tasks[what], completed=done, total=total)
            return
        now = time.monotonic()
        if what not in self.start or self.start[what][1] > done:
            self.start[what] = (now, done)
        if self.silent or now - self.last < EVERY_S:
            return
        self.last = now
        began, first = self.start[what]
        rate = (done - first) / max(now - began, 1e-9)
        left = (total - done) / rate if rate else 0
        say(f"{self.name}: {what} {done}/{total} {100 * done // max(total, 1)}% {rate:.0f}/s eta {int(left // 60)}m{int(left % 60):02d}s")


class _Handler(logging.Handler):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.command = name

    def emit(self, record: logging.LogRecord) -> None:
        say(f"{self.command}: {record.levelname.lower()}: {clean(record.getMessage())}")


def clean(text: str) -> str:
    """Text from files, with control characters escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def start_logging(name: str, common: Common) -> None:
    """Send ucl's log to standard error, at the level the command line asks for."""
    logger = logging.getLogger("ucl")
    logger.handlers = [_Handler(name)]
    logger.propagate = False
    by_name = {"debug": 10, "info": 20, "warning": 30, "error": 40}.get(os.environ.get("UCL_LOG", "").lower())
    logger.setLevel(by_name or (logging.ERROR if common.quiet else (logging.WARNING, logging.INFO, logging.DEBUG)[min(common.verbose, 2)]))

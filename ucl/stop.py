"""Signals: a flag, and the next safe point.

A step that commits work (train-epoch, run, init) defers: INT, TERM, USR1 and USR2 set a flag, and `check`, called between
batches and steps, raises `Stopped` there.  A step that has nothing to lose (extract, cluster, ...) is stopped at once.
A second INT or TERM always ends the process at once: files are atomic, so that is safe too.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

from ucl.errors import Stopped

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_pending: list[int] = []
_deferring = [True]


def _handle(signum: int, frame: FrameType | None) -> None:
    if _pending and signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)
        return
    _pending.append(signum)
    if not _deferring[0]:
        raise Stopped(signum)


def install() -> None:
    """Install the handlers; called before the heavy imports, so that no signal finds the default action."""
    for signum in _SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:  # nohup's choice stands
            signal.signal(signum, _handle)


def at_once() -> None:
    """From here on a signal stops the process at once; one that is already pending does so now."""
    _deferring[0] = False
    check()


def pending() -> int:
    """The signal that has come and was not acted on yet; 0 if none has."""
    return _pending[0] if _pending else 0


def check() -> None:
    """A safe point.

    Raises:
        Stopped: a signal has come since the last one.
    """
    if _pending:
        raise Stopped(_pending[0])

"""ucl.stop: a signal is a flag until the next safe point; the second one ends the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from ucl import stop
from ucl.errors import Stopped

ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


@pytest.fixture
def installed() -> Iterator[None]:
    before = {s: signal.getsignal(s) for s in ALL}
    stop.install()
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)
    stop._pending.clear()
    stop._deferring[0] = True


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 75), (signal.SIGUSR2, 75)])
def test_a_signal_waits_for_the_next_safe_point(signum: signal.Signals, code: int) -> None:
    stop.check()
    os.kill(os.getpid(), signum)                                         # nothing is raised here
    with pytest.raises(Stopped, match=f"stopped by {signum.name}") as e:
        stop.check()
    assert e.value.exit_code == code
    assert e.value.signum == signum
    with pytest.raises(Stopped):                                         # and it stays
        stop.check()


@pytest.mark.usefixtures("installed")
def test_the_first_signal_is_the_one_that_is_named() -> None:
    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGUSR2)                                 # a second USR only waits
    with pytest.raises(Stopped, match="SIGUSR1"):
        stop.check()


@pytest.mark.usefixtures("installed")
def test_at_once() -> None:
    stop.at_once()
    with pytest.raises(Stopped, match="SIGTERM"):
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.usefixtures("installed")
def test_at_once_stops_for_what_came_before() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(Stopped, match="SIGINT"):
        stop.at_once()


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    others = {s: signal.getsignal(s) for s in ALL}
    try:
        stop.install()
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is stop._handle
        os.kill(os.getpid(), signal.SIGUSR1)
        stop.check()
    finally:
        for signum, handler in others.items():
            signal.signal(signum, handler)
        signal.signal(signal.SIGUSR1, before)


SCRIPT = """
import os, signal, sys
from ucl import stop
stop.install()
os.kill(os.getpid(), signal.{first})
print("first", flush=True)
os.kill(os.getpid(), signal.{second})
print("second", flush=True)
"""


@pytest.mark.parametrize(("first", "second", "dies"), [("SIGINT", "SIGTERM", True), ("SIGTERM", "SIGINT", True), ("SIGUSR1", "SIGTERM", True),
                                                      ("SIGTERM", "SIGUSR1", False)])
def test_a_second_int_or_term_ends_the_process(first: str, second: str, dies: bool) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(first=first, second=second)], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.split() == (["first"] if dies else ["first", "second"]), done.stderr
    assert done.returncode == (-signal.Signals[second] if dies else 0)

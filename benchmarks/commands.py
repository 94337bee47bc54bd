"""Commands as processes: how long they take, and the most memory they held.  They run the ucl of this checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHON = sys.executable

_SPAWN = """import os, sys
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)])
_, status, used = os.wait4(pid, 0)
print(used.ru_maxrss * 1024)
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""A process counts its parent's memory as its own until it has replaced itself: hence a small parent."""


def environment() -> dict[str, str]:
    """This process's, with the checkout first on Python's path; commands that are not told a device run on the CPU.

    Byte code is kept, as users have it: compiling ucl would be most of a start.
    """
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "UCL_DEVICE": "cpu", "PYTHONDONTWRITEBYTECODE": ""}


def timed(line: list[str], cwd: Path) -> float:
    """Seconds a process takes, from before it starts until it is gone; its streams are /dev/null and a captured standard error.

    Raises:
        RuntimeError: it failed.
    """
    began = time.perf_counter()
    done = subprocess.run(line, cwd=cwd, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                          check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"{' '.join(line)}: exit code {done.returncode}: {done.stderr.decode(errors='replace')[-500:]}")
    return seconds


def ucl(*args: str, cwd: Path) -> float:
    """Seconds of one ucl command."""
    return timed([PYTHON, "-m", "ucl", *args], cwd)


def printed(*args: str, cwd: Path) -> str:
    """What a ucl command prints."""
    return subprocess.run([PYTHON, "-m", "ucl", *args], cwd=cwd, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          check=True).stdout


def shell(line: str, cwd: Path) -> float:
    """Seconds of a bash line in which ``ucl`` is the checkout's."""
    return timed(["bash", "-c", f'set -o pipefail; ucl() {{ "{PYTHON}" -m ucl "$@"; }}; {line}'], cwd)


def peak(line: list[str], cwd: Path) -> int:
    """Most bytes a process held (its largest resident set)."""
    done = subprocess.run([PYTHON, "-I", "-S", "-c", _SPAWN, *line], cwd=cwd, env=environment(), stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, check=True)
    return int(done.stdout.split()[-1])


def imported(*args: str, cwd: Path) -> set[str]:
    """Top-level modules that a ucl command imports."""
    done = subprocess.run([PYTHON, "-X", "importtime", "-m", "ucl", *args], cwd=cwd, env=environment(), stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=True)
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines() if line.startswith("import time:")}

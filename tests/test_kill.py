"""kill -9 at any moment, and two loops at once: the final model is the undisturbed one's."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_parity import ENV, UCL, digests, make, ucl

pytestmark = pytest.mark.slow

LOOP = """
until {ucl} status --done; do
    {ucl} extract -q | {ucl} cluster -q | {ucl} train-epoch -q
    code=$?
    case $code in 0|65|66|73|76) ;; *) exit $code ;; esac
done
"""
KILLS = int(os.environ.get("UCL_TEST_KILLS", "50"))


def start(cwd: Path, *args: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*UCL, *args], cwd=cwd, env=ENV, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL, start_new_session=True)


def kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def generations(run: Path) -> int:
    return len([p for p in (run / "epochs").iterdir() if not p.name.startswith(".")])


def wait_for_commit(run: Path, process: subprocess.Popen[bytes], deadline: float) -> bool:
    """Until a generation is being written (its temporary directory is there); False if the process ended first."""
    while time.monotonic() < deadline and process.poll() is None:
        if any(p.name.endswith(".tmp") for p in (run / "epochs").iterdir()):
            return True
        time.sleep(0.0002)
    return False


def test_fifty_kills_end_in_the_undisturbed_model(tmp_path: Path) -> None:
    """Half of the kills strike at a random moment, half while a generation is being committed."""
    epochs = max(6, KILLS // 3)
    straight, killed = (make(tmp_path / name, epochs=epochs) for name in ("straight", "killed"))
    ucl("run", cwd=straight)
    rng = random.Random(0)
    inside = 0
    for number in range(KILLS):
        process = start(killed, "run", "-q")
        if number % 2:
            if wait_for_commit(killed, process, time.monotonic() + 60):
                time.sleep(rng.uniform(0, 0.02))
                inside += any(p.name.endswith(".tmp") for p in (killed / "epochs").iterdir())
        else:
            time.sleep(rng.uniform(0.05, 6))
        kill(process)
        if generations(killed) > epochs - 1:
            break
    for _ in range(3):
        done = subprocess.run([*UCL, "run", "-q"], cwd=killed, env=ENV, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if done.returncode == 76:
            break
        assert done.returncode == 0, done.stderr
    assert inside >= min(5, KILLS // 4)
    assert digests(killed) == digests(straight)
    assert not list((killed / "epochs").glob(".*"))
    assert done.returncode == 76 or subprocess.run([*UCL, "run"], cwd=killed, env=ENV, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                                   stderr=subprocess.DEVNULL, check=False).returncode == 76


def test_kills_of_a_pipe(tmp_path: Path) -> None:
    """Any process of the pipe may die; the loop goes on and ends in the same model."""
    straight, killed = (make(tmp_path / name, epochs=4) for name in ("straight", "killed"))
    ucl("run", cwd=straight)
    rng = random.Random(1)
    words = f"{sys.executable} -m ucl"
    for _ in range(8):
        loop = subprocess.Popen(["bash", "-c", LOOP.format(ucl=words)], cwd=killed, env=ENV, stdin=subprocess.DEVNULL,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        time.sleep(rng.uniform(0.5, 12))
        kill(loop)
    subprocess.run(["bash", "-c", LOOP.format(ucl=words)], cwd=killed, env=ENV, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                   stderr=subprocess.PIPE, check=True)
    assert digests(killed) == digests(straight)


def test_two_loops_at_once(tmp_path: Path) -> None:
    """Two shell loops in one directory: both end, nothing is torn, and the model is the undisturbed one's."""
    straight, shared = (make(tmp_path / name, epochs=4) for name in ("straight", "shared"))
    ucl("run", cwd=straight)
    words = f"{sys.executable} -m ucl"
    loops = [subprocess.Popen(["bash", "-c", LOOP.format(ucl=words)], cwd=shared, env=ENV, stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(2)]
    said = [loop.communicate()[1] for loop in loops]
    assert [loop.returncode for loop in loops] == [0, 0], said
    assert digests(shared) == digests(straight)
    for verb in ("extract", "run", "train-epoch"):
        code = subprocess.run([*UCL, verb], cwd=shared, env=ENV, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, check=False).returncode
        assert code == 76, verb


def test_usr2_stops_at_a_safe_point_and_goes_on(tmp_path: Path) -> None:
    straight, stopped = (make(tmp_path / name, epochs=5) for name in ("straight", "stopped"))
    ucl("run", cwd=straight)
    codes = []
    for signum, wanted in ((signal.SIGUSR2, 75), (signal.SIGTERM, 143), (signal.SIGINT, 130)):
        process = start(stopped, "run", "-q")
        before = generations(stopped)
        while generations(stopped) == before and process.poll() is None:
            time.sleep(0.01)
        sent = time.monotonic()
        process.send_signal(signum)
        codes.append((process.wait(), wanted))
        assert time.monotonic() - sent < 10
    assert [code for code, _ in codes] == [wanted for _, wanted in codes]
    ucl("run", cwd=stopped)
    assert digests(stopped) == digests(straight)

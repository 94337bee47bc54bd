"""kill -9 at any moment, and two loops at once: the final model is the undisturbed one's."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_parity import ENV, UCL, digests, make, ucl

from ucl.safepoints import rows_of

pytestmark = pytest.mark.slow

LOOP = """
until {ucl} status --done; do
    {ucl} extract -q | {ucl} cluster -q | {ucl} train-epoch -q
    code=$?
    case $code in 0|65|66|73|76) ;; *) exit $code ;; esac
done
"""
KILLS = int(os.environ.get("UCL_TEST_KILLS", "32"))


# Goes on with an epoch that is half done, else does a whole one.
MIDWAY = """
until {ucl} status --done; do
    if {ucl} status --midway
    then {ucl} train-epoch -q
    else {ucl} extract -q | {ucl} cluster -q | {ucl} train-epoch -q
    fi || exit
done
"""


# odc is clustered in its first turn alone, and uic never.
MOVING = """
until {ucl} status --done; do
    if {ucl} status --midway || [ -e epochs/0001 ] || grep -q '^method = "uic"' ucl.toml
    then {ucl} train-epoch -q
    else {ucl} extract -q | {ucl} cluster -q | {ucl} train-epoch -q
    fi || exit
done
"""


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


def test_many_kills_end_in_the_undisturbed_model(tmp_path: Path) -> None:
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
    for _ in range(6):
        loop = subprocess.Popen(["bash", "-c", LOOP.format(ucl=words)], cwd=killed, env=ENV, stdin=subprocess.DEVNULL,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        time.sleep(rng.uniform(0.5, 12))
        kill(loop)
    subprocess.run(["bash", "-c", LOOP.format(ucl=words)], cwd=killed, env=ENV, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                   stderr=subprocess.PIPE, check=True)
    assert digests(killed) == digests(straight)


def test_two_loops_at_once(tmp_path: Path) -> None:
    """Two shell loops in one directory: both end, nothing is torn, and the model is the undisturbed one's."""
    straight, shared = (make(tmp_path / name, epochs=3) for name in ("straight", "shared"))
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


def heed_interrupts() -> None:
    """A shell starts its background jobs with INT ignored, and so would be what is started here."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def progress(run: Path) -> tuple[int, int]:
    """(generation, batches done of the next one)."""
    facts = json.loads(ucl("status", "--json", cwd=run))
    return facts["epoch"], facts["unfinished"].get("train-epoch", {"batches": 0})["batches"]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """The same run of long epochs of a method before its first and after its last epoch; not to be changed."""
    made: dict[str, tuple[Path, Path]] = {}

    def both(method: str) -> tuple[Path, Path]:
        if method not in made:
            more = ("--set", "uic.final_share=1") if method == "uic" else ()
            folder = tmp_path_factory.mktemp(method)
            fresh = make(folder / "fresh", "--set", "train-epoch.epoch_length=4", *more, method=method)
            straight = Path(shutil.copytree(fresh, folder / "straight", symlinks=True))
            ucl("run", cwd=straight)
            made[method] = fresh, straight
        return made[method]

    return both


@pytest.mark.parametrize(("method", "how", "kills"), [
    ("deepcluster", "run", KILLS // 2), ("deepcluster", "loop", KILLS // 2), ("deepcluster", "loop that asks", KILLS // 2),
    ("odc", "run", KILLS // 4), ("odc", "loop that asks", KILLS // 4), ("uic", "run", KILLS // 4), ("uic", "loop that asks", KILLS // 4)])
def test_cut_inside_epochs_it_is_the_undisturbed_run(begun: Callable[[str], tuple[Path, Path]], tmp_path: Path, method: str, how: str,
                                                     kills: int) -> None:
    """kill -9, USR2, TERM and INT by turns at random moments of long epochs: nothing that was kept is lost or done twice, and the
    generations, and all metrics but times, are the undisturbed ones."""
    fresh, straight = begun(method)
    cut = Path(shutil.copytree(fresh, tmp_path / "cut", symlinks=True))
    asks = MIDWAY if method == "deepcluster" else MOVING
    rng, words = random.Random(how), f"{sys.executable} -m ucl"
    line = f"exec {words} run -q" if how == "run" else (LOOP if how == "loop" else asks).format(ucl=words)
    env = {**ENV, "UCL_CHECKPOINT_EVERY": "0.05s"}
    at, inside = (0, 0), 0
    for number in range(kills):
        signum = (signal.SIGKILL, signal.SIGUSR2, signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT)[number % 6]
        process = subprocess.Popen(["bash", "-c", line], cwd=cut, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, start_new_session=True, preexec_fn=heed_interrupts)
        kept = cut / "work/train.partial"
        before = kept.stat().st_mtime_ns if kept.exists() else 0
        end = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < end and not (kept.exists() and kept.stat().st_mtime_ns != before):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.5))
        sent = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signum)
        said = process.communicate()[1]
        assert process.returncode in (0, 75, 130, 143, -signum, 128 + signum), said
        if signum == signal.SIGUSR2 and process.returncode:
            assert process.returncode in (75, -signum), said             # or bash itself, which a loop lets the signal end
            assert time.monotonic() - sent < 10
        now = progress(cut)
        assert now >= at, (now, at)
        inside += now > at and now[1] > 0
        at = now
        if at[0] == 2:
            break
    if at[0] < 2:
        subprocess.run(["bash", "-c", line], cwd=cut, env=ENV, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                       check=True)
    assert inside >= min(5, kills // 2)
    assert digests(cut) == digests(straight)
    for generation in ("0001", "0002"):
        a, b = (json.loads((run / "epochs" / generation / "metrics.json").read_text()) for run in (cut, straight))
        assert {k: v for k, v in a.items() if "second" not in k and k != "time"} == {k: v for k, v in b.items() if "second" not in k and k != "time"}
    assert not list((cut / "work").iterdir())


def test_kills_of_an_extraction(tmp_path: Path) -> None:
    """To a file outside, again and again with --resume: rows are never done twice, and the file is the undisturbed one, byte by byte
    but for the provenance of its start."""
    words = ["extract", "digits", "--backbone", "resnet18", "--size", "16", "--batch", "4", "-j", "1", "-q"]
    env = {"UCL_PROVENANCE": "none"}
    ucl(*words, "-o", "straight.h5", cwd=tmp_path, **env)
    rng = random.Random(5)
    rows, killed = 0, 0
    for _ in range(12):
        process = subprocess.Popen([*UCL, *words, "-o", "f.h5", "--resume"], cwd=tmp_path, env={**ENV, **env}, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 60
        while process.poll() is None and rows_done(tmp_path) == rows and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.05))                                  # a fast machine has done it all in a second
        process.kill()
        process.wait()
        if (tmp_path / "f.h5").exists():
            break
        assert rows_done(tmp_path) >= rows
        killed += rows_done(tmp_path) > rows
        rows = rows_done(tmp_path)
    if not (tmp_path / "f.h5").exists():
        ucl(*words, "-o", "f.h5", "--resume", cwd=tmp_path, **env)
    assert killed >= 3
    assert (tmp_path / "f.h5").read_bytes() == (tmp_path / "straight.h5").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.h5", "straight.h5"]


def rows_done(folder: Path) -> int:
    found = rows_of(folder / ".f.h5.partial")
    return found.done if found else 0

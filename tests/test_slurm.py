"""On a real Slurm: `ucl` in a batch script, under srun, and in a pipe under srun; requeue after preemption.

    sinfo && pytest -m slurm        needs a running Slurm whose default partition this user may submit to
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_parity import digests, make, ucl

pytestmark = pytest.mark.slurm

WORDS = f"{sys.executable} -m ucl"


@pytest.fixture(autouse=True)
def _slurm() -> None:
    if shutil.which("sinfo") is None or subprocess.run(["sinfo", "-h"], capture_output=True, check=False).returncode:
        pytest.skip("no Slurm answers here")


def batch(cwd: Path, body: str, *options: str) -> tuple[str, str]:
    """Submit a script, wait for its end; returns (state, log)."""
    script = cwd / "job.sh"
    script.write_text(f"#!/bin/bash\ncd {cwd}\n{body}\n")
    job = subprocess.run(["sbatch", "--parsable", "--output", str(cwd / "log"), "--open-mode=append", *options, str(script)], cwd=cwd,
                         capture_output=True, text=True, check=True).stdout.strip()
    return wait(job), (cwd / "log").read_text(errors="replace")


def wait(job: str, seconds: float = 300) -> str:
    for _ in range(int(seconds * 2)):
        found = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=False).stdout
        state = next((w.partition("=")[2] for w in found.split() if w.startswith("JobState=")), "")
        if state not in ("PENDING", "RUNNING", "COMPLETING", "SUSPENDED", "CONFIGURING", ""):
            return state
        time.sleep(0.5)
    raise AssertionError(f"job {job} did not end: {found}")


def test_plain_commands_in_a_batch_script_use_the_directory(tmp_path: Path) -> None:
    """stdin is /dev/null and stdout the log, which is stderr too: neither is data."""
    run = make(tmp_path / "run", epochs=1)
    state, log = batch(run, f"set -e; {WORDS} extract; {WORDS} cluster; {WORDS} train-epoch; {WORDS} status --done")
    assert state == "COMPLETED", log
    assert "\x89HDF" not in log
    assert (run / "work" / "features.h5").exists()
    assert (run / "work" / "labels.h5").exists()


def test_srun_of_one_command_uses_the_directory(tmp_path: Path) -> None:
    """Under srun both streams are pipes to srun, and yet not data."""
    run = make(tmp_path / "run", epochs=1)
    state, log = batch(run, f"set -e; srun {WORDS} extract; srun {WORDS} cluster; srun {WORDS} train-epoch; srun {WORDS} run; echo code $?")
    assert "\x89HDF" not in log
    assert "code 76" in log or state == "FAILED"  # the plan of one epoch is done: the last srun says 76
    assert (run / "epochs" / "0001" / "model.h5").exists()


def test_a_pipe_under_srun_is_a_pipe(tmp_path: Path) -> None:
    run, straight = make(tmp_path / "run", epochs=1), make(tmp_path / "straight", epochs=1)
    ucl("run", cwd=straight)
    state, log = batch(run, f"srun bash -c '{WORDS} extract | {WORDS} cluster | {WORDS} train-epoch'")
    assert state == "COMPLETED", log
    assert not list((run / "work").iterdir())
    assert digests(run) == digests(straight)


def test_a_signalled_run_is_requeued_and_goes_on(tmp_path: Path) -> None:
    run, straight = make(tmp_path / "run", epochs=6), make(tmp_path / "straight", epochs=6)
    ucl("run", cwd=straight)
    body = (f'srun {WORDS} run -q; rc=$?; echo "rc $rc restart ${{SLURM_RESTART_COUNT:-0}}"\n'
            "[ $rc -eq 75 ] && scontrol requeue $SLURM_JOB_ID; exit $rc")
    script = run / "job.sh"
    script.write_text(f"#!/bin/bash\ncd {run}\n{body}\n")
    job = subprocess.run(["sbatch", "--parsable", "--requeue", "--open-mode=append", "--output", str(run / "log"), str(script)], cwd=run,
                         capture_output=True, text=True, check=True).stdout.strip()
    while not (run / "epochs" / "0002").exists():
        time.sleep(0.1)
    subprocess.run(["scancel", "--signal=USR2", job + ".0"], check=True)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and not (run / "epochs" / "0006").exists():
        time.sleep(0.5)
    state = wait(job)
    log = (run / "log").read_text()
    assert "rc 75 restart 0" in log
    assert "rc 0 restart 1" in log
    assert state == "COMPLETED"
    assert digests(run) == digests(straight)

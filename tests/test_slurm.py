"""On a real Slurm: `ucl` in a batch script, under srun, and in a pipe under srun; requeue after preemption.

    sinfo && pytest -m slurm        needs a running Slurm whose default partition this user may submit to
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_examples import COMMANDS, EXAMPLES, PATH, bash, tiny
from test_parity import ENV, digests, make, ucl

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


def submit(cwd: Path, *words: str) -> str:
    """A job's number; a job that can never start ends."""
    return subprocess.run(["sbatch", "--parsable", "--kill-on-invalid-dep=yes", "--open-mode=append", "--output", str(cwd / "log-%A_%a"), *words],
                          cwd=cwd, env=ENV, capture_output=True, text=True, check=True).stdout.strip()


def test_an_ensemble_is_array_jobs_with_a_short_job_behind_each(tmp_path: Path) -> None:
    """As the head of examples/profeat-ensemble.sh says; a member that is signalled is requeued; the same as the script alone, without Slurm."""
    script = str(EXAMPLES / "profeat-ensemble.sh")
    init = " ".join([*tiny(2, contrast=4, scan=1, self=0, refine=1), "--set profeat.connections=1 --set train-epoch.epoch_length=3"])
    init = init.replace("--set profeat.threshold=0.5 --set profeat.self_threshold=0.3", "")  # of no meaning here
    env = {"MEMBERS": "1 2", "INIT": init}
    alone = bash(script, tmp_path, **env, OUT=str(tmp_path / "alone"))
    assert alone.returncode == 0, alone.stderr
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    settings = {**env, "OUT": str(tmp_path / "out"), "PATH": ":".join([*COMMANDS, PATH])}
    exports = "\n".join(f"export {name}='{value}'" for name, value in settings.items())
    (jobs / "members.sbatch").write_text(
        f'#!/bin/bash\n{exports}\nsrun {script} member "$SLURM_ARRAY_TASK_ID"; code=$?; echo "code $code restart ${{SLURM_RESTART_COUNT:-0}}"\n'
        "[ $code -eq 75 ] && scontrol requeue $SLURM_JOB_ID; exit $code\n")
    (jobs / "agree.sbatch").write_text(f"#!/bin/bash\n{exports}\n{script} agree\n")
    after: tuple[str, ...] = ()
    first = ""
    for _ in range(2):
        members = submit(jobs, "--array=1-2", "--requeue", *after, "members.sbatch")
        first = first or members
        after = (f"--dependency=afterok:{submit(jobs, f'--dependency=afterok:{members}', 'agree.sbatch')}",)
    until(lambda: (tmp_path / "out/m1/epochs/0001").exists())
    subprocess.run(["scancel", "--signal=USR2", f"{first}_1.0"], check=True)
    until(lambda: not subprocess.run(["squeue", "-h"], capture_output=True, text=True, check=True).stdout.strip())
    logs = "\n".join(path.read_text(errors="replace") for path in sorted(jobs.glob("log-*")))
    assert "code 75 restart 0" in logs
    assert "code 0 restart 1" in logs
    done = bash(script, tmp_path, **env, OUT=str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].replace("/out/", "/alone/") == alone.stdout.splitlines()[-1]
    for number in (1, 2):
        assert digests(tmp_path / "out" / f"m{number}") == digests(tmp_path / "alone" / f"m{number}")


def until(there: Callable[[], bool], seconds: float = 400) -> None:
    """Wait for something."""
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end
        time.sleep(0.2)

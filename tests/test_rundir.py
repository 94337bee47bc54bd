"""ucl.rundir: what ucl.toml says, commits that are whole or nothing, pruning, the lock, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ucl import store
from ucl.artifacts import Checkpoint, Labels
from ucl.context import Context
from ucl.errors import ConfigError, DataError, InputMissing, NotPermitted, OutputRefused, PlanFinished, StorageError
from ucl.methods.method import plan
from ucl.rundir import RunConfig, RunDir

FULL = RunConfig("deepcluster", images='/photos/a "b"\\c\x7f\t\u00e9\u2028\U0001f600', files_from="list.txt", source="", n=1797, size=16,
                 samples_digest="sha256:ab", seed=2**62 + 1, threads=3, precision="tf32", keep="all",
                 overrides={"cluster.k": "20", "train-epoch.crop_scale": "0.5,1", "plan.epochs": "7", "init.max_bad": "none"})


def model(value: int = 0, size: int = 10) -> Checkpoint:
    return Checkpoint({"backbone.w": np.full(size, value, np.float32)}, config={"backbone": "convnet"}, progress={"epoch": value})


def labels(value: int = 0) -> Labels:
    return Labels(np.array([0, 1, value], np.int32))


def make(path: Path, generations: int = 0, **config: Any) -> RunDir:
    """A run directory with generation 0 and so many more."""
    path.mkdir()
    (path / "ucl.toml").write_text(RunConfig(**({"method": "deepcluster", "n": 3, "samples_digest": "sha256:mine"} | config)).to_toml())
    (path / "epochs").mkdir()
    run = RunDir(path)
    run.commit(0, {"model": model(0)}, {"generation": 0})
    for g in range(1, generations + 1):
        run.commit(g, {"model": model(g), "labels": labels(g)}, {"epoch": g - 1, "loss": g / 2})
    return run


def tree(path: Path) -> dict[str, bytes]:
    """Every file (and link) below path."""
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return make(tmp_path / "run")


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


# ucl.toml

@pytest.mark.parametrize("config", [FULL, RunConfig("persistent")], ids=["full", "least"])
def test_toml_round_trip(config: RunConfig) -> None:
    assert RunConfig.from_toml(config.to_toml(), "here") == config


def test_toml_has_a_table_for_each_verb() -> None:
    text = FULL.to_toml()
    assert '\n[cluster]\nk = "20"\n' in text
    assert '\n[train-epoch]\ncrop_scale = "0.5,1"\n' in text
    assert text.index("[cluster]") < text.index("[plan]") < text.index("[train-epoch]")


def test_toml_as_people_write_it() -> None:
    found = RunConfig.from_toml("""
        method = "persistent"   # a comment
        seed = 3
        [cluster]
        k = 20
        whiten = false
        [train-epoch]
        crop-scale = [0.5, 1]
        lr = 0.1
        """, "here")
    assert found == RunConfig("persistent", seed=3, overrides={"cluster.k": "20", "cluster.whiten": "false",
                                                               "train-epoch.crop_scale": "0.5,1", "train-epoch.lr": "0.1"})
    settings = {s.verb: s.settings for s in plan(Context("persistent", images=100, size=32, overrides=found.overrides))}
    assert (settings["cluster"].k, settings["cluster"].whiten) == (20, False)
    assert (settings["train-epoch"].crop_scale, settings["train-epoch"].lr) == ((0.5, 1.0), 0.1)


@pytest.mark.parametrize(("text", "message", "hint"), [
    ("method =", "here: Invalid value", ""),
    ("seed = 3", "here: method: missing", "ucl init METHOD"),
    ('method = "deepcluster"\nmetod = 1', "here: unknown key 'metod'", "did you mean method?"),
    ('method = "deepcluster"\nthread = 1', "here: unknown key 'thread'", "did you mean threads?"),
    ('method = "deepcluster"\nzzz = 1', "here: unknown key 'zzz'", ""),
    ('method = "deepcluster"\nseed = "3"', "here: seed: found '3', wanted int", ""),
    ('method = "deepcluster"\nseed = -3', "here: seed: found -3, wanted 0 to", ""),
    ('method = "deepcluster"\nseed = true', "here: seed: found True, wanted int", ""),
    ('method = "deepcluster"\nprecision = "half"', "here: precision: found 'half', wanted one of float32, tf32", ""),
    ('method = "deepcluster"\nkeep = "0"', "here: keep: found '0', wanted a number from 1, or all", ""),
    ('method = "deepcluster"\nkeep = "\u00b2"', "here: keep: found '\u00b2', wanted a number from 1, or all", ""),
    ("method = 3", "here: method: found 3, wanted str", ""),
    ('method = "nonesuch"', "here: unknown method 'nonesuch'", "known: deepcluster"),
    ('method = "deepcluster"\n[clutser]\nk = 3', "here: [clutser]: unknown verb 'clutser'", "did you mean cluster?"),
    ('method = "deepcluster"\n[cluster]\nkk = 3', "here: [cluster]: unknown setting 'kk'", "did you mean k?"),
    ('method = "deepcluster"\n[cluster]\nk = "x"', "here: [cluster]: k: found 'x', wanted int", ""),
    ('method = "deepcluster"\n[train-epoch]\nlr = -1', "here: [train-epoch]: lr: found -1.0, wanted at least 0", ""),
])
def test_toml_faults(text: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as e:
        RunConfig.from_toml(text, "here")
    assert e.value.message.startswith(message)
    assert e.value.hint.startswith(hint)


def test_no_directory_no_config_and_no_text(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "gone"):
        with pytest.raises(InputMissing, match=r"no ucl\.toml here"):
            RunDir(path)
    (tmp_path / "ucl.toml").write_bytes(b"method = \xff")
    with pytest.raises(ConfigError, match="not UTF-8 text: invalid start byte at byte 9"):
        RunDir(tmp_path)


def test_here(run: RunDir, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert RunDir.here() is None
    monkeypatch.chdir(run.path)
    found = RunDir.here()
    assert found is not None
    assert found.config == run.config


# commits

def test_a_commit_is_there_as_it_was_given(run: RunDir) -> None:
    digest = store.digest_of(model(1))
    run.commit(1, {"model": model(1), "labels": labels(1)}, {"loss": 0.5, "epoch": 0})
    assert sorted(p.name for p in (run.epochs / "0001").iterdir()) == ["labels.h5", "metrics.json", "model.h5"]
    assert store.read(run.file(1, "model")).model["backbone.w"].tolist() == [1.0] * 10
    assert store.read(run.file(1, "model")).digest == digest
    assert store.read(run.file(1, "labels")).labels.tolist() == [0, 1, 1]
    assert json.loads(run.file(1, "metrics.json").read_text()) == {"loss": 0.5, "epoch": 0}
    assert (run.generations(), run.newest) == ([0, 1], 1)
    assert sorted(p.name for p in run.epochs.iterdir()) == ["0000", "0001"]


def test_the_context_is_the_newest_generations(run: RunDir) -> None:
    wanted = Context("deepcluster", epoch=1, generation=1, generation_digest=store.digest_of(model(1)), seed=0, images=3, size=32,
                     samples_digest="sha256:mine")
    run.commit(1, {"model": model(1)}, {})
    assert run.context() == wanted
    assert run.context(0).generation_digest == store.digest_of(model(0)) != wanted.generation_digest
    assert (run.context(0).epoch, run.context(0).generation) == (0, 0)


def test_the_context_carries_what_was_frozen(tmp_path: Path) -> None:
    run = make(tmp_path / "run", method="persistent", seed=9, n=5, size=24, source="digits", overrides={"cluster.k": "3"})
    c = run.context()
    assert (c.method, c.seed, c.images, c.size, c.source, c.overrides) == ("persistent", 9, 5, 24, "digits", {"cluster.k": "3"})


def test_the_second_commit_of_a_generation_is_refused(run: RunDir) -> None:
    run.commit(1, {"model": model(1)}, {"who": "first"})
    before = tree(run.path)
    with pytest.raises(OutputRefused, match="0001: already committed by another process"):
        run.commit(1, {"model": model(2), "labels": labels()}, {"who": "second"})
    assert tree(run.path) == before


class Failing(Labels):
    """Fails when its arrays are wanted, after the model has been written."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(np.zeros(3, np.int32))
        self.error = error

    def arrays(self) -> dict[str, np.ndarray]:
        raise self.error


@pytest.mark.parametrize(("error", "raised"), [
    (OSError(28, "No space left on device"), StorageError), (OSError(5, "Input/output error"), StorageError),
    (PermissionError(13, "Permission denied"), NotPermitted), (KeyboardInterrupt(), KeyboardInterrupt), (ValueError("bug"), ValueError)])
def test_a_failure_while_writing_leaves_nothing(run: RunDir, error: BaseException, raised: type[BaseException]) -> None:
    before = tree(run.path)
    with pytest.raises(raised) as e:
        run.commit(1, {"model": model(1), "labels": Failing(error)}, {})
    if isinstance(e.value, StorageError):
        assert e.value.message == f"{run.epochs / '0001'}: {error.strerror}"  # type: ignore[attr-defined]
        assert "run the same line again" in e.value.hint
    assert tree(run.path) == before
    assert sorted(p.name for p in run.epochs.iterdir()) == ["0000"]
    run.commit(1, {"model": model(1), "labels": labels()}, {})           # and it can be done again
    assert run.newest == 1


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_real_write_that_fails_leaves_nothing(run: RunDir) -> None:
    before = tree(run.path)
    with largest_file(100_000), pytest.raises(StorageError):
        run.commit(1, {"model": model(1, size=200_000)}, {})
    assert tree(run.path) == before
    assert sorted(p.name for p in run.epochs.iterdir()) == ["0000"]


def test_metrics_that_are_no_json_leave_nothing(run: RunDir) -> None:
    with pytest.raises(TypeError):
        run.commit(1, {"model": model(1)}, {"loss": object()})
    assert sorted(p.name for p in run.epochs.iterdir()) == ["0000"]


def test_links_point_to_the_newest(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    assert (run.path / "model.h5").readlink() == Path("epochs/0000/model.h5")
    assert not (run.path / "labels.h5").exists()
    for g in (1, 2):
        run.commit(g, {"model": model(g), "labels": labels(g)}, {})
        for name in ("model", "labels"):
            assert (run.path / f"{name}.h5").readlink() == Path(f"epochs/{g:04d}/{name}.h5")
    assert store.read(run.path / "model.h5").model["backbone.w"][0] == 2
    assert not [p for p in run.path.iterdir() if p.name.startswith(".")]


def test_pruning_keeps_n_generations_and_all_metrics(tmp_path: Path) -> None:
    run = make(tmp_path / "run", 5, keep="2")
    kept = {g: sorted(p.name for p in (run.epochs / f"{g:04d}").iterdir()) for g in run.generations()}
    assert kept == {0: ["metrics.json"], 1: ["metrics.json"], 2: ["metrics.json"], 3: ["metrics.json"],
                    4: ["labels.h5", "metrics.json", "model.h5"], 5: ["labels.h5", "metrics.json", "model.h5"]}
    assert run.metrics() == [{"generation": 0}] + [{"epoch": g - 1, "loss": g / 2} for g in range(1, 6)]
    assert run.context().generation == 5


def test_pruning_looks_no_further_than_it_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After thousands of epochs a commit must not touch the folder of each; where fewer are to be kept from now on, or a job was killed while
    it pruned, nothing stays behind."""
    run = make(tmp_path / "run", 6, keep="all")
    run.config = dataclasses.replace(run.config, keep="2")
    seen: list[str] = []
    unlink = Path.unlink

    def noted(path: Path, missing_ok: bool = False) -> None:
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(f"{path.parent.name}/{path.name}")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", noted)
    with pytest.raises(KeyboardInterrupt):
        run.prune()
    monkeypatch.undo()
    assert seen == ["0000/model.h5", "0001/model.h5", "0001/labels.h5"]
    run.prune()
    assert [g for g in range(7) if run.file(g, "model").exists() or run.file(g, "labels").exists()] == [5, 6]
    looked: list[str] = []
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: looked.append(path.parent.name) or exists(path))
    run.prune()
    assert set(looked) == {"0004"}


@pytest.mark.parametrize(("keep", "models"), [("1", [3]), ("3", [1, 2, 3]), ("10", [0, 1, 2, 3]), ("all", [0, 1, 2, 3])])
def test_how_many_are_kept(tmp_path: Path, keep: str, models: list[int]) -> None:
    run = make(tmp_path / "run", 3, keep=keep)
    assert [g for g in range(4) if run.file(g, "model").exists()] == models


def test_generations_go_on_after_9999(run: RunDir) -> None:
    for g in (9999, 10_000):
        run.commit(g, {"model": model(1)}, {"g": g})
    assert run.newest == 10_000
    assert run.file(10_000, "model").parent.name == "10000"


def test_no_generation(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    for name in ("model.h5", "metrics.json"):
        (run.epochs / "0000" / name).unlink()
    (run.epochs / "0000").rename(run.epochs / "notes")
    with pytest.raises(InputMissing, match="epochs: no generation"):
        run.generations()
    (run.epochs / "notes").rmdir()
    run.epochs.rmdir()
    with pytest.raises(InputMissing, match="No such file or directory"):
        run.generations()


# what was left behind

def test_only_what_dead_processes_of_this_host_left_is_swept(run: RunDir) -> None:
    host, dead = socket.gethostname(), dead_pid()
    with subprocess.Popen(["sleep", "60"]) as alive:
        try:
            names = {f".0001.{host}.{dead}.tmp": False, f".0001.{host}.{alive.pid}.tmp": True, f".0001.{host}.{os.getpid()}.tmp": False,
                     f".0001.elsewhere.{dead}.tmp": True, f".0000.elsewhere.{dead}.tmp": False, f".0000.{host}.{alive.pid}.tmp": False,
                     f".0001.{host}.{dead}.bak": True, "notes": True}    # generation 0 is there: nobody can commit it any more
            for name in names:
                (run.epochs / name).mkdir()
                (run.epochs / name / "model.h5").write_bytes(b"half")
            run.sweep()
            assert {name: (run.epochs / name / "model.h5").exists() for name in names} == names
        finally:
            alive.kill()
    assert run.generations() == [0]                                      # none of them is a generation


def test_whoever_is_second_is_told_so_when_its_files_were_swept(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another host's commit of the same generation sweeps ours away while we write it."""
    def raced(folder: Path) -> None:
        monkeypatch.undo()
        theirs = RunDir(run.path)
        (run.epochs / folder.name).rename(run.epochs / ".0001.elsewhere.1.tmp")
        theirs.commit(1, {"model": model(5)}, {})
        assert not list(run.epochs.glob(".*"))

    monkeypatch.setattr("ucl.rundir._sync", raced)
    with pytest.raises(OutputRefused, match="already committed by another process"):
        run.commit(1, {"model": model(1)}, {})
    assert store.load(run.file(1, "model")).progress["epoch"] == 5


def test_a_commit_sweeps(run: RunDir) -> None:
    left = run.epochs / f".0001.{socket.gethostname()}.{dead_pid()}.tmp"
    left.mkdir()
    run.commit(1, {"model": model(1)}, {})
    assert not left.exists()


# the lock

def test_the_lock_is_held_and_given_back(run: RunDir) -> None:
    path = run.path / "lock"
    with run.lock():
        assert path.read_text().split()[:2] == [socket.gethostname(), str(os.getpid())]
        with pytest.raises(OutputRefused, match="this process is at work here already"), run.lock():
            pytest.fail("two hold the lock")
        assert path.exists()                                             # the refused one did not take it away
    assert not path.exists()
    assert not list(run.path.glob(".lock*"))


def test_the_lock_is_given_back_after_a_failure(run: RunDir) -> None:
    with pytest.raises(ZeroDivisionError), run.lock():
        _ = 1 / 0
    assert not (run.path / "lock").exists()


def test_a_living_holder_is_respected(run: RunDir) -> None:
    with subprocess.Popen(["sleep", "60"]) as alive:
        try:
            text = f"{socket.gethostname()} {alive.pid} -\n"
            (run.path / "lock").write_text(text)
            with pytest.raises(OutputRefused, match=f"process {alive.pid}"), run.lock():
                pytest.fail("two hold the lock")
            assert (run.path / "lock").read_text() == text
        finally:
            alive.kill()


def test_a_dead_holder_is_not(run: RunDir) -> None:
    (run.path / "lock").write_text(f"{socket.gethostname()} {dead_pid()} -\n")
    with run.lock():
        assert (run.path / "lock").read_text().split()[1] == str(os.getpid())
    assert not (run.path / "lock").exists()


def test_own_pid_in_a_lock_of_an_earlier_life(run: RunDir) -> None:
    """A container restarts with the same host name and the same pid."""
    (run.path / "lock").write_text(f"{socket.gethostname()} {os.getpid()} -\n")
    with run.lock(), pytest.raises(OutputRefused, match="this process is at work here already"), run.lock():
        pytest.fail("two hold the lock")
    assert not (run.path / "lock").exists()


@pytest.mark.parametrize(("theirs", "ours", "taken"), [("-", None, False), ("77", None, False), ("77", "78", False), ("77", "77", True)])
def test_another_hosts_lock_is_broken_by_its_own_job_only(run: RunDir, monkeypatch: pytest.MonkeyPatch, theirs: str, ours: str | None,
                                                          taken: bool) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    if ours:
        monkeypatch.setenv("SLURM_JOB_ID", ours)
    (run.path / "lock").write_text(f"elsewhere {dead_pid()} {theirs}\n")
    if taken:
        with run.lock():
            assert (run.path / "lock").read_text().split() == [socket.gethostname(), str(os.getpid()), "77"]
    else:
        with pytest.raises(OutputRefused, match="on elsewhere is at work here"), run.lock():
            pytest.fail("two hold the lock")


def test_the_lock_of_a_killed_process_that_nobody_waited_for_is_broken(run: RunDir) -> None:
    killed = subprocess.Popen(["sleep", "60"])
    (run.path / "lock").write_text(f"{socket.gethostname()} {killed.pid} -\n")
    with pytest.raises(OutputRefused, match=f"process {killed.pid} on"), run.lock():
        pytest.fail("two hold the lock")
    killed.kill()
    while Path(f"/proc/{killed.pid}/stat").read_text().split()[2] != "Z":
        time.sleep(0.001)
    with run.lock():
        assert (run.path / "lock").read_text().split()[1] == str(os.getpid())
    killed.wait()


def test_a_lock_that_cannot_be_read_is_not_broken(run: RunDir) -> None:
    (run.path / "lock").write_text("")
    with pytest.raises(OutputRefused, match="could not be taken"), run.lock():
        pytest.fail("two hold the lock")


def test_a_lock_that_somebody_took_over_is_not_removed(run: RunDir) -> None:
    with run.lock():
        (run.path / "lock").write_text("elsewhere 1 -\n")
    assert (run.path / "lock").read_text() == "elsewhere 1 -\n"


# what belongs here

def test_next_turn_until_the_plan_ends(tmp_path: Path) -> None:
    run = make(tmp_path / "run", 1, overrides={"plan.epochs": "2"})
    assert run.next_turn() == run.context()
    assert run.next_turn().epoch == 1
    run.commit(2, {"model": model(2)}, {})
    with pytest.raises(PlanFinished, match="all 2 epochs of the plan are done") as told:
        run.next_turn()
    assert "more epochs: set [plan] epochs, in ucl.toml" in told.value.hint


def test_how_a_plan_goes_on(tmp_path: Path) -> None:
    """What caps the plan is named: epochs that were set by hand before the method's own."""
    for number, (sets, wanted) in enumerate((({}, "set [profeat] iterations"), ({"plan.epochs": "2"}, "set [plan] epochs"))):
        lengths = {"contrast_epochs": "1", "scan_epochs": "1", "self_epochs": "0", "iterations": "1", "k": "2"}
        run = make(tmp_path / f"{number}", 2, method="profeat", overrides={f"profeat.{name}": text for name, text in lengths.items()} | sets)
        with pytest.raises(PlanFinished) as told:
            run.next_turn()
        assert wanted in told.value.hint


def test_check(tmp_path: Path) -> None:
    run = make(tmp_path / "run", 2)
    mine = run.context()
    for passes in (mine, run.context(1), Context(), dataclasses.replace(mine, samples_digest=""), Context(method="other")):
        run.check(passes, "labels")
    for wrong, message in (
            (dataclasses.replace(mine, samples_digest="sha256:theirs"),
             f"labels: made from another image list: found sha256:theirs, {run.path / 'images.h5'} has sha256:mine"),
            (Context(samples_digest="sha256:theirs"), "labels: made from another image list"),
            (dataclasses.replace(mine, method="persistent"), f"labels: method: found persistent, {run.path / 'ucl.toml'} has deepcluster"),
            (dataclasses.replace(mine, generation=3), "labels: generation: found 3, the newest here is 2")):
        with pytest.raises(DataError) as e:
            run.check(wrong, "labels")
        assert e.value.message.startswith(message)


def test_where_things_lie(run: RunDir) -> None:
    assert run.work("features") == run.path / "work" / "features.h5"
    assert run.file(3, "labels") == run.path / "epochs" / "0003" / "labels.h5"
    assert run.file(3, "metrics.json") == run.path / "epochs" / "0003" / "metrics.json"

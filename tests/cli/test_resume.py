"""Stopped or killed inside an epoch or an extraction: what is kept, what is gone on with, and what is refused."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cli.harness import Process, Result, Runner, tree
from ucl import read

LONG = ("--epoch-length", 15, "--batch", 8)                # of 24 photos: 45 batches


def wait_for(ready: Callable[[], bool], process: Process) -> None:
    end = time.monotonic() + 30
    while not ready():
        assert time.monotonic() < end, "nothing was kept in 30 s"
        try:
            os.kill(process.pid, 0)
        except ProcessLookupError:
            raise AssertionError(process.wait().err) from None
        time.sleep(0.002)


def cut(process: Process, kept: Path, signum: int, after: float = 0.0) -> Result:
    """Signal a process as soon as a file is there."""
    wait_for(kept.exists, process)
    time.sleep(after)
    process.kill(signum)
    return process.wait()


def digests(run: Path, generation: int = 2) -> list[str]:
    return [read(run / f"epochs/{generation:04d}/{name}.h5").digest for name in ("model", "labels")]


def metrics(run: Path, generation: int = 2) -> dict[str, object]:
    found = json.loads((run / f"epochs/{generation:04d}/metrics.json").read_text())
    return {k: v for k, v in found.items() if "second" not in k and k != "time"}


@pytest.fixture(scope="session")
def straight(ucl: Runner, small_made: Path, labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of 24 photos after a long epoch on the labels; not to be changed."""
    run = tmp_path_factory.mktemp("straight") / "small"
    shutil.copytree(small_made, run, symlinks=True)
    assert ucl("train-epoch", labels, *LONG, cwd=run).code == 0
    return run


# training in a run directory

@pytest.mark.parametrize(("signum", "code"), [(signal.SIGKILL, 137), (signal.SIGUSR2, 75), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
                                              pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)])
def test_an_epoch_goes_on_by_itself(ucl: Runner, small: Path, labels: Path, straight: Path, signum: int, code: int) -> None:
    """Cut once by a signal, then gone on with without any labels: model, labels and metrics are those of the undisturbed epoch."""
    work = small / "work"
    result = cut(ucl.start("train-epoch", labels, *LONG, "--checkpoint-every", "0.02", cwd=small), work / "train.partial", signum)
    assert result.code == code, result.err
    assert sorted(p.name for p in work.glob("*partial")) == ["train-labels.partial", "train.partial"]
    told = ucl("status", cwd=small, stdout="pipe").text.splitlines()
    assert told[0] == "deepcluster on 24 images: epoch 1 of 3"
    facts = ucl("info", work / "train.partial", "--json", cwd=small, stdout="pipe")
    assert facts.code == 0
    result = ucl("train-epoch", *LONG, "-v", cwd=small)
    assert result.code == 0, result.err
    assert " of 45 batches" in result.err
    assert digests(small) == digests(straight)
    assert metrics(small) == metrics(straight)
    assert not list(work.iterdir())


def test_status_tells_and_a_loop_asks(ucl: Runner, small: Path, labels: Path) -> None:
    """Without flags, so that the plan's own epoch is what was stopped."""
    config = small / "ucl.toml"
    config.write_text(config.read_text().replace('batch = "8"', 'batch = "8"\nepoch_length = "15"'))
    assert ucl("status", "--midway", cwd=small).code == 1
    assert ucl("train-epoch", cwd=small).code == 66                      # neither labels nor an epoch to go on with
    result = cut(ucl.start("train-epoch", labels, "--checkpoint-every", "0.02", cwd=small), small / "work/train.partial", signal.SIGKILL)
    assert result.code == 137
    before = tree(small)
    first, second, *_ = ucl("status", cwd=small, stdout="pipe").text.splitlines()
    assert first.endswith("epoch 1 of 3")
    done = ucl("status", "--json", cwd=small, stdout="pipe").json["unfinished"]["train-epoch"]
    assert done["epoch"] == 2
    assert done["of"] == 45
    assert second == f"epoch 2: {done['batches']} of 45 batches done (work/train.partial)"
    for code, flag in ((0, "--midway"), (1, "--done")):
        result = ucl("status", flag, cwd=small, stdout="pipe")
        assert (result.code, result.out, result.err) == (code, b"", "")
    assert {k: v for k, v in tree(small).items() if k != "lock"} == {k: v for k, v in before.items() if k != "lock"}
    assert ucl("train-epoch", cwd=small).code == 0
    assert ucl("status", "--midway", cwd=small).code == 1
    assert ucl("status", "--json", cwd=small, stdout="pipe").json["unfinished"] == {}


def test_the_same_labels_by_pipe_go_on_and_others_start_again(ucl: Runner, small: Path, labels: Path, straight: Path, tmp_path: Path) -> None:
    cut(ucl.start("train-epoch", labels, *LONG, "--checkpoint-every", "0.02", cwd=small), small / "work/train.partial", signal.SIGKILL)
    other = tmp_path / "other"
    shutil.copytree(small, other, symlinks=True)
    result = ucl("train-epoch", *LONG, "-v", "--resume", cwd=small, stdin=labels.read_bytes())
    assert result.code == 0, result.err
    assert "going on after" in result.err
    assert digests(small) == digests(straight)
    refused = ucl("train-epoch", labels, *LONG, "--lr", 0.01, "--resume", cwd=other)
    assert (refused.code, len(refused.lines)) == (65, 2)
    assert refused.lines[0] == "ucl train-epoch: error: work/train.partial: of another epoch: settings: lr: found 0.05, now 0.01"
    assert refused.lines[1].startswith("  try: leave --resume out")
    again = ucl("train-epoch", labels, "--lr", 0.01, "--batch", 8, cwd=other)
    assert again.code == 0
    assert again.lines[0].startswith("ucl train-epoch: warning: work/train.partial: settings: ")
    assert again.lines[0].endswith("ignored, the epoch starts again")
    assert len(again.lines) == 2
    assert not list((other / "work").iterdir())


def test_labels_that_were_made_since_are_meant(ucl: Runner, small: Path, labels: Path) -> None:
    """Whoever clusters again after an epoch was stopped wants the new labels."""
    assert ucl("extract", cwd=small).code == ucl("cluster", cwd=small).code == 0
    cut(ucl.start("train-epoch", *LONG, "--checkpoint-every", "0.02", cwd=small), small / "work/train.partial", signal.SIGKILL)
    assert ucl("cluster", "-k", 4, cwd=small).code == 0
    result = ucl("train-epoch", *LONG, cwd=small)
    assert result.code == 0
    assert "work/train.partial: labels: found " in result.lines[0]
    assert metrics(small)["k"] == 4


def test_a_stale_one_is_ignored(ucl: Runner, small: Path, labels: Path, straight: Path, tmp_path: Path) -> None:
    """As a crash between commit and removal leaves it."""
    cut(ucl.start("train-epoch", labels, *LONG, "--checkpoint-every", "0.02", cwd=small), small / "work/train.partial", signal.SIGKILL)
    stale = tmp_path / "stale"
    shutil.copytree(straight, stale, symlinks=True)
    for name in ("train", "train-labels"):
        shutil.copy(small / f"work/{name}.partial", stale / "work")
    assert ucl("status", "--midway", cwd=stale).code == 1
    assert ucl("status", cwd=stale, stdout="pipe").text.splitlines()[1].startswith("epoch ")
    result = ucl("train-epoch", labels, cwd=stale)
    assert result.code == 0
    assert result.lines[0] == "ucl train-epoch: warning: work/train.partial: generation: found 1, now 2: ignored, the epoch starts again"
    assert not list((stale / "work").iterdir())


def test_a_damaged_one_is_ignored(ucl: Runner, small: Path, labels: Path, straight: Path) -> None:
    kept = small / "work/train.partial"
    cut(ucl.start("train-epoch", labels, *LONG, "--checkpoint-every", "0.02", cwd=small), kept, signal.SIGKILL)
    with kept.open("r+b") as file:
        file.truncate(kept.stat().st_size // 2)
    result = ucl("train-epoch", labels, *LONG, cwd=small)
    assert result.code == 0
    assert "work/train.partial: truncated" in result.lines[0]
    assert result.lines[0].endswith("ignored, the epoch starts again")
    assert digests(small) == digests(straight)


@pytest.mark.slow
def test_run_goes_on_inside_the_epoch_and_takes_turns_with_the_shell(ucl: Runner, small: Path, tmp_path: Path) -> None:
    """USR2 ends a run in 75; another run, or the shell's train-epoch alone, does the rest of the epoch, and no step before it."""
    config = small / "ucl.toml"
    config.write_text(config.read_text().replace('batch = "8"', 'batch = "8"\nepoch_length = "15"'))
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(small, undisturbed, symlinks=True)
    assert ucl("run", "--limit", 1, cwd=undisturbed).code == 0
    for number, rest in enumerate((("run", "--limit", 1), ("train-epoch",))):
        there = tmp_path / str(number)
        shutil.copytree(small, there, symlinks=True)
        began = time.monotonic()
        result = cut(ucl.start("run", cwd=there, env={"UCL_CHECKPOINT_EVERY": "0.03"}), there / "work/train.partial", signal.SIGUSR2)
        assert result.code == 75, result.err
        assert time.monotonic() - began < 30
        result = ucl(*rest, "-v", cwd=there)
        assert result.code == 0, result.err
        assert "work/train.partial: going on after" in result.err
        assert digests(there) == digests(undisturbed)
        assert metrics(there) == metrics(undisturbed)
        assert not list((there / "work").iterdir())


def test_a_run_of_other_threads_says_so(ucl: Runner, small: Path) -> None:
    config = small / "ucl.toml"
    config.write_text(config.read_text().replace('batch = "8"', 'batch = "8"\nepoch_length = "15"'))
    cut(ucl.start("run", "--checkpoint-every", "0.02", cwd=small), small / "work/train.partial", signal.SIGTERM)
    process = ucl.start("run", "--limit", 1, "-j", 2, cwd=small)         # two threads beside other processes may take very long
    wait_for(lambda: os.fstat(process.err.fileno()).st_size > 120, process)
    process.kill(signal.SIGKILL)
    assert "ucl run: warning: work/train.partial: threads: found 1, now 2: ignored, the epoch starts again" in process.wait().lines


def test_two_at_once(ucl: Runner, small: Path, labels: Path, straight: Path) -> None:
    """The second is refused while the first is at work, and what the first keeps stays as it is."""
    process = ucl.start("train-epoch", labels, *LONG, "--checkpoint-every", "0.02", cwd=small)
    wait_for((small / "work/train.partial").exists, process)
    assert ucl("train-epoch", *LONG, cwd=small).code == 73
    assert ucl("run", cwd=small).code == 73
    assert process.wait().code == 0
    assert digests(small) == digests(straight)


# training outside

def test_a_checkpoint_outside_a_run_directory(ucl: Runner, small: Path, labels: Path, tmp_path: Path) -> None:
    words = ["train-epoch", labels, "--images", small / "images.h5", "--model", small / "model.h5", *LONG]
    there = tmp_path / "there"
    there.mkdir()
    assert ucl(*words, "-o", "straight.h5", cwd=there).code == 0
    kept = there / ".next.h5.partial"
    assert cut(ucl.start(*words, "-o", "next.h5", "--checkpoint-every", "0.02", cwd=there), kept, signal.SIGTERM).code == 143
    assert sorted(p.name for p in there.iterdir()) == [".next.h5.partial", "straight.h5"]
    refused = ucl(*words, "-o", "next.h5", "--resume", "--seed", 3, cwd=there)
    assert refused.code == 65
    assert refused.lines[0] == "ucl train-epoch: error: .next.h5.partial: of another epoch: seed: found 0, now 3"
    assert kept.exists()
    result = ucl(*words, "-o", "next.h5", "--resume", "-v", cwd=there)
    assert result.code == 0, result.err
    assert "going on after" in result.err
    assert read(there / "next.h5").digest == read(there / "straight.h5").digest
    assert sorted(p.name for p in there.iterdir()) == ["next.h5", "straight.h5"]

    cut(ucl.start(*words, "-o", "next.h5", "-f", "--checkpoint-every", "0.02", cwd=there), kept, signal.SIGKILL)
    again = ucl(*words, "-o", "next.h5", "-f", "-v", cwd=there)          # without --resume the old one is replaced
    assert again.code == 0
    assert "going on" not in again.err
    assert not kept.exists()
    for more in (["-o", "-"], ["-o", "/dev/null"]):
        result = ucl(*words, *more, "--resume", cwd=there, stdout="pipe")
        assert (result.code, result.lines[0]) == (2, "ucl train-epoch: error: --resume: nothing is kept of what goes to a stream")


@pytest.mark.parametrize("command", ["run", "train-epoch"])
def test_durations(ucl: Runner, small: Path, command: str) -> None:
    before = tree(small)
    for result in (ucl(command, "--checkpoint-every", "10x", cwd=small), ucl(command, cwd=small, env={"UCL_CHECKPOINT_EVERY": "soon"})):
        assert (result.code, len(result.lines)) == (2, 2)
        assert "wanted a duration" in result.lines[0]
    assert tree(small) == before


# extraction

SLOW = ("extract", "digits", "--backbone", "convnet", "--size", 16, "--batch", 2)     # 899 batches


@pytest.fixture(scope="session")
def all_features(ucl: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of the digits, extracted without a break."""
    path = tmp_path_factory.mktemp("all") / "features.h5"
    assert ucl(*SLOW, "-o", path).code == 0
    return path


def half_way(ucl: Runner, folder: Path, name: str = ".f.h5.partial", words: tuple[object, ...] = (*SLOW, "-o", "f.h5"),
             signum: int = signal.SIGTERM) -> Result:
    """An extraction that is stopped after some rows."""
    process = ucl.start(*words, cwd=folder)
    wait_for(lambda: (folder / name).exists() and (folder / name).stat().st_size > 4096, process)
    time.sleep(0.3)
    process.kill(signum)
    return process.wait()


def test_an_extraction_goes_on(ucl: Runner, all_features: Path, tmp_path: Path) -> None:
    result = half_way(ucl, tmp_path)
    assert result.code == 143, result.err
    assert [p.name for p in tmp_path.iterdir()] == [".f.h5.partial"]
    refused = ucl(*SLOW[:-1], 3, "-o", "f.h5", "--resume", cwd=tmp_path)
    assert (refused.code, len(refused.lines)) == (65, 2)
    assert refused.lines[0].startswith("ucl extract: error: .f.h5.partial: of another extraction: recipe-id: found ")
    assert ucl("validate", ".f.h5.partial", cwd=tmp_path).code == 65
    result = ucl(*SLOW, "-o", "f.h5", "--resume", "-v", cwd=tmp_path)
    assert result.code == 0, result.err
    assert " of 1797 rows" in result.err
    assert read(tmp_path / "f.h5").digest == read(all_features).digest
    assert ucl("validate", "--full", "f.h5", cwd=tmp_path).code == 0
    assert [p.name for p in tmp_path.iterdir()] == ["f.h5"]
    assert ucl(*SLOW, "-o", "f.h5", "--resume", cwd=tmp_path).code == 73         # it is there, and whole


@pytest.mark.slow
def test_without_resume_it_starts_again(ucl: Runner, all_features: Path, tmp_path: Path) -> None:
    half_way(ucl, tmp_path)
    result = ucl(*SLOW, "-o", "f.h5", "-v", cwd=tmp_path)
    assert result.code == 0
    assert "going on" not in result.err
    assert read(tmp_path / "f.h5").digest == read(all_features).digest


def test_resume_without_anything_to_go_on_with_starts(ucl: Runner, photos: Path, tmp_path: Path) -> None:
    """So one line both starts and goes on."""
    assert ucl("extract", photos, "--backbone", "convnet", "-o", "f.h5", "--resume", cwd=tmp_path).code == 0
    for more in (["-o", "-"], ["-o", "/dev/null", "-f"], []):
        result = ucl("extract", photos, "--backbone", "convnet", "--resume", *more, cwd=tmp_path, stdout="pipe")
        assert (result.code, result.lines[0]) == (2, "ucl extract: error: --resume: nothing is kept of what goes to a stream")


def test_in_a_run_directory_it_goes_on_by_itself(ucl: Runner, digits: Path) -> None:
    config = digits / "ucl.toml"
    config.write_text(config.read_text() + '\n[extract]\nbatch = "2"\n')
    assert ucl("extract", "-o", "straight.h5", cwd=digits).code == 0
    assert half_way(ucl, digits, "work/features.partial", ("extract",), signal.SIGUSR1).code == 75
    assert "images done (work/features.partial)" in ucl("status", cwd=digits, stdout="pipe").text
    result = ucl("extract", "-v", cwd=digits)
    assert result.code == 0, result.err
    assert "going on after" in result.err
    assert read(digits / "work/features.h5").digest == read(digits / "straight.h5").digest
    assert [p.name for p in (digits / "work").iterdir()] == ["features.h5"]


@pytest.mark.slow
def test_run_goes_on_inside_the_extraction(ucl: Runner, digits: Path, tmp_path: Path) -> None:
    """Kept when it is stopped; by the shell's extract alone the same file can be finished."""
    config = digits / "ucl.toml"
    config.write_text(config.read_text() + '\n[extract]\nbatch = "2"\n')
    undisturbed, other = tmp_path / "undisturbed", tmp_path / "other"
    shutil.copytree(digits, undisturbed, symlinks=True)
    number = 1 + read(digits / "model.h5").progress["epoch"]
    assert ucl("run", "--limit", 1, cwd=undisturbed).code == 0
    words = ("run", "--checkpoint-every", "0.05")
    assert half_way(ucl, digits, "work/features.partial", words, signal.SIGKILL).code == 137
    shutil.copytree(digits, other, symlinks=True)
    result = ucl("run", "--limit", 1, "-v", cwd=digits)
    assert "features.partial: going on after" in result.err
    assert digests(digits, number) == digests(undisturbed, number)
    result = ucl("extract", "-v", cwd=other)
    assert "features.partial: going on after" in result.err, result.err
    assert np.isfinite(read(other / "work/features.h5").features).all()
    assert ucl("cluster", cwd=other).code == ucl("train-epoch", cwd=other).code == 0
    assert digests(other, number) == digests(undisturbed, number)


@pytest.mark.slow
def test_two_extractions_to_one_name(ucl: Runner, all_features: Path, tmp_path: Path) -> None:
    """The second keeps nothing of its own, and disturbs nobody; asked to go on with what the first is writing it is refused."""
    process = ucl.start(*SLOW, "-o", "f.h5", cwd=tmp_path)
    wait_for(lambda: (tmp_path / ".f.h5.partial").exists(), process)
    refused = ucl(*SLOW, "-o", "f.h5", "--resume", cwd=tmp_path)
    second = ucl(*SLOW, "-o", "f.h5", cwd=tmp_path)
    codes = sorted([process.wait().code, second.code])
    assert refused.code == 73
    assert codes == [0, 73]
    assert read(tmp_path / "f.h5").digest == read(all_features).digest


def test_a_full_disk_leaves_nothing_under_the_final_name(ucl: Runner, tmp_path: Path) -> None:
    result = ucl(*SLOW, "-o", "f.h5", cwd=tmp_path, fsize=1 << 20)
    assert result.code == 74
    assert not list(tmp_path.iterdir())

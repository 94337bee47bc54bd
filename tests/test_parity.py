"""Shell = run, bit for bit: every leg in fresh processes, compared by content digests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli.harness import Runner

from ucl.store import load

UCL = [sys.executable, "-m", "ucl"]
ENV = {**os.environ, "OMP_WAIT_POLICY": "passive"}


def ucl(*args: str, cwd: Path, **env: str) -> str:
    """Run one command with no data on its standard streams; returns what it prints."""
    done = subprocess.run([*UCL, *args], cwd=cwd, env={**ENV, **env}, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def pipe(line: str, cwd: Path, *, commands: str = "", **env: str) -> int:
    """Run a shell line; ``ucl`` in it is this environment's, or that of the folder commands."""
    text = line if commands else re.sub(r"(?<![\w/.-])ucl(?= )", f"{sys.executable} -m ucl", line)
    path = ":".join(filter(None, [commands, os.environ["PATH"]]))
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {text}"], cwd=cwd, env={**ENV, "PATH": path, **env}, stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode in (0, 1, 76), done.stderr
    return done.returncode


def digests(run: Path) -> dict[str, str]:
    """generation/name -> content digest, computed from the bytes."""
    files = sorted(run.glob("epochs/*/*.h5"))
    lines = ucl("digest", *(str(f.relative_to(run)) for f in files), cwd=run).splitlines()
    return {line.split()[1]: line.split()[0] for line in lines}


def make(where: Path, *more: str, method: str = "deepcluster", epochs: int = 2, images: str = "digits") -> Path:
    ucl("init", method, images, "-o", str(where), "--epochs", str(epochs), "--keep", "all", "-j", "1", *more, cwd=where.parent)
    return where


QUARTER = ("--set", "train-epoch.epoch_length=0.25")
HALF = ("--set", "train-epoch.epoch_length=0.5")
LOOP = "until ucl status --done; do ucl extract | tee features.$(ls epochs | wc -l).h5 | ucl cluster | ucl train-epoch || exit; done"


def test_run_disk_and_shell_are_equal(ucl: Runner, tmp_path: Path) -> None:
    """The leg through disk is a process of its own, with another hash seed than those forked from one server; the slow tests have more legs, all
    of them in processes of their own."""
    legs = {name: tmp_path / name for name in ("straight", "disk", "shell")}
    for leg in legs.values():
        assert ucl("init", "deepcluster", "digits", "-o", leg, "--epochs", 2, "--keep", "all", "-j", 1, *QUARTER).code == 0
    assert ucl("run", cwd=legs["straight"]).code == 0
    disk = ucl("run", "-o", legs["disk"], "--through-disk", real=True, env={"PYTHONHASHSEED": "2"})
    assert disk.code == 0, disk.err
    while ucl("status", "--done", cwd=legs["shell"]).code:
        results = ucl.pipe(["extract"], ["cluster"], ["train-epoch"], cwd=legs["shell"])
        assert [r.code for r in results] == [0, 0, 0], [r.err for r in results]
    found = {}
    for name, leg in legs.items():
        files = sorted(str(f.relative_to(leg)) for f in leg.glob("epochs/*/*.h5"))
        lines = ucl("digest", *files, cwd=leg, stdout="pipe").text.splitlines()
        found[name] = {line.split()[1]: line.split()[0] for line in lines}
    wanted = found["straight"]
    assert sorted(wanted) == ["epochs/0000/model.h5", *(f"epochs/000{g}/{n}.h5" for g in (1, 2) for n in ("labels", "model"))]
    assert len(set(wanted.values())) == len(wanted)
    assert found["disk"] == wanted
    assert found["shell"] == wanted


@pytest.mark.slow
@pytest.mark.parametrize("method", ["deepcluster", "persistent"])
def test_three_epochs_four_ways(tmp_path: Path, method: str) -> None:
    """run, through disk, the shell loop, and shell and run in turn; then another seed, and one changed pixel."""
    legs = {name: make(tmp_path / name / "deep", *HALF, method=method, epochs=3) if (tmp_path / name).mkdir() is None else None
            for name in ("straight", "disk", "shell", "turns")}
    ucl("run", cwd=legs["straight"], PYTHONHASHSEED="1")
    ucl("run", "-o", str(legs["disk"]), "--through-disk", cwd=tmp_path, PYTHONHASHSEED="22")
    pipe(LOOP, legs["shell"], PYTHONHASHSEED="333")
    turns = legs["turns"]
    ucl("run", "--limit", "1", cwd=turns)
    for verb in ("extract", "cluster", "train-epoch"):  # each alone, through work/
        ucl_alone(verb, turns)
    ucl("run", cwd=turns)
    wanted = digests(legs["straight"])
    for name in ("disk", "shell", "turns"):
        assert digests(legs[name]) == wanted, name
    kept = ucl("digest", *sorted(p.name for p in legs["shell"].glob("features.*.h5")), cwd=legs["shell"]).split()[::2]
    for generation, digest in enumerate(kept):
        again = tmp_path / f"again-{generation}.h5"
        ucl("extract", "--model", f"epochs/000{generation}/model.h5", "-o", str(again), "-j", "1", cwd=legs["straight"])
        assert ucl("digest", str(again), cwd=tmp_path).split()[0] == digest
    other = make(tmp_path / "other-seed", "--seed", "1", *HALF, method=method, epochs=3)
    ucl("run", cwd=other)
    assert not set(digests(other).values()) & set(wanted.values())


ALONE = "until ucl status --done; do ucl train-epoch || exit; done"
PURIFIED = "until ucl status --done; do ucl extract | ucl cluster | ucl purify | ucl train-epoch || exit; done"


@pytest.mark.slow
@pytest.mark.parametrize(("method", "line", "epochs"), [("ir", ALONE, 2), ("is", ALONE, 2), ("and", ALONE, 5), ("pcp", PURIFIED, 6)],
                         ids=["ir", "is", "and", "pcp"])
def test_methods_that_tell_images_apart(tmp_path: Path, method: str, line: str, epochs: int) -> None:
    """Memory, neighbours, momentum and the history are in the files, and all draws are keyed.  AND goes through all of its rounds, PCP votes
    in its last epoch."""
    straight, disk, shell = (make(tmp_path / name, *HALF, method=method, epochs=epochs) for name in ("straight", "disk", "shell"))
    ucl("run", cwd=straight, PYTHONHASHSEED="1")
    ucl("run", "-o", str(disk), "--through-disk", cwd=tmp_path, PYTHONHASHSEED="2")
    pipe(line, shell, PYTHONHASHSEED="3")
    wanted = digests(straight)
    assert len(wanted) == len(set(wanted.values())) == 1 + epochs * (2 if method == "pcp" else 1)
    assert digests(disk) == wanted
    assert digests(shell) == wanted
    if method == "pcp":
        assert load(straight / "labels.h5").info["purify"]["voted"]


MOVING = "ucl extract | ucl cluster | ucl train-epoch && " + ALONE


@pytest.mark.slow
@pytest.mark.parametrize(("method", "line", "epochs"), [("odc", MOVING, 3), ("uic", ALONE, 4)], ids=["odc", "uic"])
def test_methods_whose_labels_move(tmp_path: Path, method: str, line: str, epochs: int) -> None:
    """Memories, labels, counters and momentum are in the files, dropout in the neck is keyed; uic goes through its final stage.  Shell and run by
    turns are the same too; another seed is another run."""
    share = (*HALF, *(("--set", "uic.final_share=1") if method == "uic" else ()))
    legs = {name: make(tmp_path / name, *share, method=method, epochs=epochs) for name in ("straight", "disk", "shell", "turns")}
    ucl("run", cwd=legs["straight"], PYTHONHASHSEED="1")
    ucl("run", "-o", str(legs["disk"]), "--through-disk", cwd=tmp_path, PYTHONHASHSEED="2")
    pipe(line, legs["shell"], PYTHONHASHSEED="3")
    ucl("run", "--limit", "1", cwd=legs["turns"])
    ucl_alone("train-epoch", legs["turns"])
    ucl("run", cwd=legs["turns"])
    wanted = digests(legs["straight"])
    assert len(wanted) == 1 + 2 * epochs
    for name in ("disk", "shell", "turns"):
        assert digests(legs[name]) == wanted, name
    other = make(tmp_path / "other-seed", "--seed", "1", *share, method=method, epochs=epochs)
    ucl("run", "--limit", "1", cwd=other)
    assert not set(digests(other).values()) & set(wanted.values())


@pytest.mark.slow
@pytest.mark.parametrize("words", [("--backbone", "alexnet-32", "--sobel", "--precision", "bf16"), ("--compile",)], ids=["alexnet", "compiled"])
def test_dropout_bf16_and_compiled_networks(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Dropout is keyed, bf16 rounds alike, and a batch is compiled the same whichever batches came before it."""
    if "--compile" in words and not shutil.which("g++"):
        pytest.skip("no C++ compiler")
    legs = [make(tmp_path / name, *words, "--set", "train-epoch.epoch_length=0.2", "--set", "extract.batch=200") for name in ("run", "shell")]
    ucl("run", cwd=legs[0])
    pipe(LOOP, legs[1])
    wanted = digests(legs[0])
    assert len(wanted) == 5
    assert digests(legs[1]) == wanted


def ucl_alone(verb: str, cwd: Path) -> None:
    """A verb whose standard streams carry no data works in work/."""
    done = subprocess.run([*UCL, verb], cwd=cwd, env=ENV, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_one_changed_pixel_and_worker_counts(tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    folder = tmp_path / "photos"
    rng = np.random.default_rng(0)
    for i in range(120):
        path = folder / f"c{i % 3}" / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32 + i % 2 * 8, 32, 3), np.uint8)).save(path)
    changed = tmp_path / "changed"
    shutil.copytree(folder, changed)
    picture = np.array(Image.open(changed / "c0" / "000.png"))
    picture[5, 5, 0] ^= 1
    Image.fromarray(picture).save(changed / "c0" / "000.png")
    settings = ("--set", "cluster.k=4", "--set", "cluster.pca=16", "--pack", "none")
    first, second, third = (make(tmp_path / name, *settings, images=str(images))
                            for name, images in (("a", folder), ("b", folder), ("c", changed)))
    ucl("run", cwd=first)
    pipe("until ucl status --done; do ucl extract -j 1 | ucl cluster -j 1 | ucl train-epoch -j 1 || exit; done", second)
    ucl("run", cwd=third)
    a, b, c = digests(first), digests(second), digests(third)
    assert a == b
    assert a["epochs/0000/model.h5"] == c["epochs/0000/model.h5"]
    assert a["epochs/0001/model.h5"] != c["epochs/0001/model.h5"]
    one, many = (tmp_path / f"w{n}" for n in (1, 3))
    for where, threads in ((one, "1"), (many, "3")):
        ucl("init", "deepcluster", str(folder), "-o", str(where), "-j", threads, cwd=tmp_path)
    assert ucl("digest", str(one / "images.h5"), cwd=tmp_path).split()[0] == ucl("digest", str(many / "images.h5"), cwd=tmp_path).split()[0]

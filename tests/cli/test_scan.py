"""Run directories of scan: a network that is given, neighbours mined once, a broken image, generations and their links, file to file."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from cli.harness import Runner, environment, tree
from cli.test_instance import digests, plans, same
from ucl import read, rundir
from ucl.artifacts import Labels
from ucl.commands.status import EXAMPLE
from ucl.confidence import selection_score
from ucl.errors import StorageError
from ucl.rundir import RunConfig, RunDir

COMMON = ["--size", 16, "-j", 1, "--seed", 3, "--on-error", "skip", "--keep", "all"]
SETS = [word for setting in ("k=3", "scan_epochs=2", "self_epochs=1", "scan_batch=8", "self_batch=8", "self_threshold=0.3", "scan_lr=0.002")
        for word in ("--set", f"scan.{setting}")]
BAD = 16
"""Row of the broken JPEG, among 25."""
PIPE: list[list[object]] = [["extract"], ["neighbors"], ["train-epoch"]]


@pytest.fixture(scope="session")
def broken(photos_made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of photos and a JPEG that cannot be read; not to be changed."""
    folder = tmp_path_factory.mktemp("broken") / "photos"
    shutil.copytree(photos_made, folder)
    (folder / "bee/8.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing more")
    return folder


@pytest.fixture(scope="session")
def simclr(ucl: Runner, broken: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one epoch of simclr, with its projection; not to be changed."""
    run = tmp_path_factory.mktemp("simclr") / "run"
    for words in (["init", "simclr", broken, "-o", run, *COMMON, "--epochs", 1, "--set", "train-epoch.epoch_length=6"], ["run", "-o", run]):
        made = ucl(*words)
        assert made.code == 0, made.err
    return run / "model.h5"


@pytest.fixture(scope="session")
def begun(ucl: Runner, broken: Path, simclr: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory of scan before the first epoch; not to be changed."""
    run = tmp_path_factory.mktemp("scan") / "begun"
    made = ucl("init", "scan", broken, "-o", run, "--from", simclr, *COMMON, *SETS)
    assert made.code == 0, made.err
    return run


@pytest.fixture(scope="session")
def straight(ucl: Runner, begun: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after `ucl run`; not to be changed."""
    run = copied(begun, tmp_path_factory.mktemp("straight") / "scan")
    made = ucl("run", cwd=run)
    assert made.code == 0, made.err
    return run


def copied(source: Path, place: Path, epochs: int | None = None) -> Path:
    """A copy of a run as it was after so many epochs; links within it stay links."""
    shutil.copytree(source, place, symlinks=True, copy_function=os.link)
    config = place / "ucl.toml"
    text = config.read_text()
    config.unlink()
    config.write_text(text)
    for folder in sorted(place.glob("epochs/*")) if epochs is not None else []:
        assert epochs is not None
        if int(folder.name) > epochs:
            shutil.rmtree(folder)
    return place


def changed(run: Path, old: str, new: str) -> Path:
    config = run / "ucl.toml"
    assert old in config.read_text()
    config.write_text(config.read_text().replace(old, new))
    return run


def metrics(run: Path, epoch: int) -> dict[str, object]:
    found: dict[str, object] = json.loads((run / f"epochs/{epoch:04d}/metrics.json").read_text())
    return found


# shell = run

def test_the_shell_loop_is_run(ucl: Runner, begun: Path, straight: Path, tmp_path: Path) -> None:
    """Every line is what `status --next` says; model, labels, neighbours and metrics are those of the one process."""
    shell, lines = copied(begun, tmp_path / "shell"), []
    while ucl("status", "--done", cwd=shell).code:
        line = ucl("status", "--next", cwd=shell, stdout="pipe").text.strip()
        lines.append(line)
        results = ucl.pipe(*[part.split()[1:] for part in line.split(" | ")], cwd=shell)
        assert [r.code for r in results] == [0] * len(results), [r.err for r in results]
    assert lines == ["ucl extract | ucl neighbors | ucl train-epoch", "ucl train-epoch", "ucl train-epoch"]
    same(shell, straight)
    assert len(digests(shell)) == 1 + 3 * 3
    after = ucl("status", "--next", cwd=shell)
    assert (after.code, "all 3 epochs" in after.err) == (76, True)


@pytest.mark.slow
def test_through_work_it_is_the_same(ucl: Runner, begun: Path, straight: Path, tmp_path: Path) -> None:
    """One by one, each through work/; then a seed of its own is another run."""
    run = copied(begun, tmp_path / "run")
    for verb in ("extract", "neighbors", "train-epoch", "train-epoch", "train-epoch"):
        result = ucl(verb, cwd=run)
        assert result.code == 0, result.err
    same(run, straight)


def test_neighbours_are_those_of_the_projection_and_stay(straight: Path, simclr: Path) -> None:
    """Mined once, by brute force; the model of the first epoch's start is the network that was given."""
    given, start = read(simclr), read(straight / "epochs/0000/model.h5")
    assert {k: v.tobytes() for k, v in start.model.items()} == {k: v.tobytes() for k, v in given.model.items()}
    inodes = {(straight / f"epochs/{e:04d}/neighbors.h5").stat().st_ino for e in (1, 2, 3)}
    assert len(inodes) == 1
    found = read(straight / "neighbors.h5")
    assert found.neighbors.shape == (25, 21)
    assert found.self_included
    assert found.neighbors[:, 0].tolist() == [i if i != BAD else -1 for i in range(25)]
    assert read(straight / "model.h5").model["projection.0.weight"].tobytes() == given.model["projection.0.weight"].tobytes()


def test_a_broken_image_is_nowhere(straight: Path) -> None:
    """-1 and NaN in what is handed on, and nobody's neighbour; the score is a loop's."""
    near = read(straight / "neighbors.h5")
    assert not (near.neighbors == BAD).any()
    assert (near.neighbors[BAD] == -1).all()
    good = np.delete(np.arange(25), BAD)
    for epoch in (1, 2, 3):
        y = read(straight / f"epochs/{epoch:04d}/labels.h5")
        assert y.labels[BAD] == -1
        assert np.isnan(y.probs[BAD]).all()
        assert np.isnan(y.score[BAD])
        assert np.isfinite(y.probs[good]).all()
        assert np.array_equal(y.labels[good], y.probs[good].argmax(1))
        assert y.context.epoch == epoch - 1
        if epoch != 2:                                     # whose labels may be those of the better first
            wanted = selection_score(np.array(y.probs), near.neighbors[:, :6], good)
            assert metrics(straight, epoch)["score"] == pytest.approx(wanted.total, abs=1e-9)
        assert (metrics(straight, epoch)["bad"], metrics(straight, epoch)["kept"]) == (1, 24)


# from file to file

def test_from_file_to_file(ucl: Runner, straight: Path, simclr: Path, broken: Path, tmp_path: Path) -> None:
    """No run directory: mine, cluster, learn from sure images, label, purify, and refine the representation, which alone goes on."""
    images, j = straight / "images.h5", ["-j", 1]

    def done(*words: object) -> None:
        result = ucl(*words, *([] if words[0] == "purify" else j), cwd=tmp_path)
        assert result.code == 0, (words, result.err)

    done("extract", images, "--model", simclr, "--layer", "projection", "-o", "f.h5")
    done("neighbors", "f.h5", "--include-self", "-k", 21, "-o", "n.h5")
    assert np.array_equal(read(tmp_path / "n.h5").neighbors, read(straight / "neighbors.h5").neighbors)
    scan = ["train-epoch", "n.h5", "--objective", "scan", "--images", images, "--optimizer", "adam", "--lr", 0.002, "--batch", 8]
    refused = ucl(*scan, "--model", simclr, "-o", "g1.h5", *j, cwd=tmp_path)
    assert (refused.code, "k: found 0, wanted the number of classes" in refused.err, "try: -k K" in refused.err) == (2, True, True)
    assert not (tmp_path / "g1.h5").exists()
    done(*scan, "--model", simclr, "-k", 3, "--restart", "--best", "note", "-o", "g1.h5")
    done(*scan, "--model", "g1.h5", "--best", "take", "-o", "g2.h5")
    assert not [k for k in read(tmp_path / "g2.h5").memory if k.startswith("best/")]
    selflabel = ["train-epoch", "--objective", "selflabel", "--images", images, "--model", "g2.h5", "--optimizer", "adam", "--lr", 1e-3, "--batch", 8,
                 "--sure", 0.3, "--restart"]
    done(*selflabel, "-o", "g3.h5")
    with_score = ucl("train-epoch", "n.h5", *selflabel[1:], "-o", "same.h5", "--json", *j, cwd=tmp_path)
    assert "score" in json.loads(with_score.lines[-1])
    assert read(tmp_path / "g3.h5").weights_digest() == read(tmp_path / "same.h5").weights_digest()
    done("extract", images, "--model", "g3.h5", "--final-relu", "-o", "h.h5")
    done("cluster", "h.h5", "--method", "argmax", "--model", "g3.h5", "--probs", "-o", "y.h5")
    y = read(tmp_path / "y.h5")
    threshold = float(np.nanmedian(y.score))
    done("purify", "y.h5", "--rule", "confident", "--threshold", threshold, "-o", "sure.h5")
    sure = read(tmp_path / "sure.h5")
    assert np.array_equal(sure.labels, np.where(np.nan_to_num(y.score) > np.float32(threshold), y.labels, -1))
    done("train-epoch", "sure.h5", "--objective", "contrast", "--images", images, "--model", simclr, "--batch", 12, "--least-batch", 2, "--restart",
         "-o", "next.h5")
    before, after = read(simclr), read(tmp_path / "next.h5")
    assert set(after.model) == set(before.model)
    assert after.model["projection.0.weight"].tobytes() != before.model["projection.0.weight"].tobytes()


def test_neighbours_that_do_not_belong_are_refused(ucl: Runner, begun: Path, simclr: Path, features: Path, tmp_path: Path) -> None:
    """One line, a cure, the exit code, and nothing written: other images, images among others, none."""
    assert ucl("neighbors", features, "-k", 3, "-o", tmp_path / "other.h5").code == 0
    assert ucl("extract", begun / "images.h5", "--model", simclr, "--layer", "projection", "-o", tmp_path / "f.h5").code == 0
    assert ucl("neighbors", tmp_path / "f.h5", tmp_path / "f.h5", "-k", 3, "-o", tmp_path / "among.h5").code == 0
    line = ["--objective", "scan", "-k", 3, "--batch", 8, "--images", begun / "images.h5", "--model", simclr, "-o", tmp_path / "next.h5"]
    run = copied(begun, tmp_path / "run")
    before = tree(run)
    for words, where, code, said, cure in (
            ([tmp_path / "other.h5", *line], None, 65, "neighbors: /neighbors: 24 rows, expected 25", "ucl neighbors"),
            ([tmp_path / "among.h5", *line], None, 65, "rows of 25 other images", "ucl neighbors with one file"),
            (line, None, 65, "neighbors: found none", "ucl extract --layer projection | ucl neighbors"),
            ([tmp_path / "f.h5", *line], None, 65, "", ""),
            ([tmp_path / "other.h5"], run, 65, "", ""), ([tmp_path / "among.h5"], run, 65, "", ""),
            ([], run, 66, "work/neighbors.h5", "pipe the neighbors in")):
        result = ucl("train-epoch", *words, cwd=where or tmp_path)
        assert result.code == code, result.err
        assert result.lines[0].startswith("ucl train-epoch: error: ")
        assert said in result.lines[0]
        assert len(result.lines) <= 2
        assert cure in result.err
    assert not (tmp_path / "next.h5").exists()
    assert tree(run) == before
    assert ucl("train-epoch", tmp_path / "f.h5", cwd=copied(begun, tmp_path / "later", 0)).code == 65


def test_in_a_later_turn_neighbours_are_refused(ucl: Runner, straight: Path, tmp_path: Path) -> None:
    run = copied(straight, tmp_path / "run", 1)
    result = ucl("train-epoch", straight / "neighbors.h5", cwd=run)
    assert result.code == 2, result.err
    assert len(list((run / "epochs").iterdir())) == 2


# generations

def test_unchanged_parts_are_links_or_copies(straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second name where the file system has them, else a copy of the same bytes."""
    for number, error in enumerate((0, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV)):
        run = RunDir(copied(straight, tmp_path / f"{number}", 3))
        with monkeypatch.context() as patch:
            if error:
                def refuse(*args: object, error: int = error, **more: object) -> None:
                    raise OSError(error, os.strerror(error))

                patch.setattr(rundir.os, "link", refuse)
            run.commit(4, {"model": read(straight / "model.h5")}, {"generation": 4}, ["labels", "neighbors"])
        for name in ("labels", "neighbors"):
            old, new = (run.file(g, name) for g in (3, 4))
            assert (old.stat().st_ino == new.stat().st_ino) is (not error)
            assert old.read_bytes() == new.read_bytes()
        assert {p.name: str(p.readlink()) for p in run.path.glob("*.h5") if p.is_symlink()} == {
            f"{name}.h5": f"epochs/0004/{name}.h5" for name in ("model", "labels", "neighbors")}


@pytest.mark.parametrize("where", ["link", "copy", "metrics"])
def test_a_failure_in_the_middle_leaves_nothing(straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    run = RunDir(copied(straight, tmp_path / "run", 3))
    before = tree(run.path)

    def full(*args: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def unknown(*args: object, **more: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if where == "link":
        monkeypatch.setattr(rundir.os, "link", full)
    elif where == "copy":
        monkeypatch.setattr(rundir.os, "link", unknown)
        monkeypatch.setattr(rundir.shutil, "copyfile", full)
    else:
        monkeypatch.setattr(rundir.json, "dumps", full)
    with pytest.raises(StorageError, match="No space left"):
        run.commit(4, {"model": read(straight / "model.h5")}, {"generation": 4}, ["labels", "neighbors"])
    assert tree(run.path) == before
    assert sorted(p.name for p in run.epochs.iterdir()) == ["0000", "0001", "0002", "0003"]


@pytest.mark.slow
def test_what_is_pruned_is_all_but_the_metrics(ucl: Runner, begun: Path, straight: Path, tmp_path: Path) -> None:
    """keep = 1: after each turn one generation is whole; the newest one's links are good, also where the older names are gone."""
    run = changed(copied(begun, tmp_path / "run"), 'keep = "all"', 'keep = "1"')
    assert ucl("run", cwd=run).code == 0
    left = {str(p.relative_to(run / "epochs")) for p in run.glob("epochs/*/*")}
    assert left == {f"000{g}/metrics.json" for g in range(4)} | {f"0003/{name}.h5" for name in ("model", "labels", "neighbors")}
    for name in ("model", "labels", "neighbors"):
        assert read(run / f"{name}.h5").digest == read(straight / f"epochs/0003/{name}.h5").digest


@pytest.mark.parametrize("name", ["neighbors", "labels"])
def test_a_part_that_is_gone_is_told(ucl: Runner, straight: Path, tmp_path: Path, name: str) -> None:
    """Somebody removed a file of the newest generation, which no later turn would make again."""
    run = copied(straight, tmp_path / "run", 2)
    (run / f"epochs/0002/{name}.h5").unlink()
    before = tree(run)
    for command in ("run", "train-epoch"):
        result = ucl(command, cwd=run)
        assert result.code == 66, result.err
        assert f"0002/{name}.h5: missing" in result.lines[0]
    assert tree(run) == before


# to begin with

def test_a_network_without_a_projection_draws_one(ucl: Runner, small: Path, simclr: Path, broken: Path, tmp_path: Path) -> None:
    """Fresh, of the seed; with scan.features=last there is none, and of a network that has one it is left behind."""
    words = ["init", "scan", broken, *COMMON, *SETS]
    for name, more in (("one", []), ("same", []), ("none", ["--set", "scan.features=last"])):
        made = ucl(*words, "--from", small / "model.h5", "-o", name, *more, cwd=tmp_path)
        assert made.code == 0, made.err
    one, again, none = (read(tmp_path / f"{name}/model.h5") for name in ("one", "same", "none"))
    assert one.model["projection.2.weight"].shape == (128, 256)
    assert one.model["projection.0.weight"].tobytes() == again.model["projection.0.weight"].tobytes()
    assert not [k for k in none.model if k.startswith("projection")]
    made = ucl(*words, "--from", simclr, "-o", "left", "--set", "scan.features=last", cwd=tmp_path)
    assert "left behind: projection, optimizer state" in made.err
    assert not [k for k in read(tmp_path / "left/model.h5").model if k.startswith("projection")]
    result = ucl("run", "-o", "left", "--limit", 1, cwd=tmp_path)
    assert result.code == 0, result.err
    assert read(tmp_path / "left/neighbors.h5").self_included


def test_a_projection_asked_for_by_hand_is_not_replaced_in_silence(ucl: Runner, simclr: Path, broken: Path, tmp_path: Path) -> None:
    """Another width or depth than that of the network given is refused, with nothing written; the same is taken."""
    for setting, said in (("init.projection=64", "model.h5: projection 128, asked for 64"),
                          ("init.projection_layers=1", "model.h5: projection_layers 2, asked for 1")):
        made = ucl("init", "scan", broken, "--from", simclr, "-o", "run", *COMMON, *SETS, "--set", setting, cwd=tmp_path)
        assert (made.code, said in made.err, "try: leave init.projection" in made.err) == (65, True, True), made.err
        assert not (tmp_path / "run").exists()
    made = ucl("init", "scan", broken, "--from", simclr, "-o", "run", *COMMON, *SETS, "--set", "init.projection=128", cwd=tmp_path)
    assert made.code == 0, made.err


@pytest.mark.parametrize(("words", "said"), [
    (["simclr", "--set", "simclr.contrast_epochs=0"], "simclr.contrast_epochs: found 0, wanted at least 1"),
    (["simclr", "--set", "simclr.contrast_batch=25"], "simclr.contrast_batch: found 25 for 24 images"),
    (["scan", *SETS, "--set", "scan.scan_batch=25"], "scan.scan_batch: found 25 for 24 images"),
    (["scan", *SETS, "--set", "scan.self_batch=25"], "scan.self_batch: found 25 for 24 images"),
    (["scan", *SETS, "--set", "scan.k=24"], "k: found 24 for 24 images, wanted fewer"),
    (["scan", *SETS, "--set", "scan.held_out=0.5"], "held_out: is of select held-out alone"),
    (["scan", *SETS, "--set", "scan.scan_lr=-1"], "scan_lr"),
    (["profeat", "--set", "profeat.k=24"], "k: found 24 for 24 images"),
    (["profeat", "--set", "profeat.contrast_batch=25"], "profeat.contrast_batch: found 25 for 24 images"),
    (["profeat", "--set", "profeat.iterations=1", "--set", "profeat.threshold=0.5"], "threshold: is of later iterations")])
def test_init_refuses(ucl: Runner, broken: Path, tmp_path: Path, words: list[object], said: str) -> None:
    made = ucl("init", words[0], broken, "-o", "run", *COMMON, *words[1:], cwd=tmp_path)
    assert made.code in (2, 78), made.err
    assert said in made.err
    assert made.err.count("error:") == 1
    assert len([line for line in made.lines if "warning" not in line]) <= 2
    assert not list(tmp_path.iterdir())


# what is told

def test_dry_runs(ucl: Runner, begun: Path, straight: Path, simclr: Path, broken: Path, tmp_path: Path) -> None:
    """Before init, after it, in the middle and at the end; TOML that is read back gives the plan of every epoch."""
    words = ["scan", broken, "--from", simclr, "-o", tmp_path / "run", *COMMON, *SETS]
    lines = ucl("run", *words, "--dry-run", stdout="pipe").text.splitlines()
    assert lines[1].startswith("ucl init scan ")
    for run, kinds in ((begun, 3), (copied(straight, tmp_path / "one", 1), 2), (straight, 0)):
        told = ucl("run", "--dry-run", cwd=run, stdout="pipe")
        assert told.code == 0, told.err
        assert ("# the plan is done" in told.text) is (not kinds)
        assert ("ucl neighbors -k 21 --include-self" in told.text) is (kinds == 3)
        assert told.text.count("train-epoch --objective") >= min(kinds, 1)
    text = ucl("run", *words, "--dry-run", "--toml", stdout="pipe").text
    config, made = RunConfig.from_toml(text, "toml"), RunDir(begun)
    shutil.copytree(begun, tmp_path / "told", symlinks=True)
    (tmp_path / "told/ucl.toml").write_text(text)
    told, wanted = RunDir(tmp_path / "told"), made.context()
    assert config.method == "scan"
    assert plans(dataclasses.replace(told.context(), images=24)) == plans(wanted)


def test_the_one_line_loop_is_the_run_and_ends_where_something_is_wrong(ucl: Runner, begun: Path, straight: Path, tmp_path: Path) -> None:
    """The line as `run --dry-run` prints it and `status --help` and the pages have it."""
    run = copied(begun, tmp_path / "run")
    (line,) = [one for one in ucl("run", "--dry-run", cwd=run, stdout="pipe").text.splitlines() if one.startswith("until ") and "--next" in one]
    assert line == EXAMPLE
    (tmp_path / "ucl").mkdir()
    path = f"{ucl.on_path(tmp_path / 'ucl')}:{os.environ['PATH']}"

    def loop() -> int:
        return subprocess.run(["bash", "-c", line], cwd=run, env=environment(PATH=path), stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=120, check=False).returncode

    (run / "ucl.toml").rename(run / "elsewhere")
    assert loop() == 66  # status fails, and so would `until`, for ever
    (run / "elsewhere").rename(run / "ucl.toml")
    assert loop() == 0
    same(run, straight)


def test_what_people_ask(ucl: Runner, straight: Path, tmp_path: Path) -> None:
    run = copied(straight, tmp_path / "run")
    told = ucl("status", cwd=run, stdout="pipe").text.splitlines()
    assert told[0] == "scan on 25 images: epoch 3 of 3, done"
    assert len(told) == 5
    assert ucl("status", "--json", cwd=run, stdout="pipe").json["done"] is True
    assert ucl("info", "model.h5", cwd=run, stdout="pipe").text.startswith(f"{'model.h5'}: ucl/checkpoint: convnet")
    for name in ("model", "labels", "neighbors"):
        assert ucl("validate", f"{name}.h5", cwd=run).code == 0
    assert ucl("view", "--cluster", 0, cwd=run, stdout="pipe").code == 0
    for where in ("w.pt", "w.safetensors"):
        result = ucl("export", "-o", where, cwd=run)
        assert result.code == 0, result.err
    assert isinstance(read(run / "labels.h5"), Labels)

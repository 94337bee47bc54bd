"""ucl targets: truth as an ordinary labels file."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from cli.harness import Runner, tree
from ucl import read

WANTED = [0] * 8 + [1] * 8 + [2] * 8


def test_folder_list_and_run_directory(ucl: Runner, photos: Path, small: Path, tmp_path: Path) -> None:
    assert ucl("targets", photos, "-o", tmp_path / "a.h5").code == 0
    assert ucl("targets", small / "images.h5", stdout=tmp_path / "b.h5").code == 0
    before = tree(small)
    piped = ucl("targets", cwd=small, stdout="pipe")
    (tmp_path / "c.h5").write_bytes(piped.out)
    assert tree(small) == before
    for name in "abc":
        made = read(tmp_path / f"{name}.h5", "ucl/labels")
        assert made.labels.tolist() == WANTED
        assert made.samples.path[8] == b"bee/0.png"


def test_from_a_file(ucl: Runner, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("ant/1.png\tb\nbee/0.png\ta\n\n")
    assert ucl("targets", photos, "--targets", tmp_path / "t.tsv", "-o", tmp_path / "a.h5").code == 0
    found = read(tmp_path / "a.h5").labels
    assert {int(i): int(found[i]) for i in range(24) if found[i] >= 0} == {1: 1, 8: 0}


def test_a_supervised_epoch(ucl: Runner, small: Path) -> None:
    results = ucl.pipe(["targets"], ["train-epoch"], cwd=small)
    assert [r.code for r in results] == [0, 0], [r.err for r in results]
    assert read(small / "epochs/0002/labels.h5").labels.tolist() == WANTED


@pytest.mark.parametrize(("backbone", "epochs", "best"), [("convnet", 2, 0.9), pytest.param("alexnet-32", 4, 0.9, marks=pytest.mark.slow)])
def test_a_supervised_run_learns(ucl: Runner, tmp_path: Path, backbone: str, epochs: int, best: float) -> None:
    """Behind a Sobel filter, on two thirds of the digits; the head must then know the others (chance is 0.1)."""
    assert ucl("init", "deepcluster", "digits", "-o", "run", "--backbone", backbone, "--sobel", "-j", 1, "--set", "train-epoch.head=kept",
               cwd=tmp_path).code == 0
    run = tmp_path / "run"
    assert ucl("targets", "-o", tmp_path / "all.h5", cwd=run).code == 0
    truth = read(tmp_path / "all.h5").labels
    held = np.arange(len(truth)) % 3 == 0
    with h5py.File(tmp_path / "part.h5", "w") as file:
        file["labels"] = np.where(held, -1, truth)
    for _ in range(epochs):
        assert ucl("train-epoch", tmp_path / "part.h5", cwd=run).code == 0
    assert ucl("extract", "--final-relu", "-o", tmp_path / "f.h5", cwd=run).code == 0
    model, features = read(run / "model.h5"), read(tmp_path / "f.h5").features
    logits = features @ model.model["head.weight"].T + model.model["head.bias"]
    assert (logits.argmax(1) == truth)[held].mean() > best
    start = read(run / "epochs" / f"{epochs - 1:04d}" / "model.h5").model
    assert all((model.model[k] == start[k]).all() for k in start if "sobel" in k)


def test_digits(ucl: Runner, tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    assert ucl("targets", "digits", "-o", tmp_path / "d.h5").code == 0
    assert read(tmp_path / "d.h5").labels.tolist() == load_digits().target.tolist()

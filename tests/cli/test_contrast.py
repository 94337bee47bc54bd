"""Run directories of simclr: shell = run, and what its files hold."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from cli.harness import Runner
from ucl import read


@pytest.fixture(scope="module")
def begun(ucl: Runner, photos_made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("contrast") / "begun"
    made = ucl("init", "simclr", photos_made, "-o", run, "--epochs", 3, "--keep", "all", "--size", 16, "--projection", 16, "-j", 1, "--seed", 3)
    assert made.code == 0, made.err
    return run


def test_the_shell_loop_is_run(ucl: Runner, begun: Path, tmp_path: Path) -> None:
    """Bit for bit; the learning rate falls from epoch to epoch; no labels."""
    shell, straight = (Path(shutil.copytree(begun, tmp_path / name, symlinks=True)) for name in ("shell", "straight"))
    text = ucl("run", cwd=straight, stdout="pipe").text
    assert "(log 2B-1 = " in text
    while ucl("status", "--done", cwd=shell).code:
        assert ucl("train-epoch", cwd=shell).code == 0
    for epoch in range(4):
        a, b = (read(run / f"epochs/{epoch:04d}/model.h5") for run in (shell, straight))
        assert a.digest == b.digest
        assert set(b.memory) == set()
    assert not list(straight.glob("epochs/*/labels.h5"))
    assert a.model["projection.0.weight"].shape == (256, 256)
    assert a.model["projection.2.weight"].shape == (16, 256)
    assert ucl("extract", "images.h5", "--model", "model.h5", "--layer", "projection", "-o", "p.h5", cwd=straight).code == 0
    rows = read(straight / "p.h5").features
    assert rows.shape == (24, 16)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert ucl("evaluate", "knn", cwd=straight).code == 0
    assert "train-epoch lr " in ucl("run", "--dry-run", cwd=begun, stdout="pipe").text


def test_pseudo_labels_attract(ucl: Runner, begun: Path, tmp_path: Path) -> None:
    """Outside of a plan: clusters for positives, by Adam; then a batch that is too large is refused."""
    line = ["train-epoch", "--objective", "contrast", "--images", begun / "images.h5", "--model", begun / "model.h5", "--optimizer", "adam",
            "--lr", 0.001]
    assert ucl("extract", begun / "images.h5", "--model", begun / "model.h5", "-o", "f.h5", cwd=tmp_path).code == 0
    assert ucl("cluster", "f.h5", "-k", 4, "--pca", 0, "-o", "y.h5", cwd=tmp_path).code == 0
    made = ucl(line[0], "y.h5", *line[1:], "--batch", 12, "-o", "m.h5", cwd=tmp_path)
    assert made.code == 0, made.err
    assert "100% of the images have a label" in made.err
    assert any(name.endswith("exp_avg") for name in read(tmp_path / "m.h5").optimizer)
    refused = ucl(*line, "--batch", 25, "-o", "n.h5", cwd=tmp_path)
    assert (refused.code, refused.lines[0]) == (2, "ucl train-epoch: error: batch: found 25 for 24 images to draw, wanted at most 24: "
                                                   "only whole batches are trained on")
    assert not (tmp_path / "n.h5").exists()

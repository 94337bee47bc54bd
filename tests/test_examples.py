"""The example scripts do what their headers say, and other programs read what ucl writes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from test_parity import ENV, digests, make, pipe, ucl

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[1] / "examples"
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def bash(line: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", line], cwd=cwd, env={**ENV, "PATH": PATH, **env}, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, check=False)


def test_the_loop(tmp_path: Path) -> None:
    """examples/deepcluster.sh, killed by nothing, equals `ucl run`; started again it finds nothing to do."""
    env = {"OUT": str(tmp_path / "loop"), "INIT": "--epochs 2 --keep all -j 1"}
    done = bash(str(EXAMPLES / "deepcluster.sh"), tmp_path, **env)
    assert done.returncode == 0, done.stderr
    assert "epoch 2 of 2, done" in done.stdout
    assert "knn_top1" in done.stdout
    straight = make(tmp_path / "straight", epochs=2)
    ucl("run", cwd=straight)
    assert digests(tmp_path / "loop") == digests(straight)
    again = bash(str(EXAMPLES / "deepcluster.sh"), tmp_path, **env)
    assert again.returncode == 0, again.stderr


def test_a_stage_of_ones_own(tmp_path: Path) -> None:
    run = make(tmp_path / "run", epochs=2)
    assert pipe(f"ucl extract | {sys.executable} {EXAMPLES / 'my_cluster.py'} | ucl train-epoch", run) == 0
    with h5py.File(run / "epochs" / "0001" / "labels.h5") as f:
        labels, paths = f["labels"][:], f["samples/path"].asstr()[:]
    assert len(np.unique(labels)) == 50
    assert paths[0] == "digits/0000.png"
    ucl("run", cwd=run)  # and the plan goes on from there
    assert (run / "epochs" / "0002").exists()


def test_tee_and_foreign_readers(tmp_path: Path) -> None:
    run = make(tmp_path / "run", epochs=1)
    assert pipe("ucl extract | tee f.h5 | ucl cluster -k 50 > l.h5", run) == 0
    with h5py.File(run / "f.h5") as f, h5py.File(run / "l.h5") as g:
        x, labels, centroid = f["features"][:], g["labels"][:], g["clusters/centroid"][:]
        z = (x.astype(np.float64) - g["pca/mean"][:]) @ g["pca/components"][:]
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    distance = ((z[:, None] - centroid[None]) ** 2).sum(2)
    assert (distance.argmin(1) == labels).mean() > 0.999
    for tool in (["h5ls", "-r"], ["h5dump", "-H"]):
        if shutil.which(tool[0]) is None:
            pytest.skip(f"{tool[0]} is not installed")
        for name, dataset in (("f.h5", "features"), ("l.h5", "labels")):
            done = subprocess.run([*tool, name], cwd=run, capture_output=True, text=True, check=True)
            assert dataset in done.stdout
            assert not done.stderr
    assert ucl("validate", "--full", "f.h5", "l.h5", cwd=run).splitlines() == ["f.h5: ok", "l.h5: ok"]


def test_the_small_cifar_experiment_on_toy_data(tmp_path: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    for part, n in (("train", 40), ("test", 10)):
        for c in range(3):
            folder = tmp_path / "cifar" / part / f"class{c}"
            folder.mkdir(parents=True)
            for i in range(n):
                Image.fromarray(rng.integers(c * 60, c * 60 + 100, (32, 32, 3)).astype(np.uint8)).save(folder / f"{i:04d}.jpg")
    done = bash(str(EXAMPLES / "cifar10-small.sh"), tmp_path, CIFAR=str(tmp_path / "cifar"), OUT=str(tmp_path / "out"), EPOCHS="1", SEEDS="0",
                PER_CLASS="40", SETTINGS="--set cluster.k=4 --set cluster.pca=8", JOBS="1", METHODS="deepcluster")
    assert done.returncode == 0, done.stderr
    assert "| deepcluster | 0 |" in done.stdout


def test_cifar10(tmp_path: Path) -> None:
    """examples/cifar10.sh on a small release of its own; started again it only measures."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        truth = np.arange(40, dtype=np.uint8) % 10
        pixels = (truth[:, None] * 20 + rng.integers(0, 60, (40, 3072))).astype(np.uint8)
        (folder / name).write_bytes(np.concatenate([truth[:, None], pixels], 1).tobytes())
    (folder / "batches.meta.txt").write_text("airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n")
    env = {"CIFAR": str(folder), "OUT": str(tmp_path / "run"), "BACKBONE": "convnet", "EPOCHS": "1", "SETTINGS": "--set cluster.k=8 -j 1"}
    for _ in range(2):
        done = bash(str(EXAMPLES / "cifar10.sh"), tmp_path, **env)
        assert done.returncode == 0, done.stderr
        assert "knn_top1" in done.stdout
        assert "linear_top1" in done.stdout
        assert "nmi_arithmetic" in done.stdout


def test_imagenet(tmp_path: Path) -> None:
    """examples/imagenet-deepcluster.sh, every line of it, on something small."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in ("n01440764", "n01443537"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(0, 256, (40 + i, 60 - i, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "train" / name / f"{i}.JPEG", format="JPEG")
    env = {"IMAGENET": str(tmp_path / "train"), "OUT": str(tmp_path / "run"), "BACKBONE": "alexnet-32", "EPOCHS": "1",
           "SETTINGS": "--set cluster.k=3 --set cluster.pca=4 -j 1 --set evaluate-linear.folds=2"}
    done = bash(str(EXAMPLES / "imagenet-deepcluster.sh"), tmp_path, **env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("linear_top1") == 3

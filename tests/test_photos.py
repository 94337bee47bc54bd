"""DeepCluster's own network on photographs: AlexNet with batch norm behind the Sobel filter, 224-px views of ragged files."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest
from test_parity import ENV, UCL, digests, pipe, ucl

pytestmark = pytest.mark.slow

SETTINGS = ("--sobel", "--epochs", "2", "--keep", "1", "-j", "1", "--set", "init.backbone=alexnet-bn", "--set", "init.pack=none",
            "--set", "cluster.k=4", "--set", "cluster.pca=8", "--set", "train-epoch.batch=4", "--set", "extract.batch=8")
PLAIN_LOOP = "until ucl status --done; do ucl extract | ucl cluster | ucl train-epoch || exit; done"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pieces of scikit-learn's two photographs, each of another size, as JPEG files."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_images

    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, picture in zip(("china", "flower"), load_sample_images().images, strict=True):
        (folder / name).mkdir()
        for i in range(8):
            height, width = rng.integers(150, 400), rng.integers(150, 600)
            top, left = rng.integers(0, picture.shape[0] - height), rng.integers(0, picture.shape[1] - width)
            Image.fromarray(picture[top:top + height, left:left + width]).save(folder / name / f"{i}.jpg", quality=90)
    return folder


def begin(photos: Path, where: Path) -> Path:
    ucl("init", "deepcluster", str(photos), "-o", str(where), *SETTINGS, cwd=where.parent)
    return where


def last(run: Path) -> dict[str, object]:
    found = json.loads((run / "epochs/0002/metrics.json").read_text())
    return {k: v for k, v in found.items() if "second" not in k and k != "time"}


def test_two_epochs_by_run_by_shell_and_killed_inside_an_epoch(photos: Path, tmp_path: Path) -> None:
    straight = begin(photos, tmp_path / "straight")
    ucl("run", cwd=straight)
    wanted, facts = digests(straight), last(straight)
    assert sorted(wanted) == ["epochs/0002/labels.h5", "epochs/0002/model.h5"]

    shell = begin(photos, tmp_path / "shell")
    pipe(PLAIN_LOOP, shell)
    assert digests(shell) == wanted
    assert last(shell) == facts

    killed = begin(photos, tmp_path / "killed")
    ucl("run", "--limit", "1", cwd=killed)
    kept, said = killed / "work/train.partial", tmp_path / "said"
    with said.open("w") as stderr:
        process = subprocess.Popen([*UCL, "run", "--checkpoint-every", "0.01"], cwd=killed, env=ENV, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=stderr)
    deadline = time.monotonic() + 300
    while not kept.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    code = process.poll()
    process.kill()
    process.wait()
    assert code is None, f"the run ended, with {code}, before {kept.name} was seen: {said.read_text()}"
    assert kept.exists(), f"no {kept.name} in 300 s: {said.read_text()}"
    assert not (killed / "epochs/0002").exists()
    assert "batches done" in ucl("status", cwd=killed)
    ucl("run", cwd=killed)
    assert digests(killed) == wanted
    assert last(killed) == facts

"""Fixtures of the command tests: a runner of processes, and run directories that are made once and copied for each test."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from cli.harness import Runner, Server

CLASSES = ("ant", "bee", "cat")


@pytest.fixture(scope="session", autouse=True)
def heed_interrupts() -> None:
    """A shell starts background jobs with SIGINT ignored, which children inherit; the tests of signals want the default."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def ucl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """``ucl("status", cwd=...)`` runs that command in a process; see `cli.harness.Runner`."""
    server = Server.start(tmp_path_factory.mktemp("server"))
    yield Runner(server)
    server.stop()


@pytest.fixture(scope="session")
def photos_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three classes, eight small PNGs of one colour and some noise in each."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos") / "photos"
    rng = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for i in range(8):
            pixels = rng.integers(0, 60, (16, 16, 3))
            pixels[..., number] += 180
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


def _make(ucl: Runner, folder: Path, *args: object) -> Path:
    made = ucl("init", *args, "-o", folder, "--seed", 0, "--threads", 1)
    assert made.code == 0, made.err
    made = ucl("run", "-o", folder, "--limit", 1)
    assert made.code == 0, made.err
    return folder


@pytest.fixture(scope="session")
def digits_made(ucl: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in digits after one (short) epoch by run; not to be changed."""
    return _make(ucl, tmp_path_factory.mktemp("digits") / "run", "deepcluster", "digits", "--epochs", 3,
                 "--set", "train-epoch.epoch_length=0.1", "--set", "cluster.iterations=5")


@pytest.fixture(scope="session")
def small_made(ucl: Runner, photos_made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 photos after one epoch of three; not to be changed."""
    return _make(ucl, tmp_path_factory.mktemp("small") / "run", "deepcluster", photos_made, "--epochs", 3, "--set", "init.size=16",
                 "--set", "cluster.k=3", "--set", "cluster.pca=4", "--set", "train-epoch.batch=8")


def _copier(source: Path, place: Path) -> Path:
    shutil.copytree(source, place, symlinks=True)
    return place


@pytest.fixture
def photos(photos_made: Path, tmp_path: Path) -> Path:
    """A copy of the folder of photos."""
    return _copier(photos_made, tmp_path / "photos")


@pytest.fixture
def digits(digits_made: Path, tmp_path: Path) -> Path:
    """A copy of the digits run directory."""
    return _copier(digits_made, tmp_path / "digits")


@pytest.fixture
def small(small_made: Path, tmp_path: Path) -> Path:
    """A copy of the run directory of 24 photos."""
    return _copier(small_made, tmp_path / "small")


@pytest.fixture(scope="session")
def features(ucl: Runner, small_made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of the 24 photos, made outside the run directory; not to be changed."""
    path = tmp_path_factory.mktemp("features") / "features.h5"
    made = ucl("extract", small_made / "images.h5", "--model", small_made / "model.h5", "-o", path)
    assert made.code == 0, made.err
    return path


@pytest.fixture(scope="session")
def labels(ucl: Runner, features: Path) -> Path:
    """Labels of those features, k = 3; not to be changed."""
    path = features.with_name("labels.h5")
    made = ucl("cluster", features, "-k", 3, "--pca", 4, "-o", path)
    assert made.code == 0, made.err
    return path


@pytest.fixture
def write_photos(tmp_path: Path) -> Callable[[str], Path]:
    """Makes a folder with one good image called a.png in it."""
    from PIL import Image

    def make(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        Image.new("RGB", (16, 16), (200, 10, 10)).save(folder / "a.png")
        return folder

    return make

"""DeepCluster's named variants, walked by `run` and by the shell: clustering every n epochs, weights instead of balanced draws, features
from the training pass."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cli.harness import Runner
from test_parity import LOOP, digests, make, pipe, ucl

from ucl import read

N = 1797
SMALL = ("--set", "train-epoch.batch=256", "--set", "cluster.iterations=5")
VARIANTS = {
    "every-half-epoch": ("--set", "train-epoch.epoch_length=0.5"),
    "every-two-epochs": ("--set", "train-epoch.epoch_length=2"),
    "inverse": ("--set", "train-epoch.sampler=shuffle", "--set", "train-epoch.weights=inverse"),
    "inverse-sqrt": ("--set", "train-epoch.sampler=shuffle", "--set", "train-epoch.weights=inverse-sqrt"),
}
LENGTH = {"every-half-epoch": 0.5, "every-two-epochs": 2.0}


def facts(run: Path, generation: int) -> dict[str, float]:
    found: dict[str, float] = json.loads((run / "epochs" / f"{generation:04d}" / "metrics.json").read_text())
    return found


@pytest.fixture(scope="module")
def commands(ucl: Runner, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a ucl that starts at once."""
    return ucl.on_path(tmp_path_factory.mktemp("ucl"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plain method's run; not to be changed."""
    run = make(tmp_path_factory.mktemp("plain") / "run", *SMALL)
    ucl("run", cwd=run)
    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_run_and_shell_are_equal(plain: Path, commands: str, tmp_path: Path, name: str) -> None:
    """Equal digests; as many draws between two clusterings as asked for; and not what the plain method gives."""
    straight, shell = (make(tmp_path / leg, *SMALL, *VARIANTS[name]) for leg in ("straight", "shell"))
    ucl("run", cwd=straight)
    pipe(LOOP, shell, commands=commands)
    wanted = digests(straight)
    assert digests(shell) == wanted
    draws = int(LENGTH.get(name, 1.0) * N)
    assert [facts(straight, g)["steps"] for g in (1, 2)] == [-(-draws // 256)] * 2
    others = digests(plain)
    assert others["epochs/0001/labels.h5"] == wanted["epochs/0001/labels.h5"]         # the first clustering knows nothing of it yet
    assert others["epochs/0001/model.h5"] != wanted["epochs/0001/model.h5"]
    assert others["epochs/0002/labels.h5"] != wanted["epochs/0002/labels.h5"]


@pytest.mark.slow
def test_one_pass_an_epoch(commands: str, tmp_path: Path) -> None:
    """The features of the second epoch are those of the first one's training, in the loop and in `run`; epochs still learn."""
    straight, disk, shell = (make(tmp_path / leg, *SMALL, method="onepass", epochs=3) for leg in ("straight", "disk", "shell"))
    ucl("run", cwd=straight)
    ucl("run", "--through-disk", cwd=disk)
    pipe(LOOP, shell, commands=commands)
    wanted = digests(straight)
    assert digests(disk) == wanted
    assert digests(shell) == wanted
    first, second = (read(shell / f"features.{n}.h5", "ucl/features") for n in (1, 2))
    trained = read(shell / "epochs/0001/model.h5", "ucl/checkpoint")
    assert np.array_equal(second.features, trained.memory["features"])
    assert (first.layer, second.layer) == ("last", "last, in training")
    assert facts(straight, 3)["loss"] < facts(straight, 1)["loss"]

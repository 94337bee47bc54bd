"""ucl import: weights of outside as a checkpoint, and where --weights takes them."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cli.harness import Runner, tree
from ucl import models, read
from ucl.keys import Key


@pytest.fixture(scope="session")
def convnet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a convnet as somebody's training script keeps them; not to be changed."""
    path = tmp_path_factory.mktemp("weights") / "w.pth.tar"
    state = {f"module.{k}": v for k, v in models.build("convnet", Key(99)).state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state | {"module.projection.weight": torch.ones(8, 256)}, "optimizer": {"lr": 0.1}}, path)
    return path


def state_of(path: Path) -> dict[str, Any]:
    return {f"backbone.{k.removeprefix('module.')}": v.numpy() for k, v in torch.load(path, weights_only=True)["state_dict"].items()
            if "projection" not in k}


def test_what_is_said_and_written(ucl: Runner, convnet_file: Path, tmp_path: Path) -> None:
    result = ucl("import", convnet_file, "--backbone", "convnet", "--head", "drop", "--size", 24, "-o", "m.h5", cwd=tmp_path, stdout="pipe")
    assert (result.code, result.out) == (0, b"")
    assert result.lines == [f"ucl import: {convnet_file}: plain layout, prefix module. taken off; not weights, left out: epoch, optimizer; "
                            "left out: 1 tensors (module.projection.weight)", "ucl import: convnet, 36 tensors, no head in m.h5"]
    made = read(tmp_path / "m.h5", "ucl/checkpoint")
    wanted = state_of(convnet_file)
    assert set(made.model) == set(wanted)
    assert all(np.array_equal(made.model[k], wanted[k]) for k in wanted)
    assert (made.config["backbone"], made.config["size"]) == ("convnet", 24)
    assert made.config["mean"] == [0.4914, 0.4822, 0.4465]
    step = json.loads(made.provenance[-1])
    assert step["settings"]["weights"] == "w.pth.tar"
    assert len(step["settings"]["weights-sha256"]) == 64


def test_pipes(ucl: Runner, small: Path, tmp_path: Path) -> None:
    """Out and in again through a file and a pipe: the same weights."""
    assert ucl("export", small / "model.h5", "-o", "w.pt", "-q", cwd=tmp_path).err == ""
    made = ucl("import", "-", "--backbone", "convnet", "--size", 16, "-q", cwd=tmp_path, stdin=(tmp_path / "w.pt").read_bytes(), stdout="pipe")
    assert made.code == 0, made.err
    (tmp_path / "m.h5").write_bytes(made.out)
    again, first = read(tmp_path / "m.h5"), read(small / "model.h5")
    assert again.weights_digest() == first.weights_digest()
    assert again.config == first.config
    assert ucl("import", "w.pt", "--backbone", "convnet", "--size", 16, "-o", "n.h5", "-q", cwd=tmp_path).code == 0
    assert read(tmp_path / "n.h5").digest == again.digest
    x = ucl("extract", small / "images.h5", "--model", "m.h5", "-o", "a.h5", cwd=tmp_path)
    assert x.code == 0, x.err
    assert ucl("extract", small / "images.h5", "--model", small / "model.h5", "-o", "b.h5", cwd=tmp_path).code == 0
    assert (read(tmp_path / "a.h5").features == read(tmp_path / "b.h5").features).all()


def test_refused(ucl: Runner, convnet_file: Path, small: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "made"),)

    torch.save({"state_dict": {"a": torch.ones(1)}, "x": Evil()}, tmp_path / "evil.pt")
    before = tree(tmp_path)
    net = ["--backbone", "convnet", "-o", "m.h5"]
    for code, words, said, cure in ((65, [convnet_file, *net], "beside convnet it holds 1 more tensors (module.projection.weight)", "--head drop"),
                                    (65, ["evil.pt", *net], "holds Python code (posix.mkdir)", "trusts it"),
                                    (65, [small / "model.h5", *net], "is HDF5", "--model"), (66, ["no.pt", *net], "no.pt: no such file", ""),
                                    (2, [convnet_file, "--backbone", "convnot", "-o", "m.h5"], "convnot", "convnet"),
                                    (2, [convnet_file, *net, "--layout", "caffe"], "wanted one of auto", ""),
                                    (2, [convnet_file, *net, "--layout", "timm"], "has no twin", "--layout ucl"),
                                    (65, [convnet_file, "--backbone", "resnet18-32", "-o", "m.h5"], "does not fit resnet18-32", "doctor"),
                                    (73, [convnet_file, "--backbone", "convnet", "--head", "drop", "-o", "evil.pt"], "exists", "force")):
        result = ucl("import", *words, cwd=tmp_path, stdout="pipe")
        assert (result.code, result.out) == (code, b""), (words, result.err)
        error = next(line for line in result.lines if "error: " in line)
        assert said in error, result.err
        assert cure in result.err
        assert tree(tmp_path) == before


# -- --weights -------------------------------------------------------------------------------------------------------------------


def test_init_starts_from_weights(ucl: Runner, photos: Path, convnet_file: Path, tmp_path: Path) -> None:
    """Generation 0 holds them, ucl.toml names them; nothing of the run depends on where or in what format they were."""
    options = ["--size", 16, "--seed", 0, "-j", 1, "--set", "cluster.k=3", "--set", "cluster.pca=4", "--set", "train-epoch.batch=8", "--epochs", 2]
    (tmp_path / "w.pt").write_bytes(convnet_file.read_bytes())
    made = ucl("init", "deepcluster", photos, "-o", "a", "--weights", "w.pt", *options, cwd=tmp_path)
    assert made.code == 0, made.err
    assert "left out: 1 tensors (module.projection.weight)" in made.lines[0]
    wanted = state_of(convnet_file)
    first = read(tmp_path / "a/epochs/0000/model.h5")
    assert set(first.model) == set(wanted)
    assert all(np.array_equal(first.model[k], wanted[k]) for k in wanted)
    assert first.config["weights"] == f"sha256:{first.weights_digest()}"
    assert f'weights = "{tmp_path}/w.pt"' in (tmp_path / "a/ucl.toml").read_text()
    step = json.loads(first.provenance[-1])["settings"]
    assert step["weights"] == "w.pt"
    assert len(step["weights-sha256"]) == 64
    assert ucl("import", "w.pt", "--backbone", "convnet", "--head", "drop", "-o", "m.h5", cwd=tmp_path).code == 0
    assert ucl("export", "m.h5", "-o", "w.safetensors", cwd=tmp_path).code == 0
    (tmp_path / "w.pt").unlink()                                        # nothing reads it again
    assert ucl("init", "deepcluster", photos, "-o", "b", "--set", "init.weights=w.safetensors", *options, cwd=tmp_path).code == 0
    assert ucl("init", "deepcluster", photos, "-o", "c", *options, cwd=tmp_path).code == 0
    digests = [line.split()[0] for line in ucl("digest", *(f"{n}/model.h5" for n in "abc"), cwd=tmp_path, stdout="pipe").text.splitlines()]
    assert digests[0] == digests[1] != digests[2]
    # run = shell, from weights
    assert ucl("run", "-o", "a", "-q", cwd=tmp_path).code == 0
    for _ in range(2):
        assert [r.code for r in ucl.pipe(["extract"], ["cluster"], ["train-epoch"], cwd=tmp_path / "b")] == [0, 0, 0]
    last = [read(tmp_path / f"{n}/epochs/0002/model.h5") for n in "ab"]
    assert last[0].digest == last[1].digest
    assert last[0].config["weights"] == first.config["weights"]
    again = ucl("run", "deepcluster", photos, "-o", "a", "--weights", "w.pt", *options, cwd=tmp_path)
    assert again.code == 76, again.err                                  # the same line goes on, also without the file
    again = ucl("run", "deepcluster", photos, "-o", "a", "--weights", "other.pt", *options, cwd=tmp_path)
    assert again.code == 2
    assert "init.weights: the run has" in again.err


def test_init_says_sobel(ucl: Runner, photos: Path, tmp_path: Path) -> None:
    """The plan's views depend on the filter, so it is asked for; extract takes what the file has."""
    assert ucl("init", "deepcluster", photos, "-o", "a", "--sobel", "--size", 16, cwd=tmp_path).code == 0
    assert ucl("export", "a/model.h5", "-o", "w.pt", cwd=tmp_path).code == 0
    result = ucl("init", "deepcluster", photos, "-o", "b", "--weights", "w.pt", "--size", 16, cwd=tmp_path)
    assert result.code == 65
    assert "Sobel filter in front, init.sobel is off" in result.lines[0]
    assert result.lines[1] == "  try: --sobel, or --fold-sobel for a network that takes colours"
    assert not (tmp_path / "b").exists()
    assert ucl("init", "deepcluster", photos, "-o", "b", "--weights", "w.pt", "--size", 16, "--sobel", cwd=tmp_path).code == 0
    assert read(tmp_path / "b/model.h5").weights_digest() == read(tmp_path / "a/model.h5").weights_digest()
    for name, words in (("x.h5", ["--model", "a/model.h5"]), ("y.h5", ["--backbone", "convnet", "--weights", "w.pt", "--size", 16])):
        made = ucl("extract", photos, *words, "-o", name, cwd=tmp_path)
        assert made.code == 0, made.err
    assert (read(tmp_path / "x.h5").features == read(tmp_path / "y.h5").features).all()


def test_init_refuses_before_it_reads_images(ucl: Runner, photos: Path, convnet_file: Path, tmp_path: Path) -> None:
    (photos / "bee/2.png").write_text("broken")
    before = tree(tmp_path)
    for code, weights, backbone, said in ((65, convnet_file, "resnet18-32", "does not fit resnet18-32"), (66, "no.pt", "convnet", "no such file"),
                                          (66, "DEFAULT", "convnet", "no such file, and torchvision has no weights of that name")):
        result = ucl("init", "deepcluster", photos, "-o", "new", "--weights", weights, "--backbone", backbone, cwd=tmp_path)
        assert result.code == code, result.err
        assert said in result.lines[0]
        assert tree(tmp_path) == before


def test_extract_with_weights(ucl: Runner, photos: Path, convnet_file: Path, tmp_path: Path) -> None:
    """The features of an imported checkpoint, in one step."""
    assert ucl("import", convnet_file, "--backbone", "convnet", "--head", "drop", "--size", 16, "-o", "m.h5", cwd=tmp_path).code == 0
    assert ucl("extract", photos, "--model", "m.h5", "-o", "a.h5", cwd=tmp_path).code == 0
    made = ucl("extract", photos, "--backbone", "convnet", "--weights", convnet_file, "--size", 16, "-o", "b.h5", cwd=tmp_path)
    assert made.code == 0, made.err
    a, b = read(tmp_path / "a.h5"), read(tmp_path / "b.h5")
    assert (a.features == b.features).all()
    assert a.weights == b.weights
    assert ucl("extract", photos, "--weights", convnet_file, "--model", "m.h5", "-o", "c.h5", cwd=tmp_path).lines[0] \
        == "ucl extract: error: --weights: found no --backbone"

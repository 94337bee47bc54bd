"""ucl init --from: a run that starts from another's network, also one behind the Sobel filter, which is folded in."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cli.harness import Runner, tree
from ucl import read

SMALL = ["--size", 16, "--seed", 0, "-j", 1, "--epochs", 2]
CLUSTERS = ["--set", "cluster.k=3", "--set", "cluster.pca=4", "--set", "train-epoch.batch=8"]


@pytest.fixture(scope="session")
def sobel_made(ucl: Runner, photos_made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 photos after one epoch of DeepCluster behind the filter; not to be changed."""
    path = tmp_path_factory.mktemp("sobel") / "run"
    for words in (["init", "deepcluster", photos_made, "-o", path, "--sobel", *SMALL, *CLUSTERS], ["run", "-o", path, "--limit", 1, "-q"]):
        made = ucl(*words)
        assert made.code == 0, made.err
    return path


def init(ucl: Runner, where: Path, photos: Path, *words: object, method: str = "deepcluster") -> list[str]:
    """`ucl init` into ``run``; what it said."""
    made = ucl("init", method, photos, "-o", "run", *words, *SMALL, cwd=where)
    assert made.code == 0, made.err
    return made.lines


# another run's checkpoint

def test_a_checkpoint_of_another_run(ucl: Runner, small: Path, photos: Path, tmp_path: Path) -> None:
    """The backbone alone is taken, with its normalisation, and one line says what was left behind; --from is --weights."""
    given = ucl("init", "deepcluster", photos, "-o", "first", "--mean", "0.1,0.2,0.3", *SMALL, *CLUSTERS, cwd=tmp_path)
    assert given.code == 0, given.err
    assert ucl("run", "-o", "first", "--limit", 1, "-q", cwd=tmp_path).code == 0
    lines = init(ucl, tmp_path, photos, "--from", "first/model.h5", *CLUSTERS)
    assert lines[0] == (f"ucl init: {tmp_path}/first/model.h5: the backbone of convnet after 1 epochs of deepcluster; left behind: head, "
                        "optimizer state")
    before, made = read(tmp_path / "first/model.h5"), read(tmp_path / "run/model.h5")
    assert {k: v.tobytes() for k, v in made.model.items()} == {k: v.tobytes() for k, v in before.model.items() if k.startswith("backbone.")}
    assert (made.optimizer, made.memory, made.progress["epoch"]) == ({}, {}, 0)
    assert made.config["mean"] == [0.1, 0.2, 0.3]
    assert "k" not in made.config
    steps = [json.loads(step)["verb"] for step in made.provenance]
    assert steps == [*[json.loads(step)["verb"] for step in before.provenance], "init"]
    toml = (tmp_path / "run/ucl.toml").read_text()
    assert f'weights = "{tmp_path}/first/model.h5"' in toml
    again = ucl("init", "deepcluster", photos, "-o", "again", "--weights", "first/epochs/0001/model.h5", *SMALL, *CLUSTERS, cwd=tmp_path)
    assert again.code == 0, again.err
    assert read(tmp_path / "again/model.h5").weights_digest() == made.weights_digest()
    (tmp_path / "first").rename(tmp_path / "gone")
    assert ucl("run", "-o", "run", "-q", cwd=tmp_path).code == 0        # nothing reads it again


def test_what_stands_on_top_is_left_behind(ucl: Runner, photos: Path, tmp_path: Path) -> None:
    """IR's projection and memory; ODC draws a neck of its own, and its plan is the shorter one of fine-tuning."""
    first = ucl("init", "ir", photos, "-o", "first", *SMALL, "--set", "train-epoch.batch=8", cwd=tmp_path)
    assert first.code == 0, first.err
    assert ucl("run", "-o", "first", "--limit", 1, "-q", cwd=tmp_path).code == 0
    lines = init(ucl, tmp_path, photos, "--from", "first/model.h5", "--set", "cluster.k=3", "--set", "odc.least=2", method="odc")
    assert "left behind: projection, memory of bank, optimizer state" in lines[0]
    made = read(tmp_path / "run/model.h5")
    assert {k.partition(".")[0] for k in made.model} == {"backbone", "neck"}


def test_another_size_is_said(ucl: Runner, small: Path, photos: Path, tmp_path: Path) -> None:
    made = ucl("init", "deepcluster", photos, "-o", "run", "--from", small / "model.h5", "--mean", "0.5,0.5,0.5", *CLUSTERS, cwd=tmp_path)
    assert made.code == 0, made.err
    assert "its views were of 16 px, here they are of 32: --size" in made.lines[0]
    assert read(tmp_path / "run/model.h5").config["mean"] == [0.5, 0.5, 0.5]


def test_refused(ucl: Runner, small: Path, sobel_made: Path, photos: Path, tmp_path: Path) -> None:
    """Before any image is read; nothing is left."""
    (photos / "bee/2.png").write_text("broken")
    (tmp_path / "cut.h5").write_bytes((small / "model.h5").read_bytes()[:30000])
    before = tree(tmp_path)
    behind = ["--from", sobel_made / "model.h5"]
    for code, words, said, cure in (
            (65, ["--from", small / "images.h5"], "ucl/images", ""), (65, ["--from", "cut.h5"], "cut.h5", ""),
            (65, ["--from", small / "model.h5", "--backbone", "resnet18-32"], "exported from convnet, wanted resnet18-32", "--backbone convnet"),
            (65, ["--from", small], "is a folder", f"{small}/model.h5"), (66, ["--from", "no.h5"], "no.h5: no such file", ""),
            (65, behind, "Sobel filter in front, init.sobel is off", "--sobel, or --fold-sobel"),
            (2, [*behind, "--sobel", "--fold-sobel"], "give one of them", "--fold-sobel makes"),
            (2, ["--fold-sobel"], "found no --weights", "--weights FILE"),
            (65, ["--from", small / "model.h5", "--fold-sobel"], "there is nothing to fold", "leave --fold-sobel out")):
        result = ucl("init", "deepcluster", photos, "-o", "run", *words, *SMALL, cwd=tmp_path)
        assert result.code == code, (words, result.err)
        assert result.lines[0].startswith("ucl init: error: ")
        assert said in result.lines[0]
        assert cure in result.err
        assert tree(tmp_path) == before


# a folded filter

def test_folded(ucl: Runner, sobel_made: Path, photos: Path, tmp_path: Path) -> None:
    """It takes colours, trains its wider kernel by run as by the shell, and its features are those behind the filter but at the border."""
    lines = init(ucl, tmp_path, photos, "--from", sobel_made / "model.h5", "--fold-sobel", *CLUSTERS)
    assert lines[0].endswith("left behind: head, optimizer state; the Sobel filter is folded into the first convolution")
    first, behind = read(tmp_path / "run/model.h5"), read(sobel_made / "model.h5")
    assert (first.config["sobel"], first.config["fold_sobel"]) == (False, True)
    assert first.model["backbone.trunk.0.weight"].shape == (64, 3, 5, 5)
    assert all(np.array_equal(first.model[k], v) for k, v in behind.model.items() if k.startswith("backbone.") and "sobel" not in k
               and k != "backbone.trunk.0.weight")
    (tmp_path / "run").rename(tmp_path / "a")
    init(ucl, tmp_path, photos, "--from", sobel_made / "model.h5", "--fold-sobel", *CLUSTERS)
    assert ucl("run", "-o", "a", "-q", cwd=tmp_path).code == 0
    for _ in range(2):
        assert [r.code for r in ucl.pipe(["extract"], ["cluster"], ["train-epoch"], cwd=tmp_path / "run")] == [0, 0, 0]
    last = [read(tmp_path / f"{name}/epochs/0002/model.h5") for name in ("a", "run")]
    assert last[0].digest == last[1].digest
    kernel = last[0].model["backbone.trunk.0.weight"]
    assert kernel.shape == (64, 3, 5, 5)
    assert not np.allclose(kernel[:, 0], kernel[:, 1])                  # as it was when it was folded
    assert last[0].config["fold_sobel"]


@pytest.mark.slow
def test_out_and_in_again(ucl: Runner, sobel_made: Path, small: Path, tmp_path: Path) -> None:
    """import --fold-sobel, extract, export as .pt, .safetensors and .onnx, and back: the same features everywhere."""
    assert ucl("export", sobel_made / "model.h5", "-o", "behind.pt", "--no-head", cwd=tmp_path).code == 0
    made = ucl("import", "behind.pt", "--backbone", "convnet", "--size", 16, "--fold-sobel", "-o", "m.h5", cwd=tmp_path)
    assert made.code == 0, made.err
    assert "folded into the first convolution" in made.lines[0]
    images = small / "images.h5"
    assert ucl("extract", images, "--model", "m.h5", "-o", "m.features.h5", cwd=tmp_path).code == 0
    wanted = read(tmp_path / "m.features.h5").features
    for name in ("w.pt", "w.safetensors"):
        assert ucl("export", "m.h5", "-o", name, cwd=tmp_path).code == 0
        taken = ucl("extract", images, "--backbone", "convnet", "--weights", name, "--size", 16, "-o", f"{name}.h5", cwd=tmp_path)
        assert taken.code == 0, taken.err
        assert np.array_equal(read(tmp_path / f"{name}.h5").features, wanted)
        back = ucl("import", name, "--backbone", "convnet", "--size", 16, "-o", f"{name}.model.h5", cwd=tmp_path)
        assert back.code == 0, back.err
        assert read(tmp_path / f"{name}.model.h5").config == read(tmp_path / "m.h5").config
    refused = ucl("extract", images, "--backbone", "convnet", "--weights", "w.pt", "--sobel", "-o", "x.h5", cwd=tmp_path)
    assert refused.code == 65
    assert "would filter twice" in refused.lines[0]
    onnxruntime = pytest.importorskip("onnxruntime")
    assert ucl("export", "m.h5", "-o", "w.onnx", cwd=tmp_path).code == 0
    from ucl import models
    x = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = onnxruntime.InferenceSession(tmp_path / "w.onnx").run(["features"], {"images": x.numpy()})[0]
    with torch.no_grad():
        np.testing.assert_allclose(found, models.restore(read(tmp_path / "m.h5")).eval()(x).numpy(), atol=1e-5)

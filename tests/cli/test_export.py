"""ucl export: weights for other programs."""

from pathlib import Path

import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

import ucl as ucl_package
from cli.harness import Runner, tree
from ucl import read


def test_each_format(ucl: Runner, small: Path, tmp_path: Path) -> None:
    result = ucl("export", small / "model.h5", "-o", "w.pth", cwd=tmp_path, stdout="pipe")
    assert (result.code, result.out, result.err) == (0, b"", "ucl export: convnet, 38 tensors in the ucl layout, in w.pth\n")
    assert ucl("export", "-o", tmp_path / "w.safetensors", "--no-head", cwd=small).code == 0       # the newest of the run directory
    model = read(small / "model.h5")
    plain, tensors = torch.load(tmp_path / "w.pth", weights_only=True), load_file(tmp_path / "w.safetensors")
    assert set(plain) == set(model.model)
    assert set(tensors) == {k for k in model.model if k.startswith("backbone.")}
    assert all(torch.equal(plain[k], torch.from_numpy(model.model[k].copy())) for k in model.model)
    assert all(torch.equal(plain[k], tensors[k]) for k in tensors)
    piped = ucl("export", "-", "-o", "p.pth", cwd=tmp_path, stdin=(small / "model.h5").read_bytes())
    assert piped.code == 0
    assert (tmp_path / "p.pth").read_bytes() == (tmp_path / "w.pth").read_bytes()


def test_onnx(ucl: Runner, small: Path, tmp_path: Path) -> None:
    result = ucl("export", small / "model.h5", "-o", "w.onnx", cwd=tmp_path, stdout="pipe")
    assert (result.code, result.out) == (0, b"")
    assert result.err == "ucl export: convnet, ONNX, in w.onnx\n"
    session = onnxruntime.InferenceSession(tmp_path / "w.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape[1:] == [3, 16, 16]


def test_refused(ucl: Runner, small: Path, labels: Path, tmp_path: Path) -> None:
    model = small / "model.h5"
    (tmp_path / "there.pt").write_text("mine")
    before = tree(tmp_path)
    for code, words, said, cure in ((2, [model, "-o", "w.bin"], "found .bin, wanted one of .pt, .pth, .safetensors, .onnx", ""),
                                    (2, [model, "-o", "-"], "found none", ""), (2, [model, "-o", "w.pt", "--layout", "caffe"], "'caffe'", ""),
                                    (2, [model, "-o", "w.onnx", "--layout", "timm"], "no key layout", ".safetensors"),
                                    (2, [model, "-o", "w.pt", "--layout", "torchvision"], "convnet has no twin", "--layout ucl"),
                                    (2, [model, "-o", "w.pt", "--layout", "deepcluster"], "no twin", "alexnet-bn, vgg16-bn"),
                                    (2, ["-o", "w.pt"], "no run directory and no MODEL", "ucl export model.h5"),
                                    (65, [labels, "-o", "w.pt"], "is ucl/labels, expected ucl/checkpoint", ""),
                                    (65, [small / "epochs/0000/model.h5", "-o", "w.pt", "--head"], "head.weight: missing", "--no-head"),
                                    (66, ["no.h5", "-o", "w.pt"], "no.h5: no such file", ""), (73, [model, "-o", "there.pt"], "exists", "--force")):
        result = ucl("export", *words, cwd=tmp_path, stdout="pipe")
        assert (result.code, result.out) == (code, b""), (words, result.err)
        assert result.lines[0].startswith("ucl export: error: ")
        assert said in result.lines[0]
        assert cure in result.err
        assert tree(tmp_path) == before


@pytest.mark.parametrize(("package", "ending", "extra"), [("safetensors", ".safetensors", "safetensors"), ("onnxscript", ".onnx", "onnx")])
def test_a_missing_package(package: str, ending: str, extra: str, ucl: Runner, small: Path, tmp_path: Path) -> None:
    """As where only ucl itself is installed: a package of that name which cannot be imported stands before it on the path."""
    (tmp_path / "path").mkdir()
    (tmp_path / f"path/{package}.py").write_text("raise ImportError('not here')\n")
    result = ucl("export", small / "model.h5", "-o", f"w{ending}", cwd=tmp_path, real=True,
                 env={"PYTHONPATH": f"{tmp_path / 'path'}:{Path(ucl_package.__file__).parents[1]}"})
    assert result.code == 69, result.err
    assert result.lines == [f"ucl export: error: -o w{ending} needs the package {package}, which is not installed",
                            f"  try: pip install 'ucl[{extra}]'"]

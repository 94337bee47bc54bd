"""Weights out: what torchvision, timm, PyTorch, safetensors and onnxruntime make of them; and in again."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
import torchvision
from safetensors.torch import load as load_safetensors
from torch import nn

from ucl import export, models, pretrained, weights
from ucl.artifacts import Checkpoint
from ucl.errors import DataError, UsageError
from ucl.keys import Key

K = 7


def checkpoint(backbone: str, size: int = 32, k: int = K) -> Checkpoint:
    """A backbone whose batch norms have seen something, and a head."""
    net = models.build(backbone, Key(3))
    drawn = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1, generator=drawn)
            module.running_var.uniform_(0.5, 2, generator=drawn)
            module.num_batches_tracked += 11
    tensors = {f"backbone.{key}": v for key, v in models.to_arrays(net).items()}
    if k:
        head = models.new_head(net.feature_dim, k, Key(1))
        nn.init.uniform_(head.bias, generator=drawn)
        tensors |= {f"head.{key}": v for key, v in models.to_arrays(head).items()}
    config: dict[str, Any] = {"backbone": backbone, "size": size, "mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.3]}
    return Checkpoint(tensors, config=config | ({"k": k} if k else {}), progress={"epoch": 4})


def logits(model: Checkpoint, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(features, logits) as train-epoch computes them, in evaluation mode."""
    net = models.restore(model).eval()
    head = nn.Linear(net.feature_dim, K)
    models.from_arrays(head, models.part(model, "head."))
    with torch.no_grad():
        features = net.features(x, True)
        return features, head(features)


def views(n: int, size: int) -> torch.Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(n))


def written(model: Checkpoint, kind: str, layout: str = "auto", head: bool | None = None) -> bytes:
    made = export.state_dict(model, pretrained.names_of(str(model.config["backbone"])), layout, head)
    sink = io.BytesIO()
    (export.write_torch if kind == "pt" else export.write_safetensors)(made, model, sink)
    return sink.getvalue()


def loaded(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=True)


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
@pytest.mark.parametrize("backbone", ["convnet", "resnet18"])
def test_out_and_in_again(backbone: str, kind: str, tmp_path: Path) -> None:
    """Bit by bit, with and without the head."""
    for k in (K, 0):
        model = checkpoint(backbone, k=k)
        (tmp_path / "w").write_bytes(written(model, kind))
        found = weights.read(tmp_path / "w", "w")
        again, _ = pretrained.checkpoint(backbone, found, 32, (0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
        assert again.weights_digest() == model.weights_digest()
        assert again.config == model.config
        assert list(again.model) == list(model.model)
        assert pretrained.known(found, backbone) == ({k: v for k, v in model.config.items() if k in ("size", "mean", "std")} if kind != "pt" else {})


def test_the_same_bytes_each_time() -> None:
    model = checkpoint("convnet")
    assert written(model, "pt") == written(model, "pt")
    assert written(model, "safetensors") == written(model, "safetensors")
    assert set(load_safetensors(written(model, "safetensors"))) == set(loaded(written(model, "pt"))) == set(model.model)


def test_a_file_of_another_backbone(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(written(checkpoint("convnet"), "safetensors"))
    with pytest.raises(DataError, match="exported from convnet, wanted resnet18"):
        pretrained.start("resnet18", str(tmp_path / "w"), print)


def test_the_head_as_asked() -> None:
    model, bare = checkpoint("resnet18"), checkpoint("resnet18", k=0)
    assert "fc.weight" in loaded(written(model, "pt"))
    assert "fc.weight" not in loaded(written(model, "pt", head=False))
    assert "fc.weight" not in loaded(written(bare, "pt"))
    with pytest.raises(DataError, match=r"head\.weight: missing"):
        written(bare, "pt", head=True)
    with pytest.raises(UsageError, match="convnet has no twin"):
        written(checkpoint("convnet"), "pt", layout="timm")


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_the_small_stem(library: str) -> None:
    """Their ResNet-18 takes the tensors strictly, once its stem is the small one, and computes the same."""
    model = checkpoint("resnet18")
    theirs = torchvision.models.resnet18(num_classes=K) if library == "torchvision" else timm.create_model("resnet18", num_classes=K)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    theirs.load_state_dict(loaded(written(model, "pt", library)), strict=True)
    x = views(3, 32)
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(x), logits(model, x)[1], rtol=0, atol=1e-6)


def test_onnx() -> None:
    """onnxruntime computes the same, for batches of any size; the warnings of torch's exporter are errors here."""
    model = checkpoint("convnet", size=24)
    sink = io.BytesIO()
    export.write_onnx(model, None, sink)
    onnx.checker.check_model(onnx.load_from_string(sink.getvalue()))
    session = onnxruntime.InferenceSession(sink.getvalue(), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["images"]
    assert [o.name for o in session.get_outputs()] == ["features", "logits"]
    for n in (1, 5):
        x = views(n, 24)
        for found, wanted in zip(session.run(None, {"images": x.numpy()}), logits(model, x), strict=True):
            np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=1e-4)
    assert session.get_modelmeta().custom_metadata_map["ucl.size"] == "24"


@pytest.mark.slow
def test_onnx_without_a_head() -> None:
    model = checkpoint("resnet18", k=0)
    sink = io.BytesIO()
    export.write_onnx(model, False, sink)
    session = onnxruntime.InferenceSession(sink.getvalue(), providers=["CPUExecutionProvider"])
    assert [o.name for o in session.get_outputs()] == ["features"]
    x = views(3, 32)
    with torch.no_grad():
        wanted = models.restore(model).eval().features(x, True)
    np.testing.assert_allclose(session.run(None, {"images": x.numpy()})[0], wanted.numpy(), rtol=0, atol=1e-4)

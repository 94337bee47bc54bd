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
from ucl.layouts import TIMM, Names, encode
from ucl.networks.table import default_size

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
    config: dict[str, Any] = {"backbone": backbone, "sobel": False, "size": size, "mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.3]}
    return Checkpoint(tensors, config=config | ({"k": k} if k else {}), progress={"epoch": 4})


def logits(model: Checkpoint, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(features, logits) as train-epoch computes them, in evaluation mode."""
    net = models.restore(model).eval()
    head = nn.Linear(net.feature_dim, K)
    models.from_arrays(head, models.part(model, "head."))
    with torch.no_grad():
        features = net(x)
        return features, head(features)


def views(n: int, size: int) -> torch.Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(n))


def written(model: Checkpoint, kind: str, layout: str = "auto", head: bool | None = None) -> bytes:
    made = export.state_dict(model, pretrained.names_of(model), layout, head)
    sink = io.BytesIO()
    (export.write_torch if kind == "pt" else export.write_safetensors)(made, model, sink)
    return sink.getvalue()


def loaded(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=True)


@pytest.mark.parametrize(("backbone", "kind"), [("convnet", "pt"), ("convnet", "safetensors"), ("resnet18-32", "pt"),
                                                pytest.param("resnet18-32", "safetensors", marks=pytest.mark.slow)])
def test_out_and_in_again(backbone: str, kind: str, tmp_path: Path) -> None:
    """Bit by bit, with and without the head."""
    for k in (K, 0):
        model = checkpoint(backbone, k=k)
        (tmp_path / "w").write_bytes(written(model, kind))
        found = weights.read(tmp_path / "w", "w")
        again, _ = pretrained.checkpoint(backbone, found, {}, 32, (0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
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
    with pytest.raises(DataError, match="exported from convnet, wanted resnet50"):
        pretrained.start("resnet50", str(tmp_path / "w"), print)


def test_the_head_as_asked() -> None:
    model = checkpoint("resnet18-32")
    bare = Checkpoint({k: v for k, v in model.model.items() if k.startswith("backbone.")}, config=model.config)
    assert "fc.weight" in loaded(written(model, "pt"))
    assert "fc.weight" not in loaded(written(model, "pt", head=False))
    assert "fc.weight" not in loaded(written(bare, "pt"))
    with pytest.raises(DataError, match=r"head\.weight: missing"):
        written(bare, "pt", head=True)
    with pytest.raises(UsageError, match="convnet has no twin"):
        written(checkpoint("convnet"), "pt", layout="timm")


def theirs(library: str, name: str, **options: Any) -> nn.Module:
    if library == "timm":
        return timm.create_model(name, num_classes=K, **options)
    return torchvision.models.get_model(name, num_classes=K, **options)


def same(network: nn.Module, model: Checkpoint, library: str, size: int) -> None:
    """Their network takes the tensors strictly and computes the same logits (in the memory format that ours has)."""
    network.load_state_dict(loaded(written(model, "pt", library)), strict=True)
    x, wanted = views(3, size), logits(model, views(3, size))[1]
    with torch.no_grad():
        found = network.eval().to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6 * max(1.0, float(wanted.abs().max())))


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_resnet18(library: str) -> None:
    same(theirs(library, "resnet18"), checkpoint("resnet18", 64), library, 64)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size", "pool"), [("resnet18-32", 32, nn.Identity()), ("resnet18-96", 96, nn.MaxPool2d(2, 2, 1))])
@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_the_small_stems(library: str, name: str, size: int, pool: nn.Module) -> None:
    """Their ResNet-18 takes the tensors once its stem is the small one."""
    network = theirs(library, "resnet18")
    network.conv1, network.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), pool
    same(network, checkpoint(name, size), library, size)


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "library", "name"), [
    ("resnet50", "torchvision", "resnet50"), ("resnet50", "timm", "resnet50"), ("vgg16-bn", "torchvision", "vgg16_bn"),
    ("vgg16-bn", "timm", "vgg16_bn"), ("vgg11_bn", "timm", "vgg11_bn"), ("resnext50_32x4d", "timm", "resnext50_32x4d"),
    ("mobilenet_v2", "torchvision", "mobilenet_v2"), ("densenet121", "torchvision", "densenet121"), ("alexnet", "torchvision", "alexnet"),
    ("vit_b_32", "torchvision", "vit_b_32"), ("convnext_tiny", "torchvision", "convnext_tiny"), ("swin_t", "torchvision", "swin_t")])
def test_larger_ones(backbone: str, library: str, name: str) -> None:
    same(theirs(library, name), checkpoint(backbone, 224), library, 224)


def outside_shapes(backbone: str, layout: str, size: int = 224) -> dict[str, tuple[int, ...]]:
    """Key -> shape of a backbone with a head, in a layout; no number is written."""
    names, wanted, dim = pretrained.shapes(backbone, size, sobel=False)
    tensors = {f"backbone.{k}": shape for k, (shape, _) in wanted.items()} | {"head.weight": (K, dim), "head.bias": (K,)}
    return {k: v.shape for k, v in encode(names, layout, {k: np.broadcast_to(np.float32(0), s) for k, s in tensors.items()}).items()}


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {k: tuple(v.shape) for k, v in network.state_dict().items()}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in ("resnet50", "vgg16_bn") else pytest.mark.slow) for n in sorted(TIMM)])
def test_keys_and_shapes_of_timm(name: str) -> None:
    with torch.device("meta"):
        wanted = shapes_of(theirs("timm", name))
    assert outside_shapes(name, "timm") == wanted
    if name == "vgg16_bn":
        assert outside_shapes("vgg16-bn", "timm") == wanted


TORCHVISIONS = torchvision.models.list_models(module=torchvision.models)
FEW = ("resnet50", "vgg16_bn", "mobilenet_v3_small", "vit_b_32")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in FEW else pytest.mark.slow) for n in TORCHVISIONS if "squeezenet" not in n])
def test_keys_and_shapes_of_torchvision(name: str) -> None:
    options = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        wanted = shapes_of(theirs("torchvision", name, **options))
    found = outside_shapes(name, "torchvision", default_size(name))
    if name.startswith("maxvit"):
        del found["classifier.5.bias"]                                  # theirs has none, so the head is not written: below
    assert found == wanted


def test_squeezenets_classifier_is_no_head() -> None:
    model = checkpoint("squeezenet1_1", 64)
    with pytest.raises(UsageError, match="not linear with a bias"):
        written(model, "pt")
    assert not Names("maxvit_t", "classifier.5").takes_head("torchvision")
    network = theirs("torchvision", "squeezenet1_1")
    found = network.load_state_dict(loaded(written(model, "pt", head=False)), strict=False)
    assert (found.missing_keys, found.unexpected_keys) == (["classifier.1.weight", "classifier.1.bias"], [])


class Released(nn.Module):
    """AlexNet as the DeepCluster paper's code has it: Sobel filter, batch norm, no groups, no local normalisation."""

    def __init__(self, k: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 2
        for width, kernel, stride, padding, pool in ((96, 11, 4, 2, True), (256, 5, 1, 2, True), (384, 3, 1, 1, False), (384, 3, 1, 1, False),
                                                     (256, 3, 1, 1, True)):
            layers += [nn.Conv2d(before, width, kernel, stride, padding), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            layers += [nn.MaxPool2d(3, 2)] if pool else []
            before = width
        self.features = nn.DataParallel(nn.Sequential(*layers))
        self.classifier = nn.Sequential(nn.Dropout(0.5), nn.Linear(256 * 36, 4096), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(4096, 4096),
                                        nn.ReLU(inplace=True))
        self.top_layer = nn.Linear(4096, k)
        grey, derivative = nn.Conv2d(3, 1, 1), nn.Conv2d(1, 2, 3, padding=1)
        grey.weight.data.fill_(1 / 3)
        derivative.weight.data[0, 0] = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])
        derivative.weight.data[1, 0] = torch.tensor([[1.0, 2, 1], [0, 0, 0], [-1, -2, -1]])
        self.sobel = nn.Sequential(grey, derivative)
        for layer in self.sobel:
            layer.bias.data.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.classifier(self.features(self.sobel(x)).flatten(1))
        return out


def test_a_released_checkpoint_of_deepcluster(tmp_path: Path) -> None:
    """With the old counters missing, an optimizer beside it, and with or without its top layer; and out again as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Released(K).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1, generator=torch.Generator().manual_seed(1))
    state = {k: v for k, v in network.state_dict().items() if "num_batches_tracked" not in k}
    assert "features.module.0.weight" in state
    momentum = {"state": {1: {"momentum_buffer": torch.ones(3)}}, "param_groups": []}
    torch.save({"epoch": 12, "arch": "alexnet", "state_dict": state, "optimizer": momentum}, tmp_path / "w", _use_new_zipfile_serialization=False)
    found = weights.read(tmp_path / "w", "w")
    told = pretrained.known(found, "alexnet-bn")
    assert told == {"sobel": True}
    model, fitted = pretrained.checkpoint("alexnet-bn", found, told, 224, (0.5,) * 3, (0.5,) * 3, sobel=True)
    assert (fitted.layout, fitted.left_out) == ("deepcluster", [])
    assert "5 counters of batch norms were missing and are 0" in fitted.notes
    assert model.config["k"] == K
    x = views(2, 224)
    with torch.no_grad():
        wanted = network(x)
        features, out = logits(model, x)
        torch.testing.assert_close(features, wanted, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(out, network.top_layer(wanted), rtol=1e-5, atol=1e-6)
    again = loaded(written(model, "pt"))
    assert set(again) == {"epoch", "arch", "state_dict"}
    assert again["arch"] == "alexnet"
    network.load_state_dict(again["state_dict"], strict=True)
    assert all(torch.equal(again["state_dict"][k], v) for k, v in state.items())
    for key in ("top_layer.weight", "top_layer.bias"):
        del found.state[key]
    bare, _ = pretrained.checkpoint("alexnet-bn", found, told, 224, (0.5,) * 3, (0.5,) * 3, sobel=True)
    assert "k" not in bare.config
    with pytest.raises(DataError, match=r"does not fit alexnet-bn .*4 unexpected \(sobel\.0\..*96x2x11x11, wanted 96x3x11x11"):
        pretrained.checkpoint("alexnet-bn", found, told, 224, (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(UsageError, match="alexnet-bn with the Sobel front end has no twin"):
        written(model, "pt", "torchvision")


@pytest.mark.parametrize("backbone", ["convnet", *(pytest.param(b, marks=pytest.mark.slow) for b in ("resnet18", "alexnet-32", "mobilenet_v2"))])
def test_onnx(backbone: str) -> None:
    """onnxruntime computes the same, for batches of any size; the warnings of torch's exporter are errors here."""
    model = checkpoint(backbone, size=24 if backbone == "convnet" else 32)
    sink = io.BytesIO()
    export.write_onnx(model, None, sink)
    onnx.checker.check_model(onnx.load_from_string(sink.getvalue()))
    session = onnxruntime.InferenceSession(sink.getvalue(), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["images"]
    assert [o.name for o in session.get_outputs()] == ["features", "logits"]
    for n in (1, 5):
        x = views(n, model.config["size"])
        for found, wanted in zip(session.run(None, {"images": x.numpy()}), logits(model, x), strict=True):
            np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=1e-4)
    assert session.get_modelmeta().custom_metadata_map["ucl.size"] == str(model.config["size"])


@pytest.mark.slow
def test_onnx_without_a_head() -> None:
    model = checkpoint("resnet18-32", k=0)
    sink = io.BytesIO()
    export.write_onnx(model, False, sink)
    session = onnxruntime.InferenceSession(sink.getvalue(), providers=["CPUExecutionProvider"])
    assert [o.name for o in session.get_outputs()] == ["features"]
    x = views(3, 32)
    with torch.no_grad():
        wanted = models.restore(model).eval()(x)
    np.testing.assert_allclose(session.run(None, {"images": x.numpy()})[0], wanted.numpy(), rtol=0, atol=1e-4)


def test_a_projection_is_an_output_of_its_own() -> None:
    """Unit rows, as `extract --layer projection` gives them; files of tensors alone leave it out and say so."""
    model = checkpoint("convnet", k=0, size=24)
    linear = models.new_projection(256, 8, Key(1))
    model.model |= {f"projection.{k}": v for k, v in models.to_arrays(linear).items()}
    model.config["projection"] = 8
    sink = io.BytesIO()
    export.write_onnx(model, None, sink)
    session = onnxruntime.InferenceSession(sink.getvalue(), providers=["CPUExecutionProvider"])
    assert [o.name for o in session.get_outputs()] == ["features", "embedding"]
    x = views(3, 24)
    with torch.no_grad():
        wanted = nn.functional.normalize(linear(models.restore(model).eval()(x)), dim=1)
    np.testing.assert_allclose(session.run(None, {"images": x.numpy()})[1], wanted.numpy(), rtol=0, atol=1e-4)
    made = export.state_dict(model, Names("convnet", ""), "ucl", None)
    assert not [k for k in made.state if "projection" in k]
    assert "the projection is left out" in made.remark

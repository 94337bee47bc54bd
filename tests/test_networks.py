"""ucl.networks: shapes and sizes as the papers and torchvision have them, the Sobel filter's facts, initial values, taps."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from ucl import models
from ucl.artifacts import Checkpoint
from ucl.errors import DataError, UsageError
from ucl.keys import Key
from ucl.networks import build, zoo
from ucl.networks.pool import even_pool
from ucl.networks.taps import Tap, outline
from ucl.settings import ExtractSettings

torch.set_num_threads(1)
ZOO = ("squeezenet1_1", "mobilenet_v3_small", "resnet18", "regnet_x_400mf", "shufflenet_v2_x0_5", "mnasnet0_5")


def views(count: int, size: int) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(count))


def empty(name: str, *, sobel: bool = False, size: int = 0) -> Any:
    """A network whose weights are all 0.01: its shapes are what is asked."""
    net = build.empty(name, sobel=sobel, size=size)
    with torch.no_grad():
        for value in [p for n, p in net.named_parameters() if not n.startswith("sobel")] + list(net.buffers()):
            value.fill_(0.01 if value.is_floating_point() else 0)
    return net


# shapes and numbers of parameters

def test_maps_of_alexnet_at_224() -> None:
    """DeepCluster's table of linear probes: 96 x 55 x 55 and so on; 6 x 6 after the last pool."""
    net = empty("alexnet-bn")
    seen = outline(net, 224)
    wanted = {"conv1": (96, 55, 55), "pool1": (96, 27, 27), "conv2": (256, 27, 27), "pool2": (256, 13, 13), "conv3": (384, 13, 13),
              "conv4": (384, 13, 13), "conv5": (256, 13, 13), "pool3": (256, 6, 6), "fc6": (4096,), "fc7": (4096,)}
    assert {name: seen.shapes[point.path][-1] for name, point in net.points.items()} == wanted
    for name, how, d in (("conv1", "flatten", 290_400), ("conv1", "grid-10", 9600), ("conv2", "max-6", 9216), ("conv3", "grid-5", 9600),
                         ("conv4", "mean", 384), ("conv5", "max", 256), ("fc6", "mean", 4096)):
        assert Tap(net, 224, name, how).dim == d


def test_maps_of_vgg16_at_224() -> None:
    net = empty("vgg16-bn")
    seen = outline(net, 224)
    shapes = {name: seen.shapes[point.path][-1] for name, point in net.points.items()}
    widths = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    sides = [224] * 2 + [112] * 2 + [56] * 3 + [28] * 3 + [14] * 3
    assert [shapes[f"conv{i + 1}"] for i in range(13)] == [(w, s, s) for w, s in zip(widths, sides, strict=True)]
    assert shapes["pool5"] == (512, 7, 7)
    assert shapes["fc6"] == shapes["fc7"] == (4096,)


def test_maps_of_alexnet_32() -> None:
    net = empty("alexnet-32")
    seen = outline(net, 32)
    assert {name: seen.shapes[point.path][-1] for name, point in net.points.items()} == {
        "conv1": (64, 32, 32), "pool1": (64, 16, 16), "conv2": (192, 16, 16), "pool2": (192, 8, 8), "conv3": (384, 8, 8),
        "conv4": (256, 8, 8), "conv5": (256, 8, 8), "pool3": (256, 4, 4), "fc6": (1024,), "fc7": (1024,)}


def count(channels: int, convs: list[tuple[int, int]], fcs: list[tuple[int, int]]) -> int:
    """Weights and biases of convolutions (width, kernel) with batch norm (two a channel) and of linear layers (in, out)."""
    total = 0
    for width, kernel in convs:
        total += channels * width * kernel * kernel + width + 2 * width
        channels = width
    return total + sum((a + 1) * b for a, b in fcs)


ALEXNET = [(96, 11), (256, 5), (384, 3), (384, 3), (256, 3)]
ALEXNET_32 = [(64, 3), (192, 3), (384, 3), (256, 3), (256, 3)]
VGG = [(w, 3) for w in (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)]


@pytest.mark.parametrize(("name", "convs", "fcs"), [
    ("alexnet-bn", ALEXNET, [(9216, 4096), (4096, 4096)]), ("vgg16-bn", VGG, [(25088, 4096), (4096, 4096)]),
    ("alexnet-32", ALEXNET_32, [(4096, 1024), (1024, 1024)])])
@pytest.mark.parametrize("channels", [3, 2], ids=["rgb", "sobel"])
def test_numbers_of_parameters(name: str, convs: list[tuple[int, int]], fcs: list[tuple[int, int]], channels: int) -> None:
    net = build.empty(name, sobel=channels == 2, size=0)
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == count(channels, convs, fcs)
    frozen = sum(p.numel() for p in net.parameters() if not p.requires_grad)
    assert frozen == (3 + 1 + 18 + 2 if channels == 2 else 0)


def test_the_counts_in_figures() -> None:
    """The formula itself, worked out by hand for AlexNet: 3.74 M in convolutions, 54.5 M in the two large layers."""
    assert count(3, ALEXNET, []) == 34_944 + 192 + 614_656 + 512 + 885_120 + 768 + 1_327_488 + 768 + 884_992 + 512
    assert count(3, ALEXNET, [(9216, 4096), (4096, 4096)]) == 58_284_096


def test_keys_are_the_released_codes() -> None:
    convs, norms = (0, 4, 8, 11, 14), (1, 5, 9, 12, 15)
    wanted = {f"features.{i}.{k}" for i in convs for k in ("weight", "bias")} | {
        f"features.{i}.{k}" for i in norms for k in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}
    wanted |= {f"classifier.{i}.{k}" for i in (1, 4) for k in ("weight", "bias")}
    assert set(build.empty("alexnet-bn", sobel=False, size=0).state_dict()) == wanted
    sobel = {f"sobel.{i}.{k}" for i in (0, 1) for k in ("weight", "bias")}
    assert set(build.empty("alexnet-bn", sobel=True, size=0).state_dict()) == wanted | sobel
    state = build.empty("vgg16-bn", sobel=False, size=0).state_dict()
    assert {k.split(".")[1] for k in state if k.startswith("classifier")} == {"0", "3"}
    assert {int(k.split(".")[1]) for k in state if k.startswith("features") and state[k].ndim == 4} == {
        0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40}


def test_dropout_stands_where_it_stood() -> None:
    kinds = [type(m).__name__ for m in build.empty("alexnet-bn", sobel=False, size=0).classifier]
    assert kinds == ["Dropout", "Linear", "ReLU", "Dropout", "Linear", "ReLU"]
    assert [type(m).__name__ for m in build.empty("vgg16-bn", sobel=False, size=0).classifier] == kinds[1:]


def test_initial_values() -> None:
    """DeepCluster's code: convolutions N(0, sqrt(2 / (kh kw C_out))), linear N(0, 0.01), every bias 0, batch norm 1 and 0."""
    net = models.build("alexnet-bn", Key(3))
    for i, fan in ((0, 11 * 11 * 96), (4, 5 * 5 * 256), (8, 9 * 384), (11, 9 * 384), (14, 9 * 256)):
        assert float(net.features[i].weight.detach().std()) == pytest.approx(np.sqrt(2 / fan), rel=0.02)
        assert float(net.features[i].weight.detach().mean()) == pytest.approx(0, abs=1e-3)
    for i in (1, 4):
        assert float(net.classifier[i].weight.detach().std()) == pytest.approx(0.01, rel=0.01)
    assert not any(p.any() for name, p in net.named_parameters() if name.endswith("bias"))
    assert all((net.features[i].weight == 1).all() and (net.features[i].running_var == 1).all() for i in (1, 5, 9, 12, 15))
    again = models.build("alexnet-32", Key(3)).state_dict()
    assert all(torch.equal(v, again[k]) and torch.isfinite(v).all() for k, v in models.build("alexnet-32", Key(3)).state_dict().items())


# the Sobel filter

def filtered(x: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return build.sobel_filter()(x).numpy()


def test_sobel_by_hand() -> None:
    """The mean of the channels, then the two kernels as the released code has them, by loops."""
    x = views(2, 7)
    grey = np.pad(x.numpy().mean(1), ((0, 0), (1, 1), (1, 1)))
    across = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]])
    down = np.array([[1, 2, 1], [0, 0, 0], [-1, -2, -1]])
    for channel, kernel in enumerate((across, down)):
        wanted = [[[(grey[b, i:i + 3, j:j + 3] * kernel).sum() for j in range(7)] for i in range(7)] for b in range(2)]
        np.testing.assert_allclose(filtered(x)[:, channel], wanted, atol=1e-5)


def test_sobel_of_flat_pictures_and_ramps() -> None:
    flat = torch.tensor([0.3, -1.0, 2.0]).view(1, 3, 1, 1).expand(1, 3, 9, 9)
    assert np.abs(filtered(flat)[:, :, 1:-1, 1:-1]).max() < 1e-6
    ramp = torch.arange(9.0).expand(1, 3, 9, 9)                          # grows to the right
    out = filtered(ramp)[0, :, 1:-1, 1:-1]
    assert np.abs(out[1]).max() < 1e-6
    np.testing.assert_allclose(out[0], -8, atol=1e-5)                    # (1 + 2 + 1) times a step of two columns
    np.testing.assert_allclose(filtered(ramp.transpose(2, 3))[0, 1, 1:-1, 1:-1], -8, atol=1e-5)


@pytest.mark.parametrize("name", ["convnet", "alexnet-32", "resnet18-32", "resnet18", "squeezenet1_1"])
def test_a_network_sees_derivatives_only(name: str) -> None:
    """Colours that leave the mean alone change nothing; without the filter they do."""
    size = 64 if name in ZOO else 32
    x = views(2, size)
    shifted = x + torch.tensor([1.0, -2.0, 1.0]).view(1, 3, 1, 1)
    for sobel in (True, False):
        net = models.build(name, Key(1), sobel=sobel).eval()
        with torch.no_grad():
            same = torch.allclose(net(x), net(shifted), atol=1e-3, rtol=1e-3)
        assert same is sobel
        assert zoo.first_convolution(net)[1].in_channels == (2 if sobel else 3)
        keys = set(models.to_arrays(net))
        assert ({"sobel.0.weight", "sobel.0.bias", "sobel.1.weight", "sobel.1.bias"} <= keys) is sobel


def test_a_first_convolution_of_two_channels_is_drawn_by_its_name() -> None:
    one, two = (models.build("resnet18", Key(4), sobel=True) for _ in range(2))
    assert torch.equal(one.conv1.weight, two.conv1.weight)
    assert float(one.conv1.weight.detach().std()) == pytest.approx(np.sqrt(2 / (64 * 49)), rel=0.05)
    assert torch.equal(one.layer1[0].conv1.weight, models.build("resnet18", Key(4), sobel=True).layer1[0].conv1.weight)
    assert not torch.equal(one.layer1[0].conv1.weight, models.build("resnet18", Key(5), sobel=True).layer1[0].conv1.weight)


# torchvision's

@pytest.mark.parametrize("name", ZOO)
def test_torchvisions_without_their_last_layer(name: str) -> None:
    """The same numbers through torchvision's own model, given ours' weights, up to what its last layer is given."""
    from torchvision import models as theirs

    ours = models.build(name, Key(2))
    whole = theirs.get_model(name, weights=None)
    last = [path for path, m in whole.named_modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)][-1]
    state = whole.state_dict()                                           # with the version that MNASNet asks for
    for key in [k for k in state if k not in ours.state_dict()]:
        del state[key]
    assert list(state) == list(models.to_arrays(ours))
    state.update({k: torch.from_numpy(v) for k, v in models.to_arrays(ours).items()})
    missing, unexpected = whole.load_state_dict(state, strict=False)
    assert set(missing) == {f"{last}.weight", f"{last}.bias"}
    assert not unexpected
    counted = sum(p.numel() for p in whole.parameters()) - sum(p.numel() for p in whole.get_submodule(last).parameters())
    assert sum(p.numel() for p in ours.parameters()) == counted
    given: list[torch.Tensor] = []
    whole.get_submodule(last).register_forward_hook(lambda m, args, out: given.append(args[0]))
    with torch.no_grad():
        whole.eval()(views(2, 64))
        found = ours.eval()(views(2, 64))
    wanted = given[0].mean((2, 3)) if given[0].ndim == 4 else given[0]
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert ours.feature_dim == found.shape[1]


@pytest.mark.parametrize(("name", "path"), [("resnet18", "layer4.1.relu"), ("regnet_x_400mf", "trunk_output.block4.block4-11.activation"),
                                            ("shufflenet_v2_x0_5", "conv5.2"), ("mnasnet0_5", "layers.16")])
def test_before_the_last_relu(name: str, path: str) -> None:
    """The average of what the last ReLU is given; where averaging comes after it, that is not the features' own ReLU."""
    net = models.build(name, Key(2))
    tap = Tap(net, 64, final_relu=False)
    given: list[torch.Tensor] = []
    net.eval()
    with torch.no_grad():
        found = tap(views(2, 64))
        net.get_submodule(path).register_forward_pre_hook(lambda m, args: given.append(args[0].clone()))
        after = net(views(2, 64))
    torch.testing.assert_close(found, given[-1].mean((2, 3)))
    torch.testing.assert_close(after, given[-1].relu().mean((2, 3)), atol=1e-5, rtol=1e-5)
    assert tap.text == "last, before its ReLU"
    assert (found < 0).any()


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v3_small"])
def test_networks_that_do_not_end_in_one_relu(name: str) -> None:
    net = models.build(name, Key(2))
    tap = Tap(net, 64, final_relu=False)
    assert tap.text == "last"
    with torch.no_grad():
        assert torch.equal(net.eval()(views(2, 64)), tap(views(2, 64)))


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.names())
def test_every_model_of_torchvision(name: str) -> None:
    """All but the largest are built and run; those are built on the meta device."""
    size = int(models.view_defaults(name)["size"])                       # type: ignore[call-overload]
    bare = build._bare(name, False, size)
    if sum(p.numel() for p in bare.parameters()) > 60e6:
        return
    for sobel in (False, True):
        net = models.build(name, Key(1), sobel=sobel, size=size)
        assert Tap(net, size).dim == net.feature_dim
        filled = build.empty(name, sobel=sobel, size=size)
        models.from_arrays(filled, models.to_arrays(net))
        with torch.no_grad():
            assert torch.equal(net.eval()(views(1, size)), filled.eval()(views(1, size)))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "path"), [("densenet121", "features"), ("vit_b_32", "encoder"), ("swin_t", "features.5"),
                                            ("convnext_tiny", "features.3")])
def test_maps_of_other_kinds(name: str, path: str) -> None:
    """DenseNet's ReLU is a function; tokens are rows; Swin's maps have their channels last."""
    net = models.build(name, Key(1)).eval()
    seen: dict[str, torch.Tensor] = {}
    net.get_submodule(path).register_forward_hook(lambda m, args, out: seen.update(out=out.clone()))
    mean, whole = Tap(net, 224, path), Tap(net, 224, path, "flatten")
    with torch.no_grad():
        net(views(1, 224))
        out = seen["out"]
        tokens = out.flatten(2).transpose(1, 2) if out.ndim == 4 and name != "swin_t" else out.flatten(1, -2)
        torch.testing.assert_close(mean(views(1, 224)), tokens.mean(1))
        torch.testing.assert_close(whole(views(1, 224)).sum(), out.sum(), rtol=1e-3, atol=1e-2)
    assert mean.dim == tokens.shape[2]
    if name == "densenet121":
        torch.testing.assert_close(Tap(net, 224, final_relu=False)(views(1, 224)), tokens.mean(1))
    if name == "vit_b_32":
        with pytest.raises(UsageError, match="a row of 50 tokens and has no grid"):
            Tap(net, 224, path, "grid-2")


# the table

@pytest.mark.parametrize("name", sorted(models.BACKBONES))
def test_the_table_tells_the_truth(name: str) -> None:
    row, net = models.BACKBONES[name], build.empty(name, sobel=False, size=0)
    assert tuple(net.points) == row.layers
    assert net.feature_dim == row.dim
    assert models.facts(name) is row
    if name != "vgg16-bn":                                               # its maps have a test of their own
        assert Tap(net, row.size).dim == row.dim


def test_facts_of_a_model_that_is_not_in_the_table() -> None:
    row = models.facts("squeezenet1_1")
    assert (row.dim, row.size, row.mean) == (512, 224, (0.485, 0.456, 0.406))
    assert 0.001 < row.cpu_seconds * 49 < 1


def test_sizes_and_normalisation_by_name() -> None:
    imagenet, cifar = (0.485, 0.456, 0.406), (0.4914, 0.4822, 0.4465)
    for name, size, mean in (("convnet", 32, cifar), ("alexnet-32", 32, cifar), ("resnet18-32", 32, cifar), ("resnet18-96", 96, imagenet),
                             ("alexnet-bn", 224, imagenet), ("vgg16-bn", 224, imagenet), ("resnet50", 224, imagenet), ("vit_b_16", 224, imagenet),
                             ("inception_v3", 299, imagenet), ("efficientnet_b3", 300, imagenet)):
        found = models.view_defaults(name)
        assert (found["size"], found["mean"]) == (size, mean)


def test_names_of_the_table_need_neither_torch_nor_torchvision() -> None:
    code = ("import sys; from ucl import models; models.known('resnet50'); models.view_defaults('vit_b_16'); models.facts('vgg16-bn');"
            "print([m for m in ('torch', 'torchvision', 'numpy') if m in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize(("name", "near"), [("alexnetbn", "alexnet-bn"), ("resnet-50", "resnet50"), ("convnext_tinny", "convnext_tiny")])
def test_an_unknown_name(name: str, near: str) -> None:
    with pytest.raises(UsageError, match=f"no backbone is called '{name}'") as error:
        models.known(name)
    assert near in error.value.hint.split("?")[0]


# taps

@pytest.fixture(scope="module")
def convnet() -> Any:
    return models.build("convnet", Key(1)).eval()


def test_layers_of_convnet_by_hand(convnet: Any) -> None:
    x = views(3, 32)
    with torch.no_grad():
        maps = x
        for number in range(5):
            at = convnet.trunk[3 * number:3 * number + 3]
            maps = at(maps)
            name = f"conv{number + 1}"
            assert (Tap(convnet, 32, name)(x) == maps.mean((2, 3))).all()
            assert (Tap(convnet, 32, name, "max")(x) == maps.amax((2, 3))).all()
            assert (Tap(convnet, 32, name, "flatten")(x) == maps.flatten(1)).all()
            side = maps.shape[2] // 2
            parts = maps.unflatten(2, (2, side)).unflatten(4, (2, side))
            torch.testing.assert_close(Tap(convnet, 32, name, "grid-2")(x), parts.mean((3, 5)).flatten(1))
            torch.testing.assert_close(Tap(convnet, 32, name, "max-2")(x), parts.amax((3, 5)).flatten(1))
        assert (Tap(convnet, 32, "trunk.12")(x) == convnet.trunk[:13](x).mean((2, 3))).all()
        assert (Tap(convnet, 32, "fc")(x) == convnet(x)).all()


def test_a_layer_below_its_relu_is_not_overwritten(convnet: Any) -> None:
    """The ReLUs work in place; the pass ends before them."""
    tap = Tap(convnet, 32, "trunk.1", "flatten")
    with torch.no_grad():
        found = tap(views(2, 32))
    assert (found < 0).any()
    assert tap.text == "trunk.1, flatten"


def test_taps_leave_the_network_as_it_is(convnet: Any) -> None:
    with torch.no_grad():
        before = convnet(views(2, 32))
        tap = Tap(convnet, 32, "conv2")
        tap(views(2, 32))
        assert torch.equal(convnet(views(2, 32)), before)
        assert torch.equal(tap(views(2, 32)), tap(views(2, 32)))
    net = models.build("convnet", Key(1))
    tracked = net.trunk[1].running_mean.clone()
    Tap(net, 32)
    assert net.training
    assert torch.equal(net.trunk[1].running_mean, tracked)


@pytest.mark.parametrize(("layer", "how", "words"), [
    ("conv6", "mean", "the network has none called 'conv6'"), ("fc6", "mean", "none called 'fc6'"), ("norm", "max", "is a vector of 256"),
    ("fc", "grid-2", "is a vector of 256"), ("", "max", "the last layer is a vector of 256")])
def test_what_is_no_layer(convnet: Any, layer: str, how: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        Tap(convnet, 32, layer, how)
    assert "conv5" in error.value.hint


@pytest.mark.parametrize("how", ["grid", "grid-0", "grid-x", "avg", "", "max-", "mean-2", "grid-99999"])
def test_what_is_no_map(how: str) -> None:
    with pytest.raises(UsageError, match="map: found"):
        ExtractSettings(map=how)


@pytest.mark.parametrize(("name", "size"), [("alexnet-bn", 62), ("vgg16-bn", 16), ("vit_b_16", 100)])
def test_views_that_are_too_small(name: str, size: int) -> None:
    with pytest.raises(UsageError, match=f"{size} pixels"):
        models.check(name, sobel=False, size=size, settings=ExtractSettings())


def test_other_sizes_than_224() -> None:
    net = empty("alexnet-bn")
    assert all(Tap(net, size).dim == 4096 for size in (63, 96, 224, 256))


@pytest.mark.parametrize(("high", "wide", "side"), [(6, 6, 6), (1, 1, 6), (3, 5, 6), (7, 7, 6), (13, 8, 6), (12, 12, 4)])
def test_even_pool_is_torchs_adaptive_pool(high: int, wide: int, side: int) -> None:
    maps = torch.randn(2, 3, high, wide, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found, wanted = even_pool(maps, side), functional.adaptive_avg_pool2d(maps, side)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)
    weight = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1))
    gradients = [torch.autograd.grad((out * weight).sum(), maps, retain_graph=True)[0] for out in (found, wanted)]
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-5)


# checkpoints

def test_a_checkpoint_comes_back() -> None:
    for name, sobel in (("alexnet-32", True), ("resnet18-32", False), ("squeezenet1_1", True)):
        net = models.build(name, Key(6), sobel=sobel)
        kept = Checkpoint({f"backbone.{k}": v for k, v in models.to_arrays(net).items()},
                          config={"backbone": name, "size": 32, "sobel": sobel})
        back = models.restore(kept)
        with torch.no_grad():
            assert torch.equal(net.eval()(views(2, 32)), back.eval()(views(2, 32)))
        assert [p.requires_grad for p in back.parameters()].count(False) == (4 if sobel else 0)
        wrong = Checkpoint(kept.model, config=kept.config | {"sobel": not sobel})
        with pytest.raises(DataError, match=r"wrong shape|is missing|does not have"):
            models.restore(wrong)


def test_a_transformers_position_embedding_follows_the_size() -> None:
    bare = build._bare("vit_b_32", False, 64)
    assert bare.encoder.pos_embedding.shape == (1, 5, 768)
    assert zoo.first_convolution(build._bare("vit_b_32", True, 64))[1].in_channels == 2

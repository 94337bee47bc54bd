"""ucl.networks.fold: the Sobel filter folded into the first convolution computes what it computed in front, but at the border."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ucl import export, models, pretrained, weights
from ucl.artifacts import Checkpoint
from ucl.errors import DataError, UsageError
from ucl.keys import Key
from ucl.networks import build, zoo
from ucl.networks.fold import folded_kernel
from ucl.networks.taps import Tap
from ucl.settings import ExtractSettings

torch.set_num_threads(1)


def behind(backbone: str, size: int, seed: int = 1) -> Checkpoint:
    """A checkpoint behind the filter, whose batch norms are not those of an untrained network."""
    net = models.build(backbone, Key(seed), sobel=True, size=size)
    with torch.no_grad():
        for name, value in net.named_buffers():
            if "running" in name:
                low = 0.5 if "var" in name else -0.1
                value.uniform_(low, low + 0.2, generator=torch.Generator().manual_seed(len(name)))
    return Checkpoint({f"backbone.{k}": v for k, v in models.to_arrays(net).items()},
                      config={"backbone": backbone, "sobel": True, "size": size, "mean": [0.5] * 3, "std": [0.2] * 3})


def pictures(size: int, margin: int = 0, count: int = 3) -> torch.Tensor:
    """Noise; with a margin, black at the border."""
    x = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(size))
    inside = torch.zeros(size, size)
    inside[margin:size - margin, margin:size - margin] = 1
    return x * inside


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    assert a.shape == b.shape
    assert float(a.abs().max()) > 0
    return float((a - b).abs().max() / a.abs().max())


def first_map(model: Checkpoint, x: torch.Tensor) -> torch.Tensor:
    """What the first convolution gives."""
    net, found = models.restore(model).eval(), []
    zoo.first_convolution(net)[1].register_forward_hook(lambda module, args, out: found.append(out))
    with torch.no_grad():
        net(x)
    return found[0]


def test_a_kernel_by_hand() -> None:
    """One tap of a 1 x 1 kernel gives the derivative's own kernel, a third of it for each channel; two taps give both, shifted."""
    derivatives = build.sobel_filter()[1].weight.numpy()
    grey = np.full((1, 3, 1, 1), 1 / 3, np.float32)
    one = folded_kernel(np.array([[[[2.0]], [[0.0]]]], np.float32), grey, derivatives)
    assert one.shape == (1, 3, 3, 3)
    for channel in range(3):
        np.testing.assert_allclose(one[0, channel], np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]]) * 2 / 3, atol=1e-7)
    two = folded_kernel(np.array([[[[0, 0], [0, 0]], [[1, 0], [0, 3]]]], np.float32), grey, derivatives)[0, 0] * 3
    down = np.array([[1, 2, 1], [0, 0, 0], [-1, -2, -1]])
    wanted = np.zeros((4, 4))
    wanted[:3, :3] += down
    wanted[1:, 1:] += 3 * down
    np.testing.assert_allclose(two, wanted, atol=1e-6)


@pytest.mark.parametrize(("backbone", "size", "kernel", "padding"), [
    ("convnet", 32, 5, 2), ("resnet18-32", 32, 5, 2), ("alexnet-32", 32, 5, 2), ("resnet18", 64, 9, 4), ("squeezenet1_1", 64, 5, 1),
    pytest.param("alexnet-bn", 224, 13, 3, marks=pytest.mark.slow), pytest.param("vgg16-bn", 64, 5, 2, marks=pytest.mark.slow),
    pytest.param("vit_b_16", 64, 18, 1, marks=pytest.mark.slow), pytest.param("mobilenet_v3_small", 64, 5, 2, marks=pytest.mark.slow)])
def test_equal_away_from_the_border(backbone: str, size: int, kernel: int, padding: int) -> None:
    """The first map inside; and, of pictures whose border is black, the features.  float32: 1e-5 of the largest value."""
    before = behind(backbone, size)
    after = pretrained.without_filter(before, "w")
    conv = zoo.first_convolution(models.restore(after))[1]
    assert (conv.in_channels, conv.kernel_size, conv.padding) == (3, (kernel, kernel), (padding, padding))
    assert (after.config["sobel"], after.config["fold_sobel"]) == (False, True)
    assert not any("sobel" in key for key in after.model)
    a, b = (first_map(model, pictures(size)) for model in (before, after))
    stride, reach = conv.stride[0], kernel - 2                          # the kernel that stood behind the filter
    inside = [i for i in range(a.shape[2]) if i * stride - (padding - 1) >= 0 and i * stride - (padding - 1) + reach <= size]
    assert len(inside) >= 3
    rows = torch.tensor(inside)
    pick = (slice(None), slice(None), rows[:, None], rows[None, :])
    assert apart(a[pick], b[pick]) < 1e-5
    if padding > 1:
        assert apart(a, b) > 1e-3                                       # at the border they are not equal
    x = pictures(size, margin=kernel)
    with torch.no_grad():
        a, b = (models.restore(model).eval()(x) for model in (before, after))
    assert apart(a, b) < 1e-4


def test_it_is_the_images_normalised() -> None:
    """Colours that leave the mean alone change nothing yet; after a step of training they can."""
    after = pretrained.without_filter(behind("convnet", 32), "w")
    net = models.restore(after).eval()
    x = pictures(32)
    with torch.no_grad():
        shift = torch.tensor([1.0, -2.0, 1.0]).view(1, 3, 1, 1)
        torch.testing.assert_close(net(x), net(x + shift), atol=1e-3, rtol=1e-3)
    assert all(p.requires_grad for p in net.parameters())
    net.train()(x).square().sum().backward()
    gradient = zoo.first_convolution(net)[1].weight.grad
    assert gradient is not None
    assert not torch.allclose(gradient[:, 0], gradient[:, 1])           # the channels go their own ways


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_out_and_in_again(kind: str, tmp_path: Path) -> None:
    """A folded network comes back from a file, known by the shape of its first convolution; nothing else takes it."""
    after = pretrained.without_filter(behind("convnet", 24), "w")
    sink = io.BytesIO()
    names = pretrained.names_of(after)
    made = export.state_dict(after, names, "auto", None)
    assert made.layout == "ucl"
    (export.write_torch if kind == "pt" else export.write_safetensors)(made, after, sink)
    (tmp_path / "w").write_bytes(sink.getvalue())
    found = weights.read(tmp_path / "w", "w")
    told = pretrained.known(found, "convnet")
    assert told["fold_sobel"] is True
    for fold in (False, True):                                          # --fold-sobel of what is folded is no fault
        again, _ = pretrained.checkpoint("convnet", found, told, 24, [0.5] * 3, [0.2] * 3, fold=fold)
        assert again.weights_digest() == after.weights_digest()
        assert again.config == after.config
    with pytest.raises(DataError, match="--sobel would filter twice"):
        pretrained.checkpoint("convnet", found, told, 24, [0.5] * 3, [0.2] * 3, sobel=True)


def test_layouts_of_a_folded_network() -> None:
    names = pretrained.names_of(pretrained.without_filter(behind("resnet18", 64), "w"))
    assert names.choose("auto") == "ucl"
    for layout in ("torchvision", "timm"):
        with pytest.raises(UsageError, match="with the Sobel filter folded in has no twin"):
            names.choose(layout)


def test_what_cannot_be_folded() -> None:
    before = behind("convnet", 32)
    before.model["backbone.sobel.1.bias"] = np.ones(2, np.float32)
    with pytest.raises(DataError, match="the Sobel filter has a bias"):
        pretrained.without_filter(before, "w")
    plain = {k: v for k, v in models.to_arrays(models.build("convnet", Key(1))).items()}
    found = weights.Weights("w.pt", plain, "")
    assert pretrained.known(found, "convnet") == {}
    with pytest.raises(DataError, match="no Sobel filter in front, there is nothing to fold") as told:
        pretrained.checkpoint("convnet", found, {}, 32, [0.5] * 3, [0.2] * 3, fold=True)
    assert told.value.hint == "leave --fold-sobel out"


def test_layers_of_a_folded_network() -> None:
    """Any layer is read as ever, and an old checkpoint without the word is not folded."""
    before = behind("convnet", 32)
    after = pretrained.without_filter(before, "w")
    x = pictures(32, margin=6)
    for layer, how in (("conv1", "flatten"), ("conv4", "mean"), ("trunk.3", "max")):
        taps: list[Any] = [models.tap(models.restore(model).eval(), model, ExtractSettings(layer=layer, map=how)) for model in (before, after)]
        assert isinstance(taps[1], Tap)
        with torch.no_grad():
            a, b = (tap(x) for tap in taps)
        assert apart(a, b) < 1e-4
    with pytest.raises(DataError, match="wrong shape"):
        models.restore(Checkpoint(after.model, config={k: v for k, v in after.config.items() if k != "fold_sobel"}))

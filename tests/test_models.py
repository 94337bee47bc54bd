"""ucl.models: keyed starts, features, and arrays that come back bit for bit."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from ucl import models
from ucl.errors import DataError, UsageError
from ucl.keys import Key
from ucl.networks.build import initialise
from ucl.networks.taps import Tap


def batch(count: int = 8, size: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


SMALL = ("convnet", "resnet18-32", "alexnet-32")


def train(steps: int, name: str = "convnet") -> tuple[torch.nn.Module, list[float]]:
    module, head = models.build(name, Key(1)), models.new_head(256, 10, Key(1))
    optimizer = torch.optim.SGD([*module.parameters(), *head.parameters()], 0.05, momentum=0.9)
    losses = []
    for _ in range(steps):
        loss = torch.nn.functional.cross_entropy(head(module(batch(32))), torch.arange(32) % 10)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return module, losses


def test_the_table_needs_no_torch() -> None:
    code = "import sys, ucl.models; ucl.models.BACKBONES['convnet']; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


@pytest.mark.parametrize("name", SMALL)
def test_features_and_their_last_relu(name: str) -> None:
    module = models.build(name, Key())
    info = models.BACKBONES[name]
    before = Tap(module, 32, final_relu=False)
    after = Tap(module, 32, final_relu=True)
    module.eval()
    with torch.no_grad():
        raw, cut = before(batch()), after(batch())
        assert torch.equal(module(batch()), cut)
    assert raw.shape == cut.shape == (8, info.dim)
    assert module.feature_dim == before.dim == after.dim == info.dim
    assert (before.text, after.text) == ("last, before its ReLU", "last")
    assert (cut >= 0).all()
    if name != "resnet18-32":                                            # there an average stands between
        assert torch.equal(raw.relu(), cut)
    assert (raw < 0).any()
    assert 0.01 < float(raw.std()) < 100


@pytest.mark.parametrize("size", [16, 17, 32, 48])
def test_convnet_takes_any_size(size: int) -> None:
    assert models.build("convnet", Key())(batch(2, size)).shape == (2, 256)


@pytest.mark.parametrize(("name", "size", "pool", "sides"), [
    ("resnet18-32", 32, torch.nn.Identity(), (32, 32, 16, 8, 4)), ("resnet18-96", 96, torch.nn.MaxPool2d(2, 2, 1), (49, 49, 25, 13, 7))])
def test_resnet18_is_torchvisions_but_for_the_stem(name: str, size: int, pool: torch.nn.Module, sides: tuple[int, ...]) -> None:
    from torchvision.models import resnet18

    ours, theirs = models.build(name, Key()), resnet18(weights=None, num_classes=1)
    theirs.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    theirs.maxpool, theirs.fc = pool, torch.nn.Identity()
    models.from_arrays(theirs, models.to_arrays(ours))
    seen: list[int] = []
    for part in (theirs.maxpool, theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
        part.register_forward_hook(lambda module, args, out: seen.append(out.shape[-1]))
    with torch.no_grad():
        want = theirs.eval()(batch(2, size))
        torch.testing.assert_close(ours.eval()(batch(2, size)), want, atol=1e-4, rtol=1e-4)
    assert tuple(seen) == sides
    assert sum(p.numel() for p in ours.parameters()) == 11_168_832


def test_starts_are_keyed_by_name() -> None:
    one, two = models.to_arrays(models.build("convnet", Key(1))), models.build("convnet", Key(1))
    for name, array in models.to_arrays(two).items():
        np.testing.assert_array_equal(array, one[name])
    other = models.to_arrays(models.build("convnet", Key(2)))
    assert (one["trunk.0.weight"] != other["trunk.0.weight"]).all()
    assert one["trunk.3.weight"].std() == pytest.approx(np.sqrt(2 / (128 * 9)), rel=0.02)
    assert abs(one["trunk.3.weight"].mean()) < 1e-3
    extended = torch.nn.Sequential()
    extended.add_module("new", torch.nn.Linear(3, 3))
    extended.add_module("trunk", models.build("convnet", Key(9)).trunk)
    initialise(extended, Key(1))
    assert torch.equal(extended.trunk[0].weight, torch.from_numpy(one["trunk.0.weight"]))


def test_the_global_stream_is_left_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for name in (*SMALL, "squeezenet1_1"):
        models.build(name, Key(), sobel=name != "convnet")
    models.new_head(4, 4, Key())
    assert torch.equal(before, torch.get_rng_state())


def test_head() -> None:
    head = models.new_head(200, 500, Key(3))
    assert head.weight.shape == (500, 200)
    assert float(head.weight.detach().std()) == pytest.approx(0.01, rel=0.02)
    assert not head.bias.any()
    assert torch.equal(head.weight, models.new_head(200, 500, Key(3)).weight)
    assert not torch.equal(head.weight, models.new_head(200, 500, Key(3, epoch=1)).weight)


def test_training_twice_is_bit_equal_and_learns() -> None:
    (one, losses), (two, again) = train(8), train(8)
    assert losses == again
    assert losses[-1] < 0.7 * losses[0]
    for name, array in models.to_arrays(one).items():
        np.testing.assert_array_equal(array, models.to_arrays(two)[name])


def test_arrays_come_back_bit_for_bit() -> None:
    module, _ = train(3)
    arrays = models.to_arrays(module)
    assert arrays["trunk.1.num_batches_tracked"].shape == ()
    assert arrays["trunk.1.num_batches_tracked"].dtype == np.int64
    assert int(arrays["trunk.1.num_batches_tracked"]) == 3
    fresh = models.build("convnet", Key(7))
    for array in arrays.values():
        array.setflags(write=False)
    models.from_arrays(fresh, arrays)
    with torch.no_grad():
        assert torch.equal(module.eval()(batch()), fresh.eval()(batch()))
    for name, array in models.to_arrays(fresh).items():
        np.testing.assert_array_equal(array, arrays[name])
    assert fresh.trunk[3].weight.is_contiguous(memory_format=torch.channels_last)
    before = arrays["fc.weight"].copy()
    with torch.no_grad():
        fresh.fc.weight.zero_()
    np.testing.assert_array_equal(arrays["fc.weight"], before)


def test_arrays_that_do_not_fit() -> None:
    module = models.build("convnet", Key())
    arrays = models.to_arrays(module)
    less = {name: array for name, array in arrays.items() if name != "fc.weight"}
    with pytest.raises(DataError, match=r"'fc\.weight' is missing"):
        models.from_arrays(module, less)
    with pytest.raises(DataError, match=r"found 'head\.bias'"):
        models.from_arrays(module, {**arrays, "head.bias": np.zeros(3, np.float32)})
    with pytest.raises(DataError, match=r"found \(3, 4\), wanted \(256, 256\)"):
        models.from_arrays(module, {**arrays, "fc.weight": np.zeros((3, 4), np.float32)})
    with pytest.raises(DataError, match="found float64, wanted float32"):
        models.from_arrays(module, {**arrays, "fc.weight": np.ones((256, 256))})
    np.testing.assert_array_equal(models.to_arrays(module)["fc.weight"], arrays["fc.weight"])
    with pytest.raises(UsageError, match="no backbone is called 'convnot'") as error:
        models.build("convnot", Key())
    assert "did you mean convnet" in error.value.hint

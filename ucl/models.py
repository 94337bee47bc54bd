"""Backbones and heads: how they are built, what their features are, and how they become plain
arrays and come back.

The table `BACKBONES` is data, so that ``--help`` and ``info`` can list it without torch; torch is
imported by the functions.  Every parameter is drawn from a generator of its own, keyed by the
parameter's name: adding a layer shifts no other layer's start, and two builds with one key are
equal bit for bit.

Initial values: convolutions He et al. (ICCV 2015) normal, fan-out (as DeepCluster's and
torchvision's code); linear layers N(0, 0.01) with bias 0 in heads (DeepCluster's), He normal fan-in
inside a backbone, where 0.01 would shrink the signal before its batch norm; batch norm 1 and 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from ucl.errors import DataError, UsageError
from ucl.keys import Key

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import nn, optim

    from ucl.artifacts import Checkpoint

    class Network(nn.Module):
        """What a backbone is: a module with features."""

        feature_dim: int

        def features(self, x: torch.Tensor, final_relu: bool = True) -> torch.Tensor:
            """(B, 3, S, S) views as (B, D) features."""


@dataclass(frozen=True)
class Backbone:
    """One row of the table of backbones.

    Attributes:
        builder: name of the function of this module that makes it.
        size: side of the images it is meant for, the default of ``--size``.
        dim: dimension of its features.
        cpu_seconds: rule of thumb for an epoch's extraction and training, in seconds per image of 32 px on 2 CPU threads.
        help: one line for ``ucl init --help``.
    """

    builder: str
    size: int
    dim: int
    cpu_seconds: float
    help: str


BACKBONES: dict[str, Backbone] = {
    "convnet": Backbone(
        "_convnet", 32, 256, 0.0007, "5 convolutions with a stride-2 stem, for CPU-sized work; any size from 16"
    ),
    "resnet18": Backbone(
        "_resnet18", 32, 512, 0.03, "ResNet-18 with the 32-pixel stem (3x3, stride 1, no max-pool)"
    ),
}

HEAD_STD = 0.01
"""Standard deviation of a fresh head's weights (DeepCluster's code, main.py)."""

_CONVNET_WIDTHS = (64, 128, 128, 256, 256)
_CONVNET_STRIDES = (2, 2, 1, 2, 1)


def build(name: str, key: Key) -> nn.Module:
    """A backbone with keyed initial values, in training mode, on the CPU, float32, memory format
    channels-last.

    The module has ``features(x, final_relu) -> (B, D)`` and ``feature_dim``; calling it is
    ``features(x, True)``.

    Args:
        name: a name in `BACKBONES`.
        key: what the draw belongs to.

    Returns:
        The module.

    Raises:
        UsageError: if there is no such backbone.
    """
    import torch

    known(name)
    with torch.random.fork_rng(
        devices=[]
    ):  # torch's constructors draw from the global stream; leave it untouched
        module: nn.Module = globals()[BACKBONES[name].builder]()
    _initialise(module, key)
    return module.to(memory_format=torch.channels_last)


def new_head(d: int, k: int, key: Key) -> nn.Linear:
    """A fresh classifier over k clusters: weight N(0, 0.01), bias 0 (DeepCluster's code, main.py).

    Args:
        d: feature dimension.
        k: number of clusters.
        key: what the draw belongs to; another epoch's key gives another head.

    Returns:
        Linear layer (d -> k), float32, on the CPU.
    """
    from torch import nn

    from ucl.device import generator

    head: nn.Linear = nn.utils.skip_init(nn.Linear, d, k)  # type: ignore[no-untyped-call]
    nn.init.normal_(head.weight, 0.0, HEAD_STD, generator=generator(key, "init/head.weight"))
    nn.init.zeros_(head.bias)
    return head


def to_arrays(module: nn.Module) -> dict[str, NDArray[Any]]:
    """Every parameter and buffer of a module, as arrays on the CPU that share no memory with it.

    Args:
        module: any module.

    Returns:
        name -> array of the tensor's own shape and dtype, C-contiguous; ``num_batches_tracked`` is
        a 0-d int64.
    """
    import numpy as np

    return {
        name: np.array(tensor.detach().cpu().numpy(), order="C")
        for name, tensor in module.state_dict().items()
    }


def from_arrays(module: nn.Module, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Puts arrays made by `to_arrays` into a module, bit for bit.

    Args:
        module: the module; changed in place, its device and memory format stay.
        arrays: name -> array, exactly the names, shapes and dtypes of the module.

    Raises:
        DataError: naming the first missing, unexpected or mis-shaped name, what was found and what
            was wanted; the module is then unchanged.
    """
    import torch

    state = module.state_dict()
    for name, tensor in state.items():
        _check_entry(name, tensor, arrays)
    extra = [name for name in arrays if name not in state]
    if extra:
        raise DataError(
            f"model: found {extra[0]!r}, which this backbone does not have ({len(extra)} such)",
            "was the checkpoint made with another --backbone or another head?",
        )
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(torch.from_numpy(_own(arrays[name])))


def known(name: str) -> None:
    """Refuse a backbone that is not in `BACKBONES`.

    Raises:
        UsageError: naming those that are.
    """
    if name not in BACKBONES:
        raise UsageError(f"no backbone is called {name!r}", f"one of {', '.join(BACKBONES)}")


def part(model: Checkpoint, prefix: str) -> dict[str, NDArray[Any]]:
    """The checkpoint's tensors whose name starts with ``prefix``, without it."""
    return {name[len(prefix):]: value for name, value in model.model.items() if name.startswith(prefix)}


def restore(model: Checkpoint) -> Network:
    """The backbone of a checkpoint, with its weights.

    Raises:
        DataError: the checkpoint names no known backbone, or its tensors do not fit it.
    """
    name = str(model.config.get("backbone"))
    if name not in BACKBONES:
        raise DataError(f"checkpoint: backbone: found {name!r}, expected one of {', '.join(BACKBONES)}",
                        "a newer ucl may know it; ucl info shows the file")
    module = cast("Network", build(name, Key()))
    from_arrays(module, part(model, "backbone."))
    return module


def momentum_arrays(optimizer: optim.SGD, module: nn.Module, prefix: str) -> dict[str, NDArray[Any]]:
    """SGD's momentum buffers as ``<prefix><parameter>/momentum_buffer`` -> array; none where it has none."""
    found = {}
    for name, parameter in module.named_parameters():
        buffer = optimizer.state.get(parameter, {}).get("momentum_buffer")
        if buffer is not None:
            found[f"{prefix}{name}/momentum_buffer"] = buffer.detach().cpu().contiguous().numpy().copy()
    return found


def load_momentum(optimizer: optim.SGD, module: nn.Module, arrays: Mapping[str, NDArray[Any]], prefix: str) -> None:
    """Put the buffers of `momentum_arrays` back.

    Raises:
        DataError: a buffer of another shape than its parameter.
    """
    import torch

    for name, parameter in module.named_parameters():
        array = arrays.get(f"{prefix}{name}/momentum_buffer")
        if array is None:
            continue
        if tuple(array.shape) != tuple(parameter.shape):
            raise DataError(f"checkpoint: /optimizer/{prefix}{name}: shape {array.shape}, expected {tuple(parameter.shape)}")
        buffer = torch.empty_like(parameter, requires_grad=False)
        buffer.copy_(torch.from_numpy(_own(array)))
        optimizer.state[parameter]["momentum_buffer"] = buffer


def _own(array: NDArray[Any]) -> NDArray[Any]:
    import numpy as np

    return np.array(array, order="C")  # torch wants writable memory; files hand out read-only views


def _check_entry(name: str, tensor: torch.Tensor, arrays: Mapping[str, NDArray[Any]]) -> None:
    hint = "was the checkpoint made with another --backbone or another head?"
    if name not in arrays:
        raise DataError(
            f"model: {name!r} is missing: found {len(arrays)} arrays without it, wanted shape "
            f"{tuple(tensor.shape)}",
            hint,
        )
    found, dtype = arrays[name], str(tensor.dtype).removeprefix("torch.")
    if tuple(found.shape) != tuple(tensor.shape):
        raise DataError(
            f"model: {name!r} has the wrong shape: found {tuple(found.shape)}, wanted "
            f"{tuple(tensor.shape)}",
            hint,
        )
    if found.dtype.name != dtype:
        raise DataError(
            f"model: {name!r} has the wrong type: found {found.dtype.name}, wanted {dtype}", hint
        )


def _initialise(module: nn.Module, key: Key) -> None:
    """Draws every convolution and linear weight by its name; batch norms start as 1 and 0."""
    import torch
    from torch import nn

    from ucl.device import generator

    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = (
                layer.out_channels * layer.kernel_size[0] * layer.kernel_size[1] / layer.groups
            )
            std = math.sqrt(2.0 / fan_out)
        elif isinstance(layer, nn.Linear):
            std = math.sqrt(2.0 / layer.in_features)
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.reset_parameters()
            continue
        else:
            continue
        weight = torch.empty(tuple(layer.weight.shape))  # in logical order, whatever the layout
        weight.normal_(0.0, std, generator=generator(key, f"init/{name}.weight"))
        with torch.no_grad():
            layer.weight.copy_(weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _convnet() -> nn.Module:
    """Five 3x3 convolutions, average pool, linear 256, batch norm, ReLU."""
    import torch
    from torch import nn

    class ConvNet(nn.Module):
        feature_dim = 256

        def __init__(self) -> None:
            super().__init__()
            layers: list[nn.Module] = []
            before = 3
            for width, stride in zip(_CONVNET_WIDTHS, _CONVNET_STRIDES, strict=True):
                layers += [
                    nn.Conv2d(before, width, 3, stride, 1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                ]
                before = width
            self.trunk = nn.Sequential(*layers)
            self.fc = nn.Linear(before, self.feature_dim, bias=False)
            self.norm = nn.BatchNorm1d(self.feature_dim)

        def features(self, x: torch.Tensor, final_relu: bool = True) -> torch.Tensor:
            maps = self.trunk(x.contiguous(memory_format=torch.channels_last))
            out: torch.Tensor = self.norm(self.fc(maps.mean((2, 3))))
            return out.relu() if final_relu else out

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.features(x, True)

    return ConvNet()


def _resnet18() -> nn.Module:
    """torchvision's ResNet-18 with the 32-pixel stem (SimCLR, appendix B.9)."""
    import torch
    from torch import nn
    from torchvision.models.resnet import BasicBlock, ResNet  # type: ignore[import-untyped]

    class ResNet18(ResNet):  # type: ignore[misc]
        feature_dim = 512

        def __init__(self) -> None:
            super().__init__(BasicBlock, [2, 2, 2, 2])
            self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
            self.maxpool = nn.Identity()
            self.fc = nn.Identity()

        def features(self, x: torch.Tensor, final_relu: bool = True) -> torch.Tensor:
            x = self.relu(self.bn1(self.conv1(x.contiguous(memory_format=torch.channels_last))))
            x = self.layer3(self.layer2(self.layer1(x)))
            x = self.layer4[0](x)
            last = self.layer4[1]
            out = last.bn2(last.conv2(last.relu(last.bn1(last.conv1(x))))) + x
            out = out.relu() if final_relu else out
            pooled: torch.Tensor = out.mean((2, 3))
            return pooled

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.features(x, True)

    return ResNet18()

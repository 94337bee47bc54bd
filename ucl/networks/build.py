"""A backbone from its name: the module, its Sobel front end, and its initial values.

Initial values: convolutions He et al. (ICCV 2015) normal, fan-out, as DeepCluster's and torchvision's ResNet code; linear layers
N(0, 0.01) with bias 0 in DeepCluster's networks, He normal fan-in in `convnet`, where 0.01 would shrink the signal
before its batch norm; batch norm 1 and 0.  Each parameter is drawn from a generator of its own, keyed by its name: adding a layer
shifts no other layer's start.  torchvision's models have torchvision's own initial values: their constructors take no
generator, so they draw from torch's stream, seeded by the key for that time (`ucl.device.keyed_stream`).
"""

from __future__ import annotations

import math
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from ucl.device import generator, keyed_stream
from ucl.keys import Key
from ucl.networks.fold import widened
from ucl.networks.table import BACKBONES, Backbone, default_size, known

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ucl.networks.taps import Network

CPU_RATE = 1.5e11
"""Floating-point operations a second on 2 CPU threads, for forecasts only: about what resnet18-32 reached."""


def drawn(name: str, key: Key, *, sobel: bool, size: int) -> Network:
    """The untrained network with its initial values; see `ucl.models.build`."""
    known(name)
    row = BACKBONES.get(name)
    if row is not None and row.builder:
        net = _bare(name, sobel, size)
        net.to_empty(device="cpu")
        initialise(net, key, row.linear_std)
    else:
        from ucl.networks import zoo

        with keyed_stream(key, f"init/{name}"):
            net = zoo.torchvisions(name, 2 if sobel else 3, size or default_size(name))
        if sobel:
            path, first = zoo.first_convolution(net)
            _draw(first, path, _fan_out(first), key)
    return _dressed(net, sobel)


def empty(name: str, *, sobel: bool, size: int, folded: bool = False) -> Network:
    """The network with whatever its memory holds, to be filled by `ucl.models.from_arrays`; takes no time to draw.

    Args:
        name, sobel, size: as in `ucl.models.build`.
        folded: with a first convolution that the Sobel filter is folded into (`ucl.networks.fold`); not with ``sobel``.
    """
    known(name)
    net = _bare(name, sobel, size)
    net = widened(net) if folded else net
    if any(p.is_meta for p in net.parameters()):
        net.to_empty(device="cpu")
    return _dressed(net, sobel)


def _bare(name: str, sobel: bool, size: int) -> Network:
    """The module alone, on torch's meta device, where nothing is drawn, if its constructor can do that."""
    import torch

    channels, row = 2 if sobel else 3, BACKBONES.get(name)
    with torch.device("meta"):
        if row is not None and row.builder:
            module, _, function = row.builder.partition(":")
            return cast("Network", getattr(import_module(f"ucl.networks.{module}"), function)(channels))
        from ucl.networks import zoo

        if not name.startswith("regnet"):
            return zoo.torchvisions(name, channels, size or default_size(name))
    with keyed_stream(Key(), "unused"):  # RegNet computes its widths with tensors
        return zoo.torchvisions(name, channels, size or default_size(name))


def _dressed(net: Network, sobel: bool) -> Network:
    import torch

    if sobel:
        net.sobel = sobel_filter()
    net.register_forward_pre_hook(_filtered if sobel else _plain)
    return net.train().to(memory_format=torch.channels_last)


def _plain(net: nn.Module, args: tuple[Any, ...]) -> torch.Tensor:
    import torch

    x: torch.Tensor = args[0].contiguous(memory_format=torch.channels_last)
    return x


def _filtered(net: nn.Module, args: tuple[Any, ...]) -> torch.Tensor:
    import torch

    with torch.autocast(args[0].device.type, enabled=False):  # differences of neighbours want all their bits
        x: torch.Tensor = cast("nn.Module", net.sobel)(args[0].float())
    return x.contiguous(memory_format=torch.channels_last)


def sobel_filter() -> nn.Sequential:
    """DeepCluster's front end: the plain mean of the normalised channels, then its horizontal and its vertical derivative.

    Two fixed convolutions, (B, 3, H, W) to (B, 2, H, W); part of the state (``sobel.0.*``, ``sobel.1.*``), never trained.
    """
    import torch
    from torch import nn

    grey: nn.Conv2d = nn.utils.skip_init(nn.Conv2d, 3, 1, 1)  # type: ignore[no-untyped-call]
    derivatives: nn.Conv2d = nn.utils.skip_init(nn.Conv2d, 1, 2, 3, padding=1)  # type: ignore[no-untyped-call]
    across = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])
    with torch.no_grad():
        grey.weight.fill_(1 / 3)
        derivatives.weight.copy_(torch.stack([across, across.T])[:, None])
        for layer in (grey, derivatives):
            nn.init.zeros_(cast("torch.Tensor", layer.bias))
    return nn.Sequential(grey, derivatives).requires_grad_(False)


def facts(name: str, size: int) -> Backbone:
    """A row for the table, counted from the network itself: dimension, layers, and time from its operations."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    net = empty(name, sobel=False, size=size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net.eval()(torch.zeros(1, 3, size, size))
    seconds = 4 * counter.get_total_flops() / CPU_RATE  # an epoch is a forward pass to extract, and a training step worth three
    return Backbone("", size, net.feature_dim, seconds * (32 / size) ** 2, tuple(net.points), f"torchvision's {name}")


def initialise(module: nn.Module, key: Key, linear_std: float = 0.0) -> None:
    """Draw every convolution and linear weight by its name; batch norms start as 1 and 0.

    Args:
        module: changed in place; on the CPU.
        key: what the draw belongs to.
        linear_std: of linear layers; 0 = He normal, fan-in.
    """
    from torch import nn

    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d):
            _draw(layer, name, _fan_out(layer), key)
        elif isinstance(layer, nn.Linear):
            _draw(layer, name, linear_std or math.sqrt(2.0 / layer.in_features), key)
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.reset_parameters()


def _fan_out(layer: nn.Conv2d) -> float:
    return math.sqrt(2.0 / (layer.out_channels * layer.kernel_size[0] * layer.kernel_size[1] / layer.groups))


def _draw(layer: nn.Conv2d | nn.Linear, name: str, std: float, key: Key) -> None:
    """Weight N(0, std) keyed by the layer's name, drawn in logical order, whatever the memory format; bias 0."""
    import torch
    from torch import nn

    weight = torch.empty(tuple(layer.weight.shape))
    weight.normal_(0.0, std, generator=generator(key, f"init/{name}.weight"))
    with torch.no_grad():
        layer.weight.copy_(weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)

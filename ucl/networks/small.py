"""Networks for small views: `convnet`, and ResNet-18 with a stem for 32 pixels or for 96."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from ucl.networks.taps import Point

if TYPE_CHECKING:
    import torch
    from torch import nn

_WIDTHS = (64, 128, 128, 256, 256)
_STRIDES = (2, 2, 1, 2, 1)


def convnet(channels: int) -> nn.Module:
    """Five 3x3 convolutions, average pool, linear 256, batch norm, ReLU."""
    return _convnet()(channels)


@cache
def _convnet() -> type[nn.Module]:  # one class, so that all such networks share what torch.compile makes
    from torch import nn

    class ConvNet(nn.Module):
        feature_dim = 256

        def __init__(self, channels: int) -> None:
            super().__init__()
            layers: list[nn.Module] = []
            before = channels
            for width, stride in zip(_WIDTHS, _STRIDES, strict=True):
                layers += [nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                before = width
            self.trunk = nn.Sequential(*layers)
            self.fc = nn.Linear(before, self.feature_dim, bias=False)
            self.norm = nn.BatchNorm1d(self.feature_dim)
            self.points = {f"conv{i + 1}": Point(f"trunk.{3 * i + 2}") for i in range(len(_WIDTHS))} | {"fc": Point("")}
            self.before_relu, self.width_last = Point("norm"), False

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.norm(self.fc(self.trunk(x).mean((2, 3))))
            return out.relu()

    return ConvNet


def resnet18(channels: int) -> nn.Module:
    """torchvision's ResNet-18 with the 32-pixel stem (SimCLR, appendix B.9)."""
    from torch import nn

    from ucl.networks import zoo

    net = zoo.torchvisions("resnet18", 3, 32)
    net.conv1 = nn.Conv2d(channels, 64, 3, 1, 1, bias=False)
    net.maxpool = nn.Identity()
    return net


def resnet18_stl(channels: int) -> nn.Module:
    """The same with a maximum over 2 x 2 behind the stem: 96 pixels become 49 (SCAN's released code, for STL-10)."""
    from torch import nn

    net = resnet18(channels)
    net.maxpool = nn.MaxPool2d(2, 2, 1)
    return net

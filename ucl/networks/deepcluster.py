"""AlexNet and VGG-16 with batch norm, as in DeepCluster's released code (models/alexnet.py, models/vgg16.py), and an AlexNet for 32 pixels.

The state dict has the released code's keys: ``features.N.*`` and ``classifier.N.*``, without the top layer.  Beyond that code,
a view of another size than 224 is taken too: the last map is averaged to the side that the classifier wants.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from ucl.networks.taps import Point

if TYPE_CHECKING:
    import torch
    from torch import nn

# One entry a layer: (width, kernel, stride, padding) of a convolution, or (kernel, stride) of a max-pool.
Layer = tuple[int, ...]
_ALEXNET: list[Layer] = [(96, 11, 4, 2), (3, 2), (256, 5, 1, 2), (3, 2), (384, 3, 1, 1), (384, 3, 1, 1), (256, 3, 1, 1), (3, 2)]
_ALEXNET_32: list[Layer] = [(64, 3, 1, 1), (2, 2), (192, 3, 1, 1), (2, 2), (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1), (2, 2)]
_VGG16: list[Layer] = [(w, 3, 1, 1) if w else (2, 2) for w in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)]


def alexnet(channels: int) -> nn.Module:
    """AlexNet without groups and local normalisation, batch norm after each convolution; 224 px give maps of 55, 27, 13, 13, 13, 6."""
    return _network(channels, _ALEXNET, 6, 4096, dropout_first=True)


def alexnet_32(channels: int) -> nn.Module:
    """AlexNet's widths with 3x3 convolutions of stride 1 and 2x2 pools, and layers of 1024; 32 px give maps of 32, 16, 8, 8, 8, 4."""
    return _network(channels, _ALEXNET_32, 4, 1024, dropout_first=True)


def vgg16(channels: int) -> nn.Module:
    """VGG-16 (configuration D) with batch norm; no dropout before fc6."""
    return _network(channels, _VGG16, 7, 4096, dropout_first=False)


def _network(channels: int, plan: list[Layer], side: int, width: int, *, dropout_first: bool) -> nn.Module:
    return _class()(channels, plan, side, width, dropout_first)


@cache
def _class() -> type[nn.Module]:  # one, so that all such networks share what torch.compile makes
    from torch import nn

    from ucl.networks.pool import even_pool

    class Network(nn.Module):
        def __init__(self, channels: int, plan: list[Layer], side: int, width: int, dropout_first: bool) -> None:
            super().__init__()
            layers: list[nn.Module] = []
            before = channels
            for layer in plan:
                if len(layer) == 2:
                    layers.append(nn.MaxPool2d(layer[0], layer[1]))
                    continue
                layers += [nn.Conv2d(before, layer[0], layer[1], layer[2], layer[3]), nn.BatchNorm2d(layer[0]), nn.ReLU(inplace=True)]
                before = layer[0]
            self.features = nn.Sequential(*layers)
            first: list[nn.Module] = [nn.Dropout(0.5)] if dropout_first else []
            self.classifier = nn.Sequential(*first, nn.Linear(before * side * side, width), nn.ReLU(inplace=True),
                                            nn.Dropout(0.5), nn.Linear(width, width), nn.ReLU(inplace=True))
            self.feature_dim, self.side = width, side
            at = len(first)
            self.points = trunk_points(self.features) | {"fc6": Point(f"classifier.{at + 1}"), "fc7": Point("")}
            self.before_relu, self.width_last = Point(f"classifier.{at + 3}"), False

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.classifier(even_pool(self.features(x), self.side).flatten(1))
            return out

    return Network


def trunk_points(trunk: nn.Sequential) -> dict[str, Point]:
    """``conv1``, ``pool1``, ...: the last module before the next convolution or pool, so a convolution's batch norm and ReLU count to it."""
    from torch import nn

    points: dict[str, Point] = {}
    name, convs, pools = "", 0, 0
    for number, module in enumerate(trunk):
        if isinstance(module, nn.Conv2d):
            convs += 1
            name = f"conv{convs}"
        elif isinstance(module, nn.MaxPool2d):
            pools += 1
            name = f"pool{pools}"
        points[name] = Point(f"features.{number}")
    return points

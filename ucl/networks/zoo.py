"""torchvision's classification models as backbones: without their last linear layer, with torchvision's own keys.

SqueezeNet's classifier is a convolution; it goes with its ReLU, and the averages of the last map are the features.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, cast

from ucl.errors import UsageError
from ucl.networks.deepcluster import trunk_points
from ucl.networks.pool import pool_class
from ucl.networks.table import RESNET_LAYERS
from ucl.networks.taps import Point

if TYPE_CHECKING:
    from torch import nn

    from ucl.networks.taps import Network


@cache
def names() -> tuple[str, ...]:
    """Names of all classification models that the installed torchvision has."""
    from torchvision import models  # type: ignore[import-untyped]

    return tuple(models.list_models(module=models))


def torchvisions(name: str, channels: int, size: int) -> Network:
    """A model of torchvision whose output is what its last linear layer was given.

    Args:
        name: torchvision's name.
        channels: of the images; another number than 3 makes another first convolution.
        size: side of the views; the position embedding of a vision transformer depends on it.

    Raises:
        UsageError: a transformer whose patches do not divide the size.
    """
    from torch import nn
    from torchvision import models

    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "init_weights": True}
    elif name.startswith("vit_"):
        options = {"image_size": size}
    elif name.startswith("maxvit"):
        options = {"input_size": (size, size)}
    try:
        net = cast("Network", models.get_model(name, weights=None, **options))
    except (ValueError, AssertionError, RuntimeError) as error:
        if "size" not in str(options):
            raise
        raise UsageError(f"{name}: cannot take views of {size} pixels: {error}", "--size 224 fits every one of them") from error
    path, last = [(p, m) for p, m in net.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
    net.set_submodule(path, nn.Identity())
    net.final = path
    if isinstance(last, nn.Conv2d):
        net.set_submodule("classifier.2", nn.Identity())
    net.feature_dim = last.in_channels if isinstance(last, nn.Conv2d) else last.in_features
    if channels != 3:
        _narrow(net, channels)
    if name.startswith(("vgg", "alexnet")):
        net.avgpool = pool_class()(6 if name == "alexnet" else 7)
    net.points, net.before_relu = _points(net, name), Point("features") if name.startswith("densenet") else None
    net.width_last = name.startswith("swin")
    return net


def first_convolution(net: nn.Module) -> tuple[str, nn.Conv2d]:
    """Path and module of the convolution that sees the image; every model of torchvision begins with one."""
    from torch import nn

    return next((path, m) for path, m in net.named_modules() if isinstance(m, nn.Conv2d))


def _narrow(net: nn.Module, channels: int) -> None:
    from torch import nn

    path, old = first_convolution(net)
    size, stride, padding = (cast("tuple[int, int]", v) for v in (old.kernel_size, old.stride, old.padding))
    net.set_submodule(path, nn.Conv2d(channels, old.out_channels, size, stride, padding, bias=old.bias is not None))


def _points(net: nn.Module, name: str) -> dict[str, Point]:
    """Short names where torchvision's model has natural ones; any module's path works beside them."""
    from torch import nn

    if hasattr(net, "layer4"):
        return dict(zip(RESNET_LAYERS, [Point(p) for p in ("relu", "layer1", "layer2", "layer3", "layer4", "avgpool")], strict=True))
    if name.startswith(("vgg", "alexnet")):
        relus = [path for path, m in net.named_modules() if isinstance(m, nn.ReLU) and path.startswith("classifier")]
        return trunk_points(cast("nn.Sequential", net.features)) | {"fc6": Point(relus[0]), "fc7": Point(relus[1])}
    if name.startswith("swin"):
        return {path: Point(path) for path in ("features", "norm")}
    top = [path for path, m in net.named_children() if path not in ("fc", "head", "heads", "classifier")]
    return {path: Point(path) for path in top}


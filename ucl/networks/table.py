"""The table of backbones, as data: ``--help``, plans and manual pages read it without torch.

Beside its rows, every classification model of torchvision is a backbone, by torchvision's own name.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from ucl.errors import UsageError
from ucl.settings import CIFAR_MEAN, CIFAR_STD

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Backbone:
    """One backbone.

    Attributes:
        builder: "module:function" under `ucl.networks` that makes the module, given the number of input channels; "" = torchvision's.
        size: side of the images it is meant for, the default of ``--size``.
        dim: dimension of its features.
        cpu_seconds: rule of thumb for an epoch's extraction and training, in seconds per image of 32 px on 2 CPU threads.
        layers: names for ``--layer``, from the images to the features.
        help: one line.
        mean, std: of the channels, of values in 0 to 1: the images it is usually given.
        linear_std: standard deviation of its linear layers' initial weights; 0 = He normal, fan-in.
    """

    builder: str
    size: int
    dim: int
    cpu_seconds: float
    layers: tuple[str, ...]
    help: str
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    linear_std: float = 0.0


def _numbered(stem: str, count: int) -> tuple[str, ...]:
    return tuple(f"{stem}{i + 1}" for i in range(count))


RESNET_LAYERS = ("stem", *_numbered("layer", 4), "pool")
_ALEXNET_LAYERS = ("conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool3", "fc6", "fc7")
_VGG_LAYERS = ("conv1", "conv2", "pool1", "conv3", "conv4", "pool2", "conv5", "conv6", "conv7", "pool3", "conv8", "conv9", "conv10", "pool4",
               "conv11", "conv12", "conv13", "pool5", "fc6", "fc7")

BACKBONES: dict[str, Backbone] = {
    "convnet": Backbone("small:convnet", 32, 256, 0.0007, (*_numbered("conv", 5), "fc"),
                        "5 convolutions with a stride-2 stem, for CPU-sized work; any size from 16", CIFAR_MEAN, CIFAR_STD),
    "resnet18-32": Backbone("small:resnet18", 32, 512, 0.03, RESNET_LAYERS,
                            "ResNet-18 with the 32-pixel stem (3x3, stride 1, no max-pool)", CIFAR_MEAN, CIFAR_STD),
    "resnet18-96": Backbone("small:resnet18_stl", 96, 512, 0.008, RESNET_LAYERS,
                            "ResNet-18 with SCAN's 96-pixel stem for STL-10 (3x3, stride 1, max-pool 2x2)"),
    "alexnet-32": Backbone("deepcluster:alexnet_32", 32, 1024, 0.009, _ALEXNET_LAYERS,
                           "AlexNet for 32 pixels: 3x3 convolutions with batch norm, two layers of 1024", CIFAR_MEAN, CIFAR_STD, 0.01),
    "alexnet-bn": Backbone("deepcluster:alexnet", 224, 4096, 0.0012, _ALEXNET_LAYERS,
                           "DeepCluster's AlexNet with batch norm; from 63 pixels", linear_std=0.01),
    "vgg16-bn": Backbone("deepcluster:vgg16", 224, 4096, 0.017, _VGG_LAYERS,
                         "DeepCluster's VGG-16 with batch norm; from 32 pixels", linear_std=0.01),
    "resnet18": Backbone("", 224, 512, 0.002, RESNET_LAYERS, "torchvision's ResNet-18"),
    "resnet50": Backbone("", 224, 2048, 0.0045, RESNET_LAYERS, "torchvision's ResNet-50"),
}

# Models of torchvision whose published weights were trained for another size than 224 (their pages in torchvision's documentation).
_SIZES = {"inception_v3": 299, "efficientnet_b1": 240, "efficientnet_b2": 288, "efficientnet_b3": 300, "efficientnet_b4": 380,
          "efficientnet_b5": 456, "efficientnet_b6": 528, "efficientnet_b7": 600, "efficientnet_v2_s": 384, "efficientnet_v2_m": 480,
          "efficientnet_v2_l": 480}


def known(name: str) -> None:
    """Refuse a name that is neither in `BACKBONES` nor, which imports torchvision, one of torchvision's classification models.

    Raises:
        UsageError: naming the nearest ones that are.
    """
    if name in BACKBONES:
        return
    from ucl.networks import zoo

    theirs = zoo.names()
    if name not in theirs:
        near = difflib.get_close_matches(name, [*BACKBONES, *theirs], n=3, cutoff=0.5)
        some = "did you mean " + " or ".join(near) + "? " if near else ""
        raise UsageError(f"no backbone is called {name!r}", f"{some}one of {', '.join(BACKBONES)}, or a name of torchvision's: ucl doctor")


def facts(name: str) -> Backbone:
    """The row of a backbone; for a model of torchvision one that is made now, from its shape.

    Raises:
        UsageError: no such backbone.
    """
    known(name)
    if name in BACKBONES:
        return BACKBONES[name]
    from ucl.networks import build

    return build.facts(name, default_size(name))


def default_size(name: str) -> int:
    """Side of a view where none is named, in pixels; needs no torch and takes any name."""
    return BACKBONES[name].size if name in BACKBONES else _SIZES.get(name, 224)


def view_defaults(name: str) -> dict[str, object]:
    """``size``, ``mean`` and ``std`` of `InitSettings` where none is named; needs no torch and takes any name."""
    row = BACKBONES.get(name)
    return {"size": default_size(name), "mean": row.mean if row else IMAGENET_MEAN, "std": row.std if row else IMAGENET_STD}

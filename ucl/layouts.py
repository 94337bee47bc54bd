"""How other people name a network's tensors: key maps between a checkpoint and a state dict, both ways.

A checkpoint has ``backbone.<key>`` and, if it has one, ``head.weight`` (K, D) and ``head.bias`` (K,).  The layouts:

    torchvision   torchvision's own keys; the head is the network's last linear layer (``fc``, ``classifier.6``, ...)
    timm          timm's own keys (Wightman, "PyTorch Image Models"): ResNets as torchvision's; of VGG the two hidden linear
                  layers are convolutions ``pre_logits.fc1`` (4096, 512, 7, 7) and ``pre_logits.fc2``, the head is ``head.fc``
    deepcluster   as the released code (Caron et al., ECCV 2018) names them: ``sobel.N``, ``features.N``, ``classifier.N``,
                  ``top_layer``; in its files a DataParallel around the features makes the second ``features.module.N``
    ucl           as in the checkpoint

Names and arrays only: nothing here builds a network.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from ucl.errors import UsageError

Arrays = dict[str, NDArray[Any]]

LAYOUTS = ("torchvision", "timm", "deepcluster", "ucl")
PLAIN = "plain"
"""A checkpoint's keys without ``backbone.``: what a script that uses `ucl.models` itself would save; read, never written."""

HEAD = ("head.weight", "head.bias")
ARCHITECTURES = {"alexnet-bn": "alexnet", "vgg16-bn": "vgg16"}
"""Backbones of the released DeepCluster code, and what its files call them."""

TIMM = frozenset({"resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2",
                  "resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d",
                  "vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"})
"""Networks of torchvision that timm has under the same name, with the same computation."""

SMALL_STEMS = {"resnet18-32": "Identity()", "resnet18-96": "MaxPool2d(2, 2, 1)"}
"""torchvision's ResNet-18 with another first convolution, and with this in place of its max-pooling."""
_VGG_AS_TIMM = {"classifier.0": "pre_logits.fc1", "classifier.3": "pre_logits.fc2"}
_VGG_SHAPES = {"pre_logits.fc1.weight": (7, 7), "pre_logits.fc2.weight": (1, 1)}


@dataclass(frozen=True)
class Names:
    """What a key map must know of a backbone.

    Attributes:
        backbone: its name.
        final: of torchvision's networks, its path of the last layer, in whose place our head is; "" for others.
        sobel: whether it has DeepCluster's Sobel front end.
        folded: whether that is folded into its first convolution, whose kernel is larger then.
    """

    backbone: str
    final: str = ""
    sobel: bool = False
    folded: bool = False

    def twin(self, layout: str) -> str:
        """The network of another library that has these tensors in ``layout``, "" if there is none."""
        name = {"vgg16-bn": "vgg16_bn", **dict.fromkeys(SMALL_STEMS, "resnet18")}.get(self.backbone, self.backbone if self.final else "")
        if layout in ("ucl", PLAIN):
            return self.backbone
        if self.folded:
            return ""
        if layout == "deepcluster":
            return ARCHITECTURES.get(self.backbone, "")
        if self.sobel or (layout == "timm" and name not in TIMM):
            return ""
        return name

    def remark(self, layout: str) -> str:
        """What the twin must be changed in before it takes the tensors; "" for nothing."""
        if self.backbone in SMALL_STEMS and layout in ("torchvision", "timm"):
            return (f"{layout}'s resnet18 takes them with another stem: conv1 = Conv2d(3, 64, 3, 1, 1, bias=False), "
                    f"maxpool = {SMALL_STEMS[self.backbone]}")
        return ""

    def choose(self, layout: str) -> str:
        """``layout``, or for "auto" the one its own authors use.

        Raises:
            UsageError: no network of that layout's library has these tensors.
        """
        if layout == "auto":
            return next(x for x in (("deepcluster", "torchvision", "ucl") if self.backbone in ARCHITECTURES else LAYOUTS) if self.twin(x))
        if not self.twin(layout):
            have = {"timm": ", ".join(sorted(TIMM)), "deepcluster": ", ".join(ARCHITECTURES),
                    "torchvision": "torchvision's own networks, resnet18-32, resnet18-96, and vgg16-bn without Sobel"}[layout]
            found = self.backbone + (" with the Sobel front end" if self.sobel else " with the Sobel filter folded in" if self.folded else "")
            raise UsageError(f"--layout {layout}: {found} has no twin in that layout", f"those that have: {have}; --layout ucl takes any")
        return layout

    def takes_head(self, layout: str) -> bool:
        """Whether the twin computes what our head computes: SqueezeNet's last layer is a convolution before a ReLU and a mean,
        MaxViT's has no bias."""
        return layout == "ucl" or not self.backbone.startswith(("squeezenet", "maxvit"))

    @property
    def _head(self) -> str:
        return {"vgg16-bn": "classifier.6", **dict.fromkeys(SMALL_STEMS, "fc")}.get(self.backbone, self.final)

    def outside(self, layout: str, key: str) -> str:
        """The name in ``layout`` of the checkpoint's tensor ``key``."""
        if layout == "ucl":
            return key
        module, _, kind = key.rpartition(".")
        if module == "head":
            heads = {"torchvision": self._head, "timm": self._timm_head, "deepcluster": "top_layer", PLAIN: "head"}
            return f"{heads[layout]}.{kind}"
        plain = key.removeprefix("backbone.")
        if layout == "timm" and self._vgg:
            module, _, kind = plain.rpartition(".")
            return f"{_VGG_AS_TIMM.get(module, module)}.{kind}"
        return plain

    @property
    def _vgg(self) -> bool:
        return self.backbone.startswith("vgg")

    @property
    def _timm_head(self) -> str:
        return "head.fc" if self._vgg else self._head


def encode(names: Names, layout: str, tensors: Mapping[str, NDArray[Any]]) -> Arrays:
    """A checkpoint's tensors as a state dict in ``layout``; the released files' ``features.module`` included."""
    found: Arrays = {}
    for key, value in tensors.items():
        name = names.outside(layout, key)
        if layout == "timm" and name in _VGG_SHAPES:
            value = value.reshape(len(value), -1, *_VGG_SHAPES[name])
        if layout == "deepcluster" and name.startswith("features."):
            name = f"features.module.{name.removeprefix('features.')}"
        found[name] = value
    return found


def decode(names: Names, layout: str, keys: Iterable[str], state: Mapping[str, NDArray[Any]]) -> Arrays:
    """Those of a checkpoint's ``keys`` that a state dict in ``layout`` has; ``features.N`` is expected without ``module``."""
    found: Arrays = {}
    for key in keys:
        name = names.outside(layout, key)
        if name not in state:
            continue
        value = state[name]
        if layout == "timm" and name in _VGG_SHAPES and value.shape[2:] == _VGG_SHAPES[name]:
            value = value.reshape(len(value), -1)
        found[key] = value
    return found

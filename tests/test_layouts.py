"""Key maps: to torchvision, timm and the released DeepCluster files, and back."""

import numpy as np
import pytest

from ucl.errors import UsageError
from ucl.layouts import LAYOUTS, Names, decode, encode


def tensors(*keys: str) -> dict[str, np.ndarray]:
    return {k: np.full((2, 3), i, np.float32) for i, k in enumerate(keys)}


RESNET = tensors("backbone.conv1.weight", "backbone.layer1.0.bn1.bias", "head.weight", "head.bias")
VGG = {"backbone.features.0.weight": np.zeros((64, 3, 3, 3), np.float32),
       "backbone.classifier.0.weight": np.arange(4 * 25088, dtype=np.float32).reshape(4, 25088),
       "backbone.classifier.3.weight": np.arange(16, dtype=np.float32).reshape(4, 4), "backbone.classifier.3.bias": np.zeros(4, np.float32),
       "head.weight": np.zeros((7, 4), np.float32), "head.bias": np.zeros(7, np.float32)}


def test_resnets() -> None:
    names = Names("resnet50", "fc")
    for layout in ("torchvision", "timm"):
        assert list(encode(names, layout, RESNET)) == ["conv1.weight", "layer1.0.bn1.bias", "fc.weight", "fc.bias"]
    assert list(encode(names, "ucl", RESNET)) == list(RESNET)
    assert names.choose("auto") == "torchvision"


def test_vgg_for_timm() -> None:
    made = encode(Names("vgg16_bn", "classifier.6"), "timm", VGG)
    assert {k: v.shape for k, v in made.items()} == {
        "features.0.weight": (64, 3, 3, 3), "pre_logits.fc1.weight": (4, 512, 7, 7), "pre_logits.fc2.weight": (4, 4, 1, 1),
        "pre_logits.fc2.bias": (4,), "head.fc.weight": (7, 4), "head.fc.bias": (7,)}
    assert made["pre_logits.fc1.weight"][1, 2, 3, 4] == 25088 + 2 * 49 + 3 * 7 + 4      # torchvision flattens (512, 7, 7)


def test_deepcluster() -> None:
    own = tensors("backbone.sobel.0.weight", "backbone.features.0.weight", "backbone.features.12.bias", "backbone.classifier.4.bias",
                  "head.weight", "head.bias")
    assert list(encode(Names("alexnet-bn", sobel=True), "deepcluster", own)) == [
        "sobel.0.weight", "features.module.0.weight", "features.module.12.bias", "classifier.4.bias", "top_layer.weight", "top_layer.bias"]
    assert Names("alexnet-bn").choose("auto") == "deepcluster"
    assert list(encode(Names("vgg16-bn"), "torchvision", VGG))[-2:] == ["classifier.6.weight", "classifier.6.bias"]


@pytest.mark.parametrize(("names", "own"), [(Names("resnet50", "fc"), RESNET), (Names("vgg16_bn", "classifier.6"), VGG),
                                            (Names("vgg16-bn"), VGG), (Names("alexnet-bn", sobel=True), VGG), (Names("convnet"), RESNET)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_there_and_back(names: Names, own: dict[str, np.ndarray], layout: str) -> None:
    if not names.twin(layout):
        with pytest.raises(UsageError, match=f"--layout {layout}: {names.backbone}.* has no twin"):
            names.choose(layout)
        return
    outside = {k.replace("features.module.", "features."): v for k, v in encode(names, layout, own).items()}
    assert len(outside) == len(own)
    back = decode(names, layout, own, outside)
    assert list(back) == list(own)
    assert all(np.array_equal(back[k], own[k]) for k in own)


def test_what_has_no_twin() -> None:
    assert not Names("vgg16-bn", sobel=True).twin("torchvision")        # conv1 has two input channels
    assert not Names("vgg16-bn", sobel=True).twin("timm")
    assert not Names("alexnet-bn").twin("torchvision")                  # torchvision's has no batch norm
    assert not Names("mobilenet_v2", "classifier.1").twin("timm")       # timm's has other keys
    assert Names("mobilenet_v2", "classifier.1").twin("torchvision") == "mobilenet_v2"
    with pytest.raises(UsageError) as told:
        Names("mobilenet_v2", "classifier.1").choose("timm")
    assert "resnet50" in told.value.hint
    assert "Conv2d(3, 64, 3, 1, 1" in Names("resnet18-32", "fc").remark("torchvision")
    assert "MaxPool2d(2, 2, 1)" in Names("resnet18-96", "fc").remark("timm")
    assert Names("resnet18", "fc").remark("torchvision") == ""

"""Key names of published checkpoints of pretext tasks, on state dicts made up with these names: what is taken and what is left behind.

Names as their authors' code gives them: OpenSelfSup and MMSelfSup (``backbone``, ``neck``, ``head``, ``sobel_layer.sobel``; MoCo's two
encoders beside an alias of the first), VISSL (``_feature_blocks`` in nested dicts), DeeperCluster (``body``, ``pred_layer``), SwAV and
DeepCluster-v2 (``projection_head``, ``prototypes``), UIC (``head``, ``fc``).
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ucl import pretrained, weights
from ucl.errors import DataError
from ucl.weights import Weights

VIEW: dict[str, Any] = {"size": 64, "mean": [0.5] * 3, "std": [0.2] * 3}


def own(backbone: str, *, sobel: bool = False, pick: str = "") -> dict[str, np.ndarray]:
    """Tensors of a network by its own keys, all different."""
    _, wanted, _ = pretrained.shapes(backbone, 64, sobel=sobel)
    return {k: np.full(shape, i % 97, dtype) for i, (k, (shape, dtype)) in enumerate(wanted.items()) if "sobel" not in k and pick in k}


def under(prefix: str, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {prefix + k: v for k, v in state.items()}


def more(*keys: str) -> dict[str, np.ndarray]:
    return {k: np.ones((4, 4), np.float32) for k in keys}


def sobel(prefix: str) -> dict[str, np.ndarray]:
    return under(prefix, {k.removeprefix("sobel."): v for k, v in pretrained._filter().items()})


def taken(state: dict[str, np.ndarray], backbone: str = "resnet18", **asked: Any) -> tuple[Any, Any]:
    found = Weights("w.pth", state, "")
    return pretrained.checkpoint(backbone, found, pretrained.known(found, backbone), **VIEW, head="drop", **asked)


RESNET = own("resnet18")
NECK = more("neck.fc0.weight", "neck.fc0.bias", "neck.bn0.running_mean", "neck.fc1.weight", "head.fc_cls.weight", "head.fc_cls.bias")

PUBLISHED: dict[str, dict[str, np.ndarray]] = {
    "odc": under("backbone.", RESNET) | NECK | more("loss_weight"),
    "odc of several GPUs": under("module.", under("backbone.", RESNET) | NECK),
    "backbone alone": RESNET,
    "moco": under("encoder_q.0.", RESNET) | under("encoder_k.0.", {k: v + 1 for k, v in RESNET.items()}) | under("backbone.", RESNET)
    | more("encoder_q.1.mlp.0.weight", "encoder_k.1.mlp.0.weight", "queue", "queue_ptr"),
    "npid": under("backbone.", RESNET) | more("neck.fc.weight", "memory_bank.feature_bank"),
    "rotation": under("backbone.", RESNET) | more("head.fc_cls.weight", "head.fc_cls.bias"),
    "deepcluster-v2": under("module.", RESNET) | more("module.projection_head.0.weight", "module.projection_head.3.weight",
                                                      "module.prototypes.prototypes0.weight"),
    "uic": under("module.", RESNET) | more("module.head.0.weight", "module.head.1.running_var", "module.head.3.weight", "module.fc.weight",
                                           "module.fc.bias", "module.linear.weight"),
    "vissl": under("_feature_blocks.", RESNET),
    "vissl, flat": under("trunk._feature_blocks.", RESNET) | more("heads.0.clf.0.weight"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_resnets(name: str) -> None:
    made, fitted = taken(PUBLISHED[name])
    assert {k.removeprefix("backbone.") for k in made.model} == set(RESNET)
    assert all(np.array_equal(made.model[f"backbone.{k}"], v) for k, v in RESNET.items())
    left = set(PUBLISHED[name]) - set(fitted.left_out)                  # one key for each tensor, and nothing said twice
    assert len(left) == len(fitted.tensors) == len(RESNET)
    assert len({k.removesuffix("conv1.weight") for k in left if k.endswith("conv1.weight") and "layer" not in k}) == 1


def test_a_head_on_something_else_is_not_taken_for_one_on_the_features() -> None:
    """UIC's ``fc`` stands on its hidden layers, whose width is that of the features."""
    found = Weights("w.pth", PUBLISHED["uic"], "")
    with pytest.raises(DataError) as told:
        pretrained.checkpoint("resnet18", found, {}, **VIEW)
    assert "--head drop" in told.value.hint


def test_vissls_file(tmp_path: Path) -> None:
    trunk = {f"_feature_blocks.{k}": torch.from_numpy(v) for k, v in RESNET.items()}
    torch.save({"phase_idx": 3, "classy_state_dict": {"base_model": {"model": {"trunk": trunk, "heads": {"0.clf.weight": torch.ones(3)}},
                                                                     "meta": {}}}}, tmp_path / "w.torch")
    found = weights.read(tmp_path / "w.torch", "w.torch")
    assert found.beside == ["phase_idx", "meta", "heads"]
    made, _ = pretrained.checkpoint("resnet18", found, {}, **VIEW, head="drop")
    assert np.array_equal(made.model["backbone.conv1.weight"], RESNET["conv1.weight"])


BEHIND = own("resnet18", sobel=True)
FILTERED: dict[str, dict[str, np.ndarray]] = {
    "filter beside the backbone": under("backbone.", BEHIND) | sobel("sobel_layer.sobel.") | NECK,
    "on several GPUs": under("module.", under("backbone.", BEHIND) | sobel("sobel_layer.sobel.")),
    "backbone alone, the filter left out": BEHIND,
}


@pytest.mark.parametrize("name", FILTERED)
def test_resnets_behind_the_filter(name: str) -> None:
    """The filter is found wherever it stands, or put in; without asking for it the file is refused."""
    assert pretrained.known(Weights("w", FILTERED[name], ""), "resnet18") == {"sobel": True}
    made, fitted = taken(FILTERED[name], sobel=True)
    assert all(np.array_equal(made.model[f"backbone.{k}"], v) for k, v in sobel("sobel.").items())
    assert np.array_equal(made.model["backbone.conv1.weight"], BEHIND["conv1.weight"])
    assert ("the Sobel filter, which the file leaves out, is put in front" in fitted.notes) is ("left out" in name)
    assert not any("sobel" in key for key in fitted.left_out)
    with pytest.raises(DataError, match=r"conv1\.weight is 64x2x7x7, wanted 64x3x7x7"):
        taken(FILTERED[name])
    made, fitted = taken(FILTERED[name], fold=True)
    assert made.model["backbone.conv1.weight"].shape == (64, 3, 9, 9)
    assert made.config["fold_sobel"]


def test_half_a_filter_is_refused() -> None:
    state = under("backbone.", BEHIND) | sobel("sobel_layer.sobel.")
    del state["sobel_layer.sobel.1.bias"]
    with pytest.raises(DataError, match=r"1 missing \(backbone\.sobel\.1\.bias\)"):
        taken(state, sobel=True)


def test_another_filter_than_the_papers_is_kept() -> None:
    """What the file has counts, not the constants."""
    state = under("backbone.", BEHIND) | {k: v * 2 for k, v in sobel("sobel_layer.sobel.").items()}
    made, _ = taken(state, sobel=True)
    assert np.array_equal(made.model["backbone.sobel.1.weight"], 2 * sobel("")["1.weight"])


@pytest.mark.slow
def test_deepercluster() -> None:
    """VGG-16 in DistributedDataParallel, the filter beside the body."""
    body = own("vgg16-bn", sobel=True)
    state = under("module.body.", body) | sobel("module.sobel.") | more("module.pred_layer.weight", "module.pred_layer.bias")
    made, fitted = taken(state, "vgg16-bn", sobel=True)
    assert fitted.left_out == ["module.pred_layer.weight", "module.pred_layer.bias"]
    assert all(np.array_equal(made.model[f"backbone.{k}"], v) for k, v in body.items())

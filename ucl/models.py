"""Backbones and heads: how they are built, what their features are, and how they become plain
arrays and come back.

The networks themselves are in `ucl.networks`; `BACKBONES` is data, so that ``--help`` and ``info`` can list it without torch, and
torch is imported by the functions.  Every draw is keyed: two builds with one key are equal bit for bit (`ucl.networks.build`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ucl.errors import DataError, UsageError
from ucl.keys import Key
from ucl.networks.table import BACKBONES, Backbone, facts, known, view_defaults
from ucl.settings import ExtractSettings

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import nn, optim

    from ucl.artifacts import Checkpoint
    from ucl.networks.taps import Network, Tap

__all__ = ["BACKBONES", "Backbone", "build", "check", "facts", "from_arrays", "head_stands_on", "known", "load_momentum", "momentum_arrays", "neck",
           "new_head", "new_projection", "part", "projection", "restore", "tap", "to_arrays", "under_head", "view_defaults"]

HEAD_STD = 0.01
"""Standard deviation of a fresh head's weights (DeepCluster's code, main.py)."""


def build(name: str, key: Key, *, sobel: bool = False, size: int = 0) -> Network:
    """A backbone with keyed initial values, in training mode, on the CPU, float32, memory format
    channels-last.

    Calling the module on (B, 3, size, size) views gives (B, ``feature_dim``) features, after the final ReLU where there is one;
    `tap` reads other layers.

    Args:
        name: a name in `BACKBONES`, or a classification model's in torchvision.
        key: what the draw belongs to.
        sobel: with DeepCluster's Sobel filter in front, as ``sobel.0.*`` and ``sobel.1.*`` of its state; not trained.
        size: side of the views, for transformers, whose position embedding depends on it; 0 = the backbone's own.

    Returns:
        The module.

    Raises:
        UsageError: if there is no such backbone, or it cannot take views of this size.
    """
    from ucl.networks.build import drawn

    return drawn(name, key, sobel=sobel, size=size)


def check(name: str, *, sobel: bool, size: int, settings: ExtractSettings, tops: Mapping[str, int] | None = None) -> int:
    """Refuse what could not be extracted, before any work; ``tops``: the dimensions of what stands on top of the network, 0 = nothing.

    Returns:
        Dimension of the features.

    Raises:
        UsageError: no such backbone, views of a size that it cannot take, or no such layer or map.
    """
    from ucl.networks.build import empty
    from ucl.networks.taps import Tap

    above = (tops or {}).get(settings.layer, 0)
    if above:
        Tap(empty(name, sobel=sobel, size=size), size)
        return above
    return Tap(empty(name, sobel=sobel, size=size), size, settings.layer, settings.map, final_relu=settings.final_relu).dim


def tap(network: Network, model: Checkpoint, settings: ExtractSettings) -> Tap:
    """What `extract` reads of a network: a function from views to rows, which knows its dimension.

    Args:
        network: of `restore`, on the CPU; it may be moved afterwards.
        model: its checkpoint, for the size of the views.
        settings: layer, map and final ReLU.

    Raises:
        UsageError: no such layer or map, or views of a size that the network cannot take.
    """
    from ucl.networks.taps import NECK, TOPS, Tap, Topped

    layer = settings.layer
    if layer not in TOPS:
        return Tap(network, int(model.config["size"]), layer, settings.map, final_relu=settings.final_relu)
    if settings.map != ExtractSettings.map:
        raise UsageError(f"map: the {layer} is a vector, there is no map to reduce", "leave it out")
    dim = int(network.feature_dim)
    top: nn.Module | None = neck(model, dim) if layer == NECK else projection(model, dim)
    if top is None:
        raise UsageError(f"layer: this checkpoint has no {layer}", f"--set init.{layer}={256 if layer == NECK else 128} where it is made; "
                         "or leave --layer out")
    out = len(model.model["neck.4.weight"]) if layer == NECK else int(model.config["projection"])
    return Topped(network, int(model.config["size"]), top, layer, out)


def neck(model: Checkpoint, d: int) -> nn.Sequential | None:
    """The neck of a checkpoint on features of ``d`` dimensions, in training mode; None if it has none."""
    from ucl.networks.neck import neck as of

    return of(part(model, "neck."), d, float(model.config.get("neck_dropout", 0.5)))


def under_head(model: Checkpoint, d: int) -> nn.Sequential | None:
    """What stands between features of ``d`` dimensions and a checkpoint's classifier: UIC's hidden layers, ODC's neck, or nothing."""
    from ucl.networks.mlp import mlp

    return neck(model, d) if model.config.get("head_on") == "neck" else mlp(part(model, "mlp."), d)


def head_stands_on(model: Checkpoint) -> str:
    """What `under_head` would give, in words: neck, hidden layers, or "" where the classifier takes the features themselves."""
    return "neck" if model.config.get("head_on") == "neck" else "hidden layers" if "mlp.0.weight" in model.model else ""


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


def new_projection(d: int, p: int, key: Key, init: str = "he") -> nn.Linear:
    """A fresh projection; rows are brought to unit length behind it.

    "he": weight N(0, 2 / d) (fan-in), bias 0.  "torch": weight and bias uniform in +-1 / sqrt(d), torch's default, which the released
    codes of IR, AND and PCP leave; the weight's variance is a sixth of He's.  Behind a normalisation the scale decides nothing but the
    speed at which the layer turns: with "torch" a step turns it six times as far, as long as its length stays.

    Args:
        d: feature dimension.
        p: dimension of the embedding.
        key: what the draw belongs to.
        init: "he" or "torch".
    """
    from torch import nn

    from ucl.device import generator

    made: nn.Linear = nn.utils.skip_init(nn.Linear, d, p)  # type: ignore[no-untyped-call]
    if init == "torch":
        for name, parameter in made.named_parameters():
            nn.init.uniform_(parameter, -(d ** -0.5), d ** -0.5, generator=generator(key, f"init/projection.{name}"))
        return made
    nn.init.normal_(made.weight, 0.0, (2 / d) ** 0.5, generator=generator(key, "init/projection.weight"))
    nn.init.zeros_(made.bias)
    return made


def projection(model: Checkpoint, d: int) -> nn.Module | None:
    """The projection of a checkpoint on features of ``d`` dimensions, of one layer or two; None if it has none.

    Raises:
        DataError: its tensors do not fit.
    """
    from torch import nn

    from ucl.networks.projector import projector

    arrays = part(model, "projection.")
    two = projector(arrays, d)
    if two is not None or not arrays:
        return two
    made: nn.Linear = nn.utils.skip_init(nn.Linear, d, int(model.config.get("projection", 0)))  # type: ignore[no-untyped-call]
    from_arrays(made, arrays)
    return made


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


def part(model: Checkpoint, prefix: str) -> dict[str, NDArray[Any]]:
    """The checkpoint's tensors whose name starts with ``prefix``, without it."""
    return {name[len(prefix):]: value for name, value in model.model.items() if name.startswith(prefix)}


def restore(model: Checkpoint) -> Network:
    """The backbone of a checkpoint, with its weights.

    Raises:
        DataError: the checkpoint names no known backbone, or its tensors do not fit it.
    """
    from ucl.networks.build import empty

    name = str(model.config.get("backbone"))
    try:
        known(name)
    except UsageError as error:
        raise DataError(f"checkpoint: backbone: found {name!r}, expected one of {', '.join(BACKBONES)}, or a model of torchvision's",
                        "a newer ucl may know it; ucl info shows the file") from error
    network = empty(name, sobel=bool(model.config.get("sobel", False)), size=int(model.config.get("size", 0)),
                    folded=bool(model.config.get("fold_sobel", False)))
    from_arrays(network, part(model, "backbone."))
    return network


BUFFERS = ("momentum_buffer", "exp_avg", "exp_avg_sq", "step")
"""What SGD and Adam keep of each parameter; the last is a number."""


def momentum_arrays(optimizer: optim.Optimizer, module: nn.Module, prefix: str) -> dict[str, NDArray[Any]]:
    """An optimizer's buffers as ``<prefix><parameter>/<buffer>`` -> array; none where it has none."""
    found = {}
    for name, parameter in module.named_parameters():
        for kind in BUFFERS:
            buffer = optimizer.state.get(parameter, {}).get(kind)
            if buffer is not None:
                found[f"{prefix}{name}/{kind}"] = buffer.detach().cpu().contiguous().numpy().copy()
    return found


def load_momentum(optimizer: optim.Optimizer, module: nn.Module, arrays: Mapping[str, NDArray[Any]], prefix: str) -> None:
    """Put the buffers of `momentum_arrays` back.

    Raises:
        DataError: a buffer of another shape than its parameter.
    """
    import torch

    for name, parameter in module.named_parameters():
        found = {kind: arrays[f"{prefix}{name}/{kind}"] for kind in BUFFERS if f"{prefix}{name}/{kind}" in arrays}
        if set(found) != ({"exp_avg", "exp_avg_sq", "step"} if isinstance(optimizer, torch.optim.Adam) else {"momentum_buffer"}):
            continue  # of another optimizer, or none: it begins anew
        for kind, array in found.items():
            if kind == "step":
                optimizer.state[parameter][kind] = torch.from_numpy(_own(array)).reshape(())
                continue
            if tuple(array.shape) != tuple(parameter.shape):
                raise DataError(f"checkpoint: /optimizer/{prefix}{name}: shape {array.shape}, expected {tuple(parameter.shape)}")
            buffer = torch.empty_like(parameter, requires_grad=False)
            buffer.copy_(torch.from_numpy(_own(array)))
            optimizer.state[parameter][kind] = buffer


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

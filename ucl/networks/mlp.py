"""The two hidden layers that UIC puts between its ResNet-50 and the classifier.

Chen et al., "Unsupervised Image Classification", ECCV Workshops 2020, released code: two 1 x 1 convolutions on the pooled map, without
bias, each with batch normalisation and ReLU; on vectors they are linear layers.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ucl.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import nn

    from ucl.keys import Key

LAYERS = 2
"""As in the released code, and as in SimCLR's supplement."""


def empty_mlp(d: int, width: int, layers: int = LAYERS) -> nn.Sequential:
    """(B, d) to (B, width), after a ReLU; weights are not drawn yet.

    Its state is ``0.weight`` (width, d), ``1.*`` of the batch normalisation, ``3.weight`` (width, width), ``4.*`` and so on.
    """
    from torch import nn

    made: list[nn.Module] = []
    for inputs in [d, *[width] * (layers - 1)]:
        linear: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, width, bias=False)  # type: ignore[no-untyped-call]
        made += [linear, nn.BatchNorm1d(width), nn.ReLU()]
    return nn.Sequential(*made)


def new_mlp(d: int, width: int, key: Key, layers: int = LAYERS) -> nn.Sequential:
    """A fresh one: weights N(0, 2 / width), He's by fan-out, as convolutions of the released code; batch norms 1 and 0.

    Args:
        d: feature dimension.
        width: of the hidden layers; the released code has that of the features, 2048.
        key: what the draw belongs to.
        layers: how many.

    Returns:
        float32, in training mode, on the CPU.
    """
    from torch import nn

    from ucl.device import generator

    made = empty_mlp(d, width, layers)
    for name, layer in made.named_modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0.0, math.sqrt(2 / width), generator=generator(key, f"init/mlp.{name}.weight"))
    return made


def mlp(arrays: Mapping[str, NDArray[Any]], d: int) -> nn.Sequential | None:
    """The layers of a checkpoint, from its tensors ``mlp.*`` without that prefix; None if there are none.

    Raises:
        DataError: they do not fit features of ``d`` dimensions.
    """
    if not arrays:
        return None
    from ucl.models import from_arrays

    weights = [value for name, value in arrays.items() if name.endswith(".weight") and value.ndim == 2]
    if not weights:
        raise DataError(f"model: mlp: found {', '.join(sorted(arrays))}, expected 0.weight of shape (width, {d})", "use a checkpoint made by ucl")
    made = empty_mlp(d, len(weights[0]), len(weights))
    from_arrays(made, arrays)
    return made

"""SimCLR's projection of two layers, behind which rows are brought to unit length.

Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020, in the form of SCAN's released code:
linear, ReLU, linear, both with bias, no batch normalisation; of the features' width, then 128.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ucl.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import nn

    from ucl.keys import Key


def empty_projector(d: int, width: int, p: int) -> nn.Sequential:
    """(B, d) to (B, p); weights are not drawn yet.  Its state is ``0.weight`` (width, d), ``0.bias``, ``2.weight`` (p, width), ``2.bias``."""
    from torch import nn

    below: nn.Linear = nn.utils.skip_init(nn.Linear, d, width)  # type: ignore[no-untyped-call]
    above: nn.Linear = nn.utils.skip_init(nn.Linear, width, p)  # type: ignore[no-untyped-call]
    return nn.Sequential(below, nn.ReLU(), above)


def new_projector(d: int, p: int, key: Key, *, width: int = 0, init: str = "torch") -> nn.Sequential:
    """A fresh one.

    Args:
        d: feature dimension.
        p: dimension of the embedding.
        key: what the draw belongs to.
        width: of the hidden layer; 0 = d, as in the released code.
        init: "torch": weights and biases uniform in +-1 / sqrt(inputs), torch's default, which the released code leaves; "he": weights
            N(0, 2 / inputs), biases 0.

    Returns:
        float32, in training mode, on the CPU.
    """
    from torch import nn

    from ucl.device import generator

    made = empty_projector(d, width or d, p)
    for name, layer in made.named_children():
        if not isinstance(layer, nn.Linear):
            continue
        if init == "he":
            nn.init.normal_(layer.weight, 0.0, (2 / layer.in_features) ** 0.5, generator=generator(key, f"init/projection.{name}.weight"))
            nn.init.zeros_(layer.bias)
            continue
        side = layer.in_features ** -0.5
        for part, parameter in layer.named_parameters():
            nn.init.uniform_(parameter, -side, side, generator=generator(key, f"init/projection.{name}.{part}"))
    return made


def projector(arrays: Mapping[str, NDArray[Any]], d: int) -> nn.Sequential | None:
    """That of a checkpoint, from its tensors ``projection.*`` without that prefix; None if they are not of two layers.

    Raises:
        DataError: they do not fit features of ``d`` dimensions.
    """
    from ucl.models import from_arrays

    below, above = arrays.get("0.weight"), arrays.get("2.weight")
    if below is None and above is None:
        return None
    if below is None or above is None or below.ndim != 2 or above.ndim != 2:
        raise DataError(f"model: projection: found {', '.join(sorted(arrays))}, expected 0.weight (width, {d}) and 2.weight (p, width)",
                        "use a checkpoint made by ucl")
    made = empty_projector(d, len(below), len(above))
    from_arrays(made, arrays)
    return made

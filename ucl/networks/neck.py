"""ODC's neck: what stands between the network and its clusters in training, and is left off afterwards.

Zhan et al., "Online Deep Clustering", CVPR 2020, released code: FC 512, batch normalisation without scale and shift, ReLU, dropout, FC
256, ReLU.  Its output is what is remembered and clustered, and what the classifier sees; it is never negative.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ucl.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import nn

    from ucl.keys import Key

BN_MOMENTUM = 0.001
"""Share of a batch in the running statistics; the released code's."""


def empty_neck(d: int, hidden: int, out: int, dropout: float) -> nn.Sequential:
    """(B, d) to (B, out); weights are not drawn yet.

    Its state is ``0.weight`` (hidden, d), ``0.bias``, ``1.running_*``, ``4.weight`` (out, hidden), ``4.bias``.
    """
    from torch import nn

    linear = [nn.utils.skip_init(nn.Linear, inputs, width) for inputs, width in ((d, hidden), (hidden, out))]  # type: ignore[no-untyped-call]
    return nn.Sequential(linear[0], nn.BatchNorm1d(hidden, momentum=BN_MOMENTUM, affine=False), nn.ReLU(), nn.Dropout(dropout), linear[1],
                         nn.ReLU())


def new_neck(d: int, hidden: int, out: int, dropout: float, key: Key) -> nn.Sequential:
    """A fresh one: weights N(0, 2 / inputs), He's by fan-in, biases 0.

    Args:
        d: feature dimension.  hidden, out: widths.  dropout: probability.
        key: what the draw belongs to.

    Returns:
        float32, in training mode, on the CPU.
    """
    from torch import nn

    from ucl.device import generator

    made = empty_neck(d, hidden, out, dropout)
    for name, layer in made.named_modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0.0, (2 / layer.in_features) ** 0.5, generator=generator(key, f"init/neck.{name}.weight"))
            nn.init.zeros_(layer.bias)
    return made


def neck(arrays: Mapping[str, NDArray[Any]], d: int, dropout: float) -> nn.Sequential | None:
    """The neck of a checkpoint, from its tensors ``neck.*`` without that prefix; None if there are none.

    Raises:
        DataError: they do not fit features of ``d`` dimensions.
    """
    if not arrays:
        return None
    from ucl.models import from_arrays

    if "0.weight" not in arrays or "4.weight" not in arrays:
        raise DataError(f"model: neck: found {', '.join(sorted(arrays))}, expected 0.weight and 4.weight", "use a checkpoint made by ucl")
    made = empty_neck(d, len(arrays["0.weight"]), len(arrays["4.weight"]), dropout)
    from_arrays(made, arrays)
    return made

"""DeepCluster's Sobel filter folded into the convolution behind it, which then takes colours (Caron et al., ICCV 2019, released code).

The filter is linear, a mean over the channels and two derivatives, and so is a convolution: what both compute is one convolution whose
kernel is two larger, k + 2, over three channels.  With one more pixel of padding its maps have the same shape, and are equal wherever the
first kernel did not reach past the border: there the filtered image ends in zeros, the folded kernel sees derivatives of the padding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import nn

    from ucl.networks.taps import Network

GROWS = 2
"""By how much the filter widens a kernel: its derivatives have 3 x 3."""


def folded_kernel(kernel: NDArray[Any], grey: NDArray[Any], derivatives: NDArray[Any]) -> NDArray[Any]:
    """The kernel over colours that computes what ``kernel`` computes over the filter's output.

    Args:
        kernel: (O, 2, k, k), of the first convolution.
        grey: (1, C, 1, 1) weights of the channels' mean.
        derivatives: (2, 1, 3, 3).

    Returns:
        (O, C, k + 2, k + 2), in the kernel's type; summed in float64.
    """
    width, _, high, wide = kernel.shape
    found = np.zeros((width, high + GROWS, wide + GROWS))
    for channel, derivative in enumerate(derivatives[:, 0].astype(np.float64)):
        for (i, j), factor in np.ndenumerate(derivative):  # a correlation after a correlation: the kernels' full convolution
            found[:, i:i + high, j:j + wide] += factor * kernel[:, channel]
    made: NDArray[Any] = (found[:, None] * grey[0].astype(np.float64)[None]).astype(kernel.dtype)
    return made


def widened(net: Network) -> Network:
    """``net`` with a first convolution that a filter can be folded into: a kernel two larger, one more pixel of padding, 3 channels.

    Args:
        net: without the filter; changed in place, on its own device.  The new weights are whatever their memory holds.
    """
    from torch import nn

    from ucl.networks import zoo

    path, old = zoo.first_convolution(net)
    size, stride, padding = (cast("tuple[int, int]", v) for v in (old.kernel_size, old.stride, old.padding))
    new: nn.Conv2d = nn.utils.skip_init(  # type: ignore[no-untyped-call]
        nn.Conv2d, 3, old.out_channels, (size[0] + GROWS, size[1] + GROWS), stride, (padding[0] + 1, padding[1] + 1),
        bias=old.bias is not None, device=old.weight.device)
    net.set_submodule(path, new)
    return net

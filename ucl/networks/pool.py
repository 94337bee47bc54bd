"""Average pooling to a fixed side whose gradient is the same in every run, on a GPU too."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn


def even_pool(maps: torch.Tensor, side: int) -> torch.Tensor:
    """What `torch.nn.functional.adaptive_avg_pool2d` computes, as two products with matrices of averages.

    torch has no deterministic gradient of that function on a GPU.  Maps that have the side already pass untouched.

    Args:
        maps: (B, C, H, W).
        side: S.

    Returns:
        (B, C, S, S).
    """
    high, wide = maps.shape[-2:]
    if (high, wide) == (side, side):
        return maps
    rows, columns = _averages(maps, high, side), _averages(maps, wide, side)
    return rows @ (maps @ columns.T)


def _averages(like: torch.Tensor, n: int, side: int) -> torch.Tensor:
    """(side, n): row i averages the cells floor(i n / S) to ceil((i + 1) n / S)."""
    import torch

    at = torch.arange(n, device=like.device)
    i = torch.arange(side, device=like.device)
    start, end = i * n // side, ((i + 1) * n + side - 1) // side
    inside = (at >= start[:, None]) & (at < end[:, None])
    return inside.to(like.dtype) / (end - start)[:, None].to(like.dtype)


@cache
def pool_class() -> type[nn.Module]:
    """`even_pool` to a side as a module without parameters."""
    from torch import nn

    class EvenPool(nn.Module):
        def __init__(self, side: int) -> None:
            super().__init__()
            self.side = side

        def forward(self, maps: torch.Tensor) -> torch.Tensor:
            return even_pool(maps, self.side)

    return EvenPool

"""A memory bank: one past embedding of every image, moved a step whenever the image is seen.

Wu, Xiong, Yu, Lin: "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018, and the code that AND
and PCP share with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ucl.errors import DataError
from ucl.keys import Key

if TYPE_CHECKING:
    import torch

_EPS = 1e-12
"""Shortest length a row is divided by: half a row plus half its opposite is zero."""

_BLOCK = 1 << 16


@dataclass
class Bank:
    """Embeddings of N images, of which some may be bad.

    Attributes:
        rows: (N, P) on the device of the network, row i of image i; zero for a bad image.
        bad: (b,) int64 on the same device: rows that no loss may see.  bad_rows: the same on the host.
    """

    rows: torch.Tensor
    bad: torch.Tensor
    bad_rows: NDArray[np.int64]

    @classmethod
    def fresh(cls, ok: NDArray[np.bool_], dim: int, key: Key, device: torch.device | str = "cpu") -> Bank:
        """Uniform in +-sqrt(3 / P), so that the mean squared length is 1, as the released code; not normalised.

        A row depends on the key and on its number alone, not on N.

        Args:
            ok: (N,) bool, which images can be used.
            dim: P.
            key: what the draw belongs to.
            device: where it is kept.
        """
        side = math.sqrt(3 / dim)
        values = np.empty((len(ok), dim), np.float32)
        for start in range(0, len(ok), _BLOCK):
            part = values[start:start + _BLOCK]
            at = np.arange(start * dim, start * dim + part.size, dtype=np.int64)
            part[:] = key.uniform("init/bank", at, low=-side, high=side).reshape(part.shape)
        values[~ok] = 0
        return cls.of(values, ok, device)

    @classmethod
    def of(cls, values: NDArray[np.float32], ok: NDArray[np.bool_], device: torch.device | str = "cpu") -> Bank:
        """A bank as `array` gave it.

        Raises:
            DataError: not one row for each image, or a row that is not finite.
        """
        import torch

        if values.ndim != 2 or len(values) != len(ok):
            raise DataError(f"checkpoint: /memory/bank: shape {values.shape}, expected ({len(ok)}, P)", "use the checkpoint of these images")
        if not np.isfinite(values).all():
            row = int(np.argmin(np.isfinite(values).all(axis=1)))
            raise DataError(f"checkpoint: /memory/bank: row {row} is not finite", "go on from an earlier checkpoint")
        own = np.array(np.where(ok[:, None], values, 0), np.float32, order="C")
        bad = np.flatnonzero(~ok)
        return cls(torch.from_numpy(own).to(device), torch.from_numpy(bad).to(device), bad)

    def array(self) -> NDArray[np.float32]:
        """The rows (N, P) float32, for a checkpoint; a copy."""
        found: NDArray[np.float32] = self.rows.detach().cpu().numpy().copy()
        return found

    def update(self, rows: NDArray[np.int64], features: torch.Tensor, momentum: float = 0.5) -> None:
        """Move the rows of a batch: m <- normalise(momentum * m + (1 - momentum) * v); all others keep their bits.

        An image that stands twice in the batch is moved once, by its last place, from where it was before the batch.

        Args:
            rows: (B,) image of each feature.
            features: (B, P), of length 1; no gradient is kept.
            momentum: share of the old row; 0.5 in the released code.

        Raises:
            ValueError: a bad image.
        """
        import torch

        last = last_places(rows)
        if len(self.bad_rows) and np.isin(rows, self.bad_rows).any():
            raise ValueError("a bad image in a batch")
        at = torch.from_numpy(rows[last]).to(self.rows.device)
        with torch.no_grad():
            new = features.detach()[torch.from_numpy(last).to(features.device)].to(self.rows)
            new = momentum * self.rows[at] + (1 - momentum) * new
            self.rows[at] = new / new.norm(dim=1, keepdim=True).clamp_min(_EPS)


def last_places(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The last place of each different row, in order of place; int64."""
    _, from_the_end = np.unique(rows[::-1], return_index=True)
    return np.sort(len(rows) - 1 - from_the_end).astype(np.int64)

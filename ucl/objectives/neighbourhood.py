"""AND: the images that are surest of themselves are merged with their nearest neighbours, more of them in every round.

Huang, Dong, Gong, Zhu: "Unsupervised Deep Learning by Neighbourhood Discovery", ICML 2019, and its released code.  The loss is
`mixed.exact` over the columns that `Neighbourhoods` gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ucl.objectives.bank import Bank

if TYPE_CHECKING:
    import torch

_ROUNDING = 1e-9
"""Makes floor(share * N) exact for decimal shares."""


@dataclass
class Neighbourhoods:
    """Which images are merged with which others; not symmetric.

    Attributes:
        neighbor: (N, size) int64 rows of the nearest others of each anchor, nearest first; -1 for an image that is no anchor.
    """

    neighbor: NDArray[np.int64]

    @property
    def anchors(self) -> NDArray[np.int64]:
        """Rows that have neighbours, int64."""
        return np.flatnonzero(self.neighbor[:, 0] >= 0)

    def columns(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Each image and its neighbours: (B, 1 + size) int64, filled up with -1."""
        return np.concatenate([rows[:, None], self.neighbor[rows]], axis=1)


def discover(bank: Bank, *, share: float, size: int = 1, tau: float = 0.1, block: int = 256) -> Neighbourhoods:
    """Anchors, the floor(share * usable images) images of lowest entropy, and their nearest others by the bank.

    The entropy of an image is that of the softmax of its row's products with all rows, its own among them, over tau.
    Ties by row.  Time: a product of M x M x P, and one of anchors x M x P.  Memory: about 16 * block * M bytes, M usable
    images.

    Args:
        bank: the memory.
        share: of the usable images; AND takes 0.25 more in every round, 0 in the first.
        size: neighbours of each; 1 in the paper.
        tau: temperature.
        block: rows at a time.

    Raises:
        ValueError: as many neighbours as usable images, or more.
    """
    import torch

    n = len(bank.rows)
    ok = np.ones(n, bool)
    ok[bank.bad.cpu().numpy()] = False
    usable = np.flatnonzero(ok)
    if not 0 < size < len(usable):
        raise ValueError(f"{size} neighbours of {len(usable)} images")
    neighbor = np.full((n, size), -1, np.int64)
    count = int(share * len(usable) + _ROUNDING)
    if not count:
        return Neighbourhoods(neighbor)
    rows = bank.rows[torch.from_numpy(usable).to(bank.rows.device)]
    with torch.no_grad():
        entropy = np.concatenate([_entropy(rows[a:a + block] @ rows.T / tau) for a in range(0, len(rows), block)])
        chosen = np.sort(np.argsort(entropy, kind="stable")[:count])
        for a in range(0, count, block):
            at = torch.from_numpy(chosen[a:a + block]).to(rows.device)
            near = rows[at] @ rows.T
            near[torch.arange(len(at), device=rows.device), at] = -torch.inf
            neighbor[usable[chosen[a:a + block]]] = usable[near.topk(size, dim=1).indices.cpu().numpy()]
    return Neighbourhoods(neighbor)


def _entropy(logits: torch.Tensor) -> NDArray[np.float64]:
    """Entropy of the softmax of each row, in nats; float64."""
    import torch

    logp = torch.log_softmax(logits, dim=1)
    found: NDArray[np.float64] = -(logp.exp() * logp).sum(dim=1).double().cpu().numpy()
    return found

"""PCP's objective: each image told from all others, or, in a purified cluster, the cluster from all others.

With p_j the softmax of m_j . v_i / tau over the memory m of all usable images, the loss of image i is -log of the sum of p_j
over its set: itself alone (instance recognition, IR: Wu et al., CVPR 2018), the members of its cluster (PCP, released code; the
paper's equation 5 sums over pairs instead), or itself and its neighbours (AND).  It is a difference of two log-sum-exps,
one of them over the set, and nothing loops over members.

Time and memory: two products of B x N x P with the gradient, as a softmax head of N classes whose weights are not trained;
buffers of 8 * B * min(N, chunk) bytes, 51 MB for B = 128 and N = 50,000, and about 50 * B * (largest set) bytes.  Beyond
``chunk`` images the logits are made in pieces, twice, so that a third product comes on top.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ucl.objectives.bank import Bank

if TYPE_CHECKING:
    import torch

    from ucl.keys import Key

CHUNK = 1 << 16
"""Images at a time: 67 MB of logits and their exponentials for a batch of 128."""

MASS, PAIRS = "mass", "pairs"
"""-log of the summed probability (released code), or the mean of -log p over the set (the paper's pairs, as a mean)."""


@dataclass
class Sets:
    """Which images are meant by image i: its purified cluster, or itself.

    Attributes:
        order: (M,) int64, usable images sorted by set, in a set by row.
        start: (N,) int64, where in ``order`` the set of each image begins; -1 for a bad image.
        size: (N,) int64, its size; 0 for a bad image.
    """

    order: NDArray[np.int64]
    start: NDArray[np.int64]
    size: NDArray[np.int64]

    @classmethod
    def of(cls, labels: NDArray[np.int32], ok: NDArray[np.bool_] | None = None) -> Sets:
        """Sets of purified labels.

        Args:
            labels: (N,), -1 = its own class.
            ok: (N,) usable images; all if None.
        """
        usable = np.arange(len(labels)) if ok is None else np.flatnonzero(ok)
        own = labels[usable].astype(np.int64)
        own = np.where(own < 0, int(own.max(initial=-1)) + 1 + np.arange(len(usable)), own)
        by_set = np.argsort(own, kind="stable")
        _, which, count = np.unique(own, return_inverse=True, return_counts=True)
        begins = np.cumsum(count) - count
        start, size = np.full(len(labels), -1, np.int64), np.zeros(len(labels), np.int64)
        start[usable], size[usable] = begins[which], count[which]
        return cls(usable[by_set], start, size)

    def columns(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The members of each image's set: (B, largest set) int64, filled up with -1.

        Raises:
            ValueError: a bad image.
        """
        if not self.size[rows].all():
            raise ValueError("a bad image in a batch")
        step = np.arange(int(self.size[rows].max(initial=1)))
        at = self.start[rows][:, None] + step
        found: NDArray[np.int64] = np.where(step < self.size[rows][:, None], self.order[np.minimum(at, len(self.order) - 1)], -1)
        return found


def exact(features: torch.Tensor, bank: Bank, columns: NDArray[np.int64], *, tau: float = 0.1, form: str = MASS,
          chunk: int = CHUNK) -> torch.Tensor:
    """Loss of each image over the whole bank; the gradient flows through the features alone.

    Args:
        features: (B, P) of length 1.
        bank: memory before this step's update.
        columns: (B, S) members of each image's set, -1 = none; at least one in each row, none twice.
        tau: temperature; 0.1 in the released code.
        form: `MASS` or `PAIRS`.
        chunk: images whose logits are made at a time.

    Returns:
        (B,) losses, of which the caller takes the mean.
    """
    import torch

    at = torch.from_numpy(columns).to(features.device)
    losses: torch.Tensor = _function().apply(features, bank.rows, bank.bad, at, tau, form == PAIRS, chunk)
    return losses


def sampled(features: torch.Tensor, bank: Bank, columns: NDArray[np.int64], drawn: NDArray[np.int64], *, tau: float = 0.1,
            form: str = MASS) -> torch.Tensor:
    """An estimate of `exact` from some of the images, for a bank that may lie in another, larger memory than the features.

    The set is summed exactly; of the images outside, those drawn stand for all: their sum is scaled by how many they stand
    for.  With all usable images drawn it is `exact`; where none was drawn from outside a set, the loss there is 0.
    Memory: U rows of the bank, U the number of different images in ``drawn`` and ``columns``, and about 20 * B * U bytes.

    Args:
        features: (B, P) of length 1.
        bank: memory before this step's update, on any device.
        columns: (B, S) members of each image's set, -1 = none.
        drawn: (m,) different usable images, drawn uniformly; see `draw`.
        tau: temperature.
        form: `MASS` or `PAIRS`.

    Returns:
        (B,) losses.
    """
    import torch

    used = np.unique(np.concatenate([drawn, columns[columns >= 0]]))
    usable = len(bank.rows) - len(bank.bad)
    mine = np.zeros((len(columns), len(used)), bool)
    row, place = np.nonzero(columns >= 0)
    mine[row, np.searchsorted(used, columns[row, place])] = True
    outside = np.isin(used, drawn) & ~mine
    stands_for = (usable - mine.sum(axis=1)) / np.maximum(outside.sum(axis=1), 1)
    with np.errstate(divide="ignore"):
        weight = np.where(mine, 0.0, np.where(outside, np.log(stands_for)[:, None], -np.inf))
    picked = bank.rows[torch.from_numpy(used).to(bank.rows.device)].to(features)
    logits = features @ picked.T / tau
    inside = torch.from_numpy(mine).to(features.device)
    everything = torch.logsumexp(logits + torch.from_numpy(weight).to(logits), dim=1)
    if form == PAIRS:
        return everything - (logits * inside).sum(dim=1) / inside.sum(dim=1)
    return everything - torch.logsumexp(logits.masked_fill(~inside, -torch.inf), dim=1)


def draw(ok: NDArray[np.bool_], m: int, key: Key, step: int) -> NDArray[np.int64]:
    """Up to m different usable images, uniformly, for one step; sorted int64.

    m draws with replacement, of which copies count once, so there may be fewer; all where m is no less than their number.
    """
    usable = np.flatnonzero(ok)
    if m >= len(usable):
        return usable
    at = key.uniform("sampled-bank", np.arange(m, dtype=np.int64) + step * m)
    return np.unique(usable[(at * len(usable)).astype(np.int64)])


@functools.cache
def _function() -> Any:
    """The autograd function of `exact`: the gradient is made beside the value, so no (B, N) buffer outlives the call."""
    import torch

    class Exact(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, features: torch.Tensor, rows: torch.Tensor, bad: torch.Tensor, columns: torch.Tensor, tau: float,
                    pairs: bool, chunk: int) -> torch.Tensor:
            scaled = features.detach() / tau
            spans = [(a, min(a + chunk, len(rows))) for a in range(0, len(rows), chunk)]
            valid = columns >= 0
            member = torch.full(columns.shape, -torch.inf, dtype=scaled.dtype, device=scaled.device)
            total, logits = None, scaled
            for a, b in spans:
                logits = _logits(scaled, rows, bad, a, b)
                here = valid & (columns >= a) & (columns < b)
                member = torch.where(here, logits.gather(1, (columns - a).clamp(0, b - a - 1)), member)
                if len(spans) > 1:
                    part = torch.logsumexp(logits, dim=1)
                    total = part if total is None else torch.logaddexp(total, part)
            if total is None:                             # one piece: its softmax in two passes, and no logits twice
                logits = torch.log_softmax(logits, dim=1)
                first = columns[:, :1].clamp_min(0)
                total = member[:, :1].sub(logits.gather(1, first)).squeeze(1)
            count = valid.sum(dim=1)
            if pairs:
                losses = total - member.masked_fill(~valid, 0).sum(dim=1) / count
                share = valid.to(scaled) / count[:, None]
            else:
                inside = torch.logsumexp(member, dim=1)
                losses, share = total - inside, (member - inside[:, None]).exp()
            if ctx.needs_input_grad[0]:
                gradient = torch.zeros_like(scaled)
                kept, logits = (logits if len(spans) == 1 else None), scaled
                for a, b in spans:
                    p = kept.exp_() if kept is not None else _logits(scaled, rows, bad, a, b).sub_(total[:, None]).exp_()
                    i, s = (valid & (columns >= a) & (columns < b)).nonzero(as_tuple=True)
                    j = columns[i, s] - a
                    p[i, j] = p[i, j] - share[i, s]       # a place occurs once: nothing to accumulate, nothing left to chance
                    gradient.addmm_(p, rows[a:b].to(p))
                ctx.save_for_backward(gradient / tau)
            return losses

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
            return (gradients[0][:, None] * ctx.saved_tensors[0], *([None] * 6))

    return Exact


def _logits(scaled: torch.Tensor, rows: torch.Tensor, bad: torch.Tensor, a: int, b: int) -> torch.Tensor:
    """scaled @ rows[a:b].T, (B, b - a), -inf where an image is bad."""
    import torch

    logits = scaled @ rows[a:b].T.to(scaled)
    here = bad[(bad >= a) & (bad < b)] - a if len(bad) else bad
    return logits.index_fill_(1, here, -torch.inf) if len(here) else logits

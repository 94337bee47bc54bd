"""Contrastive losses of a batch: SimCLR's, of two views of each image, and ProFeat's, of all views of images with one pseudo-label.

Chen, Kornblith, Norouzi, Hinton: "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020 (NT-Xent), and
the released code of SCAN (Van Gansbeke et al., ECCV 2020), whose stages ProFeat uses; the form with several positives is that of
Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, with the pseudo-labels of the confident images for labels.

Everything is worked in float32, whatever the network's precision; buffers take about 20 bytes for each pair of views, 21 MB for 512
images of two views.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

ALL, FIRST = "all", "first"
"""Whose loss is averaged: both views of every image (SimCLR), or the first ones (SCAN's released code); a view is told from all others
in either."""

ROW_MEAN, SUM, PAIR_MEAN = "row-mean", "sum", "pair-mean"
"""How pairs are weighed: the mean over a view's positives, then over views (supervised contrastive learning); the plain sum over pairs
(ProFeat, equation 1); or their mean, in which a cluster counts by the square of its size."""


def nt_xent(first: torch.Tensor, second: torch.Tensor, *, tau: float = 0.1, anchors: str = ALL) -> torch.Tensor:
    """Mean over views of -log of the softmax, over all other views of the batch, of the cosine / tau with the image's other view.

    Args:
        first, second: (B, P), two views of the same images; brought to unit length here.
        tau: temperature; 0.1 in SCAN's released code and in ProFeat.
        anchors: `ALL` or `FIRST`.

    Returns:
        A float32 scalar; 0, with zero gradient, for a batch of one image or none.
    """
    import torch

    b = len(first)
    if not b:
        return (first.float().sum() + second.float().sum()) * 0
    logits = _logits(first, second, tau, anchors)
    partner = torch.arange(2 * b, device=logits.device).roll(b)[:len(logits), None]
    return (torch.logsumexp(logits, dim=1) - logits.gather(1, partner).squeeze(1)).mean()


def multi_positive(first: torch.Tensor, second: torch.Tensor, same: torch.Tensor, *, tau: float = 0.1, form: str = ROW_MEAN,
                   anchors: str = ALL) -> torch.Tensor:
    """Each view attracts its image's other view and both views of every image like it; all other views of the batch repel.

    The positives stand in the denominator too, so that with no negatives the loss is at least log(2m - 1), and with no two images
    alike it is `nt_xent`.  Images that are not confident must be left out by the caller, before the network sees the batch.

    Args:
        first, second: (m, P), two views of the same images; brought to unit length here.
        same: which images are alike: (m,) integers, equal for images that are, or (m, m) bool, symmetric; its diagonal counts as True.
        tau: temperature.
        form: `ROW_MEAN`, `SUM` or `PAIR_MEAN`.
        anchors: `ALL` or `FIRST`.

    Returns:
        A float32 scalar; 0, with zero gradient, for one image or none.
    """
    import torch

    if not len(first):
        return (first.float().sum() + second.float().sum()) * 0
    logits = _logits(first, second, tau, anchors)
    positive = positives(same)[:len(logits)].to(logits.device)
    count = positive.sum(dim=1)
    attracted = torch.where(positive, logits, 0).sum(dim=1)
    everything = torch.logsumexp(logits, dim=1)
    if form == ROW_MEAN:
        return (everything - attracted / count).mean()
    total = (everything * count - attracted).sum()
    return total if form == SUM else total / count.sum()


def positives(same: torch.Tensor) -> torch.Tensor:
    """Which views are each view's positives: (2m, 2m) bool, first views before second ones; 2c - 1 in a row, of c images alike.

    Args:
        same: (m,) integers or (m, m) bool, as of `multi_positive`.
    """
    import torch

    m = len(same)
    alike = same[:, None] == same if same.ndim == 1 else same.bool()
    alike = alike | torch.eye(m, dtype=torch.bool, device=same.device)
    return alike.repeat(2, 2) & ~torch.eye(2 * m, dtype=torch.bool, device=same.device)


def _logits(first: torch.Tensor, second: torch.Tensor, tau: float, anchors: str) -> torch.Tensor:
    """Cosines / tau of the anchors with all views, (2B or B, 2B), -inf with themselves."""
    import torch
    from torch.nn import functional

    with torch.autocast(first.device.type, enabled=False):  # a cosine / 0.1 in bfloat16 is off by 0.04
        x = functional.normalize(torch.cat([first, second]).float(), dim=1)
        logits = x[:len(first) if anchors == FIRST else None] @ x.T / tau
    own = torch.eye(*logits.shape, dtype=torch.bool, device=x.device)
    return logits.masked_fill(own, -torch.inf)

"""IS: two views of an image attract, all other images of the batch repel; no memory, no labels.

Ye, Zhang, Yuen, Chang: "Unsupervised Embedding Learning via Invariant and Spreading Instance Feature", CVPR 2019, and its
released code; the warm-up branch of PCP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_LEAST = 1e-7
"""Least 1 - q whose logarithm is taken; with two rows q is 1."""


def spreading_loss(first: torch.Tensor, second: torch.Tensor, *, tau: float = 0.1, negative: float = 1.0) -> torch.Tensor:
    """Mean over the 2B views of -log q of the other view - ``negative`` * sum of log(1 - q) over all views of other images.

    q is the softmax of the cosines / tau over all views but the row's own.  As in the released code the gradient flows through
    the row alone; the others are constants.

    Args:
        first, second: (B, P) of length 1, two views of the same images.
        tau: temperature; 0.1 in the released code.
        negative: weight of the second term; 1 in the paper.

    Returns:
        The loss, a scalar; 0, with zero gradient, for a batch of one image, which has no other to be told from.
    """
    import torch

    b = len(first)
    if b < 2:
        return (first.sum() + second.sum()) * 0
    x = torch.cat([first, second])
    logits = x @ x.detach().T / tau
    eye = torch.eye(2 * b, dtype=torch.bool, device=x.device)
    logp = torch.log_softmax(logits.masked_fill(eye, -torch.inf), dim=1)
    other = torch.arange(2 * b, device=x.device).roll(b)
    positive = logp.gather(1, other[:, None]).squeeze(1)
    apart = eye | eye[other]
    spread = (1 - logp.exp()).clamp_min(_LEAST).log().masked_fill(apart, 0).sum(dim=1)
    return (-positive - negative * spread).mean()

"""A classifier's probabilities of all images' fixed views, and what they say without any truth: SCAN's score by which an epoch is chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ucl.artifacts import Checkpoint, ImageList, Neighbors
from ucl.confidence import Score, selection_score
from ucl.device import Runtime
from ucl.errors import DataError
from ucl.objectives import Made
from ucl.objectives.fixed_views import fixed_views
from ucl.settings import TrainSettings

if TYPE_CHECKING:
    from torch import nn

SURE = 0.99
"""Probability above which an image counts as sure in an epoch's metrics: SCAN's threshold, whatever the epoch's own is."""


def probabilities(images: ImageList, model: Checkpoint, network: nn.Module, head: nn.Module, runtime: Runtime, batch: int) -> NDArray[np.float32]:
    """Softmax of the classifier on every usable image's fixed view, in evaluation mode, in which the network is left.

    Args:
        images: N images.
        model: its config has size and normalisation of the views.
        network: on the device.  head: the classifier, on its features.
        runtime: the machine.
        batch: images at a time; last bits depend on it.

    Returns:
        (N, K) float32 on the CPU, 4 N K bytes; NaN in rows of bad images.

    Raises:
        DataError: one that is not finite.
        Stopped: a signal came.
    """
    import torch

    found, at = [], []
    for rows, x in fixed_views(images, model, runtime, batch, network):
        with torch.inference_mode():
            found.append(torch.softmax(head(x).float(), dim=1).cpu().numpy())
        at.append(rows)
    made = np.full((len(images.samples), found[0].shape[1]), np.nan, np.float32)
    every = np.concatenate(at)
    made[every] = np.concatenate(found)
    wrong = ~np.isfinite(made[every]).all(axis=1)
    if wrong.any():
        raise DataError(f"probabilities: not finite for row {every[np.argmax(wrong)]}, wanted finite numbers",
                        "training has diverged: go back an epoch, or lower the learning rate")
    return made


def labels_of(found: NDArray[np.float32], images: ImageList) -> Made:
    """The most probable class of each usable image, ties by lower id, and all probabilities."""
    labels = np.where(images.samples.ok, np.nan_to_num(found).argmax(axis=1), -1).astype(np.int32)
    return Made(labels, found.shape[1], found)


def score(found: NDArray[np.float32], neighbors: Neighbors, rows: NDArray[np.int64], settings: TrainSettings) -> Score:
    """SCAN's loss of the rows on fixed views, over themselves and their nearest images; see `confidence.selection_score`."""
    columns = settings.score_neighbors + neighbors.self_included
    near = neighbors.neighbors[:, :columns]
    if not neighbors.self_included:
        own = np.arange(len(near))[:, None]
        near = np.concatenate([own, np.where(near == own, -1, near.astype(np.int64))], axis=1)  # a file of one's own may have it all the same
    return selection_score(found, near, rows, entropy_weight=settings.score_entropy)


def summary(found: NDArray[np.float32], images: ImageList) -> dict[str, Any]:
    """Metrics of an epoch: the share of sure images, and the mean of the largest probabilities."""
    largest = found.max(axis=1)[images.samples.ok]
    return {"sure_share": float((largest > SURE).mean()), "mean_confidence": float(largest.mean(dtype=np.float64))}

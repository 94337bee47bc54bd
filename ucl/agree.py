"""ProFeat's ensemble: images that independently trained models put together, whatever each of them calls the cluster.

Two images are connected if at least ``at_least`` of E models give both one cluster.  Ids of different models are never compared, so no
matching of clusters is needed.  If all models must agree, images are connected exactly where their E labels are equal: one group id for
each image says all, and is found once, for all images.  With fewer the relation is not transitive, and the pairs of a batch are looked
at in the batch.  How many connections an image needs is always the batch's to say.

The paper asks for more than 5 of 5, which no pair can have; "at least" is the one reading under which its numbers work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ucl.errors import DataError
from ucl.profeat_settings import models_needed

_TABLE = 8
"""Entries of a table for each image up to which ids are renumbered by a table, in linear time; beyond that they are sorted."""


@dataclass(frozen=True)
class Agreed:
    """What E models say together.

    Attributes:
        labels: (N,) int32, one id for each group of images with equal labels in all models, numbered by first row; -1 for an image
            that some model gives no label, and, where all must agree, for one that is alone in its group.
        size: (G,) int64 images of each group.
        pred: (E, N) int32, what was joined.
        at_least: models that must agree.
    """

    labels: NDArray[np.int32]
    size: NDArray[np.int64]
    pred: NDArray[np.int32]
    at_least: int

    @property
    def unanimous(self) -> bool:
        """Whether equal ``labels`` are all there is to a connection; else the pairs of a batch are `connected` by ``pred``."""
        return self.at_least == len(self.pred)

    def summary(self) -> dict[str, float]:
        """Counts for the labels' info: ``models``, ``at_least``, ``groups``, ``largest``, ``labelled`` images and their share."""
        labelled = int((self.labels >= 0).sum())
        return {"models": len(self.pred), "at_least": self.at_least, "groups": len(self.size), "largest": int(self.size.max(initial=0)),
                "labelled": labelled, "labelled_share": labelled / max(len(self.labels), 1)}


def agree(predictions: Sequence[NDArray[np.integer]], at_least: int = 0) -> Agreed:
    """Join the predictions of independently trained models.

    Args:
        predictions: of E models, (N,) integers each, -1 = none; of the same images in the same order.
        at_least: models that must give two images one cluster to connect them; 0 = all.

    Returns:
        Groups and predictions.  Time linear in E * N, as long as the groups times the clusters of a model are not many more than N.

    Raises:
        UsageError: more agreement than there are models, which nothing can have.
        DataError: no predictions, or of other numbers of images.
    """
    if not predictions:
        raise DataError("predictions: found none, expected one file of labels for each model", "name the labels of all models")
    shapes = [np.shape(p) for p in predictions]
    for number, shape in enumerate(shapes, 1):
        if len(shape) != 1 or shape != shapes[0]:
            raise DataError(f"predictions: those of model {number} have shape {shape}, expected {shapes[0]} as of model 1",
                            "labels of the same images in the same order; ucl align makes them so")
    needed = models_needed(at_least, len(predictions))
    pred = np.stack([np.asarray(p, np.int32) for p in predictions])
    group = tuple_groups(pred)
    if needed == len(pred):
        alone = np.bincount(group[group >= 0], minlength=1)[np.maximum(group, 0)] < 2
        group = _numbered(np.where(alone, -1, group))
    return Agreed(group.astype(np.int32), np.bincount(group[group >= 0]), pred, needed)


def tuple_groups(pred: NDArray[np.int32]) -> NDArray[np.int64]:
    """One id for each different column of (E, N) labels, numbered by first appearance; -1 where a label is negative.  (N,) int64."""
    usable = (pred >= 0).all(axis=0)
    code = np.zeros(int(usable.sum()), np.int64)
    for row in pred[:, usable]:
        k = int(row.max(initial=0)) + 1
        code = _numbered(code * k + row)
    group = np.full(pred.shape[1], -1, np.int64)
    group[usable] = code
    return group


def _numbered(code: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ids 0, 1, ... in order of first appearance instead of any non-negative numbers; negative ones become -1."""
    n = len(code)
    kept = np.flatnonzero(code >= 0)
    found = np.full(n, -1, np.int64)
    if not len(kept):
        return found
    values, rows = code[kept], np.arange(len(kept))
    top = int(values.max()) + 1
    if top <= _TABLE * n:
        first = np.empty(top, np.int64)
        first[values[::-1]] = rows[::-1]                   # of equal indices the last one written stays: the first row
        begins = first[values]
    else:
        _, index, inverse = np.unique(values, return_index=True, return_inverse=True)
        begins = index[inverse]
    found[kept] = (np.cumsum(begins == rows) - 1)[begins]
    return found


def agreement(pred: NDArray[np.integer]) -> NDArray[np.int64]:
    """How many models give two images one cluster: (E, B) labels, -1 agreeing with none, to (B, B) int64; a few images, as of a batch."""
    count = np.zeros((pred.shape[1], pred.shape[1]), np.int64)
    for row in pred:
        count += (row[:, None] == row) & (row >= 0)
    return count


def connected(pred: NDArray[np.integer], at_least: int) -> NDArray[np.bool_]:
    """Which pairs of a batch enough models put together: (E, B) labels to (B, B) bool, symmetric, no image with itself."""
    found: NDArray[np.bool_] = agreement(pred) >= models_needed(at_least, len(pred))
    np.fill_diagonal(found, False)
    return found


def group_connections(labels: NDArray[np.integer]) -> NDArray[np.int64]:
    """Connections of each image of a batch by group ids: (B,) other images of its group; 0 for -1.  Where all models must agree."""
    _, which, count = np.unique(labels, return_inverse=True, return_counts=True)
    found: NDArray[np.int64] = np.where(labels >= 0, count[which] - 1, 0)
    return found


def survivors(connections: NDArray[np.int64], least: int) -> NDArray[np.bool_]:
    """Which images of a batch stay: those with ``least`` connections in it, and with one in any case.

    One pass on the connections before anything is dropped.  Where all models must agree whole groups stay or go; else a survivor may
    have lost all its partners, and attracts its own two views alone.

    Args:
        connections: (B,) of each image.
        least: t_c of the paper.
    """
    return connections >= max(1, least)


def pruned(labels: NDArray[np.integer], pred: NDArray[np.integer] | None, at_least: int, least: int) -> tuple[
        NDArray[np.int64], NDArray[np.integer] | NDArray[np.bool_]]:
    """What of a batch is trained on, and what is alike in it.

    Args:
        labels: (B,) group ids of the batch.
        pred: (E, B) predictions of the batch, where fewer than all models must agree; None where group ids say all.
        at_least: models that must agree; of ``pred``.
        least: connections that an image needs within the batch.

    Returns:
        (m,) int64 places in the batch, and for `ucl.objectives.contrast.multi_positive` (m,) group ids or (m, m) pairs.
    """
    if pred is None:
        keep = np.flatnonzero(survivors(group_connections(labels), least))
        return keep, labels[keep]
    pairs = connected(pred, at_least)
    keep = np.flatnonzero(survivors(pairs.sum(axis=1), least))
    return keep, pairs[np.ix_(keep, keep)]

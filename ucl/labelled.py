"""Labels as an artifact, where it is not clustering that made them; and the history that all labels carry.  Torch-free."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ucl.artifacts import BAD_IMAGE, DISSOLVED, KEPT, Labels, Samples
from ucl.context import Context
from ucl.settings import ClusterSettings


def as_labels(labels: NDArray[np.int32], k: int, samples: Samples | None, context: Context, info: dict[str, Any],
              previous: Labels | None = None, history: int = ClusterSettings.history, *, score: NDArray[np.float32] | None = None,
              probs: NDArray[np.float32] | None = None) -> Labels:
    """Classes of a classifier, or clusters of an objective, as an artifact.

    Args:
        labels: (N,) int32; -1 for a bad image, or one that is in no class.
        k: number of classes, empty ones included.
        samples: the N images.  context: where they were made.  info: how.
        previous: the last epoch's, whose history goes on.  history: epochs remembered.
        score: (N,) float32, how sure each label is; NaN without.
        probs: (N, k) float32 probability of each class, NaN for a bad image.

    Returns:
        Labels: BAD_IMAGE where the image is, DISSOLVED where a good one is in no class, weight 0 for both, sizes; distances are NaN.
    """
    ok = np.ones(len(labels), bool) if samples is None else samples.ok
    size = np.bincount(labels[labels >= 0], minlength=k).astype(np.int64)
    nothing = np.full(len(labels), np.nan, np.float32)
    flag = np.where(ok, np.where(labels >= 0, KEPT, DISSOLVED), BAD_IMAGE).astype(np.uint8)
    rows, epochs = extended_history(labels, previous, context, history)
    return Labels(labels, flag, nothing, nothing.copy() if score is None else score, (labels >= 0).astype(np.float32), size=size,
                  history=rows, history_epoch=epochs, probs=probs,
                  samples=samples, context=context, info=info | {"k": k, "images": int(ok.sum()), "empty": int((size == 0).sum())})


def extended_history(labels: NDArray[np.int32], previous: Labels | None, context: Context, limit: int) -> tuple[
        NDArray[np.int32], NDArray[np.int32]]:
    """Labels of the newest ``limit`` epochs, oldest first: (H, N) and their epochs (H,), int32.

    The epoch made again replaces its row, the newest.  Epochs of an earlier round (PCP) stay, whatever their
    number.
    """
    old = np.zeros((0, len(labels)), np.int32)
    epochs = np.zeros(0, np.int32)
    if previous is not None and previous.history is not None and previous.history_epoch is not None:
        old, epochs = previous.history, previous.history_epoch
        if len(epochs) and previous.context.round == context.round and epochs[-1] == context.epoch:
            old, epochs = old[:-1], epochs[:-1]
    rows = np.concatenate([old, labels[None]]).astype(np.int32)
    return rows[-limit:].copy(), np.append(epochs, context.epoch).astype(np.int32)[-limit:]

"""True classes as an ordinary labels file, made on purpose for supervised toplines."""

from __future__ import annotations

import numpy as np

from ucl.artifacts import BAD_IMAGE, KEPT, Labels, Samples
from ucl.context import Context
from ucl.targets import true_classes


def truth_labels(samples: Samples, targets: str | None = None, which: str | None = None, origin: str = "") -> Labels:
    """Labels that are the true classes; -1 for unreadable images and those without a class.

    Args:
        samples: N images.
        targets, origin: see `targets.true_classes`.  which: its ``labels``.

    Raises:
        DataError, UsageError: see `targets.true_classes`.
    """
    names, truth = true_classes(samples, targets, which, origin)
    labels = np.where(samples.ok, truth, -1).astype(np.int32)
    flag = np.where(samples.ok, KEPT, BAD_IMAGE).astype(np.uint8)
    size = np.bincount(labels[labels >= 0], minlength=len(names)).astype(np.int64)
    return Labels(labels, flag=flag, weight=(labels >= 0).astype(np.float32), size=size, samples=samples,
                  info={"method": "targets", "classes": names},
                  context=Context(images=len(samples), samples_digest=samples.digest))

"""A pass over the fixed views of all usable images in evaluation mode, a batch at a time: nothing of all images is held here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ucl import stop
from ucl.artifacts import Checkpoint, ImageList
from ucl.device import Runtime

if TYPE_CHECKING:
    import torch
    from torch import nn


def fixed_views(images: ImageList, model: Checkpoint, runtime: Runtime, batch: int, network: nn.Module | None = None) -> Iterator[
        tuple[NDArray[np.int64], torch.Tensor]]:
    """Rows of the list and their features, after the final ReLU.

    Args:
        images: N images.
        model: network, and in its config size and normalisation of the views.
        runtime: the machine.
        batch: images at a time; last bits depend on it.
        network: on the device, left in evaluation mode; None = the checkpoint's.

    Yields:
        (B,) int64 rows and (B, D) float32 on the device, without gradient.

    Raises:
        Stopped: a signal came.
    """
    import torch

    from ucl import models
    from ucl.batches import Batches

    config = model.config
    batches = Batches(images, runtime, int(config["size"]), tuple(config["mean"]), tuple(config["std"]))
    features = runtime.compiled((models.restore(model).to(batches.device) if network is None else network).eval())
    rows = np.flatnonzero(images.samples.ok)
    for start in range(0, len(rows), batch):
        stop.check()
        at = rows[start:start + batch]
        views = batches.evaluate(at)
        with torch.inference_mode(), runtime.autocast():
            x = features(views)
        yield at, x.float()

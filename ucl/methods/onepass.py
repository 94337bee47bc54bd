"""DeepCluster with one pass over the images an epoch: what is clustered are the features that training has just computed.

Each image's features at its last training step are kept in the checkpoint (``/memory/features``, N x D float32: 205 MB for
200,000 images of 256 dimensions); ``extract`` hands them on and asks the network only for images that were never trained on, all of
them in the first epoch.  They are older than the model by up to an epoch, of random views, in training mode, and after the final
ReLU, since they are what the classifier was given.  So that every image is visited, each is drawn once, and clusters are balanced
by the weight 1/N_c in the loss, which DeepCluster's section 3.3 calls equivalent to balanced draws.  The idea is
DeepCluster-v2's (Caron et al., SwAV, NeurIPS 2020, released code); the rest of that method is not here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from ucl.context import Context
from ucl.methods import deepcluster
from ucl.methods.method import Method, Step

CHANGED: dict[str, dict[str, Any]] = {
    "extract": {"source": "training", "final_relu": True},
    "train-epoch": {"keep_features": True, "sampler": "shuffle", "weights": "inverse"},
}


def steps(context: Context) -> Iterator[Step]:
    """One turn: DeepCluster's, with the features of the training pass."""
    for step in deepcluster.steps(context):
        yield dataclasses.replace(step, settings=step.settings.override(CHANGED.get(step.verb, {})))


METHOD = Method("Caron et al., ECCV 2018 and NeurIPS 2020 (released code)", steps, deepcluster.epochs, deepcluster.init)

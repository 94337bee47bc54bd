"""SCAN's third step: the sure images of a batch teach their strong views the classes of their fixed ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ucl.artifacts import Checkpoint, ImageList, Neighbors
from ucl.device import Runtime
from ucl.errors import DataError
from ucl.keys import Key
from ucl.objectives import FIXED, Look, Made, Pass
from ucl.objectives.predictions import labels_of, probabilities, score, summary
from ucl.objectives.scan import self_label_loss
from ucl.objectives.steps import STEPS, Steps, whole_batches
from ucl.samplers import draw_epoch
from ucl.settings import TrainSettings

if TYPE_CHECKING:
    import torch
    from torch import nn, optim


class SelfLabel:
    """The loss of `objectives.scan.self_label_loss`; targets are made anew in every step, by a pass of the fixed views without gradient
    and, as in the released code, with the batch's statistics.

    See `objectives.Objective`.  Only whole batches are drawn; one without a sure image has no step, and is counted.
    """

    columns: tuple[str, ...] = ()
    trains_network = True
    reviews = True
    keeps = frozenset({STEPS})
    optimizers: list[optim.SGD]

    def __init__(self, model: Checkpoint, dim: int, images: ImageList, neighbors: Neighbors | None, settings: TrainSettings, key: Key,
                 runtime: Runtime, *, midway: bool) -> None:
        from ucl import models

        kept, below = models.part(model, "head."), models.head_stands_on(model)
        if not kept or below:
            raise DataError(f"checkpoint: {f'its classifier stands on a {below}' if below else 'no classifier'}, expected one on the features, whose "
                            "sure images are learnt from", "ucl train-epoch --objective scan makes one")
        self.model, self.images, self.neighbors = model, images, neighbors
        self.settings, self.runtime, self.optimizers = settings, runtime, []
        self.head = models.new_projection(dim, len(kept["weight"]), key, init="torch")
        models.from_arrays(self.head, kept)
        self.trained: dict[str, nn.Module] = {"head": self.head.to(runtime.device)}
        drawn = draw_epoch(np.where(images.samples.ok, 0, -1).astype(np.int32), "shuffle", settings.epoch_length, key)
        self.rows = drawn[:whole_batches(len(drawn), settings.batch) * settings.batch]
        self.steps = Steps.of(model.memory) if midway else Steps()
        self._made: Made | None = None

    def draw(self) -> NDArray[np.int64]:
        return self.rows

    def passes(self, rows: NDArray[np.int64], places: NDArray[np.int64]) -> list[Pass]:
        return [(Look(rows, places, FIXED),), (Look(rows, places, 0),)]

    def loss(self, features: list[torch.Tensor], rows: NDArray[np.int64], start: int) -> list[torch.Tensor] | None:
        import torch

        with torch.no_grad():
            weak = self.head(features[0])
        found = self_label_loss(weak, self.head(features[1]), threshold=self.settings.sure, balanced=self.settings.balanced)
        self.steps.record(len(rows), found.confident)
        return None if found.loss is None else [found.loss]

    def after_step(self) -> None:
        """Nothing moves but network and classifier."""

    def settle(self) -> None:
        """Every step leaves all up to date."""

    def finish(self, network: nn.Module) -> dict[str, Any]:
        """Labels the images, and scores them where their neighbours are known."""
        found = probabilities(self.images, self.model, network, self.head, self.runtime, self.settings.batch)
        self._made = labels_of(found, self.images)
        facts: dict[str, Any] = dict(self.steps.summary())
        if self.neighbors is not None:
            said = score(found, self.neighbors, np.flatnonzero(self.images.samples.ok), self.settings)
            facts |= {"score": said.total, "score_consistency": said.consistency, "score_entropy": said.entropy}
        return facts | summary(found, self.images)

    def handed_on(self) -> Made | None:
        """The labels of the fixed views."""
        return self._made

    def tensors(self) -> dict[str, NDArray[Any]]:
        from ucl import models

        return {f"head.{name}": v for name, v in models.to_arrays(self.head).items()}

    def momentum(self, *, midway: bool) -> dict[str, NDArray[Any]]:
        return {}

    def memory(self, *, midway: bool) -> dict[str, NDArray[Any]]:
        return dict(self.steps.arrays()) if midway else {}

    def config(self) -> dict[str, Any]:
        return {"k": self.head.out_features}

"""Two views of an image, told from the rest of the batch: SimCLR's training step, and ProFeat's with pseudo-labels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ucl.artifacts import Checkpoint, ImageList, Labels
from ucl.device import Runtime
from ucl.keys import Key
from ucl.objectives import Pass, of_views
from ucl.objectives.contrast import ALL, FIRST, multi_positive, nt_xent
from ucl.objectives.steps import STEPS, Steps, whole_batches
from ucl.samplers import draw_epoch
from ucl.settings import TrainSettings

if TYPE_CHECKING:
    import torch
    from torch import nn, optim


class Contrastive:
    """The loss of `objectives.contrast` on the projection, or on the features where there is none.

    See `objectives.Objective`.  Only whole batches are drawn.  With labels, images of -1 are left out of a batch before the network sees
    it, the rest attract those of their label, and a batch with fewer than ``least_batch`` of them has no step.
    """

    columns: tuple[str, ...] = ()
    keeps = frozenset({STEPS})
    optimizers: list[optim.SGD]

    def __init__(self, model: Checkpoint, dim: int, images: ImageList, labels: Labels | None, settings: TrainSettings, key: Key,
                 runtime: Runtime, *, midway: bool) -> None:
        from ucl import models

        self.settings, self.optimizers = settings, []
        self.projection = models.projection(model, dim)
        self.trained: dict[str, nn.Module] = {} if self.projection is None else {"projection": self.projection.to(runtime.device)}
        self.labels = None if labels is None else np.where(images.samples.ok, labels.labels, np.int32(-1))
        usable = np.where(images.samples.ok, np.int32(0), np.int32(-1))
        drawn = draw_epoch(usable, "shuffle", settings.epoch_length, key)
        self.rows = drawn[:whole_batches(len(drawn), settings.batch) * settings.batch]
        self.steps = Steps.of(model.memory) if midway else Steps()

    def draw(self) -> NDArray[np.int64]:
        return self.rows

    def passes(self, rows: NDArray[np.int64], places: NDArray[np.int64]) -> list[Pass]:
        if self.labels is not None:
            found = self.labels[rows]
            sure = found >= 0
            alike = len(np.unique(found[sure])) == 1
            if not self.steps.record(len(rows), int(sure.sum()), least=self.settings.least_batch, one_group=alike):
                return []
            rows, places = rows[sure], places[sure]
        return of_views(rows, places, (0, 1))

    def loss(self, features: list[torch.Tensor], rows: NDArray[np.int64], start: int) -> list[torch.Tensor]:
        import torch

        s = self.settings
        z = features[0] if self.projection is None else self.projection(features[0])
        first, second = z[:len(z) // 2], z[len(z) // 2:]
        anchors = FIRST if s.first_only else ALL
        if self.labels is None:
            return [nt_xent(first, second, tau=s.tau, anchors=anchors)]
        found = self.labels[rows]
        same = torch.from_numpy(found[found >= 0].astype(np.int64)).to(z.device)
        return [multi_positive(first, second, same, tau=s.tau, form=s.positives, anchors=anchors)]

    def after_step(self) -> None:
        """Nothing moves but network and projection."""

    def settle(self) -> None:
        """Every step leaves all up to date."""

    def finish(self) -> dict[str, Any]:
        chance = {"log_batch": math.log(2 * self.settings.batch - 1)}  # the loss of views that are all alike
        return chance if self.labels is None else chance | self.steps.summary()

    def handed_on(self) -> None:
        """The labels, if there are any, are those it was given."""

    def tensors(self) -> dict[str, NDArray[Any]]:
        from ucl import models

        return {} if self.projection is None else {f"projection.{k}": v for k, v in models.to_arrays(self.projection).items()}

    def momentum(self, *, midway: bool) -> dict[str, NDArray[Any]]:
        return {}

    def memory(self, *, midway: bool) -> dict[str, NDArray[Any]]:
        return dict(self.steps.arrays()) if midway and self.labels is not None else {}

    def config(self) -> dict[str, Any]:
        return {}

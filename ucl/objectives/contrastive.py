"""Two views of an image, told from the rest of the batch: SimCLR's training step, and ProFeat's with pseudo-labels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ucl.agree import pruned
from ucl.artifacts import Checkpoint, ImageList, Labels
from ucl.device import Runtime
from ucl.errors import DataError
from ucl.keys import Key
from ucl.objectives import Pass, of_views
from ucl.objectives.contrast import ALL, FIRST, multi_positive, nt_xent
from ucl.objectives.steps import STEPS, Steps, whole_batches
from ucl.samplers import draw_epoch
from ucl.settings import TrainSettings

if TYPE_CHECKING:
    import torch
    from torch import nn, optim

CONNECTIONS = "connections"
"""Name in a checkpoint's memory, inside an epoch."""


class Contrastive:
    """The loss of `objectives.contrast` on the projection, or on the features where there is none.

    See `objectives.Objective`.  Only whole batches are drawn.  With labels, images of -1 are left out of a batch before the network sees
    it, the rest attract those of their label, and a batch with fewer than ``least_batch`` of them has no step.  With ``connections``, and
    with labels that several models agreed on, so are images with too few others alike in the batch; where fewer than all models had to
    agree, what is alike is what the models' own labels say of each pair.
    """

    columns: tuple[str, ...] = ()
    trains_network = True
    reviews = False
    keeps = frozenset({STEPS, CONNECTIONS})
    optimizers: list[optim.SGD]

    def __init__(self, model: Checkpoint, dim: int, images: ImageList, labels: Labels | None, settings: TrainSettings, key: Key,
                 runtime: Runtime, *, midway: bool) -> None:
        from ucl import models

        self.settings, self.optimizers = settings, []
        self.projection = models.projection(model, dim)
        self.trained: dict[str, nn.Module] = {} if self.projection is None else {"projection": self.projection.to(runtime.device)}
        self.labels = None if labels is None else np.where(images.samples.ok, labels.labels, np.int32(-1))
        self.pred, self.at_least, self.least = _ensemble(labels, settings.connections)
        self.connections = int(model.memory[CONNECTIONS][0]) if midway and CONNECTIONS in model.memory else 0
        usable = np.where(images.samples.ok, np.int32(0), np.int32(-1))
        drawn = draw_epoch(usable, "shuffle", settings.epoch_length, key)
        self.rows = drawn[:whole_batches(len(drawn), settings.batch) * settings.batch]
        self.steps = Steps.of(model.memory) if midway else Steps()

    def draw(self) -> NDArray[np.int64]:
        return self.rows

    def passes(self, rows: NDArray[np.int64], places: NDArray[np.int64]) -> list[Pass]:
        if self.labels is not None:
            keep, same = self._kept(rows)
            alike = len(np.unique(same)) == 1 if same.ndim == 1 else bool(len(same) and (same | np.eye(len(same), dtype=bool)).all())
            if not self.steps.record(len(rows), len(keep), least=self.settings.least_batch, one_group=alike):
                return []
            self.connections += _pairs(same)
            rows, places = rows[keep], places[keep]
        return of_views(rows, places, (0, 1))

    def _kept(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Places in a batch that are trained on, and what is alike among them: (m,) ids, or (m, m) bool."""
        assert self.labels is not None
        found = self.labels[rows]
        if not self.least:
            keep = np.flatnonzero(found >= 0)
            return keep, found[keep]
        pred = None if self.pred is None else np.where(found >= 0, self.pred[:, rows], np.int32(-1))
        return pruned(found, pred, self.at_least, self.least)

    def loss(self, features: list[torch.Tensor], rows: NDArray[np.int64], start: int) -> list[torch.Tensor]:
        import torch

        s = self.settings
        z = features[0] if self.projection is None else self.projection(features[0])
        first, second = z[:len(z) // 2], z[len(z) // 2:]
        anchors = FIRST if s.first_only else ALL
        if self.labels is None:
            return [nt_xent(first, second, tau=s.tau, anchors=anchors)]
        found = self._kept(rows)[1]
        same = torch.from_numpy(found if found.dtype == bool else found.astype(np.int64)).to(z.device)
        return [multi_positive(first, second, same, tau=s.tau, form=s.positives, anchors=anchors)]

    def after_step(self) -> None:
        """Nothing moves but network and projection."""

    def settle(self) -> None:
        """Every step leaves all up to date."""

    def finish(self, network: nn.Module) -> dict[str, Any]:
        chance = {"log_batch": math.log(2 * self.settings.batch - 1)}  # the loss of views that are all alike
        if self.labels is None:
            return chance
        joined = {CONNECTIONS: self.connections / max(self.steps.images, 1)} if self.least else {}
        return chance | self.steps.summary() | joined

    def handed_on(self) -> None:
        """The labels, if there are any, are those it was given."""

    def tensors(self) -> dict[str, NDArray[Any]]:
        from ucl import models

        return {} if self.projection is None else {f"projection.{k}": v for k, v in models.to_arrays(self.projection).items()}

    def momentum(self, *, midway: bool) -> dict[str, NDArray[Any]]:
        return {}

    def memory(self, *, midway: bool) -> dict[str, NDArray[Any]]:
        if not midway or self.labels is None:
            return {}
        return self.steps.arrays() | ({CONNECTIONS: np.array([self.connections], np.int64)} if self.least else {})

    def config(self) -> dict[str, Any]:
        return {}


def _ensemble(labels: Labels | None, connections: int) -> tuple[NDArray[np.int32] | None, int, int]:
    """Predictions (E, N) of an ensemble of which fewer than all models must agree, or None; how many must; and the fewest connections.

    Raises:
        DataError: labels of several models that do not say how many had to agree, or more than there are.
    """
    if labels is None or labels.pred is None:
        return None, 1, connections
    at_least, models = labels.info.get("purify", {}).get("agree"), len(labels.pred)
    if not isinstance(at_least, int) or not 1 <= at_least <= models:
        raise DataError(f"labels: /pred is of {models} models, of which {at_least} had to agree by /clusters/info, expected 1 to {models}",
                        "make them with ucl purify --rule agree, or leave /pred out")
    return None if at_least == models else labels.pred, at_least, max(1, connections)


def _pairs(same: NDArray[Any]) -> int:
    """Ordered pairs of different images that are alike: by (m,) ids, or (m, m) bool."""
    if same.ndim == 2:
        return int(same.sum())
    count = np.unique(same, return_counts=True)[1].astype(np.int64)
    return int((count * (count - 1)).sum())

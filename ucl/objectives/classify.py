"""Classification on pseudo-labels: a linear classifier over the clusters; DeepCluster, sections 3.1 to 3.3."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ucl.artifacts import REMEMBERED, Checkpoint, ImageList, Labels
from ucl.device import Runtime
from ucl.keys import Key
from ucl.objectives import Pass, of_views
from ucl.samplers import cluster_weights, draw_epoch
from ucl.settings import TrainSettings

if TYPE_CHECKING:
    import torch
    from torch import nn, optim

log = logging.getLogger(__name__)


class Classify:
    """Cross-entropy over the clusters, with a head that is drawn anew each epoch, or kept.

    See `objectives.Objective`; labels of -1 are never drawn.
    """

    columns: tuple[str, ...] = ()
    trains_network = True
    reviews = False
    keeps = frozenset({REMEMBERED})
    trained: dict[str, nn.Module]

    def __init__(self, model: Checkpoint, dim: int, images: ImageList, labels: Labels, settings: TrainSettings, key: Key,
                 runtime: Runtime, *, midway: bool) -> None:
        from torch import optim

        from ucl import models

        self.trained, self.settings, self.key = {}, settings, key
        self.usable = np.where(images.samples.ok, labels.labels, np.int32(-1))  # a stage of somebody's own may have labelled bad images
        if labels.weight is not None:
            self.usable = np.where(labels.weight > 0, self.usable, np.int32(-1))
        self.rows = draw_epoch(self.usable, settings.sampler, settings.epoch_length, key)
        weight = cluster_weights(self.usable, labels.k, settings.weights)[np.maximum(self.usable, 0)]
        self.weight = (weight * (labels.weight if labels.weight is not None else np.float32(1))).astype(np.float32)
        self.head, stored = self._head(model, dim, labels.k, midway=midway)
        self.head.to(runtime.device)
        self.optimizer: optim.SGD = optim.SGD(self.head.parameters(), settings.lr, settings.head_momentum, weight_decay=settings.weight_decay,
                                              nesterov=settings.nesterov and settings.head_momentum > 0)
        self.optimizers = [self.optimizer]
        if stored:
            models.load_momentum(self.optimizer, self.head, model.optimizer, "head/")
        self._remember(model, len(self.usable) if settings.keep_features else 0, dim)

    def _head(self, model: Checkpoint, dim: int, k: int, *, midway: bool) -> tuple[nn.Linear, bool]:
        """The classifier, and whether it is the checkpoint's."""
        from ucl import models

        stored = models.part(model, "head.")
        kept, on = bool(stored) and (self.settings.head == "kept" or midway), models.head_stands_on(model)
        if kept and on:
            log.warning("the head stands on the %s, which classification does not train: it is drawn anew", on)
            kept = False
        elif kept and stored["weight"].shape != (k, dim):
            log.warning("the head has %d clusters, the labels %d: it is drawn anew", len(stored["weight"]), k)
            kept = False
        head = models.new_head(dim, k, self.key)
        if kept:
            models.from_arrays(head, stored)
        return head, kept

    def _remember(self, model: Checkpoint, n: int, dim: int) -> None:
        """Room for the features of every step's images, a row for each of ``n`` images; 0 = none, and those kept are forgotten."""
        self.seen: list[tuple[NDArray[np.int64], torch.Tensor]] = []
        self.features: NDArray[np.float32] | None = None
        if n:
            before = model.memory.get(REMEMBERED)
            again = before is not None and before.shape == (n, dim)
            self.features = np.array(before, np.float32) if again else np.full((n, dim), np.nan, np.float32)

    def draw(self) -> NDArray[np.int64]:
        return self.rows

    def passes(self, rows: NDArray[np.int64], places: NDArray[np.int64]) -> list[Pass]:
        return of_views(rows, places, (0,))

    def loss(self, features: list[torch.Tensor], rows: NDArray[np.int64], start: int) -> list[torch.Tensor]:
        import torch
        from torch.nn import functional

        x = features[0]
        logits = self.head(x)
        if self.features is not None:
            self.seen.append((rows, x.detach()))
        y = torch.from_numpy(self.usable[rows].astype(np.int64)).to(x.device)
        w = torch.from_numpy(self.weight[rows]).to(x.device)
        each = functional.cross_entropy(logits, y, reduction="none")
        return [(each * w).sum() / w.sum()]

    def after_step(self) -> None:
        """Nothing moves but the head."""

    def settle(self) -> None:
        if self.features is not None:
            for at, features in self.seen:  # in order: of an image drawn twice the last step counts
                self.features[at] = features.cpu().numpy()
            self.seen.clear()

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        from ucl import models

        return {f"head.{k}": v for k, v in models.to_arrays(self.head).items()}

    def momentum(self, *, midway: bool) -> dict[str, NDArray[np.float32]]:
        from ucl import models

        return models.momentum_arrays(self.optimizer, self.head, "head/") if midway or self.settings.head == "kept" else {}

    def finish(self, network: nn.Module) -> dict[str, Any]:
        return {}

    def handed_on(self) -> None:
        """The labels are those it was given."""

    def memory(self, *, midway: bool) -> dict[str, NDArray[np.float32]]:
        return {REMEMBERED: self.features} if self.features is not None else {}

    def config(self) -> dict[str, Any]:
        return {"k": int(self.head.weight.shape[0])}

"""SCAN's training step: one class for an image and a neighbour of it, all classes in use; and the choice of an epoch without labels.

Van Gansbeke, Vandenhende, Georgoulis, Proesmans, Van Gool: "SCAN: Learning to Classify Images without Labels", ECCV 2020, and its
released code, whose choice is made on test images; here it is made on the training images or on a part that is held out.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ucl.artifacts import Checkpoint, ImageList, Neighbors
from ucl.confidence import held_out
from ucl.device import Runtime
from ucl.errors import DataError, UsageError
from ucl.keys import Key
from ucl.objectives import Look, Made, Pass
from ucl.objectives.predictions import labels_of, probabilities, score, summary
from ucl.objectives.scan import draw_neighbors, scan_loss
from ucl.objectives.steps import whole_batches
from ucl.samplers import draw_epoch
from ucl.settings import TrainSettings

if TYPE_CHECKING:
    import torch
    from torch import nn, optim

OFF, TAKE = "off", "take"
"""Of `TrainSettings.best`."""

BEST = "best/"
"""Prefix in the checkpoint's memory: network and classifier of the lowest score so far, the score, and its epoch."""


class Scan:
    """The loss of `objectives.scan` on strong views of images and of one drawn neighbour each, in passes of their own.

    See `objectives.Objective`.  Only whole batches are drawn.  The classifier is one linear layer, trained by the network's own
    optimizer.  After the epoch the fixed views of all images are labelled, and scored.
    """

    columns: tuple[str, ...] = ("consistency", "entropy")
    reviews = True
    optimizers: list[optim.SGD]

    def __init__(self, model: Checkpoint, dim: int, images: ImageList, neighbors: Neighbors | None, settings: TrainSettings, key: Key,
                 runtime: Runtime, *, midway: bool) -> None:
        if neighbors is None:
            raise DataError("neighbors: found none, and scan draws an image's partner from them",
                            "ucl extract --layer projection | ucl neighbors --include-self | ucl train-epoch --objective scan")
        self.model, self.images, self.neighbors = model, images, neighbors
        self.settings, self.key, self.runtime, self.optimizers = settings, key, runtime, []
        ok = images.samples.ok
        self.held = held_out(ok, settings.held_out, Key(key.seed, stage="init")) if settings.held_out else np.zeros(len(ok), bool)
        near = np.asarray(neighbors.neighbors)
        self.near = np.where((near >= 0) & ~self.held[near], near.astype(np.int64, copy=False), np.int64(-1)) if settings.held_out else near
        self._all_have_partners(ok & ~self.held)
        self.head = _classifier(model, dim, settings, key, midway=midway).to(runtime.device)
        self.trained: dict[str, nn.Module] = {"head": self.head}
        self.trains_network = settings.trains == "all"
        drawn = draw_epoch(np.where(ok & ~self.held, 0, -1).astype(np.int32), "shuffle", settings.epoch_length, key)
        self.rows = drawn[:whole_batches(len(drawn), settings.batch) * settings.batch]
        self.best = {} if settings.restart and not midway else {name: v for name, v in model.memory.items() if name.startswith(BEST)}
        self.keeps = frozenset(name for name in model.memory if name.startswith(BEST))
        self._made: Made | None = None

    def _all_have_partners(self, anchors: NDArray[np.bool_]) -> None:
        """Refuse what only the epoch that draws the image would notice.

        Raises:
            DataError: an image to train on without a neighbour to draw.
        """
        alone = anchors & ~(self.near >= 0).any(axis=1)
        if alone.any():
            held = f", {self.held.sum()} images held out" if self.settings.held_out else ""
            raise DataError(f"neighbors: row {np.argmax(alone)} has no neighbour, expected at least one{held}", "ucl neighbors of these images' "
                            "features, with more --neighbors or --include-self")

    def draw(self) -> NDArray[np.int64]:
        return self.rows

    def passes(self, rows: NDArray[np.int64], places: NDArray[np.int64]) -> list[Pass]:
        partners = draw_neighbors(self.near, rows, int(places[0]), self.key)
        return [(Look(rows, places, 0),), (Look(partners, places, 1),)]

    def loss(self, features: list[torch.Tensor], rows: NDArray[np.int64], start: int) -> list[torch.Tensor]:
        return list(scan_loss(self.head(features[0]), self.head(features[1]), entropy_weight=self.settings.entropy_weight))

    def after_step(self) -> None:
        """Nothing moves but network and classifier."""

    def settle(self) -> None:
        """Every step leaves all up to date."""

    def finish(self, network: nn.Module) -> dict[str, Any]:
        """Labels and scores the images; notes the weights if none were better, and at the end of a stage takes the best."""
        s = self.settings
        found = self._probabilities(network)
        rows = np.flatnonzero(self.held if s.held_out else self.images.samples.ok)
        said = score(found, self.neighbors, rows, s)
        facts: dict[str, Any] = {"loss_even": (1 - s.entropy_weight) * math.log(self.head.out_features)}  # of classes that are all as probable
        if s.best != OFF:
            if not self.best or said.total < self._noted("score"):
                self.best = self._weights(network) | {f"{BEST}score": np.array([said.total]), f"{BEST}epoch": np.array([self.key.epoch])}
            facts |= {"best_score": self._noted("score"), "best_epoch": int(self._noted("epoch")) + 1}
        if s.best == TAKE and self._noted("epoch") != self.key.epoch:
            self._take(network)
            found = self._probabilities(network)
            said = score(found, self.neighbors, rows, s)
        facts |= {"score": said.total, "score_consistency": said.consistency, "score_entropy": said.entropy}
        self._made = labels_of(found, self.images)
        return facts | summary(found, self.images)

    def _noted(self, name: str) -> float:
        return float(self.best[BEST + name][0])

    def _probabilities(self, network: nn.Module) -> NDArray[np.float32]:
        return probabilities(self.images, self.model, network, self.head, self.runtime, self.settings.batch)

    def _weights(self, network: nn.Module) -> dict[str, NDArray[Any]]:
        from ucl import models

        parts = {"head": self.head} | ({"backbone": network} if self.trains_network else {})
        return {f"{BEST}{part}.{name}": v for part, module in parts.items() for name, v in models.to_arrays(module).items()}

    def _take(self, network: nn.Module) -> None:
        from ucl import models

        for part, module in (("backbone", network), ("head", self.head)):
            arrays = {name.removeprefix(f"{BEST}{part}."): v for name, v in self.best.items() if name.startswith(f"{BEST}{part}.")}
            if arrays:
                models.from_arrays(module, arrays)

    def handed_on(self) -> Made | None:
        """The labels of the fixed views, by the weights that go on."""
        return self._made

    def tensors(self) -> dict[str, NDArray[Any]]:
        from ucl import models

        return {f"head.{name}": v for name, v in models.to_arrays(self.head).items()}

    def momentum(self, *, midway: bool) -> dict[str, NDArray[Any]]:
        return {}

    def memory(self, *, midway: bool) -> dict[str, NDArray[Any]]:
        return {} if self.settings.best == TAKE and not midway else dict(self.best)

    def config(self) -> dict[str, Any]:
        return {"k": self.head.out_features}


def _classifier(model: Checkpoint, dim: int, settings: TrainSettings, key: Key, *, midway: bool) -> nn.Linear:
    """The checkpoint's classifier, or a fresh one drawn as the released code does: where there is none, or a stage begins.

    Raises:
        UsageError: no number of classes.  DataError: another number than the classifier's, or one on hidden layers.
    """
    from ucl import models

    kept = models.part(model, "head.")
    if kept and (midway or not settings.restart):
        if models.head_stands_on(model):
            raise DataError(f"checkpoint: its classifier stands on a {models.head_stands_on(model)}, expected one on the features",
                            "--restart draws a new one")
        if settings.k not in (0, len(kept["weight"])):
            raise DataError(f"checkpoint: a classifier of {len(kept['weight'])} classes, asked for {settings.k}", "--restart draws a new one")
        head = models.new_projection(dim, len(kept["weight"]), key, init="torch")
        models.from_arrays(head, kept)
        return head
    if not settings.k:
        raise UsageError("k: found 0, wanted the number of classes, which the model does not say", "-k K")
    return models.new_projection(dim, settings.k, key, init="torch")

"""Classification over clusters that move in every step: ODC's training step on the memories of `objectives.online`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ucl.artifacts import Checkpoint, ImageList, Labels
from ucl.device import Runtime
from ucl.errors import DataError
from ucl.keys import Key
from ucl.objectives import MEMORY, Made, Pass, of_these_images, of_views
from ucl.objectives.fixed_views import fixed_views
from ucl.objectives.online import BANK, CENTROID, COUNTED, COUNTS, KEPT, LABELS, Online, Rules, draw_epoch, least_members, weighted_loss
from ucl.samplers import draw_epoch as draw_labelled
from ucl.settings import TrainSettings

if TYPE_CHECKING:
    import torch
    from torch import nn, optim

POWER = {"none": 0.0, "inverse-sqrt": 0.5, "inverse": 1.0}
"""Names of `TrainSettings.weights` -> the power of a cluster's size by which it weighs less."""


class OnlineEpoch:
    """Cross-entropy with the labels as they stand before the step; the step moves memory, labels and centroids.

    See `objectives.Objective`.  The first epoch begins with clusters of the embeddings' fixed views, which it is given; from then on all
    is in the memory.  The classifier is drawn once; it stands on the neck, or on the features where there is none.
    """

    columns: tuple[str, ...] = ()
    trains_network = True
    reviews = False
    keeps = KEPT

    def __init__(self, model: Checkpoint, dim: int, images: ImageList, labels: Labels | None, settings: TrainSettings, key: Key,
                 runtime: Runtime, *, midway: bool) -> None:
        from torch import optim

        from ucl import models

        self.settings, self.key = settings, key
        self.ok, self.images = images.samples.ok, images.samples.digest
        self.neck = models.neck(model, dim)
        self.trained: dict[str, nn.Module] = {} if self.neck is None else {"neck": self.neck.to(runtime.device)}
        self.online, begins = self._memories(model, images, labels, runtime, midway=midway)
        k, width = self.online.centroid.shape
        self.head = models.new_head(width, k, Key(key.seed, stage="init"))
        kept = {} if begins else models.part(model, "head.")
        if kept:
            models.from_arrays(self.head, kept)
        self.head.to(runtime.device)
        self.optimizer: optim.SGD = optim.SGD(self.head.parameters(), settings.lr, settings.head_momentum, weight_decay=settings.weight_decay,
                                              nesterov=settings.nesterov and settings.head_momentum > 0)
        self.optimizers = [self.optimizer]
        if kept:
            models.load_momentum(self.optimizer, self.head, model.optimizer, "head/")
        if settings.replacement:
            self.rows = draw_epoch(self.ok, settings.epoch_length, key)
        else:
            self.rows = draw_labelled(np.where(self.ok, 0, -1).astype(np.int32), "shuffle", settings.epoch_length, key)

    def _memories(self, model: Checkpoint, images: ImageList, labels: Labels | None, runtime: Runtime, *, midway: bool) -> tuple[Online, bool]:
        """The checkpoint's, or of the labels if some are given; and whether they are new."""
        s, there = self.settings, LABELS in model.memory
        goes_on = there and (labels is None or midway)
        k = len(model.memory.get(CENTROID, ())) if goes_on else 0 if labels is None else labels.k
        least = s.least or (least_members(int(self.ok.sum()), k, int(model.config["size"])) if k else 1)
        rules = Rules(s.similarity, s.memory_momentum, s.refresh_every, s.refresh, least, s.repair, s.repair_every, POWER[s.weights])
        if goes_on:
            of_these_images(model, images, LABELS)
            if BANK not in model.memory or CENTROID not in model.memory or COUNTS not in model.memory:
                raise DataError(f"checkpoint: /memory: found {', '.join(sorted(model.memory))}, expected {BANK}, {CENTROID} and {COUNTS} too",
                                "use a checkpoint made by ucl")
            made = Online.of(model.memory, self.ok, len(model.memory[CENTROID]), rules, runtime.device)
            if not midway:
                made.begin_epoch()
            return made, False
        if labels is None:
            raise DataError("labels: found none, and the model has no clusters yet", "ucl extract | ucl cluster --pca 0 makes those to begin with")
        found = embeddings(images, model, self.neck, runtime, batch=s.batch)
        return Online.start(found, labels.labels, self.ok, labels.k, rules, Key(self.key.seed), runtime.device), True

    def draw(self) -> NDArray[np.int64]:
        return self.rows

    def passes(self, rows: NDArray[np.int64], places: NDArray[np.int64]) -> list[Pass]:
        return of_views(rows, places, (0,))

    def loss(self, features: list[torch.Tensor], rows: NDArray[np.int64], start: int) -> list[torch.Tensor]:
        embedding = features[0] if self.neck is None else self.neck(features[0])
        found = weighted_loss(self.head(embedding), self.online.targets(rows), self.online.weights())
        self.online.see(rows, embedding)  # the loss has the labels of before
        return [found]

    def after_step(self) -> None:
        self.online.after_step(self.key)

    def settle(self) -> None:
        """Every step leaves all up to date."""

    def finish(self, network: nn.Module) -> dict[str, Any]:
        counts = self.online.counts
        size = self.online.parts.size
        return {"relabelled": counts["changed"] / max(counts["seen"], 1), "smallest": int(size.min()),
                **{name: counts[name] for name in COUNTED if name not in ("seen", "changed")}}

    def handed_on(self) -> Made:
        return Made(self.online.parts.labels.copy(), len(self.online.centroid))

    def tensors(self) -> dict[str, NDArray[Any]]:
        from ucl import models

        return {f"{part}.{name}": v for part, module in {**self.trained, "head": self.head}.items() for name, v in models.to_arrays(module).items()}

    def momentum(self, *, midway: bool) -> dict[str, NDArray[np.float32]]:
        from ucl import models

        return models.momentum_arrays(self.optimizer, self.head, "head/")

    def memory(self, *, midway: bool) -> dict[str, NDArray[Any]]:
        return self.online.arrays()

    def config(self) -> dict[str, Any]:
        return {"k": len(self.online.centroid), MEMORY: {"images": self.images}} | ({} if self.neck is None else {"head_on": "neck"})


def embeddings(images: ImageList, model: Checkpoint, neck: nn.Module | None, runtime: Runtime, *, batch: int) -> NDArray[np.float32]:
    """What the classifier is given of every image's fixed view, in evaluation mode: what is clustered first, and remembered.

    Args:
        images: N images.
        model: its network.
        neck: on the runtime's device, or None; its mode is as before afterwards.
        runtime: the machine.
        batch: images at a time; last bits depend on it.

    Returns:
        (N, D) float32, 0 for a bad image.

    Raises:
        Stopped: a signal came.
    """
    import torch

    training = neck is not None and neck.training
    if neck is not None:
        neck.eval()
    made: NDArray[np.float32] | None = None
    for at, x in fixed_views(images, model, runtime, batch):
        with torch.inference_mode():
            found = (x if neck is None else neck(x)).cpu().numpy()
        if made is None:
            made = np.zeros((len(images.samples), found.shape[1]), np.float32)
        made[at] = found
    if neck is not None:
        neck.train(training)
    assert made is not None
    return made

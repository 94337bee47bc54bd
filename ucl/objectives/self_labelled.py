"""Classification by labels that the network gives itself: UIC's training step, and its pass over the fixed views."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from ucl.artifacts import Checkpoint, ImageList, Labels
from ucl.device import Runtime
from ucl.errors import DataError, UsageError
from ucl.keys import Key
from ucl.objectives import MEMORY, Made, Pass, of_these_images, of_views
from ucl.objectives.fixed_views import fixed_views
from ucl.objectives.relabel import COUNTS, PATIENCE, TARGETS, WRITTEN, Relabelling, classes, random_labels, stored
from ucl.samplers import draw_epoch
from ucl.settings import TrainSettings

if TYPE_CHECKING:
    import torch
    from torch import nn, optim

log = logging.getLogger(__name__)
TRAINING, FIXED, NONE = "training", "fixed", "none"
"""Where labels come from; see `TrainSettings.relabel`."""


class SelfLabelled:
    """Cross-entropy with the labels of the epoch's start, while the classes of its own logits are written down for the next.

    See `objectives.Objective`.  Hidden layers and classifier are drawn once and trained by the network's own optimizer.  Beside them
    two integers of each image are kept, and no features.
    """

    columns: tuple[str, ...] = ()
    trains_network = True
    reviews = False
    keeps = frozenset({TARGETS, WRITTEN, COUNTS})
    optimizers: list[optim.SGD]

    def __init__(self, model: Checkpoint, dim: int, images: ImageList, labels: Labels | None, settings: TrainSettings, key: Key,
                 runtime: Runtime, *, midway: bool) -> None:
        self.settings, self.key, self.optimizers = settings, key, []
        self.ok, self.images = images.samples.ok, images.samples.digest
        self.k = _classes(model, labels, settings)
        hidden, self.head = _layers(model, dim, self.k, settings, Key(key.seed, stage="init"))
        self.trained: dict[str, nn.Module] = ({} if hidden is None else {"mlp": hidden}) | {"head": self.head}
        for module in self.trained.values():
            module.to(runtime.device)
        self.hidden = hidden
        self._said: dict[str, float] = {}
        self.labels = self._labels(model, images, labels, runtime, midway=midway)
        self.rows = draw_epoch(self.labels.targets, settings.sampler, settings.epoch_length, key)

    def _labels(self, model: Checkpoint, images: ImageList, labels: Labels | None, runtime: Runtime, *, midway: bool) -> Relabelling:
        """This epoch's labels: those given, else the model's own, else of its classifier's pass over the fixed views, else random ones."""
        n, s, memory = len(self.ok), self.settings, model.memory
        if WRITTEN in memory:
            of_these_images(model, images, WRITTEN)
        if midway:
            return Relabelling.of(memory, n, self.k)
        if s.relabel == FIXED and "head.weight" in model.model:
            found = fixed_view_labels(images, model, runtime, batch=s.batch)
        elif labels is not None:
            found = labels.labels if labels.weight is None else np.where(labels.weight > 0, labels.labels, np.int32(-1))
        elif WRITTEN in memory:
            found = stored(memory, WRITTEN, n, self.k)
        elif s.relabel == NONE:
            raise DataError("labels: found none, and they are to stay as they are", "--relabel training or fixed, or give labels")
        elif "head.weight" in model.model:  # of a model that was trained elsewhere
            found = fixed_view_labels(images, model, runtime, batch=s.batch)
        else:
            found = random_labels(self.ok, self.k, Key(self.key.seed, stage="init"), balanced=s.first_labels == "balanced")
        collapsed = int(memory[COUNTS][0]) if COUNTS in memory else 0
        return Relabelling.begin(np.where(self.ok, found, np.int32(-1)), self.k, self.key, split=s.fill_empty, collapsed=collapsed)

    def draw(self) -> NDArray[np.int64]:
        return self.rows

    def passes(self, rows: NDArray[np.int64], places: NDArray[np.int64]) -> list[Pass]:
        return of_views(rows, places, (0,))

    def loss(self, features: list[torch.Tensor], rows: NDArray[np.int64], start: int) -> list[torch.Tensor]:
        import torch
        from torch.nn import functional

        x = features[0] if self.hidden is None else self.hidden(features[0])
        logits = self.head(x)
        if self.settings.relabel == TRAINING:
            self.labels.record(rows, logits)
        return [functional.cross_entropy(logits, torch.from_numpy(self.labels.target(rows)).to(logits.device))]

    def after_step(self) -> None:
        """The labels of the next epoch are the logits' of the loss, noted there."""

    def settle(self) -> None:
        self.labels.settle()

    def finish(self, network: nn.Module) -> dict[str, Any]:
        """Counts the epoch, the first time, and warns of a collapse that recurs."""
        if self.settings.relabel == TRAINING and not self._said:
            self._said = self.labels.summary(self.rows)
            self.labels.collapsed = int(self._said["collapsed_epochs"])
            if self.labels.collapsed > PATIENCE:
                log.warning("the network has given every image one class for %d epochs", self.labels.collapsed)
        return dict(self._said)

    def handed_on(self) -> Made:
        """The next epoch's labels."""
        self.labels.settle()
        return Made(self.labels.written.copy(), self.k)

    def tensors(self) -> dict[str, NDArray[Any]]:
        from ucl import models

        return {f"{part}.{name}": v for part, module in self.trained.items() for name, v in models.to_arrays(module).items()}

    def momentum(self, *, midway: bool) -> dict[str, NDArray[Any]]:
        return {}

    def memory(self, *, midway: bool) -> dict[str, NDArray[Any]]:
        return self.labels.arrays(midway=midway)

    def config(self) -> dict[str, Any]:
        return {"k": self.k, MEMORY: {"images": self.images}}


def _classes(model: Checkpoint, labels: Labels | None, settings: TrainSettings) -> int:
    """Number of classes; the classifier's, the labels' and the one asked for must agree.

    Raises:
        DataError: they do not.  UsageError: none of them says it.
    """
    head = model.model.get("head.weight")
    said = {"the model's classifier": 0 if head is None else len(head), "the labels": 0 if labels is None or labels.size is None else labels.k,
            "k": settings.k}
    said = {name: k for name, k in said.items() if k}
    if not said and labels is not None:
        return labels.k
    if not said:
        raise UsageError("k: 0, and there is neither a classifier nor labels", "-k K")
    if len(set(said.values())) > 1:
        raise DataError("labels: " + ", ".join(f"{name}: {k}" for name, k in said.items()) + "; expected one number of classes",
                        "go on with the number that the model was trained with; ids keep their meaning")
    return next(iter(said.values()))


def _layers(model: Checkpoint, dim: int, k: int, settings: TrainSettings, key: Key) -> tuple[nn.Sequential | None, nn.Linear]:
    """Hidden layers, if any, and the classifier: the checkpoint's, or drawn where it has none, or one on ODC's neck."""
    from ucl import models
    from ucl.networks.mlp import mlp, new_mlp

    kept = {} if models.head_stands_on(model) == "neck" else models.part(model, "head.")
    hidden = mlp(models.part(model, "mlp."), dim)
    if hidden is None and settings.mlp and not kept:
        hidden = new_mlp(dim, settings.mlp, key)
    head = models.new_head(dim if hidden is None else cast("nn.Linear", hidden[0]).out_features, k, key)
    if kept:
        models.from_arrays(head, kept)
    return hidden, head


def fixed_view_labels(images: ImageList, model: Checkpoint, runtime: Runtime, *, batch: int = 256) -> NDArray[np.int32]:
    """The class of every usable image's fixed view, by a model in evaluation mode; nothing of N x D is held.

    Args:
        images: N images.
        model: with a classifier, and with its hidden layers if it has them.
        runtime: the machine.
        batch: images at a time; last bits depend on it.

    Returns:
        (N,) int32, ties by lower id; -1 for a bad image.

    Raises:
        DataError: no classifier, or logits that are not finite.
        Stopped: a signal came.
    """
    import torch

    from ucl import models

    kept = models.part(model, "head.")
    if not kept:
        raise DataError("checkpoint: no classifier, which labels images", "use a model that was trained on labels")
    head = torch.nn.utils.skip_init(torch.nn.Linear, *kept["weight"].shape[::-1])  # type: ignore[no-untyped-call]
    models.from_arrays(head, kept)
    top: nn.Module | None = None
    labels = np.full(len(images.samples), -1, np.int32)
    found, rows = [], []
    for at, x in fixed_views(images, model, runtime, batch):
        if top is None:
            hidden = models.under_head(model, x.shape[1])
            top = (head if hidden is None else torch.nn.Sequential(hidden, head)).to(x.device).eval()
        with torch.inference_mode():
            found.append(classes(top(x)))
        rows.append(at)
    every = np.concatenate(rows)
    labels[every] = torch.cat(found).cpu().numpy()
    if (labels[every] < 0).any():
        raise DataError(f"logits: not finite for row {every[np.argmax(labels[every] < 0)]}, wanted finite numbers",
                        "training has diverged: go back an epoch, or lower the learning rate")
    return labels

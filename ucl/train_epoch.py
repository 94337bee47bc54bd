"""`train-epoch`: one epoch of ordinary classification on pseudo-labels.

DeepCluster section 3.2: the classifier is drawn anew (or kept, for ids that persist), the network and its optimizer go on
from the checkpoint.  Everything the next epoch needs is in the checkpoint this one returns.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ucl import dist, stop
from ucl.agreement import collapsed, compare_labelings
from ucl.artifacts import REMEMBERED, Checkpoint, ImageList, Labels, replace
from ucl.batches import Batches
from ucl.context import Context
from ucl.device import Runtime, keyed_stream
from ucl.errors import DataError
from ucl.keys import Key
from ucl.safepoints import MIDWAY, SafePoint
from ucl.samplers import cluster_weights, draw_epoch
from ucl.settings import TrainSettings

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)
Report = Callable[[str, int, int], None]
LOSSES = f"{MIDWAY}/losses"

@dataclasses.dataclass
class Trained:
    """What an epoch made: the checkpoint, the labels it was trained on (complete, with samples), and its metrics."""

    model: Checkpoint
    labels: Labels
    metrics: dict[str, Any]


def train_epoch(images: ImageList, model: Checkpoint, labels: Labels, settings: TrainSettings, context: Context,
                runtime: Runtime, report: Report, previous: Labels | None = None, *, resume: Checkpoint | None = None,
                safe: SafePoint | None = None) -> Trained:
    """Train one epoch on pseudo-labels.

    Args:
        images: N images.
        model: what to go on from.
        labels: N pseudo-labels; -1 is never drawn.
        settings: optimizer, sampler, views.
        context: seed and epoch; every draw is keyed by them.
        runtime: device, threads.
        report: called with ("train-epoch", done, total).
        previous: the last epoch's labels, for NMI and churn only.
        resume: what ``safe`` kept of this very epoch; with it the epoch goes on, to the same end.
        safe: keeps the state between two batches, when it is due and before a signal ends the epoch.

    Raises:
        Stopped: a signal came.
        DataError: labels of another length or image list, no two images to draw, or a loss that is not finite (the batch and
            the images' rows are named; nothing is returned, so the last checkpoint stands).
    """
    started = time.monotonic()
    labels = belonging(labels, images, "labels")
    if labels.foreign and labels.k > len(labels.labels):
        raise DataError(f"labels: ids up to {labels.k - 1} for {len(labels.labels)} images, expected fewer clusters than images",
                        "number the clusters from 0: np.unique(labels, return_inverse=True)[1]")
    usable = np.where(images.samples.ok, labels.labels, np.int32(-1))
    if not np.array_equal(usable, labels.labels):  # a stage of somebody's own may have labelled images that cannot be read
        labels = replace(labels, labels=usable)
    if labels.weight is not None:
        usable = np.where(labels.weight > 0, usable, np.int32(-1))
    key = Key(context.seed, context.round, context.stage, context.epoch)
    rows = draw_epoch(usable, settings.sampler, settings.epoch_length, key)
    if len(rows) < 2:
        raise DataError(f"labels: found {len(rows)} image to draw, batch normalisation needs 2", "more labels, or a larger --epoch-length")
    state = _State(model, labels.k, settings, key, runtime, resume)
    state.remember(len(usable) if settings.keep_features else 0)
    batches = Batches(images, runtime, int(model.config["size"]), tuple(model.config["mean"]), tuple(model.config["std"]))
    weight = cluster_weights(usable, labels.k, settings.weights)
    row_weight = weight[np.maximum(usable, 0)] * (labels.weight if labels.weight is not None else np.float32(1))
    losses = _loop(state, batches, usable, row_weight.astype(np.float32), rows, settings, key, report, context, safe)
    trained = state.checkpoint(model, context, len(losses), len(rows))
    seconds = time.monotonic() - started + state.seconds
    metrics = {"epoch": context.epoch, "loss": _mean_loss(losses, len(rows), settings.batch), "log_k": math.log(max(labels.k, 1)),
               **describe(labels, usable, previous), "steps": len(losses), "seconds_train": round(seconds, 3),
               "images_per_second_train": round(len(rows) / seconds, 1)}
    return Trained(trained, replace(labels, context=context), metrics)


def belonging(labels: Labels, images: ImageList, where: str) -> Labels:
    """The labels with the list's samples, refused unless they speak of the same images in the same order.

    Raises:
        DataError: another length, or the first row that names another image.
    """
    mine = images.samples
    if len(labels.labels) != len(mine):
        raise DataError(f"{where}: /labels: {len(labels.labels)} rows, expected {len(mine)} as in the image list",
                        "cluster the features of this image list")
    theirs = labels.samples
    if theirs is not None and theirs.digest != mine.digest:
        raise DataError(f"{where}: {theirs.unlike(mine)}", "cluster the features of this image list; ucl align puts labels in its order")
    return replace(labels, samples=mine) if theirs is None else labels


def describe(labels: Labels, usable: NDArray[np.int32], previous: Labels | None) -> dict[str, Any]:
    """Sizes, agreement with the last labels, and a warning when the clusters collapse."""
    size = np.bincount(usable[usable >= 0], minlength=labels.k)
    kept, filled = int(size.sum()), int((size > 0).sum())
    found: dict[str, Any] = {
        "k": labels.k, "clusters": filled, "empty": labels.k - filled, "largest": int(size.max(initial=0)),
        "largest_share": float(size.max(initial=0) / max(kept, 1)), "kept": kept, "images": len(usable),
        "bad": int((~labels.samples.ok).sum()) if labels.samples is not None else 0,
        "objective": labels.info.get("objective"), "cluster_iterations": labels.info.get("iterations")}
    if previous is not None and len(previous.labels) == len(labels.labels):
        found |= compare_labelings(labels.labels, previous.labels)
    if collapsed(size):
        found["collapse"] = True
        log.warning("the clusters collapse: %d of %d are filled, the largest has %.0f %% of the images",
                    filled, labels.k, 100 * found["largest_share"])
    return found


def _mean_loss(losses: NDArray[np.float64], draws: int, batch: int) -> float:
    """Mean over images: each batch counts by its size."""
    sizes = np.array([stop_ - start for start, stop_ in _spans(draws, batch)], np.float64)
    return float((losses * sizes).sum() / sizes.sum())


def _spans(draws: int, batch: int) -> list[tuple[int, int]]:
    """Batches as (start, stop); the last, partial one is kept, but one of a single image joins its neighbour, because
    batch normalisation cannot train on one."""
    starts = list(range(0, draws, batch))
    if len(starts) > 1 and draws - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], draws], strict=True))


class _State:
    """All that a step changes: the network, its head, both optimizers, memory, and the losses so far, whose number is the position
    in the epoch.  Restored from the checkpoint of the last epoch, or from one inside this epoch; `midway` makes such a one."""

    def __init__(self, model: Checkpoint, k: int, settings: TrainSettings, key: Key, runtime: Runtime,
                 midway: Checkpoint | None = None) -> None:
        from torch import nn, optim

        from ucl import models

        device = runtime.prepare()
        self.runtime = runtime
        self.before, self.began = model, time.monotonic()
        model = midway or model
        self.memory = {name: v for name, v in model.memory.items() if name != LOSSES}
        self.losses = model.memory[LOSSES].astype(np.float64) if midway else np.empty(0)
        self.seconds = float(model.config[MIDWAY]["seconds"]) if midway else 0.0
        self.backbone = models.restore(model).to(device).train()
        self.features = runtime.compiled(self.backbone)
        d = int(self.backbone.feature_dim)
        stored = models.part(model, "head.")
        kept = bool(stored) and (settings.head == "kept" or midway is not None)
        if kept and stored["weight"].shape != (k, d):
            log.warning("the head has %d clusters, the labels %d: it is drawn anew", len(stored["weight"]), k)
            kept = False
        head = models.new_head(d, k, key)
        if kept:
            models.from_arrays(head, stored)
        self.head: nn.Linear = head.to(device)
        self.kept = settings.head == "kept"
        lr, decay = settings.lr, settings.weight_decay
        trained = [p for p in self.backbone.parameters() if p.requires_grad]  # not the Sobel filter
        self.body_optimizer = optim.SGD(trained, lr, settings.momentum, weight_decay=decay)
        self.head_optimizer = optim.SGD(self.head.parameters(), lr, settings.head_momentum, weight_decay=decay)
        models.load_momentum(self.body_optimizer, self.backbone, model.optimizer, "body/")
        if kept:
            models.load_momentum(self.head_optimizer, self.head, model.optimizer, "head/")

    def remember(self, n: int) -> None:
        """Keep the features of every step's images in the memory, a row for each of ``n`` images; 0 = do not, and forget those kept."""
        self.seen: list[tuple[NDArray[np.int64], torch.Tensor]] = []
        self.bank: NDArray[np.float32] | None = None
        before = self.memory.pop(REMEMBERED, None)
        if n:
            d = int(self.backbone.feature_dim)
            again = before is not None and before.shape == (n, d)
            self.bank = np.array(before, np.float32) if again else np.full((n, d), np.nan, np.float32)
            self.memory[REMEMBERED] = self.bank

    def step(self, x: torch.Tensor, y: torch.Tensor, w: torch.Tensor, at: NDArray[np.int64]) -> torch.Tensor:
        """One SGD step on the weighted mean cross-entropy of the images of rows ``at``; returns the detached loss."""
        from torch.nn import functional

        with self.runtime.autocast():
            features = self.features(x)
        logits = self.head(features.float())
        if self.bank is not None:
            self.seen.append((at, features.detach().float()))
        each = functional.cross_entropy(logits, y, reduction="none")
        loss = (each * w).sum() / w.sum()
        self.body_optimizer.zero_grad(set_to_none=True)
        self.head_optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.body_optimizer.step()
        self.head_optimizer.step()
        return loss.detach()

    def checkpoint(self, before: Checkpoint, context: Context, steps: int, draws: int) -> Checkpoint:
        """Everything the next epoch needs."""
        from ucl import models

        tensors = {f"backbone.{k}": v for k, v in models.to_arrays(self.backbone).items()}
        tensors |= {f"head.{k}": v for k, v in models.to_arrays(self.head).items()}
        optimizer = models.momentum_arrays(self.body_optimizer, self.backbone, "body/")
        if self.kept:
            optimizer |= models.momentum_arrays(self.head_optimizer, self.head, "head/")
        past = before.progress
        progress = {"epoch": context.epoch + 1, "step": past.get("step", 0) + steps, "seed": context.seed,
                    "samples_seen": past.get("samples_seen", 0) + draws, "world_size": dist.world()[1]}
        config = before.config | {"k": int(self.head.weight.shape[0])}
        return Checkpoint(tensors, optimizer, dict(self.memory), config, progress, context=context)

    def midway(self, context: Context, batches: int, draws: int) -> Checkpoint:
        """Everything the rest of this epoch needs, after ``draws`` images; ``batches`` is how many the epoch has."""
        from ucl import models

        done = len(self.losses)
        made = self.checkpoint(self.before, context, done, draws)
        made.optimizer |= models.momentum_arrays(self.head_optimizer, self.head, "head/")
        made.memory[LOSSES] = self.losses
        made.progress["epoch"] = context.epoch
        made.config[MIDWAY] = {"epoch": context.epoch + 1, "batches": done, "of": batches,
                               "seconds": round(self.seconds + time.monotonic() - self.began, 3)}
        return made

    def settle(self, losses: list[torch.Tensor], spans: list[tuple[int, int]], rows: NDArray[np.int64]) -> None:
        """Move the losses and features of the last batches, if there are any, to those so far.

        Raises:
            DataError: one is not finite.
        """
        import torch

        if self.bank is not None:
            for at, features in self.seen:  # in order: of an image drawn twice the last step counts
                self.bank[at] = features.cpu().numpy()
            self.seen.clear()
        if not losses:
            return
        found = torch.stack(losses).double().cpu().numpy()
        if not np.isfinite(found).all():
            bad = int(np.flatnonzero(~np.isfinite(found))[0])
            first = len(self.losses) + bad
            raise DataError(f"loss: found {found[bad]} in batch {first} of {len(spans)} (rows "
                            f"{', '.join(str(r) for r in rows[spans[first][0]:spans[first][0] + 3])}, ...), wanted a finite number",
                            "a smaller --lr; the last committed epoch stands")
        self.losses = np.concatenate([self.losses, found])
        losses.clear()


def _loop(state: _State, batches: Batches, labels: NDArray[np.int32], weight: NDArray[np.float32],
          rows: NDArray[np.int64], settings: TrainSettings, key: Key, report: Report, context: Context,
          safe: SafePoint | None = None) -> NDArray[np.float64]:
    """All steps of the epoch that are still to do; returns each batch's loss, (steps,) float64."""
    import torch

    spans = _spans(len(rows), settings.batch)
    first = len(state.losses)
    kept = first or -1
    losses: list[torch.Tensor] = []  # on the device, and not looked at yet
    for number, (start, end) in enumerate(spans[first:], first):
        stopping = stop.pending()
        if safe is not None and number != kept and (stopping or safe.due()):
            state.settle(losses, spans, rows)
            safe.keep(state.midway(context, len(spans), start))
            kept = number
        if stopping:
            stop.check()
        at = rows[start:end]
        x = batches.train(at, np.arange(start, end), key, settings)
        y = torch.from_numpy(labels[at].astype(np.int64)).to(x.device)
        w = torch.from_numpy(weight[at]).to(x.device)
        with keyed_stream(key, f"dropout/{start}", state.runtime.device):
            losses.append(state.step(x, y, w, at))
        report("train-epoch", end, len(rows))
        if (number + 1) % 50 == 0 or end == len(rows):
            state.settle(losses, spans, rows)
    return state.losses

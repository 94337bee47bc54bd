"""`train-epoch`: one epoch of training, by one of the objectives: on pseudo-labels, or on the images alone.

The network and its optimizer go on from the checkpoint, and everything the next epoch needs is in the checkpoint that this one
returns: DeepCluster section 3.2 for classification, PCP's algorithm 1 for the rest.
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
from ucl.artifacts import Checkpoint, ImageList, Labels, Neighbors, replace
from ucl.batches import Batches
from ucl.context import Context
from ucl.device import Runtime, keyed_stream
from ucl.errors import DataError, Stopped
from ucl.keys import Key
from ucl.labelled import as_labels
from ucl.objectives import FIXED, MEMORY, Made, Pass, objective
from ucl.safepoints import MIDWAY, SafePoint
from ucl.settings import TrainSettings

if TYPE_CHECKING:
    import torch
    from torch import nn

log = logging.getLogger(__name__)
Report = Callable[[str, int, int], None]
LOSSES = f"{MIDWAY}/losses"

@dataclasses.dataclass
class Trained:
    """What an epoch made: the checkpoint, the labels it was trained on (complete, with samples; None without), its metrics, and labels
    that it made itself, for the next epoch (None from an objective that makes none)."""

    model: Checkpoint
    labels: Labels | None
    metrics: dict[str, Any]
    made: Labels | None = None


def train_epoch(images: ImageList, model: Checkpoint, labels: Labels | None, settings: TrainSettings, context: Context,
                runtime: Runtime, report: Report, previous: Labels | None = None, *, neighbors: Neighbors | None = None,
                resume: Checkpoint | None = None, safe: SafePoint | None = None) -> Trained:
    """Train one epoch.

    Args:
        images: N images.
        model: what to go on from.
        labels: N pseudo-labels.  To classification -1 is an image that is never drawn; to the instance objective it is an
            image of its own class, and so is every image where there are no labels (None).  The objectives whose labels move
            begin with them, and go on without.
        settings: objective, optimizer, sampler, views.
        context: seed and epoch; every draw is keyed by them.
        runtime: device, threads.
        report: called with ("train-epoch", done, total).
        previous: the last epoch's labels, for NMI and churn only.
        neighbors: nearest images of each, for scan, and for the score of self-labels.
        resume: what ``safe`` kept of this very epoch; with it the epoch goes on, to the same end.
        safe: keeps the state between two batches, when it is due and before a signal ends the epoch.

    Raises:
        Stopped: a signal came.
        DataError: labels of another length or image list, none to classify by, a memory of other images, no two images to draw,
            or a loss that is not finite (the batch and the images' rows are named; nothing is returned, so the last checkpoint
            stands).
    """
    started = time.monotonic()
    if labels is not None:
        labels = _checked(labels, images)
    if neighbors is not None:
        neighbors = near_images(neighbors, images)
    key = Key(context.seed, context.round, context.stage, context.epoch)
    state = _State(model, images, labels, neighbors, settings, key, runtime, resume)
    rows = state.objective.draw()
    if len(rows) < 2:
        raise DataError(f"labels: found {len(rows)} image to draw, batch normalisation needs 2", "more labels, or a larger --epoch-length")
    batches = Batches(images, runtime, int(model.config["size"]), tuple(model.config["mean"]), tuple(model.config["std"]))
    losses = _loop(state, batches, rows, settings, key, report, context, safe)
    if np.isnan(losses[:, 0]).all():
        state.put_back()
    found = _finished(state, losses, rows, context, safe)
    made = _handed_on(state.objective.handed_on(), images, settings, context, previous)
    trained = state.checkpoint(model, context, len(losses), len(rows))
    told = labels if made is None else made
    seconds = time.monotonic() - started + state.seconds
    means = _mean_losses(losses, len(rows), settings.batch)
    metrics = {"epoch": context.epoch, **dict(zip(("loss", *state.objective.columns), means, strict=True)),
               **(_of_images(images, chance=settings.objective == "instance") if told is None else describe(told, images, previous, settings)),
               **found,
               "steps": int((~np.isnan(losses[:, 0])).sum()), "lr": settings.lr, "seconds_train": round(seconds, 3),
               "images_per_second_train": round(len(rows) / seconds, 1)}
    return Trained(trained, None if labels is None else replace(labels, context=context), metrics, made)


def _finished(state: _State, losses: NDArray[np.float64], rows: NDArray[np.int64], context: Context, safe: SafePoint | None) -> dict[str, Any]:
    """The objective's metrics, which may take a pass over all images: a signal there keeps the epoch as it is after its last batch.

    Weights that were taken meanwhile are taken again when the epoch goes on.
    """
    if safe is not None and state.objective.reviews and safe.due():
        safe.keep(state.midway(context, len(losses), len(rows)))
    try:
        return state.objective.finish(state.backbone)
    except Stopped:
        if safe is not None:
            safe.keep(state.midway(context, len(losses), len(rows)))
        raise


def _handed_on(made: Made | None, images: ImageList, settings: TrainSettings, context: Context, previous: Labels | None) -> Labels | None:
    """Labels that an epoch made, as an artifact."""
    if made is None:
        return None
    info = {"method": settings.objective, "l2": False, "whiten": False}
    score = None if made.probs is None else np.where(made.labels >= 0, made.probs.max(axis=1), np.float32(np.nan))
    return as_labels(made.labels, made.k, images.samples, context, info, previous, score=score, probs=made.probs)


def _checked(labels: Labels, images: ImageList) -> Labels:
    """Labels of these images, none of a bad one."""
    labels = belonging(labels, images, "labels")
    if labels.foreign and labels.k > len(labels.labels):
        raise DataError(f"labels: ids up to {labels.k - 1} for {len(labels.labels)} images, expected fewer clusters than images",
                        "number the clusters from 0: np.unique(labels, return_inverse=True)[1]")
    usable = np.where(images.samples.ok, labels.labels, np.int32(-1))
    if not np.array_equal(usable, labels.labels):  # a stage of somebody's own may have labelled images that cannot be read
        labels = replace(labels, labels=usable)
    return labels


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


def near_images(neighbors: Neighbors, images: ImageList) -> Neighbors:
    """The neighbours with the list's samples, refused unless they are of the same images in the same order, among themselves; a bad image
    has none and is nobody's, whatever a file of somebody's own says.

    Raises:
        DataError: another length, other images, or neighbours among others.
    """
    mine = images.samples
    if neighbors.among is not None:
        raise DataError(f"neighbors: /neighbors: rows of {len(neighbors.among)} other images, expected those of the image list",
                        "ucl neighbors with one file of features")
    if len(neighbors.neighbors) != len(mine):
        raise DataError(f"neighbors: /neighbors: {len(neighbors.neighbors)} rows, expected {len(mine)} as in the image list",
                        "ucl neighbors of this image list's features")
    if neighbors.samples is not None and neighbors.samples.digest != mine.digest:
        raise DataError(f"neighbors: {neighbors.samples.unlike(mine)}", "ucl neighbors of this image list's features")
    near = np.asarray(neighbors.neighbors)
    near = near.astype(np.int64) if near.dtype.kind == "u" else near  # which has no -1
    usable = mine.ok[:, None] & (near >= 0) & mine.ok[near]
    if not np.array_equal(usable, near >= 0):
        neighbors = replace(neighbors, neighbors=np.where(usable, near, near.dtype.type(-1)))
    return replace(neighbors, samples=mine) if neighbors.samples is None else neighbors


def describe(labels: Labels, images: ImageList, previous: Labels | None, settings: TrainSettings) -> dict[str, Any]:
    """Sizes, agreement with the last labels, and for classification a warning when the clusters collapse."""
    classify = settings.objective in ("classify", "online", "relabel", "scan", "selflabel")
    given = np.where(labels.weight > 0, labels.labels, np.int32(-1)) if classify and labels.weight is not None else labels.labels
    size = np.bincount(given[given >= 0], minlength=labels.k)
    kept, filled = int(size.sum()), int((size > 0).sum())
    found: dict[str, Any] = {
        "k": labels.k, **({"log_k": math.log(max(labels.k, 1))} if classify else {}), **_of_images(images, chance=settings.objective == "instance"),
        "clusters": filled, "empty": labels.k - filled, "largest": int(size.max(initial=0)),
        "largest_share": float(size.max(initial=0) / max(kept, 1)), "kept": kept,
        "objective": labels.info.get("objective"), "cluster_iterations": labels.info.get("iterations")}
    if previous is not None and previous.pred is None and len(previous.labels) == len(labels.labels):  # groups of an ensemble are no clusters
        found |= compare_labelings(_clustered(labels), _clustered(previous))
    if classify and collapsed(size):
        found["collapse"] = True
        log.warning("the clusters collapse: %d of %d are filled, the largest has %.0f %% of the images",
                    filled, labels.k, 100 * found["largest_share"])
    return found


def _clustered(labels: Labels) -> NDArray[np.int32]:
    """Labels as they were clustered, where they were purified since and the history has them."""
    raw = labels.raw() if labels.purified else None
    return labels.labels if raw is None else raw


def _of_images(images: ImageList, *, chance: bool) -> dict[str, Any]:
    """How many images there are; and the loss of guessing which of them a view is of."""
    bad = int((~images.samples.ok).sum())
    return {"images": len(images.samples), "bad": bad, **({"log_n": math.log(max(len(images.samples) - bad, 1))} if chance else {})}


def _mean_losses(losses: NDArray[np.float64], draws: int, batch: int) -> list[float]:
    """Means over images of the loss and its parts: each batch counts by its size, those without a step do not; 0 without any."""
    taken = ~np.isnan(losses[:, 0])
    sizes = np.array([stop_ - start for start, stop_ in _spans(draws, batch)], np.float64)[taken]
    return [float((column[taken] * sizes).sum() / sizes.sum()) if taken.any() else 0.0 for column in losses.T]


def _spans(draws: int, batch: int) -> list[tuple[int, int]]:
    """Batches as (start, stop); the last, partial one is kept, but one of a single image joins its neighbour, because
    batch normalisation cannot train on one."""
    starts = list(range(0, draws, batch))
    if len(starts) > 1 and draws - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], draws], strict=True))


def _views(passes: list[Pass], batches: Batches, key: Key, settings: TrainSettings) -> list[torch.Tensor]:
    """What each pass is given; views that several passes share are made once."""
    import torch

    looks = {id(look): look for joined in passes for look in joined}
    made = {name: batches.evaluate(look.rows) if look.view == FIXED else batches.train(look.rows, look.places, key, settings, look.view)
            for name, look in looks.items()}
    return [made[id(joined[0])] if len(joined) == 1 else torch.cat([made[id(look)] for look in joined]) for joined in passes]


class _State:
    """All that a step changes: the network, its optimizer, the objective with what it keeps, and the losses so far, whose number is
    the position in the epoch.  Restored from the checkpoint of the last epoch, or from one inside this epoch; `midway` makes such a one."""

    def __init__(self, model: Checkpoint, images: ImageList, labels: Labels | None, neighbors: Neighbors | None, settings: TrainSettings,
                 key: Key, runtime: Runtime, midway: Checkpoint | None = None) -> None:
        from torch import optim

        from ucl import models

        device = runtime.prepare()
        self.runtime = runtime
        self.before, self.began = model, time.monotonic()
        model = midway or model
        self.seconds = float(model.config[MIDWAY]["seconds"]) if midway else 0.0
        self.backbone = models.restore(model).to(device).train()
        self.objective = objective(model, int(self.backbone.feature_dim), images, labels, neighbors, settings, key, runtime,
                                   midway=midway is not None)
        self.backbone.train(self.objective.trains_network)
        thinned = settings.objective == "contrast" and labels is not None  # batches of many sizes, each of which would be compiled for itself
        self.features = self.backbone if thinned else runtime.compiled(self.backbone)
        whose, mine = (config.get(MEMORY, {}).get("images") for config in (model.config, self.objective.config()))
        kept = model.memory if mine is None or whose in (None, mine) else {}  # of other images: nobody could go on with it
        self.carried = {name: v for name, v in kept.items() if name not in (LOSSES, *self.objective.keeps)}
        width = 1 + len(self.objective.columns)
        self.losses = model.memory[LOSSES].astype(np.float64) if midway else np.empty((0, width))
        trained = [p for p in self.backbone.parameters() if p.requires_grad and self.objective.trains_network]  # not the Sobel filter
        for module in self.objective.trained.values():
            trained += module.parameters()
        self.optimizer: optim.Optimizer
        if settings.optimizer == "adam":
            self.optimizer = optim.Adam(trained, settings.lr, weight_decay=settings.weight_decay)
        else:
            self.optimizer = optim.SGD(trained, settings.lr, settings.momentum, weight_decay=settings.weight_decay, nesterov=settings.nesterov)
        for prefix, module in self._parts().items() if midway is not None or not settings.restart else ():
            models.load_momentum(self.optimizer, module, model.optimizer, prefix)

    def _parts(self) -> dict[str, nn.Module]:
        """Prefix in the checkpoint's optimizer -> module, of all that the network's optimizer trains."""
        body = {"body/": self.backbone} if self.objective.trains_network else {}
        return body | {f"{name}/": module for name, module in self.objective.trained.items()}

    def step(self, passes: list[Pass], views: list[torch.Tensor], rows: NDArray[np.int64], start: int) -> torch.Tensor | None:
        """One step of the optimizers on the images of these rows; returns the detached loss and its parts, None where none was taken."""
        import torch

        features = []
        for joined, x in zip(passes, views, strict=True):
            learnt = self.objective.trains_network and any(look.view != FIXED for look in joined)
            with torch.set_grad_enabled(learnt), self.runtime.autocast():
                features.append(self.features(x))
        losses = self.objective.loss([f.float() for f in features], rows, start)
        if losses is None:
            return None
        optimizers = [self.optimizer, *self.objective.optimizers]
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        losses[0].backward()  # type: ignore[no-untyped-call]
        for optimizer in optimizers:
            optimizer.step()
        self.objective.after_step()
        return torch.stack([loss.detach() for loss in losses])

    def put_back(self) -> None:
        """The network as the epoch found it: without a step only its batch statistics have moved."""
        from ucl import models

        models.from_arrays(self.backbone, models.part(self.before, "backbone."))

    def checkpoint(self, before: Checkpoint, context: Context, steps: int, draws: int, *, midway: bool = False) -> Checkpoint:
        """Everything the next epoch needs; with ``midway`` also what the rest of this one does."""
        from ucl import models

        tensors = {name: v for name, v in before.model.items() if name.startswith(("projection.", "neck."))}  # as they were, where nobody trains them
        tensors |= {f"backbone.{k}": v for k, v in models.to_arrays(self.backbone).items()} | self.objective.tensors()
        optimizer = self.objective.momentum(midway=midway)
        for prefix, module in self._parts().items():
            optimizer |= models.momentum_arrays(self.optimizer, module, prefix)
        past = before.progress
        memory = self.carried | self.objective.memory(midway=midway)
        config = {name: v for name, v in before.config.items() if name != "head_on"} | self.objective.config()
        progress = {"epoch": context.epoch + 1, "step": past.get("step", 0) + steps, "seed": context.seed,
                    "samples_seen": past.get("samples_seen", 0) + draws, "world_size": dist.world()[1]}
        return Checkpoint(tensors, optimizer, memory, config, progress, context=context)

    def midway(self, context: Context, batches: int, draws: int) -> Checkpoint:
        """Everything the rest of this epoch needs, after ``draws`` images; ``batches`` is how many the epoch has."""
        done = len(self.losses)
        made = self.checkpoint(self.before, context, done, draws, midway=True)
        made.memory[LOSSES] = self.losses
        made.progress["epoch"] = context.epoch
        made.config[MIDWAY] = {"epoch": context.epoch + 1, "batches": done, "of": batches,
                               "seconds": round(self.seconds + time.monotonic() - self.began, 3)}
        return made

    def settle(self, losses: list[torch.Tensor | None], spans: list[tuple[int, int]], rows: NDArray[np.int64]) -> None:
        """Move the losses of the last batches, if there are any, to those so far, and bring the objective up to date.

        Raises:
            DataError: one is not finite.
        """
        import torch

        self.objective.settle()
        if not losses:
            return
        taken = [loss for loss in losses if loss is not None]
        found = np.full((len(losses), self.losses.shape[1]), np.nan)  # NaN: no step
        at = np.array([loss is not None for loss in losses])
        if taken:
            found[at] = torch.stack(taken).double().cpu().numpy()
        if not np.isfinite(found[at]).all():
            bad = int(np.flatnonzero(at & ~np.isfinite(found).all(1))[0])
            first = len(self.losses) + bad
            raise DataError(f"loss: found {found[bad, 0]} in batch {first} of {len(spans)} (rows "
                            f"{', '.join(str(r) for r in rows[spans[first][0]:spans[first][0] + 3])}, ...), wanted a finite number",
                            "a smaller --lr; the last committed epoch stands")
        self.losses = np.concatenate([self.losses, found])
        losses.clear()


def _loop(state: _State, batches: Batches, rows: NDArray[np.int64], settings: TrainSettings, key: Key, report: Report, context: Context,
          safe: SafePoint | None = None) -> NDArray[np.float64]:
    """All steps of the epoch that are still to do; returns each batch's loss and its parts, (steps, 1 + parts) float64."""
    spans = _spans(len(rows), settings.batch)
    first = len(state.losses)
    kept = first or -1
    losses: list[torch.Tensor | None] = []  # on the device, and not looked at yet
    for number, (start, end) in enumerate(spans[first:], first):
        stopping = stop.pending()
        if safe is not None and number != kept and (stopping or safe.due()):
            state.settle(losses, spans, rows)
            safe.keep(state.midway(context, len(spans), start))
            kept = number
        if stopping:
            stop.check()
        at = rows[start:end]
        places = np.arange(start, end)
        passes = state.objective.passes(at, places)
        views = _views(passes, batches, key, settings)
        with keyed_stream(key, f"dropout/{start}", state.runtime.device):
            losses.append(state.step(passes, views, at, start) if passes else None)
        report("train-epoch", end, len(rows))
        if (number + 1) % 50 == 0 or end == len(rows):
            state.settle(losses, spans, rows)
    return state.losses

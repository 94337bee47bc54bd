"""SimCLR: an epoch with all its views against the bare step on views that are in memory already."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from benchmarks.data import SIDE, Scale, network
from benchmarks.moving import pictures, void
from benchmarks.table import Row, race
from ucl.context import Context
from ucl.device import Runtime
from ucl.methods.method import plan
from ucl.run import silent

BATCHES = (64, 256)
FIRST_STEPS = 2
"""Steps whose mean loss is compared: the second comes after an update.  Of later ones rounding decides, which SimCLR's steps multiply:
inputs changed by 1e-7 of their size move the tenth loss by 0.03."""
CLOSE = 1e-5
"""Largest difference of the two sides' mean losses of those steps, which draw the same views."""


def against_bare(scale: Scale, batch: int) -> Row:
    """An epoch of both sides, which agree in its first steps."""
    left, right, _ = sides(scale, batch, FIRST_STEPS)
    apart = abs(left() - right())
    left, right, images = sides(scale, batch, None)
    pairs = race(lambda: void(left()), lambda: void(right()), scale.repeat)
    row = Row(f"train-simclr-{batch}", "train-epoch, simclr", "bare loop, views in memory", pairs, goal=1.15,
              faults=(f"mean losses of {FIRST_STEPS} steps differ by {apart:.1e}",) if not apart <= CLOSE else ())
    speeds = [f"{images / row.median(side):,.0f}" for side in (0, 1)]
    return dataclasses.replace(row, note=f"convnet, batch {batch}, {images} images, two views: {speeds[0]} and {speeds[1]} images a second")


def sides(scale: Scale, batch: int, steps: int | None) -> tuple[Callable[[], float], Callable[[], float], int]:
    """Ours, the bare loop, each returning its mean loss, and the number of images drawn: those of ``steps`` batches, or of the epoch.

    The loss by hand is a cross-entropy of the cosines / tau with the place of the other view.
    """
    import torch
    from torch import optim
    from torch.nn import functional

    from ucl import models
    from ucl.batches import Batches
    from ucl.keys import Key
    from ucl.networks.projector import new_projector
    from ucl.samplers import draw_epoch
    from ucl.settings import CIFAR_MEAN, CIFAR_STD, TrainSettings
    from ucl.train_epoch import train_epoch

    runtime = Runtime("cpu", scale.threads)
    runtime.prepare()
    images = pictures(scale)
    context = Context("simclr", images=len(images.samples), size=SIDE, overrides={"simclr.contrast_batch": str(scale.of(batch, 16))})
    settings = plan(context)[0].settings
    assert isinstance(settings, TrainSettings)
    model = network()
    dim = int(models.restore(model).feature_dim)
    top = new_projector(dim, 128, Key())
    model.model |= {f"projection.{name}": v for name, v in models.to_arrays(top).items()}
    model.config["projection"] = 128
    b = settings.batch
    if steps is not None:
        settings = dataclasses.replace(settings, epoch_length=(steps * b + 0.5) / len(images.samples))
    key = Key(context.seed, context.round, context.stage, context.epoch)
    rows = draw_epoch(np.zeros(len(images.samples), np.int32), "shuffle", settings.epoch_length, key)
    rows = rows[:len(rows) // b * b]
    batches = Batches(images, runtime, SIDE, CIFAR_MEAN, CIFAR_STD)
    views = [torch.cat([batches.train(rows[at:at + b], np.arange(at, at + b), key, settings, view) for view in (0, 1)])
             for at in range(0, len(rows), b)]
    partner = torch.arange(2 * b).roll(b)
    own = torch.eye(2 * b, dtype=torch.bool)

    def left() -> float:
        return float(train_epoch(images, model, None, settings, context, runtime, silent).metrics["loss"])

    def right() -> float:
        net, head = models.restore(model).train(), models.projection(model, dim)
        assert head is not None
        optimizer = optim.SGD([*net.parameters(), *head.parameters()], settings.lr, settings.momentum, weight_decay=settings.weight_decay)
        total = 0.0
        for x in views:
            z = functional.normalize(head(net(x)), dim=1)
            loss = functional.cross_entropy((z @ z.T / settings.tau).masked_fill(own, -torch.inf), partner)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += float(loss.detach())
        return total / len(views)

    return left, right, len(rows)


def simclr(scale: Scale) -> list[Row]:
    """Views included on our side alone."""
    return [against_bare(scale, batch) for batch in BATCHES]


ROWS: dict[str, Callable[[Scale], list[Row]]] = {"train-simclr": simclr}
"""Name -> function."""

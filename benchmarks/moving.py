"""ODC and UIC: an epoch whose labels move against the plain supervised loop on the same views, network, batch and number of clusters."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import bare
from benchmarks.data import SIDE, Scale, image_list, network
from benchmarks.table import Row, race
from ucl.context import Context
from ucl.device import Runtime
from ucl.methods.method import plan
from ucl.run import silent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from ucl.artifacts import Checkpoint, ImageList
    from ucl.settings import TrainSettings

BATCHES = (64, 256)


@functools.cache
def pictures(scale: Scale) -> ImageList:
    """5,000 of the images, packed, of all classes."""
    from ucl.artifacts import ImageList, Samples

    whole = image_list(scale)
    assert whole.pixels is not None
    rows = np.linspace(0, len(whole.samples) - 1, scale.of(5_000, 160)).astype(np.int64)
    picked = Samples(whole.samples.path[rows], whole.samples.status[rows])
    return ImageList(picked, whole.size[rows], whole.crc32[rows], whole.height[rows], whole.width[rows],
                     pixels=np.ascontiguousarray(whole.pixels[rows]))


def settled(scale: Scale, method: str, batch: int, runtime: Runtime) -> tuple[Checkpoint, TrainSettings, int]:
    """A network whose labels moved for one epoch, the next epoch's settings as the method's plan has them, and the number of clusters."""
    from ucl import models
    from ucl.cluster import cluster
    from ucl.extract import extract
    from ucl.keys import Key
    from ucl.networks.neck import new_neck
    from ucl.settings import InitSettings
    from ucl.train_epoch import train_epoch

    images, k = pictures(scale), scale.of(100, 5)
    asked = {"train-epoch.batch": str(batch), **({"cluster.k": str(k)} if method == "odc" else {"uic.k": str(k)})}
    context = Context(method, images=len(images.samples), size=SIDE, overrides=asked)
    first: dict[str, Any] = {step.verb: step.settings for step in plan(context)}
    model, labels = network(), None
    if method == "odc":
        s = InitSettings(neck=256)
        neck = new_neck(int(models.restore(model).feature_dim), s.neck_hidden, s.neck, s.neck_dropout, Key())
        model.model |= {f"neck.{name}": v for name, v in models.to_arrays(neck).items()}
        model.config["neck_dropout"] = s.neck_dropout
        features = extract(images, model, first["extract"], context, runtime, silent).collect()
        labels = cluster(features, first["cluster"], context, threads=scale.threads)
    done = train_epoch(images, model, labels, first["train-epoch"], context, runtime, silent)
    following: Any = {step.verb: step.settings for step in plan(dataclasses.replace(context, epoch=1))}["train-epoch"]
    return done.model, following, k


class Views:
    """Views of these rows, batch by batch, as `train-epoch` makes them."""

    def __init__(self, batches: Any, rows: NDArray[np.int64], settings: TrainSettings) -> None:
        from ucl.keys import Key

        self.batches, self.rows, self.settings, self.key = batches, rows, settings, Key(0, stage="train-epoch", epoch=1)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice) -> Any:
        at = self.rows[part]
        return self.batches.train(at, np.arange(part.start, part.start + len(at)), self.key, self.settings)


@contextmanager
def timed(kind: Any, *names: str) -> Iterator[list[float]]:
    """While it is open, the seconds of every call of these methods of a class."""
    found: list[float] = []

    def watch(method: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return method(*args, **options)
            finally:
                found.append(time.perf_counter() - began)
        return run

    before = {name: getattr(kind, name) for name in names}
    try:
        for name, method in before.items():
            setattr(kind, name, watch(method))
        yield found
    finally:
        for name, method in before.items():
            setattr(kind, name, method)


def against_supervised(scale: Scale, method: str, batch: int, goal: float, kind: Any, names: tuple[str, ...]) -> Row:
    """One more epoch of a method against as many supervised steps; ``names`` of the class ``kind`` are its bookkeeping."""
    import torch

    from ucl import models
    from ucl.batches import Batches
    from ucl.keys import Key
    from ucl.settings import CIFAR_MEAN, CIFAR_STD
    from ucl.train_epoch import train_epoch

    runtime = Runtime("cpu", scale.threads)
    runtime.prepare()
    images = pictures(scale)
    model, settings, k = settled(scale, method, batch, runtime)
    context = Context(method, images=len(images.samples), size=SIDE, epoch=1)

    def left() -> Any:
        return train_epoch(images, model, None, settings, context, runtime, silent)

    with timed(kind, *names) as spent:
        began = time.perf_counter()
        done = left()
        share = sum(spent) / (time.perf_counter() - began)
    drawn = done.model.progress["samples_seen"] - model.progress["samples_seen"]
    rng = np.random.default_rng(0)
    rows = np.resize(rng.permutation(len(images.samples)), drawn)
    target = torch.from_numpy(rng.integers(0, k, drawn))

    def right() -> None:
        net = models.restore(model)
        views = Views(Batches(images, runtime, SIDE, CIFAR_MEAN, CIFAR_STD), rows, settings)
        bare.train(net, models.new_head(int(net.feature_dim), k, Key()), views, target, settings)  # type: ignore[arg-type]

    pairs = race(lambda: void(left()), right, scale.repeat)
    row = Row(f"train-{method}-{batch}", f"train-epoch, {method}", "supervised loop, the same views", pairs, goal=goal)
    speeds = [f"{drawn / row.median(side):,.0f}" for side in (0, 1)]
    return dataclasses.replace(row, note=f"convnet, batch {batch}, {len(images.samples)} images, K = {k}: {speeds[0]} and {speeds[1]} images a "
                               f"second; bookkeeping ({', '.join(names)}) {100 * share:.1f} % of an epoch")


def void(made: object) -> None:
    """Drop what was made."""


def odc(scale: Scale) -> list[Row]:
    """With its neck, against a linear classifier on the features."""
    from ucl.objectives.online import Online

    return [against_supervised(scale, "odc", batch, 1.10, Online, ("see", "after_step")) for batch in BATCHES]


def uic(scale: Scale) -> list[Row]:
    """The labels are of the very logits of the loss."""
    from ucl.objectives.relabel import Relabelling

    return [against_supervised(scale, "uic", batch, 1.05, Relabelling, ("record", "settle")) for batch in BATCHES]


ROWS: dict[str, Callable[[Scale], list[Row]]] = {"train-odc": odc, "train-uic": uic}

"""What SimCLR, SCAN and ProFeat share: which stage of which iteration an epoch is in, and its learning rate.

ProFeat's iterations: a contrastive step (SimCLR in the first, a shorter one with pseudo-labels for positives in the others), then a
clustering step (SCAN, and self-labels where there are epochs for them).  SCAN alone is the clustering step of one iteration, SimCLR
alone the contrastive step.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from ucl.context import Context
from ucl.errors import UsageError
from ucl.methods.method import set_by_hand
from ucl.profeat_settings import AGREE, WHOLE, ProfeatSettings, ScanSettings, SimclrSettings, default_connections
from ucl.settings import PlanSettings

FEWEST_STEPS = 4
"""Steps of an epoch that a batch leaves where it is not set by hand."""

DIGITS: dict[str, Any] = {"contrast_epochs": 60, "contrast_batch": 256, "scan_epochs": 30, "scan_lr": 1e-3, "self_epochs": 10, "refine_epochs": 15,
                          "iterations": 3, "threshold": 0.9, "self_threshold": 0.9}
"""Of the built-in digits: shorter stages; as so few steps leave hardly an image above 0.99, a lower threshold, which half of them pass."""

CONTRAST, REFINE, SCAN, SELF = "contrast", "refine", "scan", "selflabel"
"""Names of the stages; each has optimizer and draws of its own."""


@dataclass(frozen=True)
class Place:
    """Where an epoch stands.

    Attributes:
        iteration: from 0.
        stage: `CONTRAST`, `REFINE`, `SCAN` or `SELF`.
        epoch: of the stage, from 0.
        of: epochs of the stage.
    """

    iteration: int
    stage: str
    epoch: int
    of: int

    @property
    def first(self) -> bool:
        """Whether the stage begins: with a new optimizer, and what it needs from the stage before."""
        return self.epoch == 0

    @property
    def last(self) -> bool:
        """Whether the stage ends."""
        return self.epoch == self.of - 1


T = TypeVar("T", SimclrSettings, ScanSettings, ProfeatSettings)


def settled(context: Context, kind: type[T]) -> T:
    """The method's table, with epochs, batches and learning rates for the data at hand where they are not set by hand.

    A batch leaves an epoch `FEWEST_STEPS` steps, and SGD's learning rates go with it; of SimCLR alone, the plan's epochs are its epochs.

    Raises:
        UsageError: a larger batch than there are images, as many clusters, or a setting by hand that the others leave idle.
    """
    by_hand = tuple(sorted(set_by_hand(context, context.method).items()))
    planned = PlanSettings().override(set_by_hand(context, "plan")).epochs
    return _settled(kind, context.method, by_hand, planned, context.source, context.images)  # type: ignore[no-any-return,arg-type]


@functools.lru_cache(16)  # a plan of thousands of epochs asks in every one
def _settled(kind: type[T], method: str, set_: tuple[tuple[str, str], ...], planned: int, source: str, images: int) -> T:
    by_hand = dict(set_)
    found = kind().override(by_hand, f"ucl.toml: [{method}]")
    told: dict[str, Any] = dict(DIGITS) if source == "digits" else {}
    if planned and kind is SimclrSettings:
        told["contrast_epochs"] = planned
    for name in ("contrast_batch", "scan_batch", "self_batch"):
        if hasattr(found, name):
            told[name] = max(2, min(told.get(name, getattr(found, name)), images // FEWEST_STEPS))
    if isinstance(found, SimclrSettings) and "contrast_batch" not in by_hand:
        share = told["contrast_batch"] / found.contrast_batch
        told |= {"contrast_lr": found.contrast_lr * share, "contrast_lr_end": found.contrast_lr_end * share}
        if isinstance(found, ProfeatSettings):
            told["refine_lr"] = tuple(lr * share for lr in found.refine_lr)
    if isinstance(found, ProfeatSettings):
        told["least_batch"] = min(found.least_batch, told["contrast_batch"] if "contrast_batch" not in by_hand else found.contrast_batch)
    if isinstance(found, ScanSettings):
        told["select_neighbors"] = min(found.select_neighbors, found.neighbors)
    found = dataclasses.replace(found, **{name: v for name, v in told.items() if hasattr(found, name) and name not in by_hand})
    found.refuse_unread(by_hand, f"ucl.toml: [{method}]")
    if not sum(e for _, e in stages(0, found)):
        raise UsageError(f"{method}.contrast_epochs: found 0, wanted at least 1")
    try:
        refuse(found, images)
    except UsageError as error:
        raise UsageError(f"{method}.{error.message}", error.hint) from error
    return found


def stages(iteration: int, settings: SimclrSettings | ScanSettings) -> tuple[tuple[str, int], ...]:
    """Names and epochs of an iteration's stages, in order; those of no epochs are left out."""
    found: list[tuple[str, int]] = []
    if isinstance(settings, SimclrSettings):
        later = isinstance(settings, ProfeatSettings) and iteration > 0
        found.append((REFINE, settings.refine_epochs) if later and isinstance(settings, ProfeatSettings) else (CONTRAST, settings.contrast_epochs))
    if isinstance(settings, ScanSettings):
        found += [(SCAN, settings.scan_epochs), (SELF, settings.self_epochs)]
    return tuple((name, epochs) for name, epochs in found if epochs)


def iterations(settings: SimclrSettings | ScanSettings) -> int:
    """How many iterations there are."""
    return settings.iterations if isinstance(settings, ProfeatSettings) else 1


def length(settings: SimclrSettings | ScanSettings) -> int:
    """Epochs of all stages of all iterations."""
    return sum(totals(settings).values())


def totals(settings: SimclrSettings | ScanSettings) -> dict[str, int]:
    """Stage -> epochs of all iterations."""
    count = iterations(settings)
    found: dict[str, int] = {}
    for iteration, times in ((0, 1), (1, count - 1)):
        for name, epochs in stages(iteration, settings) if times else ():
            found[name] = found.get(name, 0) + times * epochs
    return found


def at(epoch: int, settings: SimclrSettings | ScanSettings) -> Place:
    """Where an epoch of the plan, from 0, stands; beyond the plan's end the last stage has no end."""
    first, later = (sum(e for _, e in stages(i, settings)) for i in (0, 1))
    iteration = 0 if epoch < first else 1 + (epoch - first) // later
    iteration = min(iteration, iterations(settings) - 1)
    rest = epoch - (first + (iteration - 1) * later if iteration else 0)
    found = stages(iteration, settings)
    for name, epochs in found[:-1]:
        if rest < epochs:
            return Place(iteration, name, rest, epochs)
        rest -= epochs
    return Place(iteration, found[-1][0], rest, found[-1][1])


def cosine(epoch: int, epochs: int, start: float, end: float) -> float:
    """``end + (start - end) (1 + cos(pi e / E)) / 2``; SCAN's released code, a step every epoch; ``end`` from epoch E on."""
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, epoch / epochs))) / 2


def contrast_rate(place: Place, settings: SimclrSettings) -> float:
    """Learning rate of an epoch of a contrastive stage.

    SimCLR's falls on a cosine over its epochs.  ProFeat's later ones have a cosine each, from ``refine_lr[0]`` to ``refine_lr[1]``; or,
    with ``refine_schedule`` "whole", one cosine falls over the contrastive epochs of all iterations.
    """
    start, end = settings.contrast_lr, settings.contrast_lr_end
    if isinstance(settings, ProfeatSettings):
        if settings.refine_schedule == WHOLE:
            before = settings.contrast_epochs + (place.iteration - 1) * settings.refine_epochs if place.iteration else 0
            return cosine(before + place.epoch, settings.contrast_epochs + (settings.iterations - 1) * settings.refine_epochs, start, end)
        if place.iteration:
            start, end = settings.refine_lr
    return cosine(place.epoch, place.of, start, end)


def learning_rate(place: Place, settings: SimclrSettings | ScanSettings) -> float:
    """Learning rate of an epoch of any stage; of Adam's it is constant."""
    if place.stage in (CONTRAST, REFINE) and isinstance(settings, SimclrSettings):
        return contrast_rate(place, settings)
    if isinstance(settings, ScanSettings):
        return settings.scan_lr if place.stage == SCAN else settings.self_lr
    raise ValueError(f"{place.stage}: not a stage of {type(settings).__name__}")


def least_connections(settings: ProfeatSettings) -> int:
    """t_c, with the rule for any batch and number of clusters worked out."""
    return default_connections(settings.contrast_batch, settings.k) if settings.connections < 0 else settings.connections


RARELY = 0.01
"""Images expected without a neighbour, above which a plan is refused."""


def refuse(settings: SimclrSettings | ScanSettings, images: int) -> None:
    """Refuse what a stage would refuse, before the first one starts.

    Args:
        settings: of the plan.
        images: usable ones; those held out are not trained on.

    Raises:
        UsageError: not one whole batch of some stage, or as many clusters as images.
    """
    found = {"contrast_batch": settings.contrast_batch} if isinstance(settings, SimclrSettings) else {}
    left = images
    if isinstance(settings, ScanSettings):
        if settings.k >= images:
            raise UsageError(f"k: found {settings.k} for {images} images, wanted fewer clusters than images")
        left = images - int(1.2 * settings.held_out * images) if settings.select == "held-out" else images  # each is held out by its own draw
        _refuse_neighbors(settings, images)
        found |= {"scan_batch": settings.scan_batch} | ({"self_batch": settings.self_batch} if settings.self_epochs else {})
    if isinstance(settings, ProfeatSettings) and settings.iterations > 1 and settings.least_batch > settings.contrast_batch:
        raise UsageError(f"least_batch: found {settings.least_batch}, wanted at most {settings.contrast_batch}, the images of a batch",
                         "fewer, or a larger contrast_batch")
    if isinstance(settings, ProfeatSettings) and settings.rule == AGREE and least_connections(settings) >= settings.contrast_batch:
        raise UsageError(f"connections: found {least_connections(settings)}, wanted fewer than the {settings.contrast_batch} images of a batch",
                         "-1 = a share of a cluster's images in a batch; 0 and 1 leave out only images without partners")
    for name, batch in found.items():
        most = left if name == "scan_batch" else images
        if batch > most:
            raise UsageError(f"{name}: found {batch} for {most} images to draw, wanted at most {most}: only whole batches are trained on",
                             f"a smaller {name}")


def _refuse_neighbors(settings: ScanSettings, images: int) -> None:
    """Refuse more neighbours to score by than are mined, and so few that some image would have none left to be drawn with.

    Raises:
        UsageError: either.
    """
    if settings.select != "last" and settings.select_neighbors > settings.neighbors:
        raise UsageError(f"select_neighbors: found {settings.select_neighbors}, wanted at most the {settings.neighbors} that are mined",
                         "fewer, or more neighbors")
    if settings.select == "held-out" and not settings.own and images * (1 - settings.held_out) * settings.held_out**settings.neighbors > RARELY:
        raise UsageError(f"neighbors: found {settings.neighbors}, with {settings.held_out:g} of {images} images held out: some image would have all "
                         "its neighbours held out, and none to be drawn with", "more neighbors, own = true, or select = train")


def advice_of(settings: ProfeatSettings | ScanSettings, epochs: int) -> Iterator[str]:
    """What is allowed and does not do what one may expect; ``epochs``: the plan's."""
    if epochs < length(settings):
        yield f"the plan ends after {epochs} epochs, of {length(settings)} of all its stages"
    elif epochs > length(settings):
        yield f"{epochs - length(settings)} epochs follow the last stage, and go on with it"
    if settings.scan_batch < 10 * settings.k:
        yield (f"a batch of {settings.scan_batch} pairs is fewer than 10 for each of {settings.k} clusters: their use is not to be "
               "estimated from it")
    if settings.self_epochs and settings.self_threshold == 1:
        yield "no probability is above a threshold of 1: the epochs of self-labels change nothing"
    if not isinstance(settings, ProfeatSettings) or settings.iterations == 1 or settings.rule == AGREE:
        return
    if settings.threshold == 1:
        yield "no probability is above a threshold of 1: nothing is refined"
    elif settings.threshold < 0.5:
        yield (f"at a threshold of {settings.threshold:g} two clusters of one image may be above it: images are put together by the more "
               "probable one alone")

"""UIC (Chen, Pu, Xie, Zhou: "Unsupervised Image Classification for Deep Representation Learning", ECCV Workshops 2020).

No clustering: the class that the network gives an image's training view is the image's label in the next epoch.  Every epoch begins by
splitting classes that are empty, and draws equally of each class.  A short last stage trains on fixed labels, those of the fixed views.
As a shell loop:

    until ucl status --done; do ucl train-epoch || exit; done

Where paper and released code differ, `ucl.settings.UicSettings` says which is followed, and has the other by name.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from ucl.context import Context
from ucl.errors import UsageError
from ucl.methods.deepcluster import DIGITS
from ucl.methods.method import Method, Step, set_by_hand
from ucl.settings import InitSettings, PlanSettings, TrainSettings, UicSettings

EPOCHS, SMALL_EPOCHS, DIGITS_EPOCHS = 500, 200, 30
SMALL_SIDE = 64
IMAGES_PER_CLASS, FEWEST_CLASSES, MOST_CLASSES = 200, 10, 3000

# By the released rule a class of average size is drawn from with replacement: a third of the labels stay as they are in every epoch.
# "uniform" would see all images, and move all labels, where classes are equal.
SAMPLER = "truncated"

# Crop and flip, and nothing else; and the jitter and the blur on top.  Up to 64 px SimCLR's recipe for CIFAR: half the strength, no blur.
WEAK: dict[str, Any] = {"jitter_p": 0.0, "grey_p": 0.0}
STRONG: dict[str, Any] = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2, "jitter_p": 0.8, "grey_p": 0.2, "blur_p": 0.5}
STRONG_SMALL: dict[str, Any] = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "jitter_p": 0.8, "grey_p": 0.2}
LARGE: dict[str, Any] = {"batch": 1024, "lr": 0.2, "weight_decay": 1e-4, "crop_scale": (0.08, 1.0)}
LARGE_SOBEL: dict[str, Any] = LARGE | {"batch": 256, "lr": 0.1}
SMALL: dict[str, Any] = {"batch": 256, "lr": 0.05, "weight_decay": 5e-4, "crop_scale": (0.2, 1.0)}


def settled(context: Context) -> UicSettings:
    """The table [uic] with every 0 that stands for a rule worked out.

    Raises:
        UsageError: no epoch is left beside the final stage.
    """
    for name in ("k", "relabel"):
        if name in set_by_hand(context, "train-epoch"):
            raise UsageError(f"train-epoch.{name}: the plan of uic decides it from epoch to epoch", f"uic.{name}")
    found = UicSettings().override(set_by_hand(context, "uic"), "ucl.toml: [uic]")
    epochs, planned = found.epochs, PlanSettings().override(set_by_hand(context, "plan")).epochs
    if not epochs and planned:
        epochs = planned - int(planned * found.final_share / (1 + found.final_share) + 0.5)
        if not epochs:
            raise UsageError(f"uic.final_share: found {found.final_share:g}, which leaves none of {planned} epochs before the final stage",
                             "a smaller uic.final_share, or uic.epochs")
        found = dataclasses.replace(found, final_share=(planned - epochs) / epochs)  # no share of whole epochs may meet it exactly
    if not epochs:
        epochs = DIGITS_EPOCHS if context.source == "digits" else SMALL_EPOCHS if context.size <= SMALL_SIDE else EPOCHS
    k = found.k or min(MOST_CLASSES, max(FEWEST_CLASSES, context.images // IMAGES_PER_CLASS))
    return dataclasses.replace(found, epochs=epochs, k=k, lr=found.lr or _at_hand(context)["lr"])


def final_epochs(settings: UicSettings) -> int:
    """Length of the final stage."""
    return int(settings.final_share * settings.epochs + 0.5)


def learning_rate(epoch: int, settings: UicSettings) -> float:
    """Learning rate of an epoch, from 0; after the final stage 0.

    ``lr (1 + cos(pi e / T)) / 2`` or ``lr (1 - e / T)``; in the final stage of F epochs ``final_lr (1 - f / F)``.
    """
    e, t, last = epoch, settings.epochs, final_epochs(settings)
    if e >= t and last:
        return settings.final_lr * max(0.0, 1 - (e - t) / last)
    if settings.schedule == "linear":
        return settings.lr * max(0.0, 1 - e / t)
    return settings.lr * (1 + math.cos(math.pi * min(1.0, e / t))) / 2


def training(context: Context, settings: UicSettings) -> TrainSettings:
    """What an epoch is told: where its labels come from, views, optimizer and learning rate."""
    base = TrainSettings(objective="relabel", sampler=SAMPLER, k=settings.k, relabel=settings.relabel)
    made = base.override(_at_hand(context)).override(_views(context, settings))
    made = dataclasses.replace(made, lr=learning_rate(context.epoch, settings))
    if context.epoch < settings.epochs or not final_epochs(settings):
        return made
    return dataclasses.replace(made, relabel="fixed" if context.epoch == settings.epochs else "none", fill_empty=False)


def _at_hand(context: Context) -> dict[str, Any]:
    """Batch, learning rate, weight decay and crop for the data at hand."""
    if context.source == "digits":
        return SMALL | {k: v for k, v in DIGITS["train-epoch"].items() if k in ("batch", "crop_scale")}
    if context.size <= SMALL_SIDE:
        return SMALL
    return LARGE_SOBEL if _sobel(context) else LARGE


def _views(context: Context, settings: UicSettings) -> dict[str, Any]:
    if context.source == "digits":
        return {k: v for k, v in DIGITS["train-epoch"].items() if k not in ("batch", "weight_decay")}
    if settings.views == "weak" or _sobel(context):
        return WEAK
    return STRONG_SMALL if context.size <= SMALL_SIDE else STRONG


def _sobel(context: Context) -> bool:
    return InitSettings().override({"sobel": context.overrides.get("init.sobel", False)}).sobel


def steps(context: Context) -> Iterator[Step]:
    """One turn: training alone.  The labels are in the model's memory; their file is for people, and for the agreement with the last."""
    settings = settled(context)
    if settings.k > context.images or settings.k < 2:
        raise UsageError(f"uic.k: found {settings.k}, wanted 2 to {context.images}, the number of usable images")
    yield Step("train-epoch", training(context, settings), reads=("images", "model", "previous"), writes=("model", "labels"))


def length(context: Context) -> int:
    """Epochs of both stages."""
    settings = settled(context)
    return settings.epochs + final_epochs(settings)


def init(context: Context) -> Mapping[str, Any]:
    """Digits are shown at 16 px."""
    return {"size": 16} if context.source == "digits" else {}


def advice(context: Context) -> Iterator[str]:
    """That the plan ends in another place than its stages."""
    settings = settled(context)
    planned = PlanSettings().override(set_by_hand(context, "plan")).epochs
    whole = settings.epochs + final_epochs(settings)
    if planned and planned < whole:
        yield f"the plan ends after {planned} epochs, of {settings.epochs} with moving labels and {final_epochs(settings)} on fixed ones"
    elif planned > whole:
        yield f"{planned - whole} epochs follow the last stage, at a learning rate of 0"
    if context.images < 10 * settings.k:
        yield f"{settings.k} classes for {context.images} images are fewer than 10 images each"


METHOD = Method("Chen et al., ECCV Workshops 2020", steps, length, init, advice=advice)

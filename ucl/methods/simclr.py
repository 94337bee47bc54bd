"""SimCLR (Chen, Kornblith, Norouzi, Hinton: "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020), with the
numbers of SCAN's released code, whose first stage it is.

Two views of each image attract each other, on top of a projection of two layers, and all other views of the batch repel; no clusters, no
memory.  As a shell loop:

    until ucl status --done; do ucl train-epoch || exit; done
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from ucl.context import Context
from ucl.errors import UsageError
from ucl.methods.deepcluster import DIGITS
from ucl.methods.iterations import at, contrast_rate
from ucl.methods.method import Method, Step, plan_length, set_by_hand
from ucl.settings import InitSettings, PlanSettings, SimclrSettings, TrainSettings

DIGITS_EPOCHS = 30
FEWEST_STEPS = 4
"""Steps of an epoch that a batch leaves where it is not set by hand."""

PROJECTION: dict[str, Any] = {"projection": 128, "projection_layers": 2, "projection_init": "torch"}


def settled(context: Context) -> SimclrSettings:
    """The table [simclr], with epochs, batch and learning rate for the data at hand.

    Raises:
        UsageError: a larger batch than there are images, or too few images.
    """
    by_hand = set_by_hand(context, "simclr")
    found = SimclrSettings().override(by_hand, "ucl.toml: [simclr]")
    planned = PlanSettings().override(set_by_hand(context, "plan")).epochs
    if "contrast_epochs" not in by_hand:
        found = dataclasses.replace(found, contrast_epochs=planned or (DIGITS_EPOCHS if context.source == "digits" else found.contrast_epochs))
    if "contrast_batch" not in by_hand:
        batch = max(2, min(found.contrast_batch, context.images // FEWEST_STEPS))
        share = batch / found.contrast_batch
        found = dataclasses.replace(found, contrast_batch=batch)
        if "contrast_lr" not in by_hand:
            found = dataclasses.replace(found, contrast_lr=found.contrast_lr * share, contrast_lr_end=found.contrast_lr_end * share)
    if found.contrast_batch > context.images:
        raise UsageError(f"simclr.contrast_batch: found {found.contrast_batch}, wanted at most {context.images}, the number of usable images: only "
                         "whole batches are trained on", "a smaller batch")
    return found


def steps(context: Context) -> Iterator[Step]:
    """One turn: training alone."""
    settings = settled(context)
    views = {k: v for k, v in DIGITS["train-epoch"].items() if k not in ("batch", "weight_decay")} if context.source == "digits" else {}
    train = TrainSettings(objective="contrast", batch=settings.contrast_batch, lr=contrast_rate(at(context.epoch, settings), settings),
                          momentum=settings.contrast_momentum, weight_decay=settings.contrast_weight_decay, tau=settings.tau,
                          first_only=settings.anchors == "first").override(views)
    yield Step("train-epoch", train, reads=("images", "model"), writes=("model",))


def length(context: Context) -> int:
    """500 epochs; of the digits 30."""
    return settled(context).contrast_epochs


def init(context: Context) -> Mapping[str, Any]:
    """A projection of two layers to 128 dimensions; digits are shown at 16 px."""
    return PROJECTION | ({"size": 16} if context.source == "digits" else {})


def beside(context: Context) -> Mapping[str, Mapping[str, Any]]:
    """What is evaluated is what the projection stands on."""
    return {"extract": {"final_relu": True}}


def advice(context: Context) -> Iterator[str]:
    """That the plan ends before or after the learning rate does; that there is no projection."""
    epochs, total = settled(context).contrast_epochs, plan_length(context)
    if total < epochs:
        yield f"the plan ends after {total} epochs, the learning rate falls over {epochs}"
    elif total > epochs:
        yield f"{total - epochs} epochs follow the {epochs} in which the learning rate falls, at its last value"
    if not InitSettings().override({"projection": set_by_hand(context, "init").get("projection", 1)}).projection:
        yield "without a projection the features themselves are told apart, which is known to serve them less"


METHOD = Method("Chen et al., ICML 2020", steps, length, init, beside, advice)

"""What IR, IS, AND and PCP share: rounds of epochs, a learning rate that falls in steps, and views, optimizer and projection of their
released codes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from ucl.context import Context
from ucl.errors import UsageError
from ucl.methods.deepcluster import DIGITS
from ucl.methods.method import Step, plan_length, set_by_hand
from ucl.settings import InitSettings, PlanSettings, RoundSettings, TrainSettings, ViewSettings

R = TypeVar("R", bound=RoundSettings)

ROUND, DIGITS_ROUND = 200, 30
PROJECTION = 128
ROUNDING = 1e-6
"""Makes shares of a round, and powers that are whole numbers, exact: 0.6 of 200 is 120."""

# The jitter of the released codes is stronger than SimCLR's, and never left out.
VIEWS: dict[str, Any] = {"crop_scale": (0.2, 1.0), "hue": 0.4, "jitter_p": 1.0}
OPTIMIZER: dict[str, Any] = {"batch": 128, "weight_decay": 5e-4}


def settled(context: Context, kind: type[R]) -> R:
    """The method's table of ucl.toml, with the length of a round worked out."""
    found = kind().override(set_by_hand(context, context.method), f"ucl.toml: [{context.method}]")
    if found.epochs:
        return found
    planned = PlanSettings().override(set_by_hand(context, "plan")).epochs
    if 0 < planned < found.rounds:
        raise UsageError(f"plan.epochs: found {planned} for {found.rounds} rounds of [{context.method}], wanted at least one each",
                         f"more --epochs, fewer {context.method}.rounds, or {context.method}.epochs for the length of a round")
    return dataclasses.replace(found, epochs=planned // found.rounds or (DIGITS_ROUND if context.source == "digits" else ROUND))


def at(context: Context, settings: RoundSettings) -> tuple[int, int]:
    """(round, epoch of the round) where the context stands, both from 0; the last round has no end."""
    number = min(context.epoch // settings.epochs, settings.rounds - 1)
    return number, context.epoch - number * settings.epochs


def length(context: Context, kind: type[RoundSettings]) -> int:
    """Epochs of all rounds."""
    settings = settled(context, kind)
    return settings.rounds * settings.epochs


def advice(context: Context, kind: type[RoundSettings]) -> Iterator[str]:
    """What does not fit between the plan's epochs and the rounds."""
    settings = settled(context, kind)
    total, whole = plan_length(context), settings.rounds * settings.epochs
    if total < whole:
        yield f"the plan ends after {total} epochs, before the {settings.rounds} rounds of {settings.epochs} do"
    elif total > whole:
        yield f"{total - whole} epochs follow the {settings.rounds} rounds of {settings.epochs}, at the last learning rate"


def beside(context: Context) -> Mapping[str, Mapping[str, Any]]:
    """What is evaluated is what is told apart: the projection, where there is one."""
    return {"extract": {"layer": "projection", "final_relu": True}} if projected(context) else {}


def learning_rate(epoch: int, settings: RoundSettings) -> float:
    """Learning rate of an epoch of a round."""
    rate = settings.lr
    for share, factor in zip(settings.lr_drops, settings.lr_factor, strict=True):
        if reached(epoch, share, settings.epochs):
            rate = settings.lr * factor
    return rate


def reached(epoch: int, share: float, epochs: int) -> bool:
    """Whether ``epoch`` is at least that share of the round, free of rounding."""
    return epoch >= share * epochs - ROUNDING


def training(context: Context, epoch: int, settings: RoundSettings) -> TrainSettings:
    """Views, optimizer and learning rate of an epoch of a round; IR section 4 and the released codes."""
    views = {k: v for k, v in DIGITS["train-epoch"].items() if k in _VIEW_FIELDS} if context.source == "digits" else VIEWS
    return TrainSettings(objective="instance", lr=learning_rate(epoch, settings)).override(OPTIMIZER).override(views)


def views_of(context: Context, train: TrainSettings) -> dict[str, Any]:
    """What training draws of a view, under what was set by hand for it."""
    by_hand = {k: v for k, v in set_by_hand(context, "train-epoch").items() if k in _VIEW_FIELDS}
    views = train.override(by_hand)
    return {name: getattr(views, name) for name in _VIEW_FIELDS}


_VIEW_FIELDS = tuple(f.name for f in dataclasses.fields(ViewSettings))


def projected(context: Context) -> bool:
    """Whether the run's networks have a projection."""
    by_hand = set_by_hand(context, "init")
    return InitSettings().override({"projection": by_hand.get("projection", PROJECTION)}).projection > 0


def init(context: Context) -> Mapping[str, Any]:
    """A projection to 128 dimensions; digits are shown at 16 px."""
    return {"projection": PROJECTION} | ({"size": 16} if context.source == "digits" else {})


def alone(context: Context, train: TrainSettings) -> Iterator[Step]:
    """The turn of a method that has no clusters: training alone."""
    yield Step("train-epoch", train, reads=("images", "model"), writes=("model",))

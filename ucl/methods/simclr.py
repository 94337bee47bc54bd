"""SimCLR (Chen, Kornblith, Norouzi, Hinton: "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020), with the
numbers of SCAN's released code, whose first stage it is.

Two views of each image attract each other, on top of a projection of two layers, and all other views of the batch repel; no clusters, no
memory.  As a shell loop:

    until ucl status --done; do ucl train-epoch || exit; done
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ucl.context import Context
from ucl.methods.deepcluster import DIGITS
from ucl.methods.iterations import Place, at, contrast_rate, settled
from ucl.methods.method import Method, Step, plan_length, set_by_hand
from ucl.settings import InitSettings, ScanSettings, SimclrSettings, TrainSettings

PROJECTION: dict[str, Any] = {"projection": 128, "projection_layers": 2, "projection_init": "torch"}


def steps(context: Context) -> Iterator[Step]:
    """One turn: training alone."""
    settings = settled(context, SimclrSettings)
    yield contrastive(context, at(context.epoch, settings), settings)


def contrastive(context: Context, place: Place, settings: SimclrSettings, labels: str = "", more: Mapping[str, Any] | None = None,
                writes: tuple[str, ...] = ("model",)) -> Step:
    """The training of an epoch.

    Args:
        place: where in an iteration.
        labels: slot of the images' labels, by which they attract each other; "" = each image alone.
        more: settings beside those of the first contrastive step.
        writes: slots.
    """
    train = TrainSettings(objective="contrast", batch=settings.contrast_batch, lr=contrast_rate(place, settings),
                          momentum=settings.contrast_momentum, weight_decay=settings.contrast_weight_decay, tau=settings.tau,
                          first_only=settings.anchors == "first").override(contrast_views(context) | dict(more or {}))
    name = place.stage if isinstance(settings, ScanSettings) else ""  # of several in a plan
    return Step("train-epoch", train, reads=("images", "model", *((labels, "previous") if labels else ())), writes=writes, name=name)


def contrast_views(context: Context) -> dict[str, Any]:
    """What is drawn of a view, where it is not SimCLR's recipe for small images, which the settings have."""
    return {k: v for k, v in DIGITS["train-epoch"].items() if k not in ("batch", "weight_decay")} if context.source == "digits" else {}


def length(context: Context) -> int:
    """500 epochs; of the digits 30."""
    return settled(context, SimclrSettings).contrast_epochs


def init(context: Context) -> Mapping[str, Any]:
    """A projection of two layers to 128 dimensions; digits are shown at 16 px."""
    return PROJECTION | ({"size": 16} if context.source == "digits" else {})


def beside(context: Context) -> Mapping[str, Mapping[str, Any]]:
    """What is evaluated is what the projection stands on."""
    return {"extract": {"final_relu": True}}


def advice(context: Context) -> Iterator[str]:
    """That the plan ends before or after the learning rate does; that there is no projection."""
    epochs, total = settled(context, SimclrSettings).contrast_epochs, plan_length(context)
    if total < epochs:
        yield f"the plan ends after {total} epochs, the learning rate falls over {epochs}"
    elif total > epochs:
        yield f"{total - epochs} epochs follow the {epochs} in which the learning rate falls, at its last value"
    if not InitSettings().override({"projection": set_by_hand(context, "init").get("projection", 1)}).projection:
        yield "without a projection the features themselves are told apart, which is known to serve them less"


METHOD = Method("Chen et al., ICML 2020", steps, length, init, beside, advice)

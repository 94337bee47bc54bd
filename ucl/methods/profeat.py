"""ProFeat: progressive features, a representation and a clustering that serve each other in turns.  There is no released code; what the paper
leaves open is that of SCAN, on which it is built.

An iteration is a contrastive step, which trains the network g and its projection p ("model"), and a clustering step by SCAN on a copy of g
with a classifier ("classifier"), which is thrown away as far as the next iteration is concerned: g is not touched by it.  The first
contrastive step is SimCLR's; in the later ones the images of which the last clustering was sure attract those of their cluster, and the
others are left out.  With ``rule`` "agree" those are put together that several such runs, an ensemble, put together: their labels are joined
by `ucl purify --rule agree` between iterations.  As a shell loop:

    until ucl status --done; do line=$(ucl status --next) && eval "$line" || exit; done     # the line differs where a stage begins

Where the paper is silent or differs from the code of SCAN, `ucl.settings.ProfeatSettings` says what is done, and has the other by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ucl.context import Context
from ucl.methods.iterations import CONTRAST, REFINE, Place, advice_of, at, least_connections, length, settled
from ucl.methods.method import Method, Step, plan_length, set_by_hand
from ucl.methods.scan import clustering, settled_features
from ucl.methods.simclr import PROJECTION, contrastive
from ucl.profeat_settings import AGREE
from ucl.settings import ProfeatSettings, PurifySettings


def steps(context: Context) -> Iterator[Step]:
    """One turn: an epoch of the stage that the iteration is in."""
    settings = settled(context, ProfeatSettings)
    place = at(context.epoch, settings)
    if place.stage == CONTRAST:
        yield contrastive(context, place, settings)
    elif place.stage == REFINE:
        yield from refinement(context, place, settings)
    else:
        yield from clustering(context, place, settings, target="classifier" if settings.apart else "model")


def refinement(context: Context, place: Place, settings: ProfeatSettings) -> Iterator[Step]:
    """An epoch of a later contrastive step, on the labels of its first one."""
    agreed = settings.rule == AGREE
    labels = "agreed" if agreed and place.first else "labels"
    if place.first and not agreed:
        yield Step("purify", PurifySettings(rule=settings.rule, threshold=settings.threshold), reads=("labels",), writes=("labels",))
    more = {"restart": place.first, "positives": settings.positives, "least_batch": settings.least_batch,
            "connections": max(1, least_connections(settings)) if agreed else 0}
    yield contrastive(context, place, settings, labels=labels, more=more, writes=("model", "labels") if labels == "agreed" else ("model",))


def init(context: Context) -> Mapping[str, Any]:
    """A projection of two layers to 128 dimensions; digits are shown at 16 px."""
    return PROJECTION | ({"size": 16} if context.source == "digits" else {})


def advice(context: Context) -> Iterator[str]:
    """What is allowed and may not do what one expects."""
    settings = settled(context, ProfeatSettings)
    if not settings.contrast_epochs and set_by_hand(context, "init").get("weights", "none") == "none":
        yield "without contrast_epochs and --from the first neighbours are those of an untrained network"
    if settled_features(context) == "projection" and set_by_hand(context, "init").get("projection") == "0":
        yield "there is no projection: set profeat.features to last"
    yield from advice_of(settings, plan_length(context))


def beside(context: Context) -> Mapping[str, Mapping[str, Any]]:
    """What is evaluated is what the projection stands on; and what joins the labels of an ensemble, beside the plan of each member."""
    settings = settled(context, ProfeatSettings)
    joined = {"purify": {"rule": settings.rule, "agree": settings.agree}} if settings.rule == AGREE else {}
    return {"extract": {"final_relu": True}, **joined}


METHOD = Method("ProFeat, on SimCLR and SCAN", steps, lambda context: length(settled(context, ProfeatSettings)), init, beside, advice)

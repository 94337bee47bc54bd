"""SCAN (Van Gansbeke, Vandenhende, Georgoulis, Proesmans, Van Gool: "SCAN: Learning to Classify Images without Labels", ECCV 2020), with
the numbers of its released code.

Of a network that is there already, as one trained by `simclr`, the nearest images of every image are mined once; then network and classifier
learn to give neighbours one class, and all classes some images; then the sure images teach strong views of themselves.  As a shell loop:

    ucl extract | ucl neighbors | ucl train-epoch
    until ucl status --done; do ucl train-epoch || exit; done

The epoch of the lowest score without labels ends the second stage.  Where paper and released code differ, `ucl.settings.ScanSettings` says
which is followed, and has the other by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ucl.context import Context
from ucl.methods.iterations import SCAN, Place, advice_of, at, length, settled
from ucl.methods.method import Method, Step, plan_length, set_by_hand
from ucl.methods.simclr import PROJECTION, contrast_views
from ucl.settings import ExtractSettings, NeighborsSettings, ScanSettings, TrainSettings


def strong_views(context: Context) -> dict[str, Any]:
    """What is drawn of a strong view: a flip, four operations, a hole of half a small view's side, a third of a larger one's."""
    flip = contrast_views(context).get("flip", TrainSettings.flip)
    return {"crop_scale": (1.0, 1.0), "flip": flip, "jitter_p": 0.0, "grey_p": 0.0, "strong_ops": 4,
            "cutout": context.size // 2 if context.size <= 64 else context.size // 3}


def clustering(context: Context, place: Place, settings: ScanSettings, *, source: str = "model", target: str = "model") -> Iterator[Step]:
    """The steps of an epoch of clustering; before the first one neighbours are mined.

    Args:
        place: where in an iteration.
        source: slot whose network the clustering step starts from.  target: slot that it trains.
    """
    s = settings
    if place.stage == SCAN:
        if place.first:
            layer = "projection" if s.features == "projection" else ""
            yield Step("extract", ExtractSettings(layer=layer, final_relu=not layer), reads=("images", "model"), writes=("features",))
            yield Step("neighbors", NeighborsSettings(neighbors=s.neighbors + s.own, include_self=s.own), reads=("features",), writes=("neighbors",))
        best = "off" if s.select == "last" else "take" if place.last else "note"
        made = TrainSettings(objective="scan", optimizer="adam", batch=s.scan_batch, lr=s.scan_lr, weight_decay=s.scan_weight_decay, k=s.k,
                             entropy_weight=s.entropy_weight, trains=s.scan_trains, best=best,
                             held_out=s.held_out if s.select == "held-out" else 0.0)
    else:
        made = TrainSettings(objective="selflabel", optimizer="adam", batch=s.self_batch, lr=s.self_lr, weight_decay=s.self_weight_decay,
                             sure=s.self_threshold, balanced=s.self_balanced)
    scored = {"score_neighbors": s.select_neighbors, "score_entropy": s.select_entropy}
    made = made.override(scored | strong_views(context) | {"restart": place.first})
    begin = source if place.stage == SCAN and place.first else target
    yield Step("train-epoch", made, reads=("images", begin, "neighbors", "previous"), writes=(target, "labels"), name=place.stage)


def steps(context: Context) -> Iterator[Step]:
    """One turn: an epoch of either stage, before the first one the mining of neighbours."""
    settings = settled(context, ScanSettings)
    yield from clustering(context, at(context.epoch, settings), settings)


def init(context: Context) -> Mapping[str, Any]:
    """Room for the projection of the network that is given; digits are shown at 16 px."""
    kept = PROJECTION if settled_features(context) == "projection" else {}
    return kept | ({"size": 16} if context.source == "digits" else {})


def settled_features(context: Context) -> str:
    """Whose neighbours are mined, before anything is known of the images."""
    return str(set_by_hand(context, context.method).get("features", ScanSettings.features))


def advice(context: Context) -> Iterator[str]:
    """That the network is untrained, or the plan of another length than its stages."""
    settings = settled(context, ScanSettings)
    if set_by_hand(context, "init").get("weights", "none") == "none":
        yield "without --from the neighbours are those of an untrained network"
    yield from advice_of(settings, plan_length(context))


METHOD = Method("Van Gansbeke et al., ECCV 2020", steps, lambda context: length(settled(context, ScanSettings)), init,
                lambda context: {"extract": {"final_relu": True}}, advice)

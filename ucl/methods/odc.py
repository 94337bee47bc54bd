"""ODC (Zhan, Xie, Liu, Ong, Loy: "Online Deep Clustering for Unsupervised Representation Learning", CVPR 2020): its numbers and schedule.

The images are clustered once; from then on labels and centroids move with the network, batch by batch (`ucl.objectives.online`), so
that the classifier is never drawn anew.  As a shell loop:

    ucl extract | ucl cluster | ucl train-epoch
    until ucl status --done; do ucl train-epoch || exit; done

Where the paper and its released code differ, `ucl.settings` (TrainSettings, OdcSettings) says which is followed, and has the other by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from ucl.context import Context
from ucl.errors import UsageError
from ucl.methods.deepcluster import DIGITS, FEW_IMAGES, SMALL_BATCH
from ucl.methods.method import Method, Step, plan_length, set_by_hand
from ucl.methods.rounds import reached
from ucl.objectives.online import SMALL_SIDE, check_least, least_members
from ucl.settings import ClusterSettings, ExtractSettings, InitSettings, OdcSettings, TrainSettings, default_k

EPOCHS, FINE_TUNING, SMALL_EPOCHS, DIGITS_EPOCHS = 440, 120, 200, 30
"""The paper's from nothing, and from another method's network; views up to 64 px; the built-in digits."""

BATCH = 512

# Rotation by up to 2 degrees; the jitter is never left out.
VIEWS: dict[str, Any] = {"rotate": 2.0, "brightness": 0.4, "contrast": 0.4, "saturation": 1.0, "hue": 0.5, "jitter_p": 1.0, "grey_p": 0.2}
NECK = 256
OPTIMIZER: dict[str, Any] = {"momentum": 0.9, "head_momentum": 0.0}


def settled(context: Context) -> OdcSettings:
    """The table [odc] with the 0 that stands for a rule worked out; refuses what cannot be.

    Raises:
        UsageError: more clusters than images, more least members than the mean size, or those set by hand past the table.
    """
    if "least" in set_by_hand(context, "train-epoch"):
        raise UsageError("train-epoch.least: the plan of odc checks it against the sizes of clusters", "odc.least")
    found = OdcSettings().override(set_by_hand(context, "odc"), "ucl.toml: [odc]")
    k = clusters(context)
    found = dataclasses.replace(found, least=found.least or least_members(context.images, k, context.size))
    try:
        check_least(context.images, k, found.least)
    except UsageError as error:
        raise UsageError(f"odc.least, cluster.k: {error.message}", error.hint) from error
    return found


def clusters(context: Context) -> int:
    """K: 2 % of the images, or what was set by hand."""
    preset = DIGITS["cluster"]["k"] if context.source == "digits" else 0
    return int(set_by_hand(context, "cluster").get("k", preset)) or default_k(context.images)


def advice(context: Context) -> Iterator[str]:
    """That repairs may not reach what was asked for."""
    least, k = settled(context).least, clusters(context)
    if not check_least(context.images, k, least):
        yield (f"clusters of fewer than {least} members may remain: what is certain for {context.images} images in {k} clusters is "
               f"{context.images // k // 2}, half the mean size")


def epochs(context: Context) -> int:
    """Length of a plan: 440 from nothing, 120 from another network; 200 for views up to 64 px; 30 for the digits."""
    if context.source == "digits":
        return DIGITS_EPOCHS
    if set_by_hand(context, "init").get("weights", "none") != "none":
        return FINE_TUNING
    return SMALL_EPOCHS if context.size <= SMALL_SIDE else EPOCHS


def learning_rate(epoch: int, total: int, settings: OdcSettings, *, batch: int = BATCH, size: int = 224) -> float:
    """Learning rate of an epoch, from 0: constant, then lower for the last eleventh of the plan.

    Args:
        total: epochs of the plan.  batch: images of a batch, by which the rate of views up to 64 px is scaled.  size: side of a view.
    """
    rate = settings.lr * (batch / BATCH if size <= SMALL_SIDE else 1)
    return rate * settings.lr_factor if reached(epoch, settings.lr_drop, total) else rate


def training(context: Context, settings: OdcSettings) -> TrainSettings:
    """What an epoch is told: views, optimizer, learning rate, and how clusters are kept; ``least`` 0 leaves its rule to the epoch, which knows
    how many clusters there are."""
    few = context.source == "digits" or context.images < FEW_IMAGES
    batch = SMALL_BATCH if few and context.size <= SMALL_SIDE else 256 if context.size <= SMALL_SIDE else BATCH
    batch = int(set_by_hand(context, "train-epoch").get("batch", batch))
    rate = learning_rate(context.epoch, plan_length(context), settings, batch=batch, size=context.size)
    made = TrainSettings(objective="online", weights="inverse-sqrt", batch=batch, lr=rate, least=settings.least).override(OPTIMIZER)
    return made.override({"weight_decay": weight_decay(context.size)}).override(views(context))


def views(context: Context) -> dict[str, Any]:
    """What training draws of a view: the released code's, with crops from 8 % of the image, up to 64 px from 20 %; of digits their own."""
    if context.source == "digits":
        return {k: v for k, v in DIGITS["train-epoch"].items() if k not in ("batch", "weight_decay")}
    return VIEWS | {"crop_scale": (0.2, 1.0) if context.size <= SMALL_SIDE else (0.08, 1.0)}


def weight_decay(size: int) -> float:
    """1e-5; 1e-4 for views up to 64 px, of which there are fewer."""
    return 1e-4 if size <= SMALL_SIDE else 1e-5


def necked(context: Context) -> bool:
    """Whether the run's networks have a neck."""
    return InitSettings().override({"neck": set_by_hand(context, "init").get("neck", NECK)}).neck > 0


def steps(context: Context) -> Iterator[Step]:
    """The first turn makes the clusters; from then on training alone moves them, and they are in the model's memory."""
    settled(context)
    train = training(context, OdcSettings().override(set_by_hand(context, "odc")))
    if context.epoch:
        yield Step("train-epoch", train, reads=("images", "model", "previous"), writes=("model", "labels"))
        return
    yield Step("extract", ExtractSettings(layer="neck" if necked(context) else "", final_relu=True), reads=("images", "model"), writes=("features",))
    yield Step("cluster", ClusterSettings(k=clusters(context), pca=0, whiten=False), reads=("features", "previous"), writes=("labels",))
    yield Step("train-epoch", train, reads=("images", "model", "labels", "previous"), writes=("model", "labels"))


def init(context: Context) -> Mapping[str, Any]:
    """A neck to 256 dimensions; digits are shown at 16 px."""
    return {"neck": NECK} | ({"size": 16} if context.source == "digits" else {})


def beside(context: Context) -> Mapping[str, Mapping[str, Any]]:
    """What is evaluated is the network without its neck."""
    return {"extract": {}}


METHOD = Method("Zhan et al., CVPR 2020", steps, epochs, init, beside, advice)

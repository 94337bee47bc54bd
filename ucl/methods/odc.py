"""ODC (Zhan, Xie, Liu, Ong, Loy: "Online Deep Clustering for Unsupervised Representation Learning", CVPR 2020): its numbers and schedule.

The images are clustered once; from then on labels and centroids move with the network, batch by batch (`ucl.objectives.online`), so
that the classifier is never drawn anew.  Where the paper and its released code differ, `OdcSettings` says which is followed, and has
the other by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ucl.errors import UsageError
from ucl.methods.rounds import reached
from ucl.settings import Settings, default_k, option

EPOCHS, FINE_TUNING, SMALL_EPOCHS, DIGITS_EPOCHS = 440, 120, 200, 30
"""The paper's from nothing, and from another method's network; views up to 64 px; the built-in digits."""

LEAST, LEAST_SHARE = 20, 0.15
"""The paper's 20 members of 128 in the mean are 0.156 of it."""

SMALL_SIDE = 64
BATCH = 512

# Rotation by up to 2 degrees; the jitter is never left out.
VIEWS: dict[str, Any] = {"rotate": 2.0, "brightness": 0.4, "contrast": 0.4, "saturation": 1.0, "hue": 0.5, "jitter_p": 1.0, "grey_p": 0.2}
OPTIMIZER: dict[str, Any] = {"batch": BATCH, "momentum": 0.9, "head_momentum": 0.0}


@dataclass(frozen=True)
class OdcSettings(Settings):
    """Method odc: what its plan is told."""

    lr: float = option(0.06, "learning rate, for batches of 512; up to 64 px in proportion to the batch", low=0, source="ODC: 0.06; 0.04 for AlexNet")
    lr_drop: float = option(400 / 440, "share of the plan after which the learning rate drops", low=0, high=1, source="ODC: epoch 400 of 440")
    lr_factor: float = option(0.1, "the learning rate after the drop, as a share of lr", low=0, high=1, source="ODC; its released code: 0.4")
    similarity: str = option("dot", "nearest centroid; dot: of the largest inner product; l2: of the least distance", choices=("dot", "l2"),
                             source="ODC, released code: dot; the paper: l2")
    memory_momentum: float = option(0.5, "share of the old embedding in the memory's new one", low=0, high=1, source="ODC: m 0.5")
    refresh_every: int = option(10, "iterations between two refreshes of the centroids", low=1, source="ODC: 10")
    refresh: str = option("all", "centroids that a refresh recomputes: all, or those of clusters that changed", choices=("all", "changed"),
                          source="ODC, released code: all; the paper: changed")
    least: int = option(0, "members below which a cluster is repaired; 0 = 20, and up to 64 px 15 % of the mean size, at least 2", low=0,
                        source="ODC: 20 of 128 in the mean")
    repair: str = option("loop", "loop: repair until no cluster is small; once: in a single pass, which may leave some", choices=("loop", "once"),
                         source="ODC: loop; its released code: once")
    repair_every: int = option(1, "iterations between two repairs", low=1, source="ODC, released code: 1")
    replacement: bool = option(True, "draw an epoch's images with replacement, instead of each once",
                               source="ODC, released code; the paper is silent")


def settled(settings: OdcSettings, images: int, k: int, size: int) -> OdcSettings:
    """The table with every 0 that stands for a rule worked out; refuses what cannot be.

    Args:
        images: N, usable ones.  k: clusters; 0 = 2 % of the images.  size: side of a view in pixels.

    Raises:
        UsageError: more clusters than images, or more least members than the mean size.
    """
    from ucl.objectives.online import check_least

    k = k or default_k(images)
    found = dataclasses.replace(settings, least=settings.least or least_members(images, k, size))
    try:
        check_least(images, k, found.least)
    except UsageError as error:
        raise UsageError(f"odc.least, cluster.k: {error.message}", error.hint) from error
    return found


def least_members(images: int, k: int, size: int) -> int:
    """Members below which a cluster is small: 20, or 15 % of the mean size for views up to 64 px; never above half the mean size
    where that is 1 or more."""
    asked = LEAST if size > SMALL_SIDE else max(2, int(LEAST_SHARE * images / k + 0.5))
    return max(1, min(asked, images // k // 2))


def advice(settings: OdcSettings, images: int, k: int, size: int) -> Iterator[str]:
    """That repairs may not reach what was asked for."""
    from ucl.objectives.online import check_least

    k = k or default_k(images)
    least = settled(settings, images, k, size).least
    if not check_least(images, k, least):
        yield (f"clusters of fewer than {least} members may remain: what is certain for {images} images in {k} clusters is "
               f"{images // k // 2}, half the mean size")


def epochs(size: int, *, fine_tuning: bool = False, digits: bool = False) -> int:
    """Length of a plan: 440 from nothing, 120 from another network; 200 for views up to 64 px; 30 for the digits."""
    if digits:
        return DIGITS_EPOCHS
    if fine_tuning:
        return FINE_TUNING
    return SMALL_EPOCHS if size <= SMALL_SIDE else EPOCHS


def learning_rate(epoch: int, total: int, settings: OdcSettings, *, batch: int = BATCH, size: int = 224) -> float:
    """Learning rate of an epoch, from 0: constant, then lower for the last eleventh of the plan.

    Args:
        total: epochs of the plan.  batch: images of a batch, by which the rate of views up to 64 px is scaled.  size: side of a view.
    """
    rate = settings.lr * (batch / BATCH if size <= SMALL_SIDE else 1)
    return rate * settings.lr_factor if reached(epoch, settings.lr_drop, total) else rate


def views(size: int) -> dict[str, Any]:
    """What training draws of a view: the released code's, with crops from 8 % of the image, up to 64 px from 20 %."""
    return VIEWS | {"crop_scale": (0.2, 1.0) if size <= SMALL_SIDE else (0.08, 1.0)}


def weight_decay(size: int) -> float:
    """1e-5; 1e-4 for views up to 64 px, of which there are fewer."""
    return 1e-4 if size <= SMALL_SIDE else 1e-5

"""Settings of the plans of SimCLR, SCAN and ProFeat: tables of `ucl.settings.METHOD_TABLES`.

A stage's numbers bear its name wherever they stand: ``contrast_`` for SimCLR's training, ``refine_`` for ProFeat's later contrastive
steps, ``scan_`` for clustering, ``self_`` for self-labels.
"""

from __future__ import annotations

from dataclasses import dataclass

from ucl.errors import UsageError
from ucl.fields import Settings, option

STAGE, WHOLE = "stage", "whole"
CONFIDENT, AGREE = "confident", "agree"

CONNECTIONS_SHARE = 0.39
"""Connections wanted of an image, as a share of a cluster's images in a batch: the paper's 20 of 512 / 10, and 10 of 512 / 20."""


def default_connections(batch: int, k: int) -> int:
    """t_c for any batch and number of clusters, rounded: 20 for 512 images and 10 clusters, 10 for 20 clusters, as in the paper."""
    return int(CONNECTIONS_SHARE * batch / k + 0.5)


def models_needed(at_least: int, models: int) -> int:
    """t_e: models of an ensemble that must agree; 0 = all of them.

    Raises:
        UsageError: fewer than 1, or more than there are.
    """
    if not 0 <= at_least <= models:
        raise UsageError(f"agree: found {at_least}, wanted 1 to {models}: two images cannot be given one cluster by more than all {models} models",
                         f"{models} = all of them; the paper's \"more than 5 of 5\" means 5")
    return at_least or models


@dataclass(frozen=True)
class SimclrSettings(Settings):
    """Method simclr: what its plan is told, and the first stage of ProFeat."""

    contrast_epochs: int = option(500, "epochs of SimCLR; profeat: 0 = none, the network given is a trained one", low=0,
                                 source="SCAN, released code; ProFeat: 500")
    contrast_batch: int = option(512, "images in a batch, two views of each; only whole batches are trained on", low=2,
                                 source="SCAN, released code; ProFeat: 512")
    contrast_lr: float = option(0.4, "learning rate at the start, from where it falls on a cosine, a step every epoch", low=0,
                                source="SCAN, released code; ProFeat: 0.4")
    contrast_lr_end: float = option(0.0004, "learning rate that the cosine ends at", low=0,
                                    source="SCAN, released code: 0.4 * 0.1^3; ProFeat: 0.0004")
    contrast_momentum: float = option(0.9, "momentum", low=0, high=1, source="SCAN, released code")
    contrast_weight_decay: float = option(1e-4, "weight decay", low=0, source="SCAN, released code")
    tau: float = option(0.1, "temperature", low=1e-6, source="SCAN, released code; ProFeat: 0.1")
    anchors: str = option("all", "views whose loss is averaged: all, or the first of each image; all others are in the denominator in either",
                          choices=("all", "first"), source="SimCLR: all; SCAN, released code: first")


@dataclass(frozen=True)
class ScanSettings(Settings):
    """Method scan: what its plan is told, and the clustering step of ProFeat."""

    k: int = option(10, "clusters wanted, known beforehand", low=2, source="SCAN, ProFeat: the number of classes")
    features: str = option("projection", "whose nearest images are mined: projection, or last: the features under it", choices=("projection", "last"),
                           source="SCAN, released code; ProFeat: p(g(x))")
    neighbors: int = option(20, "nearest images of each, mined once for every clustering step", low=1,
                            source="SCAN, released code; ProFeat does not say")
    own: bool = option(True, "an image is among its own neighbours, and drawn as often as one",
                       source="SCAN, released code: one of 21; the paper: of 20")
    entropy_weight: float = option(5.0, "weight of the entropy that keeps all clusters in use", low=0,
                                   source="SCAN: 5, for one neighbour of each image and the batch's mean; ProFeat writes all neighbours")
    scan_trains: str = option("all", "what clustering trains: all of the network, or the head alone", choices=("all", "head"),
                              source="SCAN, released code: all; ProFeat, the paper: head")
    scan_epochs: int = option(50, "epochs of clustering", low=1, source="SCAN, released code: 50 CIFAR-10, 100 CIFAR-100-20 and STL-10")
    scan_batch: int = option(128, "pairs in a batch; at least 10 for each cluster, as the entropy is that of a batch", low=2,
                             source="SCAN, released code: 128, CIFAR-100-20 512")
    scan_lr: float = option(1e-4, "Adam's learning rate, constant", low=0, source="SCAN, released code")
    scan_weight_decay: float = option(1e-4, "weight decay, added to the gradient", low=0, source="SCAN, released code")
    select: str = option("train", "which epoch's model is kept; train: that of the lowest loss without labels on the training images; held-out: on a "
                         "part of them that is not trained on; last: the last one", choices=("train", "held-out", "last"),
                         source="SCAN, released code: the lowest on the test images")
    held_out: float = option(0.1, "share of the images that is held out to choose by", low=0, high=1)
    select_neighbors: int = option(5, "nearest images in that loss, beside the image itself", low=1, source="SCAN, released code")
    select_entropy: float = option(1.0, "weight of the entropy in that loss", low=0, source="SCAN, released code: 1, where training has 5")
    self_epochs: int = option(200, "epochs of learning from its own sure labels; 0 = none", low=0,
                              source="SCAN, released code: 200 CIFAR, 100 STL-10; ProFeat: none on STL-10")
    self_threshold: float = option(0.99, "an image teaches if its largest probability is above this", low=0, high=1,
                                   source="SCAN; ProFeat does not say")
    self_balanced: bool = option(True, "every cluster counts alike in a batch", source="SCAN, released code")
    self_batch: int = option(1000, "images in a batch; large enough to hold sure ones of most clusters", low=2, source="SCAN, released code")
    self_lr: float = option(1e-4, "Adam's learning rate, constant", low=0, source="SCAN, released code")
    self_weight_decay: float = option(1e-4, "weight decay, added to the gradient", low=0, source="SCAN, released code")

    @property
    def unread(self) -> frozenset[str]:
        """What speaks of a stage that is not there."""
        found = set() if self.select == "held-out" else {"held_out"}
        if not self.self_epochs:
            found |= {"self_threshold", "self_balanced", "self_batch", "self_lr", "self_weight_decay"}
        return frozenset(found)

    def why_unread(self, name: str) -> tuple[str, str]:
        """Which setting makes it idle."""
        if name == "held_out":
            return "is of select held-out alone", "leave it out, or select = held-out"
        return "is of self-labels, and self_epochs is 0", "leave it out, or give self_epochs"


@dataclass(frozen=True)
class ProfeatSettings(SimclrSettings, ScanSettings):
    """Method profeat: what its plan is told, for one model or for each of an ensemble."""

    iterations: int = option(10, "iterations of a contrastive and a clustering step; the first is SimCLR and SCAN", low=1,
                             source="ProFeat: 10; STL-10 100, in an ensemble 300")
    rule: str = option(CONFIDENT, "which images are put together in a later contrastive step; confident: those that the clustering is sure of, by "
                       "cluster; agree: those that the models of an ensemble put together", choices=(CONFIDENT, AGREE), source="ProFeat: s and e")
    threshold: float = option(0.99, "t_s: an image is confident if its largest probability is above this; 0 = every image", low=0, high=1,
                              source="ProFeat: 0.99, STL-10 0.95; it keeps from t_s on and pairs above t_s")
    agree: int = option(0, "t_e: models that must put two images together; 0 = all of them", low=0,
                        source="ProFeat: 5 of 5, written as more than 5, which nothing can have")
    connections: int = option(-1, "t_c: images of the batch that an image must be connected to; -1 = 0.39 of a cluster's images in a batch", low=-1,
                              source="ProFeat: 20 of 512 / 10, 10 of 512 / 20, STL-10 1; 0 and 1 leave out none but those without partners")
    refine_epochs: int = option(50, "epochs of a later contrastive step", low=1, source="ProFeat: 50")
    refine_lr: tuple[float, float] = option((0.4, 0.0004), "learning rate of such a step at its start, and what its cosine ends at; "
                                            "0.0004,0.0004 = constant", low=0, source="ProFeat: 0.4 falling to 0.0004 \"through iterations\"")
    refine_schedule: str = option(STAGE, "where the learning rate falls; stage: in every contrastive step anew; whole: once, over the contrastive "
                                  "epochs of all iterations, by contrast-lr", choices=(STAGE, WHOLE),
                                  source="SCAN, released code: stage; ProFeat can be read as either")
    positives: str = option("row-mean", "how pairs are weighed; row-mean: the mean over a view's positives, then over views; sum: all pairs added; "
                            "pair-mean: all pairs alike", choices=("row-mean", "sum", "pair-mean"),
                            source="ProFeat, equation 1: sum; for its learning rate row-mean, as in supervised contrastive learning")
    least_batch: int = option(8, "confident images of a batch below which no step is taken", low=2, source="ProFeat does not say")
    apart: bool = option(True, "clustering trains a copy of the network that is then thrown away", source="ProFeat: g'; its ablation: without")

    @property
    def unread(self) -> frozenset[str]:
        """What speaks of a stage, or a rule, that is not there."""
        found = set(super().unread) | ({"threshold"} if self.rule == AGREE else {"agree", "connections"})
        if self.iterations == 1:
            found |= {"rule", "threshold", "agree", "connections", "refine_epochs", "refine_lr", "refine_schedule", "positives", "least_batch"}
        if self.refine_schedule == WHOLE:
            found.add("refine_lr")
        return frozenset(found)

    def why_unread(self, name: str) -> tuple[str, str]:
        """Which setting makes it idle."""
        if name in ("held_out", "self_threshold", "self_balanced", "self_batch", "self_lr", "self_weight_decay"):
            return super().why_unread(name)
        if self.iterations == 1:
            return "is of later iterations, and there is one", "leave it out, or more iterations"
        if name == "refine_lr":
            return "is of refine_schedule stage; whole goes by contrast_lr", "leave it out, or refine_schedule = stage"
        return f"is of the rule {CONFIDENT if name == 'threshold' else AGREE}, and the rule is {self.rule}", "leave it out, or another rule"

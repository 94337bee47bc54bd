"""Settings of every verb and of every method: one frozen dataclass each, every default written once, here.

A field is ``option(default, help, source=...)`` (`ucl.fields`).  From these fields come the command-line options, the man pages'
OPTIONS, the keys of ``ucl.toml`` and of ``--set verb.key=value``, and the steps of a plan: nothing states a default
a second time.  Nothing here imports numpy or torch.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ucl.errors import UsageError
from ucl.fields import Settings, option, parse

__all__ = [
    "BESIDE", "CHECKPOINT_EVERY", "CIFAR_MEAN", "CIFAR_STD", "CLUSTERING", "METHOD_TABLES", "SETTINGS", "AndSettings", "ClusterSettings",
    "CompareSettings", "ExtractSettings", "ImportSettings", "InitSettings", "IrSettings", "IsSettings", "KnnSettings", "LinearSettings",
    "ListSettings", "MachineSettings", "PcpSettings", "PlanSettings", "PurifySettings", "RoundSettings", "Settings", "TrainSettings", "ViewSettings",
    "check_override", "default_k", "option", "parse", "parse_assignments", "seconds", "tables",
]

CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2470, 0.2435, 0.2616)


@dataclass(frozen=True)
class ListSettings(Settings):
    """Which images are listed, and which of them may be bad."""

    split: str | None = option(None, "parts of a released data set, joined by + (all: all of them); its training part where none is named")
    classes: str | None = option(None, "file that lists class folders, one per line; images of others are left out")
    on_error: str = option("fail", "an unreadable image stops (fail) or is kept as a flagged row (skip)",
                           choices=("fail", "skip"))
    max_bad: float | None = option(None, "largest share of unreadable images that skip lets pass", low=0, high=1)
    max_pixels: int = option(178_956_970, "images with more pixels are refused as bombs", low=1)
    follow_links: bool = option(False, "follow symbolic links that leave the folder")
    escape_names: bool = option(False, "percent-encode file names that are not UTF-8 instead of refusing them")


@dataclass(frozen=True)
class InitSettings(ListSettings):
    """`ucl init`: the frozen image list and the untrained model."""

    backbone: str = option("convnet", "network; see ucl doctor for the names")
    weights: str = option("none", "weights to start from in place of drawn ones: a file as ucl import takes it, or torchvision's by "
                          "their name, as IMAGENET1K_V2 or DEFAULT")
    sobel: bool = option(False, "DeepCluster's Sobel filter in front of the network: two derivatives instead of colours",
                         source="DeepCluster section 4.1")
    projection: int = option(0, "dimensions of a linear projection on top of the features, its rows of unit length; 0 = none", low=0,
                             source="IR, IS, AND, PCP: 128")
    projection_init: str = option("he", "what the projection is drawn from; he: normal, of variance 2 / D, bias 0; torch: uniform in "
                                  "+-1 / sqrt(D)", choices=("he", "torch"), source="IR, AND, PCP, released codes: torch")
    size: int = option(32, "side of a view in pixels; where it is not given, the network's own", low=8)
    mean: tuple[float, float, float] = option(CIFAR_MEAN, "mean of the channels, of values in 0 to 1; where it is not given, ImageNet's "
                                              "for networks of more than 64 px", source="CIFAR-10")
    std: tuple[float, float, float] = option(CIFAR_STD, "standard deviation of the channels, likewise", low=1e-6, source="CIFAR-10")
    pack: str = option("auto", "side of the packed pixels: auto, none (decode again on every pass) or a number")
    pack_budget: int = option(4 << 30, "most bytes of packed pixels in images.h5", low=0)


@dataclass(frozen=True)
class ViewSettings(Settings):
    """Random views of a training image; angles in degrees, shares of the side, probabilities."""

    crop_scale: tuple[float, float] = option((0.2, 1.0), "area of the random crop; 1,1 = no crop", low=0, high=1,
                                             source="SeLa and SCAN at 32 px")
    crop_ratio: tuple[float, float] = option((0.75, 4 / 3), "aspect of the random crop", low=0.01, high=100)
    flip: float = option(0.5, "probability of a horizontal flip", low=0, high=1)
    rotate: float = option(0.0, "largest rotation either way, in degrees", low=0, high=180)
    translate: float = option(0.0, "largest shift either way, as a share of the side", low=0, high=1)
    zoom: tuple[float, float] = option((1.0, 1.0), "magnification", low=0.01, high=100)
    shear: float = option(0.0, "largest shear either way, in degrees", low=0, high=60)
    brightness: float = option(0.4, "brightness factor within 1 +- this", low=0)
    contrast: float = option(0.4, "contrast factor within 1 +- this", low=0)
    saturation: float = option(0.4, "saturation factor within 1 +- this", low=0)
    hue: float = option(0.1, "hue shift within +- this, as a share of the circle", low=0, high=0.5)
    jitter_p: float = option(0.8, "probability of the colour jitter", low=0, high=1)
    grey_p: float = option(0.2, "probability of a grey view", low=0, high=1)


@dataclass(frozen=True)
class ExtractSettings(ViewSettings):
    """`ucl extract`: features of all images in evaluation mode."""

    batch: int = option(256, "images in a batch", flags=("--batch",), low=1)
    final_relu: bool = option(False, "keep the network's final ReLU (DeepCluster drops it)",
                              source="DeepCluster, released code; issue 13 there")
    source: str = option("network", "where features come from: network, or training: what the last epoch's training pass remembered "
                         "(train-epoch --keep-features), and the network for images it never saw", choices=("network", "training"),
                         source="training: as in DeepCluster-v2, SwAV's released code")
    views: str = option("fixed", "what is seen of an image: fixed: all of it, or its middle square; train: a random view, other ones in every "
                        "epoch", choices=("fixed", "train"), source="DeepCluster section 3.2; train: PCP, released code")
    layer: str = option("", "layer to read instead of the last one, as conv3, layer4, fc6, a module's path, or projection")
    map: str = option("mean", "what a map of features becomes: mean or max over the places, flatten, grid-S or max-S (averages or "
                      "maxima of S x S parts)")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"mean|max|flatten|(grid|max)-[1-9]\d{0,3}", self.map):
            raise UsageError(f"map: found {self.map!r}, wanted mean, max, flatten, grid-S or max-S", "S is a number, as in grid-3")

    @property
    def unread(self) -> frozenset[str]:
        """What fixed views do not draw."""
        return frozenset() if self.views == "train" else frozenset(f.name for f in dataclasses.fields(ViewSettings))

    def why_unread(self, name: str) -> tuple[str, str]:
        """That nothing is drawn."""
        return "is of random views, and views is fixed", "leave it out, or --views train"


CLUSTERING: dict[str, tuple[str, ...]] = {
    "kmeans": ("k", "iterations", "redo", "spherical", "max_points", "empty"),
    "minibatch": ("k", "redo", "spherical", "empty", "batch", "passes", "reassign"),
    "pic": ("neighbors", "sigma", "alpha", "walk", "distribute")}
"""What each method of `ucl cluster` reads beside what all do."""


@dataclass(frozen=True)
class ClusterSettings(Settings):
    """`ucl cluster`: PCA, whitening, L2, k-means or another method."""

    method: str = option("kmeans", "kmeans; minibatch: mini-batch k-means; pic: power iteration clustering, which finds the number of "
                         "clusters", choices=tuple(CLUSTERING), source="DeepCluster section 4.1; PIC: its appendix")
    k: int = option(0, "number of clusters; 0 = 2 % of the images, at least 2, at most 10,000", flags=("-k", "--k"), low=0,
                    source="32-px preset: PCP, table III")
    pca: int = option(256, "dimensions kept by PCA, at most N-1 and D; 0 = no PCA", low=0,
                      source="DeepCluster section 4.1")
    whiten: bool = option(True, "scale each principal component to unit variance", source="DeepCluster section 4.1")
    l2: bool = option(True, "normalise every row to unit length", source="DeepCluster section 4.1")
    rank_deficient: str = option("reduce", "PCA asks for more dimensions than the features have: reduce or error",
                                 choices=("reduce", "error"))
    iterations: int = option(20, "k-means iterations", low=1, source="DeepCluster, released code: faiss niter 20")
    redo: int = option(1, "k-means restarts; the one of the lowest objective is kept", low=1,
                       source="faiss nredo 1")
    spherical: bool = option(False, "normalise the centroids after each iteration")
    max_points: int = option(0, "train k-means on at most so many rows, drawn at random; 0 = all", low=0,
                             source="DeepCluster never subsamples")
    empty: str = option("leave", "clusters empty at the end: leave, relocate (to the rows farthest from their "
                        "centroids) or error; within the iterations faiss splits large ones",
                        choices=("leave", "relocate", "error"))
    warm_start: bool = option(False, "start from the means of the previous labels, so that ids persist")
    batch: int = option(4096, "minibatch: rows in a batch", low=1)
    passes: int = option(5, "minibatch: how often every row is taken", low=1)
    reassign: float = option(0.01, "minibatch: centroids with fewer than this share of the largest one's rows are put elsewhere; 0 = never",
                             low=0, high=1, source="scikit-learn reassignment_ratio")
    neighbors: int = option(5, "pic: nearest rows of each row in the graph", low=1, source="DeepCluster, released code: nnn 5")
    sigma: float = option(0.2, "pic: width of the affinity, in the units of the rows", low=1e-6, source="DeepCluster, released code")
    alpha: float = option(0.001, "pic: weight of the graph in the walk", low=0, high=1, source="DeepCluster, released code")
    walk: int = option(200, "pic: steps of the walk", low=1, source="DeepCluster, released code")
    distribute: bool = option(True, "pic: a row alone in its cluster joins that of its nearest neighbour that is not alone",
                              source="DeepCluster, released code: distribute_singletons")
    history: int = option(2, "epochs of labels remembered in the file", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method == "pic" and self.warm_start:
            raise UsageError("warm_start: pic starts from nothing, its clusters are new ones in every epoch",
                             "--no-warm-start, or --method kmeans")

    @property
    def unread(self) -> frozenset[str]:
        """What the other methods alone read."""
        return frozenset(name for names in CLUSTERING.values() for name in names) - frozenset(CLUSTERING[self.method])

    def why_unread(self, name: str) -> tuple[str, str]:
        """That another method reads it."""
        methods = [method for method, names in CLUSTERING.items() if name in names]
        more = ", which finds the number of clusters itself" if name == "k" else ""
        return f"is of {' and '.join(methods)} only, the method is {self.method}{more}", f"leave it out, or --method {methods[0]}"


@dataclass(frozen=True)
class PurifySettings(Settings):
    """`ucl purify`: which pseudo-labels are kept."""

    keep_nearest: float = option(1.0, "share of each cluster's members kept, nearest to the member mean first",
                                 low=0, high=1, source="PCP: 1 - gamma; 0.5 in its plan, section on CPr")
    min_size: int = option(1, "clusters with fewer members left are dissolved", low=1,
                           source="PCP, released code: 2")
    whole_up_to: int = option(0, "clusters with at most so many members are kept whole by --keep-nearest", low=0,
                              source="PCP, released code: 5 before epoch 100, 0 from then on; the paper cuts all")
    keep_cap: float = option(1.0, "never keep a larger share than this; 1 = no cap", low=0, high=1,
                             source="PCP, released code: high-ratio 0.5 from epoch 100; its table II was made without")
    early_return: bool = option(False, "stop at the first cluster of fewer than 2 members: it and all after it are dissolved",
                                source="PCP, released code before epoch 100; the paper goes on")
    votes: bool = option(False, "past epochs vote on who stays and who comes back; needs the history", source="PCP, section on CPs")
    vote_history: int = option(15, "past epochs that vote, beside the present one", low=1,
                               source="PCP: n = 15; 16 terms, as its released code; 14 = the paper's words")
    vote_decay: float = option(0.8, "an epoch's vote weighs this much less than that of the epoch after it", low=0, high=1,
                               source="PCP, released code: alpha 0.8; the paper says 0 to 1")
    drop_below: float = option(0.0, "kept members with a lower score are dropped", source="PCP, section on CPs")
    pull_back_from: float = option(3.0, "cut members with at least this score are pulled back", source="PCP, section on CPs")


@dataclass(frozen=True)
class TrainSettings(ViewSettings):
    """`ucl train-epoch`: one epoch of classification on the pseudo-labels, or of telling images apart."""

    objective: str = option("classify", "classify: a classifier over the clusters; instance: each image, or purified cluster, told from all "
                            "others by a memory of past embeddings", choices=("classify", "instance"),
                            source="DeepCluster section 3.1; IR, AND and PCP, released codes")

    batch: int = option(256, "images in a batch; the last, partial one is kept", low=2,
                        source="DeepCluster section 4.1")
    lr: float = option(0.05, "learning rate, constant", low=0, source="DeepCluster section 4.1")
    momentum: float = option(0.9, "momentum of the network's optimizer", low=0, high=1,
                             source="DeepCluster section 4.1")
    weight_decay: float = option(1e-5, "weight decay", low=0, source="DeepCluster section 4.1")
    head: str = option("fresh", "classifier over the clusters: fresh each epoch, or kept (persistent ids)",
                       choices=("fresh", "kept"), source="DeepCluster section 3.2")
    head_momentum: float = option(0.0, "momentum of the head's optimizer", low=0, high=1,
                                  source="DeepCluster, released code: a new optimizer without momentum")
    sampler: str = option("uniform", "uniform: equal draws per cluster; truncated: floor(M/K)+1 draws each, surplus "
                          "cut at random; misindexed: the released code, whose draws address other images; shuffle: "
                          "each image once", choices=("uniform", "truncated", "misindexed", "shuffle"),
                          source="DeepCluster section 3.3; UnifLabelSampler")
    epoch_length: float = option(1.0, "epoch length as a multiple of the number of labelled images", low=0,
                                 source="released code: reassign")
    keep_features: bool = option(False, "remember each image's features of this training pass, for extract --source training",
                                 source="DeepCluster-v2, SwAV's released code")
    weights: str = option("none", "weight of a cluster in the loss: none, inverse (1/N_c), inverse-sqrt",
                          choices=("none", "inverse", "inverse-sqrt"), source="DeepCluster section 3.3; ODC 3.2")
    nesterov: bool = option(False, "Nesterov's momentum", source="AND, released code")
    tau: float = option(0.1, "instance: temperature of the softmax", low=1e-6, source="IR, PCP, released codes")
    memory_momentum: float = option(0.5, "instance: share of the old embedding in the memory's new one", low=0, high=1,
                                    source="IR, PCP, released codes")
    cluster_loss: str = option("mass", "instance: loss of an image in a cluster; mass: -log of the members' summed probability; pairs: the "
                               "mean of their -log probabilities", choices=("mass", "pairs"),
                               source="PCP, released code; the paper's equation 5 sums over pairs")
    sampled: int = option(0, "instance: images drawn in every step that stand for all others, for memories beyond a GPU's; 0 = all, exactly",
                          low=0)
    spread: float = option(0.0, "instance: weight of the loss that tells two views of each image from the rest of the batch; the memory's "
                           "loss has the other share", low=0, high=1, source="PCP: its warm-up; IS: 1")
    anchors: float = option(0.0, "instance: share of the images, those surest of themselves, that are merged with their nearest neighbours",
                            low=0, high=1, source="AND: a quarter more in every round")
    neighbors: int = option(1, "instance: neighbours that an anchor is merged with", low=1, source="AND")
    discover: bool = option(False, "instance: look for anchors and neighbours anew before this epoch", source="AND: before every round")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and not self.momentum:
            raise UsageError("nesterov: needs momentum, found 0", "--momentum 0.9")

    @property
    def unread(self) -> frozenset[str]:
        """What the other objective alone reads."""
        instance = {"tau", "memory_momentum", "cluster_loss", "sampled", "spread", "anchors", "neighbors", "discover"}
        if self.objective == "classify":
            return frozenset(instance)
        more = set() if self.anchors else {"neighbors", "discover"}
        if self.spread == 1:
            more = instance - {"spread", "tau"}
        return frozenset({"head", "head_momentum", "sampler", "keep_features", "weights"} | more)

    def why_unread(self, name: str) -> tuple[str, str]:
        """Which setting makes it idle."""
        if self.objective == "classify":
            return "is of the instance objective, and the objective is classify", "leave it out, or --objective instance"
        if name in ("head", "head_momentum", "sampler", "keep_features", "weights"):
            return "is of the classifier, and the objective is instance, which takes every image in turn", "leave it out"
        if self.spread == 1:
            return "is of the memory, which has no share in the loss while spread is 1", "leave it out, or a smaller --spread"
        return "needs anchors, and there are none", "leave it out, or give --anchors; in a plan of and: the table [and]"


@dataclass(frozen=True)
class ImportSettings(Settings):
    """`ucl import`: weights of outside as a checkpoint."""

    layout: str = option("auto", "how the file names its tensors; auto: the layout that names most of them",
                         choices=("auto", "torchvision", "timm", "deepcluster", "ucl"))
    head: str = option("keep", "keep the classifier on top, where the file has one, and refuse what else is no part of the network; "
                       "drop: take the network alone", choices=("keep", "drop"))
    size: int = option(0, "side of a view in pixels; 0 = what the file says, else the backbone's", low=0)
    mean: tuple[float, float, float] | None = option(None, "mean of the channels, of values in 0 to 1; none = what the file says, else "
                                                     "the backbone's, of ImageNet or for 32 px of CIFAR-10")
    std: tuple[float, float, float] | None = option(None, "standard deviation of the channels; none = as for the mean", low=1e-6)


@dataclass(frozen=True)
class KnnSettings(Settings):
    """`ucl evaluate knn`: weighted nearest neighbours by cosine."""

    neighbors: int = option(10, "neighbours that vote", flags=("-k", "--neighbors"), low=1)
    tau: float = option(0.1, "temperature: a neighbour of cosine s votes with exp(s / tau)", low=1e-6,
                        source="SeLa: sigma 0.1")


@dataclass(frozen=True)
class LinearSettings(Settings):
    """`ucl evaluate linear`: a linear classifier on frozen features."""

    solver: str = option("lbfgs", "lbfgs: logistic regression to convergence; sgd: one layer by SeLa's protocol, 36 epochs",
                         choices=("lbfgs", "sgd"), source="scikit-learn LogisticRegression; SeLa, released code")
    c: str = option("1", "lbfgs: inverse strength of the L2 penalty; auto: chosen by cross-validation on the training images",
                    source="scikit-learn's default; DeepCluster chose its probes' by cross-validation")
    scale: str = option("standard", "standard: every dimension to mean 0 and variance 1 of the training images; l2: every row "
                        "to unit length; none", choices=("standard", "l2", "none"))
    folds: int = option(5, "folds of the cross-validation, without --test and for auto", low=2)
    iterations: int = option(1000, "lbfgs: most iterations", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.c != "auto":
            try:
                good = 0 < float(self.c) < math.inf
            except ValueError:
                good = False
            if not good:
                raise UsageError(f"c: found {self.c!r}, wanted a number above 0, or auto")


@dataclass(frozen=True)
class CompareSettings(Settings):
    """`ucl evaluate compare`: two evaluations of the same images."""

    resamples: int = option(9999, "bootstrap resamples of the images, for the intervals", low=100, source="scipy.stats.bootstrap")
    any_protocol: bool = option(False, "also compare numbers of different protocols, as of different k")


@dataclass(frozen=True)
class MachineSettings(Settings):
    """Frozen by `init` because they can change the last bits of a result."""

    seed: int = option(0, "every random draw is a function of it", low=0, high=2**63 - 1)
    threads: int = option(0, "threads; 0 = those of the machine or the Slurm task", flags=("-j", "--threads"), low=0)
    precision: str = option("float32", "matrix products and convolutions: float32, tf32 (on a GPU that has it) or bf16",
                            choices=("float32", "tf32", "bf16"))
    compile: bool = option(False, "compile the network with torch.compile")


def default_k(n: int) -> int:
    """Number of clusters where none is named: 2 % of n images, at least 2, at most the paper's 10,000."""
    return min(10_000, max(2, (n + 25) // 50))


CHECKPOINT_EVERY = "10m"
"""How often unfinished work is kept: a matter of the machine, which changes no result."""
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(text: str, where: str = "--checkpoint-every") -> float:
    """A duration such as 10m, 30s, 1.5h or 2d, or a number of seconds, in seconds.

    Raises:
        UsageError: it does not read as one.
    """
    found = re.fullmatch(r"([0-9]*\.?[0-9]+)([smhd]?)", text.strip().lower())
    value = float(found[1]) * _UNITS[found[2]] if found else math.nan
    if not math.isfinite(value):
        raise UsageError(f"{where}: found {text!r}, wanted a duration", "as 10m, 30s or 1h; 0: only when stopped")
    return value


SETTINGS: dict[str, type[Settings]] = {
    "init": InitSettings,
    "extract": ExtractSettings,
    "cluster": ClusterSettings,
    "purify": PurifySettings,
    "train-epoch": TrainSettings,
    "import": ImportSettings,
    "evaluate-knn": KnnSettings,
    "evaluate-linear": LinearSettings,
    "evaluate-compare": CompareSettings,
}

BESIDE = frozenset({"import", "evaluate-compare"})
"""Verbs that no run directory speaks of; ``--set`` and ucl.toml know them not."""


def parse_assignments(items: list[str]) -> dict[str, dict[str, str]]:
    """``verb.key=value`` texts as verb -> key -> text, checked against the verb's fields.

    Raises:
        UsageError: no ``=``, an unknown verb, an unknown key, or a value that does not fit.
    """
    found: dict[str, dict[str, str]] = {}
    for item in items:
        name, equals, value = item.partition("=")
        verb, dot, key = name.partition(".")
        if not equals or not dot:
            raise UsageError(f"--set {item}: wanted VERB.KEY=VALUE, as in cluster.k=100")
        check_override(verb, {key: value}, f"--set {item}")
        found.setdefault(verb, {})[key.replace("-", "_")] = value
    return found


def check_override(verb: str, values: Mapping[str, Any], where: str) -> None:
    """Raise UsageError unless ``verb`` is known and takes ``values``."""
    known = tables()
    if verb not in known:
        near = difflib.get_close_matches(verb, known, n=1)
        raise UsageError(f"{where}: unknown verb {verb!r}", f"did you mean {near[0]}?" if near else "known: " + ", ".join(known))
    known[verb]().override(values, where)


def tables() -> dict[str, type[Settings]]:
    """What ``--set`` and ucl.toml know by name: the plan, the verbs, and the methods that have settings of their own."""
    return {"plan": PlanSettings} | {name: made for name, made in SETTINGS.items() if name not in BESIDE} | METHOD_TABLES


@dataclass(frozen=True)
class PlanSettings(Settings):
    """What a whole plan is told, beside the settings of its verbs."""

    epochs: int = option(0, "epochs of the plan; 0 = the method's own number", low=0)


@dataclass(frozen=True)
class RoundSettings(Settings):
    """Rounds of epochs with a learning rate that falls in steps and starts again; turning points are shares of a round."""

    epochs: int = option(0, "epochs of a round, T; 0 = the plan's epochs over the rounds, where it names some, else 200 (30 for digits)", low=0,
                         source="IR, AND, PCP: 200")
    rounds: int = option(1, "rounds; network, optimizer, memory and history go on, the learning rate starts again", low=1)
    lr: float = option(0.03, "learning rate at the start of a round", low=0, source="IR, IS, AND, PCP, released codes")
    lr_drops: tuple[float, float] = option((0.6, 0.8), "shares of the round after which the learning rate drops", low=0, high=1,
                                           source="IR, AND, PCP: epochs 120 and 160 of 200")
    lr_factor: tuple[float, float] = option((0.1, 0.01), "the learning rate after each drop, as a share of lr", low=0, high=1,
                                            source="PCP; 0.1,0.05 for ImageNet-100")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lr_drops[0] > self.lr_drops[1]:
            raise UsageError(f"lr_drops: found {self.lr_drops[0]:g},{self.lr_drops[1]:g}, wanted the earlier drop first")


@dataclass(frozen=True)
class IrSettings(RoundSettings):
    """Method ir: what its plan is told."""


@dataclass(frozen=True)
class IsSettings(RoundSettings):
    """Method is: what its plan is told."""

    lr_factor: tuple[float, float] = option((0.1, 0.1), "the learning rate after each drop, as a share of lr", low=0, high=1,
                                            source="IS, released code: a tenth from epoch 120 on for good")


@dataclass(frozen=True)
class AndSettings(RoundSettings):
    """Method and: what its plan is told."""

    rounds: int = option(5, "rounds, the first without anchors; in round r of R the share r / (R - 1) of the images are anchors; 2 = one-off",
                         low=1, source="AND: 5; PCP's tables VI and IX: one-off")
    neighbors: int = option(1, "neighbours that an anchor is merged with", low=1, source="AND: 1; PCP's table IV: 1, 5, 10, 20")


@dataclass(frozen=True)
class PcpSettings(RoundSettings):
    """Method pcp: what its plan is told."""

    rounds: int = option(1, "rounds; network, optimizer, memory and history go on, the learning rate starts again", low=1,
                         source="PCP, table IV: 1, and 5 for the last column")
    final_k: int = option(0, "clusters the schedule ends with; 0 = 2 % of the images", low=0, source="PCP: 1000 of 50,000; 100 in tables I and II")
    first_k: int = option(0, "clusters the schedule falls from; 0 = as many as usable images", low=0,
                          source="PCP: N; its released code: by rounding N - 1, for ImageNet-100 N - 5")
    count_from: int = option(0, "number of the first epoch in the schedule of clusters: 0 or 1", low=0, high=1,
                             source="PCP, released code: 0; the paper: 1")
    warm_up: str = option("first", "rounds with the branch of two views: first, all or none", choices=("first", "all", "none"),
                          source="PCP, the paper: first; its released code: all")
    warm_up_start: float = option(0.8, "weight of the two views' loss at the start", low=0, high=1, source="PCP, released code")
    warm_up_end: float = option(0.5, "the weight it falls towards, before it becomes 0", low=0, high=1,
                                source="PCP, released code; 0.55 for ImageNet-100")
    warm_up_until: float = option(0.9, "share of the round after which the weight is 0", low=0, high=1, source="PCP: epoch 180 of 200")
    all_sizes_from: float = option(0.5, "share of the round from which clusters of all sizes are cut", low=0, high=1,
                                   source="PCP, released code: epoch 100 of 200")
    votes_later: float = option(0.1, "share of a later round before past epochs vote again", low=0, high=1,
                                source="PCP, released code: epoch 20 of 200")
    keep_nearest: float = option(0.5, "share of each cluster kept, 1 - gamma", low=0, high=1, source="PCP: gamma 0.5")
    whole_up_to: int = option(5, "members of clusters that are kept whole before all sizes are cut", low=0, source="PCP, released code; the paper: 0")
    keep_cap: float = option(PurifySettings.keep_cap, "cap of the share kept once all sizes are cut; 1 = none", low=0, high=1,
                             source="PCP, released code: high-ratio 0.5")
    early_return: bool = option(PurifySettings.early_return, "before all sizes are cut, stop at the first cluster of fewer than 2 members",
                                source="PCP, released code; the paper goes on")
    votes: bool = option(True, "past epochs vote", source="PCP, section on CPs")
    vote_history: int = option(0, "past epochs that vote; 0 = 7.5 % of the round, at least 2, at most 15", low=0, source="PCP: 15 of 200")
    vote_decay: float = option(PurifySettings.vote_decay, "decay of the votes", low=0, high=1, source="PCP, released code: alpha")
    views: str = option("train", "views of the images whose features are clustered: train: random ones; fixed", choices=("train", "fixed"),
                        source="PCP, released code; the paper: f(x)")


METHOD_TABLES: dict[str, type[Settings]] = {"ir": IrSettings, "is": IsSettings, "and": AndSettings, "pcp": PcpSettings}
"""Tables of ucl.toml, and names before the dot of ``--set``, that a method's plan reads; no verb has them."""

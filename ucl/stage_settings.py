"""Settings of the stages of a turn: views, extract, cluster, purify, train-epoch; see `ucl.settings`."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

from ucl.errors import UsageError
from ucl.fields import Settings, option


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
    blur_p: float = option(0.0, "probability of a Gaussian blur", low=0, high=1, source="SimCLR at 224 px: 0.5; at 32 px: none")
    blur_sigma: tuple[float, float] = option((0.1, 2.0), "standard deviation of the blur, in pixels", low=0.01, high=100, source="SimCLR")
    strong_ops: int = option(0, "operations drawn for a strong view, of fourteen; 0 = none", low=0, high=100, source="SCAN: 4")
    cutout: int = option(0, "longest side of the hole in a view, in pixels; 0 = no hole", low=0, source="SCAN: 16 at 32 px, 32 at 96 px")


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
    layer: str = option("", "layer to read instead of the last one, as conv3, layer4, fc6, a module's path, projection or neck")
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
    "pic": ("neighbors", "sigma", "alpha", "walk", "distribute"),
    "argmax": ("probs",)}
"""What each method of `ucl cluster` reads beside what all do."""


@dataclass(frozen=True)
class ClusterSettings(Settings):
    """`ucl cluster`: PCA, whitening, L2, k-means or another method."""

    method: str = option("kmeans", "kmeans; minibatch: mini-batch k-means; pic: power iteration clustering, which finds the number of "
                         "clusters; argmax: no clustering, each image gets its class of the classifier of --model",
                         choices=tuple(CLUSTERING), source="DeepCluster section 4.1; PIC: its appendix")
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
    probs: bool = option(False, "argmax: also keep each image's probabilities, and the largest as its score")
    history: int = option(2, "epochs of labels remembered in the file", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method == "pic" and self.warm_start:
            raise UsageError("warm_start: pic starts from nothing, its clusters are new ones in every epoch",
                             "--no-warm-start, or --method kmeans")

    @property
    def unread(self) -> frozenset[str]:
        """What the other methods alone read."""
        others = frozenset(name for names in CLUSTERING.values() for name in names) - frozenset(CLUSTERING[self.method])
        return others | _OF_ROWS if self.method == "argmax" else others

    def why_unread(self, name: str) -> tuple[str, str]:
        """That another method reads it."""
        if name in _OF_ROWS:
            return "is of clustering, and argmax asks a classifier", "leave it out"
        methods = [method for method, names in CLUSTERING.items() if name in names]
        more = ", which finds the number of clusters itself" if name == "k" else ""
        return f"is of {' and '.join(methods)} only, the method is {self.method}{more}", f"leave it out, or --method {methods[0]}"


_OF_ROWS = frozenset({"pca", "whiten", "l2", "rank_deficient", "warm_start"})
"""What only the methods that cluster rows read."""


_OF_DISTANCE = ("keep_nearest", "whole_up_to", "keep_cap", "early_return", "votes", "vote_history", "vote_decay", "drop_below", "pull_back_from")
PURIFYING: dict[str, tuple[str, ...]] = {
    "distance": (*_OF_DISTANCE, "min_size"),
    "confident": ("threshold", "min_size"),
    "agree": ("agree",)}
"""What each rule of `ucl purify` reads."""


@dataclass(frozen=True)
class PurifySettings(Settings):
    """`ucl purify`: which pseudo-labels are kept."""

    rule: str = option("distance", "which are likely to be right; distance: those near their cluster's mean, and, with votes, that past epochs were "
                       "together with its anchor; confident: those that the classifier is sure of; agree: those that several models, each with a "
                       "file of labels, put together", choices=tuple(PURIFYING), source="PCP; ProFeat: s and e")
    threshold: float = option(0.99, "confident: an image keeps its label if its largest probability is above this; 0 = every image", low=0, high=1,
                              source="ProFeat: t_s 0.99, STL-10 0.95; it keeps from t_s on and pairs above t_s")
    agree: int = option(0, "agree: models that must put two images into one cluster; 0 = all of them", flags=("-t", "--agree"), low=0,
                        source="ProFeat: t_e, 5 of 5, written as more than 5, which nothing can have")
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

    @property
    def unread(self) -> frozenset[str]:
        """What the other rules alone read."""
        return frozenset(name for names in PURIFYING.values() for name in names) - frozenset(PURIFYING[self.rule])

    def why_unread(self, name: str) -> tuple[str, str]:
        """That another rule reads it."""
        rules = [rule for rule, names in PURIFYING.items() if name in names]
        return f"is of {' and '.join(rules)} only, the rule is {self.rule}", f"leave it out, or --rule {rules[0]}"


@dataclass(frozen=True)
class TrainSettings(ViewSettings):
    """`ucl train-epoch`: one epoch of classification on the pseudo-labels, or of telling images apart."""

    objective: str = option("classify", "classify: a classifier over the clusters; instance: each image, or purified cluster, told from all "
                            "others by a memory of past embeddings; online: a classifier over clusters that move in every step; relabel: one whose "
                            "own classes of the images are the next epoch's labels; contrast: two views of each image told from the rest of the "
                            "batch; scan: one class for an image and its neighbour, and all classes used; selflabel: the classes of the sure images' "
                            "fixed views, learnt by strong ones",
                            choices=("classify", "instance", "online", "relabel", "contrast", "scan", "selflabel"),
                            source="DeepCluster section 3.1; IR, AND and PCP, released codes; ODC; UIC section 3.2; SimCLR; SCAN")

    batch: int = option(256, "images in a batch; the last, partial one is kept", low=2,
                        source="DeepCluster section 4.1")
    optimizer: str = option("sgd", "of the network: sgd, or adam, whose weight decay is added to the gradient", choices=("sgd", "adam"),
                            source="DeepCluster section 4.1; adam: SCAN, released code")
    restart: bool = option(False, "begin with a new optimizer, and scan with a new classifier, as at the start of a stage",
                           source="SCAN, released code: each stage has its own")
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
    tau: float = option(0.1, "instance, contrast: temperature of the softmax", low=1e-6,
                        source="IR, PCP, released codes; SCAN, released code")
    memory_momentum: float = option(0.5, "instance, online: share of the old embedding in the memory's new one", low=0, high=1,
                                    source="IR, PCP, released codes; ODC: m 0.5")
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
    first_only: bool = option(False, "contrast: average the loss of the first view of each image alone, all others being in the denominator",
                              source="SCAN, released code; SimCLR: of all views")
    positives: str = option("row-mean", "contrast, with labels: how pairs of one label are weighed; row-mean: the mean over a view's pairs, then "
                            "over views; sum: all pairs added; pair-mean: all pairs alike", choices=("row-mean", "sum", "pair-mean"),
                            source="ProFeat, equation 1: sum; row-mean: supervised contrastive learning")
    connections: int = option(0, "contrast, with labels: images of the batch that an image must be connected to, or it is left out; 0 = none, and "
                              "for labels that several models agreed on 1", low=0, source="ProFeat: t_c")
    least_batch: int = option(8, "contrast, with labels: images of a batch that have one, below which no step is taken", low=2,
                              source="ProFeat does not say")
    similarity: str = option("dot", "online: nearest centroid; dot: of the largest inner product; l2: of the least distance", choices=("dot", "l2"),
                             source="ODC, released code: dot; the paper: l2")
    refresh_every: int = option(10, "online: steps between two refreshes of the centroids", low=1, source="ODC: 10")
    refresh: str = option("all", "online: centroids that a refresh recomputes: all, or those of clusters that changed", choices=("all", "changed"),
                          source="ODC, released code: all; the paper: changed")
    least: int = option(0, "online: members below which a cluster is repaired: they join others, and it gets half of the largest; 0 = 20, and for "
                        "views up to 64 px 15 % of the mean size, at least 2; at most half the mean size", low=0, source="ODC: 20 of 128 in the mean")
    repair: str = option("loop", "online: loop: repair until no cluster is small; once: in a single pass, which may leave some",
                         choices=("loop", "once"), source="ODC: loop; its released code: once")
    repair_every: int = option(1, "online: steps between two repairs", low=1, source="ODC, released code: 1")
    replacement: bool = option(True, "online: draw an epoch's images with replacement, instead of each once",
                               source="ODC, released code; the paper is silent")
    relabel: str = option("training", "relabel: where labels come from; training: of the next epoch, from the logits of this one's training pass; "
                          "fixed: of this epoch, from a pass over the fixed views before it; none: they stay", choices=("training", "fixed", "none"),
                          source="UIC section 3.2; fixed: its ablation without augmented labels")
    k: int = option(0, "relabel, scan: number of classes, where neither labels nor model say it", flags=("-k", "--k"), low=0,
                    source="UIC: 3000; SCAN: the number of true ones")
    first_labels: str = option("random", "relabel: labels of the first epoch; random: each image's own draw; balanced: equal classes",
                               choices=("random", "balanced"), source="UIC, released code: random")
    fill_empty: bool = option(True, "relabel: before the epoch every empty class gets half of the largest", source="UIC section 3.2")
    mlp: int = option(0, "relabel: width of two hidden layers under the classifier, where the model has none yet; 0 = no such layers", low=0,
                      source="UIC, released code: 2048 on ResNet-50")
    entropy_weight: float = option(5.0, "scan: weight of the entropy that keeps all classes in use", low=0, source="SCAN: 5")
    trains: str = option("all", "scan: what is trained: all, or the classifier alone (head)", choices=("all", "head"),
                         source="SCAN, released code: all; ProFeat, the paper: head")
    best: str = option("off", "scan: off; note: keep, beside the last weights, those of the lowest score without labels so far; take: also go on "
                       "from them, as at the end of the stage", choices=("off", "note", "take"), source="SCAN, released code: the lowest is taken")
    held_out: float = option(0.0, "scan: share of the images to score by alone, not trained on; 0 = score by all", low=0, high=1,
                             source="SCAN, released code: the test images")
    score_neighbors: int = option(5, "scan, selflabel: nearest images of each in that score, beside the image itself", low=1,
                                  source="SCAN, released code")
    score_entropy: float = option(1.0, "scan, selflabel: weight of the entropy in that score", low=0, source="SCAN, released code")
    sure: float = option(0.99, "selflabel: an image teaches if its largest probability is above this", low=0, high=1, source="SCAN")
    balanced: bool = option(True, "selflabel: every class among the sure images of a batch counts alike", source="SCAN, released code")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and not self.momentum:
            raise UsageError("nesterov: needs momentum, found 0", "--momentum 0.9")

    @property
    def unread(self) -> frozenset[str]:
        """What other objectives read, and what the settings themselves make idle."""
        idle = {name for name, readers in _READERS.items() if self.objective not in readers}
        idle |= {"momentum", "nesterov"} if self.optimizer == "adam" else set()
        if self.objective == "instance" and self.spread == 1:
            idle |= _INSTANCE - {"spread"} | {"memory_momentum"}
        elif self.objective == "instance" and not self.anchors:
            idle |= {"neighbors", "discover"}
        return frozenset(idle)

    def why_unread(self, name: str) -> tuple[str, str]:
        """Which setting makes it idle."""
        if name in ("momentum", "nesterov"):
            return "is of sgd, and the optimizer is adam", "leave it out, or --optimizer sgd"
        readers = _READERS[name]
        if self.objective not in readers:
            said = "is of the classifier" if readers[0] == "classify" else f"is of the {' or '.join(readers)} objective"
            why = {"instance": "which takes every image in turn", "relabel": "whose classifier is kept, and trained as the network is",
                   "online": "whose labels move in every step",
                   **dict.fromkeys(("contrast", "scan", "selflabel"), "which takes every image in turn")}.get(self.objective, "")
            why = why if readers[0] == "classify" else ""
            return (f"{said}, and the objective is {self.objective}{', ' * bool(why)}{why}",
                    "leave it out" if readers[0] == "classify" else f"leave it out, or --objective {readers[0]}")
        if self.spread == 1:
            return "is of the memory, which has no share in the loss while spread is 1", "leave it out, or a smaller --spread"
        return "needs anchors, and there are none", "leave it out, or give --anchors; in a plan of and: the table [and]"


_INSTANCE = {"cluster_loss", "sampled", "spread", "anchors", "neighbors", "discover"}
_READERS: dict[str, tuple[str, ...]] = {
    "head": ("classify",), "keep_features": ("classify",), "sampler": ("classify", "relabel"), "weights": ("classify", "online"),
    "head_momentum": ("classify", "online"), "memory_momentum": ("instance", "online"), **dict.fromkeys(sorted(_INSTANCE), ("instance",)),
    **dict.fromkeys(("similarity", "refresh_every", "refresh", "least", "repair", "repair_every", "replacement"), ("online",)),
    "tau": ("instance", "contrast"), **dict.fromkeys(("first_only", "positives", "connections", "least_batch"), ("contrast",)),
    "k": ("relabel", "scan"), **dict.fromkeys(("relabel", "first_labels", "fill_empty", "mlp"), ("relabel",)),
    **dict.fromkeys(("entropy_weight", "trains", "best", "held_out"), ("scan",)), **dict.fromkeys(("sure", "balanced"), ("selflabel",)),
    **dict.fromkeys(("score_neighbors", "score_entropy"), ("scan", "selflabel"))}
"""Settings of train-epoch that not all objectives read -> those that do."""

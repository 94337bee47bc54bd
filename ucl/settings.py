"""Settings of every verb and of every method: one frozen dataclass each, every default written once, here and in what is imported here.

A field is ``option(default, help, source=...)`` (`ucl.fields`).  From these fields come the command-line options, the man pages'
OPTIONS, the keys of ``ucl.toml`` and of ``--set verb.key=value``, and the steps of a plan: nothing states a default
a second time.  Nothing here imports numpy or torch.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ucl.errors import UsageError
from ucl.fields import Settings, option, parse
from ucl.method_settings import (
    METHOD_TABLES,
    AndSettings,
    IrSettings,
    IsSettings,
    OdcSettings,
    PcpSettings,
    PlanSettings,
    ProfeatSettings,
    RoundSettings,
    ScanSettings,
    SimclrSettings,
    UicSettings,
)
from ucl.stage_settings import CLUSTERING, ClusterSettings, ExtractSettings, PurifySettings, TrainSettings, ViewSettings

__all__ = [
    "BESIDE", "CHECKPOINT_EVERY", "CIFAR_MEAN", "CIFAR_STD", "CLUSTERING", "METHOD_TABLES", "SETTINGS", "AndSettings", "ClusterSettings",
    "CompareSettings", "ExtractSettings", "ImportSettings", "InitSettings", "IrSettings", "IsSettings", "KnnSettings", "LinearSettings",
    "ListSettings", "MachineSettings", "NeighborsSettings", "OdcSettings", "PcpSettings", "PlanSettings", "ProfeatSettings", "PurifySettings",
    "RoundSettings", "ScanSettings",
    "Settings", "SimclrSettings", "TrainSettings", "UicSettings", "ViewSettings", "check_override", "default_k", "option", "parse",
    "parse_assignments", "seconds", "tables",
]

CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2470, 0.2435, 0.2616)
FOLD_HELP = "fold the Sobel filter that the weights were trained behind into the first convolution, which then takes colours"


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
    weights: str = option("none", "weights to start from in place of drawn ones: a file as ucl import takes it, a checkpoint of ucl, or "
                          "torchvision's by their name, as IMAGENET1K_V2 or DEFAULT", flags=("--weights", "--from"))
    sobel: bool = option(False, "DeepCluster's Sobel filter in front of the network: two derivatives instead of colours",
                         source="DeepCluster section 4.1")
    fold_sobel: bool = option(False, FOLD_HELP, source="Caron et al., ICCV 2019, released code")
    projection: int = option(0, "dimensions of a linear projection on top of the features, its rows of unit length; 0 = none", low=0,
                             source="IR, IS, AND, PCP: 128")
    projection_init: str = option("he", "what the projection is drawn from; he: normal, of variance 2 / D, bias 0; torch: uniform in "
                                  "+-1 / sqrt(D)", choices=("he", "torch"), source="IR, AND, PCP, released codes: torch")
    projection_layers: int = option(1, "layers of the projection; of 2 the first is as wide as the features, a ReLU behind it", low=1, high=2,
                                    source="SimCLR, SCAN: 2")
    neck: int = option(0, "dimensions of ODC's neck on top of the features, a hidden layer, batch normalisation, dropout and a last layer, each "
                       "with ReLU; 0 = none", low=0, source="ODC: 256")
    neck_hidden: int = option(512, "width of the neck's hidden layer", low=1, source="ODC: 512")
    neck_dropout: float = option(0.5, "dropout in the neck", low=0, high=1, source="ODC: 0.5")
    size: int = option(32, "side of a view in pixels; where it is not given, the network's own", low=8)
    mean: tuple[float, float, float] = option(CIFAR_MEAN, "mean of the channels, of values in 0 to 1; where it is not given, ImageNet's "
                                              "for networks of more than 64 px", source="CIFAR-10")
    std: tuple[float, float, float] = option(CIFAR_STD, "standard deviation of the channels, likewise", low=1e-6, source="CIFAR-10")
    pack: str = option("auto", "side of the packed pixels: auto, none (decode again on every pass) or a number")
    pack_budget: int = option(4 << 30, "most bytes of packed pixels in images.h5", low=0)


@dataclass(frozen=True)
class ImportSettings(Settings):
    """`ucl import`: weights of outside as a checkpoint."""

    layout: str = option("auto", "how the file names its tensors; auto: the layout that names most of them",
                         choices=("auto", "torchvision", "timm", "deepcluster", "ucl"))
    head: str = option("keep", "keep the classifier on top, where the file has one, and refuse what else is no part of the network; "
                       "drop: take the network alone", choices=("keep", "drop"))
    fold_sobel: bool = option(False, FOLD_HELP, source="Caron et al., ICCV 2019, released code")
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
class NeighborsSettings(Settings):
    """`ucl neighbors`: exact nearest neighbours of features."""

    neighbors: int = option(20, "neighbours of each image, nearest first", flags=("-k", "--neighbors"), low=1, source="SCAN: 20")
    metric: str = option("cosine", "what is near: cosine, of rows brought to unit length; or euclidean", choices=("cosine", "euclidean"),
                         source="SCAN: inner product of unit rows")
    include_self: bool = option(False, "an image is searched among all, and so is one of its own neighbours, as in SCAN's released code")
    duplicates: float | None = option(None, "instead of neighbours, all pairs of images whose cosine is at least this; 1 = equal up to length",
                                      low=-1, high=1)

    @property
    def unread(self) -> frozenset[str]:
        """What pairs do not read."""
        return frozenset() if self.duplicates is None else frozenset({"neighbors", "metric", "include_self"})

    def why_unread(self, name: str) -> tuple[str, str]:
        """That all pairs are wanted."""
        return "is of neighbours, and duplicates lists pairs by their cosine", "leave it out, or leave out --duplicates"


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
    "neighbors": NeighborsSettings,
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

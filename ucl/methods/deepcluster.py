"""DeepCluster (Caron, Bojanowski, Joulin, Douze: "Deep Clustering for Unsupervised Learning of Visual Features", ECCV 2018).

One epoch: extract the features of all images; PCA to 256 dimensions, whitening, L2, k-means; train one epoch on the
cluster ids with a classifier drawn anew.  As a shell loop:

    until ucl status --done; do ucl extract | ucl cluster | ucl train-epoch || exit; done

Defaults are the paper's, or the released code's where the paper is silent (each field of `ucl.settings` names its
source).  Where the two differ: features are taken before the final ReLU (code, issue 13); the sampler draws equally per
cluster as the paper says (``--sampler misindexed`` is what the code did); epochs are 500 in the paper and 200 in the code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ucl.context import Context
from ucl.methods.method import Method, Step
from ucl.settings import ClusterSettings, ExtractSettings, InitSettings, TrainSettings, default_k

# Views up to 64 px: stride-4 stems and 8 % crops are too coarse there.  N is small, hence the stronger weight decay; colour
# is a shortcut, hence the jitter (ODC, section 3.4).  K = 2 % of N is the flat top of PCP's table III.
SMALL: dict[str, dict[str, Any]] = {"train-epoch": {"weight_decay": 1e-4, "crop_scale": (0.2, 1.0)}}

# A head that is drawn anew must learn in the steps of one epoch.  On 10,000 CIFAR-10 images four epochs of 40 steps (batch
# 256) left kNN below the untrained network's (0.310 to 0.324 on the test images); with 157 steps (batch 64) it rose (0.321 to 0.354,
# leave-one-out). examples/RESULTS.md tells the pilot.
FEW_IMAGES = 50_000
SMALL_BATCH = 64

# The built-in digits: grey, centred, and mirrored digits are no digits.
DIGITS: dict[str, dict[str, Any]] = {
    "cluster": {"k": 60, "pca": 64},
    "train-epoch": {"weight_decay": 1e-4, "batch": SMALL_BATCH, "crop_scale": (1.0, 1.0), "flip": 0.0, "jitter_p": 0.0, "grey_p": 0.0,
                    "rotate": 10.0, "translate": 0.08, "zoom": (0.9, 1.1), "shear": 10.0},
}

# The paper's: K 10,000 and batch 256, learning rate 0.05, weight decay 1e-5 are the settings' own defaults.
LARGE: dict[str, dict[str, Any]] = {"train-epoch": {"crop_scale": (0.08, 1.0)}}

# Behind a Sobel filter there is no colour to hide, so views are cropped and mirrored only, as in the paper, whatever their size.
# Without one, which the paper tried too, colour is a shortcut and the jitter stays.
SOBEL = {"jitter_p": 0.0, "grey_p": 0.0}


def preset(context: Context) -> Mapping[str, Mapping[str, Any]]:
    """Settings by verb for the data at hand: the built-in digits, small views, or the paper's size."""
    if context.source == "digits":
        return DIGITS
    chosen = SMALL if context.size <= 64 else LARGE
    if InitSettings().override({"sobel": context.overrides.get("init.sobel", False)}).sobel:
        chosen = chosen | {"train-epoch": chosen["train-epoch"] | SOBEL}
    if context.images < FEW_IMAGES:
        chosen = chosen | {"train-epoch": chosen["train-epoch"] | {"batch": SMALL_BATCH}}
    return chosen


def steps(context: Context) -> Iterator[Step]:
    """One turn; section 3 of the paper."""
    at_hand = preset(context)
    cluster = ClusterSettings(k=default_k(context.images)).override(at_hand.get("cluster", {}))
    yield Step("extract", ExtractSettings(), reads=("images", "model"), writes=("features",))
    yield Step("cluster", cluster, reads=("features", "previous"), writes=("labels",))
    yield Step("train-epoch", TrainSettings().override(at_hand["train-epoch"]),
               reads=("images", "model", "labels", "previous"), writes=("model", "labels"))


def epochs(context: Context) -> int:
    """Digits 30 (a minute), small views 100, else the released code's 200."""
    if context.source == "digits":
        return 30
    return 100 if context.size <= 64 else 200


def init(context: Context) -> Mapping[str, Any]:
    """Digits are shown at 16 px."""
    return {"size": 16} if context.source == "digits" else {}


METHOD = Method("Caron et al., ECCV 2018", steps, epochs, init)

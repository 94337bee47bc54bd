"""The methods: name -> (module, paper and one line)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ucl.methods.method import Method

METHODS: dict[str, tuple[str, str]] = {
    "deepcluster": ("ucl.methods.deepcluster", "Caron et al., ECCV 2018: cluster the features, train on the clusters, "
                    "fresh classifier each epoch"),
    "persistent": ("ucl.methods.persistent", "ucl's own variant: k-means starts from the last labels' means, so ids "
                   "persist and the classifier is kept"),
    "onepass": ("ucl.methods.onepass", "DeepCluster whose features come from the training pass, so that no image is looked at twice "
                "an epoch (as in DeepCluster-v2, SwAV's released code)"),
    "ir": ("ucl.methods.ir", "Wu et al., CVPR 2018: each image told from all others by a memory of past embeddings"),
    "is": ("ucl.methods.is_", "Ye et al., CVPR 2019: two views of each image told from the rest of the batch"),
    "and": ("ucl.methods.and_", "Huang et al., ICML 2019: ir in rounds, in which the surest images are merged with their nearest neighbours"),
    "pcp": ("ucl.methods.pcp", "Zhang et al., ICPR 2020: ever fewer clusters, purified by distance and by votes of past epochs"),
    "odc": ("ucl.methods.odc", "Zhan et al., CVPR 2020: clustered once; then labels and centroids move with the network, batch by batch"),
    "uic": ("ucl.methods.uic", "Chen et al., ECCV Workshops 2020: the network's own class of a view is the image's label in the next epoch"),
    "simclr": ("ucl.methods.simclr", "Chen et al., ICML 2020: two views of each image told from the rest of the batch, on a projection"),
    "scan": ("ucl.methods.scan", "Van Gansbeke et al., ECCV 2020: a given network's neighbours in one class, then the sure images' own labels"),
    "profeat": ("ucl.methods.profeat", "simclr and scan in turns, the sure images, or those that several models agree on, being told apart "
                "together; alone or as one of an ensemble"),
}


def load(name: str) -> Method:
    """The method called ``name``; its module is imported here."""
    method: Method = import_module(METHODS[name][0]).METHOD
    return method

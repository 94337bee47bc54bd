"""Settings of UIC's training and of its plan.

Of their own until the method is in the plans: the fields of `RelabelSettings` are to become `ucl.settings.TrainSettings`' and
`UicSettings` one of its METHOD_TABLES.
"""

from __future__ import annotations

from dataclasses import dataclass

from ucl.settings import Settings, TrainSettings, option

TRAINING, FIXED, NONE = "training", "fixed", "none"


@dataclass(frozen=True)
class RelabelSettings(TrainSettings):
    """One epoch of classification by labels that the network itself gives."""

    objective: str = option("relabel", "relabel: a classifier whose own classes of the images are the next epoch's labels",
                            choices=("classify", "instance", "relabel"), source="UIC, section 3.2")
    relabel: str = option(TRAINING, "where labels come from; training: of the next epoch, from the logits of this one's training pass; fixed: "
                          "of this epoch, from a pass over the fixed views before it; none: they stay", choices=(TRAINING, FIXED, NONE),
                          source="UIC, section 3.2; fixed: its ablation without augmented labels")
    classes: int = option(0, "relabel: number of classes, where neither labels nor model say it", low=0, source="UIC: 3000")
    first_labels: str = option("random", "relabel: labels of the first epoch; random: each image's own draw; balanced: equal classes",
                               choices=("random", "balanced"), source="UIC, released code: random")
    split: bool = option(True, "relabel: before the epoch every empty class gets half of the largest", source="UIC, section 3.2")
    mlp: int = option(0, "relabel: width of two hidden layers under the classifier, where the model has none yet; 0 = no such layers", low=0,
                      source="UIC, released code: 2048 on ResNet-50")

    @property
    def unread(self) -> frozenset[str]:
        """What the other objectives alone read."""
        if self.objective != "relabel":
            return super().unread | {"relabel", "classes", "first_labels", "split", "mlp"}
        return frozenset({"tau", "memory_momentum", "cluster_loss", "sampled", "spread", "anchors", "neighbors", "discover", "head", "head_momentum",
                          "keep_features", "weights"})

    def why_unread(self, name: str) -> tuple[str, str]:
        """Which objective it is of."""
        if self.objective != "relabel":
            return super().why_unread(name)
        if name in ("head", "head_momentum"):
            return "is of classify: under relabel the classifier is kept, and trained as the network is", "leave it out"
        return "is not of the relabel objective", "leave it out"


@dataclass(frozen=True)
class UicSettings(Settings):
    """Method uic: what its plan is told."""

    epochs: int = option(0, "epochs in which labels move; 0 = the plan's without the final stage, where it names some, else 500 (up to 64 px "
                         "200, digits 30)", low=0, source="UIC: 500")
    final_share: float = option(0.06, "length of the final stage on fixed labels, as a share of the epochs before it; 0 = none", low=0,
                                source="UIC: 30 after 500 epochs; not in the released code")
    classes: int = option(0, "classes; 0 = one for every 200 images, at least 10, at most 3000", low=0, source="UIC: 3000, 427 images each")
    first_labels: str = option("random", "labels of the first epoch: random or balanced", choices=("random", "balanced"),
                               source="UIC, released code: random")
    relabel: str = option(TRAINING, "labels from the training pass (training), or before every epoch from a pass over the fixed views (fixed)",
                          choices=(TRAINING, FIXED), source="UIC, section 3.2; fixed: its ablation")
    views: str = option("strong", "what training draws of a view; strong: crop, flip, colour jitter, grey; weak: crop and flip; behind a Sobel "
                        "filter always weak", choices=("strong", "weak"), source="UIC, section 4")
    lr: float = option(0.0, "learning rate at the start; 0 = 0.2 for 1024 images in a batch (Sobel: 0.1 for 256), up to 64 px 0.05 for 256", low=0,
                       source="UIC: 0.1 AlexNet; released code: 0.2 ResNet-50")
    schedule: str = option("cosine", "how the learning rate falls to 0: cosine or linear, a step every epoch", choices=("cosine", "linear"),
                           source="UIC, released code: cosine; the paper: linear")
    final_lr: float = option(0.01, "learning rate at the start of the final stage, from where it falls linearly to 0", low=0,
                             source="the paper does not say")
    mlp: int = option(0, "width of two hidden layers under the classifier; 0 = none", low=0, source="UIC, released code: 2048 on ResNet-50")

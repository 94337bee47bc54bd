"""Settings of the plan, and of the methods whose plans have tables of their own in ucl.toml; see `ucl.settings`."""

from __future__ import annotations

from dataclasses import dataclass

from ucl.errors import UsageError
from ucl.fields import Settings, option
from ucl.profeat_settings import ProfeatSettings as ProfeatSettings
from ucl.profeat_settings import ScanSettings as ScanSettings
from ucl.profeat_settings import SimclrSettings as SimclrSettings
from ucl.stage_settings import PurifySettings, TrainSettings


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


@dataclass(frozen=True)
class OdcSettings(Settings):
    """Method odc: what its plan is told."""

    lr: float = option(0.06, "learning rate, for batches of 512; up to 64 px in proportion to the batch", low=0, source="ODC: 0.06; 0.04 for AlexNet")
    lr_drop: float = option(400 / 440, "share of the plan after which the learning rate drops", low=0, high=1, source="ODC: epoch 400 of 440")
    lr_factor: float = option(0.1, "the learning rate after the drop, as a share of lr", low=0, high=1, source="ODC; its released code: 0.4")
    least: int = option(0, "members below which a cluster is repaired; 0 = 20, and up to 64 px 15 % of the mean size, at least 2", low=0,
                        source="ODC: 20 of 128 in the mean")


@dataclass(frozen=True)
class UicSettings(Settings):
    """Method uic: what its plan is told."""

    epochs: int = option(0, "epochs in which labels move; 0 = the plan's without the final stage, where it names some, else 500 (up to 64 px "
                         "200, digits 30)", low=0, source="UIC: 500")
    final_share: float = option(0.06, "length of the final stage on fixed labels, as a share of the epochs before it; 0 = none", low=0,
                                source="UIC: 30 after 500 epochs; not in the released code")
    k: int = option(0, "classes; 0 = one for every 200 images, at least 10, at most 3000", low=0, source="UIC: 3000, 427 images each")
    relabel: str = option(TrainSettings.relabel, "labels from the training pass (training), or before every epoch from a pass over the fixed "
                         "views (fixed)", choices=("training", "fixed"), source="UIC section 3.2; fixed: its ablation")
    views: str = option("strong", "what training draws of a view; strong: crop, flip, colour jitter, grey, above 64 px blur; weak: crop and "
                        "flip; behind a Sobel filter always weak", choices=("strong", "weak"), source="UIC, section 4")
    lr: float = option(0.0, "learning rate at the start; 0 = 0.2 for 1024 images in a batch (Sobel: 0.1 for 256), up to 64 px 0.05 for 256", low=0,
                       source="UIC: 0.1 AlexNet; released code: 0.2 ResNet-50")
    schedule: str = option("cosine", "how the learning rate falls to 0: cosine or linear, a step every epoch", choices=("cosine", "linear"),
                           source="UIC, released code: cosine; the paper: linear")
    final_lr: float = option(0.01, "learning rate at the start of the final stage, from where it falls linearly to 0", low=0,
                             source="the paper does not say")


METHOD_TABLES: dict[str, type[Settings]] = {"ir": IrSettings, "is": IsSettings, "and": AndSettings, "pcp": PcpSettings,
                                            "odc": OdcSettings, "uic": UicSettings, "simclr": SimclrSettings,
                                            "scan": ScanSettings, "profeat": ProfeatSettings}
"""Tables of ucl.toml, and names before the dot of ``--set``, that a method's plan reads; no verb has them."""

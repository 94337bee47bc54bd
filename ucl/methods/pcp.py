"""The schedules of PCP ("Progressive Cluster Purification for Unsupervised Feature Learning"): numbers as functions of the epoch.

A round has T epochs, counted from 0: 200 in the paper, and every turning point is a share of T, so that a shorter round keeps
the shape.  Where paper and released code differ the text says which is followed.  Not a plan yet: the steps come with the
objective.
"""

from __future__ import annotations

from dataclasses import dataclass

from ucl.errors import UsageError
from ucl.settings import PurifySettings, Settings, option

_ROUNDING = 1e-6
"""Makes floor(N**(1 - t/T)) exact where the power is a whole number: 50,000 at t = 0, where the released code has 49,999."""

FULL_SCORE = 4.859263
"""Highest score of 15 past epochs of decay 0.8, to which the paper's threshold of 3.0 belongs."""


@dataclass(frozen=True)
class PcpSettings(Settings):
    """Numbers of PCP's plan that no verb has."""

    epochs: int = option(200, "epochs of a round, T", low=1, source="PCP, section on training; 200")
    rounds: int = option(1, "rounds; network, optimizer, memory and history go on, the learning rate starts again", low=1,
                         source="PCP, table IV: 1, and 5 for the last column")
    final_k: int = option(0, "clusters the schedule ends with; 0 = 2 % of the images", low=0, source="PCP: 1000 of 50,000; 100 in tables I and II")
    lr: float = option(0.03, "learning rate at the start of a round", low=0, source="PCP, released script")
    lr_drops: tuple[float, float] = option((0.6, 0.8), "shares of the round after which the learning rate drops", low=0, high=1,
                                           source="PCP: epochs 120 and 160 of 200")
    lr_factor: tuple[float, float] = option((0.1, 0.01), "the learning rate after each drop, as a share of lr", low=0, high=1,
                                            source="PCP; 0.1,0.05 for ImageNet-100")
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
    vote_history: int = option(PurifySettings.vote_history, "past epochs that vote", low=1, source="PCP: n = 15")
    vote_decay: float = option(PurifySettings.vote_decay, "decay of the votes", low=0, high=1, source="PCP, released code: alpha")


def cluster_count(epoch: int, images: int, final_k: int, *, epochs: int = 200, round_: int = 0) -> int:
    """Clusters of an epoch: N at first, then fewer on a log-linear line, never below ``final_k`` (equation 1), nor above N.

    Later rounds have ``final_k`` throughout.

    Args:
        epoch: t, from 0.  images: N, usable ones.  final_k: the floor.  epochs: T.  round_: from 0.
    """
    if round_ > 0:
        return min(images, final_k)
    return min(images, max(final_k, int(images ** max(0.0, 1 - epoch / epochs) + _ROUNDING)))


def warm_up_weight(epoch: int, settings: PcpSettings, *, round_: int = 0) -> float:
    """Weight w of the two views' loss; the mixed loss has 1 - w.  Falls linearly, then from ``warm_up_until`` on it is 0."""
    until = settings.warm_up_until * settings.epochs
    if settings.warm_up == "none" or (settings.warm_up == "first" and round_ > 0) or _reached(epoch, settings.warm_up_until, settings.epochs):
        return 0.0
    return settings.warm_up_start - (settings.warm_up_start - settings.warm_up_end) * epoch / until


def learning_rate(epoch: int, settings: PcpSettings) -> float:
    """Learning rate of an epoch of a round."""
    rate = settings.lr
    for share, factor in zip(settings.lr_drops, settings.lr_factor, strict=True):
        if _reached(epoch, share, settings.epochs):
            rate = settings.lr * factor
    return rate


def purification(epoch: int, settings: PcpSettings, *, round_: int = 0) -> PurifySettings:
    """What `purify` is told in an epoch.

    First round: clusters of up to ``whole_up_to`` members are kept whole; from half of it all sizes are cut; ``vote_history``
    epochs later, when as many rows have gathered, past epochs vote.  Later rounds: all sizes, and votes after a tenth.
    The threshold above which members are pulled back is scaled to the length of the history.

    Raises:
        UsageError: votes that could drop nobody, told in the first epoch.
    """
    late = round_ > 0 or _reached(epoch, settings.all_sizes_from, settings.epochs)
    if round_:
        voting = _reached(epoch, settings.votes_later, settings.epochs)
    else:
        voting = _reached(epoch - settings.vote_history, settings.all_sizes_from, settings.epochs)
    base = PurifySettings(keep_nearest=settings.keep_nearest, min_size=2, vote_history=settings.vote_history, vote_decay=settings.vote_decay)
    if settings.votes:
        base = base.override({"pull_back_from": pull_back_from(settings.vote_history, settings.vote_decay)})
    if not late:
        return base.override({"whole_up_to": settings.whole_up_to, "early_return": settings.early_return})
    return base.override({"keep_cap": settings.keep_cap, "votes": settings.votes and voting})


def pull_back_from(vote_history: int, vote_decay: float = 0.8) -> float:
    """The paper's threshold of 3.0, in proportion to the highest score that so many past epochs can give.

    Raises:
        UsageError: one past epoch, or a decay up to 0.5: no score would be below 0, so that votes would drop nobody.
    """
    highest = sum(vote_decay**k for k in range(vote_history + 1))
    if highest <= 2:
        raise UsageError(f"vote_history {vote_history}, vote_decay {vote_decay}: scores from {2 - highest:g} drop nobody",
                         "at least 2 past epochs, and a decay that makes 1 + a + ... + a^n more than 2")
    standard = PurifySettings()
    if (vote_history, vote_decay) == (standard.vote_history, standard.vote_decay):
        return standard.pull_back_from
    return standard.pull_back_from * highest / FULL_SCORE


def _reached(epoch: int, share: float, epochs: int) -> bool:
    """Whether ``epoch`` is at least that share of the round, free of rounding: 0.6 of 200 is 120."""
    return epoch >= share * epochs - _ROUNDING

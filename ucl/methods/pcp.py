"""PCP (Zhang, Liu, Zhou, Wang, Wang, Ye: "Progressive Cluster Purification for Unsupervised Feature Learning", ICPR 2020).

Each image is its own cluster at first; then there are fewer clusters from epoch to epoch, on a log-linear line.  Members far from
their cluster's mean, and later members that past epochs did not see beside the anchor, are told from all others alone; the rest are
told from all others as a cluster, by a memory of past embeddings.  In the first round that view and another of each image are
told from the rest of their batch (IS).  As a shell loop:

    until ucl status --done; do ucl extract | ucl cluster | ucl purify | ucl train-epoch || exit; done

A round has T epochs, counted from 0: 200 in the paper, and every turning point is a share of T, so that a shorter round keeps
the shape.  Where paper and released code differ, `ucl.settings.PcpSettings` says which is followed, and has the other by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from ucl.context import Context
from ucl.errors import UsageError
from ucl.methods import rounds
from ucl.methods.method import Method, Step, plan_length, set_by_hand
from ucl.methods.rounds import ROUNDING, reached
from ucl.settings import ClusterSettings, ExtractSettings, PcpSettings, PurifySettings, default_k

FULL_SCORE = 4.859263
"""Highest score of 15 past epochs of decay 0.8, to which the paper's threshold of 3.0 belongs."""

HISTORY_SHARE, HISTORY_MOST = 0.075, 15
"""Past epochs that vote: 15 of 200."""


def settled(context: Context) -> PcpSettings:
    """The table [pcp] with every 0 that stands for a rule worked out."""
    found = rounds.settled(context, PcpSettings)
    history = found.vote_history or min(HISTORY_MOST, max(2, int(HISTORY_SHARE * found.epochs + 0.5)))
    return dataclasses.replace(found, final_k=found.final_k or default_k(context.images), vote_history=history)


def steps(context: Context) -> Iterator[Step]:
    """One turn; the paper's algorithm 1."""
    settings = settled(context)
    _refuse(context)
    number, epoch = rounds.at(context, settings)
    train = rounds.training(context, epoch, settings)
    extract = ExtractSettings(views=settings.views, final_relu=True, layer="projection" if rounds.projected(context) else "")
    if settings.views == "train":
        extract = extract.override(rounds.views_of(context, train))
    k = max(2, cluster_count(epoch + settings.count_from, context.images, settings.final_k, epochs=settings.epochs, round_=number,
                             first_k=settings.first_k))
    yield Step("extract", extract, reads=("images", "model"), writes=("features",))
    yield Step("cluster", ClusterSettings(k=k, pca=0, history=settings.vote_history + 1), reads=("features", "previous"), writes=("labels",))
    yield Step("purify", purification(epoch, settings, round_=number), reads=("labels",), writes=("labels",))
    yield Step("train-epoch", dataclasses.replace(train, spread=warm_up_weight(epoch, settings, round_=number)),
               reads=("images", "model", "labels", "previous"), writes=("model", "labels"))


def _refuse(context: Context) -> None:
    """Refuse by-hand settings of verbs that contradict the plan.

    Raises:
        UsageError: votes set for purify alone, or another objective.
    """
    for name in ("vote_history", "vote_decay"):
        if name in set_by_hand(context, "purify"):
            raise UsageError(f"purify.{name}: the plan of pcp also sizes the history and the threshold by it", f"pcp.{name}")
    objective = set_by_hand(context, "train-epoch").get("objective", "instance")
    if objective != "instance":
        raise UsageError(f"train-epoch.objective: found {objective!r}, pcp tells images apart", "the method deepcluster classifies")


def advice(context: Context) -> Iterator[str]:
    """That votes never start, and what does not fit the rounds."""
    yield from rounds.advice(context, PcpSettings)
    settings = settled(context)
    voting = any(getattr(step.settings, "votes", False) for epoch in range(plan_length(context))
                 for step in steps(dataclasses.replace(context, epoch=epoch)))
    if settings.votes and not voting:
        yield (f"past epochs never vote: {settings.vote_history} of them are there from epoch "
               f"{int(settings.all_sizes_from * settings.epochs + 1 - ROUNDING) + settings.vote_history + 1} on, after the plan's end")


def cluster_count(epoch: int, images: int, final_k: int, *, epochs: int = 200, round_: int = 0, first_k: int = 0) -> int:
    """Clusters of an epoch: N, or ``first_k``, at first, then fewer on a log-linear line, never below ``final_k`` (equation 1), nor above N.

    Later rounds have ``final_k`` throughout.

    Args:
        epoch: t, from 0.  images: N, usable ones.  final_k: the floor.  epochs: T.  round_: from 0.
    """
    if round_ > 0:
        return min(images, final_k)
    return min(images, max(final_k, int((first_k or images) ** max(0.0, 1 - epoch / epochs) + ROUNDING)))


def warm_up_weight(epoch: int, settings: PcpSettings, *, round_: int = 0) -> float:
    """Weight w of the two views' loss; the mixed loss has 1 - w.  Falls linearly, then from ``warm_up_until`` on it is 0."""
    until = settings.warm_up_until * settings.epochs
    if settings.warm_up == "none" or (settings.warm_up == "first" and round_ > 0) or reached(epoch, settings.warm_up_until, settings.epochs):
        return 0.0
    return settings.warm_up_start - (settings.warm_up_start - settings.warm_up_end) * epoch / until


def purification(epoch: int, settings: PcpSettings, *, round_: int = 0) -> PurifySettings:
    """What `purify` is told in an epoch.

    First round: clusters of up to ``whole_up_to`` members are kept whole; from half of it all sizes are cut; ``vote_history``
    epochs later, when as many rows have gathered, past epochs vote.  Later rounds: all sizes, and votes after a tenth.
    The threshold above which members are pulled back is scaled to the length of the history.

    Raises:
        UsageError: votes that could drop nobody, told in the first epoch.
    """
    late = round_ > 0 or reached(epoch, settings.all_sizes_from, settings.epochs)
    if round_:
        voting = reached(epoch, settings.votes_later, settings.epochs)
    else:
        voting = reached(epoch - settings.vote_history, settings.all_sizes_from, settings.epochs)
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


METHOD = Method("Zhang et al., ICPR 2020", steps, lambda context: rounds.length(context, PcpSettings), rounds.init,
                advice=advice)

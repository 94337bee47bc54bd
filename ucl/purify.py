"""`ucl purify`: drop the pseudo-labels that are likely to be wrong.

Keep-nearest and votes are PCP's CPr and CPs ("Progressive Cluster Purification for Unsupervised Feature Learning"): of each
cluster the members nearest to the member mean stay, then past epochs vote, by whether a member was in one cluster with the
anchor, the member nearest to the mean.  No row joins a cluster other than its own.  The identity at the default settings.
"""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
from numpy.typing import NDArray

from ucl.artifacts import BAD_IMAGE, CUT_BY_DISTANCE, DISSOLVED, DROPPED_BY_VOTE, KEPT, PULLED_BACK, Labels, replace
from ucl.context import Context
from ucl.errors import DataError
from ucl.settings import PurifySettings

log = logging.getLogger(__name__)

_ROUNDING = 1e-9
"""Makes floor(size * share) exact for shares written in decimal: 10 * (1 - 0.9) keeps 1, not 0."""


def purify(labels: Labels, settings: PurifySettings, context: Context) -> Labels:
    """The same labels with the doubtful ones set to -1.

    In this order: members far from the mean are cut (CUT_BY_DISTANCE), ties by row; with ``votes``, kept members whose score
    is below ``drop_below`` are dropped (DROPPED_BY_VOTE; never the anchor) and cut ones that reach ``pull_back_from`` get their
    label back (PULLED_BACK); clusters with fewer than ``min_size`` members left are dissolved (DISSOLVED for the members they
    still had).  With ``early_return`` the first cluster of fewer than 2 members, and all after it, are dissolved first.

    A row whose status is not OK has no label and the flag BAD_IMAGE, whatever a stage of somebody's own gave it.
    Labels that were purified before are purified again from the raw ones, the newest row of the history: the last settings
    alone count, and the same settings twice give the same labels.

    Centroids, means, sizes, anchors, distances and the history stay those of the clustering, and so do weights: what -1
    means is the objective's to say.  Time: one sort of N, and one pass over N for each past epoch.  Memory: about 60 bytes
    for each labelled row.

    Args:
        labels: labels (N,) int32; distances are needed if ``keep_nearest`` is below 1 (or where ``votes`` finds no anchors),
            the history if ``votes``.
        settings: what `ucl purify --help` lists.
        context: where in a plan this happens.

    Raises:
        DataError: distances, or anchors, that are needed and missing or no number; a history of other images, without the
            row of the present labels, or with a labelled row in no cluster; purified labels without a history.
    """
    context = dataclasses.replace(context, stage=context.stage or "purify")
    raw = _raw(labels)
    member = np.flatnonzero(raw >= 0)
    used, cluster = np.unique(raw[member], return_inverse=True)               # (M,) 0..used-1
    live = used[cluster] < _first_small(used, cluster, labels.k) if settings.early_return else np.ones(len(member), bool)
    state = np.full(len(member), KEPT, np.uint8)
    share = min(settings.keep_nearest, settings.keep_cap)
    if share < 1:
        state[_far(_distance(labels, member), cluster, share, settings.whole_up_to)] = CUT_BY_DISTANCE
    score = np.full(len(member), np.nan)
    past = _past(labels, member, settings.vote_history) if settings.votes else None
    if past is not None:
        anchor = _anchors(labels, raw, used, member, cluster)                 # (used,) rows
        score = _votes(past, member, anchor[cluster], settings.vote_decay)
        state[(state == KEPT) & (score < settings.drop_below) & (member != anchor[cluster])] = DROPPED_BY_VOTE
        state[(state == CUT_BY_DISTANCE) & (score >= settings.pull_back_from)] = PULLED_BACK
    state[~live], score[~live] = DISSOLVED, np.nan
    in_cluster = (state == KEPT) | (state == PULLED_BACK)
    left = np.bincount(cluster[in_cluster], minlength=len(used))
    state[in_cluster & (left[cluster] < settings.min_size)] = DISSOLVED
    return _made(labels, raw, member, state, score, settings, past is not None, context)


def score_range(decay: float, past: int) -> tuple[float, float]:
    """(lowest, highest) score that ``past`` epochs can give: the present one counts 1, the k-th last decay**k."""
    high = float(sum(decay**k for k in range(past + 1)))
    return 2 - high, high


def _raw(labels: Labels) -> NDArray[np.int32]:
    """The labels (N,) to purify: as given, or, where they have been purified, as they were clustered; -1 for bad images."""
    raw = labels.raw() if labels.purified else labels.labels
    if raw is None:
        raise DataError("labels: purified already, and no /history to take the labels before that from",
                        "purify what ucl cluster made")
    return raw if labels.samples is None else np.where(labels.samples.ok, raw, np.int32(-1))


def _first_small(used: NDArray[np.int32], cluster: NDArray[np.int64], k: int) -> int:
    """Id of the first of k clusters that has fewer than 2 members; k if none has."""
    full = used[np.bincount(cluster, minlength=len(used)) >= 2]
    gap = np.flatnonzero(full != np.arange(len(full)))
    return min(int(gap[0]) if len(gap) else len(full), k)


def _far(distance: NDArray[np.float32], cluster: NDArray[np.int64], share: float, whole: int) -> NDArray[np.bool_]:
    """Members beyond the nearest floor(size * share) of their cluster, none of clusters up to ``whole`` members; (M,) bool.

    Source: PCP, section on CPr and released code; the rounding is exact for decimal shares.
    """
    size = np.bincount(cluster)
    keep = np.where(size <= whole, size, np.floor(size * share + _ROUNDING)).astype(np.int64)
    order = np.lexsort((distance, cluster))                                   # stable: ties by row
    rank = np.arange(len(order)) - (np.cumsum(size) - size)[cluster[order]]
    far = np.empty(len(order), bool)
    far[order] = rank >= keep[cluster[order]]
    return far


def _past(labels: Labels, member: NDArray[np.int64], n: int) -> NDArray[np.int32] | None:
    """Raw labels (n, N) of the n epochs before the present one, oldest first; None, and a warning, if there are fewer."""
    labels.raw()                                                              # the newest row is of these labels, or an error
    rows = max(0, 0 if labels.history is None else len(labels.history) - 1)
    if labels.history is None or rows < n:
        log.warning("votes need %d past epochs, the history has %d: no votes", n, rows)
        return None
    past = labels.history[-n - 1:-1]
    for row, epoch in zip(past, (labels.history_epoch if labels.history_epoch is not None else [])[-n - 1:-1], strict=True):
        missing = row[member] < 0
        if missing.any():
            raise DataError(f"labels: /history/labels: row {member[np.argmax(missing)]} is in no cluster in epoch {epoch}, expected a cluster in "
                            f"each of {n} past epochs for every row that has a label", "a smaller --vote-history, or --no-votes")
    return past


def _anchors(labels: Labels, raw: NDArray[np.int32], used: NDArray[np.int32], member: NDArray[np.int64],
             cluster: NDArray[np.int64]) -> NDArray[np.int64]:
    """Row of the member nearest to the mean of each used cluster, as the labels tell or by their distances; (used,)."""
    if labels.anchor is not None:
        if len(labels.anchor) <= used.max(initial=-1):
            raise DataError(f"labels: /clusters/anchor: {len(labels.anchor)} clusters, expected at least {used.max() + 1}", "make the labels again")
        anchor = labels.anchor[used].astype(np.int64)
        wrong = (anchor < 0) | (anchor >= len(raw)) | (raw[np.clip(anchor, 0, len(raw) - 1)] != used)
        if wrong.any():
            c = int(np.argmax(wrong))
            raise DataError(f"labels: /clusters/anchor: row {anchor[c]} for cluster {used[c]}, expected a member of it",
                            "make the labels again, or leave /clusters/anchor out")
        return anchor
    order = np.lexsort((_distance(labels, member), cluster))
    return member[order[np.searchsorted(cluster[order], np.arange(len(used)))]]


def _votes(past: NDArray[np.int32], member: NDArray[np.int64], anchor: NDArray[np.int64], decay: float) -> NDArray[np.float64]:
    """Scores (M,): 1 for the present epoch, and decay**k for or against from the k-th last.

    For, if the member was in one cluster with the anchor in that epoch; ids mean nothing beyond their epoch.
    Source: PCP, section on CPs; n + 1 terms as the released code.
    """
    score = np.ones(len(member))
    for k in range(1, len(past) + 1):
        row, weight = past[-k], decay**k
        score += np.where(row[member] == row[anchor], weight, -weight)
    return score


def _distance(labels: Labels, member: NDArray[np.int64]) -> NDArray[np.float32]:
    """Distances (M,) of the members."""
    hint = "labels made by ucl cluster have it; or leave out --keep-nearest and --votes"
    if labels.distance is None:
        raise DataError("labels: no /distance, which keep-nearest needs, and votes without /clusters/anchor", hint)
    distance = labels.distance[member]
    bad = np.isnan(distance)
    if bad.any():
        raise DataError(f"labels: /distance: NaN in row {member[np.argmax(bad)]}, expected a number in every "
                        "row that has a label", hint)
    return distance


def _made(labels: Labels, raw: NDArray[np.int32], member: NDArray[np.int64], state: NDArray[np.uint8], score: NDArray[np.float64],
          settings: PurifySettings, voted: bool, context: Context) -> Labels:
    """Labels, flags and scores of all rows from those of the members, and what the summary says."""
    new, flag, all_scores = raw.copy(), _flag(labels, raw), np.full(len(raw), np.nan, np.float32)
    stays = (state == KEPT) | (state == PULLED_BACK)
    new[member[~stays]] = -1
    flag[member] = state
    all_scores[member] = score
    count = np.bincount(state, minlength=BAD_IMAGE + 1)
    facts = {**settings.as_dict(), "voted": voted, "members": len(member), "kept": int(count[KEPT]),
             "cut_by_distance": int(count[CUT_BY_DISTANCE]), "dropped_by_vote": int(count[DROPPED_BY_VOTE]),
             "pulled_back": int(count[PULLED_BACK]), "dissolved": int(count[DISSOLVED]),
             "clusters": len(np.unique(raw[member])), "clusters_left": len(np.unique(new[new >= 0]))}
    purified: Labels = replace(labels, labels=new, flag=flag, score=all_scores if voted or labels.score is not None else None,
                               info={**labels.info, "purify": facts}, recipe="", context=context, provenance=list(labels.provenance))
    return purified


def _flag(labels: Labels, raw: NDArray[np.int32]) -> NDArray[np.uint8]:
    """The flags (N,) before purification, a copy; where none were given, BAD_IMAGE by status and KEPT otherwise."""
    flag = np.full(len(labels.labels), KEPT, np.uint8) if labels.flag is None else labels.flag.copy()
    if labels.samples is not None:
        flag[~labels.samples.ok] = BAD_IMAGE
    return np.where(raw >= 0, np.uint8(KEPT), flag)

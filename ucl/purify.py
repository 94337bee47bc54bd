"""`ucl purify`: drop the pseudo-labels that are likely to be wrong.

Keep-nearest and votes are PCP's CPr and CPs ("Progressive Cluster Purification for Unsupervised Feature Learning"): of each
cluster the members nearest to the member mean stay, then past epochs vote, by whether a member was in one cluster with the
anchor, the member nearest to the mean.  No row joins a cluster other than its own.  The identity at the default settings.

The other two rules are ProFeat's: of a classifier's labels those that it is sure of, and of an ensemble's what its models put together.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ucl.agree import agree
from ucl.artifacts import BAD_IMAGE, CUT_BY_DISTANCE, DISSOLVED, DROPPED_BY_VOTE, FLAGS, KEPT, NOT_CONFIDENT, PULLED_BACK, Labels, Samples, replace
from ucl.confidence import confident_labels
from ucl.context import Context
from ucl.errors import DataError, UsageError
from ucl.settings import PurifySettings

log = logging.getLogger(__name__)

_ROUNDING = 1e-9
"""Makes floor(size * share) exact for shares written in decimal: 10 * (1 - 0.9) keeps 1, not 0."""


def purify(labels: Labels, settings: PurifySettings, context: Context) -> Labels:
    """The same labels with the doubtful ones set to -1, by distance or confidence; of several models `joined` makes labels.

    By confidence, those whose largest probability is not above ``threshold`` (NOT_CONFIDENT), then members of clusters that are
    left with fewer than ``min_size`` (DISSOLVED).  Probabilities are /probs; without them a /score from 0 to 1 that no vote made will do.

    By distance, in this order: members far from the mean are cut (CUT_BY_DISTANCE), ties by row; with ``votes``, kept members whose score
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
        DataError: distances, anchors or probabilities that are needed and missing or no number; a history of other images, without
            the row of the present labels, or with a labelled row in no cluster; purified labels without a history; labels of several models.
        UsageError: the rule agree.
    """
    context = dataclasses.replace(context, stage=context.stage or "purify")
    if settings.rule == "agree":
        raise UsageError("rule agree: found the labels of one model, wanted those of at least 2", "ucl purify --rule agree LABELS LABELS ...")
    raw = _raw(labels)
    if settings.rule == "confident":
        return _confident(labels, raw, settings, context)
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
    _dissolve(state, cluster, settings.min_size)
    read = {name: value for name, value in settings.as_dict().items() if name != "rule" and name not in settings.unread}
    facts = read | {"voted": past is not None} | _counts(state, (KEPT, CUT_BY_DISTANCE, DROPPED_BY_VOTE, PULLED_BACK, DISSOLVED))
    all_scores = _scores(labels)
    if past is not None:
        all_scores = np.full(len(raw), np.nan, np.float32)
        all_scores[member] = score
    return _made(labels, raw, member, state, all_scores, facts, context)


def joined(members: Sequence[Labels], names: Sequence[str], settings: PurifySettings, context: Context) -> Labels:
    """What several models agree on: groups of images that at least ``settings.agree`` of them (0: all) put into one cluster.

    Joined are the labels as they were clustered, also of a file that was purified.  Ids of different models mean nothing to each other.

    Args:
        members: labels (N,) of each model, of the same images in the same order; probabilities, means and the like are not looked at.
        names: of each, for messages.
        settings: of the rule agree.
        context: where this happens.  What comes of several models is of no plan: method, epoch and seed are left out.

    Returns:
        Labels of one id for each group of images that all models agree on, numbered by first row; DROPPED_BY_VOTE and -1 for an image
        without a label in some model and, where all must agree, without a partner; ``pred`` (E, N) what was joined, by which fewer than
        all models connect the pairs of a batch; sizes; one row of history.  Time and memory are linear in E * N.

    Raises:
        DataError: other images, labels that are joined already, or purified ones without a history.  UsageError: more than all must agree.
    """
    samples: Samples | None = None
    whose, raw = "", []
    for one, name in zip(members, names, strict=True):
        raw.append(_raw(one, name))
        if len(raw[-1]) != len(raw[0]):
            raise DataError(f"{name}: {len(raw[-1])} rows, expected {len(raw[0])} as in {names[0]}", _ALIGN)
        if one.samples is None:
            continue
        if samples is not None and one.samples.digest != samples.digest:
            raise DataError(f"{name}: {one.samples.unlike(samples, whose)}", _ALIGN)
        samples, whose = _worst(samples, one.samples), whose or name
    twice = next((pair for pair in itertools.combinations(range(len(raw)), 2) if np.array_equal(raw[pair[0]], raw[pair[1]])), None)
    if twice is not None:
        log.warning("%s and %s give every image the same cluster: is one model counted twice?", *(names[i] for i in twice))
    found = agree(raw, settings.agree)
    labels, bad = found.labels, np.zeros(len(raw[0]), bool) if samples is None else ~samples.ok
    if found.unanimous and not len(found.size):
        log.warning("no two images are in one cluster of all %d models", len(raw))
    flag = np.where(bad, BAD_IMAGE, np.where(labels >= 0, KEPT, DROPPED_BY_VOTE)).astype(np.uint8)
    said = found.summary()
    facts = {"rule": settings.rule, "agree": found.at_least, **{name: value for name, value in said.items() if name != "at_least"}}
    beside = Context(stage=context.stage or "purify", images=int((~bad).sum()),
                     samples_digest="" if samples is None else samples.digest)
    return Labels(labels, flag, weight=(labels >= 0).astype(np.float32), size=found.size, history=labels[None].copy(),
                  history_epoch=np.array([max(m.context.epoch for m in members)], np.int32), samples=samples, pred=found.pred,
                  info={"method": settings.rule, "k": len(found.size), "images": int((~bad).sum()), "purify": facts}, context=beside)


_ALIGN = "labels of the same images in the same order; ucl align makes them so"


def _worst(a: Samples | None, b: Samples) -> Samples:
    """The same images, usable where they are in both lists."""
    if a is None:
        return b
    return a if np.array_equal(a.status, b.status) else Samples(a.path, np.where(a.ok, b.status, a.status))


def score_range(decay: float, past: int) -> tuple[float, float]:
    """(lowest, highest) score that ``past`` epochs can give: the present one counts 1, the k-th last decay**k."""
    high = float(sum(decay**k for k in range(past + 1)))
    return 2 - high, high


def _raw(labels: Labels, name: str = "labels") -> NDArray[np.int32]:
    """The labels (N,) to purify: as given, or, where they have been purified, as they were clustered; -1 for bad images."""
    if labels.pred is not None:
        raise DataError(f"{name}: what {len(labels.pred)} models agree on, expected the labels of one model", "name the labels of each model")
    raw = labels.raw() if labels.purified else labels.labels
    if raw is None:
        raise DataError(f"{name}: purified already, and no /history to take the labels before that from",
                        "purify what ucl cluster made")
    return raw if labels.samples is None else np.where(labels.samples.ok, raw, np.int32(-1))


def _confident(labels: Labels, raw: NDArray[np.int32], settings: PurifySettings, context: Context) -> Labels:
    """`purify` by the rule confident."""
    if settings.threshold < 0.5:
        log.warning("threshold %g: below 0.5 two clusters may be above it; the more probable one counts", settings.threshold)
    member = np.flatnonzero(raw >= 0)
    sure = _sure(labels, raw, settings.threshold)[member]
    scores = _scores(labels)
    if len(member) and not sure.any():
        top = (scores if labels.probs is None else labels.probs.max(axis=1))[member].max()  # type: ignore[index]
        log.warning("no image is above the threshold %g: the largest probability is %.4g", settings.threshold, top)
    state = np.where(sure, np.uint8(KEPT), np.uint8(NOT_CONFIDENT))
    _dissolve(state, np.unique(raw[member], return_inverse=True)[1], settings.min_size)
    facts = {"rule": settings.rule, "threshold": settings.threshold, "min_size": settings.min_size}
    return _made(labels, raw, member, state, scores, facts | _counts(state, (KEPT, NOT_CONFIDENT, DISSOLVED)), context)


def _sure(labels: Labels, raw: NDArray[np.int32], threshold: float) -> NDArray[np.bool_]:
    """Which rows (N,) have a label whose probability is above the threshold."""
    member = raw >= 0
    if labels.probs is None:
        score = None if _voted(labels) else labels.score
        if score is None or not ((score[member] >= 0) & (score[member] <= 1)).all():
            what = "none" if score is None or np.isnan(score[member]).any() else "a score outside of 0 to 1"
            raise DataError(f"labels: /probs: missing, and of /score found {what}; confident needs a probability in every row that has a label",
                            "ucl cluster --method argmax --probs keeps them")
        return member & (score > np.asarray(threshold, score.dtype))
    if raw.max(initial=-1) >= labels.probs.shape[1]:
        raise DataError(f"labels: /probs: {labels.probs.shape[1]} classes, expected at least {int(raw.max()) + 1} as in /labels",
                        "make the labels again")
    sure: NDArray[np.bool_] = confident_labels(labels.probs, threshold, member) >= 0
    rows = np.flatnonzero(sure)
    other = rows[labels.probs[rows, raw[rows]] < labels.probs[rows].max(axis=1)]
    if len(other):
        row = int(other[0])
        raise DataError(f"labels: row {row} is in cluster {raw[row]}, and most probable in {int(labels.probs[row].argmax())} by /probs",
                        "probabilities and labels of one classifier")
    return sure


def _voted(labels: Labels) -> bool:
    """Whether /score holds the votes of an earlier purification."""
    return bool(labels.info.get("purify", {}).get("voted"))


def _scores(labels: Labels) -> NDArray[np.float32] | None:
    """The scores (N,) where nobody votes: as they were before votes that had been taken, NaN where that is not known."""
    if labels.score is None or not _voted(labels):
        return labels.score
    return np.full(len(labels.score), np.nan, np.float32) if labels.probs is None else labels.probs.max(axis=1)


def _dissolve(state: NDArray[np.uint8], cluster: NDArray[np.int64], least: int) -> None:
    """Set the members (M,) of clusters with fewer than so many left to DISSOLVED, in place."""
    in_cluster = (state == KEPT) | (state == PULLED_BACK)
    left = np.bincount(cluster[in_cluster], minlength=int(cluster.max(initial=-1)) + 1)
    state[in_cluster & (left[cluster] < least)] = DISSOLVED


def _counts(state: NDArray[np.uint8], flags: tuple[int, ...]) -> dict[str, int]:
    """How many members there are, and how many of them have each of these flags."""
    return {"members": len(state)} | {FLAGS[flag].lower(): int((state == flag).sum()) for flag in flags}


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


def _made(labels: Labels, raw: NDArray[np.int32], member: NDArray[np.int64], state: NDArray[np.uint8], score: NDArray[np.float32] | None,
          facts: dict[str, Any], context: Context) -> Labels:
    """Labels and flags of all rows from those of the members, and what the summary says."""
    new, flag = raw.copy(), _flag(labels, raw)
    new[member[(state != KEPT) & (state != PULLED_BACK)]] = -1
    flag[member] = state
    facts = facts | {"clusters": len(np.unique(raw[member])), "clusters_left": len(np.unique(new[new >= 0]))}
    purified: Labels = replace(labels, labels=new, flag=flag, score=score, info={**labels.info, "purify": facts}, recipe="", context=context,
                               provenance=list(labels.provenance))
    return purified


def _flag(labels: Labels, raw: NDArray[np.int32]) -> NDArray[np.uint8]:
    """The flags (N,) before purification, a copy; where none were given, BAD_IMAGE by status and KEPT otherwise."""
    flag = np.full(len(labels.labels), KEPT, np.uint8) if labels.flag is None else labels.flag.copy()
    if labels.samples is not None:
        flag[~labels.samples.ok] = BAD_IMAGE
    return np.where(raw >= 0, np.uint8(KEPT), flag)

"""ucl.purify against plain loops; the worked numbers of PCP's CPr and CPs."""

import logging
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ucl.artifacts import BAD_IMAGE, CUT_BY_DISTANCE, DISSOLVED, DROPPED_BY_VOTE, KEPT, PULLED_BACK, UNREADABLE, Labels, Samples
from ucl.context import Context
from ucl.errors import DataError
from ucl.purify import purify, score_range
from ucl.settings import PurifySettings


def loop(labels: np.ndarray, distance: np.ndarray, flag: np.ndarray, percent: int,
         min_size: int) -> tuple[np.ndarray, np.ndarray]:
    """The rule in integers, one member at a time."""
    new, flag = labels.copy(), flag.copy()
    for c in sorted(set(labels[labels >= 0].tolist())):
        members = sorted(np.flatnonzero(labels == c).tolist(), key=lambda i: (distance[i], i))
        keep = len(members) * percent // 100
        for i in members[keep:]:
            new[i], flag[i] = -1, CUT_BY_DISTANCE
        if keep < min_size:
            for i in members[:keep]:
                new[i], flag[i] = -1, DISSOLVED
    return new, flag


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 100), st.integers(1, 5), st.integers(0, 80))
def test_same_as_a_plain_loop_and_only_removes(seed: int, percent: int, min_size: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, 8, n).astype(np.int32)
    distance = rng.integers(0, 6, n).astype(np.float32)                 # many ties
    distance[labels < 0] = np.nan
    flag = np.where(labels < 0, BAD_IMAGE, KEPT).astype(np.uint8)
    before = (labels.copy(), flag.copy())
    options = PurifySettings(keep_nearest=percent / 100, min_size=min_size)
    y = purify(Labels(labels, flag=flag, distance=distance), options, Context())
    wanted = loop(labels, distance, flag, percent, min_size)
    assert y.labels.tolist() == wanted[0].tolist()
    assert y.flag.tolist() == wanted[1].tolist()
    assert ((y.labels == labels) | (y.labels == -1)).all()
    assert (labels == before[0]).all()
    assert (flag == before[1]).all()
    said = y.info["purify"]
    assert said["members"] == (labels >= 0).sum()
    assert said["kept"] + said["cut_by_distance"] + said["dissolved"] == said["members"]


def test_defaults_are_the_identity() -> None:
    labels = np.array([0, 2, 2, -1], np.int32)
    y = purify(Labels(labels), PurifySettings(), Context())
    assert y.labels.tolist() == labels.tolist()
    assert y.flag.tolist() == [KEPT] * 4
    assert y.context.stage == "purify"


@pytest.mark.parametrize(("size", "removed", "kept"), [
    (1, 0.5, 0), (2, 0.5, 1), (3, 0.5, 1), (4, 0.5, 2), (5, 0.5, 2), (6, 0.5, 3), (7, 0.5, 3), (10, 0.5, 5),
    (10, 0.9, 1), (9, 0.9, 0), (100, 0.99, 1), (10, 0.8, 2), (10, 0.3, 7), (10, 0.0, 10)])
def test_kept_counts_of_the_paper(size: int, removed: float, kept: int) -> None:
    """Members kept of clusters of 1 to 100, for gamma 0.5, 0.9, 0.99 and more."""
    labels = Labels(np.zeros(size, np.int32), distance=np.arange(size, dtype=np.float32))
    y = purify(labels, PurifySettings(keep_nearest=1 - removed), Context())
    assert (y.labels >= 0).tolist() == [True] * kept + [False] * (size - kept)


def test_worked_example() -> None:
    distance = np.array([0.205913, 0.228035, 0.5004, 0.404969, 0.733757, 0.926499], np.float32)
    y = purify(Labels(np.zeros(6, np.int32), distance=distance), PurifySettings(keep_nearest=0.5), Context())
    assert np.flatnonzero(y.labels == 0).tolist() == [0, 1, 3]


def test_dissolved_clusters_keep_the_flags_of_those_cut_before() -> None:
    labels = Labels(np.array([0, 0, 1, 1, 1, 1], np.int32), distance=np.array([1, 2, 1, 2, 3, 4], np.float32))
    y = purify(labels, PurifySettings(keep_nearest=0.5, min_size=2), Context())
    assert y.labels.tolist() == [-1, -1, 1, 1, -1, -1]
    assert y.flag.tolist() == [DISSOLVED, CUT_BY_DISTANCE, KEPT, KEPT, CUT_BY_DISTANCE, CUT_BY_DISTANCE]
    assert (y.info["purify"]["clusters"], y.info["purify"]["clusters_left"]) == (2, 1)


def test_distances_are_needed_only_where_they_are_used() -> None:
    labels = Labels(np.array([0, 0, 1], np.int32))
    assert purify(labels, PurifySettings(min_size=2), Context()).labels.tolist() == [0, 0, -1]
    with pytest.raises(DataError, match="no /distance") as raised:
        purify(labels, PurifySettings(keep_nearest=0.9), Context())
    assert "ucl cluster" in raised.value.hint
    labels.distance = np.array([0, np.nan, 0], np.float32)
    with pytest.raises(DataError, match="NaN in row 1"):
        purify(labels, PurifySettings(keep_nearest=0.9), Context())


def test_flags_are_made_from_the_status_and_huge_ids_cost_nothing() -> None:
    samples = Samples(np.array([b"a", b"b"]), np.array([UNREADABLE, 0], np.uint8))
    y = purify(Labels(np.array([-1, 2**31 - 2], np.int32), samples=samples), PurifySettings(), Context())
    assert y.flag.tolist() == [BAD_IMAGE, KEPT]


# ---- votes: CPs


def votes(**changes: Any) -> PurifySettings:
    return PurifySettings(**({"keep_nearest": 0.5, "min_size": 2, "votes": True} | changes))


def drawn(seed: int, n: int, k: int, past: int) -> Labels:
    """Random labels whose history mostly agrees, with ids permuted in every epoch; distances with ties; some bad images."""
    rng = np.random.default_rng(seed)
    bad = rng.random(n) < 0.1
    base = rng.integers(0, k, n)
    stable = rng.random(n) * 0.4
    rows = []
    for _ in range(past + 1):
        row = rng.permutation(k)[np.where(rng.random(n) < stable, rng.integers(0, k, n), base)]
        rows.append(np.where(bad, -1, row))
    history = np.array(rows, np.int32).reshape(past + 1, n)
    distance = np.where(bad, np.nan, rng.integers(0, 9, n)).astype(np.float32)
    return Labels(history[-1].copy(), flag=np.where(bad, BAD_IMAGE, KEPT).astype(np.uint8), distance=distance, size=np.bincount(
        history[-1][~bad], minlength=k), history=history, history_epoch=np.arange(past + 1, dtype=np.int32) + 100)


def pcp(labels: Labels, s: PurifySettings) -> tuple[list[int], list[int], list[float]]:
    """Section 5.1 member by member: labels, flags, scores."""
    raw, distance, history = labels.labels.tolist(), labels.distance.tolist(), labels.history.tolist()
    new, flag, score = [-1] * len(raw), labels.flag.tolist(), [float("nan")] * len(raw)
    stopped = False
    for c in range(labels.k):
        members = sorted((i for i in range(len(raw)) if raw[i] == c), key=lambda i: (distance[i], i))
        if s.early_return and len(members) < 2:
            stopped = True
        if stopped:
            for i in members:
                flag[i] = DISSOLVED
            continue
        if not members:
            continue
        anchor, size = members[0], len(members)
        percent = round(100 * min(s.keep_nearest, s.keep_cap))
        keep = size if size <= s.whole_up_to else size * percent // 100
        inside, outside = members[:keep], members[keep:]
        for i in outside:
            flag[i] = CUT_BY_DISTANCE
        if s.votes and len(history) > s.vote_history:
            for i in members:
                score[i] = sum(s.vote_decay**back * (1 if history[-1 - back][i] == history[-1 - back][anchor] else -1)
                               for back in range(s.vote_history + 1))
            dropped = [i for i in inside if i != anchor and score[i] < s.drop_below]
            pulled = [i for i in outside if score[i] >= s.pull_back_from]
            for i in dropped:
                flag[i] = DROPPED_BY_VOTE
            for i in pulled:
                flag[i] = PULLED_BACK
            inside = [i for i in inside if i not in dropped] + pulled
        for i in inside:
            if len(inside) >= s.min_size:
                new[i] = c
            else:
                flag[i] = DISSOLVED
    return new, flag, score


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 120), st.integers(1, 12), st.integers(0, 6), st.data())
def test_same_as_the_papers_procedure_member_by_member(seed: int, n: int, k: int, past: int, data: st.DataObject) -> None:
    """Also that nobody joins another cluster than his own, that a cluster is empty or large enough, and that empty ones are passed over."""
    labels = drawn(seed, n, k, past)
    s = PurifySettings(keep_nearest=data.draw(st.integers(0, 100)) / 100, min_size=data.draw(st.integers(1, 4)),
                       whole_up_to=data.draw(st.sampled_from((0, 0, 5, 9))), keep_cap=data.draw(st.sampled_from((1.0, 1.0, 0.5))),
                       early_return=data.draw(st.booleans()), votes=data.draw(st.sampled_from((True, True, False))),
                       vote_history=data.draw(st.integers(1, 5)), vote_decay=data.draw(st.sampled_from((0.8, 0.9, 0.5, 1.0))),
                       drop_below=data.draw(st.sampled_from((0.0, 1.0, 9.0))), pull_back_from=data.draw(st.sampled_from((3.0, 2.0, 1.0))))
    kept = (labels.labels.copy(), labels.history.copy(), labels.flag.copy())
    y = purify(labels, s, Context())
    wanted = pcp(labels, s)
    assert y.labels.tolist() == wanted[0]
    assert y.flag.tolist() == wanted[1]
    assert np.array_equal(y.score, np.array(wanted[2], np.float32), equal_nan=True) if y.score is not None else not y.info["purify"]["voted"]
    said = y.info["purify"]
    assert said["voted"] == (s.votes and past >= s.vote_history)
    assert said["members"] == sum(said[name] for name in ("kept", "cut_by_distance", "dropped_by_vote", "pulled_back", "dissolved"))
    assert ((y.labels == -1) | (y.labels == kept[0])).all()                    # nobody joins another cluster
    sizes = np.bincount(y.labels[y.labels >= 0], minlength=1)
    assert ((sizes == 0) | (sizes >= s.min_size)).all()
    for before, after in zip(kept, (labels.labels, labels.history, labels.flag), strict=True):
        assert (before == after).all()                                       # nothing given was changed
    again = purify(y, s, Context())
    assert np.array_equal(again.labels, y.labels)
    assert np.array_equal(again.flag, y.flag)


def test_votes_occur_in_the_drawn_cases() -> None:
    """The comparison above would say little if every case were alike."""
    seen = [purify(drawn(seed, 120, 6, 5), votes(vote_history=5, pull_back_from=2.5), Context()).info["purify"] for seed in range(40)]
    for name in ("kept", "cut_by_distance", "dropped_by_vote", "pulled_back", "dissolved"):
        assert sum(said[name] for said in seen) > 20, name


def one_cluster(disagree: dict[int, set[int]], past: int = 15, distance: Any = None) -> Labels:
    """Six members, of which some were elsewhere than the anchor, row 0, in the k-th last epochs named."""
    d = np.array([0.205913, 0.228035, 0.5004, 0.404969, 0.733757, 0.926499] if distance is None else distance, np.float32)
    history = np.zeros((past + 1, len(d)), np.int32)
    for row, when in disagree.items():
        for k in when:
            history[-1 - k, row] = 1
    return Labels(np.zeros(len(d), np.int32), distance=d, history=history, history_epoch=np.arange(past + 1, dtype=np.int32))


def test_worked_purification() -> None:
    """PCP by numbers: one cluster of six, its mean, anchor and distances, five histories; with a short history distance alone decides."""
    x = np.array([(1, 0), (.96, .28), (.8, .6), (.96, -.28), (.6, .8), (.6, -.8)])
    mean = x.mean(axis=0)
    assert mean == pytest.approx([0.82, 0.10])
    distance = np.linalg.norm(x - mean, axis=1)
    elsewhere = {1: {1, 2, 3, 4}, 2: set(range(1, 16)), 3: {1, 2, 3, 4, 5}, 4: {1, 10}, 5: {1, 9}}
    y = purify(one_cluster(elsewhere, distance=distance), votes(), Context())
    assert np.flatnonzero(y.labels == 0).tolist() == [0, 1, 4]
    assert y.flag.tolist() == [KEPT, KEPT, CUT_BY_DISTANCE, DROPPED_BY_VOTE, PULLED_BACK, CUT_BY_DISTANCE]
    assert y.score == pytest.approx([4.859263, 0.136063, -2.859263, -0.519297, 3.044514, 2.990827], abs=1e-6)
    elsewhere = {row: when - {15} for row, when in elsewhere.items()}
    y = purify(one_cluster(elsewhere, past=14, distance=distance), votes(), Context())
    assert np.flatnonzero(y.labels == 0).tolist() == [0, 1, 3]


@pytest.mark.parametrize(("elsewhere", "score", "outcome"), [
    ({1}, 3.259263, PULLED_BACK), ({2}, 3.579263, PULLED_BACK), ({1, 10}, 3.044514, PULLED_BACK), ({1, 9}, 2.990827, CUT_BY_DISTANCE),
    ({1, 2}, 1.979263, CUT_BY_DISTANCE), ({1, 2, 3, 4}, 0.136063, KEPT), ({1, 2, 3, 4, 5}, -0.519297, DROPPED_BY_VOTE),
    (set(range(3, 16)), 0.020737, KEPT), (set(range(2, 16)), -1.259263, DROPPED_BY_VOTE), (set(range(6, 16)), 2.519297, CUT_BY_DISTANCE),
    (set(range(7, 16)), 3.043585, PULLED_BACK)])
def test_scores_of_the_paper(elsewhere: set[int], score: float, outcome: int) -> None:
    """Decay 0.8 over 15 past epochs: who is dropped, kept, left out and pulled back for which disagreements."""
    row = 1 if outcome in (KEPT, DROPPED_BY_VOTE) else 5                      # a near member, or a far one
    y = purify(one_cluster({row: elsewhere}), votes(), Context())
    assert y.score[row] == pytest.approx(score, abs=1e-6)
    assert y.flag[row] == outcome


@pytest.mark.parametrize(("past", "high"), [(0, 1), (1, 1.8), (2, 2.44), (3, 2.952), (4, 3.3616), (15, 4.859263)])
def test_bounds_of_the_score(past: int, high: float) -> None:
    """Highest and lowest score of 0 to 15 past epochs."""
    low, top = score_range(0.8, past)
    assert top == pytest.approx(high, abs=1e-6)
    assert low == pytest.approx(2 - high, abs=1e-6)
    if past:
        y = purify(one_cluster({1: set(range(1, past + 1))}, past), votes(vote_history=past), Context())
        assert y.score[:2] == pytest.approx([high, 2 - high], abs=1e-6)


def test_where_votes_can_change_nothing() -> None:
    """Three past epochs pull nobody back, nor does a decay up to 2/3; one drops nobody, nor does a decay up to 1/2."""
    everybody = {row: set(range(1, 16)) for row in range(1, 6)}
    agree, disagree = one_cluster({}), one_cluster(everybody)
    for changes in ({"vote_history": 1}, {"vote_history": 3}, {"vote_decay": 0.66}):
        assert purify(agree, votes(**changes), Context()).info["purify"]["pulled_back"] == 0
    for changes in ({"vote_history": 1}, {"vote_decay": 0.5}):
        assert purify(disagree, votes(**changes), Context()).info["purify"]["dropped_by_vote"] == 0
    assert purify(agree, votes(vote_history=4), Context()).info["purify"]["pulled_back"] == 3
    assert purify(disagree, votes(vote_history=2), Context()).info["purify"]["dropped_by_vote"] == 2


@pytest.mark.parametrize("removed", [0.5, 1.0])
def test_full_agreement_returns_the_whole_cluster(removed: float) -> None:
    """Votes can bring back all that was cut, also where gamma 1 cut everybody; without them nothing is left."""
    y = purify(one_cluster({}), votes(keep_nearest=1 - removed), Context())
    assert (y.labels == 0).all()
    assert y.flag.tolist() == [KEPT if removed < 1 and row in (0, 1, 3) else PULLED_BACK for row in range(6)]
    short = purify(one_cluster({}, past=14), votes(keep_nearest=0.0), Context())
    assert (short.labels == -1).all()                                         # no vote: every image is its own class


def test_keeping_everything_without_votes_leaves_raw_labels_but_singletons() -> None:
    """Gamma 0 without votes; as many clusters as images leave none."""
    labels = Labels(np.array([0, 0, 2, 3, 3, 3, -1], np.int32))
    y = purify(labels, PurifySettings(keep_nearest=1.0, min_size=2), Context())
    assert y.labels.tolist() == [0, 0, -1, 3, 3, 3, -1]
    own = purify(Labels(np.arange(9, dtype=np.int32), distance=np.zeros(9, np.float32)), votes(votes=False), Context())
    assert (own.labels == -1).all()                                           # k = N


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_ids_of_an_epoch_and_the_order_of_rows_mean_nothing(seed: int) -> None:
    """Clusters of an epoch may be renamed, and samples re-ordered."""
    rng = np.random.default_rng(seed)
    labels = drawn(seed, 90, 7, 4)
    labels.distance = np.where(labels.labels < 0, np.nan, rng.permutation(90)).astype(np.float32)     # no ties
    s = votes(vote_history=4, pull_back_from=2.5)
    y = purify(labels, s, Context())
    other = drawn(seed, 90, 7, 4)
    other.distance = labels.distance
    for row in other.history[:-1]:
        row[row >= 0] = rng.permutation(50)[row[row >= 0]]
    assert np.array_equal(purify(other, s, Context()).labels, y.labels)
    order = rng.permutation(90)
    moved = Labels(labels.labels[order], flag=labels.flag[order], distance=labels.distance[order], history=labels.history[:, order],
                   history_epoch=labels.history_epoch)
    z = purify(moved, s, Context())
    assert np.array_equal(z.labels, y.labels[order])
    assert np.array_equal(z.flag, y.flag[order])


def test_the_sixteenth_term_is_a_setting() -> None:
    """15 past epochs are 16 terms, as in the released code; 14 are the paper's 15."""
    labels = one_cluster({4: {1, 10}})
    assert purify(labels, votes(), Context()).score[4] == pytest.approx(3.044514, abs=1e-6)
    assert purify(labels, votes(vote_history=14), Context()).score[4] == pytest.approx(3.044514 - 0.8**15, abs=1e-6)


def test_whole_up_to_cap_and_early_return() -> None:
    sizes = [3, 5, 6, 1, 4]
    labels = Labels(np.repeat(np.arange(5), sizes).astype(np.int32), distance=np.concatenate([np.arange(s) for s in sizes]).astype(np.float32))

    def left(**changes: Any) -> list[int]:
        y = purify(labels, PurifySettings(**({"keep_nearest": 0.5, "min_size": 2} | changes)), Context())
        return np.bincount(y.labels[y.labels >= 0], minlength=5).tolist()

    assert left() == [0, 2, 3, 0, 2]
    assert left(whole_up_to=5) == [3, 5, 3, 0, 4]
    assert left(keep_nearest=1.0, keep_cap=0.5) == left(keep_nearest=0.7, keep_cap=0.5) == [0, 2, 3, 0, 2]
    assert left(keep_nearest=0.3, keep_cap=0.5) == left(keep_nearest=0.3) == [0, 0, 0, 0, 0]
    assert left(whole_up_to=5, early_return=True) == [3, 5, 3, 0, 0]
    labels.labels[labels.labels >= 1] += 1                                    # cluster 1 is empty now: it stops there
    assert left(whole_up_to=5, early_return=True)[:3] == [3, 0, 0]
    y = purify(labels, PurifySettings(early_return=True), Context())
    assert y.flag[labels.labels > 0].tolist() == [DISSOLVED] * 16


def test_anchors_are_the_labels_own() -> None:
    labels = one_cluster({1: {1, 2, 3, 4, 5}})
    own = purify(labels, votes(), Context())
    labels.anchor = np.array([0, -1])
    assert np.array_equal(purify(labels, votes(), Context()).score, own.score)
    labels.anchor = np.array([1])                                             # seen from row 1 all others were elsewhere
    assert purify(labels, votes(), Context()).score == pytest.approx([-0.519297, 4.859263, *[-0.519297] * 4], abs=1e-6)
    for wrong, text in ((np.array([6]), "row 6 for cluster 0"), (np.array([-1]), "row -1"), (np.zeros(0, int), "0 clusters")):
        labels.anchor = wrong
        with pytest.raises(DataError, match=text):
            purify(labels, votes(), Context())
    labels.anchor, labels.distance = np.array([0]), None                      # then nothing but the history is needed
    assert purify(labels, votes(keep_nearest=1.0), Context()).labels.tolist() == [0, -1, 0, 0, 0, 0]


def test_a_short_history_skips_the_votes_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    for labels in (one_cluster({}, past=14), Labels(np.zeros(6, np.int32), distance=np.arange(6, dtype=np.float32))):
        with caplog.at_level(logging.WARNING):
            y = purify(labels, votes(), Context())
        past = 14 if labels.history is not None else 0
        assert [r.getMessage() for r in caplog.records] == [f"votes need 15 past epochs, the history has {past}: no votes"]
        assert (y.info["purify"]["voted"], int((y.labels >= 0).sum())) == (False, 3)
        caplog.clear()
    y = purify(one_cluster({1: {1, 2, 3, 4, 5}}, past=20), votes(), Context())   # a longer one is no fault
    assert y.flag[1] == DROPPED_BY_VOTE


def test_a_history_that_does_not_fit_is_refused() -> None:
    def refused(text: str, **changes: Any) -> None:
        labels = one_cluster({})
        for name, value in changes.items():
            setattr(labels, name, value)
        with pytest.raises(DataError, match=text):
            purify(labels, votes(), Context())

    history = one_cluster({}).history
    refused("shape \\(16, 7\\)", history=np.zeros((16, 7), np.int32))
    refused("epoch: missing", history_epoch=None)
    refused("epoch: \\(15,\\)", history_epoch=np.arange(15))
    refused("row 2 is in cluster 3", labels=np.array([0, 0, 3, 0, 0, 0], np.int32))     # the present epoch has no row
    gap = history.copy()
    gap[5, 4] = -1
    refused("row 4 is in no cluster in epoch 5", history=gap)
    labels = one_cluster({})
    labels.history, labels.labels[4] = gap, -1                                # but a row without a label needs none
    purify(labels, votes(), Context())


def test_purifying_again_starts_from_the_raw_labels() -> None:
    labels = drawn(3, 120, 6, 15)
    strict, loose = votes(keep_nearest=0.2, drop_below=1.0), votes(keep_nearest=0.8)
    twice = purify(purify(labels, strict, Context()), loose, Context())
    once = purify(labels, loose, Context())
    assert np.array_equal(twice.labels, once.labels)
    assert np.array_equal(twice.flag, once.flag)
    assert np.array_equal(twice.score, once.score, equal_nan=True)
    assert twice.info == once.info
    undone = purify(twice, PurifySettings(), Context())
    assert np.array_equal(undone.labels, labels.labels)
    assert np.array_equal(undone.flag, labels.flag)
    assert np.isnan(undone.score).all()
    bare = Labels(np.zeros(4, np.int32), distance=np.arange(4, dtype=np.float32))
    with pytest.raises(DataError, match="purified already"):
        purify(purify(bare, votes(votes=False), Context()), PurifySettings(), Context())


def test_bad_images_lose_a_label_that_a_stage_gave_them() -> None:
    samples = Samples(np.array([b"a", b"b", b"c"]), np.array([0, UNREADABLE, 0], np.uint8))
    y = purify(Labels(np.zeros(3, np.int32), samples=samples), PurifySettings(), Context())
    assert y.labels.tolist() == [0, -1, 0]
    assert y.flag.tolist() == [KEPT, BAD_IMAGE, KEPT]


def test_fifty_thousand_rows_are_fast_and_time_is_linear() -> None:
    """Quiet: 13 ms at 50,000 rows, 57 ms at 200,000; the bounds leave room for a busy machine."""
    rng = np.random.default_rng(0)
    seconds = {}
    for n in (50_000, 200_000):
        history = rng.integers(0, 1000, (16, n)).astype(np.int32)
        labels = Labels(history[-1].copy(), distance=rng.random(n).astype(np.float32), history=history, history_epoch=np.arange(16, dtype=np.int32))
        seconds[n] = min(timed(labels) for _ in range(3))
    assert seconds[50_000] < 0.3
    assert seconds[200_000] < 8 * seconds[50_000]


def timed(labels: Labels) -> float:
    start = time.perf_counter()
    purify(labels, votes(), Context())
    return time.perf_counter() - start

"""ucl.samplers: DeepCluster's uniform sampler (fact D5), the released code's two, and the weights of clusters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from ucl.errors import DataError
from ucl.keys import Key
from ucl.samplers import cluster_weights, draw_epoch

KEY = Key(3, stage="train-epoch", epoch=1)
ALL = ("uniform", "truncated", "misindexed", "shuffle")


def labelled(sizes: list[int] | np.ndarray, none: int = 0, seed: int = 0) -> np.ndarray:
    """``sizes[c]`` rows of cluster c and ``none`` of -1, in random order."""
    y = np.concatenate([np.repeat(np.arange(len(sizes)), sizes), np.full(none, -1)])
    return np.random.default_rng(seed).permutation(y).astype(np.int32)


def skewed() -> np.ndarray:
    """100 clusters of 5 to 600 rows, five empty ones, 200 rows of none."""
    sizes = np.geomspace(5, 600, 100).astype(int)
    return labelled(np.concatenate([sizes, np.zeros(5, int)]), none=200)


def counts(y: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
    return np.bincount(y[rows], minlength=k)


# every sampler

@pytest.mark.parametrize("sampler", ALL)
@pytest.mark.parametrize("length", [0.3, 1.0, 2.5])
def test_only_labelled_rows_and_exactly_m_of_them(sampler: str, length: float) -> None:
    y = skewed()
    rows = draw_epoch(y, sampler, length, KEY)
    assert rows.dtype == np.int64
    assert len(rows) == int(length * (y >= 0).sum())                     # -1 does not count towards M
    assert rows.min() >= 0
    assert rows.max() < len(y)
    assert (y[rows] >= 0).all()
    assert not counts(y, rows, 105)[100:].any()                          # empty clusters are never drawn


@pytest.mark.parametrize("sampler", ALL)
def test_the_key_is_all_the_chance_there_is(sampler: str) -> None:
    y = skewed()
    before = y.copy()
    a = draw_epoch(y, sampler, 1.0, KEY)
    assert (draw_epoch(y, sampler, 1.0, KEY) == a).all()
    assert (y == before).all()
    for other in (KEY.at(epoch=2), KEY.at(seed=4), KEY.at(stage="refine")):
        assert (draw_epoch(y, sampler, 1.0, other) != a).mean() > 0.9


@pytest.mark.parametrize("sampler", ALL)
def test_the_order_of_an_epoch_is_mixed(sampler: str) -> None:
    """Neither rows nor clusters come in order, so a batch holds all clusters."""
    y = np.repeat(np.arange(20), 50).astype(np.int32)
    rows = draw_epoch(y, sampler, 1.0, KEY)
    assert abs(np.corrcoef(rows, np.arange(len(rows)))[0, 1]) < 0.1
    for start in range(0, 1000, 200):
        assert len(np.unique(y[rows[start:start + 200]])) == 20


@pytest.mark.parametrize("sampler", ALL)
def test_nothing_labelled_is_an_error(sampler: str) -> None:
    with pytest.raises(DataError, match="no image in a cluster"):
        draw_epoch(np.full(5, -1, np.int32), sampler, 1.0, KEY)
    with pytest.raises(DataError, match="no image in a cluster"):
        draw_epoch(np.zeros(0, np.int32), sampler, 1.0, KEY)


@pytest.mark.parametrize("sampler", ALL)
def test_an_epoch_has_at_least_one_draw(sampler: str) -> None:
    y = np.array([-1, 0, 1, 1], np.int32)
    for length in (0.0, 0.1):
        rows = draw_epoch(y, sampler, length, KEY)
        assert len(rows) == 1
        assert rows[0] in (1, 2, 3)


# uniform

@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=20).filter(any), st.integers(0, 10),
       st.sampled_from([0.2, 0.5, 1.0, 1.7, 3.0]), st.integers(0, 10**6))
def test_uniform_counts_are_within_one_of_each_other(sizes: list[int], none: int, length: float, seed: int) -> None:
    y = labelled(sizes, none, seed)
    rows = draw_epoch(y, "uniform", length, Key(seed))
    m, filled = len(rows), np.array(sizes) > 0
    assert m == max(1, int(length * sum(sizes)))
    n = counts(y, rows, len(sizes))
    assert not n[~filled].any()
    assert set(n[filled].tolist()) <= {m // filled.sum(), m // filled.sum() + 1}
    assert (n[filled] > m // filled.sum()).sum() == m % filled.sum()
    for c in np.flatnonzero(filled):                                     # without replacement iff there are members enough
        mine = rows[y[rows] == c]
        if len(mine) <= sizes[c]:
            assert len(np.unique(mine)) == len(mine)


def test_uniform_remainder_goes_to_other_clusters_in_other_epochs() -> None:
    y = labelled([40] * 8 + [3])                                         # M = 323 = 9 * 35 + 8
    short = {int(counts(y, draw_epoch(y, "uniform", 1.0, KEY.at(epoch=e)), 9).argmin()) for e in range(200)}
    assert short == set(range(9))


def test_uniform_small_clusters_are_drawn_evenly_with_replacement() -> None:
    y = labelled([1000, 10])
    rows = draw_epoch(y, "uniform", 1.0, KEY)
    members = np.bincount(rows, minlength=len(y))[y == 1]
    assert members.sum() == 505
    assert members.min() >= 25                                           # 50.5 expected of each of the ten
    assert members.max() <= 80
    assert len(np.unique(rows[y[rows] == 0])) == 505


def test_uniform_visits_every_image_of_balanced_clusters() -> None:
    y = labelled([100] * 50)
    assert np.sort(draw_epoch(y, "uniform", 1.0, KEY)).tolist() == list(range(5000))


def test_uniform_draws_know_nothing_of_cluster_sizes() -> None:
    """Catches the released index bug (fact D5)."""
    y = skewed()
    size = np.bincount(y[y >= 0])
    for epoch in range(5):
        n = counts(y, draw_epoch(y, "uniform", 1.003, KEY.at(epoch=epoch)), 100)
        assert np.ptp(n) == 1
        assert abs(spearmanr(n, size).statistic) < 0.3


# truncated

@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=20).filter(any), st.sampled_from([0.2, 1.0, 1.7]), st.integers(0, 10**6))
def test_truncated_counts_are_s_less_what_was_cut(sizes: list[int], length: float, seed: int) -> None:
    y = labelled(sizes, 3, seed)
    rows = draw_epoch(y, "truncated", length, Key(seed))
    m, filled = len(rows), np.array(sizes) > 0
    s = m // filled.sum() + 1
    assert m == max(1, int(length * sum(sizes)))
    missing = s - counts(y, rows, len(sizes))
    assert (missing[~filled] == s).all()
    assert (missing[filled] >= 0).all()
    assert missing[filled].sum() == filled.sum() * s - m
    assert 1 <= missing[filled].sum() <= filled.sum()                    # the surplus of the reference
    for c in np.flatnonzero(filled):                                     # with replacement iff |L_c| <= s
        mine = rows[y[rows] == c]
        if sizes[c] > s:
            assert len(np.unique(mine)) == len(mine)


def test_truncated_has_exactly_s_before_the_cut() -> None:
    """M = K' s - 1 cuts a single draw: all other clusters show their s."""
    y = labelled([7, 30, 2, 50, 0, 11])                                  # 100 rows; length 0.99: M = 99 = 5 * 20 - 1
    n = counts(y, draw_epoch(y, "truncated", 0.99, KEY), 6)
    assert sorted(n.tolist()) == [0, 19, 20, 20, 20, 20]
    assert n[4] == 0


def test_truncated_cuts_at_random() -> None:
    y = labelled([20] * 5)                                               # M = 100, s = 21: 5 of 105 are cut
    missing = sum(21 - counts(y, draw_epoch(y, "truncated", 1.0, KEY.at(epoch=e)), 5) for e in range(400))
    assert missing.sum() == 2000
    assert (np.abs(missing - 400) < 100).all()


def test_a_cluster_of_exactly_s_is_drawn_with_replacement_by_truncated_alone() -> None:
    y = labelled([100, 100])
    assert len(np.unique(draw_epoch(y, "uniform", 1.0, KEY))) == 200
    y = labelled([101, 100])                                             # M = 201, s = 101
    rows = draw_epoch(y, "truncated", 1.0, KEY)
    assert len(np.unique(rows[y[rows] == 0])) < 80
    y = labelled([102, 98])                                              # M = 200, s = 101: 102 members are enough
    rows = draw_epoch(y, "truncated", 1.0, KEY)
    mine = rows[y[rows] == 0]
    assert len(np.unique(mine)) == len(mine)


def test_truncated_visits_63_percent_of_balanced_clusters() -> None:
    y = labelled([100] * 100)
    seen = [len(np.unique(draw_epoch(y, "truncated", 1.0, KEY.at(epoch=e)))) / 10_000 for e in range(5)]
    assert np.mean(seen) == pytest.approx(1 - np.exp(-1), abs=0.01)


def test_truncated_draws_know_little_of_cluster_sizes() -> None:
    y = skewed()
    size = np.bincount(y[y >= 0])
    rho = [spearmanr(counts(y, draw_epoch(y, "truncated", 1.0, KEY.at(epoch=e)), 100), size).statistic for e in range(10)]
    assert abs(np.mean(rho)) < 0.1


# misindexed

def test_misindexed_draws_follow_the_cluster_sizes() -> None:
    y = skewed()
    n = counts(y, draw_epoch(y, "misindexed", 1.0, KEY), 100)
    assert spearmanr(n, np.bincount(y[y >= 0])).statistic > 0.9


def test_misindexed_is_truncated_read_in_another_order() -> None:
    """By hand: rows 0..5 of clusters 1 0 1 0 - 0; the re-ordered data set is rows 1 3 5 0 2, row 4 has no place."""
    y = np.array([1, 0, 1, 0, -1, 0], np.int32)
    place = {0: 1, 1: 3, 2: 5, 3: 0, 5: 2}
    drawn = draw_epoch(y, "truncated", 4.0, KEY)
    assert draw_epoch(y, "misindexed", 4.0, KEY).tolist() == [place[r] for r in drawn.tolist()]
    assert set(drawn.tolist()) == set(place)


# shuffle

def test_shuffle_draws_each_once_and_over_again() -> None:
    y = labelled([5, 0, 8], none=4)
    kept = np.flatnonzero(y >= 0).tolist()
    assert sorted(draw_epoch(y, "shuffle", 1.0, KEY).tolist()) == kept
    rows = draw_epoch(y, "shuffle", 2.5, KEY)
    assert len(rows) == 32
    assert sorted(rows[:13].tolist()) == kept
    assert sorted(rows[13:26].tolist()) == kept
    assert rows[:13].tolist() != rows[13:26].tolist()
    assert len(np.unique(rows[26:])) == 6
    half = draw_epoch(y, "shuffle", 0.5, KEY)
    assert half.tolist() == rows[:6].tolist()


# weights

def test_weights_by_hand() -> None:
    y = np.array([0, 0, 0, 0, 2, -1, -1], np.int32)                      # sizes 4, 0, 1
    assert cluster_weights(y, 3, "none").tolist() == [1, 0, 1]
    # 1/N: (1/4, 1), mean over images (4/4 + 1) / 5 = 2/5
    assert cluster_weights(y, 3, "inverse") == pytest.approx([0.625, 0, 2.5])
    # 1/sqrt N: (1/2, 1), mean over images (4/2 + 1) / 5 = 3/5
    assert cluster_weights(y, 3, "inverse-sqrt") == pytest.approx([5 / 6, 0, 5 / 3])
    assert cluster_weights(y, 3, "inverse").dtype == np.float32


@pytest.mark.parametrize("rule", ["none", "inverse", "inverse-sqrt"])
def test_weights_have_mean_one_over_the_images(rule: str) -> None:
    y = skewed()
    w = cluster_weights(y, 105, rule)
    assert w[y[y >= 0]].astype(np.float64).mean() == pytest.approx(1, abs=1e-6)
    assert not w[100:].any()
    size = np.bincount(y[y >= 0])
    power = {"none": 0.0, "inverse": 1.0, "inverse-sqrt": 0.5}[rule]
    assert np.ptp(w[:100] * size**power) < 1e-4 * (w[:100] * size**power).mean()

"""The ensemble's agreement against worked numbers, all pairs, and Python's own dictionaries of tuples."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ucl import agree as module
from ucl.agree import agree, agreement, connected, group_connections, pruned, survivors, tuple_groups
from ucl.confidence import confident_labels
from ucl.errors import DataError, UsageError
from ucl.profeat_settings import default_connections, models_needed

PRED = np.array([(0, 0, 0, 1, 1, 2, 0), (2, 2, 2, 0, 0, 1, 2), (1, 1, 1, 1, 2, 0, 0)], np.int32)


def pairs_of(found: np.ndarray) -> set[str]:
    return {f"{i}{j}" for i, j in itertools.combinations(range(len(found)), 2) if found[i, j]}


def some_predictions(seed: int, e: int, n: int, k: int, missing: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    pred = rng.integers(0, k, (e, n)).astype(np.int32)
    pred[rng.random((e, n)) < missing] = -1
    return pred


# ---- all models must agree


def test_worked_unanimity() -> None:
    """A-PFe-1: three images in one group; up to 2 connections keep it, 3 keep nothing."""
    found = agree(list(PRED), 3)
    assert found.unanimous
    assert found.labels.tolist() == [0, 0, 0, -1, -1, -1, -1]
    assert found.size.tolist() == [3]
    pairs = connected(PRED, 3)
    assert pairs.sum(axis=1).tolist() == group_connections(tuple_groups(PRED)).tolist() == [2, 2, 2, 0, 0, 0, 0]
    assert pairs_of(pairs) == {"01", "02", "12"}
    for least, kept in ((0, [0, 1, 2]), (1, [0, 1, 2]), (2, [0, 1, 2]), (3, [])):
        assert pruned(found.labels, None, 3, least)[0].tolist() == kept
        assert pruned(found.labels, PRED, 3, least)[0].tolist() == kept
    assert agree(list(PRED)).at_least == 3                                    # 0 = all


def test_worked_agreement_of_two_of_three() -> None:
    """A-PFe-2."""
    pairs = connected(PRED, 2)
    assert pairs.sum(axis=1).tolist() == [3, 3, 3, 1, 1, 0, 3]
    everything = {"01", "02", "06", "12", "16", "26", "34"}
    assert pairs_of(pairs) == everything
    found = agree(list(PRED), 2)
    assert not found.unanimous
    for least, kept in ((1, [0, 1, 2, 3, 4, 6]), (2, [0, 1, 2, 6]), (3, [0, 1, 2, 6])):
        keep, same = pruned(found.labels, found.pred, 2, least)
        assert keep.tolist() == kept
        assert {f"{kept[int(a)]}{kept[int(b)]}" for a, b in pairs_of(same)} == {p for p in everything if {int(p[0]), int(p[1])} <= set(kept)}
    assert pruned(found.labels, found.pred, 2, 4)[0].tolist() == []


@pytest.mark.parametrize("at_least", [4, -1, 100])
def test_more_than_all_models_is_refused(at_least: int) -> None:
    """A-PFe-3: what no pair can have is not an empty answer."""
    for call in (lambda: agree(list(PRED), at_least), lambda: connected(PRED, at_least), lambda: models_needed(at_least, 3)):
        with pytest.raises(UsageError, match=f"found {at_least}, wanted 1 to 3"):
            call()


def test_fewer_than_all_is_no_equivalence() -> None:
    """Labels 000, 001, 011 and two of three: the outer ones are not connected."""
    chain = np.array([(0, 0, 0), (0, 0, 1), (0, 1, 1)], np.int32)
    assert pairs_of(connected(chain, 2)) == {"01", "12"}


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 40), st.integers(1, 4))
def test_agreement_is_symmetric_and_knows_no_names(seed: int, e: int, n: int, k: int) -> None:
    """A-PFe-4 and 8."""
    pred = some_predictions(seed, e, n, k)
    count = agreement(pred)
    assert (np.diag(count) == e).all()
    assert np.array_equal(count, count.T)
    assert (count >= 0).all()
    assert (count <= e).all()
    rng = np.random.default_rng(seed)
    renamed = np.stack([rng.permutation(k + 5)[row] for row in pred]).astype(np.int32)
    assert np.array_equal(agreement(renamed), count)
    assert np.array_equal(agree(list(renamed)).labels, agree(list(pred)).labels)
    for at_least in range(2, e + 1):
        assert not (connected(pred, at_least) & ~connected(pred, at_least - 1)).any()
        degree = connected(pred, at_least).sum(axis=1)
        for least in range(1, 6):
            assert not (survivors(degree, least) & ~survivors(degree, least - 1)).any()


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(0, 60), st.integers(1, 5), st.floats(0, 0.3), st.integers(0, 8))
def test_groups_are_the_unique_tuples(seed: int, e: int, n: int, k: int, missing: float, table: int) -> None:
    """A-PFe-5: by a dictionary; numbered by first row, by a table as by sorting; an image that a model left out is in none."""
    pred = some_predictions(seed, e, n, k, missing)
    seen: dict[tuple[int, ...], int] = {}
    wanted = [-1 if min(column) < 0 else seen.setdefault(column, len(seen)) for column in map(tuple, pred.T.tolist())]
    kept = module._TABLE
    try:
        module._TABLE = table
        assert tuple_groups(pred).tolist() == wanted
    finally:
        module._TABLE = kept
    count = Counter(wanted)
    found = agree(list(pred))
    assert ((found.labels >= 0) == [g >= 0 and count[g] > 1 for g in wanted]).all()
    assert np.array_equal((found.labels[:, None] == found.labels) & (found.labels >= 0) & ~np.eye(n, dtype=bool), connected(pred, e))
    assert found.size.sum() == (found.labels >= 0).sum()
    assert (found.size > 1).all()
    assert found.labels.dtype == np.int32
    first = np.unique(found.labels[found.labels >= 0], return_index=True)[1]
    assert (np.diff(first) > 0).all()
    assert np.array_equal(connected(pred, 1), ((pred[:, :, None] == pred[:, None]) & (pred[:, :, None] >= 0)).any(axis=0) & ~np.eye(n, dtype=bool))


def test_one_model_taken_many_times_says_its_own_labels() -> None:
    """A-PFe-4, its last part."""
    y = np.random.default_rng(0).integers(0, 4, 50).astype(np.int32)
    for at_least in (1, 3, 5):
        found = connected(np.stack([y] * 5), at_least)
        assert np.array_equal(found, (y[:, None] == y) & ~np.eye(50, dtype=bool))
    assert np.array_equal(agree([y] * 5).labels, tuple_groups(y[None]))


def test_one_model_is_the_single_rule_but_for_images_without_a_partner() -> None:
    """A-PFe-6."""
    p = np.random.default_rng(1).dirichlet(np.full(6, 0.4), 40)
    y = confident_labels(p, 0.0)
    keep, same = pruned(agree([y], 1).labels, None, 1, 0)
    alone = np.bincount(y)[y] == 1
    assert np.array_equal(keep, np.flatnonzero(~alone))
    assert np.array_equal(same[:, None] == same, y[keep][:, None] == y[keep])


def test_pruning_is_of_the_batch() -> None:
    """A-PFe-9: of one group three images are kept where they meet, and left out where they do not."""
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 2], np.int32)
    assert pruned(labels[[0, 1, 2, 3]], None, 2, 2)[0].tolist() == [0, 1, 2]
    assert pruned(labels[[0, 1, 3, 4]], None, 2, 2)[0].tolist() == []
    keep, same = pruned(labels[[5, 0, 6, 3, 7]], None, 2, 2)
    assert keep.tolist() == [0, 2, 4]
    assert same.tolist() == [2, 2, 2]


def test_a_survivor_may_be_without_partners() -> None:
    """A path a - b - c with 2 connections wanted: b alone stays, in one pass, and its own two views are all it attracts."""
    chain = np.array([(0, 0, 0), (0, 0, 1), (0, 1, 1)], np.int32)
    keep, same = pruned(np.arange(3), chain, 2, 2)
    assert keep.tolist() == [1]
    assert same.tolist() == [[False]]


def test_all_images_of_one_tuple_have_no_negatives() -> None:
    """A-PFe-10."""
    found = agree([np.zeros(6, np.int32)] * 3)
    keep, same = pruned(found.labels, None, 3, 1)
    assert len(keep) == 6
    assert len(np.unique(same)) == 1


def test_by_chance_next_to_nothing_agrees() -> None:
    """Five independent labelings of 10: 1e-5 of the pairs, 1.3 in a batch of 512."""
    found = np.mean([connected(some_predictions(seed, 5, 512, 10), 5).sum() / 2 for seed in range(60)])
    assert found == pytest.approx(1.3, abs=0.6)                               # four standard errors


def test_connections_wanted_are_the_papers() -> None:
    """t_c: 20 of 512 and 10 clusters, 10 for 20; in small as many."""
    assert [default_connections(512, 10), default_connections(512, 20), default_connections(128, 10)] == [20, 10, 5]


def test_what_does_not_belong_together_is_refused() -> None:
    with pytest.raises(DataError, match="model 2 have shape"):
        agree([np.zeros(3, np.int32), np.zeros(4, np.int32)])
    with pytest.raises(DataError, match="found none"):
        agree([])


def test_summary_counts_what_is_labelled() -> None:
    assert agree(list(PRED), 3).summary() == {"models": 3, "at_least": 3, "groups": 1, "largest": 3, "labelled": 3, "labelled_share": 3 / 7}
    two = agree(list(PRED), 2)
    assert two.labels.tolist() == [0, 0, 0, 1, 2, 3, 4]                       # who has a partner is then the batch's to say
    assert two.summary()["labelled"] == 7


def test_a_million_images_are_joined() -> None:
    """5 labelings of a million images, without looking at pairs."""
    pred = some_predictions(0, 5, 1_000_000, 20)
    pred[1:] = np.where(np.random.default_rng(1).random((4, 1_000_000)) < 0.9, (pred[0] + np.arange(1, 5)[:, None]) % 20, pred[1:])
    found = agree(list(pred))
    assert len(found.size) < 500_000
    i, j = np.random.default_rng(2).integers(0, 1_000_000, (2, 100_000))
    i, j = i[i != j], j[i != j]
    equal = (pred[:, i] == pred[:, j]).all(axis=0)
    assert equal.any()
    assert np.array_equal((found.labels[i] == found.labels[j]) & (found.labels[i] >= 0), equal)

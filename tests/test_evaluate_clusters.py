"""ucl.evaluate.clusters against permutations, scikit-learn and the digits."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics
from sklearn.datasets import load_digits

from ucl.artifacts import Features
from ucl.cluster import cluster
from ucl.context import Context
from ucl.errors import DataError
from ucl.evaluate.clusters import evaluate_clusters
from ucl.settings import ClusterSettings


def brute_acc(labels: np.ndarray, truth: np.ndarray) -> float:
    """Best share of right rows over all one-to-one maps of clusters to classes, some of either left out."""
    clusters, classes = np.unique(labels).tolist(), np.unique(truth).tolist()
    swap = len(clusters) > len(classes)
    few, many = (classes, clusters) if swap else (clusters, classes)
    a, b = (truth, labels) if swap else (labels, truth)
    return max(sum(((a == i) & (b == j)).sum() for i, j in zip(few, chosen, strict=True))
               for chosen in itertools.permutations(many, len(few))) / len(labels)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 5), st.integers(1, 40))
def test_scores(seed: int, k: int, c: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    labels, truth = rng.integers(0, k, n).astype(np.int32) * 2, rng.integers(0, c, n)      # odd ids are empty
    e = evaluate_clusters(labels, truth)
    assert e.value("acc_one_to_one") == pytest.approx(brute_acc(labels, truth))
    purity = sum(np.bincount(truth[labels == i]).max() for i in np.unique(labels)) / n
    assert e.value("purity") == pytest.approx(purity)
    assert e.value("ari") == pytest.approx(metrics.adjusted_rand_score(truth, labels))
    assert e.value("ami") == pytest.approx(metrics.adjusted_mutual_info_score(truth, labels), abs=1e-9)
    for name in ("arithmetic", "geometric"):
        wanted = metrics.normalized_mutual_info_score(truth, labels, average_method=name)
        assert e.value(f"nmi_{name}") == pytest.approx(wanted, abs=1e-9)
    assert e.value("clusters") == len(np.unique(labels))
    assert e.confusion.shape == (labels.max() + 1, truth.max() + 1)
    assert e.confusion.sum() == n


def test_unmatched_clusters_are_wrong() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 2], np.int32)
    truth = np.array([0, 0, 0, 0, 0, 1, 1, 1])
    e = evaluate_clusters(labels, truth)
    assert e.value("acc_one_to_one") == 6 / 8
    assert e.value("purity") == 1


def test_rows_without_label_or_class_are_left_out_and_counted() -> None:
    labels = np.array([0, 1, 1, -1, -1, 0], np.int32)
    truth = np.array([0, 1, 1, 1, -1, -1])
    e = evaluate_clusters(labels, truth)
    assert e.value("acc_one_to_one") == 1
    assert (e.value("unlabelled"), e.value("unknown")) == (2, 1)
    assert next(r[4] for r in e.rows if r[0] == "ari") == 3
    assert e.arrays()["/metrics"]["name"][0] == b"acc_one_to_one"
    assert all(len(r[0]) <= 32 and len(r[5]) <= 64 for r in e.rows)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 50))
def test_purity_before_after_and_by_flag(seed: int, k: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    raw = rng.integers(-1, k, n).astype(np.int32)
    raw[0] = 0
    truth, flag = rng.integers(-1, 3, n), rng.integers(0, 5, n).astype(np.uint8)
    truth[0] = flag[0] = 0
    flag[raw < 0] = 5
    labels = np.where(np.isin(flag, (0, 3)), raw, -1).astype(np.int32)
    e = evaluate_clusters(labels, truth, raw=raw, flag=flag)
    assert e.value("purity") == evaluate_clusters(labels, truth).value("purity")
    assert e.value("purity_raw") == pytest.approx(evaluate_clusters(raw, truth).value("purity"))
    found = {r[0]: (r[1], r[4]) for r in e.rows}
    for value, name in enumerate(("kept", "cut_by_distance", "dropped_by_vote", "pulled_back", "dissolved", "bad_image")):
        right = []
        for i in range(n):
            if flag[i] == value and raw[i] >= 0 and truth[i] >= 0:
                classes = np.bincount(truth[(raw == raw[i]) & (truth >= 0)])
                right.append(truth[i] == np.argmax(classes))
        assert (f"purity_{name}" in found) == bool(right)
        if right:
            assert found[f"purity_{name}"] == (pytest.approx(np.mean(right)), len(right))
    assert all(len(r[0]) <= 32 and len(r[5]) <= 64 for r in e.rows)


def test_refuses() -> None:
    with pytest.raises(DataError, match="both"):
        evaluate_clusters(np.array([-1, 0], np.int32), np.array([0, -1]))
    with pytest.raises(DataError, match="targets"):
        evaluate_clusters(np.zeros(3, np.int32), np.zeros(4, np.int64))


def test_pixels_of_the_digits() -> None:
    """k-means on raw pixels, the textbook case: ACC about 0.79, NMI about 0.74."""
    x, truth = load_digits(return_X_y=True)
    options = ClusterSettings(k=10, pca=0, l2=False, redo=10, iterations=50)
    y = cluster(Features(x.astype(np.float32)), options, Context(), threads=1)
    e = evaluate_clusters(y.labels, truth)
    assert e.value("acc_one_to_one") == pytest.approx(0.79, abs=0.03)
    assert e.value("nmi_arithmetic") == pytest.approx(0.74, abs=0.03)

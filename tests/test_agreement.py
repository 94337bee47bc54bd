"""ucl.agreement against scikit-learn; fact D11."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import normalized_mutual_info_score

from ucl.agreement import compare_labelings, nmi


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 60), st.integers(1, 9), st.integers(1, 9))
def test_same_as_scikit_learn(seed: int, n: int, k: int, c: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, k, n), rng.integers(-3, c - 3, n)
    arithmetic, geometric = nmi(a, b)
    assert arithmetic == pytest.approx(normalized_mutual_info_score(a, b), abs=1e-9)
    theirs = normalized_mutual_info_score(a, b, average_method="geometric")
    assert geometric == pytest.approx(theirs, abs=1e-9)
    assert geometric >= arithmetic - 1e-12
    assert nmi(b, a) == pytest.approx((arithmetic, geometric), abs=1e-12)


def test_itself_and_a_permutation_of_ids() -> None:
    y = np.random.default_rng(0).integers(0, 30, 500).astype(np.int32)
    permuted = np.random.default_rng(1).permutation(30).astype(np.int32)[y]
    assert nmi(y, y) == pytest.approx((1, 1), abs=1e-12)
    assert nmi(permuted, y) == pytest.approx((1, 1), abs=1e-12)
    assert compare_labelings(y, y)["churn"] == 0
    assert compare_labelings(y, permuted)["churn"] > 0.9


def test_independent_labels() -> None:
    rng = np.random.default_rng(0)
    assert max(nmi(rng.integers(0, 10, 100_000), rng.integers(0, 10, 100_000))) < 0.01


def test_edge_cases() -> None:
    assert nmi(np.zeros(5, int), np.ones(5, int)) == (1, 1)
    assert nmi(np.zeros(4, int), np.arange(4)) == (0, 0)


def test_ten_against_a_thousand_by_refinement() -> None:
    fine = np.repeat(np.arange(1000), 10)
    arithmetic, geometric = nmi(fine // 100, fine)
    assert (round(arithmetic, 2), round(geometric, 2)) == (0.50, 0.58)


def test_only_rows_labelled_in_both_count() -> None:
    a = np.array([0, 0, 1, 1, -1, 2], np.int32)
    b = np.array([0, 0, 1, 0, 1, -1], np.int32)
    found = compare_labelings(a, b)
    assert found["churn"] == 0.25
    assert found["nmi_arithmetic"] == pytest.approx(normalized_mutual_info_score(a[:4], b[:4]))
    assert all(np.isnan(v) for v in compare_labelings(a, np.full(6, -1, np.int32)).values())
    with pytest.raises(ValueError, match="rows"):
        compare_labelings(a, b[:5])

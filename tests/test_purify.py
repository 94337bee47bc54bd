"""ucl.purify against a plain loop; the worked numbers of PCP's CPr."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ucl.artifacts import BAD_IMAGE, CUT_BY_DISTANCE, DISSOLVED, KEPT, UNREADABLE, Labels, Samples
from ucl.context import Context
from ucl.errors import DataError
from ucl.purify import purify
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
    options = PurifySettings(percent / 100, min_size)
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
    labels = Labels(np.zeros(size, np.int32), distance=np.arange(size, dtype=np.float32))
    y = purify(labels, PurifySettings(keep_nearest=1 - removed), Context())
    assert (y.labels >= 0).tolist() == [True] * kept + [False] * (size - kept)


def test_worked_example() -> None:
    distance = np.array([0.205913, 0.228035, 0.5004, 0.404969, 0.733757, 0.926499], np.float32)
    y = purify(Labels(np.zeros(6, np.int32), distance=distance), PurifySettings(keep_nearest=0.5), Context())
    assert np.flatnonzero(y.labels == 0).tolist() == [0, 1, 3]


def test_dissolved_clusters_keep_the_flags_of_those_cut_before() -> None:
    labels = Labels(np.array([0, 0, 1, 1, 1, 1], np.int32), distance=np.array([1, 2, 1, 2, 3, 4], np.float32))
    y = purify(labels, PurifySettings(0.5, 2), Context())
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


def test_fifty_thousand_rows_are_fast() -> None:
    rng = np.random.default_rng(0)
    labels = Labels(rng.integers(0, 10_000, 50_000).astype(np.int32),
                    distance=rng.random(50_000).astype(np.float32))
    start = time.perf_counter()
    purify(labels, PurifySettings(0.5, 2), Context())
    assert time.perf_counter() - start < 1

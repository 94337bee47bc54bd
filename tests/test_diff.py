"""ucl.diff: what differs, found by looking, and equal exactly where the digests are."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from test_rows import features, image_list, labels, names, stored

from ucl import diff as module
from ucl.artifacts import Checkpoint, Evaluation, Labels, Samples
from ucl.diff import Comparison, compare, renumbering
from ucl.errors import DataError
from ucl.formats.reader import open_artifact
from ucl.store import read


def compared(a: Any, b: Any, tmp_path: Path, tolerance: float | None = None) -> Comparison:
    paths = [stored(x, tmp_path / f"{i}.h5") for i, x in enumerate((a, b))]
    with open_artifact(paths[0]) as one, open_artifact(paths[1]) as two:
        found = compare(one, two, tolerance)
    if tolerance is None:
        assert found.equal == (read(paths[0]).digest == read(paths[1]).digest)
    return found


def checkpoint(**changes: Any) -> Checkpoint:
    rng = np.random.default_rng(0)
    made = Checkpoint({"backbone.w": rng.standard_normal((4, 3)).astype("f4"), "backbone.n": np.array(3)}, {"0/w/momentum": np.ones(3, "f4")},
                      config={"backbone": "convnet", "size": 32}, progress={"epoch": 2, "step": 40, "seed": 1})
    return dataclasses.replace(made, **changes)


@pytest.mark.parametrize("make", [features, labels, image_list, checkpoint])
def test_equal(make: Any, tmp_path: Path) -> None:
    a, b = make(), make()
    b.provenance = ['{"verb": "another"}']
    found = compared(a, b, tmp_path)
    assert found.equal
    assert found.datasets == []
    assert found.renumbering is None


@pytest.mark.parametrize("block", [16, 4 << 20])
def test_rows_of_features(tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    a, b = features(), features()
    b.features = b.features.copy()
    b.features[11, 2] += 0.5
    b.features[11, 3] += 0.25
    b.features[40, 0] -= 0.125
    found = compared(a, b, tmp_path)
    one, = found.datasets
    assert (one.path, one.rows, one.of, one.first, one.name) == ("/features", 2, 60, 11, "z/11.png")
    assert one.largest == pytest.approx(0.5)
    gap = np.nan_to_num(b.features.astype(float)) - np.nan_to_num(a.features.astype(float))
    assert one.relative == pytest.approx(np.linalg.norm(gap) / np.linalg.norm(np.nan_to_num(a.features)), rel=1e-6)
    assert "in column 2" in str(one)
    assert compared(a, b, tmp_path, 0.3).datasets[0].rows == 1
    assert compared(a, b, tmp_path, 0.6).equal
    assert found.same_recipe


def test_zeros_and_nans(tmp_path: Path) -> None:
    a, b = features(), features()
    a.features, b.features = a.features.copy(), b.features.copy()
    a.features[3, 0], b.features[3, 0] = 0.0, -0.0
    found = compared(a, b, tmp_path)
    assert (found.datasets[0].rows, found.datasets[0].largest) == (1, 0)
    assert compared(a, b, tmp_path, 0.0).equal
    b.features[3, 0] = np.nan
    found = compared(a, b, tmp_path, 5.0)
    assert (found.datasets[0].rows, found.datasets[0].largest) == (1, np.inf)


def test_other_shapes_images_and_types(tmp_path: Path) -> None:
    a, b = features(), features()
    b.features = b.features[:, :3].copy()
    assert [(d.path, str(d)) for d in compared(a, b, tmp_path).datasets] == [("/features", "shape (60, 5), (60, 3)")]
    b = features()
    path = names()
    path[5] = b"other"
    b.samples = Samples(path, b.samples.status)
    found = compared(a, b, tmp_path)
    assert [(d.path, d.first, d.name) for d in found.datasets] == [("/samples/path", 5, "z/05.png")]
    assert list(found.attrs) == ["samples-digest"]
    b = features()
    b.features = b.features.astype("f2")
    assert [str(d) for d in compared(a, b, tmp_path).datasets] == ["type float32, float16"]
    assert compared(a, b, tmp_path, 0.01).equal
    with pytest.raises(DataError, match=r"is ucl/features, .*is ucl/labels: nothing to compare"):
        compared(a, labels(), tmp_path)


def test_datasets_of_one_file_alone(tmp_path: Path) -> None:
    a, b = labels(), labels()
    b.history = b.history_epoch = None
    a.flag = None
    told = {d.path: str(d) for d in compared(a, b, tmp_path).datasets}
    assert set(told) == {"/flag", "/history/labels", "/history/epoch"}
    assert told["/flag"].startswith("only in ") and told["/flag"].endswith("1.h5")  # noqa: PT018
    assert told["/history/epoch"].endswith("0.h5")


def test_labels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(-1, 5, 200).astype(np.int32)
    y = np.where(rng.random(200) < 0.3, rng.integers(-1, 5, 200), x).astype(np.int32)
    found = compared(Labels(x), Labels(y), tmp_path)
    both = (x >= 0) & (y >= 0)
    assert found.labels == pytest.approx({
        "churn": (x[both] != y[both]).mean(), "nmi_arithmetic": normalized_mutual_info_score(x[both], y[both]),
        "nmi_geometric": normalized_mutual_info_score(x[both], y[both], average_method="geometric"), "ari": adjusted_rand_score(x[both], y[both])})
    assert found.datasets[0].rows == (x != y).sum()
    assert found.renumbering is None
    new = np.array([3, 4, 0, 2, 1, -1])
    found = compared(Labels(x), Labels(new[x].astype(np.int32)), tmp_path)
    assert not found.equal
    assert found.renumbering == {0: 3, 1: 4, 2: 0, 3: 2, 4: 1}
    assert found.labels["ari"] == found.labels["nmi_arithmetic"] == 1


@settings(deadline=None)
@given(st.lists(st.integers(-1, 3), min_size=1, max_size=20), st.lists(st.integers(-1, 3), min_size=20, max_size=20))
def test_renumbering_by_trying(a: list[int], b: list[int]) -> None:
    pairs = set(zip(a, b, strict=False))
    forth, back = {}, {}
    works = all(forth.setdefault(p, q) == q and back.setdefault(q, p) == p and (p < 0) == (q < 0) for p, q in sorted(pairs))
    found = renumbering(np.array(a, np.int32), np.array(b[:len(a)], np.int32))
    assert (found is not None) == works
    if works:
        assert found == {p: q for p, q in forth.items() if p >= 0}


def test_checkpoints(tmp_path: Path) -> None:
    a = checkpoint()
    w = a.model["backbone.w"].copy()
    w[2, 1] += 0.5
    b = checkpoint(model={**a.model, "backbone.w": w},
                   config={"backbone": "convnet", "size": 64, "new": {"x": 1}},
                   progress={"epoch": 3, "step": 40, "seed": 1})
    told = {d.path: d for d in compared(a, b, tmp_path).datasets}
    assert set(told) == {"/model/backbone.w", "/config", "/progress"}
    assert told["/config"].values == {"size": (32, 64), "new.x": (None, 1)}
    assert told["/progress"].values == {"epoch": (2, 3)}
    assert told["/model/backbone.w"].largest == pytest.approx(0.5)
    assert told["/model/backbone.w"].relative == pytest.approx(0.5 / np.linalg.norm(a.model["backbone.w"]))
    assert str(told["/progress"]) == "epoch: 2, 3"


def test_evaluations(tmp_path: Path) -> None:
    nan = float("nan")
    a = Evaluation([("acc", 0.5, nan, nan, 10, "p"), ("old", 1.0, nan, nan, 10, "p")])
    b = Evaluation([("acc", 0.75, nan, nan, 10, "q"), ("new", 1.0, nan, nan, 10, "p")])
    found = compared(a, b, tmp_path)
    assert found.datasets[0].values == {"acc.value": (0.5, 0.75), "acc.protocol": ("p", "q"), "old": ("there", None), "new": (None, "there")}
    assert compared(a, a, tmp_path).equal
    assert compared(Evaluation(a.rows[:1]), Evaluation([("acc", 0.5001, nan, nan, 10, "p")]), tmp_path, 0.01).equal

"""ucl.rows, ucl.align, ucl.select and ucl.names: rows taken, by whatever is said, with all that hangs on them."""

from __future__ import annotations

import io
import logging
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ucl import read, rows
from ucl.align import rows_in_order
from ucl.artifacts import Features, ImageList, Labels, Pca, Samples, samples_digest
from ucl.cluster import cluster
from ucl.context import Context
from ucl.errors import DataError, InputMissing, UsageError
from ucl.evaluate.profile import draw_profile, profile
from ucl.formats.check import validate
from ucl.formats.reader import open_artifact
from ucl.keys import Key
from ucl.names import positions, read_names, require_unique
from ucl.rows import write_rows
from ucl.select import by_glob, by_name, by_number, by_value, drawn
from ucl.settings import ClusterSettings
from ucl.store import save

N = 60


def names(n: int = N) -> np.ndarray:
    return np.array([b"%s/%02d.png" % (b"xyz"[i % 3:i % 3 + 1], i) for i in range(n)])


def samples(n: int = N) -> Samples:
    status = np.zeros(n, np.uint8)
    status[7] = 1
    return Samples(names(n), status)


def features() -> Features:
    x = np.random.default_rng(0).standard_normal((N, 5)).astype(np.float32)
    x[7] = np.nan
    return Features(x, samples(), "convnet", "w" * 64, "pool", '{"size": 8}', context=Context(method="deepcluster", generation=3, seed=9),
                    recipe="r" * 64, provenance=['{"verb": "extract"}'])


def labels() -> Labels:
    made = cluster(features(), ClusterSettings(k=4, pca=3), Context(images=N), threads=1)
    made.history, made.history_epoch = np.tile(made.labels, (2, 1)), np.array([3, 4], np.int32)
    made.probs = np.random.default_rng(1).dirichlet(np.ones(4), N).astype(np.float32)
    made.probs[7] = np.nan
    made.pred = np.random.default_rng(2).integers(0, 4, (3, N)).astype(np.int32)
    made.provenance = ['{"verb": "cluster"}']
    return made


def image_list() -> ImageList:
    rng = np.random.default_rng(0)
    return ImageList(samples(), rng.integers(1, 9, N).astype(np.uint64), rng.integers(1, 9, N).astype(np.uint32), np.full(N, 4, np.uint32),
                     np.full(N, 5, np.uint32), "/somewhere", False, rng.integers(0, 255, (N, 4, 4, 3)).astype(np.uint8))


def stored(artifact: Any, path: Path) -> Path:
    with path.open("wb") as out:
        save(artifact, out)
    return path


def taken(source: Path | int, chosen: np.ndarray, path: Path, **options: Any) -> Any:
    with open_artifact(source) as file, path.open("wb") as out:
        write_rows(file, np.asarray(chosen, np.int64), out, "select", {"x": 1}, **options)
    assert validate(path, full=True) == []
    return read(path)


# -- rows of an artifact ---------------------------------------------------------------------------------------------------------

CHOICES = {"some": [3, 7, 8, 20, 59], "all": list(range(N)), "one": [0], "order": [9, 2, 7, 40, 3]}


@pytest.mark.parametrize("which", CHOICES)
@pytest.mark.parametrize(("block", "dense"), [(64, 4), (4 << 20, 4), (64, 0), (64, 1000)])
def test_features(tmp_path: Path, which: str, block: int, dense: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "BLOCK", block)
    monkeypatch.setattr(rows, "DENSE", dense)
    whole, at = features(), np.array(CHOICES[which])
    made = taken(stored(whole, tmp_path / "f.h5"), at, tmp_path / "o.h5")
    assert made.features.tobytes() == whole.features[at].tobytes()
    assert made.samples.path.tolist() == whole.samples.path[at].tolist()
    assert made.samples.status.tolist() == whole.samples.status[at].tolist()
    assert (made.model, made.weights, made.layer, made.transform) == (whole.model, whole.weights, whole.layer, whole.transform)
    assert made.context == Context(seed=9, images=len(at), samples_digest=made.samples.digest)
    assert made.provenance[0] == '{"verb": "extract"}'
    assert len(made.provenance) == 2
    assert len(made.recipe) == 64
    with open_artifact(tmp_path / "o.h5") as file:
        assert file.read("/samples/parent_row").tolist() == at.tolist()
        assert file.attrs["parent-digest"] == samples_digest(whole.samples.path)


@pytest.mark.parametrize("which", CHOICES)
def test_down_a_pipe_it_is_the_same_file(tmp_path: Path, which: str) -> None:
    for artifact in (features(), labels(), image_list()):
        path = stored(artifact, tmp_path / "a.h5")
        from_file = taken(path, np.array(CHOICES[which]), tmp_path / "o.h5")
        read_end, write_end = os.pipe()
        feeder = threading.Thread(target=lambda fd=write_end, p=path: os.write(fd, p.read_bytes()) and os.close(fd))
        feeder.start()
        piped = taken(read_end, np.array(CHOICES[which]), tmp_path / "p.h5")
        feeder.join()
        os.close(read_end)
        assert piped.digest == from_file.digest


@pytest.mark.parametrize("which", CHOICES)
def test_labels(tmp_path: Path, which: str) -> None:
    whole, at = labels(), np.array(CHOICES[which])
    made = taken(stored(whole, tmp_path / "l.h5"), at, tmp_path / "o.h5")
    for name in ("labels", "flag", "distance", "weight"):
        np.testing.assert_array_equal(getattr(made, name), getattr(whole, name)[at])
    np.testing.assert_array_equal(made.history, whole.history[:, at])
    assert made.history_epoch.tolist() == [3, 4]
    np.testing.assert_array_equal(made.mean, whole.mean)
    np.testing.assert_array_equal(made.pca.components, whole.pca.components)
    assert made.info == whole.info
    assert made.size.tolist() == [int((whole.labels[at] == c).sum()) for c in range(4)]
    for c in range(4):
        members = np.flatnonzero(made.labels == c)
        assert made.anchor[c] == (members[np.argmin(made.distance[members])] if len(members) else -1)
    if which == "all":
        assert made.anchor.tolist() == whole.anchor.tolist()


def test_an_image_list_keeps_its_pixels(tmp_path: Path) -> None:
    whole, at = image_list(), np.array([5, 7, 30])
    made = taken(stored(whole, tmp_path / "i.h5"), at, tmp_path / "o.h5")
    for name in ("size", "crc32", "height", "width", "pixels"):
        np.testing.assert_array_equal(getattr(made, name), getattr(whole, name)[at])
    assert made.root == "/somewhere"


def test_rows_that_are_not_there(tmp_path: Path) -> None:
    at = np.array([4, -1, 2, -1])
    wanted = np.array([b"a", b"b", b"c", b"d"])
    made = taken(stored(features(), tmp_path / "f.h5"), at, tmp_path / "o.h5", names=wanted)
    assert np.isnan(made.features[[1, 3]]).all()
    assert (made.features[[0, 2]] == features().features[[4, 2]]).all()
    assert made.samples.status.tolist() == [0, 4, 0, 4]
    assert made.samples.path.tolist() == wanted.tolist()
    made = taken(stored(labels(), tmp_path / "l.h5"), at, tmp_path / "o.h5", names=wanted)
    assert made.labels.tolist() == [labels().labels[4], -1, labels().labels[2], -1]
    assert made.flag.tolist()[1] == 5
    assert made.weight.tolist()[1] == 0
    assert np.isnan(made.distance[1])
    assert (made.history[:, 1] == -1).all()
    assert made.samples.status.tolist() == [0, 4, 0, 4]


def test_anchors_without_distances(tmp_path: Path) -> None:
    whole = labels()
    whole.distance = None
    anchor = whole.anchor.copy()
    keep = np.setdiff1d(np.arange(N), anchor[:1])
    made = taken(stored(whole, tmp_path / "l.h5"), keep, tmp_path / "o.h5")
    assert made.anchor[0] == -1
    assert keep[made.anchor[1:]].tolist() == anchor[1:].tolist()


def test_somebody_elses_chunked_features(tmp_path: Path) -> None:
    import h5py

    x = np.random.default_rng(0).standard_normal((N, 3))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("features", data=x, chunks=(7, 3), compression="gzip")
        file["samples/path"] = names()
    for at in ([3, 9, 40], [40, 3, 9]):
        made = taken(tmp_path / "x.h5", np.array(at), tmp_path / "o.h5")
        assert (made.features == x[at].astype("f4")).all()
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file["features"] = x
    with open_artifact(tmp_path / "y.h5") as file, pytest.raises(DataError, match="its rows have no names"):
        write_rows(file, np.array([0]), io.BytesIO(), "select", {})


def test_recipes_tell_choices_apart(tmp_path: Path) -> None:
    path = stored(features(), tmp_path / "f.h5")
    a, b, c = (taken(path, np.array(at), tmp_path / "o.h5") for at in ([1, 2], [1, 3], [1, 2]))
    assert a.recipe == c.recipe != b.recipe
    assert a.digest == c.digest != b.digest


def test_pca_of_labels_is_kept_whole(tmp_path: Path) -> None:
    made = taken(stored(labels(), tmp_path / "l.h5"), np.array([1]), tmp_path / "o.h5")
    assert isinstance(made.pca, Pca)
    assert made.centroid.shape == labels().centroid.shape


# -- align -----------------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.permutations(range(12)), st.integers(1, 12))
def test_alignment_is_the_inverse(order: list[int], count: int) -> None:
    have = names(12)
    wanted = have[order][:count]
    at = rows_in_order(have, wanted, "a", "b", fill=False)
    assert have[at].tolist() == wanted.tolist()


def test_missing_and_repeated_names(caplog: pytest.LogCaptureFixture) -> None:
    have = names(6)
    wanted = np.array([have[3], b"new", have[1], b"newer"])
    with pytest.raises(DataError, match=r"f\.h5: 2 of the 4 images of l\.h5 are not in it; the first is row 1, new") as e:
        rows_in_order(have, wanted, "f.h5", "l.h5", fill=False)
    assert "--fill" in e.value.hint
    with caplog.at_level(logging.WARNING):
        assert rows_in_order(have, wanted, "f.h5", "l.h5", fill=True).tolist() == [3, -1, 1, -1]
    assert "2 of 4 images are filled in" in caplog.text
    with pytest.raises(DataError, match=r"none of the 2 images of l\.h5; the first is row 0, p, and the first here is x/00\.png"):
        rows_in_order(have, np.array([b"p", b"q"]), "f.h5", "l.h5", fill=True)
    twice = np.array([b"a", b"b", b"a", b"b"])
    for one, two, where in ((twice, have, "f.h5"), (have, twice, "l.h5")):
        with pytest.raises(DataError, match=rf"{where}: rows 0 and 2 are both a \(2 rows repeat"):
            rows_in_order(one, two, "f.h5", "l.h5", fill=False)


# -- names and choices -----------------------------------------------------------------------------------------------------------


def test_reading_names(tmp_path: Path) -> None:
    (tmp_path / "n.txt").write_bytes("\ufeffa b\r\n\né.png\nlast".encode())
    assert read_names(tmp_path / "n.txt").tolist() == [b"a b", "é.png".encode(), b"last"]
    with pytest.raises(InputMissing, match="no such file"):
        read_names(tmp_path / "m.txt")
    with pytest.raises(InputMissing, match="a folder"):
        read_names(tmp_path)
    (tmp_path / "n.txt").write_bytes(b"\n")
    with pytest.raises(InputMissing, match="empty"):
        read_names(tmp_path / "n.txt")
    (tmp_path / "n.txt").write_bytes(b"\xff\n")
    with pytest.raises(DataError, match="not UTF-8"):
        read_names(tmp_path / "n.txt")
    assert positions(np.array([b"b", b"q"]), np.array([b"a", b"b"])).tolist() == [1, -1]
    require_unique(names(), "x")


def test_rows_by_number() -> None:
    assert by_number("2:5", 10).tolist() == [2, 3, 4]
    assert by_number("8:,:2,5,1", 10).tolist() == [0, 1, 5, 8, 9]
    assert by_number(":", 3).tolist() == [0, 1, 2]
    for bad in ("", "a", "3:2", "0:11", "10", "-1", "1:2:3", "1,,2", "4:4"):
        with pytest.raises(UsageError, match="--rows"):
            by_number(bad, 10)


def test_rows_by_name_pattern_and_value() -> None:
    have = names(9)
    assert by_name(np.array([have[5], have[2], have[5]]), have, "l").tolist() == [2, 5]
    with pytest.raises(DataError, match="l: 1 of 2 names are not among the rows; the first is nope"):
        by_name(np.array([have[5], b"nope"]), have, "l")
    assert by_glob(["x/*"], have).tolist() == [0, 3, 6]
    assert by_glob(["x/0[03].png", "*1.png"], have).tolist() == [0, 1, 3]
    assert by_glob(["X/*"], have).tolist() == []
    assert by_value(np.array([3, -1, 3, 2]), [3, -1]).tolist() == [0, 1, 2]


def test_draws_are_keyed_and_nested() -> None:
    at = np.arange(0, 2000, 2)
    a = drawn(at, 100, Key(1, stage="select"))
    assert len(np.unique(a)) == 100
    assert set(a) <= set(at)
    assert (np.diff(a) > 0).all()
    assert set(a) < set(drawn(at, 200, Key(1, stage="select")))
    assert set(a) != set(drawn(at, 100, Key(2, stage="select")))
    counts = np.bincount(np.concatenate([drawn(np.arange(10), 3, Key(s)) for s in range(1000)]), minlength=10)
    assert abs(counts - 300).max() < 75                                  # 5 sigma of a binomial
    with pytest.raises(UsageError, match="3 of 2 rows"):
        drawn(np.arange(2), 3, Key())


# -- class profiles --------------------------------------------------------------------------------------------------------------


def test_the_exponential_profile() -> None:
    """n * R^(-c / (C - 1)), as Cui et al. cut CIFAR; 10 classes, ratio 100: 5000 to 50."""
    size = np.full(10, 5000)
    theirs = [int(5000 * 0.01 ** (c / 9.0)) for c in range(10)]
    assert profile(size, None, 100).tolist() == theirs
    assert profile(size, 1000, 64)[[0, -1]].tolist() == [1000, 15]
    assert profile(size, None, 1).tolist() == [5000] * 10
    assert profile(np.array([9, 5]), None, 1).tolist() == [5, 5]
    assert profile(np.array([5]), None, 64).tolist() == [5]


@settings(deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=12), st.floats(1, 200))
def test_the_largest_profile_that_fits(size: list[int], ratio: float) -> None:
    wanted = profile(np.array(size), None, ratio)
    assert (wanted <= size).all()
    assert (wanted >= 1).all()
    assert (np.diff(wanted) <= 0).all()
    share = ratio ** (-np.arange(len(size)) / max(len(size) - 1, 1))
    more = np.maximum(1, np.floor((int(wanted[0]) + 1) * share + 1e-9))
    assert (more > size).any()


def test_drawing_a_profile(tmp_path: Path) -> None:
    sizes = {"ape": 30, "bee": 80, "cat": 50}
    path = np.array([f"{c}/{i}.png".encode() for c, n in sizes.items() for i in range(n)])
    s = Samples(path, np.zeros(len(path), np.uint8))
    every = np.arange(len(path))

    def draw(at: np.ndarray = every, targets: str | None = None, **options: Any) -> tuple[np.ndarray, dict[str, int]]:
        chosen, counts = draw_profile(s, at, targets, **{"per_class": None, "ratio": 1.0, "order": "name", "key": Key(3)} | options)
        assert (np.diff(chosen) > 0).all()
        if targets is None:
            assert {c: sum(p.startswith(c.encode()) for p in path[chosen].tolist()) for c in counts} == counts
        return chosen, counts

    assert draw()[1] == {"ape": 30, "bee": 30, "cat": 30}
    assert draw(ratio=4.0)[1] == {"ape": 30, "bee": 15, "cat": 7}
    assert list(draw(ratio=4.0, order="size")[1].items()) == [("bee", 80), ("cat", 40), ("ape", 20)]
    assert set(draw(ratio=4.0, order="random")[1]) == {"ape", "bee", "cat"}
    assert draw(per_class=10, ratio=2.0)[1] == {"ape": 10, "bee": 7, "cat": 5}
    assert draw(every[40:], per_class=5)[1] == {"bee": 5, "cat": 5}
    with pytest.raises(DataError, match="class ape: 30 images, the profile wants 40"):
        draw(per_class=40)
    assert (draw(per_class=9)[0] == draw(per_class=9)[0]).all()
    assert (draw(per_class=9)[0] != draw(per_class=9, key=Key(4))[0]).any()
    assert set(draw(per_class=9)[0]) < set(draw(per_class=10)[0])
    (tmp_path / "t.tsv").write_text("".join(f"{p.decode()}\t{'odd' if i % 2 else 'even'}\n" for i, p in enumerate(path[:20].tolist())))
    chosen, counts = draw(targets=str(tmp_path / "t.tsv"))
    assert counts == {"even": 10, "odd": 10}
    assert chosen.tolist() == list(range(20))

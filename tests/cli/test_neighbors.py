"""ucl neighbors: exact neighbours and near duplicates, from files and pipes, within one list and among another; what is refused."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from cli.harness import Result, Runner
from ucl import read
from ucl.artifacts import OK, UNREADABLE, Features, Samples, replace
from ucl.store import save

D = 6


def made(path: Path, x: np.ndarray, bad: tuple[int, ...] = (), name: str = "i", **of: Any) -> Path:
    status = np.full(len(x), OK, np.uint8)
    status[list(bad)] = UNREADABLE
    x = x.astype(np.float32)
    x[list(bad)] = np.nan
    with path.open("wb") as out:
        save(Features(x, Samples(np.array([f"{name}{i:04d}.png".encode() for i in range(len(x))]), status), **of), out)
    return path


def points(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, D)).astype(np.float32)


def cosines(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    a, b = (v.astype(np.float64) / np.linalg.norm(v.astype(np.float64), axis=1, keepdims=True) for v in (x, y))
    found: np.ndarray = a @ b.T
    return found


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """50 images, two of them bad, and 40 others, of which row 7 is image 3."""
    x, y = points(50, 0), points(40, 1)
    y[7] = x[3]
    return made(tmp_path / "x.h5", x, bad=(0, 31)), made(tmp_path / "y.h5", y, bad=(9,), name="o")


def test_the_nearest_within_one_file(ucl: Runner, two: tuple[Path, Path], tmp_path: Path) -> None:
    result = ucl("neighbors", two[0], "-k", 5, "-o", tmp_path / "n.h5")
    assert result.code == 0, result.err
    assert result.err == f"ucl neighbors: 5 nearest of each of 50 images (cosine); in {tmp_path}/n.h5\n"
    found = read(tmp_path / "n.h5", "ucl/neighbors")
    similar = cosines(points(50, 0), points(50, 0))
    np.fill_diagonal(similar, -np.inf)
    similar[:, [0, 31]] = -np.inf
    wanted = np.argsort(-similar, axis=1, kind="stable")[:, :5]
    good = np.setdiff1d(np.arange(50), [0, 31])
    assert found.neighbors.dtype == np.int32
    np.testing.assert_array_equal(found.neighbors[good], wanted[good])
    np.testing.assert_allclose(1 - found.distances[good], np.take_along_axis(similar, wanted, axis=1)[good], atol=1e-7)
    assert (found.neighbors[[0, 31]] == -1).all()
    assert np.isnan(found.distances[[0, 31]]).all()
    assert found.samples.path.tolist() == read(two[0]).samples.path.tolist()
    assert (found.metric, found.self_included, found.exact, found.among) == ("cosine", False, True, None)
    assert ucl("validate", "--full", tmp_path / "n.h5").code == 0
    assert ucl("neighbors", two[0], "-k", 5, "--include-self", "--metric", "euclidean", "-o", tmp_path / "e.h5").code == 0
    own = read(tmp_path / "e.h5")
    x = points(50, 0).astype(np.float64)
    assert own.neighbors[good, 0].tolist() == good.tolist()
    assert not own.distances[good, 0].any()
    np.testing.assert_allclose(own.distances[good, 4], np.linalg.norm(x[good] - x[own.neighbors[good, 4]], axis=1), rtol=1e-6)
    assert (own.metric, own.self_included) == ("euclidean", True)
    with h5py.File(tmp_path / "e.h5") as f:
        assert {k: f.attrs[k] for k in ("exact", "self-included")} == {"exact": 1, "self-included": 1}


def test_a_pipe_a_file_threads_and_memory_are_one_result(ucl: Runner, two: tuple[Path, Path], tmp_path: Path) -> None:
    results = [ucl("neighbors", two[0], "-k", 4, "-o", tmp_path / "a.h5"),
               ucl("neighbors", "-k", 4, stdin=two[0].read_bytes(), stdout=tmp_path / "b.h5"),
               ucl("neighbors", "-", "-k", 4, "-j", 3, "-o", tmp_path / "c.h5", stdin=two[0]),
               ucl("neighbors", "-", "-k", 4, "--memory", "600M", "-o", tmp_path / "d.h5", stdin=two[0].read_bytes())]
    assert [r.code for r in results] == [0] * 4, results
    assert len({read(tmp_path / f"{n}.h5").digest for n in "abcd"}) == 1


def test_among_other_images(ucl: Runner, two: tuple[Path, Path], tmp_path: Path) -> None:
    result = ucl("neighbors", *two, "-k", 3, "--json", "-o", tmp_path / "n.h5")
    assert json.loads(result.err) == {"schema": "ucl.neighbors/1", "images": 50, "neighbors": 3, "without": 2, "metric": "cosine",
                                      "self_included": False, "among": 40}
    found = read(tmp_path / "n.h5")
    similar = cosines(points(50, 0), np.concatenate([points(40, 1)[:7], points(50, 0)[3:4], points(40, 1)[8:]]))
    similar[:, 9] = -np.inf
    good = np.setdiff1d(np.arange(50), [0, 31])
    np.testing.assert_array_equal(found.neighbors[good], np.argsort(-similar, axis=1, kind="stable")[good, :3])
    assert (found.neighbors[3, 0], found.distances[3, 0]) == (7, 0)
    assert found.among.tolist() == read(two[1]).samples.path.tolist()
    piped = ucl("neighbors", "-", two[1], "-k", 3, stdin=two[0].read_bytes(), stdout=tmp_path / "p.h5")
    assert piped.code == 0, piped.err
    assert read(tmp_path / "p.h5").digest == found.digest
    shown = ucl("view", tmp_path / "n.h5", "--rows", "3:4", "--head", 1, stdout="pipe").out.decode()
    assert shown == "row\tpath\trank\tneighbor\tneighbor_path\tdistance\n3\ti0003.png\t1\t7\to0007.png\t0\n"
    assert ucl("validate", "--full", tmp_path / "n.h5").code == 0


def test_fewer_images_than_neighbours(ucl: Runner, tmp_path: Path) -> None:
    result = ucl("neighbors", made(tmp_path / "x.h5", points(4, 0), bad=(2,)), "-k", 6, "-o", tmp_path / "n.h5")
    assert result.code == 0
    assert "6 neighbours wanted of each image, there are only 2: the rest is -1" in result.err
    found = read(tmp_path / "n.h5")
    assert found.neighbors.shape == (4, 6)
    assert [set(row[:2].tolist()) for row in found.neighbors[[0, 1, 3]]] == [{1, 3}, {0, 3}, {0, 1}]
    assert (found.neighbors[:, 2:] == -1).all()
    assert ucl("validate", "--full", tmp_path / "n.h5").code == 0


def test_duplicates(ucl: Runner, two: tuple[Path, Path], tmp_path: Path) -> None:
    x = points(60, 2)
    x[4] = [1, -2, 5, 7, 0, 3]
    x[40], x[55], x[20] = x[4], 3 * x[4], x[11] + 1e-4
    one = made(tmp_path / "c.h5", x, bad=(6,))
    similar = np.triu(cosines(x, x), 1)
    similar[6], similar[:, 6] = 0, 0
    for least in (1, 0.9999, 0.8):
        assert ucl("neighbors", one, "--duplicates", least, "-o", tmp_path / "p.h5", "-f").code == 0
        found = read(tmp_path / "p.h5", "ucl/pairs")
        wanted = [[4, 40], [4, 55], [40, 55]] if least == 1 else np.argwhere(similar >= least).tolist()
        assert found.pairs.tolist() == wanted
        np.testing.assert_allclose(found.similarity, similar[tuple(np.array(wanted).T)], rtol=1e-12)
        assert ucl("validate", "--full", tmp_path / "p.h5").code == 0
    result = ucl("neighbors", *two, "--duplicates", 1, stdout=tmp_path / "q.h5")
    assert result.err == "ucl neighbors: 1 pairs of 50 images among 40 others, of a cosine of at least 1\n"
    assert read(tmp_path / "q.h5").pairs.tolist() == [[3, 7]]
    shown = ucl("view", "-", stdin=(tmp_path / "q.h5").read_bytes(), stdout="pipe").out.decode()
    assert shown == "row\tpath\tother\tother_path\tsimilarity\n3\ti0003.png\t7\to0007.png\t1\n"
    assert "ucl/pairs: 1 pairs of 50 images" in ucl("info", tmp_path / "q.h5", stdout="pipe").out.decode()


def test_none_alike(ucl: Runner, tmp_path: Path) -> None:
    assert ucl("neighbors", made(tmp_path / "x.h5", np.eye(4)), "--duplicates", 0.5, "-o", tmp_path / "p.h5").code == 0
    assert read(tmp_path / "p.h5").pairs.shape == (0, 2)
    assert ucl("validate", "--full", tmp_path / "p.h5").code == 0


def test_rows_of_zeros_are_warned_of(ucl: Runner, tmp_path: Path) -> None:
    x = points(6, 0)
    x[[2, 4]] = 0
    result = ucl("neighbors", made(tmp_path / "x.h5", x), "-k", 5, "-o", tmp_path / "n.h5")
    assert "2 rows of the features are zero vectors" in result.err
    assert "the first is row 2 (i0002.png)" in result.err
    found = read(tmp_path / "n.h5")
    assert found.neighbors[2].tolist() == [4, 0, 1, 3, 5]
    assert found.distances[2].tolist() == [0, 1, 1, 1, 1]


def test_in_a_run_directory(ucl: Runner, small: Path, tmp_path: Path) -> None:
    assert ucl("extract", cwd=small).code == 0
    assert ucl("neighbors", "-k", 3, cwd=small).code == 0
    found = read(small / "work/neighbors.h5")
    assert found.neighbors.shape == (24, 3)
    assert found.context.generation == 1
    assert found.context.overrides["neighbors.neighbors"] == "3"
    assert [json.loads(step)["verb"] for step in found.provenance][-2:] == ["extract", "neighbors"]
    assert ucl("neighbors", "--duplicates", 0.99, cwd=small).code == 0
    assert read(small / "work/pairs.h5").kind == "ucl/pairs"
    results = ucl.pipe(["extract"], ["neighbors", "-k", 3], cwd=small, stdout=tmp_path / "n.h5")
    assert [r.code for r in results] == [0, 0]
    assert read(tmp_path / "n.h5").digest == found.digest


@contextlib.contextmanager
def refused(folder: Path) -> Iterator[None]:
    before = {p.name for p in folder.iterdir()}
    yield
    assert {p.name for p in folder.iterdir()} == before


def told(result: Result, code: int, *words: str) -> None:
    assert result.code == code, result.err
    assert result.lines[0].startswith("ucl neighbors: error: "), result.err
    assert len(result.lines) == 2, result.err
    assert result.lines[1].startswith("  try: ")
    for word in words:
        assert word in result.err, (word, result.err)


def test_what_is_refused(ucl: Runner, two: tuple[Path, Path], tmp_path: Path) -> None:
    x = points(9, 3)
    wide = made(tmp_path / "wide.h5", np.concatenate([x, x], axis=1))
    ours = made(tmp_path / "ours.h5", x, model="convnet", weights="a" * 64, layer="head")
    theirs = made(tmp_path / "theirs.h5", x, model="convnet", weights="b" * 64, layer="head")
    sized = made(tmp_path / "sized.h5", x, model="convnet", weights="a" * 64, layer="head", transform='{"size": 64}')
    small = made(tmp_path / "small.h5", x, model="convnet", weights="a" * 64, layer="head", transform='{"size": 32}')
    broken = x.copy()
    broken[4, 2] = np.inf
    broken_file = made(tmp_path / "broken.h5", broken)
    nothing = made(tmp_path / "none.h5", x, bad=tuple(range(9)))
    out = tmp_path / "out.h5"
    with refused(tmp_path):
        told(ucl("neighbors", two[0], wide, "-o", out), 65, "/features: 12 dimensions in the second file, expected 6 as in the first")
        told(ucl("neighbors", ours, theirs, "-o", out), 65, "weights: the second file's features are of bbb", "expected aaa")
        told(ucl("neighbors", sized, small, "-o", out), 65, 'transform: the second file', '{"size": 32}, expected {"size": 64}')
        told(ucl("neighbors", broken_file, "-o", out), 65, "row 4 (i0004.png): not finite")
        told(ucl("neighbors", two[0], broken_file, "-o", out), 65, "row 4 (i0004.png): not finite")
        told(ucl("neighbors", nothing, "-o", out), 65, "none of 9 rows is usable")
        told(ucl("neighbors", *two, "--include-self", "-o", out), 2, "include_self: other images are searched")
        told(ucl("neighbors", two[0], "--duplicates", 0.9, "-k", 4, "-o", out), 2, "neighbors: is of neighbours, and duplicates lists pairs")
        told(ucl("neighbors", two[0], "-", "-o", out, stdin=two[1]), 2, "OTHERS: found -")
        told(ucl("neighbors", two[0], "--memory", "50M", "-o", out), 2, "searching 50 x 6 features needs at least", "a smaller -k needs less")
        for option in (("-k", 0), ("--duplicates", 1.5), ("--metric", "cosinus")):
            assert ucl("neighbors", two[0], *option, "-o", out).code == 2
        assert ucl("neighbors", two[0], tmp_path / "gone.h5", "-o", out).code == 66
    assert ucl("neighbors", ours, two[0], "-o", out).code == 0           # a file that does not say what made it
    told(ucl("neighbors", ours, "-o", out), 73, "out.h5")


def test_refused_before_the_rows_of_a_pipe_are_read(ucl: Runner, two: tuple[Path, Path], tmp_path: Path) -> None:
    wide = made(tmp_path / "wide.h5", np.zeros((200_000, 2 * D)))
    head = wide.read_bytes()[:1 << 23]                                   # the rest never comes
    result = ucl("neighbors", "-", two[1], "-o", tmp_path / "n.h5", stdin=head)
    told(result, 65, "6 dimensions in the second file, expected 12")


def test_what_validate_sees(ucl: Runner, two: tuple[Path, Path], tmp_path: Path) -> None:
    assert ucl("neighbors", two[0], "-k", 4, "-o", tmp_path / "n.h5").code == 0
    good = read(tmp_path / "n.h5")

    def problems(row: int, near: list[int] | None = None, far: list[float] | None = None) -> str:
        neighbors, distances = good.neighbors.copy(), good.distances.copy()
        if near is not None:
            neighbors[row] = near
        if far is not None:
            distances[row] = far
        with (tmp_path / "bad.h5").open("wb") as out:
            save(replace(good, neighbors=neighbors, distances=distances), out)
        result = ucl("validate", "--full", tmp_path / "bad.h5", stdout="pipe")
        assert result.code == 65, near
        return result.out.decode() + result.err

    assert "/neighbors[5]: a row that is not among the 50 searched" in problems(5, [50, 1, 2, 3])
    assert "/neighbors[5]: -1 before a neighbour" in problems(5, [-1, 1, 2, 3])
    assert "/neighbors[5]: a neighbour twice" in problems(5, [1, 2, 1, 3])
    assert "/neighbors[5]: the image itself" in problems(5, [1, 5, 2, 3])
    assert "/neighbors[0]: neighbours of an image whose status is not OK" in problems(0, [1, 5, 2, 3], [0, 1, 1, 1])
    assert "/neighbors[5]: distances that are negative, not ascending" in problems(5, None, [0, 0.2, 0.1, 0.3])
    assert "/neighbors[5]: distances" in problems(5, None, [0, 0.2, 0.3, np.nan])


def test_the_least_file_of_somebodys_own(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "n.h5", "w") as f:
        f["neighbors"] = np.array([[1, 2], [0, 2], [0, -1]])
    found = read(tmp_path / "n.h5", "ucl/neighbors")
    assert found.neighbors.tolist() == [[1, 2], [0, 2], [0, -1]]
    assert (found.distances, found.foreign) == (None, True)


def test_features_of_one_row(ucl: Runner, tmp_path: Path) -> None:
    result = ucl("neighbors", made(tmp_path / "x.h5", points(1, 0)), "-k", 2, "-o", tmp_path / "n.h5")
    assert result.code == 0, result.err
    assert read(tmp_path / "n.h5").neighbors.tolist() == [[-1, -1]]

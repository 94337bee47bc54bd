"""ucl align: another list's order, by name."""

from pathlib import Path

import numpy as np

from cli.harness import Runner
from ucl import read


def shuffled(labels: Path, path: Path, *, drop: int = 0) -> np.ndarray:
    """The labels as CSV in another order; returns the order."""
    made = read(labels)
    order = np.random.default_rng(0).permutation(24)[drop:]
    path.write_text("".join(f"{made.samples.path[i].decode()},{made.labels[i]}\n" for i in order))
    return order


def test_labels_of_somebody_elses_order(ucl: Runner, labels: Path, features: Path, small: Path, tmp_path: Path) -> None:
    shuffled(labels, tmp_path / "l.csv")
    assert ucl("convert", "l.csv", "-o", "l.h5", cwd=tmp_path).code == 0
    told = ucl("train-epoch", tmp_path / "l.h5", cwd=small)
    assert told.code == 65
    assert "another order" in told.err
    done = ucl("align", "l.h5", "--to", features, "-o", "a.h5", cwd=tmp_path)
    assert (done.code, done.lines) == (0, ["ucl align: 24 rows; in a.h5"])
    assert read(tmp_path / "a.h5").labels.tolist() == read(labels).labels.tolist()
    assert ucl("align", tmp_path / "l.h5", "-o", tmp_path / "b.h5", cwd=small).code == 0               # the run directory's list
    assert read(tmp_path / "b.h5").digest == read(tmp_path / "a.h5").digest
    assert [c.code for c in ucl.pipe(["align", tmp_path / "l.h5"], ["train-epoch"], cwd=small)] == [0, 0]


def test_features_down_a_pipe_and_back(ucl: Runner, labels: Path, features: Path, photos: Path, tmp_path: Path) -> None:
    order = shuffled(labels, tmp_path / "l.csv", drop=6)
    assert ucl("convert", "l.csv", "-o", "l.h5", cwd=tmp_path).code == 0
    piped = ucl("align", "--to", tmp_path / "l.h5", stdin=features.read_bytes(), stdout="pipe")
    assert piped.code == 0, piped.err
    (tmp_path / "f.h5").write_bytes(piped.out)
    made = read(tmp_path / "f.h5")
    assert (made.features == read(features).features[order]).all()
    assert ucl("align", "f.h5", "--to", photos, "--fill", "-o", "g.h5", cwd=tmp_path).code == 0
    back = read(tmp_path / "g.h5")
    gone = np.setdiff1d(np.arange(24), order)
    assert np.flatnonzero(back.samples.status == 4).tolist() == gone.tolist()
    assert np.isnan(back.features[gone]).all()
    assert (back.features[np.sort(order)] == read(features).features[np.sort(order)]).all()
    assert ucl("cluster", "g.h5", "-k", 2, "--pca", 3, "-o", "c.h5", cwd=tmp_path).code == 0
    assert (read(tmp_path / "c.h5").labels[gone] == -1).all()


def test_mistakes(ucl: Runner, labels: Path, features: Path, small: Path, tmp_path: Path) -> None:
    def refused(code: int, told: str, *words: object) -> None:
        before = sorted(tmp_path.iterdir())
        result = ucl("align", *words, cwd=tmp_path)
        assert (result.code, len(result.lines)) == (code, 2), result.err
        assert told in result.lines[0]
        assert sorted(tmp_path.iterdir()) == before

    shuffled(labels, tmp_path / "l.csv", drop=6)
    assert ucl("convert", "l.csv", "-o", "l.h5", cwd=tmp_path).code == 0
    assert ucl("convert", features, "-o", "x.npy", cwd=tmp_path).code == 0
    assert ucl("convert", "x.npy", "-o", "nameless.h5", cwd=tmp_path).code == 0
    refused(65, "6 of the 24 images", "l.h5", "--to", features, "-o", "a.h5")
    refused(65, "none of the 1797 images of digits; the first is row 0, digits/0000.png", "l.h5", "--to", "digits", "-o", "a.h5")
    refused(65, "its rows have no names", "nameless.h5", "--to", features, "-o", "a.h5")
    refused(65, "its rows have no names", "l.h5", "--to", "nameless.h5", "-o", "a.h5")
    refused(2, "no list", "l.h5", "-o", "a.h5")
    refused(66, "no such", "l.h5", "--to", "no.h5", "-o", "a.h5")
    refused(65, "is ucl/images, expected ucl/features or ucl/labels", small / "images.h5", "--to", features, "-o", "a.h5")

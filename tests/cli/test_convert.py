"""ucl convert: NumPy, CSV and foreign HDF5 in and out, to files and down pipes; what is refused leaves nothing."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from cli.harness import Runner
from ucl import read


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((24, 5)).astype(np.float32)


def refused(ucl: Runner, code: int, told: str, *words: object, cwd: Path, **options: object) -> None:
    before = sorted(cwd.iterdir())
    result = ucl("convert", *words, cwd=cwd, **options)
    assert result.code == code, result.err
    piped = options.get("stdin") is not None and "stdin:" in result.err         # then the stage before tells the cure
    assert len(result.lines) == (1 if piped else 2), result.err
    assert result.lines[0].startswith("ucl convert: error: ")
    assert told in result.lines[0]
    assert piped or result.lines[1].startswith("  try: ")
    assert sorted(cwd.iterdir()) == before


def test_features_there_and_back(ucl: Runner, features: Path, tmp_path: Path) -> None:
    made = read(features)
    assert ucl("convert", features, "-o", "f.npy", cwd=tmp_path).code == 0
    assert np.load(tmp_path / "f.npy").tobytes() == made.features.tobytes()
    piped = ucl("convert", "--to", "npy", stdin=features.read_bytes(), stdout="pipe")
    assert piped.out == (tmp_path / "f.npy").read_bytes()
    (tmp_path / "names.txt").write_bytes(b"\n".join(made.samples.path.tolist()))
    done = ucl("convert", "f.npy", "--paths", "names.txt", "-o", "f.h5", cwd=tmp_path)
    assert (done.code, done.lines) == (0, [f"ucl convert: 24 x {made.features.shape[1]} features, float32; in f.h5"])
    back = read(tmp_path / "f.h5", "ucl/features")
    assert back.features.tobytes() == made.features.tobytes()
    assert back.samples.digest == made.samples.digest
    for form in ("npz", "csv", "tsv"):
        assert ucl("convert", features, "-o", f"f.{form}", cwd=tmp_path).code == 0
        assert ucl("convert", f"f.{form}", "-o", f"{form}.h5", cwd=tmp_path).code == 0
        assert read(tmp_path / f"{form}.h5").digest == back.digest
    assert ucl("cluster", "csv.h5", "-k", 3, "--pca", 4, "-o", "l.h5", cwd=tmp_path).code == 0


def test_names_from_images(ucl: Runner, photos: Path, small: Path, features: Path, x: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", x)
    for images in (photos, small / "images.h5"):
        assert ucl("convert", "x.npy", "--images", images, "-f", "-o", "x.h5", cwd=tmp_path).code == 0
        assert read(tmp_path / "x.h5").samples.digest == read(features).samples.digest
    assert ucl("evaluate", "knn", "x.h5", cwd=tmp_path).code == 0


def test_labels_there_and_back(ucl: Runner, labels: Path, small: Path, tmp_path: Path) -> None:
    made = read(labels)
    text = ucl("convert", labels, "--to", "csv", stdout="pipe").text.splitlines()
    assert text[0] == "path,label"
    assert text[1:] == [f"{p.decode()},{y}" for p, y in zip(made.samples.path.tolist(), made.labels, strict=True)]
    assert ucl("convert", labels, "--all", "-o", "l.csv", cwd=tmp_path).code == 0
    assert (tmp_path / "l.csv").read_text().startswith("path,label,flag,distance,weight\nant/0.png,")
    assert ucl("convert", "l.csv", "-o", "l.h5", cwd=tmp_path).code == 0
    back = read(tmp_path / "l.h5", "ucl/labels")
    for name in ("labels", "flag", "distance", "weight"):
        np.testing.assert_array_equal(getattr(back, name), getattr(made, name))
    np.save(tmp_path / "y.npy", made.labels.astype(np.uint16))
    assert ucl("convert", "y.npy", "--images", small / "images.h5", "-o", "y.h5", cwd=tmp_path).code == 0
    assert ucl("diff", "y.h5", labels, "--json", cwd=tmp_path, stdout="pipe").json["labels"] == {}
    assert ucl("train-epoch", tmp_path / "y.h5", cwd=small).code == 0
    no_header = ucl("convert", labels, "--to", "tsv", "--no-header", stdout="pipe").text
    assert no_header.splitlines()[0] == f"ant/0.png\t{made.labels[0]}"


def test_from_a_pipe(ucl: Runner, x: np.ndarray, tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", x=x, y=x[:, 0])
    np.save(tmp_path / "x.npy", x)
    digests = set()
    for form, options in (("npz", ["--array", "x"]), ("npy", [])):
        piped = ucl("convert", "--from", form, *options, stdin=(tmp_path / f"x.{form}").read_bytes(), stdout="pipe")
        assert piped.code == 0, piped.err
        assert piped.out.startswith(b"\x89HDF")
        (tmp_path / "o.h5").write_bytes(piped.out)
        digests.add(read(tmp_path / "o.h5").digest)
        assert ucl("convert", *options, "-f", "-o", "o.h5", stdin=tmp_path / f"x.{form}", cwd=tmp_path).code == 0     # < x.npz: seen by content
        digests.add(read(tmp_path / "o.h5").digest)
    assert len(digests) == 1
    made = ucl("convert", "--from", "csv", "-f", "-o", "o.h5", stdin=b"a,1\nb,0\n", cwd=tmp_path)
    assert made.code == 0, made.err
    assert read(tmp_path / "o.h5").labels.tolist() == [1, 0]


def test_foreign_hdf5(ucl: Runner, x: np.ndarray, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "ann.h5", "w") as file:
        file.create_dataset("train", data=x.astype(np.float64), chunks=(5, 3), compression="gzip")
        file["neighbors"] = np.zeros((3, 2), int)
    assert ucl("convert", "ann.h5", "-o", "a.h5", cwd=tmp_path).code == 0
    assert read(tmp_path / "a.h5").features.tobytes() == x.tobytes()
    assert ucl("convert", "ann.h5", "--array", "train", "-f", "-o", "a.h5", cwd=tmp_path).code == 0
    assert read(tmp_path / "a.h5").features.tobytes() == x.tobytes()
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file["labels"] = np.arange(24) % 3
    assert ucl("convert", "y.h5", "-o", "y.npy", cwd=tmp_path).code == 0
    assert np.load(tmp_path / "y.npy").tolist() == (np.arange(24) % 3).tolist()
    refused(ucl, 65, "no /features: found /labels", "y.h5", "--as", "features", "-o", "z.npy", cwd=tmp_path)
    with h5py.File(tmp_path / "z.h5", "w") as file:
        file["features"] = x.astype(np.float64) / 3
    refused(ucl, 65, "values of float64 that float32 does not hold", "z.h5", "-o", "z.npy", cwd=tmp_path)
    done = ucl("convert", "z.h5", "--narrow", "-o", "z.npy", cwd=tmp_path)
    assert done.code == 0
    assert "warning: z.h5" in done.err
    assert (np.load(tmp_path / "z.npy") == (x.astype(np.float64) / 3).astype(np.float32)).all()
    with h5py.File(tmp_path / "e.h5", "w") as file:
        file["features"] = h5py.ExternalLink("ann.h5", "/train")
    refused(ucl, 65, "external link", "e.h5", "-o", "e.npy", cwd=tmp_path)


def test_half_precision_is_kept(ucl: Runner, x: np.ndarray, tmp_path: Path) -> None:
    half = x.astype(np.float16)
    np.save(tmp_path / "h.npy", half)
    assert ucl("convert", "h.npy", "-o", "h.h5", cwd=tmp_path).code == 0
    assert ucl("convert", "h.h5", "-o", "b.npy", cwd=tmp_path).code == 0
    back = np.load(tmp_path / "b.npy")
    assert back.dtype == np.float16
    assert back.tobytes() == half.tobytes()
    assert ucl("cluster", "h.h5", "-k", 2, "-o", "l.h5", cwd=tmp_path).code == 0


def test_rows_that_are_not_finite(ucl: Runner, x: np.ndarray, photos: Path, tmp_path: Path) -> None:
    x[3, 1] = np.nan
    np.save(tmp_path / "x.npy", x)
    refused(ucl, 65, "row 3 is not finite, and the rows have no names", "x.npy", "-o", "x.h5", cwd=tmp_path)
    done = ucl("convert", "x.npy", "--images", photos, "-o", "x.h5", cwd=tmp_path)
    assert "1 rows not finite" in done.err
    assert read(tmp_path / "x.h5").samples.status[3] == 3
    assert ucl("cluster", "x.h5", "-k", 2, "-o", "l.h5", cwd=tmp_path).code == 0
    assert read(tmp_path / "l.h5").labels[3] == -1


def test_mistakes(ucl: Runner, features: Path, labels: Path, small: Path, photos: Path, x: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "o.npy", np.array([None, "x"], object))
    np.savez(tmp_path / "x.npz", a=x, b=x)
    (tmp_path / "short.txt").write_text("a\nb\n")
    (tmp_path / "bad.csv").write_text("a.png,cat\nb.png,dog\n")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "p.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))

    def no(code: int, told: str, *words: object, **options: object) -> None:
        refused(ucl, code, told, *words, cwd=tmp_path, **options)

    no(66, "no such file", "no.npy", "-o", "a.h5")
    no(65, "object array, which is a pickle and never read", "o.npy", "-o", "a.h5")
    no(2, "2 arrays that could be features or labels", "x.npz", "-o", "a.h5")
    no(2, "the ending tells no format", "x.npy", "-o", "a.xyz")
    no(2, "what to convert HDF5 to?", features)
    no(2, "is a ucl file already", features, "-o", "a.h5")
    no(65, "2 names for the 24 rows", "x.npy", "--paths", "short.txt", "-o", "a.h5")
    no(2, "its rows have names", features, "--images", photos, "-o", "a.npy")
    no(2, "--paths and --images: give one", "x.npy", "--paths", "short.txt", "--images", photos, "-o", "a.h5")
    no(65, "wanted whole numbers (N,)", "x.npy", "--as", "labels", "-o", "a.h5")
    no(65, "line 2: found 'dog', wanted a number", "bad.csv", "-o", "a.h5")
    no(65, "empty: 0 bytes", "empty", "-o", "a.h5")
    no(65, "begins like a PNG image", "p.png", "-o", "a.h5")
    no(65, "is a folder", photos, "-o", "a.h5")
    no(65, "is ucl/checkpoint, expected ucl/features or ucl/labels", small / "model.h5", "-o", "a.npy")
    no(2, "--from: found 'xls'", "x.npy", "--from", "xls", "-o", "a.h5")
    no(65, "stdin: empty", "--from", "npy", "-o", "a.h5", stdin=b"")
    no(2, "no input", "-o", "a.h5")
    no(2, "which holds one array", "x.npy", "--array", "q", "-o", "a.h5")
    no(65, "stream ends", "-o", "a.npy", stdin=features.read_bytes()[:-100])
    no(2, "refusing to write HDF5 to a terminal", "x.npy", stdout="tty")
    (tmp_path / "a.npy").write_bytes(b"old")
    no(73, "exists already", labels, "-o", "a.npy")
    assert (tmp_path / "a.npy").read_bytes() == b"old"

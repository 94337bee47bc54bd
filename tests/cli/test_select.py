"""ucl select: rows as files and as lists; class profiles; order and draws."""

from pathlib import Path

import numpy as np
import pytest

from cli.harness import Runner
from ucl import read


def refused(ucl: Runner, code: int, told: str, *words: object, cwd: Path, **options: object) -> None:
    before = sorted(cwd.iterdir())
    result = ucl("select", *words, cwd=cwd, **options)
    assert (result.code, len(result.lines)) == (code, 2), result.err
    assert told in result.lines[0]
    assert result.lines[1].startswith("  try: ")
    assert sorted(cwd.iterdir()) == before


def test_from_files_and_pipes(ucl: Runner, features: Path, labels: Path, small: Path, tmp_path: Path) -> None:
    done = ucl("select", labels, "--cluster", 1, "-o", "a.h5", cwd=tmp_path)
    whole, made = read(labels), read(tmp_path / "a.h5")
    at = np.flatnonzero(whole.labels == 1)
    assert done.lines == [f"ucl select: {len(at)} of 24 rows; in a.h5"]
    assert made.samples.path.tolist() == whole.samples.path[at].tolist()
    assert set(made.labels) == {1}
    assert ucl("validate", "--full", "a.h5", cwd=tmp_path).code == 0
    piped = ucl("select", "--rows", "3:9,20", stdin=features.read_bytes(), stdout="pipe")
    (tmp_path / "b.h5").write_bytes(piped.out)
    assert (read(tmp_path / "b.h5").features == read(features).features[[*range(3, 9), 20]]).all()
    assert ucl("select", small / "images.h5", "--glob", "bee/*", "-o", "c.h5", cwd=tmp_path).code == 0
    assert ucl("extract", "c.h5", "--model", small / "model.h5", "-o", "d.h5", cwd=tmp_path).code == 0
    assert np.allclose(read(tmp_path / "d.h5").features, read(features).features[8:16], atol=1e-5)
    assert [c.code for c in ucl.pipe(["select", features, "--glob", "*/[0-5].png"], ["cluster", "-k", 2, "--pca", 3, "-o", "e.h5"],
                                     cwd=tmp_path)] == [0, 0]
    assert len(read(tmp_path / "e.h5").labels) == 18


def test_lists(ucl: Runner, photos: Path, labels: Path, tmp_path: Path) -> None:
    text = ucl("select", photos, "--glob", "cat/*", "--sample", 3, "--seed", 1, stdout="pipe")
    names = text.text.splitlines()
    assert text.lines == ["ucl select: 3 of 24 rows"]
    assert names == sorted(names)
    assert all(n.startswith("cat/") for n in names)
    assert ucl("select", photos, "--glob", "cat/*", "--sample", 3, "--seed", 1, stdout="pipe").out == text.out
    assert ucl("select", photos, "--glob", "cat/*", "--sample", 3, "--seed", 2, stdout="pipe").out != text.out
    assert ucl("select", labels, "--rows", "1:3", "--list", stdout="pipe").text == "ant/1.png\nant/2.png\n"
    assert ucl("select", labels, "--rows", "1:3", "-o", "l.txt", cwd=tmp_path).code == 0
    assert (tmp_path / "l.txt").read_text() == "ant/1.png\nant/2.png\n"
    assert ucl("select", labels, "--paths", tmp_path / "l.txt", "--list", stdout="pipe").text == "ant/1.png\nant/2.png\n"
    assert ucl("select", "digits", "--rows", "5", stdout="pipe").text == "digits/0005.png\n"


def test_a_long_tail_for_init(ucl: Runner, photos: Path, tmp_path: Path) -> None:
    done = ucl("select", photos, "--long-tail", 4, "-o", "tail.txt", cwd=tmp_path)
    assert done.lines == ["ucl select: 14 of 24 rows; by class: ant 8, bee 4, cat 2; in tail.txt"]
    assert ucl("init", "deepcluster", photos, "--files-from", "tail.txt", "-o", "run", "--set", "init.size=16", cwd=tmp_path).code == 0
    assert len(read(tmp_path / "run/images.h5").samples) == 14
    assert ucl("select", photos, "--per-class", 2, stdout="pipe").text.count("\n") == 6
    (tmp_path / "t.tsv").write_text("ant/0.png\ta\nant/1.png\ta\nbee/0.png\tb\nbee/1.png\tb\n")
    even = ucl("select", photos, "--per-class", 1, "--targets", "t.tsv", stdout="pipe", cwd=tmp_path)
    assert "by class: a 1, b 1" in even.err
    refused(ucl, 65, "class ant: 8 images, the profile wants 9 (3 classes are too small)", photos, "--per-class", 9, "-o", "x.txt", cwd=tmp_path)


def test_by_flag_and_status(ucl: Runner, labels: Path, tmp_path: Path) -> None:
    assert ucl("purify", labels, "--keep-nearest", 0.5, "-o", "p.h5", cwd=tmp_path).code == 0
    made = read(tmp_path / "p.h5")
    assert ucl("select", "p.h5", "--flag", "KEPT", "-o", "k.h5", cwd=tmp_path).code == 0
    assert read(tmp_path / "k.h5").samples.path.tolist() == made.samples.path[made.flag == 0].tolist()
    both = ucl("select", "p.h5", "--flag", "CUT_BY_DISTANCE", "--cluster", "-1", "--list", cwd=tmp_path, stdout="pipe").text.splitlines()
    assert both == [p.decode() for p in made.samples.path[made.flag == 1].tolist()]
    assert ucl("select", "p.h5", "--ok", "--list", cwd=tmp_path, stdout="pipe").text.count("\n") == 24


def test_the_run_directorys_list(ucl: Runner, small: Path, tmp_path: Path) -> None:
    assert ucl("select", "--rows", "0:5", "-o", tmp_path / "five.h5", cwd=small).code == 0
    assert len(read(tmp_path / "five.h5", "ucl/images").samples) == 5


def test_bad_images(ucl: Runner, photos: Path, tmp_path: Path) -> None:
    (photos / "bee/3.png").write_bytes(b"no image")
    assert ucl("init", "deepcluster", photos, "-o", "run", "--on-error", "skip", "--set", "init.size=16", cwd=tmp_path).code == 0
    out = ucl("select", "run/images.h5", "--ok", "--list", cwd=tmp_path, stdout="pipe").text.splitlines()
    assert len(out) == 23
    assert "bee/3.png" not in out
    assert ucl("extract", "run/images.h5", "--model", "run/model.h5", "-o", "f.h5", cwd=tmp_path).code == 0
    piped = ucl("select", "--ok", "--rows", "2:", stdin=(tmp_path / "f.h5").read_bytes(), stdout="pipe")
    (tmp_path / "g.h5").write_bytes(piped.out)
    made = read(tmp_path / "g.h5")
    assert np.isfinite(made.features).all()
    assert len(made.features) == 21


@pytest.mark.parametrize(("code", "told", "words"), [
    (2, "--rows: found 'x'", ["L", "--rows", "x"]), (65, "none of the 24 rows is chosen", ["L", "--cluster", 99]),
    (66, "no such file", ["L", "--paths", "no.txt"]), (2, "--flag: found 'GOOD'", ["L", "--flag", "GOOD"]), (66, "no such folder", ["no.h5"]),
    (2, "choose by labels", ["P", "--cluster", 1]), (2, "choose by labels", ["F", "--cluster", 1]), (2, "30 of 24 rows", ["L", "--sample", 30]),
    (2, "--long-tail: found 0.5", ["P", "--long-tail", 0.5]), (65, "expected ucl/features", ["M", "--rows", "0"]),
    (2, "--class-order: found 'age'", ["P", "--per-class", 1, "--class-order", "age"])])
def test_mistakes(ucl: Runner, code: int, told: str, words: list[object], labels: Path, features: Path, small_made: Path, photos_made: Path,
                  tmp_path: Path) -> None:
    there = {"L": labels, "F": features, "M": small_made / "model.h5", "P": photos_made}
    refused(ucl, code, told, *[there.get(str(w), w) for w in words], "-o", "x.h5", cwd=tmp_path)


def test_no_input_and_a_terminal(ucl: Runner, labels: Path, tmp_path: Path) -> None:
    refused(ucl, 2, "no input", "--rows", "0", "-o", "x.h5", cwd=tmp_path)
    refused(ucl, 2, "refusing to write HDF5", labels, "--rows", "0", cwd=tmp_path, stdout="tty")

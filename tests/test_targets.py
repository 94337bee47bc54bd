"""ucl.targets: true classes from folders, from a file, and of the digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from ucl.artifacts import Samples
from ucl.errors import DataError, InputMissing
from ucl.listing import list_images
from ucl.targets import join, true_classes


def samples(*paths: str) -> Samples:
    return Samples(np.array([p.encode() for p in paths]), np.zeros(len(paths), np.uint8))


def table(tmp_path: Path, text: str) -> str:
    path = tmp_path / "targets.txt"
    path.write_bytes(text.encode())
    return str(path)


def test_first_folders() -> None:
    names, y = true_classes(samples("dog/1.png", "cat/deep/2.png", "dog/x/3.png", "ape/4.png", "5.png"))
    assert names == ["ape", "cat", "dog"]
    assert y.tolist() == [2, 1, 2, 0, -1]
    assert y.dtype == np.int64


def test_no_folders() -> None:
    with pytest.raises(DataError, match="truth: the images lie in no class folders") as e:
        true_classes(samples("1.png", "2.png"))
    assert "--targets FILE" in e.value.hint


def test_digits_know_their_own() -> None:
    listing = list_images("digits")
    path = np.array(listing.paths)
    names, y = true_classes(Samples(path, np.zeros(len(path), np.uint8)))
    assert names == list("0123456789")
    assert (y == load_digits().target).all()
    order = np.random.default_rng(0).permutation(len(path))
    assert (true_classes(Samples(path[order], np.zeros(len(path), np.uint8)))[1] == load_digits().target[order]).all()


def test_a_folder_called_digits_is_no_digits() -> None:
    assert true_classes(samples("digits/0001.png", "digits/0002.png")) == (["digits"], pytest.approx([0, 0]))


@pytest.mark.parametrize("text", ["a/1.png\tdog\nb.png\tcat\n\nunknown.png\tape\n", "a/1.png,dog\r\nb.png, cat \r\n",
                                  "a/1.png\tdog\n  \nb.png\tcat\nb.png\tcat"])
def test_a_file(tmp_path: Path, text: str) -> None:
    names, y = true_classes(samples("b.png", "a/1.png", "c/2.png"), table(tmp_path, text))
    assert names == ["cat", "dog"]                                       # only classes that some image has
    assert y.tolist() == [0, 1, -1]


def test_a_file_wins_over_folders_and_digits(tmp_path: Path) -> None:
    assert true_classes(samples("x/1.png", "y/2.png"), table(tmp_path, "x/1.png\tq\ny/2.png\tq\n"))[1].tolist() == [0, 0]
    path = np.array(list_images("digits").paths)
    names, y = true_classes(Samples(path, np.zeros(len(path), np.uint8)), table(tmp_path, "digits/0003.png\teven\n"))
    assert names == ["even"]
    assert np.flatnonzero(y == 0).tolist() == [3]


def test_odd_names(tmp_path: Path) -> None:
    """Commas in a path, a tab line's commas in a class, white space at the ends of a name, U+2028 and U+0085 inside."""
    paths = ["a,b.png", "c.png", " d.png", "e\u2028f.png", "g\u0085h.png"]
    names, y = true_classes(samples(*paths), table(tmp_path, "a,b.png,one\nc.png\ttwo,three\n d.png\tone\ne\u2028f.png\tfour\ng\u0085h.png\tfive\n"))
    assert [names[i] for i in y] == ["one", "two,three", "one", "four", "five"]


@pytest.mark.parametrize(("text", "message"), [
    ("b.png\tcat\nno mark at all\n", "line 2: found 'no mark at all', wanted path<tab>class"),
    ("b.png\t\n", "line 1: found 'b.png"),
    ("b.png,  \n", "line 1: found"),
    ("b.png\tcat\n\nb.png\tdog\n", "line 3: b.png has two classes"),
    ("other.png\tcat\n", "names none of the 2 images; the first is b.png"),
    ("", "names none of the 2 images"),
])
def test_file_faults(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError) as e:
        true_classes(samples("b.png", "c.png"), table(tmp_path, text))
    assert e.value.message.startswith(f"{tmp_path / 'targets.txt'}: ")
    assert message in e.value.message


def test_no_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match="no such file"):
        true_classes(samples("b.png"), str(tmp_path / "gone"))
    (tmp_path / "binary").write_bytes(b"b.png\t\xff\n")
    with pytest.raises(DataError, match="not a text file"):
        true_classes(samples("b.png"), str(tmp_path / "binary"))


def test_join_numbers_by_name() -> None:
    a = (["cat", "dog"], np.array([1, 0, -1, 1]))
    b = (["ape", "dog"], np.array([0, 1, -1]))
    found = join(a, b)                                                   # ape cat dog
    assert found[0] == ["ape", "cat", "dog"]
    assert found[1].tolist() == [2, 1, -1, 2]
    assert found[2].tolist() == [0, 2, -1]
    assert [x.tolist() for x in join(a, a)[1:]] == [a[1].tolist()] * 2

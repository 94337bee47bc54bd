"""ucl.foreign, ucl.tabular and ucl.convert: numbers in and out, bit by bit; what is refused."""

from __future__ import annotations

import csv
import io
import logging
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hn

from ucl import foreign, read
from ucl.convert import Table, from_artifact, from_foreign, write_hdf5, write_table
from ucl.errors import DataError, UsageError
from ucl.foreign import Found, Rows, read_dataset, read_npy, read_npz
from ucl.formats.reader import open_artifact
from ucl.tabular import read_csv

NAME = st.text(st.characters(codec="utf-8", exclude_characters="/\0\n", exclude_categories=("Cs",)), min_size=1, max_size=12).filter(
    lambda t: t not in (".", ".."))
NAMES = st.lists(NAME, min_size=1, max_size=9, unique_by=lambda t: t.encode())
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def rows_of(array: np.ndarray) -> Rows:
    return Rows("x", array.shape, array.dtype, lambda: foreign.in_blocks(array))


def written(table: Table, form: str, **options: Any) -> io.BytesIO:
    out = io.BytesIO()
    write_table(table, form, out, **options)
    out.seek(0)
    return out


def back(data: io.BytesIO, form: str, tmp: Path, labelled: bool | None = None) -> Table:
    path = tmp / f"x.{form}"
    path.write_bytes(data.getvalue())
    with path.open("rb") as file:
        found = (read_npy(file, "x") if form == "npy" else read_npz(file, "x", None) if form == "npz"
                 else read_csv(file, "x", "\t" if form == "tsv" else ",", labelled))
        table = from_foreign(found, labelled, narrow=False)
        held = table.rows.collect()
    return Table(table.kind, rows_of(held), table.paths, table.columns)


def text(content: str, labelled: bool | None = None, mark: str = ",") -> Found:
    found = read_csv(io.BytesIO(content.encode()), "x.csv", mark, labelled)
    held = found.rows.collect()
    return Found(rows_of(held), found.paths, found.columns, found.labelled)


# -- round trips -----------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(hn.arrays(st.sampled_from(["<f4", "<f2", ">f4"]), hn.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.floats(
    width=16, allow_nan=True)), st.sampled_from(["npy", "npz"]))
def test_features_come_back_bit_by_bit(tmp_path_factory: pytest.TempPathFactory, x: np.ndarray, form: str) -> None:
    made = back(written(Table("ucl/features", rows_of(x)), form), form, tmp_path_factory.getbasetemp())
    assert made.kind == "ucl/features"
    assert made.rows.dtype == x.dtype.newbyteorder("<")
    assert made.rows.collect().tobytes() == x.astype(x.dtype.newbyteorder("<")).tobytes()


@settings(deadline=None, max_examples=60)
@given(st.data(), NAMES, st.integers(1, 5), st.sampled_from(["csv", "tsv", "npz"]))
def test_named_features_come_back(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, names: list[str], d: int, form: str) -> None:
    x = data.draw(hn.arrays("<f4", (len(names), d), elements=FLOATS))
    paths = np.array([n.encode() for n in names])
    made = back(written(Table("ucl/features", rows_of(x), paths), form), form, tmp_path_factory.getbasetemp(), False)
    assert made.rows.collect().tobytes() == x.tobytes()
    assert made.paths is not None
    assert made.paths.tolist() == paths.tolist()


@settings(deadline=None, max_examples=60)
@given(st.data(), NAMES, st.sampled_from(["csv", "tsv", "npz"]))
def test_labels_and_what_lies_beside_them_come_back(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, names: list[str],
                                                    form: str) -> None:
    n = len(names)
    y = data.draw(hn.arrays("<i4", n, elements=st.integers(-1, 2**31 - 2)))
    extra = {"flag": data.draw(hn.arrays("u1", n, elements=st.integers(0, 5))), "distance": data.draw(hn.arrays("<f4", n, elements=FLOATS))}
    table = Table("ucl/labels", rows_of(y), np.array([p.encode() for p in names]), extra)
    made = back(written(table, form, everything=True), form, tmp_path_factory.getbasetemp())
    assert made.kind == "ucl/labels"
    assert made.rows.collect().tolist() == y.tolist()
    assert made.paths is not None
    assert made.paths.tolist() == [p.encode() for p in names]
    assert made.columns["flag"].tolist() == extra["flag"].tolist()
    assert made.columns["distance"].tobytes() == extra["distance"].tobytes()
    plain = back(written(table, form), form, tmp_path_factory.getbasetemp())
    assert plain.columns == {}


def test_as_numpy_and_csv_write_them() -> None:
    x = np.random.default_rng(0).standard_normal((7, 3)).astype("<f4")
    theirs = io.BytesIO()
    np.save(theirs, x)
    assert written(Table("ucl/features", rows_of(x)), "npy").getvalue() == theirs.getvalue()
    paths = np.array([b"a,b", b'say "x"', b"c", b" d", "é".encode(), b"f", b"g"])
    archive = np.load(written(Table("ucl/features", rows_of(x), paths), "npz"), allow_pickle=False)
    assert (archive["features"] == x).all()
    assert archive["path"].tolist() == [p.decode() for p in paths.tolist()]
    lines = list(csv.reader(io.StringIO(written(Table("ucl/features", rows_of(x), paths), "csv").getvalue().decode())))
    assert lines[0] == ["path", "f0", "f1", "f2"]
    assert [r[0] for r in lines[1:]] == [p.decode() for p in paths.tolist()]
    assert (np.array([r[1:] for r in lines[1:]], np.float64).astype(np.float32) == x).all()


def test_written_twice_it_is_the_same_bytes() -> None:
    table = Table("ucl/labels", rows_of(np.arange(5, dtype="<i4")), np.array([b"a", b"b", b"c", b"d", b"e"]))
    for form in ("npy", "npz", "csv"):
        assert written(table, form).getvalue() == written(table, form).getvalue()
    with zipfile.ZipFile(written(table, "npz")) as archive:
        assert {m.date_time for m in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_blocks_do_not_change_what_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((50, 3)).astype("<f4")
    table = Table("ucl/features", rows_of(x), np.array([b"%d" % i for i in range(50)]))
    whole = {form: written(table, form).getvalue() for form in ("npy", "npz", "csv")}
    monkeypatch.setattr(foreign, "BLOCK", 64)
    for form, data in whole.items():
        assert written(table, form).getvalue() == data
        assert (back(io.BytesIO(data), form, tmp_path, False).rows.collect() == x).all()


# -- precision -------------------------------------------------------------------------------------------------------------------


def features(x: np.ndarray, *, narrow: bool = False) -> np.ndarray:
    return from_foreign(Found(rows_of(x)), None, narrow=narrow).rows.collect()


def test_float64_that_float32_holds_passes() -> None:
    x = np.random.default_rng(0).standard_normal((9, 4)).astype("<f4")
    x[2, 1] = np.nan
    made = features(x.astype(np.float64))
    assert made.dtype == np.float32
    assert made.tobytes() == x.tobytes()


def test_what_would_be_rounded_is_refused_or_told(caplog: pytest.LogCaptureFixture) -> None:
    x = np.ones((3, 2))
    x[1, 1], x[2, 0] = 1 / 3, 0.1
    with pytest.raises(DataError, match=r"2 values of float64 that float32 does not hold; row 1, column 1: 0\.333") as e:
        features(x)
    assert "--narrow" in e.value.hint
    with caplog.at_level(logging.WARNING):
        made = features(x, narrow=True)
    assert (made == x.astype(np.float32)).all()
    assert "2 values of float64 rounded to float32, by 3" in caplog.text
    with pytest.raises(DataError, match="row 0, column 0: 1e\\+300 overflows"):
        features(np.full((2, 2), 1e300), narrow=True)


def test_whole_numbers_as_features() -> None:
    assert (features(np.arange(6, dtype=np.uint8).reshape(3, 2)) == np.arange(6).reshape(3, 2)).all()
    assert features(np.array([[2**24, 3]], np.int64)).tolist() == [[2.0**24, 3.0]]
    with pytest.raises(DataError, match="1 values of int64 that float32 does not hold"):
        features(np.array([[2**24 + 1, 3]], np.int64))


@pytest.mark.parametrize("dtype", ["i1", "u1", "<i2", ">i4", "<u4", "<i8", "<u8", "?"])
def test_labels_of_any_whole_type(dtype: str) -> None:
    y = np.array([0, 1, 1, 0], dtype)
    made = from_foreign(Found(rows_of(y)), None, narrow=False)
    assert made.kind == "ucl/labels"
    assert made.rows.dtype == np.int32
    assert made.rows.collect().tolist() == [0, 1, 1, 0]
    assert from_foreign(Found(rows_of(y.reshape(4, 1))), True, narrow=False).rows.collect().tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize(("y", "found"), [(np.array([0, -2]), "row 1 is -2"), (np.array([0, 2**31 - 1]), "row 1 is 2147483647"),
                                          (np.array([2**64 - 1], np.uint64), "row 0 is 18446744073709551615"),
                                          (np.array([0.0, 1.5]), "row 1 is 1.5"), (np.array([np.nan]), "row 0 is nan")])
def test_labels_that_are_none(y: np.ndarray, found: str) -> None:
    with pytest.raises(DataError, match=found):
        from_foreign(Found(rows_of(y)), True, narrow=False).rows.collect()


@pytest.mark.parametrize(("x", "labelled"), [(np.zeros(3), None), (np.zeros((2, 2, 2)), None), (np.zeros((2, 2)), True), (np.zeros(3), False),
                                             (np.array(["a", "b"]), None), (np.zeros((2, 2), complex), None), (np.zeros((0, 4)), None),
                                             (np.zeros((4, 0)), None)])
def test_arrays_that_are_neither(x: np.ndarray, labelled: bool | None) -> None:
    with pytest.raises(DataError, match=r"wanted|no rows"):
        from_foreign(Found(rows_of(x)), labelled, narrow=False)


def test_names_must_be_an_image_lists() -> None:
    for names, what in (([b"a", b"a"], "rows 0 and 1 are both a"), ([b"/a", b"b"], "not a plain relative path"), ([b"a/../b", b"c"], "plain")):
        with pytest.raises(DataError, match=what):
            from_foreign(Found(rows_of(np.zeros((2, 3), "f4")), np.array(names)), None, narrow=False)


# -- npy and npz -----------------------------------------------------------------------------------------------------------------


def npz(tmp_path: Path, **arrays: Any) -> Path:
    np.savez_compressed(tmp_path / "x.npz", **arrays)
    return tmp_path / "x.npz"


def test_npy_of_either_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "BLOCK", 100)
    x = np.random.default_rng(0).standard_normal((50, 4)).astype("f4")
    for array in (x, np.asfortranarray(x), x.astype(">f4"), x[:, 0]):
        np.save(tmp_path / "x.npy", array)
        with (tmp_path / "x.npy").open("rb") as file:
            assert (read_npy(file, "x").rows.collect() == array).all()


def test_npz_of_several_arrays(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).standard_normal((6, 2)), np.arange(6)
    path = npz(tmp_path, a=x, b=np.asfortranarray(x), y=y, note="text", paths=np.array(list("uvwxyz")))
    with path.open("rb") as file:
        with pytest.raises(UsageError, match=r"3 arrays that could be .*a \(6, 2\) float64.*paths \(6,\) <U1") as e:
            read_npz(file, "x.npz", None)
        assert e.value.hint == "--array NAME"
        with pytest.raises(UsageError, match="no array 'q'"):
            read_npz(file, "x.npz", "q")
        for key in "ab":
            found = read_npz(file, "x.npz", key)
            assert (found.rows.collect() == x).all()
            assert found.paths is not None
            assert found.paths.tolist() == [c.encode() for c in "uvwxyz"]
        assert read_npz(file, "x.npz", "y").rows.collect().tolist() == y.tolist()
    with npz(tmp_path, features=x, labels=y).open("rb") as file:
        assert read_npz(file, "x.npz", None).rows.shape == (6, 2)
    with npz(tmp_path, labels=y, other=x, third=x).open("rb") as file:
        assert from_foreign(read_npz(file, "x.npz", None), None, narrow=False).kind == "ucl/labels"


def test_object_arrays_are_never_read(tmp_path: Path) -> None:
    bad = np.array([{"a": 1}, None], dtype=object)
    np.save(tmp_path / "o.npy", bad)
    with (tmp_path / "o.npy").open("rb") as file, pytest.raises(DataError, match="object array, which is a pickle"):
        read_npy(file, "o.npy")
    with npz(tmp_path, x=np.zeros((2, 2)), o=bad).open("rb") as file:
        assert read_npz(file, "x.npz", None).rows.shape == (2, 2)              # not asked for
        with pytest.raises(DataError, match="object array"):
            read_npz(file, "x.npz", "o")
    with npz(tmp_path, x=np.zeros((2, 2)), paths=bad).open("rb") as file, pytest.raises(DataError, match="paths: an object array"):
        read_npz(file, "x.npz", None)


def test_damaged_numpy_files(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((10, 3), "f4"))
    whole = (tmp_path / "x.npy").read_bytes()
    for cut in (*range(8, 128, 13), len(whole) - 1):
        (tmp_path / "c.npy").write_bytes(whole[:cut])
        with (tmp_path / "c.npy").open("rb") as file, pytest.raises(DataError, match=r"damaged|truncated"):
            read_npy(file, "c.npy")
    whole = npz(tmp_path, x=np.random.default_rng(0).standard_normal((40, 3))).read_bytes()
    for cut in (10, 200, len(whole) - 4):
        (tmp_path / "c.npz").write_bytes(whole[:cut])
        with (tmp_path / "c.npz").open("rb") as file, pytest.raises(DataError, match=r"npz"):
            read_npz(file, "c.npz", None)
    flipped = bytearray(whole)
    flipped[400] ^= 1
    (tmp_path / "c.npz").write_bytes(flipped)
    with (tmp_path / "c.npz").open("rb") as file, pytest.raises(DataError, match=r"damaged|bytes, wanted"):
        read_npz(file, "c.npz", None).rows.collect()


def test_a_lying_zip_is_no_bomb(tmp_path: Path) -> None:
    path = npz(tmp_path, x=np.zeros((5, 2)), paths=np.zeros(1 << 25, "S8"))
    with path.open("rb") as file, pytest.raises(DataError, match="bytes declared"):
        read_npz(file, "x.npz", None)


# -- CSV -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("content", "labels", "names"), [
    ("path,label\na.png,0\nb.png,-1\n", [0, -1], ["a.png", "b.png"]), ("a.png,0\r\nb.png,2\r\n", [0, 2], ["a.png", "b.png"]),
    ("label,path\n4,a\n5,b\n", [4, 5], ["a", "b"]), ("label\n1\n2\n", [1, 2], None), ("1\n2\n", [1, 2], None),
    ("\ufefffilename,cluster\n1.png,3\n", [3], ["1.png"]), (",path,label\n0,x,1\n1,y,2\n", [1, 2], ["x", "y"]), ("3,4.0\n", None, None),
    ('"a,b",1\n"c ""d""",2\n', [1, 2], ["a,b", 'c "d"']), ("name,label,thing\na,1,x\n", [1], ["a"])])
def test_label_files(content: str, labels: list[int] | None, names: list[str] | None, caplog: pytest.LogCaptureFixture) -> None:
    found = text(content)
    assert found.labelled is (labels is not None)
    if labels is not None:
        assert found.rows.collect().tolist() == labels
        assert (found.paths.tolist() if found.paths is not None else None) == (names and [n.encode() for n in names])
    assert ("not taken over: thing" in caplog.text) == ("thing" in content)


@pytest.mark.parametrize(("content", "values", "names"), [
    ("path,f0,f1\na,1,2.5\nb,-3,4e-3\n", [[1, 2.5], [-3, 0.004]], ["a", "b"]), ("1,2\n3,4\n", [[1, 2], [3, 4]], None),
    ("x.png,1,nan\n", [[1, np.nan]], ["x.png"]), (",0,1\na,5,6\n", [[5, 6]], ["a"]), (",0,1\n0,5,6\n", [[5, 6]], None),
    ("0,1,2,3\n5,6,7,8\n", [[5, 6, 7, 8]], None), ("x,y,z\n1,2,3\n", [[1, 2, 3]], None), ("a,1.5\nb,2\n", [[1.5], [2]], ["a", "b"])])
def test_feature_files(content: str, values: list[list[float]], names: list[str] | None) -> None:
    found = text(content)
    assert found.labelled is False
    np.testing.assert_array_equal(found.rows.collect(), np.array(values, np.float32))
    assert (found.paths.tolist() if found.paths is not None else None) == (names and [n.encode() for n in names])


def test_one_column_of_whole_numbers_can_be_features() -> None:
    assert text("a,1\nb,2\n", False).rows.collect().tolist() == [[1.0], [2.0]]
    assert text("a,1\nb,2\n").rows.collect().tolist() == [1, 2]


@pytest.mark.parametrize(("content", "what"), [
    ("", "empty: no rows"), ("path,label\n", "a header and no rows"), ("a,1\nb,x\n", "line 2: found 'x', wanted a number"),
    ("a,1\nb,1.5\n", "line 2: found '1.5', wanted a whole number"), ("path,f0,f1\na,1,2\nb,1\n", "line 3: 2 fields, wanted 3"),
    ("a,1,2\nb,,3\n", "line 2: found ''"), ("a,1e39,2\n", "line 1: a value overflows"), ("a\nb\n", "no column of values"),
    ("path,label,flag\na,1,GOOD\n", "flag 'GOOD'"), ("path,label,distance\na,1,x\n", "distance 'x'"), ("path,label\n,1\n", "an empty name"),
    ("a,1,2\nb,2,3\n", None)])
def test_csv_that_is_refused(content: str, what: str | None) -> None:
    if what is None:
        with pytest.raises(DataError, match="none called label"):
            text(content, True)
        return
    with pytest.raises(DataError, match=what):
        text(content)


def test_csv_that_is_no_utf8() -> None:
    with pytest.raises(DataError, match="not UTF-8"):
        read_csv(io.BytesIO(b"a\xff,1\n"), "x.csv", ",", None)


# -- HDF5 ------------------------------------------------------------------------------------------------------------------------


def test_written_as_a_ucl_file(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((6, 3)).astype("<f2")
    x[4, 1] = np.inf
    table = Table("ucl/features", rows_of(x), np.array([b"%d.png" % i for i in range(6)]))
    with (tmp_path / "f.h5").open("wb") as out:
        assert write_hdf5(table, out, []) == 1
    made = read(tmp_path / "f.h5", "ucl/features")
    assert made.samples.status.tolist() == [0, 0, 0, 0, 3, 0]
    assert (made.features == x.astype("f4")).all()
    with h5py.File(tmp_path / "f.h5") as file:
        assert file["features"].dtype == np.float16
    with open_artifact(tmp_path / "f.h5") as file:
        again = from_artifact(file)
        assert again.rows.collect().tobytes() == x.tobytes()
    with pytest.raises(DataError, match="row 4 is not finite, and the rows have no names"):
        write_hdf5(Table("ucl/features", rows_of(x)), io.BytesIO(), [])


def test_named_datasets_of_other_peoples_files(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((30, 4))
    with h5py.File(tmp_path / "o.h5", "w") as file:
        file.create_dataset("deep/emb", data=x, chunks=(7, 2), compression="gzip", shuffle=True)
        file["names"] = np.array([b"%d" % i for i in range(30)])
    found = read_dataset(str(tmp_path / "o.h5"), "deep/emb")
    assert (found.rows.collect() == x).all()
    assert found.paths is not None
    assert found.paths.tolist() == [b"%d" % i for i in range(30)]
    with pytest.raises(UsageError, match=r"no dataset /x; it holds /deep/emb \(30, 4\) float64"):
        read_dataset(str(tmp_path / "o.h5"), "x")
    with h5py.File(tmp_path / "e.h5", "w") as file:
        file["x"] = x
        file["evil"] = h5py.ExternalLink("/etc/passwd", "/x")
    with pytest.raises(DataError, match="external link"):
        read_dataset(str(tmp_path / "e.h5"), "x")

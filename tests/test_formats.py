"""Files: what is written is what libhdf5, the reader and the digest see."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ucl.errors import DataError, InputMissing, NotPermitted
from ucl.formats.digest import content_digest, samples_digest
from ucl.formats.layout import CHECKPOINT, SCHEMA, Item, compound_fields, stream_order
from ucl.formats.reader import open_artifact, validate
from ucl.formats.types import encode_strings, schema_dtype
from ucl.formats.writer import ArtifactWriter, write_artifact


def features(n: int = 20, d: int = 4, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "/features": rng.standard_normal((n, d)).astype("f4"),
        "/samples/path": [f"dir/é{i}.png" for i in range(n)],
        "/samples/status": np.zeros(n, "u1"),
    }


def to_bytes(kind: str, arrays: dict[str, Any], attrs: dict[str, Any] | None = None,
             provenance: tuple[str, ...] = ('{"id":1}',), **kw: Any) -> bytes:  # fmt: skip
    out = io.BytesIO()
    write_artifact(out, kind, attrs or {}, arrays, provenance, **kw)
    return out.getvalue()


# ---------------------------------------------------------------- what others read


def test_h5py_reads_what_was_written(tmp_path: Path) -> None:
    arrays = features()
    attrs = {"title": "Ω", "recipe-id": "a"}
    (tmp_path / "f.h5").write_bytes(to_bytes("ucl/features", arrays, attrs))
    with h5py.File(tmp_path / "f.h5") as f:
        assert f.attrs["title"].decode() == "Ω"
        assert f.attrs["n-samples"] == 20
        assert np.array_equal(f["features"][:], arrays["/features"])
        assert list(f["samples/path"].asstr()[:]) == arrays["/samples/path"]
        assert h5py.check_enum_dtype(f["samples/status"].dtype)["PENDING"] == 255
        assert f["integrity/end"][0] == b"COMPLETE"
        assert f.userblock_size == 0


@pytest.mark.skipif(not shutil.which("h5dump"), reason="hdf5-tools are not installed")
def test_hdf5_tools_read_it(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    arrays = features() | {"/samples/status": np.array([0, 1] * 10, "u1")}
    path.write_bytes(to_bytes("ucl/features", arrays))

    def run(*argv: str) -> str:
        return subprocess.run([*argv, path], check=True, capture_output=True, text=True).stdout

    assert "/features                Dataset {20, 4}" in run("h5ls", "-r")
    assert "STRPAD H5T_STR_NULLTERM" in run("h5dump", "-H")
    assert "OK, UNREADABLE, OK" in run("h5dump", "-d", "/samples/status")
    assert '"COMPLETE"' in run("h5dump", "-d", "/integrity/end")


@pytest.mark.parametrize("n", [0, 1, 2, 3, 63, 511, 1024, 5001])
@pytest.mark.parametrize("notes", [0, 3, 40])
def test_stream_is_the_file_libhdf5_would_write(tmp_path: Path, n: int, notes: int) -> None:
    """Writing every value again through libhdf5 changes nothing, and no byte lies elsewhere."""
    path = tmp_path / "f.h5"
    attrs = {f"note-{i}": "x" * i for i in range(notes)}
    data = to_bytes("ucl/features", features(n), attrs)
    path.write_bytes(data)
    with h5py.File(path, "r+") as f:
        assert f.id.get_filesize() == len(data)

        def again(_: str, obj: Any) -> None:
            if isinstance(obj, h5py.Dataset) and obj.size:
                obj[...] = obj[...]

        f.visititems(again)
    assert path.read_bytes() == data
    assert validate(path, full=True) == []


def test_equal_input_gives_equal_bytes() -> None:
    a = to_bytes("ucl/features", features())
    time.sleep(1.1)  # HDF5 timestamps count whole seconds
    assert to_bytes("ucl/features", features()) == a


def test_batches_do_not_change_a_byte() -> None:
    arrays = features(1000, 8)
    whole = to_bytes("ucl/features", arrays)
    out = io.BytesIO()
    specs = {"/features": ((1000, 8), "f4"), "/samples/path": ((1000,), "S13"),
             "/samples/status": ((1000,), "u1")}  # fmt: skip
    w = ArtifactWriter(out, "ucl/features", {}, specs, ['{"id":1}'])
    assert w.order == ("/samples/path", "/features", "/samples/status")
    for path in w.order:
        for i in range(0, 1000, 37):
            w.write(path, arrays[path][i : i + 37])
    digest = w.finish()
    assert out.getvalue() == whole
    assert digest == content_digest("ucl/features", {}, arrays)


def test_unicode_arrays_can_be_declared() -> None:
    names = np.array(["é", "zz"])
    out = io.BytesIO()
    w = ArtifactWriter(out, "ucl/images", {}, {"/samples/path": ((2,), names.dtype)})
    w.write("/samples/path", names)
    assert w.finish() == content_digest("ucl/images", {}, {"/samples/path": names})


@pytest.mark.parametrize("cells", [[b"a", b"bcd"], [b"", b""], [b"\xc3\xa9", b"abc"], [b"x" * 40], []])
def test_bytes_as_text_are_stored_as_short_as_can_be(cells: list[bytes]) -> None:
    array = np.array(cells, dtype="S50")
    slow = encode_strings("/samples/path", np.array([c.decode() for c in cells], dtype=object))
    found = encode_strings("/samples/path", array)
    assert found.dtype == slow.dtype
    assert found.tolist() == slow.tolist()
    assert encode_strings("/samples/path", array, 60).dtype == "S60"
    with pytest.raises(DataError, match="NUL inside"):
        encode_strings("/samples/path", np.array([b"a\0b"], dtype="S5"))
    with pytest.raises(DataError, match="not UTF-8"):
        encode_strings("/samples/path", np.array([b"a\xff"], dtype="S5"))


def test_many_crc_blocks(tmp_path: Path) -> None:
    arrays = {"/features": np.random.default_rng(0).standard_normal((9000, 300)).astype("f4")}
    path = tmp_path / "f.h5"
    path.write_bytes(to_bytes("ucl/features", arrays))
    with h5py.File(path) as f:
        assert f["integrity/crc32"].shape == (11,)
        assert f["integrity/crc32"].attrs["covers-bytes"] == f["integrity/crc32"].id.get_offset()
    assert validate(path, full=True) == []
    data = bytearray(path.read_bytes())
    data[5 << 20] ^= 4
    path.write_bytes(data)
    assert "MiB 5" in validate(path, full=True)[0]


def test_checkpoint_tensors(tmp_path: Path) -> None:
    arrays = {
        "/config": ['{"a": 1}'],
        "/progress": np.array([(3, 1 << 40, 5, 7, 2)], dtype=schema_dtype(
            CHECKPOINT.items[1].dtype)),
        "/model/conv.weight": np.random.default_rng(0).standard_normal((4, 3, 2, 2)),
        "/model/steps": np.array(7, "i8"),
        "/model/mask": np.array([True, False]),
        "/model/half": np.array([1, 2], "f2"),
        "/optimizer/state/0/momentum_buffer": np.zeros((0, 3), "f4"),
        "/memory/counts": np.arange(10, dtype=">i4"),
    }  # fmt: skip
    notes = {"/model/half": {"torch-dtype": "bfloat16"}}
    path = tmp_path / "c.h5"
    path.write_bytes(to_bytes("ucl/checkpoint", arrays, dataset_attrs=notes))
    with open_artifact(path, "ucl/checkpoint") as a:
        assert set(a.names) == set(arrays)
        for p in set(arrays) - {"/config"}:
            got = a.read(p)
            assert np.array_equal(got, arrays[p])
            assert got.shape == np.shape(arrays[p])
            assert got.dtype == np.asarray(arrays[p]).dtype.newbyteorder("<")
        assert a.strings("/config") == ['{"a": 1}']
        assert a.dataset_attrs("/model/half") == {"torch-dtype": "bfloat16"}
        assert a.digest == content_digest("ucl/checkpoint", {}, arrays, notes) == a.compute_digest()
        assert a.digest != content_digest("ucl/checkpoint", {}, arrays)


# ---------------------------------------------------------------- the schema as a round trip

_SIZES = {"P": 2, "A": 1, "*": 2, "N": 5, "D": 3, "K": 2, "d": 4, "H": 2, "C": 3, "E": 2, "W": 2, "m": 3, "F": 2, "L": 7, "R": 4, "Q": 3}
_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


def values(item: Item, n: int) -> st.SearchStrategy[np.ndarray]:
    shape = tuple(d if isinstance(d, int) else n if d == "N" else _SIZES[d] for d in item.dims)
    if item.dtype == "S":
        return hnp.arrays(object, shape, elements=_TEXT)
    if fields := compound_fields(item.dtype):
        parts = [st.text("abc", max_size=9).map(str.encode) if c.startswith("S")
                 else hnp.from_dtype(np.dtype(c)) for _, c in fields]  # fmt: skip
        return hnp.arrays(schema_dtype(item.dtype), shape, elements=st.tuples(*parts))
    if item.enum:
        return hnp.arrays("u1", shape, elements=st.sampled_from(list(item.enum.values())))
    return hnp.arrays(schema_dtype(item.dtype.split("|")[0]), shape)


@pytest.mark.parametrize("kind", sorted(SCHEMA))
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_round_trip_of_every_type(kind: str, data: st.DataObject) -> None:
    n = data.draw(st.integers(0, 6))
    arrays = {i.path: data.draw(values(i, n)) for i in SCHEMA[kind].items
              if i.required or data.draw(st.booleans())}  # fmt: skip
    for p in SCHEMA[kind].prefix_items:
        arrays[f"{p.path}x"] = data.draw(hnp.arrays(
            hnp.scalar_dtypes().filter(lambda t: t.kind in "biuf" and t.itemsize < 16),
            hnp.array_shapes(max_dims=3, max_side=3)))  # fmt: skip
    title = data.draw(_TEXT)
    steps = data.draw(st.lists(_TEXT, max_size=3))
    out = io.BytesIO()
    digest = write_artifact(out, kind, {"title": title}, arrays, steps)
    assert digest == content_digest(kind, {}, arrays)
    with _spooled(out.getvalue()) as f, open_artifact(f.fileno(), kind) as a:
        assert a.attrs["title"] == title
        assert a.provenance == steps
        assert set(a.names) == set(arrays)
        for path, want in arrays.items():
            if want.dtype == object:
                assert a.strings(path) == list(want)
            else:
                assert a.read(path).tobytes() == want.astype(want.dtype.newbyteorder("<")).tobytes()
        assert a.digest == digest == a.compute_digest()


def _spooled(data: bytes) -> Any:
    import tempfile

    f = tempfile.TemporaryFile()  # noqa: SIM115
    f.write(data)
    f.flush()
    return f


def test_stream_order_puts_trailing_last() -> None:
    for kind, ftype in SCHEMA.items():
        order = stream_order(kind, [i.path for i in ftype.items])
        trailing = [bool((item := ftype.item(p)) and item.trailing) for p in order]
        assert trailing == sorted(trailing)
    with pytest.raises(ValueError, match="no dataset /nonsense"):
        stream_order("ucl/labels", ["/nonsense"])


# ---------------------------------------------------------------- the digest


def test_digest_is_of_the_content_alone() -> None:
    arrays = features()
    base = content_digest("ucl/features", {}, arrays)
    names = [p.encode() for p in arrays["/samples/path"]]
    wide = arrays | {"/samples/path": np.array(names, "S99")}
    assert content_digest("ucl/features", {"title": "t", "context": "{}"}, wide) == base
    out = io.BytesIO()
    assert write_artifact(out, "ucl/features", {"title": "u"}, wide, ["a", "b"]) == base
    for change in (
        arrays | {"/features": arrays["/features"] + 1},
        arrays | {"/features": arrays["/features"].astype("f2")},
        arrays | {"/samples/path": [*arrays["/samples/path"][:-1], "z"]},
        {k: v for k, v in arrays.items() if k != "/samples/status"},
    ):
        assert content_digest("ucl/features", {}, change) != base
    assert content_digest("ucl/features", {"samples-digest": "sha256:0"}, arrays) != base
    assert content_digest("ucl/features", {}, arrays, {"/features": {"scalar": 1}}) != base


def test_digest_is_as_documented() -> None:
    """The definition in the module's text, recomputed by other means."""
    import hashlib

    rows = np.array([1, -1], "<i4")
    one = hashlib.sha256(b'["/labels","<i4",[2],{}]\n' + rows.tobytes()).hexdigest()
    names = hashlib.sha256(b'["/samples/path","S",[2],{}]\na\0bc\0').hexdigest()
    want = hashlib.sha256(
        b'ucl-content-1\n{"encoding-type":"ucl/labels","n-samples":2}\n'
        + f"/labels {one}\n/samples/path {names}\n".encode()
    ).hexdigest()
    assert content_digest("ucl/labels", {}, {"/labels": rows, "/samples/path": ["a", "bc"]}) == want
    assert samples_digest(["a", b"bc"]) == "sha256:" + hashlib.sha256(b"a\nbc\n").hexdigest()


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("kind", "arrays", "words"),
    [
        ("ucl/labels", {"/flag": np.zeros(3, "u1")}, "no dataset /labels"),
        ("ucl/labels", {"/labels": [1, 2], "/distance": [1.0]}, "/distance: N = 1"),
        ("ucl/labels", {"/labels": [[1, 2]]}, "has shape"),
        ("ucl/labels", {"/labels": [0.5]}, "whole numbers"),
        ("ucl/labels", {"/labels": [1 << 40]}, "do not fit"),
        ("ucl/features", {"/features": np.full((1, 1), 1e300)}, "overflow"),
        ("ucl/features", {"/features": np.ones((1, 1), complex)}, "wanted float32"),
        ("ucl/images", {"/samples/path": ["a\0b"]}, "NUL"),
        ("ucl/images", {"/samples/path": [b"\xff"]}, "not UTF-8"),
        ("ucl/images", {"/samples/path": ["\udc80"]}, "not UTF-8"),
        ("ucl/images", {"/samples/path": ["a" * 4096]}, "at most 4095"),
    ],
)
def test_writer_refuses(kind: str, arrays: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        to_bytes(kind, arrays)
    with pytest.raises(DataError, match="n-samples"):
        to_bytes("ucl/labels", {"/labels": [1]}, {"n-samples": 2})


def test_writer_keeps_order_and_count() -> None:
    specs = {"/features": ((4, 2), "f4"), "/samples/status": ((4,), "u1")}
    w = ArtifactWriter(io.BytesIO(), "ucl/features", {}, specs)
    w.write("/features", np.zeros((3, 2)))
    with pytest.raises(ValueError, match="3 of 4 rows"):
        w.finish()
    with pytest.raises(ValueError, match="more than 4"):
        w.write("/features", np.zeros((2, 2)))
    with pytest.raises(ValueError, match="shape"):
        w.write("/features", np.zeros((1, 3)))
    with pytest.raises(ValueError, match="not declared"):
        w.write("/samples/path", ["a"])


def test_wrong_kind_version_and_place(tmp_path: Path) -> None:
    path = tmp_path / "l.h5"
    path.write_bytes(to_bytes("ucl/labels", {"/labels": [0, 1]}))
    with pytest.raises(DataError, match=r"l.h5: is ucl/labels, expected ucl/features") as e:
        open_artifact(path, "ucl/features")
    assert "extract" in e.value.hint
    path.write_bytes(to_bytes("ucl/labels", {"/labels": [0, 1]}, {"encoding-version": "2.0"}))
    with pytest.raises(DataError, match=r"version 2.0, expected 1.0"):
        open_artifact(path)
    path.write_bytes(to_bytes("ucl/labels", {"/labels": [0, 1]}, {"encoding-version": "1.9"}))
    open_artifact(path).close()
    with pytest.raises(InputMissing):
        open_artifact(tmp_path / "none.h5")
    with pytest.raises(DataError, match="folder"):
        open_artifact(tmp_path)
    for text, what in ((b"hello\n", "text"), (b"\x89PNG\r\n", "PNG"), (b"", "empty")):
        path.write_bytes(text)
        with pytest.raises(DataError, match=what):
            open_artifact(path)


def test_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("ucl.formats.reader.os.open", refuse)
    with pytest.raises(NotPermitted):
        open_artifact(tmp_path / "x.h5")


# ---------------------------------------------------------------- other people's files


def test_default_h5py_labels(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "u.h5", "w") as f:
        f["labels"] = np.array([3, -1, 0])
        f.attrs["encoding-type"] = "variable-length, never read"
    with open_artifact(tmp_path / "u.h5", ("ucl/features", "ucl/labels")) as a:
        assert (a.kind, a.foreign) == ("ucl/labels", True)
        assert a.dtype("/labels") == np.dtype("<i4")
        assert a.read("/labels").tolist() == [3, -1, 0]
        assert a.attrs == {"encoding-type": None}
        assert len(a.digest) == 64
    with pytest.raises(DataError, match="no /features"):
        open_artifact(tmp_path / "u.h5", "ucl/features")
    with h5py.File(tmp_path / "u.h5", "w") as f:
        f["labels"] = np.array([1 << 40])
    with open_artifact(tmp_path / "u.h5") as a, pytest.raises(DataError, match="do not fit"):
        a.read("/labels")


@pytest.mark.parametrize("options", [{}, {"chunks": (7, 3), "compression": "gzip"},
                                     {"chunks": (9, 2), "shuffle": True}])  # fmt: skip
def test_foreign_features(tmp_path: Path, options: dict[str, Any]) -> None:
    x = np.random.default_rng(0).standard_normal((30, 4))
    with h5py.File(tmp_path / "u.h5", "w") as f:
        f.create_dataset("train", data=x.astype(">f8"), **options)
        f["neighbors"] = np.zeros((30, 2))
    with open_artifact(tmp_path / "u.h5", "ucl/features") as a:
        assert np.array_equal(a.read("/features"), x.astype("f4"))
        assert np.array_equal(np.concatenate(list(a.rows("/features", 7))), x.astype("f4"))
        assert np.array_equal(a.read_rows("/features", 5, 9), x[5:9].astype("f4"))


# ---------------------------------------------------------------- validate


def test_modified_after_writing(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    data = to_bytes("ucl/features", features(), {"title": "t"})
    path.write_bytes(data)
    with open_artifact(path) as a:
        digest = a.digest
    with h5py.File(path, "r+") as f:
        f["mine"] = np.arange(5)
        f.attrs["note"] = "hello"
    with open_artifact(path) as a:
        assert a.digest != digest
        assert np.array_equal(a.read("/features"), features()["/features"])
    assert any("modified after writing" in p for p in validate(path, full=True))
    path.write_bytes(data)
    with h5py.File(path, "r+") as f:
        f["features"][0, 0] = 5
    assert any("modified after writing" in p for p in validate(path, full=True))


def test_values(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"

    def problems(kind: str, arrays: dict[str, Any]) -> str:
        path.write_bytes(to_bytes(kind, arrays))
        return json.dumps(validate(path, full=True))

    bad = features()
    bad["/features"][3, 1] = np.nan
    assert "/features[3]: not finite" in problems("ucl/features", bad)
    bad["/samples/status"][3] = 3
    assert problems("ucl/features", bad) == "[]"
    good = {"/labels": [0, 0, 1, -1], "/clusters/size": [2, 1], "/clusters/anchor": [0, 2]}
    assert problems("ucl/labels", good) == "[]"
    assert "2 clusters" in problems("ucl/labels", good | {"/labels": [0, 0, 2, -1]})
    assert "size[0]" in problems("ucl/labels", good | {"/clusters/size": [3, 1]})
    assert "least label" in problems("ucl/labels", good | {"/labels": [0, 0, 1, -2]})
    assert "anchor" in problems("ucl/labels", good | {"/clusters/anchor": [0, 9]})
    cut = good | {"/labels": [0, -1, 1, -1], "/flag": np.array([0, 1, 0, 5], "u1")}
    assert problems("ucl/labels", cut) == "[]"


def test_import_is_cheap() -> None:
    code = ("import sys, ucl.formats, ucl.formats.layout;"
            "sys.exit(any(m in sys.modules for m in ('numpy', 'h5py', 'torch')))")  # fmt: skip
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0

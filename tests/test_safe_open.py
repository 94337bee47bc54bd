"""Hostile files: refused, without touching what they point at."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from ucl.errors import DataError
from ucl.formats.reader import open_artifact, validate
from ucl.formats.safe_open import safe_open
from ucl.formats.writer import write_artifact


def soft(f: h5py.File, d: Path) -> None:
    f["x"] = h5py.SoftLink("/labels")


def external_link(f: h5py.File, d: Path) -> None:
    f["x"] = h5py.ExternalLink(str(d / "secret.h5"), "/labels")


def external_storage(f: h5py.File, d: Path) -> None:
    f.create_dataset("x", (4,), "u1", external=[(str(d / "secret.txt"), 0, 4)])


def virtual(f: h5py.File, d: Path) -> None:
    layout = h5py.VirtualLayout((3,), "i4")
    layout[:] = h5py.VirtualSource(str(d / "secret.h5"), "labels", (3,))
    f.create_virtual_dataset("x", layout)


def vlen_strings(f: h5py.File, d: Path) -> None:
    f["x"] = ["a", "bc"]


def vlen_numbers(f: h5py.File, d: Path) -> None:
    f.create_dataset("x", (2,), h5py.vlen_dtype("i4"))


def vlen_inside_compound(f: h5py.File, d: Path) -> None:
    f.create_dataset("x", (2,), np.dtype([("a", "i4"), ("b", h5py.string_dtype())]))


def reference(f: h5py.File, d: Path) -> None:
    f.create_dataset("x", (1,), h5py.ref_dtype)


def bomb(f: h5py.File, d: Path) -> None:
    f.create_dataset("x", (1 << 38,), "u1", chunks=(1 << 20,), compression="gzip")


def bomb_of_zeros(f: h5py.File, d: Path) -> None:
    f.create_dataset("x", (1 << 12, 1 << 17), "u1", chunks=(1 << 6, 1 << 17), compression="gzip")
    f["x"][:64] = 0


def cycle(f: h5py.File, d: Path) -> None:
    f.create_group("g")["up"] = f["/"]


def twice(f: h5py.File, d: Path) -> None:
    f["h"] = f.create_group("g")


def deep(f: h5py.File, d: Path) -> None:
    f.create_group("g/" * 80)


def crowd(f: h5py.File, d: Path) -> None:
    g = f.create_group("g")
    for i in range(10_001):
        g.id.links.create_hard(b"%d" % i, f.id, b"labels")


def committed(f: h5py.File, d: Path) -> None:
    f["x"] = np.dtype("f4")


def foreign_filter(f: h5py.File, d: Path) -> None:
    f.create_dataset("x", data=np.zeros(100), chunks=(10,), compression="lzf")


def null(f: h5py.File, d: Path) -> None:
    f["x"] = h5py.Empty("f4")


ATTACKS = [soft, external_link, external_storage, virtual, vlen_strings, vlen_numbers,
           vlen_inside_compound, reference, bomb, bomb_of_zeros, cycle, twice, deep, crowd,
           committed, foreign_filter, null]  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_refused(attack: Callable[[h5py.File, Path], None], tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_bytes(b"root")
    with h5py.File(tmp_path / "secret.h5", "w") as f:
        f["labels"] = np.arange(3)
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as f:
        f["labels"] = np.arange(3)
        attack(f, tmp_path)
    with pytest.raises(DataError) as e:
        open_artifact(path)
    assert str(path) in e.value.message
    assert e.value.hint
    with pytest.raises(DataError):
        safe_open(path)
    assert len(validate(path)) == 1


def test_variable_length_attributes_are_never_read(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as f:
        f["labels"] = np.arange(3)
        f["labels"].attrs["note"] = "text"
        f.attrs["number"] = 3
        f.attrs["list"] = ["a", "b"]
    with open_artifact(path) as a:
        assert a.attrs == {"list": None, "number": 3}
        assert a.dataset_attrs("/labels") == {"note": None}


def test_good_file_opens(tmp_path: Path) -> None:
    out = io.BytesIO()
    write_artifact(out, "ucl/labels", {}, {"/labels": [1, 0]})
    path = tmp_path / "f.h5"
    path.write_bytes(out.getvalue())
    with safe_open(path) as f:
        assert f["labels"][:].tolist() == [1, 0]


def test_plug_ins_are_off() -> None:
    import os

    assert os.environ["HDF5_PLUGIN_PRELOAD"] == "::"

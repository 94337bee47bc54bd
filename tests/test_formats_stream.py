"""Pipes: rows in order, and nothing short, long or damaged gets through."""

from __future__ import annotations

import contextlib
import io
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ucl.errors import DataError, StorageError
from ucl.formats.reader import FileArtifact, open_artifact, validate
from ucl.formats.writer import ArtifactWriter, write_artifact


@contextlib.contextmanager
def pipe(data: bytes) -> Iterator[int]:
    """The reading end of a pipe that carries `data`."""
    r, w = os.pipe()

    def feed() -> None:
        with contextlib.suppress(BrokenPipeError), open(w, "wb") as f:  # noqa: PTH123
            f.write(data)

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        yield r
    finally:
        os.close(r)
        thread.join(20)


@pytest.fixture(scope="module")
def arrays() -> dict[str, Any]:
    n = 700
    return {
        "/features": np.random.default_rng(1).standard_normal((n, 16)).astype("f4"),
        "/samples/path": [f"{i}.png" for i in range(n)],
        "/samples/status": np.array([0, 2] * (n // 2), "u1"),
    }


@pytest.fixture(scope="module")
def data(arrays: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    write_artifact(out, "ucl/features", {"title": "t"}, arrays, ["{}"])
    return out.getvalue()


def test_whole_and_in_rows(arrays: dict[str, Any], data: bytes, tmp_path: Path) -> None:
    (tmp_path / "f.h5").write_bytes(data)
    with open_artifact(tmp_path / "f.h5") as a:
        want = a.digest
    with pipe(data) as r, open_artifact(r, "ucl/features", name="stdin") as a:
        assert a.streaming
        assert a.shape("/features") == (700, 16)
        assert a.provenance == ["{}"]
        got = list(a.rows("/features", 64))
        assert [len(g) for g in got] == [64] * 10 + [60]
        assert np.array_equal(np.concatenate(got), arrays["/features"])
        assert a.strings("/samples/path") == arrays["/samples/path"]
        assert np.array_equal(a.read("/samples/status"), arrays["/samples/status"])
        assert a.digest == want
        with pytest.raises(ValueError, match="gone by"):
            a.read("/features")
    with pipe(data) as r, open_artifact(r) as a:
        assert np.array_equal(a.read("/features"), arrays["/features"])
        assert np.array_equal(a.read_rows("/features", 3, 5), arrays["/features"][3:5])
        assert len(list(a.rows("/samples/path", 100))) == 7


def test_rows_come_before_the_end() -> None:
    """A batch is there while the producer has not written the next one."""
    r, w = os.pipe()
    specs = {"/features": ((600, 64), "f4")}
    batch = np.ones((300, 64), "f4")
    writer = ArtifactWriter(w, "ucl/features", {}, specs)
    writer.write("/features", batch[:200])
    with open_artifact(r) as a:
        rows = a.rows("/features", 100)
        assert next(rows).shape == (100, 64)
        writer.write("/features", batch)
        assert next(rows).shape == (100, 64)
        writer.write("/features", batch[:100])
        writer.finish()
        os.close(w)
        assert len(list(rows)) == 4
    os.close(r)


def test_abandoned_rows_are_skipped(data: bytes) -> None:
    with pipe(data) as r, open_artifact(r) as a:
        next(a.rows("/features", 100))
        assert a.read("/samples/status").sum() == 700


def refused(data: bytes) -> str:
    with pytest.raises(DataError) as e, pipe(data) as r, open_artifact(r, name="stdin"):
        pass
    return e.value.message


def test_every_truncation_is_refused(data: bytes, tmp_path: Path) -> None:
    rng = random.Random(0)
    header = range(0, 4400, 11)
    path = tmp_path / "f.h5"
    for n in [*range(60), *header, *rng.sample(range(len(data)), 200), len(data) - 1]:
        path.write_bytes(data[:n])
        with pytest.raises(DataError):
            open_artifact(path)
    for n in [*range(60), *rng.sample(range(4400), 30), *rng.sample(range(len(data)), 60)]:
        words = refused(data[:n])
        assert "empty" in words if n == 0 else f"ends after {n}" in words


def test_zero_filled_tail_is_refused(data: bytes, tmp_path: Path) -> None:
    """What a crash leaves of a file whose space was reserved."""
    path = tmp_path / "f.h5"
    for n in (10, 5000, 20000, len(data) - 3):
        path.write_bytes(data[:n] + bytes(len(data) - n))
        with pytest.raises(DataError):
            open_artifact(path)
        refused(path.read_bytes())


def test_messages(data: bytes) -> None:
    n = len(data)
    assert refused(data[:-1]) == (
        f"stdin: stream ends after {n - 1} of {n} bytes: the producer did not finish"
    )
    assert refused(b"").startswith("stdin: empty")
    assert "after the end" in refused(data + b"\0")
    assert "after the end" in refused(data + data)
    assert "text: 'Traceback" in refused(b"Traceback (most recent call last):\n" * 9)


def test_every_flip_is_found(data: bytes, tmp_path: Path) -> None:
    rng = random.Random(1)
    path = tmp_path / "f.h5"
    for i in range(300):
        bit = rng.randrange(len(data) * 8) if i % 3 else rng.randrange(4096 * 8)
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert validate(path, full=True), bit
        if i % 5 == 0:
            refused(bytes(damaged))


def test_foreign_stream_is_spooled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.BytesIO()
    with h5py.File(out, "w") as f:
        f["labels"] = np.arange(1000)
        f["x"] = np.zeros(3)
    blob = out.getvalue()
    with pipe(blob) as r, open_artifact(r, ("ucl/features", "ucl/labels"), tmpdir=tmp_path) as a:
        assert (a.kind, a.streaming) == ("ucl/labels", False)
        assert a.read("/labels").tolist() == list(range(1000))
    assert list(tmp_path.iterdir()) == []
    for n in (100, 2000, len(blob) - 1):
        assert f"ends after {n} of {len(blob)}" in refused(blob[:n])
    assert "after the end" in refused(blob + b"x")

    class Full:
        f_bavail, f_frsize = 0, 4096

    monkeypatch.setattr("ucl.formats.stream.os.statvfs", lambda _: Full)
    with pytest.raises(StorageError, match="no room"), pipe(blob) as r:
        open_artifact(r)


def test_latest_libver_and_chunked_streams() -> None:
    x = np.random.default_rng(0).standard_normal((50, 3)).astype("f4")
    for options in ({}, {"chunks": (8, 3), "compression": "gzip"}):
        out = io.BytesIO()
        with h5py.File(out, "w", libver="latest") as f:
            f.create_dataset("features", data=x, **options)
        with pipe(out.getvalue()) as r, open_artifact(r, "ucl/features") as a:
            assert np.array_equal(a.read("/features"), x)


def test_modified_file_through_a_pipe(data: bytes, tmp_path: Path, arrays: dict[str, Any]) -> None:
    path = tmp_path / "f.h5"
    path.write_bytes(data)
    with h5py.File(path, "r+") as f:
        f["mine"] = np.arange(9)
    with pipe(path.read_bytes()) as r, open_artifact(r) as a:
        assert np.array_equal(a.read("/features"), arrays["/features"])


def test_empty_and_wide(tmp_path: Path) -> None:
    for n, d in ((0, 4), (1, 1), (3, 5000)):
        out = io.BytesIO()
        x = np.ones((n, d), "f4")
        write_artifact(out, "ucl/features", {}, {"/features": x, "/samples/path": ["a"] * n})
        with pipe(out.getvalue()) as r, open_artifact(r) as a:
            assert a.streaming
            assert np.array_equal(a.read("/features"), x)
            assert len(a.read("/samples/path")) == n


def test_broken_pipe_is_let_through(data: bytes) -> None:
    r, w = os.pipe()
    os.close(r)
    with pytest.raises(BrokenPipeError):
        write_artifact(w, "ucl/labels", {}, {"/labels": [0, 1]})
    os.close(w)


def test_regular_file_on_a_descriptor(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    path.write_bytes(data)
    with path.open("rb") as f, open_artifact(f.fileno()) as a:
        assert isinstance(a, FileArtifact)
        assert a.mapped("/features").shape == (700, 16)

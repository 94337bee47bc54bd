"""ucl.formats.partial: finished rows outlive their writer, and the finished file is the one written without a break."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ucl.errors import Busy, DataError, NotPermitted, OutputRefused, StorageError
from ucl.formats import atomic, partial
from ucl.formats.check import validate
from ucl.formats.partial import KeptRows, PartialFile
from ucl.formats.reader import open_artifact
from ucl.formats.writer import ArtifactWriter

N, D, BATCH = 23, 600, 4                       # the last block is 7.2 KB, so that none waits in the writer's buffer
ATTRS = {"title": "rows", "recipe-id": "r" * 64, "samples-digest": "sha256:x", "context": "{}"}
NOTE = {"recipe-id": "r" * 64, "threads": 1}
X = np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)
X[5] = np.nan
STATUS = np.where(np.arange(N) == 5, 3, 0).astype(np.uint8)
PATHS = np.array([f"{i:04d}.png".encode() for i in range(N)])
SPECS = {"/features": ((N, D), np.dtype("<f4")), "/samples/path": (PATHS.shape, PATHS.dtype), "/samples/status": ((N,), np.dtype("u1"))}


def begin(out: PartialFile, provenance: list[str] | None = None, note: dict[str, Any] = NOTE) -> ArtifactWriter:
    writer = out.writer("ucl/features", ATTRS, SPECS, provenance or ['{"verb": "extract"}'], note)
    writer.write("/samples/path", PATHS)
    writer.flush()
    return writer


def fill(writer: ArtifactWriter, start: int, stop: int) -> None:
    for at in range(start, stop, BATCH):
        writer.write("/features", X[at:min(at + BATCH, stop)])


def end(writer: ArtifactWriter) -> None:
    writer.write("/samples/status", STATUS)
    writer.finish()


def open_at(folder: Path, **options: Any) -> PartialFile:
    return PartialFile(folder / "a.h5", folder / ".a.h5.partial", **options)


def die(out: PartialFile) -> None:
    """As kill -9: the descriptors are closed, and nothing else happens."""
    if out.kept is not None:
        out.kept.close()
    os.close(out._fd)
    out._closed = True


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file as an AtomicFile writes it."""
    path = tmp_path_factory.mktemp("straight") / "a.h5"
    with atomic.AtomicFile(path) as out:
        writer = ArtifactWriter(out, "ucl/features", ATTRS, SPECS, ['{"verb": "extract"}'])
        writer.write("/samples/path", PATHS)
        fill(writer, 0, N)
        end(writer)
    return path.read_bytes()


def left(folder: Path, rows: int) -> Path:
    """What a killed writer of so many rows leaves."""
    out = open_at(folder)
    fill(begin(out), 0, rows)
    out.mark(STATUS)
    die(out)
    return folder / ".a.h5.partial"


def test_without_a_break_it_is_the_atomic_file(straight: bytes, tmp_path: Path) -> None:
    with open_at(tmp_path) as out:
        writer = begin(out)
        assert [p.name for p in tmp_path.iterdir()] == [".a.h5.partial"]
        fill(writer, 0, N)
        end(writer)
    assert (tmp_path / "a.h5").read_bytes() == straight
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]


@pytest.mark.parametrize("rows", [0, 4, 8, 20, 23])
@pytest.mark.parametrize("native", [True, False])
def test_killed_and_gone_on_it_is_the_same_file(straight: bytes, tmp_path: Path, rows: int, native: bool,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte by byte, with the first writer's provenance; also where space cannot be reserved natively."""
    if not native:
        monkeypatch.setattr(atomic, "_filesystem", lambda folder: "nfs")
    left(tmp_path, rows)
    with open_at(tmp_path) as out:
        assert out.kept is not None
        assert out.kept.note == NOTE
        assert out.kept.status.tolist() == STATUS[:rows].tolist()
        again = np.concatenate([np.empty((0, D), np.float32), *out.kept.blocks(rows, BATCH)])
        assert again.tobytes() == X[:rows].tobytes()
        writer = begin(out, out.kept.provenance)
        for at in range(0, rows, BATCH):
            writer.write("/features", X[at:min(at + BATCH, rows)])
        fill(writer, rows, N)
        end(writer)
    assert (tmp_path / "a.h5").read_bytes() == straight
    assert not validate(tmp_path / "a.h5", full=True)


def test_killed_again_and_again(straight: bytes, tmp_path: Path) -> None:
    for rows in (4, 12, 12, 20):
        out = open_at(tmp_path)
        had = len(out.kept.status) if out.kept is not None else 0
        writer = begin(out)
        fill(writer, 0, had)
        fill(writer, had, rows)
        out.mark(STATUS)
        die(out)
    with open_at(tmp_path) as out:
        assert out.kept is not None
        assert len(out.kept.status) == 20
        writer = begin(out)
        fill(writer, 0, N)
        end(writer)
    assert (tmp_path / "a.h5").read_bytes() == straight


def test_rows_by_number_and_then_in_order(straight: bytes, tmp_path: Path) -> None:
    """As `run` puts them, who has the matrix in memory, and as `extract` then finishes the file."""
    out = open_at(tmp_path)
    begin(out)
    out.put(0, X[:3])
    out.put(out.rows, X[3:8])
    assert out.rows == 8
    out.mark(STATUS)
    die(out)
    with open_at(tmp_path) as out:
        assert out.kept is not None
        assert len(out.kept.status) == 8
        writer = begin(out)
        fill(writer, 0, N)
        end(writer)
    assert (tmp_path / "a.h5").read_bytes() == straight


def test_rows_that_were_not_marked_do_not_count(tmp_path: Path) -> None:
    out = open_at(tmp_path)
    writer = begin(out)
    fill(writer, 0, 8)
    out.mark(STATUS)
    fill(writer, 8, 16)
    die(out)
    with open_at(tmp_path) as again:
        assert again.kept is not None
        assert len(again.kept.status) == 8
        again.discard()
    assert (tmp_path / ".a.h5.partial").exists()


def test_marks_come_after_the_rows_and_the_note_after_the_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this order a power failure cannot make a row that is not there look finished."""
    calls: list[str] = []
    pwrite, fdatasync = os.pwrite, os.fdatasync

    def watch(fd: int, data: Any, at: int) -> int:
        calls.append(f"write {at}")
        return pwrite(fd, data, at)

    monkeypatch.setattr(partial.os, "pwrite", watch)
    monkeypatch.setattr(partial.os, "fdatasync", lambda fd: (calls.append("sync"), fdatasync(fd)))
    out = open_at(tmp_path)
    writer = begin(out)
    marks, note = f"write {writer.place('/samples/status')[0]}", f"write {writer.total}"
    at = calls.index(note)
    assert calls[at - 2:at + 1] == [marks, "sync", note]
    calls.clear()
    fill(writer, 0, 4)
    out.mark(STATUS)
    assert calls[0] < f"write {writer.place('/features')[0] + 1}"
    assert calls[1:] == ["sync", marks]
    die(out)


def test_nobody_takes_it_for_a_file(tmp_path: Path) -> None:
    path = left(tmp_path, 20)
    with pytest.raises(DataError, match="bytes after the end"):
        open_artifact(path)
    assert validate(path)


def test_an_exception_keeps_rows_and_leaves_nothing_without(tmp_path: Path) -> None:
    def write(rows: int) -> None:
        with open_at(tmp_path) as out:
            fill(begin(out), 0, rows)
            out.mark(STATUS)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write(0)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ZeroDivisionError):
        write(4)
    assert [p.name for p in tmp_path.iterdir()] == [".a.h5.partial"]
    with pytest.raises(ZeroDivisionError), open_at(tmp_path):
        raise ZeroDivisionError                                          # before anything was decided about what is there
    assert [p.name for p in tmp_path.iterdir()] == [".a.h5.partial"]


def damaged(path: Path, how: str) -> None:
    data = path.read_bytes()
    out = bytearray(data)
    if how == "header":
        out[60] ^= 1
    elif how == "empty":
        out = bytearray()
    elif how == "short":
        out = out[: len(out) // 2]
    elif how == "note":
        out = out[: data.rindex(b'{"')]
    elif how == "note is a list":
        out = out[: data.rindex(b'{"')] + b"[1]"
    elif how == "zeros":
        out = bytearray(len(out))
    path.write_bytes(bytes(out))


@pytest.mark.parametrize("how", ["header", "short", "note", "note is a list", "zeros"])
def test_damage_is_told_and_nothing_is_gone_on_with(straight: bytes, tmp_path: Path, how: str) -> None:
    damaged(left(tmp_path, 8), how)
    with open_at(tmp_path) as out:
        assert out.kept is None
        assert str(tmp_path / ".a.h5.partial") in out.damage
        out.forget()
        writer = begin(out)
        fill(writer, 0, N)
        end(writer)
    assert (tmp_path / "a.h5").read_bytes() == straight


def test_an_empty_one_is_a_new_one(tmp_path: Path) -> None:
    damaged(left(tmp_path, 8), "empty")
    with open_at(tmp_path) as out:
        assert (out.kept, out.damage) == (None, "")


def test_another_beginning_is_refused(tmp_path: Path) -> None:
    left(tmp_path, 8)
    with pytest.raises(DataError, match="begins otherwise") as caught, open_at(tmp_path) as out:
        out.writer("ucl/features", ATTRS | {"title": "ROWS"}, SPECS, ['{"verb": "extract"}'], NOTE)
    assert caught.value.hint.startswith("rm ")
    other = PATHS.copy()
    other[3] = b"9999.png"
    with open_at(tmp_path) as out:
        writer = out.writer("ucl/features", ATTRS, SPECS, ['{"verb": "extract"}'], NOTE)
        writer.write("/samples/path", other)
        with pytest.raises(DataError, match="begins otherwise"):
            writer.flush()
        out.discard()
    with pytest.raises(DataError, match="expected"), open_at(tmp_path) as out:
        out.writer("ucl/features", ATTRS, SPECS, ["x" * 9000], NOTE)
    assert (tmp_path / ".a.h5.partial").exists()


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    first = open_at(tmp_path)
    begin(first)
    with pytest.raises(Busy, match="another process is writing it"):
        open_at(tmp_path)
    first.discard()
    assert not list(tmp_path.iterdir())
    open_at(tmp_path).discard()


def test_a_name_that_was_taken_away_meanwhile(tmp_path: Path) -> None:
    """Where there are no locks two may write: nobody gives the other's half file the final name."""
    out = open_at(tmp_path)
    writer = begin(out)
    fill(writer, 0, N)
    end(writer)
    (tmp_path / ".a.h5.partial").unlink()
    (tmp_path / ".a.h5.partial").write_bytes(b"theirs")
    with pytest.raises(OutputRefused, match="another process replaced it"):
        out.commit()
    assert [p.name for p in tmp_path.iterdir()] == [".a.h5.partial"]
    assert (tmp_path / ".a.h5.partial").read_bytes() == b"theirs"


def test_without_locks_it_works_too(straight: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(fd: int, how: int) -> None:
        raise OSError(errno.ENOSYS, "no locks")

    monkeypatch.setattr(partial.fcntl, "flock", flock)
    left(tmp_path, 8)
    with open_at(tmp_path) as out:
        writer = begin(out)
        fill(writer, 0, N)
        end(writer)
    assert (tmp_path / "a.h5").read_bytes() == straight


def test_what_exists_is_not_replaced_and_the_rows_stay(straight: bytes, tmp_path: Path) -> None:
    """Somebody else makes the file while we write ours; --force and --resume finish it in no time."""
    out = open_at(tmp_path)
    writer = begin(out)
    fill(writer, 0, N)
    out.mark(STATUS)
    end(writer)
    (tmp_path / "a.h5").write_bytes(b"theirs")
    with pytest.raises(OutputRefused, match="another process wrote it first"):
        out.commit()
    assert (tmp_path / "a.h5").read_bytes() == b"theirs"
    with pytest.raises(OutputRefused, match="exists already"):
        open_at(tmp_path)
    with open_at(tmp_path, force=True) as out:
        assert out.kept is not None
        assert len(out.kept.status) == N
        writer = begin(out)
        fill(writer, 0, N)
        end(writer)
    assert (tmp_path / "a.h5").read_bytes() == straight


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / ".a.h5.partial").symlink_to("precious")
    with pytest.raises(OutputRefused):
        open_at(tmp_path)
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A disk on which so many writes still succeed."""
    room = [10**9]
    pwrite = os.pwrite

    def limited(fd: int, data: Any, at: int) -> int:
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(fd, data, at)

    monkeypatch.setattr(partial.os, "pwrite", limited)
    return room


def test_a_full_disk_keeps_what_is_finished(tmp_path: Path, full: list[int]) -> None:
    def write() -> None:
        with open_at(tmp_path) as out:
            writer = begin(out)
            fill(writer, 0, 8)
            out.mark(STATUS)
            full[0] = 0
            fill(writer, 8, N)

    with pytest.raises(StorageError, match="No space"):
        write()
    full[0] = 10**9
    assert len(KeptRows(os.open(tmp_path / ".a.h5.partial", os.O_RDONLY), "x").status) == 8
    assert not (tmp_path / "a.h5").exists()


def test_no_room_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fallocate(fd: int, at: int, n: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic.os, "posix_fallocate", fallocate)
    with pytest.raises(StorageError, match="reserve"), open_at(tmp_path) as out:
        begin(out)
    assert not list(tmp_path.iterdir())


def test_the_folder_may_not_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputRefused, match="the folder does not exist"):
        open_at(tmp_path / "none")
    if os.geteuid():
        tmp_path.chmod(0o500)
        with pytest.raises(NotPermitted):
            open_at(tmp_path)


def test_the_note_is_json_behind_the_end(tmp_path: Path) -> None:
    path = left(tmp_path, 4)
    assert json.loads(path.read_bytes()[-len(json.dumps(NOTE, sort_keys=True)):]) == NOTE

"""The old file or the new one, whatever happens."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ucl.errors import NotPermitted, OutputRefused, StorageError
from ucl.formats.atomic import AtomicFile, sweep_dead, write_bytes_atomic
from ucl.formats.reader import validate
from ucl.formats.writer import ArtifactWriter, write_artifact

ROOT = Path(__file__).parents[1]


@pytest.fixture(params=["anonymous", "named"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With O_TMPFILE, and as on NFS without."""
    if request.param == "named":
        real = os.open

        def without(path: Any, flags: int, *rest: Any, **kw: Any) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, "Operation not supported")
            return real(path, flags, *rest, **kw)

        monkeypatch.setattr("ucl.formats.atomic.os.open", without)
    return str(request.param)


@pytest.mark.usefixtures("kind")
class TestBoth:
    def test_commit_and_discard(self, tmp_path: Path) -> None:
        path = tmp_path / "a"
        with AtomicFile(path) as f:
            f.reserve(1000)
            f.write(b"new")
            assert not path.exists()
        assert path.read_bytes() == b"new"
        with pytest.raises(OutputRefused, match="exists already"):
            AtomicFile(path)
        with contextlib.suppress(RuntimeError), AtomicFile(path, force=True) as f:
            f.write(b"half")
            raise RuntimeError
        assert path.read_bytes() == b"new"
        write_bytes_atomic(path, b"newer")
        assert path.read_bytes() == b"newer"
        assert [p.name for p in tmp_path.iterdir()] == ["a"]

    def test_second_writer_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "a"
        f = AtomicFile(path)
        f.write(b"mine")
        path.write_bytes(b"theirs")
        with pytest.raises(OutputRefused, match="another process"):
            f.commit()
        assert path.read_bytes() == b"theirs"
        assert [p.name for p in tmp_path.iterdir()] == ["a"]

    @pytest.mark.parametrize("call", ["fsync", "link", "rename"])
    @pytest.mark.parametrize("code", [errno.EIO, errno.EDQUOT, errno.ENOSPC])
    def test_failing_calls(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
    ) -> None:
        path = tmp_path / "a"
        path.write_bytes(b"old")

        def fail(*_: Any, **__: Any) -> None:
            raise OSError(code, os.strerror(code))

        f = AtomicFile(path, force=True)
        named = f._tmp is not None
        f.write(b"new")
        monkeypatch.setattr(f"ucl.formats.atomic.os.{call}", fail)
        if call == "link" and named:
            f.discard()
        else:
            with pytest.raises(StorageError):
                f.commit()
        assert path.read_bytes() == b"old"
        assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OutputRefused, match="does not exist"):
        AtomicFile(tmp_path / "no" / "a")
    with pytest.raises(OutputRefused, match="folder"):
        AtomicFile(tmp_path, force=True)
    for code in (errno.EACCES, errno.EPERM, errno.EROFS):

        def fail(*_: Any, code: int = code, **__: Any) -> int:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr("ucl.formats.atomic.os.open", fail)
        with pytest.raises(NotPermitted):
            AtomicFile(tmp_path / "a")


def test_sweep_of_dead_writers(tmp_path: Path) -> None:
    host = "".join(c for c in os.uname().nodename if c.isalnum())[:24] or "host"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    gone = tmp_path / f".a.{host}.{dead.pid}.00.tmp"
    mine = tmp_path / f".a.{host}.{os.getpid()}.00.tmp"
    other = tmp_path / f".a.elsewhere.{dead.pid}.00.tmp"
    for p in (gone, mine, other):
        p.write_bytes(b"")
    with AtomicFile(tmp_path / "a") as f:
        f.write(b"x")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["a", mine.name, other.name])
    assert sweep_dead(tmp_path / "none", "x", "y") == []


def test_no_room_is_said_before_any_work(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    path.write_bytes(b"old")
    huge = {"/features": ((1 << 36, 1 << 10), "f4")}
    with pytest.raises(StorageError), AtomicFile(path, force=True) as f:
        ArtifactWriter(f, "ucl/features", {}, huge)
    assert path.read_bytes() == b"old"


_WRITE = """
import sys
import numpy as np
from ucl.formats.atomic import AtomicFile
from ucl.formats.writer import write_artifact
x = np.full((4000, 64), 7, "f4")
while True:
    with AtomicFile(sys.argv[1], force=True) as f:
        write_artifact(f, "ucl/features", {}, {"/features": x})
    sys.stdout.write(".")
    sys.stdout.flush()
    if len(sys.argv) > 2:
        break
"""


def test_file_size_limit(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    path.write_bytes(b"old")
    code = ("import resource, signal; resource.setrlimit(resource.RLIMIT_FSIZE, (300000, 300000))\n"
            + _WRITE)  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code, path, "once"], cwd=ROOT, text=True,
                          capture_output=True)  # fmt: skip
    assert done.returncode == 1
    assert "StorageError" in done.stderr
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["f.h5"]


def test_kill_at_any_moment(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    with AtomicFile(path) as f:
        write_artifact(f, "ucl/features", {}, {"/features": np.zeros((9, 9))})
    rng = np.random.default_rng(0)
    for _ in range(10):
        with subprocess.Popen([sys.executable, "-c", _WRITE, path], cwd=ROOT,
                              stdout=subprocess.PIPE) as p:  # fmt: skip
            assert p.stdout is not None
            p.stdout.read(1)
            time.sleep(rng.random() * 0.02)
            p.send_signal(signal.SIGKILL)
        assert validate(path, full=True) == []
    with AtomicFile(path, force=True) as f:
        f.write(b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["f.h5"]

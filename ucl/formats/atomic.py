"""Writes a file so that a crash at any instant leaves the old one or the new one.

    anonymous file in the target's directory -> write -> fsync -> link under a temporary name ->
    rename -> fsync(dir)

Until the link the file has no name, so a kill leaves nothing behind.  Where the filesystem has no
anonymous files (NFS), a named `.NAME.PID.XXXX.tmp` takes their place; those of dead processes of
this host are swept at the next start.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from pathlib import Path
from types import TracebackType

from ucl.errors import NotPermitted, OutputRefused, StorageError, UclError

_STORAGE = {errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EDQUOT}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS}
_NO_TMPFILE = _UNSUPPORTED | {errno.EISDIR, errno.ENOENT}
_NATIVE_FALLOCATE = {"btrfs", "ext4", "f2fs", "gfs2", "ocfs2", "overlay", "tmpfs", "xfs"}


def explain(e: OSError, path: str, doing: str = "write") -> UclError:
    """The failure of a system call as ours."""
    reason = e.strerror or str(e)
    if e.errno in _DENIED:
        return NotPermitted(f"{path}: cannot {doing}: {reason}", "choose another place with -o")
    if e.errno in (errno.ENOENT, errno.ENOTDIR):
        return OutputRefused(f"{path}: cannot {doing}: the folder does not exist",
                             f"mkdir -p {Path(path).parent}")  # fmt: skip
    if e.errno in (errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EEXIST):
        return OutputRefused(f"{path}: cannot {doing}: {reason}", "choose another name")
    hint = {errno.EFBIG: "raise ulimit -f", errno.EIO: "look at the disk: dmesg"}
    return StorageError(f"{path}: cannot {doing}: {reason}",
                        hint.get(e.errno or 0, "make room, or write somewhere else"))  # fmt: skip


def fill(fd: int, view: memoryview, offset: int) -> bool:
    """Read a file's bytes from ``offset`` into all of ``view``; False if the file ends before.

    Raises:
        OSError: as the system call.
    """
    while len(view):
        n = os.preadv(fd, [view[:1 << 30]], offset)
        if n == 0:
            return False
        view, offset = view[n:], offset + n
    return True


def fsync_dir(path: str | os.PathLike[str]) -> None:
    """Makes the names in a directory durable.

    Raises:
        StorageError: the disk refused; filesystems that cannot sync directories are let pass.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as e:
        raise explain(e, str(path), "sync") from e
    try:
        _fsync(fd, str(path))
    finally:
        os.close(fd)


def _fsync(fd: int, path: str) -> None:
    try:
        os.fsync(fd)
    except OSError as e:
        if e.errno not in _UNSUPPORTED:
            raise explain(e, path, "sync") from e


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def sweep_dead(folder: Path, prefix: str, suffix: str) -> list[Path]:
    """Removes `PREFIX PID-... SUFFIX` files of processes of this host that are gone.

    Returns:
        What was removed.
    """
    pattern = re.compile(re.escape(prefix) + r"(\d+)[-.].*" + re.escape(suffix))
    removed = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            m = pattern.fullmatch(entry.name)
            if m and not _alive(int(m[1])):
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)  # noqa: PTH108
                    removed.append(Path(entry.path))
    return removed


class AtomicFile:
    """A binary file that takes its name only when it is whole.

    Use as a context manager: leaving the block without an exception commits, with one discards.

    Args:
        path: the file to make.
        force: replace an existing one.
        mode: permission bits, before the umask.

    Raises:
        OutputRefused: the file exists, or its folder does not.
        NotPermitted: the folder cannot be written to.
        StorageError: disk full, quota, `ulimit -f`, I/O error (from any method).
    """

    def __init__(
        self, path: str | os.PathLike[str], force: bool = False, mode: int = 0o666
    ) -> None:
        self.path = Path(path)
        self.force = force
        self.name = str(path)
        self._tmp: Path | None = None
        self._closed = False
        self._reserved = 0
        self._check_target()
        host = re.sub(r"[^A-Za-z0-9]", "", os.uname().nodename)[:24] or "host"
        self._prefix = f".{self.path.name[:150]}.{host}."
        sweep_dead(self.path.parent, self._prefix, ".tmp")
        self._fd = self._open(mode)

    def _check_target(self) -> None:
        if self.path.is_dir():
            raise OutputRefused(f"{self.path}: is a folder, wanted a file name",
                                f"-o {self.path}/out.h5")  # fmt: skip
        if not self.force and os.path.lexists(self.path):
            raise OutputRefused(f"{self.path}: exists already", "--force replaces it")
        if self.path.exists() and not self.path.is_file():
            raise OutputRefused(f"{self.path}: is no regular file and is never replaced", "give the name of a file")

    def _temp_name(self) -> Path:
        return self.path.with_name(f"{self._prefix}{os.getpid()}.{secrets.token_hex(4)}.tmp")

    def _open(self, mode: int) -> int:
        try:
            return os.open(self.path.parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, mode)
        except OSError as e:
            if e.errno not in _NO_TMPFILE or not self.path.parent.is_dir():
                raise explain(e, self.name) from e
        self._tmp = self._temp_name()
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            return os.open(self._tmp, flags, mode)
        except OSError as e:
            raise explain(e, self.name) from e

    def fileno(self) -> int:
        """The file descriptor."""
        return self._fd

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Writes all of `data`."""
        view = memoryview(data).cast("B")
        total = len(view)
        try:
            while len(view):
                view = view[os.write(self._fd, view) :]
        except OSError as e:
            raise explain(e, self.name) from e
        return total

    def flush(self) -> None:
        """Nothing is buffered."""

    def reserve(self, nbytes: int) -> None:
        """Claims disk space before any work is done.

        Args:
            nbytes: length the file will have.

        Raises:
            StorageError: it does not fit.
        """
        if nbytes <= 0:
            return
        free = os.fstatvfs(self._fd)
        if free.f_blocks and free.f_bavail * free.f_frsize < nbytes:
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise explain(full, self.name, f"reserve {nbytes} bytes")
        self._reserved = nbytes
        try:
            if _filesystem(self.path.parent) in _NATIVE_FALLOCATE:
                os.posix_fallocate(self._fd, 0, nbytes)
            else:
                os.ftruncate(self._fd, nbytes)
                os.ftruncate(self._fd, 0)
        except OSError as e:
            if e.errno not in _UNSUPPORTED:
                raise explain(e, self.name, f"reserve {nbytes} bytes") from e

    def commit(self) -> None:
        """Makes the file durable and gives it its name."""
        if self._closed:
            raise ValueError("file is closed")
        try:
            if self._reserved > (end := os.lseek(self._fd, 0, os.SEEK_CUR)):
                os.ftruncate(self._fd, end)
            _fsync(self._fd, self.name)
            if self.force:
                self._replace()
            else:
                self._claim()
        except OSError as e:
            self.discard()
            raise explain(e, self.name) from e
        except BaseException:
            self.discard()
            raise
        self._close()
        fsync_dir(self.path.parent)

    def _link(self, target: Path) -> None:
        """Names the file, never over another; the temporary name stays."""
        if self._tmp is None:
            source = f"/proc/self/fd/{self._fd}"
            os.link(source, target, src_dir_fd=0, follow_symlinks=True)
        else:
            os.link(self._tmp, target)

    def _replace(self) -> None:
        """Takes the place of an existing file in one step."""
        if self._tmp is None:
            tmp = self._temp_name()
            self._link(tmp)
            self._tmp = tmp
        os.rename(self._tmp, self.path)  # noqa: PTH104
        self._tmp = None

    def _claim(self) -> None:
        """Takes the name unless somebody else was first."""
        try:
            self._link(self.path)
        except FileExistsError as e:
            raise OutputRefused(f"{self.path}: another process wrote it first",
                                "--force replaces it") from e  # fmt: skip
        except OSError as e:
            if self._tmp is None or e.errno not in _UNSUPPORTED | {errno.EPERM, errno.EMLINK}:
                raise
            self._check_target()
            self._replace()
            return
        if self._tmp is not None:
            os.unlink(self._tmp)  # noqa: PTH108
            self._tmp = None

    def discard(self) -> None:
        """Leaves nothing behind."""
        if self._tmp is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._tmp)  # noqa: PTH108
            self._tmp = None
        self._close()

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            with contextlib.suppress(OSError):
                os.close(self._fd)

    def __enter__(self) -> AtomicFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._closed:
            return
        if kind is None:
            self.commit()
        else:
            self.discard()


def _filesystem(folder: Path) -> str:
    """Type of the filesystem a folder lies on; empty if unknown."""
    try:
        device = folder.stat().st_dev
        want = f"{os.major(device)}:{os.minor(device)}"
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            fields = line.split()
            if fields[2] == want:
                return fields[fields.index("-") + 1]
    except (OSError, ValueError, IndexError):
        pass
    return ""


def write_bytes_atomic(path: str | os.PathLike[str], data: bytes, force: bool = True) -> None:
    """A small file, whole or not at all; replaces an existing one.

    Raises:
        As `AtomicFile`.
    """
    with AtomicFile(path, force=force) as f:
        f.reserve(len(data))
        f.write(data)


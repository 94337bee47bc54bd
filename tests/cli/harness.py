"""Runs ucl as a process of its own, with the streams, environment, limits and user that a test asks for.

``real`` starts the installed console script.  Without it the process is forked from a server that has numpy, torch and faiss
loaded already: also a process with its own descriptors, signals and exit code, but 0.1 s instead of 4.  Tests of what is
imported, and of how long starting takes, use ``real``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

UCL = str(Path(sys.executable).with_name("ucl"))
TIMEOUT = 180.0
SECRET = ("SLURM_", "UCL_", "NO_COLOR", "FORCE_COLOR", "SOURCE_DATE_EPOCH", "OMP_NUM_THREADS")


def environment(**extra: str) -> dict[str, str]:
    """This process's environment without what would change ucl's behaviour."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(SECRET)}
    return kept | {"PATH": f"{Path(UCL).parent}:{os.environ['PATH']}", "TERM": "xterm", "UCL_THREADS": "1"} | extra


@dataclass
class Result:
    """How a process ended: the code as a shell sees it (128 + signal), standard output, standard error."""

    code: int
    out: bytes
    err: str
    seconds: float = 0.0

    @property
    def lines(self) -> list[str]:
        """Lines of standard error."""
        return self.err.splitlines()

    @property
    def text(self) -> str:
        """Standard output as text."""
        return self.out.decode()

    @property
    def json(self) -> Any:
        """Standard output as one JSON document."""
        return json.loads(self.out)


SHIM = """#!{python} -SI
import json, os, signal, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({server!r})
request = {{"argv": sys.argv[1:], "cwd": os.getcwd(), "env": dict(os.environ), "fsize": 0, "user": 0}}
socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
for fd in (0, 1):  # only the command holds the ends of a pipe
    os.dup2(os.open(os.devnull, os.O_RDWR), fd)
server.recv(10)
code = os.waitstatus_to_exitcode(int(server.recv(10)))
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


@dataclass
class Server:
    """The preloaded process that commands are forked from."""

    socket: str
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, folder: Path) -> Server:
        """Start it; it loads in the background."""
        path = str(folder / "fork.sock")
        here = Path(__file__).with_name("forkserver.py")
        # large pages: a process of half a gigabyte of loaded packages is forked, and ends, the sooner
        env = environment(OMP_NUM_THREADS="1", HDF5_PLUGIN_PRELOAD="::", GLIBC_TUNABLES="glibc.malloc.hugetlb=1")
        return cls(path, subprocess.Popen([sys.executable, str(here), path], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=env))

    def connect(self) -> socket.socket:
        """A connection; waits until the server is ready."""
        end = time.monotonic() + TIMEOUT
        while True:
            found = socket.socket(socket.AF_UNIX)
            try:
                found.connect(self.socket)
                return found
            except (FileNotFoundError, ConnectionRefusedError):
                found.close()
                if self.process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError("the fork server did not start") from None
                time.sleep(0.02)

    def stop(self) -> None:
        """End it, by its own standard input."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.terminate()
        self.process.wait(10)


@dataclass
class Process:
    """A command that runs."""

    pid: int
    wait_code: Any
    err: IO[bytes]
    began: float = field(default_factory=time.monotonic)

    def kill(self, signum: int) -> None:
        """Send a signal."""
        os.kill(self.pid, signum)

    def wait(self, out: bytes = b"", timeout: float = TIMEOUT) -> Result:
        """Wait for its end."""
        code = self.wait_code(timeout)
        self.err.seek(0)
        said = self.err.read().decode()
        self.err.close()
        return Result(code, out, said, time.monotonic() - self.began)


class Runner:
    """Starts commands.

    Args:
        server: the fork server.
    """

    def __init__(self, server: Server) -> None:
        self.server = server

    def on_path(self, folder: Path) -> str:
        """A folder, made here, for the front of PATH: the ucl in it has the fork server run the command, for scripts.  Signals do not reach it."""
        shim = folder / "bin" / "ucl"
        shim.parent.mkdir()
        shim.write_text(SHIM.format(python=sys.executable, server=self.server.socket))
        shim.chmod(0o755)
        self.server.connect().close()  # it is up before the first shim asks
        return str(shim.parent)

    def start(self, *args: object, cwd: Path | str | None = None, stdin: int | None = None, stdout: int | None = None,
              env: dict[str, str] | None = None, real: bool = False, fsize: int = 0, user: int = 0,
              stderr_too: bool = False) -> Process:
        """Start a command; descriptors stay the caller's.

        Args:
            cwd: where.  stdin, stdout: descriptors; /dev/null by default.
            env: added to the environment; SLURM_TASK_PID = "self" becomes the process's own pid.
            real: the console script instead of a fork.
            fsize: RLIMIT_FSIZE in bytes.  user: run as this user id.
            stderr_too: standard output is the very file that standard error is.
        """
        words = [str(a) for a in args]
        err = tempfile.TemporaryFile()  # noqa: SIM115
        null = os.open(os.devnull, os.O_RDWR)
        fds = [null if stdin is None else stdin, err.fileno() if stderr_too else null if stdout is None else stdout, err.fileno()]
        where = str(cwd or Path.cwd())
        wanted = environment(**(env or {}))
        try:
            if real:
                return self._real(words, where, fds, wanted, err)
            connection = self.server.connect()
            request = {"argv": words, "cwd": where, "env": wanted, "fsize": fsize, "user": user}
            socket.send_fds(connection, [json.dumps(request).encode()], fds)
            connection.settimeout(TIMEOUT)
            pid = int(connection.recv(10))
        finally:
            os.close(null)

        def wait(timeout: float) -> int:
            connection.settimeout(timeout)
            try:
                return os.waitstatus_to_exitcode(int(connection.recv(10)))
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                err.close()
                raise AssertionError(f"ucl {words} took more than {timeout} s") from None
            finally:
                connection.close()

        return Process(pid, lambda timeout: _as_shell(wait(timeout)), err)

    def _real(self, words: list[str], where: str, fds: list[int], env: dict[str, str], err: IO[bytes]) -> Process:
        process = subprocess.Popen([UCL, *words], cwd=where, stdin=fds[0], stdout=fds[1], stderr=fds[2], env=env)

        def wait(timeout: float) -> int:
            try:
                return _as_shell(process.wait(timeout))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise

        return Process(process.pid, wait, err)

    def __call__(self, *args: object, cwd: Path | str | None = None, stdin: bytes | Path | int | None = None,
                 stdout: str | Path | int = "null", **options: Any) -> Result:
        """Run a command to its end.

        Args:
            stdin: bytes come through a pipe (b"" is an empty one); a Path is redirected (<); a descriptor; None is /dev/null.
            stdout: "null", "pipe" (captured), "tty" (captured), a Path to redirect to (>), or a descriptor.
        """
        with contextlib.ExitStack() as stack:
            source = None
            if isinstance(stdin, bytes):
                source, write = os.pipe()
                feeder = threading.Thread(target=_feed, args=(write, stdin))
                feeder.start()
                stack.callback(feeder.join)
            elif isinstance(stdin, Path):
                source = os.open(stdin, os.O_RDONLY)
            elif stdin is not None:
                source = os.dup(stdin)
            read, sink = -1, None
            if stdout in ("pipe", "tty"):
                read, sink = os.pipe() if stdout == "pipe" else pty.openpty()
            elif isinstance(stdout, Path):
                sink = os.open(stdout, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            elif isinstance(stdout, int):
                sink = os.dup(stdout)
            try:
                process = self.start(*args, cwd=cwd, stdin=source, stdout=sink, **options)
            finally:
                for fd in (source, sink):
                    if fd is not None:
                        os.close(fd)
            out = b""
            if read >= 0:
                out = _drain(read, process)
                os.close(read)
            return process.wait(out)

    def pipe(self, *commands: list[object], cwd: Path | str | None = None, stdout: str | Path = "null", **options: Any) -> list[Result]:
        """Run commands as a shell pipe; their results in order."""
        processes, source = [], None
        for number, command in enumerate(commands):
            last = number == len(commands) - 1
            if last:
                sink = os.open(stdout if isinstance(stdout, Path) else os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
                following = None
            else:
                following, sink = os.pipe()
            processes.append(self.start(*command, cwd=cwd, stdin=source, stdout=sink, **options))
            os.close(sink)
            if source is not None:
                os.close(source)
            source = following
        return [p.wait() for p in processes]


def _as_shell(code: int) -> int:
    return 128 - code if code < 0 else code


def _feed(fd: int, data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError), os.fdopen(fd, "wb") as out:
        out.write(data)


def _drain(fd: int, process: Process) -> bytes:
    found = []
    end = time.monotonic() + TIMEOUT
    while True:
        if not select.select([fd], [], [], max(0, end - time.monotonic()))[0]:
            process.kill(signal.SIGKILL)
            raise AssertionError(f"no end of output after {TIMEOUT} s")
        try:
            part = os.read(fd, 1 << 16)
        except OSError:  # a terminal whose other side is closed
            break
        if not part:
            break
        found.append(part)
    return b"".join(found)


def tree(folder: Path) -> dict[str, str]:
    """Every name below a folder, with what it holds: type and SHA-256, or the target of a link."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_dir():
            found[name] = "folder"
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found

"""Forks ucl commands from a process that has the heavy packages loaded; see harness.py."""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import resource
import select
import signal
import socket
import sys
import tempfile

import ucl

PRELOAD = ("typer._adapters", "typer._click.decorators", "pydantic.plugin._loader", "zoneinfo", "difflib", "tomllib", "traceback",
           "importlib.readers", "importlib.resources._itertools", "torch", "torch._inductor", "torch._dynamo", "torch.utils.serialization", "faiss",
           "h5py", "scipy.stats", "sklearn.datasets", "sklearn.datasets.data", "sklearn.datasets.descr", "sklearn.metrics", "sklearn.decomposition",
           "PIL.Image", *(found.name for found in pkgutil.walk_packages(ucl.__path__, "ucl.") if found.name != "ucl.__main__"))


def serve(path: str) -> list[str]:
    """Accept requests for ever; returns only in a forked process, which is to become the command: its argv."""
    for name in PRELOAD:
        importlib.import_module(name)
    gc.freeze()
    ended, wake = socket.socketpair()
    for end in (ended, wake):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake.fileno())
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path + ".new")
    listener.listen(64)
    os.rename(path + ".new", path)  # noqa: PTH104
    running: dict[int, socket.socket] = {}
    while True:
        ready = select.select([listener, ended, 0], [], [])[0]
        if 0 in ready:
            os._exit(0)
        if ended in ready:
            ended.recv(1 << 10)
            reap(running)
        if listener not in ready:
            continue
        connection, _ = listener.accept()
        data, fds, _, _ = socket.recv_fds(connection, 1 << 20, 3)
        if not data:  # somebody asked whether the server is up
            connection.close()
            continue
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for mine in (listener, ended, wake, connection, *running.values()):
                mine.close()
            return become(json.loads(data), fds)
        for fd in fds:
            os.close(fd)
        running[pid] = connection
        with contextlib.suppress(OSError):
            connection.sendall(b"%10d" % pid)


def reap(running: dict[int, socket.socket]) -> None:
    """Tell the status of every command that has ended."""
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            if connection := running.pop(found[0], None):
                with connection, contextlib.suppress(OSError):
                    connection.sendall(b"%10d" % found[1])


def become(request: dict, fds: list[int]) -> list[str]:
    """Take on the descriptors, folder, environment, limits and user asked for; returns the command's argv."""
    for target, fd in enumerate(fds):
        os.dup2(fd, target)
    for fd in set(fds) - {0, 1, 2}:
        os.close(fd)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    tempfile.tempdir = None  # what a parent found in its own environment
    if os.environ.get("SLURM_TASK_PID") == "self":
        os.environ["SLURM_TASK_PID"] = str(os.getpid())
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request["fsize"]:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python does at its start
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["fsize"], request["fsize"]))
    if request["user"]:
        os.setgroups([])
        os.setgid(request["user"])
        os.setuid(request["user"])
    return ["ucl", *request["argv"]]


if __name__ == "__main__":
    sys.argv = serve(sys.argv[1])
    from ucl.cli import main

    try:
        main()
    except SystemExit as error:  # taking down all that was loaded would cost a second
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(error.code if isinstance(error.code, int) else 1)

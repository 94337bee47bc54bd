"""Forks ucl commands from a process that has the heavy packages loaded; see harness.py."""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import sys
import tempfile

from ucl.cli import COMMANDS

PRELOAD = ("typer._adapters", "pydantic.plugin._loader", "zoneinfo", "difflib", "tomllib", "traceback", "torch", "torch._inductor",
           "torch._dynamo", "faiss", "h5py", "scipy.stats", "sklearn.datasets", "sklearn.metrics", "sklearn.decomposition", "PIL.Image",
           "ucl.cli", "ucl.models", "ucl.images", "ucl.extract", "ucl.train_epoch", "ucl.cluster", "ucl.purify", "ucl.formats.writer",
           "ucl.formats.stream", "ucl.evaluate.knn", "ucl.evaluate.clusters", "ucl.run",
           *(f"ucl.commands.{name}" for name in sorted({of[0] for of in COMMANDS.values()})))


def serve(path: str) -> list[str]:
    """Accept requests for ever; returns only in a forked process, which is to become the command: its argv."""
    for name in PRELOAD:
        importlib.import_module(name)
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path + ".new")
    listener.listen(64)
    os.rename(path + ".new", path)  # noqa: PTH104
    while True:
        ready = select.select([listener, 0], [], [])[0]
        if 0 in ready:
            os._exit(0)
        connection, _ = listener.accept()
        data, fds, _, _ = socket.recv_fds(connection, 1 << 20, 3)
        if os.fork() == 0:
            listener.close()
            return watch(connection, json.loads(data), fds)
        for fd in fds:
            os.close(fd)
        connection.close()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def watch(connection: socket.socket, request: dict, fds: list[int]) -> list[str]:
    """Fork the command, tell its pid, wait for it, tell its status."""
    pid = os.fork()
    if pid:
        for fd in [*fds, 0]:
            os.close(fd)
        with contextlib.suppress(OSError):
            connection.sendall(str(pid).encode())
        status = os.waitpid(pid, 0)[1]
        with contextlib.suppress(OSError):
            connection.sendall(str(status).encode())
        os._exit(0)
    connection.close()
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

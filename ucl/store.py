"""Artifacts in and out of files and streams, with their provenance."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from ucl import __version__
from ucl.artifacts import ARTIFACTS, Stored

CHAIN_LIMIT = 64
_PACKAGES = ("numpy", "h5py", "torch", "torchvision", "scikit-learn", "faiss-gpu", "faiss-cpu")
_versions: dict[str, str] = {}


def read(source: str | Path, kind: str | None = None) -> Any:
    """The artifact in a file: Features, Labels, Checkpoint, ImageList or Evaluation.

    Args:
        source: path of an HDF5 file.
        kind: refuse any other kind, as "ucl/labels".

    Raises:
        InputMissing: no such file.  DataError: not a whole ucl file, or of another kind.
    """
    return load(Path(source), kind)


def load(source: Path | int, kind: str | tuple[str, ...] | None = None, name: str = "") -> Any:
    """The artifact in a file (Path) or on a stream (file descriptor); ``name`` is for messages."""
    from ucl.formats.reader import open_artifact

    with open_artifact(source, kind, name=name) as file:
        artifact = ARTIFACTS[file.kind].load(file)  # type: ignore[attr-defined]
        if not isinstance(source, Path):
            file.drain()
            artifact.digest = file.digest
    return artifact


def save(artifact: Stored, sink: IO[bytes] | int) -> str:
    """Write ``artifact`` to an open file or stream; returns its content digest and notes it in the artifact."""
    from ucl.formats.writer import write_artifact

    artifact.digest = write_artifact(sink, artifact.kind, artifact.root_attrs(), artifact.arrays(),
                                     artifact.provenance, artifact.dataset_attrs())
    return artifact.digest


def header_of(file: Any) -> Stored:
    """An opened file or stream as an input that `recipe` and `chain` know; none of its rows are read."""
    made = Stored(provenance=list(file.provenance), recipe=str(file.attrs.get("recipe-id") or ""))
    made.kind = file.kind  # type: ignore[misc]
    if not file.streaming and "/integrity/content_sha256" in file:
        made.digest = file.digest
    return made


def digest_of(artifact: Stored) -> str:
    """The content digest that a file of this artifact would have."""
    if not artifact.digest:
        artifact.digest = content_of(artifact)
    return artifact.digest


def content_of(artifact: Stored) -> str:
    """The content digest that a file of this artifact would have, computed from what it holds now."""
    from ucl.formats.digest import content_digest

    return content_digest(artifact.kind, artifact.root_attrs(), artifact.arrays(), artifact.dataset_attrs())


def recipe(kind: str, verb: str, settings: Mapping[str, Any], seed: int, inputs: Iterable[Stored]) -> str:
    """Digest of what an artifact is made from and how, known before it is made."""
    made_of = [i.recipe or i.digest for i in inputs]
    text = json.dumps({"type": kind, "verb": verb, "settings": dict(settings), "seed": seed, "inputs": made_of,
                       "ucl": ".".join(__version__.split(".")[:2])}, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()


def chain(verb: str, settings: Mapping[str, Any], seed: int, inputs: Iterable[Stored], device: str,
          threads: int) -> list[str]:
    """The inputs' provenance, oldest first, and one entry for the step that is about to be taken."""
    inputs = list(inputs)
    if os.environ.get("UCL_PROVENANCE") == "none":
        return []
    past: dict[str, None] = {}
    for artifact in inputs:
        past |= dict.fromkeys(artifact.provenance)
    entry: dict[str, Any] = {
        "verb": verb, "argv": ["ucl", *sys.argv[1:]], "ucl": __version__, "versions": versions(), "seed": seed,
        "settings": dict(settings), "device": device, "threads": threads, "time": _now(),
        "inputs": [{"kind": i.kind, "recipe-id": i.recipe, "content-sha256": i.digest or None} for i in inputs]}
    if os.environ.get("UCL_PROVENANCE") != "minimal":
        entry["host"] = platform.node()
        job = os.environ.get("SLURM_JOB_ID")
        entry |= {"slurm": {"job": job}} if job else {}
    else:
        entry["argv"] = [Path(a).name if a.startswith("/") else a for a in entry["argv"]]
    return [*list(past)[-CHAIN_LIMIT:], json.dumps(entry, sort_keys=True, default=list)]


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that compute, as installed (nothing is imported for it)."""
    if not _versions:
        _versions["python"] = platform.python_version()
        for package in _PACKAGES:
            try:
                _versions[package] = metadata.version(package)
            except metadata.PackageNotFoundError:
                continue
    return _versions


def _now() -> str:
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(epoch) if epoch.isdecimal() else None))

"""Safe points: what is kept of a turn that is not finished, when it is kept, and whether it still fits.

Training is kept as a checkpoint between two batches, extraction as a file of finished rows (`formats.partial`).  Each names
what it belongs to, its *identity*: all that decides the result bit by bit.  Only work of an equal identity is gone on with;
anything else is told in one line and done again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ucl import __version__, stop, store
from ucl.artifacts import Checkpoint, ImageList, Labels, Neighbors
from ucl.context import Context
from ucl.device import Runtime
from ucl.errors import DataError, InputMissing, NotPermitted, OutputRefused, StorageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ucl.extract import FeatureStream
    from ucl.formats.partial import PartialFile
    from ucl.formats.writer import ArtifactWriter

log = logging.getLogger(__name__)
MIDWAY = "midway"
_UNREADABLE = (DataError, StorageError, NotPermitted)


def machine(runtime: Runtime) -> dict[str, Any]:
    """What decides the last bits beside the data and the settings."""
    versions = store.versions()
    return {"threads": runtime.threads, "precision": runtime.precision, "compile": runtime.compile, "device": runtime.device.partition(":")[0],
            "versions": {name: versions[name] for name in ("python", "numpy", "torch", "torchvision") if name in versions} | {"ucl": __version__}}


def listed(images: ImageList) -> str:
    """Digest of which images a list names, what is in their files, and how they are packed."""
    made = hashlib.sha256(images.crc32.tobytes())
    made.update(f"{images.samples.digest} {None if images.pixels is None else images.pixels.shape}".encode())
    return made.hexdigest()


def unlike(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The first of the ``wanted`` entries that is another one in ``found``, as text; empty if none is."""
    for key, value in _plain(wanted).items():
        there = found.get(key)
        if isinstance(value, dict) and isinstance(there, dict):
            if inner := unlike(there, value):
                return f"{key}: {inner}"
        elif there != value:
            return f"{key}: found {there}, now {value}"
    return ""


def _plain(identity: Mapping[str, Any]) -> dict[str, Any]:
    """As it comes back from JSON."""
    made: dict[str, Any] = json.loads(json.dumps(dict(identity)))
    return made


@dataclass
class SafePoint:
    """What a training loop is given: between two batches, if it is ``due``, it hands its whole state to ``keep``."""

    due: Callable[[], bool]
    keep: Callable[[Checkpoint], None]


class SafePoints:
    """The unfinished part of one turn on disk.

    Args:
        train: file of the checkpoint inside an epoch.
        labels: file of the labels, or the neighbours, it trains on, where they cannot be had otherwise.
        features: (features file, its partial file) of an extraction into memory.
        every: seconds between two safe points; 0 = only when a signal asks to stop.
        strict: refuse what is of another identity instead of doing it again.
    """

    def __init__(self, train: Path, labels: Path | None = None, features: tuple[Path, Path] | None = None, *, every: float = 0.0,
                 strict: bool = False) -> None:
        self.train, self.labels_file, self.features = train, labels, features
        self.every, self.strict = every, strict
        self._last = time.monotonic()
        self._told = self._warned = False
        self._labels_kept = ""
        self._rows: PartialFile | None = None

    def due(self) -> bool:
        """Whether the last safe point, or the start, is long enough ago."""
        return self.every > 0 and time.monotonic() - self._last >= self.every

    # -- training

    def midway(self) -> dict[str, Any] | None:
        """How far the kept epoch is: epoch, batches, of, identity; None without one that can be read (a line says why)."""
        from ucl.formats.reader import open_artifact

        try:
            with open_artifact(self.train, "ucl/checkpoint") as file:
                found: dict[str, Any] = json.loads(file.read("/config")[0])[MIDWAY]
                if not isinstance(found["identity"], dict):
                    raise TypeError
                return found
        except InputMissing:
            return None
        except _UNREADABLE as error:
            self._ignored(error.message)
        except (ValueError, KeyError, TypeError, IndexError):
            self._ignored("no checkpoint of an unfinished epoch")
        return None

    def made(self) -> Labels | Neighbors | None:
        """What the steps before the kept epoch made for it, labels or neighbours; None without, or if the file has others."""
        from ucl.formats.check import validate

        found = self.midway()
        if found is None or self.labels_file is None:
            return None
        try:
            kind = "labels" if found["identity"].get("labels") else "neighbors"
            made: Labels | Neighbors = store.load(self.labels_file, f"ucl/{kind}")
            bad = validate(self.labels_file, full=True)
        except (InputMissing, *_UNREADABLE) as error:
            self._ignored(error.message)
            return None
        if bad or store.content_of(made) != found["identity"].get(kind):
            self._ignored(bad[0] if bad else f"{self.labels_file} holds other {kind}")
            return None
        made.digest, self._labels_kept = str(found.get("labels") or ""), store.content_of(made)
        return made

    def fits(self, identity: Mapping[str, Any]) -> bool:
        """Whether the kept epoch is the one of this identity; a line says why not.

        Raises:
            DataError: it is not, and that was to be refused.
        """
        found = self.midway()
        if found is None:
            return False
        difference = unlike(found["identity"], identity)
        if difference and self.strict:
            raise DataError(f"{self.train}: of another epoch: {difference}", "leave --resume out to start again")
        if difference:
            self._ignored(difference)
        return not difference

    def training(self, identity: Mapping[str, Any]) -> Checkpoint | None:
        """The checkpoint to go on from; None if nothing fits."""
        from ucl.formats.check import validate

        if not self.fits(identity):
            return None
        try:
            bad = validate(self.train, full=True)
            made: Checkpoint | None = None if bad else store.load(self.train, "ucl/checkpoint")
        except (InputMissing, *_UNREADABLE) as error:
            bad, made = [error.message], None
        if made is None:
            self._ignored(bad[0])
            return None
        log.info("%s: going on after %d of %d batches", self.train, made.config[MIDWAY]["batches"], made.config[MIDWAY]["of"])
        return made

    def point(self, identity: Mapping[str, Any], labels: Labels | Neighbors | None) -> SafePoint:
        """Where an epoch of this identity on these labels, or neighbours, or on neither, keeps its state."""
        plain = _plain(identity)
        digest = "" if labels is None else labels.digest

        def keep(state: Checkpoint) -> None:
            state.config = state.config | {MIDWAY: state.config[MIDWAY] | {"identity": plain, "labels": digest}}
            self._keep(state, labels, plain["labels"] or plain.get("neighbors") or "")

        return SafePoint(self.due, keep)

    def _keep(self, state: Checkpoint, labels: Labels | Neighbors | None, digest: str) -> None:
        """A disk that is full does not end an epoch: what is finished goes on, and a line says that nothing is kept."""
        try:
            if labels is not None and self.labels_file is not None and self._labels_kept != digest:
                self.labels_file.parent.mkdir(exist_ok=True)
                _save(dataclasses.replace(labels), self.labels_file)
                self._labels_kept = digest
            _save(state, self.train)
            self._drop_rows()
        except (StorageError, NotPermitted, OutputRefused, OSError) as error:
            if not self._warned or stop.pending():
                log.warning("nothing of this epoch is kept: %s", error)
            self._warned = True
        self._last = time.monotonic()

    def _ignored(self, why: str) -> None:
        if not self._told:
            text = why if why.startswith(str(self.train)) else f"{self.train}: {why}"
            log.warning("%s: ignored, the epoch starts again", text)
        self._told = True

    # -- extraction into memory

    def rows(self, stream: FeatureStream, images: ImageList, runtime: Runtime) -> Callable[[NDArray[np.float32], int, bool], None] | None:
        """Put kept rows before a stream's own.

        Returns:
            What keeps the rows of a matrix up to a number, when it is due or if it must; None where nothing can be kept.
        """
        if self.features is None:
            return None
        note = note_of(stream, images, runtime)
        if self.features[1].exists():
            with contextlib.suppress(OutputRefused, *_UNREADABLE):
                self._begin(stream, note)

        def keep(whole: NDArray[np.float32], done: int, must: bool) -> None:
            last = done == stream.n and (self._rows is not None or bool(stop.pending()))
            if not (must or last or self.due()):
                return
            try:
                out = self._rows or self._begin(stream, note)
                out.put(out.rows, whole[out.rows:done])
                out.mark(stream.status)
            except (StorageError, NotPermitted, OutputRefused) as error:
                if not self._warned or must:
                    log.warning("nothing of this extraction is kept: %s", error)
                self._warned = True
            self._last = time.monotonic()

        return keep

    def _begin(self, stream: FeatureStream, note: dict[str, Any]) -> PartialFile:
        from ucl.formats.partial import PartialFile

        assert self.features is not None
        self.features[1].parent.mkdir(exist_ok=True)
        out = PartialFile(*self.features, force=True)
        try:
            writer_for(out, stream, note)
        except BaseException:
            out.discard()
            raise
        self._rows = out
        return out

    def forget(self) -> None:
        """Drop an epoch that was kept, to start again."""
        for path in (self.train, self.labels_file):
            if path is not None:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
        self._labels_kept = ""
        self._told = False

    def clear(self) -> None:
        """The turn is committed: nothing of it need be kept."""
        self.forget()
        self._drop_rows()
        self._last = time.monotonic()

    def _drop_rows(self) -> None:
        from ucl.formats.partial import PartialFile

        if self.features is None or not self.features[1].exists():
            return
        with contextlib.suppress(StorageError, NotPermitted, OutputRefused):  # held by an `extract` that stands alone, whose affair it is
            out = self._rows or PartialFile(*self.features, force=True)
            out.forget()
            out.discard()
        self._rows = None


def _save(artifact: Any, path: Path) -> None:
    from ucl.formats.atomic import AtomicFile

    with AtomicFile(path, force=True) as out:
        store.save(artifact, out)  # type: ignore[arg-type]


def note_of(stream: FeatureStream, images: ImageList, runtime: Runtime) -> dict[str, Any]:
    """The identity of an extraction: recipe, images, machine, and the attributes that its file begins with."""
    attrs = stream.layout()[0]
    first = {name: attrs[name] for name in ("recipe-id", "samples-digest")}
    return _plain({**first, "images": listed(images), **machine(runtime), "header": attrs})


@dataclass(frozen=True)
class KeptExtraction:
    """How far an extraction was that is kept: rows done, of how many, where in a plan, of what identity."""

    done: int
    of: int
    context: Context
    note: dict[str, Any]


def rows_of(partial: Path) -> KeptExtraction | None:
    """What a partial file of features keeps; None without one that can be read."""
    from ucl.formats.partial import MARKS, KeptRows

    try:
        file = KeptRows(os.open(partial, os.O_RDONLY | os.O_CLOEXEC), str(partial))
        with file:
            return KeptExtraction(len(file.status), file.entry(MARKS).rows, Context.from_json(file.attrs.get("context") or "{}"), file.note)
    except (OSError, *_UNREADABLE):
        return None


def writer_for(out: PartialFile, stream: FeatureStream, note: Mapping[str, Any], *, strict: bool = False) -> ArtifactWriter:
    """A writer of a stream's features into a partial file, up to the first row.

    If the file keeps rows of the same identity, the stream begins with them; else the file is emptied.

    Raises:
        DataError: another identity, and that was to be refused.
    """
    problem = out.damage or (unlike(out.kept.note, note) if out.kept is not None else "")
    if problem and strict and not out.damage:
        raise DataError(f"{out.partial}: of another extraction: {problem}", "leave --resume out to start again")
    writer = None
    if out.kept is not None and not problem:
        try:
            writer = _header(out, stream, note, out.kept.provenance)
        except DataError as error:
            problem = error.message
    if problem:
        where = "" if problem.startswith(str(out.partial)) else f"{out.partial}: "
        log.warning("%s%s: ignored, the extraction starts again", where, problem)
    if writer is None:
        out.forget()
        return _header(out, stream, note, stream.head.provenance)
    assert out.kept is not None
    count = stream.aligned(len(out.kept.status))
    stream.go_on(out.kept.status[:count], out.kept.blocks(count, stream.batch))
    log.info("%s: going on after %d of %d rows", out.partial, count, stream.n)
    return writer


def _header(out: PartialFile, stream: FeatureStream, note: Mapping[str, Any], provenance: list[str]) -> ArtifactWriter:
    attrs, specs = stream.layout()
    assert stream.head.samples is not None
    writer = out.writer(stream.head.kind, attrs, specs, provenance, note)
    writer.write("/samples/path", stream.head.samples.path)
    writer.flush()
    return writer

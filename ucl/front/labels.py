"""Loading what a stage of a pipe reads, and writing the labels it makes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ucl.context import Context
from ucl.errors import DataError, UsageError
from ucl.front import session
from ucl.front.console import say
from ucl.front.listing import list_of
from ucl.front.options import Common
from ucl.front.streams import find_input, open_output, stdin_is_data
from ucl.methods.method import plan
from ucl.profeat_settings import models_needed
from ucl.rundir import RunDir

if TYPE_CHECKING:
    from ucl.artifacts import Features, Labels
    from ucl.formats.reader import Artifact
    from ucl.memory import Need

Reader = Callable[[Path | int, str, str], Any]


def load_input(given: str | None, run: RunDir | None, what: str, common: Common, *, joins: bool = False,
               reader: Reader | None = None) -> tuple[Any, Context]:
    """(artifact, context) of a stage's input: a file, a stream, or the run directory's work/.

    Args:
        reader: takes the place of `store.load`.

    Raises:
        DataError: not whole, not of this kind, stale, or of another run directory.
    """
    from ucl.store import load

    if run is not None and given is None and not stdin_is_data():
        run.next_turn()
    source, name = find_input(given, run, what)
    artifact = (reader or load)(source, f"ucl/{what}", name)
    belongs = joins or artifact.foreign or bool(artifact.context.method)
    if run is not None and belongs and artifact.samples is not None and artifact.samples.digest != run.config.samples_digest:
        raise DataError(f"{name}: {artifact.samples.unlike(list_of(None, run)[0])}", "use its own; ucl align puts rows in its order, by name")
    context = session.context_of(artifact, run, common, name, joins=joins)
    if run is not None and context.method:
        if given is None and source != 0:
            session.fresh(run, context, name, piped=False)
        else:
            run.check(dataclasses.replace(context, generation=-1), name)
    return artifact, context


def fitting(files: list[str], rule: str | None) -> bool:
    """Whether labels of several models are to be joined; ``rule`` is None where it is not known yet.

    Raises:
        UsageError: fewer or more files than the rule takes, or standard input twice.
    """
    if files.count("-") > 1:
        raise UsageError(f"labels: found - {files.count('-')} times, wanted at most once: there is one standard input", "name the others as files")
    if rule == "agree" and len(files) < 2:
        found = f"the labels of one model, {files[0]}" if files else "no file of labels"
        raise UsageError(f"rule agree: found {found}, wanted those of at least 2 models", "ucl purify --rule agree one/labels.h5 two/labels.h5")
    if rule not in ("agree", None) and len(files) > 1:
        raise UsageError(f"labels: found {len(files)} files, wanted one: the rule {rule} purifies the labels of one model",
                         "name one, or --rule agree, which joins those of several models")
    return rule == "agree"


def load_members(files: list[str], first: Labels, at_least: int, run: RunDir | None, common: Common) -> list[tuple[str, Labels]]:
    """Names and labels of the models of an ensemble, without what joining them does not look at.

    Args:
        first: those of the first file, which is loaded already.
        at_least: models that must agree; 0 = all.

    Raises:
        UsageError: more must agree than there are.  DataError: see `load_input`.
    """
    models_needed(at_least, len(files))
    found = []
    for number, file in enumerate(files):
        one = load_input(file, run, "labels", common)[0] if number else first
        found.append(("stdin" if file == "-" else file, dataclasses.replace(
            one, flag=None, distance=None, score=None, weight=None, centroid=None, mean=None, probs=None, pca=None)))
    return found


def labels_to_purify(given: str | None, run: RunDir | None, common: Common) -> tuple[Any, Context]:
    """Labels and context of `purify`: a file's, a stream's, or those that the plan purifies: work/'s, or where it begins a turn with it the
    generation's.

    Raises:
        DataError: see `load_input`.
    """
    if run is not None and given is None and not stdin_is_data():
        context = run.next_turn()
        steps = plan(context)
        if steps[0].verb == "purify" and "labels" in steps[0].reads:
            context = context if common.seed is None else dataclasses.replace(context, seed=common.seed)
            return session.load_slot(run, context.generation, "labels"), context
    return load_input(given, run, "labels", common)


def features_reader(memory: int, needed: Callable[[Features, int, int, int], Need], work: str = "clustering") -> Reader:
    """A reader of features that may be larger than memory.

    Those in a file stay there and are read in chunks.  Those from a pipe are taken into memory if they fit beside what
    the work needs, else into a temporary file.

    Args:
        memory: bytes to keep to.
        needed: told the header (features without rows or samples), N, D and the bytes of a path, says what the work takes;
            it is asked before the rows are read.
        work: what it is called.

    Raises:
        UsageError: not even the least that is needed fits into ``memory``.  StorageError: no room for the temporary file.
    """
    def read(source: Path | int, kind: str, name: str) -> Features:
        import numpy as np

        from ucl.artifacts import Features
        from ucl.formats.reader import open_artifact
        from ucl.matrix import FileRows, place

        file = open_artifact(source, kind, name=name)
        try:
            shape = file.shape("/features")
            if len(shape) != 2:
                raise DataError(f"{name}: /features: shape {shape}, expected (N, D)")
            n, d = shape
            path = file.dtype("/samples/path").itemsize if "/samples/path" in file else 0
            wanted = needed(_header(file, np.empty((0, d), np.float32)), n, d, path)
            wanted.check(memory, f"{work} {n} x {d} features")
            if not file.streaming:
                features = Features.load(file, FileRows(file, "/features"))
            else:
                rows = place(n, d, memory - wanted.least, f"the features of {name}")
                at = 0
                for block in file.rows("/features"):
                    rows[at:at + len(block)] = block
                    at += len(block)
                features = Features.load(file, rows)
            file.drain()
            if not isinstance(source, Path):
                features.digest = file.digest
        except BaseException:
            file.close()
            raise
        if file.streaming:
            file.close()
        return features

    return read


def _header(file: Artifact, nothing: Any) -> Features:
    """Features as far as the head of a file or stream tells: whose they are, and what they were made with."""
    from ucl.artifacts import Features

    text, a = file.attrs.get("context"), file.attrs
    return Features(nothing, None, str(a.get("model") or ""), str(a.get("weights-sha256") or ""), str(a.get("layer") or ""),
                    str(a.get("transform") or "{}"), context=Context.from_json(text or "{}", file.name), foreign=not text)


_TOLD = ("objective", "empty", "kept", "cut_by_distance", "dropped_by_vote", "pulled_back", "not_confident", "dissolved", "models", "agree",
         "largest")
"""What is said of labels in one line, where their info or that of their purification has it."""


def write_labels(command: str, labels: Any, where: str, common: Common, as_json: bool, *, force: bool,
                 run: RunDir | None) -> int:
    """Write labels and say in one line what they are."""
    from ucl.store import save

    with open_output(where, force=force, run=run) as out:
        save(labels, out)
    info = labels.info
    if as_json:
        say(json.dumps({"schema": "ucl.labels/1", "k": labels.k, "images": len(labels.labels),
                        "labelled": int((labels.labels >= 0).sum()), **info}, sort_keys=True))
    elif not common.quiet:
        info = info | info.get("purify", {})
        extra = ", ".join(f"{k.replace('_', ' ')} {info[k]:.6g}" if isinstance(info[k], float) else f"{k.replace('_', ' ')} {info[k]}"
                          for k in _TOLD if k in info)
        say(f"{command}: {labels.title()}" + (f"; {extra}" if extra else "") + (f"; in {where}" if where != "-" else ""))
    return 0

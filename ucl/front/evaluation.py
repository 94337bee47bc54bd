"""What `evaluate` and the table at the end of `run` compare."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ucl import device
from ucl.errors import DataError, UsageError
from ucl.front import session
from ucl.front.extraction import features_now, open_images
from ucl.front.listing import is_hdf5, list_of
from ucl.front.options import Common
from ucl.front.streams import find_input, open_output, standard_input
from ucl.rundir import RunDir
from ucl.targets import LABEL_SETS, released, true_classes


def truth_of(features: Any, targets: str | None, labels: str | None = None, origin: str = "") -> tuple[list[str], NDArray[np.int64]]:
    """True classes of the images that features speak of.

    Args:
        features: features, or labels.
        targets, labels, origin: see `ucl.targets.true_classes`.

    Raises:
        DataError: the features name no images.
    """
    if features.samples is None:
        raise DataError("features: no /samples/path, so no image names")
    return true_classes(features.samples, targets, labels, origin)


def origin_of(run: RunDir | None, samples: Any) -> str:
    """What the image list of a run directory was made from, if these are its images; else empty."""
    if run is None or samples is None or samples.digest != run.config.samples_digest:
        return ""
    return list_of(None, run)[1]


def known_labels(labels: str | None) -> None:
    """Refuse a wrong --labels before anything is computed.

    Raises:
        UsageError: an unknown name.
    """
    if labels is not None and labels not in LABEL_SETS:
        raise UsageError(f"--labels: found {labels!r}, wanted {' or '.join(LABEL_SETS)}", "CIFAR-100 has fine and coarse classes")


def frozen_inputs(run: RunDir | None, features: str | None, test: str | None, split: str | None, from_run: bool, common: Common,
                  runtime: device.Runtime) -> tuple[Any, Any, str]:
    """(features, test features or None, what the test images come from as far as it is known).

    ``split`` is the part of a released data set that is tested on; its test part where none is named.

    Raises:
        UsageError: test images without a model to extract their features with.
    """
    from ucl.formats.reader import open_artifact
    from ucl.store import load

    if from_run:
        assert run is not None
        train = features_now(run, common, runtime)
    else:
        train = load(*_with_kind(find_input(features, run, "features")))
    if test is None:
        if split:
            raise UsageError(f"--test-split {split}: without --test nothing is tested on", "--test cifar-10-batches-bin/ --test-split test")
        return train, None, ""
    if is_hdf5(test):
        with open_artifact(test, ("ucl/features", "ucl/images")) as file:
            is_features = file.kind == "ucl/features"
        if is_features:
            return train, load(Path(test), "ucl/features"), ""
    if not from_run:
        raise UsageError(f"--test {test}: a folder needs a model, and features were given",
                         "give the test features: ucl extract FOLDER --model CKPT -o test.h5")
    assert run is not None
    model = session.load_model(run, run.newest)
    split = split or ("test" if not is_hdf5(test) and released(test) else None)
    tested = open_images(test, None, model, {"on_error": "skip", **({"split": split} if split else {})}, common, runtime)
    return train, features_now(run, common, runtime, tested, model), test


@contextmanager
def open_report(where: str | None, *, force: bool) -> Iterator[Callable[[Any], None]]:
    """A function that writes an evaluation to ``where``, or nowhere if that is None; opened before the work, so that an output
    that is there already is refused at once.

    Raises:
        OutputRefused: the file exists and ``force`` is off.
    """
    from ucl.store import save

    if where is None:
        yield lambda _: None
        return
    with open_output(where, force=force) as out:

        def write(found: Any) -> None:
            save(found, out)

        yield write


def signed(found: Any, verb: str, settings: Mapping[str, Any], seed: int, asked: list[tuple[Any, NDArray[np.int64]]], classes: list[str],
           runtime: device.Runtime) -> Any:
    """The evaluation with the names of its classes (where it classifies images), its recipe (of which they are part) and its provenance.

    Args:
        asked: features (or labels) and true classes of the images learnt from, then of those tested on, if they are others.
    """
    from ucl import store

    known = hashlib.sha256(json.dumps(classes).encode())
    for _, truth in asked:
        known.update(truth.astype("<i8").tobytes())
    inputs = [features for features, _ in asked]
    said = {**settings, "classes": known.hexdigest()}
    if found.correct is not None:
        found.classes = classes
    found.recipe = store.recipe(found.kind, verb, said, seed, inputs)
    found.provenance = store.chain(verb, said, seed, inputs, runtime.device, runtime.threads)
    return found


VERSUS = "vs"
"""The word between the reports of A and those of B."""


def read_reports(names: list[str]) -> tuple[list[tuple[str, Any]], list[tuple[str, Any]]]:
    """The reports of A and of B, each (name, evaluation): two files, or several on each side of the word vs; - is standard input.

    Raises:
        UsageError: it is not clear which are A's.
    """
    from ucl.store import load

    if names.count("-") > 1:
        raise UsageError("-: standard input holds one report, and it is named twice")
    if VERSUS not in names and len(names) == 2:
        sides = names[:1], names[1:]
    elif names.count(VERSUS) == 1 and names[0] != VERSUS != names[-1]:
        at = names.index(VERSUS)
        sides = names[:at], names[at + 1:]
    else:
        raise UsageError(f"found {' '.join(names)}, wanted two reports, or several on each side of the word {VERSUS}",
                         f"ucl evaluate compare a-0.h5 a-1.h5 {VERSUS} b-0.h5 b-1.h5; a file of that name is ./{VERSUS}")

    def one(name: str) -> tuple[str, Any]:
        if name == "-":
            return "stdin", load(standard_input("a report"), "ucl/evaluation", "stdin")
        return name, load(Path(name), "ucl/evaluation", name)

    return [one(name) for name in sides[0]], [one(name) for name in sides[1]]


def _with_kind(found: tuple[Path | int, str]) -> tuple[Path | int, str, str]:
    return found[0], "ucl/features", found[1]

"""What `evaluate` and the table at the end of `run` compare."""

from __future__ import annotations

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
from ucl.front.streams import find_input
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


def _with_kind(found: tuple[Path | int, str]) -> tuple[Path | int, str, str]:
    return found[0], "ucl/features", found[1]

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
from ucl.front.options import Common
from ucl.front.streams import find_input
from ucl.rundir import RunDir
from ucl.targets import true_classes


def truth_of(features: Any, targets: str | None) -> tuple[list[str], NDArray[np.int64]]:
    """True classes of the images that features speak of.

    Raises:
        DataError: the features name no images.
    """
    if features.samples is None:
        raise DataError("features: no /samples/path, so no image names")
    return true_classes(features.samples, targets)


def frozen_inputs(run: RunDir | None, features: str | None, test: str | None, from_run: bool, common: Common,
               runtime: device.Runtime) -> tuple[Any, Any]:
    """(features, test features or None).

    Raises:
        UsageError: a test folder without a model to extract its features with.
    """
    from ucl.store import load

    if from_run:
        assert run is not None
        train = features_now(run, common, runtime)
    else:
        train = load(*_with_kind(find_input(features, run, "features")))
    if test is None:
        return train, None
    if Path(test).is_file():
        return train, load(Path(test), "ucl/features")
    if not from_run:
        raise UsageError(f"--test {test}: a folder needs a model, and features were given",
                         "give the test features: ucl extract FOLDER --model CKPT -o test.h5")
    assert run is not None
    model = session.load_model(run, run.newest)
    return train, features_now(run, common, runtime, open_images(test, None, model, {"on_error": "skip"}, common, runtime), model)


def _with_kind(found: tuple[Path | int, str]) -> tuple[Path | int, str, str]:
    return found[0], "ucl/features", found[1]

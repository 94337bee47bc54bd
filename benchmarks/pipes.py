"""An epoch as a pipe against the same epoch through files, and `run` against the shell loop."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from benchmarks.commands import printed, shell, ucl
from benchmarks.data import Scale, run_directory
from benchmarks.table import Row, race

PIPE = "ucl extract | ucl cluster | ucl train-epoch"
FILES = "ucl extract -o features.h5 && ucl cluster features.h5 -o labels-made.h5 && ucl train-epoch labels-made.h5"
LOOP = f"until ucl status --done; do {PIPE} || exit; done"
REPEATS = 3
"""Most pairs: one is minutes long."""


def _copy(base: Path, name: str) -> Path:
    """A fresh copy of a run directory; making it is not timed."""
    place = base.with_name(name)
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(base, place, symlinks=True)
    return place


def _models(place: Path) -> list[str]:
    """Content digests of all models in a run directory."""
    files = sorted(str(path.relative_to(place)) for path in place.glob("epochs/*/model.h5"))
    return [line.split()[0] for line in printed("digest", *files, cwd=place).splitlines()]


def _unequal(one: Path, two: Path) -> tuple[str, ...]:
    return () if _models(one) == _models(two) else ("the two sides end in different models",)


def pipe(scale: Scale) -> Row:
    """One epoch of a run directory, from generation 0."""
    base = run_directory(scale, "pipe-base", 1)

    def left() -> float:
        return shell(PIPE, _copy(base, "pipe-ours"))

    def right() -> float:
        return shell(FILES, _copy(base, "pipe-other"))

    pairs = race(left, right, min(REPEATS, scale.repeat))
    return Row("pipe-files", "extract | cluster | train-epoch", "the same through files", pairs, goal=1.1,
               faults=_unequal(base.with_name("pipe-ours"), base.with_name("pipe-other")),
               note=f"{scale.images} images, convnet; whole commands, their start-up included; models are equal")


def against_shell(scale: Scale, name: str = "run-shell", device: str = "cpu") -> list[Row]:
    """`run` against the loop: the whole, and an epoch alone, whose start-up is told apart.

    Start-up of `run` is what one epoch takes beyond the mean of the following ones.
    """
    epochs = 3
    base = run_directory(scale, f"{name}-base", epochs)
    single: list[float] = []

    def left() -> float:
        place = _copy(base, f"{name}-ours")
        first = ucl("run", "-q", "--device", device, "--limit", "1", cwd=_copy(base, f"{name}-first"))
        single.append(first)
        return ucl("run", "-q", "--device", device, cwd=place)

    def right() -> float:
        return shell(f"export UCL_DEVICE={device}; {LOOP}", _copy(base, f"{name}-other"))

    whole = race(left, right, min(REPEATS, scale.repeat), warm=False)
    faults = _unequal(base.with_name(f"{name}-ours"), base.with_name(f"{name}-other"))
    each = [((mine - first) / (epochs - 1), other / epochs) for (mine, other), first in zip(whole, single, strict=True)]
    started = sorted(first - one for first, (one, _) in zip(single, each, strict=True))[len(each) // 2]
    note = f"{scale.images} images, convnet, {epochs} epochs; models are equal"
    rows = [Row(name, "ucl run", "the shell loop", whole, kind="gain", faults=faults, note=note)]
    if all(one > 0 for one, _ in each):  # tiny epochs drown in the spread of the start
        rows.append(Row(f"{name}-epoch", "an epoch of ucl run", "an epoch of the loop", tuple(each), kind="gain",
                        note=f"start-up of run: {started:.2f} s once; the loop starts four commands an epoch"))
    return rows


ROWS: dict[str, Callable[[Scale], Row | list[Row]]] = {"pipe-files": pipe, "run-shell": against_shell}

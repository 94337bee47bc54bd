"""How long commands take to start, what they import, and how much memory they hold."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.commands import PYTHON, imported, peak, timed, ucl
from benchmarks.data import Scale, network, random_list, save
from benchmarks.images import random_labels
from benchmarks.table import Row, race
from ucl.cli import COMMANDS

HELP = 0.15
INFO = 0.5
HEAVY = {"torch", "torchvision", "faiss", "sklearn", "scipy", "h5py", "numpy", "matplotlib"}
"""What no ``--help`` may import."""

TORCH = {"torch", "torchvision"}

def _start(scale: Scale, name: str, words: list[str], most: float, banned: set[str]) -> Row:
    def left() -> float:
        return ucl(*words, cwd=scale.work)

    def right() -> float:
        return timed([PYTHON, "-c", "pass"], scale.work)

    wrong = sorted(imported(*words, cwd=scale.work) & banned)
    return Row(f"start-{name}", f"ucl {' '.join(words)}", "python -c pass", race(left, right, scale.repeat), most=most,
               faults=(f"imports {', '.join(wrong)}",) if wrong else ())


def start(scale: Scale) -> list[Row]:
    """``--help`` of ucl and of every command, and `info` on a file."""
    save(network(), scale.work / "start.h5")
    found = [_start(scale, "ucl", ["--help"], HELP, HEAVY)]
    found += [_start(scale, name, [name, "--help"], HELP, HEAVY) for name in COMMANDS]
    return [*found, _start(scale, "info-file", ["info", "start.h5"], INFO, TORCH)]


def memory(scale: Scale) -> list[Row]:
    """Peak memory of a command against that of importing its libraries plus the arrays that it cannot do without."""
    from ucl.artifacts import Features, Labels

    place, count, d, k = scale.work / "memory", scale.of(50_000, 4_000), 256, 250
    place.mkdir(exist_ok=True)
    images = random_list(count)
    assert images.pixels is not None
    save(network(), place / "model.h5")
    save(images, place / "images.h5")
    save(Labels(random_labels(count), samples=images.samples), place / "labels.h5")
    x = np.random.default_rng(0).standard_normal((count, d), np.float32)
    save(Features(x, images.samples, "convnet", "", "last", "{}"), place / "features.h5")
    torch, faiss = "torch, h5py", "faiss, scipy.linalg, scipy.sparse, h5py"
    lines = [("extract", ["images.h5", "--model", "model.h5"], torch, images.pixels.nbytes, "the packed pixels"),
             ("cluster", ["features.h5", "-k", str(k)], faiss, 2 * x.nbytes, "the features and their projection"),
             ("train-epoch", ["labels.h5", "--images", "images.h5", "--model", "model.h5"], torch, images.pixels.nbytes, "the packed pixels")]
    return [_peak(scale, *line, count) for line in lines]


def _peak(scale: Scale, name: str, words: list[str], libraries: str, held: int, what: str, count: int) -> Row:
    place, pairs, base = scale.work / "memory", [], 0
    for _ in range(min(2, scale.repeat)):
        mine = peak([PYTHON, "-m", "ucl", name, *words, "-q", "-f", "-o", "made.h5", "-j", str(scale.threads)], place)
        base = peak([PYTHON, "-c", f"import {libraries}"], place)
        pairs.append((float(mine), float(base + held)))
    return Row(f"memory-{name}", f"ucl {name}", f"its libraries, and {what}", tuple(pairs), goal=1.25, unit="MB",
               note=f"{count} images; import {libraries}: {base / 1e6:.0f} MB; {what}: {held / 1e6:.0f} MB")


ROWS: dict[str, Callable[[Scale], Row | list[Row]]] = {"start": start, "memory": memory}

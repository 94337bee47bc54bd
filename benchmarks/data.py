"""What the rows run on: sizes, folders of JPEG files, image lists, run directories.  The same for everybody, whatever their machine.

Images are CIFAR-10's where the tar is at hand (`TAR`), as in ``--images``, and made here otherwise: ten classes of smooth colour fields
that differ in direction and wave length, with noise, so that a network can tell them apart and JPEG has something to compress.
"""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.commands import ucl

TAR = Path(__file__).parents[2] / "shared" / "data" / "cifar10.tar.xz"
SIDE = 32
CLASSES = 10


@dataclass(frozen=True)
class Scale:
    """How large the rows are, and where they work.

    Attributes:
        quick: sizes for a test of the rows themselves; their ratios say nothing.
        repeat: pairs of a row.
        threads: CPU threads of both sides.
        work: an empty folder for what is made.
        photos: a folder of images to take instead, or None.
    """

    quick: bool
    repeat: int
    threads: int
    work: Path
    photos: Path | None = None

    def of(self, full: int, quick: int) -> int:
        """``full``, or ``quick`` where that was asked for."""
        return quick if self.quick else full

    @property
    def images(self) -> int:
        """Number of images of the rows that work on files."""
        return self.of(10_000, 320)


def folder(scale: Scale) -> Path:
    """A folder of ``scale.images`` JPEG files of 32 px in ten class folders; made once in a run."""
    place = scale.work / "photos"
    if not place.is_dir():
        place.mkdir()
        if scale.photos is not None:
            _link(scale.photos, place, scale.images)
        elif TAR.is_file():
            _unpack(place, scale.images)
        else:
            _draw(place, scale.images)
    return place


def source(scale: Scale) -> str:
    """Where the images come from, for the header."""
    if scale.photos is not None:
        return f"the first {scale.images} of {scale.photos}"
    return f"{scale.images} {'of CIFAR-10' if TAR.is_file() else 'drawn'}, 32 px, JPEG"


def _link(photos: Path, place: Path, count: int) -> None:
    found = sorted(path for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    step = max(1, len(found) // count)
    for path in found[::step][:count]:
        target = place / path.parent.name / path.name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())


def _unpack(place: Path, count: int) -> None:
    """The first images of each class of the training part."""
    left: dict[str, int] = {}
    with tarfile.open(TAR) as tar:
        for member in tar:
            parts = Path(member.name).parts
            if not member.isfile() or "train" not in parts or not member.name.endswith(".jpg"):
                continue
            name = parts[-2]
            left.setdefault(name, count // CLASSES)
            file = tar.extractfile(member)
            if left[name] and file is not None:
                left[name] -= 1
                (place / name).mkdir(exist_ok=True)
                (place / name / parts[-1]).write_bytes(file.read())


def _draw(place: Path, count: int) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    down, across = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    for number in range(count):
        kind = number % CLASSES
        angle, waves = kind * np.pi / CLASSES + rng.normal(0, 0.1), 1 + kind % 4 + rng.normal(0, 0.1)
        field = np.sin(2 * np.pi * (waves * (across * np.cos(angle) + down * np.sin(angle)) + rng.random()))
        colour = rng.uniform(40, 110, 3)
        pixels = 128 + field[..., None] * colour + rng.normal(0, 12, (SIDE, SIDE, 3))
        out = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
        target = place / f"class-{kind}" / f"{number:06d}.jpg"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(out.getvalue())


def image_list(scale: Scale, *, pack: str = "auto") -> Any:
    """The folder as an `ucl.artifacts.ImageList`, as ``ucl init`` makes it; ``pack`` "none" leaves the pixels in the files."""
    from ucl.artifacts import ImageList
    from ucl.images import read_all
    from ucl.listing import list_images

    return ImageList.made(read_all(list_images(str(folder(scale))), size=SIDE, pack=pack, workers=scale.threads))


def random_list(count: int) -> Any:
    """An image list of ``count`` packed images of noise, without files: for what does not look at the picture."""
    from ucl.artifacts import ImageList, Samples

    pixels = np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)
    names = np.array([b"%08d.jpg" % i for i in range(count)])
    side = np.full(count, SIDE, np.uint32)
    return ImageList(Samples(names, np.zeros(count, np.uint8)), np.zeros(count, np.uint64), np.zeros(count, np.uint32), side, side, "",
                     False, pixels)


def save(artifact: Any, path: Path) -> Path:
    """Write an artifact to a file."""
    from ucl import store

    with path.open("wb") as out:
        store.save(artifact, out)
    return path


def network(name: str = "convnet") -> Any:
    """A checkpoint of an untrained network, as ``--backbone`` makes it."""
    from ucl.front.extraction import untrained

    return untrained(name, SIDE, 0)


def run_directory(scale: Scale, name: str, epochs: int, method: str = "deepcluster") -> Path:
    """A new run directory of the folder: ``ucl init``; K leaves 50 images a cluster."""
    made = scale.work / name
    ucl("init", method, str(folder(scale)), "-o", str(made), "--epochs", str(epochs), "--keep", "all", "-j", str(scale.threads),
        "--seed", "0", "--set", f"cluster.k={scale.images // 50}", cwd=scale.work)
    return made


def trained(scale: Scale, method: str, epochs: int) -> Path:
    """A run directory after so many epochs; made once in a run."""
    made = scale.work / f"trained-{method}"
    if not made.is_dir():
        run_directory(scale, made.name, epochs, method)
        ucl("run", cwd=made)
    return made

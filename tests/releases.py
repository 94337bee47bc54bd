"""Small data sets in their released forms, written byte by byte from the authors' descriptions and not by ucl's code."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np

CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
STL10_NAMES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
COARSE = tuple(f"coarse_{chr(97 + i)}" for i in range(20))
FINE = tuple(f"fine_{i:03d}" for i in range(100))


def pictures(n: int, side: int, seed: int) -> np.ndarray:
    """(n, side, side, 3) uint8, no two rows or columns alike."""
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), np.uint8)


def cifar10(folder: Path, each: int = 4) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The binary version: one label byte, then 1024 red, 1024 green, 1024 blue bytes, rows first.  Part -> (pictures, labels)."""
    folder.mkdir(parents=True)
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    batches = [("train", f"data_batch_{i}.bin") for i in range(1, 6)] + [("test", "test_batch.bin")]
    for seed, (part, name) in enumerate(batches):
        images, labels = pictures(each, 32, seed), np.random.default_rng(100 + seed).integers(0, 10, each)
        data = bytearray()
        for image, label in zip(images, labels, strict=True):
            data.append(int(label))
            for channel in range(3):
                for row in range(32):
                    data += bytes(image[row, :, channel].tolist())
        (folder / name).write_bytes(bytes(data))
        before = found.get(part)
        found[part] = (images, labels) if before is None else (np.concatenate([before[0], images]), np.concatenate([before[1], labels]))
    (folder / "batches.meta.txt").write_text("\n".join(CIFAR10_NAMES) + "\n\n")
    (folder / "readme.html").write_text("<html>")
    return found


def cifar100(folder: Path, n: int = 6) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """One byte coarse label, one byte fine label, then the planes.  Part -> (pictures, coarse, fine)."""
    folder.mkdir(parents=True)
    found = {}
    for seed, part in enumerate(("train", "test")):
        rng = np.random.default_rng(50 + seed)
        images, coarse, fine = pictures(n, 32, 20 + seed), rng.integers(0, 20, n), rng.integers(0, 100, n)
        data = b"".join(bytes([int(c), int(f)]) + image.transpose(2, 0, 1).tobytes() for image, c, f in zip(images, coarse, fine, strict=True))
        (folder / f"{part}.bin").write_bytes(data)
        found[part] = (images, coarse, fine)
    (folder / "coarse_label_names.txt").write_text("\n".join(COARSE) + "\n")
    (folder / "fine_label_names.txt").write_text("\n".join(FINE) + "\n")
    return found


def stl10(folder: Path, train: int = 6, test: int = 4, unlabeled: int = 8) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pictures as three planes, each column by column; labels 1 to 10 in a file of their own; folds of part train."""
    folder.mkdir(parents=True)
    found = {}
    for seed, (part, n) in enumerate((("train", train), ("test", test), ("unlabeled", unlabeled))):
        images, labels = pictures(n, 96, 30 + seed), np.arange(n) % 3
        data = bytearray()
        for image in images:
            for channel in range(3):
                data += image[:, :, channel].T.tobytes()
        (folder / f"{part}_X.bin").write_bytes(bytes(data))
        if part != "unlabeled":
            (folder / f"{part}_y.bin").write_bytes(bytes((labels + 1).tolist()))
        found[part] = (images, labels if part != "unlabeled" else np.full(n, -1))
    (folder / "class_names.txt").write_text("\n".join(STL10_NAMES) + "\n")
    (folder / "fold_indices.txt").write_text("".join(f"{' '.join(str((f + i) % train) for i in range(3))} \n" for f in range(10)))
    return found


def svhn(folder: Path, n: int = 5, *, compressed: bool = True) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """MATLAB version 5: X (32, 32, 3, n), y (n, 1) with 10 for the digit 0.  Part -> (pictures, digits)."""
    import scipy.io

    folder.mkdir(parents=True)
    found = {}
    for seed, part in enumerate(("train", "test", "extra")):
        images, digits = pictures(n, 32, 40 + seed), (np.arange(n) + seed) % 10
        y = np.where(digits == 0, 10, digits).astype(np.uint8)[:, None]
        scipy.io.savemat(folder / f"{part}_32x32.mat", {"X": np.moveaxis(images, 0, 3), "y": y}, do_compression=compressed)
        found[part] = (images, digits)
    return found


def cub(folder: Path, photo: bytes) -> None:
    """CUB-200-2011: images in folders of classes, and its text files."""
    names = ["002.Laysan_Albatross/b.jpg", "001.Black_footed_Albatross/z.jpg", "001.Black_footed_Albatross/a.jpg", "002.Laysan_Albatross/a.jpg"]
    for name in names:
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo)
    (folder / "images.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(names, 1)))
    (folder / "train_test_split.txt").write_text("1 1\n2 1\n3 0\n4 1\n")
    (folder / "image_class_labels.txt").write_text("1 2\n2 1\n3 1\n4 2\n")
    (folder / "classes.txt").write_text("1 001.Black_footed_Albatross\n2 002.Laysan_Albatross\n")


def archive(path: Path, files: dict[str, bytes], *, kind: int = tarfile.PAX_FORMAT, mode: str = "w") -> Path:
    """A tar archive with these members, in this order."""
    with tarfile.open(path, mode, format=kind) as out:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return path

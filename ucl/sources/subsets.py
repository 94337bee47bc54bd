"""Which images of a folder: class lists such as ImageNet-100's, and the split file of CUB-200-2011."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from ucl import decode
from ucl.errors import DataError, InputMissing, NotPermitted, UsageError

CUB_FILES = ("images.txt", "train_test_split.txt")
CUB_SPLITS = ("train", "test", "all")


def read_classes(name: str, is_class: Callable[[bytes], bool]) -> list[bytes]:
    """The class folders that a list names, one per line; what follows white space or a tab is ignored.

    Args:
        name: the text file.
        is_class: whether there is a class of that name, so that a name with blanks in it can be told from one with a
            second column.

    Raises:
        InputMissing: no such file, or an empty one.
        DataError: a name that is no class, twice in the list, or no plain name.
    """
    found: dict[bytes, int] = {}
    for number, line in _lines(name):
        text = line.strip()
        if not text or text.startswith(b"#"):
            continue
        first = text.split(b"\t", 1)[0].strip() if b"\t" in text else text if is_class(text.rstrip(b"/")) else text.split(None, 1)[0]
        first = first.rstrip(b"/")
        if not first or b"/" in first or first.startswith(b".") or b"\0" in first:
            raise DataError(f"{name} line {number}: {decode.show(line[:60])}: not the name of a class folder")
        if not is_class(first):
            raise DataError(f"{name} line {number}: {decode.show(first)}: found no such class folder among the images",
                            "name the folders that IMAGES holds")
        if first in found:
            raise DataError(f"{name}: lines {found[first]} and {number} name the same class, {decode.show(first)}")
        found[first] = number
    if not found:
        raise InputMissing(f"{name}: the list is empty", "one class folder per line")
    return list(found)


def of_classes(paths: list[bytes], name: str) -> list[int]:
    """Rows whose first folder is one of those that the list ``name`` names, in order.

    Raises:
        See `read_classes`.
    """
    folders = {path.split(b"/", 1)[0] for path in paths if b"/" in path}
    wanted = set(read_classes(name, folders.__contains__))
    return [row for row, path in enumerate(paths) if path.split(b"/", 1)[0] in wanted and b"/" in path]


def is_cub(root: str) -> bool:
    """Whether a folder is CUB-200-2011 as released."""
    return all((Path(root) / name).is_file() for name in CUB_FILES) and (Path(root) / "images").is_dir()


def cub_paths(root: str, split: str) -> list[bytes]:
    """Paths of a split of CUB-200-2011 (Wah et al. 2011) below its folder images, sorted bytewise.

    Reads images.txt ("id path") and train_test_split.txt ("id 1" for training); no class.

    Raises:
        UsageError: an unknown split.
        DataError: a malformed line, or an image that the split file does not name.
    """
    split = split or "train"
    if split not in CUB_SPLITS:
        raise UsageError(f"--split: found {split!r}, CUB-200-2011 has {', '.join(CUB_SPLITS)}")
    paths, training = numbered(Path(root) / "images.txt"), numbered(Path(root) / "train_test_split.txt")
    chosen: list[bytes] = []
    for key, path in paths.items():
        mark = training.get(key)
        if mark not in (b"0", b"1"):
            raise DataError(f"{root}/train_test_split.txt: image {decode.show(key)}: found {decode.show(mark or b'nothing')}, wanted 0 or 1")
        if split == "all" or (mark == b"1") == (split == "train"):
            decode.check_path(path)
            chosen.append(path)
    if not chosen:
        raise InputMissing(f"{root}: no image in split {split}")
    if len(set(chosen)) < len(chosen):
        raise DataError(f"{root}/images.txt: two ids name the same image")
    return sorted(chosen)


def numbered(path: Path) -> dict[bytes, bytes]:
    """The lines "id value" of one of CUB's files.

    Raises:
        DataError: a line of another form, or an id twice.
    """
    found: dict[bytes, bytes] = {}
    for number, line in _lines(str(path)):
        if not line.strip():
            continue
        key, _, value = line.strip().partition(b" ")
        if not key.isdigit() or not value.strip() or key in found:
            raise DataError(f"{path} line {number}: found {decode.show(line[:60])}, wanted an id, a blank and one value; each id once")
        found[key] = value.strip()
    return found


def _lines(name: str) -> Iterable[tuple[int, bytes]]:
    try:
        data = Path(name).read_bytes()
    except FileNotFoundError as error:
        raise InputMissing(f"{name}: no such file") from error
    except PermissionError as error:
        raise NotPermitted(f"{name}: cannot be read", "ls -l shows who may") from error
    except IsADirectoryError as error:
        raise UsageError(f"{name}: a folder, not a text file") from error
    return enumerate(data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").split(b"\n"), 1)


def folders_of(root: bytes) -> Callable[[bytes], bool]:
    """Whether a name is a folder right below ``root``."""
    return lambda name: os.path.isdir(os.path.join(root, name))  # noqa: PTH112, PTH118

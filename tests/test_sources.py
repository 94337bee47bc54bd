"""Released data sets and CUB's lists: every picture as its authors wrote it, truth apart, damaged files told."""

from __future__ import annotations

import io
import logging
import tarfile
from pathlib import Path

import numpy as np
import pytest
import releases
from PIL import Image

from ucl import images
from ucl.artifacts import Samples
from ucl.errors import DataError, InputMissing, UsageError
from ucl.listing import list_images
from ucl.targets import true_classes


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


def pixels_of(source: Path, split: str | None = None, **options: object) -> tuple[list[str], np.ndarray]:
    listing = list_images(source, split=split)
    made = images.read_all(listing, size=96, **options)  # type: ignore[arg-type]
    assert made.pixels is not None
    return [p.decode() for p in listing.paths], np.asarray(made.pixels)


def truth_of(source: Path, split: str | None = None, **options: str | None) -> list[str]:
    paths = np.array(list_images(source, split=split).paths)
    names, y = true_classes(Samples(paths, np.zeros(len(paths), np.uint8)), **{"origin": str(source), **options})  # type: ignore[arg-type]
    return [names[i] if i >= 0 else "-" for i in y]


def jpeg() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (20, 16), (200, 10, 10)).save(out, "JPEG")
    return out.getvalue()


# every picture, packed and re-read

def test_cifar10(tmp_path: Path) -> None:
    wanted = releases.cifar10(tmp_path / "c")
    paths, found = pixels_of(tmp_path / "c")
    assert paths[:2] == ["cifar10/train/00000.png", "cifar10/train/00001.png"]
    assert len(paths) == 20
    np.testing.assert_array_equal(found, wanted["train"][0])
    paths, found = pixels_of(tmp_path / "c", "test+train")
    assert paths[0] == "cifar10/test/00000.png"
    np.testing.assert_array_equal(found, np.concatenate([wanted["test"][0], wanted["train"][0]]))
    assert pixels_of(tmp_path / "c", "all")[0] == [*pixels_of(tmp_path / "c", "train")[0], *pixels_of(tmp_path / "c", "test")[0]]
    assert truth_of(tmp_path / "c", "train+test") == [releases.CIFAR10_NAMES[i] for part in ("train", "test") for i in wanted[part][1]]


def test_cifar100_coarse_and_fine(tmp_path: Path) -> None:
    wanted = releases.cifar100(tmp_path / "c")
    _, found = pixels_of(tmp_path / "c", "test")
    np.testing.assert_array_equal(found, wanted["test"][0])
    assert truth_of(tmp_path / "c", "test") == [releases.FINE[i] for i in wanted["test"][2]]
    assert truth_of(tmp_path / "c", "test", labels="fine") == [releases.FINE[i] for i in wanted["test"][2]]
    assert truth_of(tmp_path / "c", "test", labels="coarse") == [releases.COARSE[i] for i in wanted["test"][1]]
    (tmp_path / "c" / "fine_label_names.txt").unlink()
    assert truth_of(tmp_path / "c", "test") == [f"{i:02d}" for i in wanted["test"][2]]
    with pytest.raises(UsageError, match="CIFAR-100 has fine, coarse"):
        truth_of(tmp_path / "c", labels="middle")


def test_stl10_as_torchvision_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import STL10

    wanted = releases.stl10(tmp_path / "stl10_binary")
    monkeypatch.setattr(STL10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(STL10, "_STL10__load_folds", lambda self, folds: None, raising=False)
    for split in ("train", "test", "unlabeled", "train+unlabeled"):
        theirs = STL10(str(tmp_path), split=split)
        paths, found = pixels_of(tmp_path / "stl10_binary", split)
        np.testing.assert_array_equal(found, theirs.data.transpose(0, 2, 3, 1))
        assert len(paths) == len(theirs)
        if split != "unlabeled":
            assert truth_of(tmp_path / "stl10_binary", split) == [releases.STL10_NAMES[i] if i >= 0 else "-" for i in theirs.labels]
    np.testing.assert_array_equal(pixels_of(tmp_path / "stl10_binary", "unlabeled")[1], wanted["unlabeled"][0])
    with pytest.raises(DataError, match="knows the class of none"):
        truth_of(tmp_path / "stl10_binary", "unlabeled")


def test_stl10_folds(tmp_path: Path) -> None:
    wanted = releases.stl10(tmp_path / "s")
    paths, found = pixels_of(tmp_path / "s", "fold4")                     # 4 5 0
    assert paths == ["stl10/train/00000.png", "stl10/train/00004.png", "stl10/train/00005.png"]
    np.testing.assert_array_equal(found, wanted["train"][0][[0, 4, 5]])
    assert len(pixels_of(tmp_path / "s", "fold0+fold3+unlabeled")[0]) == 14
    for split in ("fold0+fold1", "fold0+train", "train+train"):
        with pytest.raises(UsageError, match=r"twice|share"):
            list_images(tmp_path / "s", split=split)
    (tmp_path / "s" / "fold_indices.txt").write_text("0 1\n7 x\n")
    with pytest.raises(DataError, match="line 2: found '7', wanted numbers from 0 to 5"):
        list_images(tmp_path / "s", split="fold1")


@pytest.mark.parametrize("compressed", [True, False])
def test_svhn_as_torchvision_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compressed: bool) -> None:
    from torchvision.datasets import SVHN

    releases.svhn(tmp_path / "s", compressed=compressed)
    monkeypatch.setattr(SVHN, "_check_integrity", lambda self: True)
    for split in ("train", "test", "extra"):
        theirs = SVHN(str(tmp_path / "s"), split=split)
        paths, found = pixels_of(tmp_path / "s", split)
        np.testing.assert_array_equal(found, theirs.data.transpose(0, 2, 3, 1))
        assert truth_of(tmp_path / "s", split) == [str(d) for d in theirs.labels]
        assert pixels_of(tmp_path / "s" / f"{split}_32x32.mat")[0] == paths
    assert paths[0] == "svhn/extra/000000.png"


@pytest.mark.parametrize("make", [releases.cifar10, releases.cifar100, releases.stl10, releases.svhn])
def test_read_again_by_offset_gives_the_same(tmp_path: Path, make: object) -> None:
    make(tmp_path / "r")  # type: ignore[operator]
    listing = list_images(tmp_path / "r", split="all")
    packed, loose = (images.read_all(listing, size=96, pack=pack, workers=2) for pack in ("auto", "none"))
    assert packed.records is None
    assert loose.pixels is None
    assert packed.pixels is not None
    rows = np.random.default_rng(0).permutation(loose.n)
    np.testing.assert_array_equal(loose.crops(rows, None, packed.pixels.shape[1], 2), packed.pixels[rows])
    assert loose.crc32.tolist() == packed.crc32.tolist()


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize(("make", "top"), [(releases.cifar10, "cifar-10-batches-bin"), (releases.stl10, "stl10_binary")])
def test_archives_as_released(tmp_path: Path, make: object, top: str, mode: str) -> None:
    make(tmp_path / top)  # type: ignore[operator]
    path = tmp_path / "release.tar"
    with tarfile.open(path, mode) as out:  # type: ignore[call-overload]
        out.add(tmp_path / top, top)
    for split in ("test", "train+test"):
        a, b = pixels_of(tmp_path / top, split), pixels_of(path, split)
        assert a[0] == b[0]
        np.testing.assert_array_equal(a[1], b[1])
    assert truth_of(tmp_path / top, "test") == truth_of(path, "test")
    made = images.read_all
    if mode == "w":
        loose = made(list_images(path), size=96, pack="none")
        np.testing.assert_array_equal(loose.crops(np.arange(loose.n), None, 96), made(list_images(tmp_path / top), size=96, pack=96).pixels)
    else:
        with pytest.raises(UsageError, match="compressed"):
            made(list_images(path), size=96, pack="none")
        with pytest.raises(UsageError, match="compressed") as caught:
            made(list_images(path), size=96, pack_budget=100)
        assert "--pack-budget" in caught.value.hint
        path.write_bytes(path.read_bytes()[:-400])
        with pytest.raises(DataError, match="compressed data cut or damaged"):
            list_images(path)


# truth stays out

@pytest.mark.parametrize("make", [releases.cifar10, releases.cifar100, releases.stl10, releases.svhn])
def test_no_byte_of_truth_is_read_by_listing_and_reading(tmp_path: Path, make: object) -> None:
    """Other labels, or label files that are gone, change nothing."""
    import scipy.io

    make(tmp_path / "r")  # type: ignore[operator]
    before = images.read_all(list_images(tmp_path / "r", split="all"), size=96)
    for path in (tmp_path / "r").iterdir():
        size = {"data_batch_": 3073, "test_batch.": 3073, "train.bin": 3074, "test.bin": 3074}.get(path.name[:11])
        if size is not None:
            data = np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, size).copy()
            data[:, : size - 3072] = 255
            path.write_bytes(data.tobytes())
        elif path.name.endswith(("_y.bin", "names.txt", "meta.txt")) and not path.name.startswith("fine"):
            path.unlink()
        elif path.suffix == ".mat":
            x = scipy.io.loadmat(path)["X"]
            scipy.io.savemat(path, {"X": x}, do_compression=True)
    after = images.read_all(list_images(tmp_path / "r", split="all"), size=96)
    np.testing.assert_array_equal(before.pixels, after.pixels)
    assert before.crc32.tolist() == after.crc32.tolist()


def test_without_the_release_its_classes_are_not_guessed_from_folders(tmp_path: Path) -> None:
    releases.cifar10(tmp_path / "c")
    paths = np.array(list_images(tmp_path / "c").paths)
    samples = Samples(paths, np.zeros(len(paths), np.uint8))
    for origin in ("", str(tmp_path / "gone")):
        with pytest.raises(DataError, match="the images are CIFAR-10's") as caught:
            true_classes(samples, origin=origin)
        assert "--targets FOLDER" in caught.value.hint
    releases.cifar100(tmp_path / "c100")
    with pytest.raises(DataError, match="knows the class of none"):
        true_classes(samples, str(tmp_path / "c100"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="found no released data set"):
        true_classes(samples, str(tmp_path / "empty"))
    with pytest.raises(UsageError, match="--labels fine"):
        true_classes(Samples(np.array([b"a/1.png"]), np.zeros(1, np.uint8)), labels="fine")
    with pytest.raises(UsageError, match="one set of classes"):
        true_classes(samples, str(tmp_path / "c"), "fine")


# damaged and odd files

def test_wrong_sizes_are_refused_with_found_and_wanted(tmp_path: Path) -> None:
    releases.cifar10(tmp_path / "c")
    path = tmp_path / "c" / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"data_batch_3\.bin: found 12291 bytes, wanted a multiple of 3073 \(30730000 as released\)"):
        list_images(tmp_path / "c")
    list_images(tmp_path / "c", split="test")
    path.write_bytes(b"")
    with pytest.raises(DataError, match="found 0 bytes"):
        list_images(tmp_path / "c")
    path.unlink()
    with pytest.raises(InputMissing, match=r"data_batch_3\.bin: missing"):
        list_images(tmp_path / "c")
    releases.stl10(tmp_path / "s")
    with (tmp_path / "s" / "unlabeled_X.bin").open("ab") as out:
        out.write(b"x")
    with pytest.raises(DataError, match=r"found 221185 bytes, wanted a multiple of 27648 \(2764800000 as released\)"):
        list_images(tmp_path / "s", split="unlabeled")
    releases.cifar100(tmp_path / "h")
    (tmp_path / "h" / "train.bin").write_bytes(bytes(3075))
    with pytest.raises(DataError, match="found 3075 bytes, wanted a multiple of 3074"):
        list_images(tmp_path / "h")


def test_another_number_of_images_than_released_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    releases.cifar10(tmp_path / "c")
    list_images(tmp_path / "c")
    assert "CIFAR-10 has 20 images in its part train, the release 50000" in caplog.text


def test_labels_out_of_range_and_too_few(tmp_path: Path) -> None:
    releases.cifar10(tmp_path / "c")
    path = tmp_path / "c" / "test_batch.bin"
    data = bytearray(path.read_bytes())
    data[2 * 3073] = 10
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"test_batch\.bin: record 2: found label 10, wanted 0 to 9"):
        truth_of(tmp_path / "c", "test")
    releases.stl10(tmp_path / "s")
    (tmp_path / "s" / "train_y.bin").write_bytes(bytes([1, 2, 3, 0, 1, 1]))
    with pytest.raises(DataError, match=r"train_y\.bin: record 3: found label 0, wanted 1 to 10"):
        truth_of(tmp_path / "s")
    (tmp_path / "s" / "train_y.bin").write_bytes(bytes([1, 2, 3]))
    with pytest.raises(DataError, match="found 3 labels, wanted 6, one per image"):
        truth_of(tmp_path / "s")
    (tmp_path / "s" / "train_y.bin").unlink()
    with pytest.raises(InputMissing, match=r"train_y\.bin: missing; it holds the classes"):
        truth_of(tmp_path / "s")
    (tmp_path / "s" / "class_names.txt").write_text("one\ntwo\n")
    with pytest.raises(DataError, match="found 2 names, wanted 10"):
        truth_of(tmp_path / "s", "test")


def test_matlab_files_that_are_none(tmp_path: Path) -> None:
    import scipy.io

    releases.svhn(tmp_path / "s")
    path = tmp_path / "s" / "train_32x32.mat"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(DataError, match=rf"found {len(whole) - 100} bytes, wanted \d+ or more: the file is cut"):
        list_images(tmp_path / "s")
    for text in (b"\x89HDF\r\n\x1a\n" + bytes(600), b"MATLAB 4", bytes(200)):
        path.write_bytes(text)
        with pytest.raises(DataError, match="not a MATLAB file of version 5"):
            list_images(tmp_path / "s")
    damaged = bytearray(whole)
    damaged[200:260] = bytes(60)
    path.write_bytes(bytes(damaged))
    with pytest.raises(DataError, match=r"MATLAB|X: found"):
        images.read_all(list_images(tmp_path / "s"), size=32)
    scipy.io.savemat(path, {"X": np.zeros((32, 30, 3, 2), np.uint8)})
    with pytest.raises(DataError, match=r"X: found \(32, 30, 3, 2\), wanted shape \(32, 32, 3, N\)"):
        list_images(tmp_path / "s")
    scipy.io.savemat(path, {"X": np.zeros((32, 32, 3, 2))})
    with pytest.raises(DataError, match="X: found float64"):
        images.read_all(list_images(tmp_path / "s"), size=32)
    scipy.io.savemat(path, {"Y": np.zeros(2)})
    with pytest.raises(DataError, match="X: found no such variable"):
        list_images(tmp_path / "s")


def test_a_changed_record_is_noticed(tmp_path: Path) -> None:
    releases.cifar10(tmp_path / "c")
    made = images.read_all(list_images(tmp_path / "c"), size=32, pack="none")
    path = tmp_path / "c" / "data_batch_2.bin"
    data = bytearray(path.read_bytes())
    data[3073 + 1 + 700] ^= 1
    path.write_bytes(bytes(data))
    assert made.crops(np.arange(5), None, 32).shape == (5, 32, 32, 3)
    with pytest.raises(DataError, match=r"cifar10/train/00005\.png: the record is not the one that was listed"):
        made.crops(np.arange(20), None, 32)
    path.write_bytes(bytes(data[:4000]))
    fresh = images.ImageSet(made.paths, made.status, made.size, made.crc32, made.root, None, made.height, made.width, records=made.records)
    with pytest.raises(DataError, match="the file ends after 4000 bytes, wanted 6146"):
        fresh.crops(np.array([5]), None, 32)
    path.unlink()
    fresh = images.ImageSet(made.paths, made.status, made.size, made.crc32, made.root, None, made.height, made.width, records=made.records)
    with pytest.raises(DataError, match=r"[nN]o such file"):
        fresh.crops(np.array([5]), None, 32)


def test_the_pickled_version_is_never_opened(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1").write_bytes(b"\x80\x02")
    (tmp_path / "batches.meta").write_bytes(b"\x80\x02")
    with pytest.raises(DataError, match="pickles, which ucl never opens"):
        list_images(tmp_path)


def test_splits_are_known_by_name(tmp_path: Path) -> None:
    releases.cifar10(tmp_path / "c")
    for split in ("training", "train+", "fold0"):
        with pytest.raises(UsageError, match=r"CIFAR-10 has train, test$"):
            list_images(tmp_path / "c", split=split)
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "a.jpg").write_bytes(jpeg())
    for source in (tmp_path / "f", "digits"):
        with pytest.raises(UsageError, match="has no parts"):
            list_images(source, split="train")
    with pytest.raises(UsageError, match="these images lie in no class folders"):
        list_images(tmp_path / "c", classes=tmp_path / "f")


# CUB and class lists

def test_cub(tmp_path: Path) -> None:
    releases.cub(tmp_path / "cub", jpeg())
    assert list_images(tmp_path / "cub").paths == [b"001.Black_footed_Albatross/z.jpg", b"002.Laysan_Albatross/a.jpg", b"002.Laysan_Albatross/b.jpg"]
    assert list_images(tmp_path / "cub", split="test").paths == [b"001.Black_footed_Albatross/a.jpg"]
    assert list_images(tmp_path / "cub", split="all").paths == list_images(tmp_path / "cub" / "images").paths
    assert list_images(tmp_path / "cub").root == str(tmp_path / "cub" / "images")
    (tmp_path / "cub" / "image_class_labels.txt").write_text("1 2\n2 2\n3 1\n4 1\n")     # otherwise than the folders say
    wanted = ["002.Laysan_Albatross", "001.Black_footed_Albatross", "002.Laysan_Albatross"]
    assert truth_of(tmp_path / "cub", origin=list_images(tmp_path / "cub").root) == wanted
    assert truth_of(tmp_path / "cub", targets=str(tmp_path / "cub")) == wanted
    (tmp_path / "cub" / "image_class_labels.txt").write_text("1 2\n2 3\n")
    with pytest.raises(DataError, match="image 2: found 3, wanted the number of a class"):
        truth_of(tmp_path / "cub", targets=str(tmp_path / "cub"))
    with pytest.raises(UsageError, match="CUB-200-2011 has train, test, all"):
        list_images(tmp_path / "cub", split="val")
    (tmp_path / "cub" / "train_test_split.txt").write_text("1 1\n2 yes\n")
    with pytest.raises(DataError, match="image 2: found yes, wanted 0 or 1"):
        list_images(tmp_path / "cub")
    (tmp_path / "cub" / "images.txt").write_text("1 ../x.jpg\n")
    with pytest.raises(DataError, match="not a plain relative path"):
        list_images(tmp_path / "cub")


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    for name in ("n01", "n02", "n03", "golden retriever"):
        for i in range(2):
            path = tmp_path / "in" / name / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg())
    (tmp_path / "in" / "n02.jpg").write_bytes(jpeg())
    return tmp_path / "in"


@pytest.mark.parametrize("text", ["n03\nn01\n", "n01 tench\nn03  a long name\n", "\ufeffn01\ttench\r\nn03/\r\n\n# n02\n"])
def test_class_lists(tmp_path: Path, classes: Path, text: str) -> None:
    (tmp_path / "list.txt").write_text(text, newline="")
    wanted = [b"n01/0.jpg", b"n01/1.jpg", b"n03/0.jpg", b"n03/1.jpg"]
    assert list_images(classes, classes=tmp_path / "list.txt").paths == wanted
    with tarfile.open(tmp_path / "in.tar", "w") as out:
        out.add(classes, ".")
    assert list_images(tmp_path / "in.tar", classes=tmp_path / "list.txt").paths == wanted
    (tmp_path / "files.txt").write_text("n03/1.jpg\nn02/0.jpg\nn01/0.jpg\nn02.jpg\n")
    assert list_images(classes, files_from=tmp_path / "files.txt", classes=tmp_path / "list.txt").paths == [b"n03/1.jpg", b"n01/0.jpg"]


@pytest.mark.parametrize(("text", "message"), [
    ("n01\nn09\n", "line 2: n09: found no such class folder"), ("n01\nn01 again\n", "lines 1 and 2 name the same class, n01"),
    ("../in\n", "line 1: .*not the name of a class folder"), ("\n", "the list is empty"), ("n02.jpg\n", "found no such class folder"),
])
def test_class_lists_refused(tmp_path: Path, classes: Path, text: str, message: str) -> None:
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises((DataError, InputMissing), match=message):
        list_images(classes, classes=tmp_path / "list.txt")
    with pytest.raises(InputMissing, match="no such file"):
        list_images(classes, classes=tmp_path / "gone.txt")


def test_a_class_name_with_a_blank(tmp_path: Path, classes: Path) -> None:
    (tmp_path / "list.txt").write_text("golden retriever\nn01\n")
    assert len(list_images(classes, classes=tmp_path / "list.txt").paths) == 4


def test_nothing_else_changes_for_plain_folders(tmp_path: Path, classes: Path) -> None:
    """Folders that look a little like a release are folders."""
    (classes / "train.bin").write_bytes(b"x" * 100)
    (classes / "images.txt").write_text("x")
    (classes / "some.tar").write_bytes(b"")
    listing = list_images(classes)
    assert len(listing.paths) == 9
    assert listing.ignored == 3
    assert listing.records is None

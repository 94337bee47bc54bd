"""ucl pack: images in one file, and every command taking it as it takes the folder."""

from __future__ import annotations

import json
import tarfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import releases
from PIL import Image

from cli.harness import Runner, tree
from ucl import read

SMALL = ("--threads", 1, "--epochs", 1, "--set", "cluster.k=3", "--set", "cluster.pca=4", "--set", "train-epoch.batch=8")


def digests(ucl: Runner, *files: Path) -> list[str]:
    return [line.split()[0] for line in ucl("digest", *files, stdout="pipe").text.splitlines()]


def packed(ucl: Runner, source: Path, name: str, *options: object) -> Path:
    path = source.parent / name
    made = ucl("pack", source, "-o", path, *options)
    assert made.code == 0, made.err
    return path


def ragged(folder: Path) -> Path:
    """Photos of several sizes and kinds."""
    rng = np.random.default_rng(0)
    for i in range(12):
        path = folder / ("cat", "dog", "eel")[i % 3] / f"{i:02}.{'png' if i % 2 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20 + 3 * i, 40 - 2 * i, 3), np.uint8)).save(path)
    return folder


def test_encoded(ucl: Runner, photos: Path) -> None:
    path = packed(ucl, photos, "p.h5", "--json")
    with h5py.File(path) as file:
        names = file["samples/path"].asstr()[:]
        offset, size = file["samples/offset"][:], file["samples/size"][:]
        for row in (0, 11, 23):
            data = (photos / names[row]).read_bytes()
            assert file["encoded"][offset[row]:offset[row] + int(size[row])].tobytes() == data
            assert file["samples/crc32"][row] == zlib.crc32(data)
        assert file.attrs["record"] == b"image"
        assert file.attrs["root"].decode() == str(photos)
        assert file["encoded"].shape == (int(size.sum()),)
    assert ucl("validate", "--full", path).code == 0
    assert ucl("info", path, stdout="pipe").text.startswith(f"{path}: ucl/images: 24 images, ")
    assert ucl("view", path, "--columns", "path", "--no-header", stdout="pipe").text.splitlines() == names.tolist()


def test_said_in_one_line(ucl: Runner, photos: Path, tmp_path: Path) -> None:
    said = ucl("pack", photos, "-o", tmp_path / "a.h5")
    total = sum(p.stat().st_size for p in photos.rglob("*.png"))
    assert said.err.startswith(f"ucl pack: 24 images (0 unreadable), {total} bytes of image files in {tmp_path / 'a.h5'}; ")
    assert ucl("pack", photos, "-o", tmp_path / "b.h5", "-q").err == ""
    facts = json.loads(ucl("pack", photos, "-o", tmp_path / "c.h5", "--json", "--as", "pixels", "--pack-size", 16).err)
    assert {k: facts[k] for k in ("schema", "images", "bad", "as", "bytes")} == {
        "schema": "ucl.pack/1", "images": 24, "bad": 0, "as": "pixels", "bytes": 24 * 16 * 16 * 3}


def test_a_pipe_gives_the_same_bytes(ucl: Runner, photos: Path) -> None:
    env = {"SOURCE_DATE_EPOCH": "0", "UCL_PROVENANCE": "none"}
    for options in ((), ("--as", "pixels", "--pack-size", 16)):
        path = photos.parent / f"f{len(options)}.h5"
        assert ucl("pack", photos, *options, "-o", path, env=env).code == 0
        assert ucl("pack", photos, *options, stdout="pipe", env=env).out == path.read_bytes()
        assert ucl("pack", photos, *options, "-j", 3, stdout="pipe", env=env).out == path.read_bytes()


@pytest.mark.parametrize("options", [(), *(pytest.param(o, marks=pytest.mark.slow) for o in (("--pack", "none"), ("--pack", 24)))])
def test_a_run_from_folder_pack_and_archive_is_one_run(ucl: Runner, tmp_path: Path, options: tuple[object, ...]) -> None:
    """Packed bytes, a tar archive, a pack of the archive: the same list, pixels, labels and models."""
    folder = ragged(tmp_path / "photos")
    with tarfile.open(tmp_path / "photos.tar", "w") as out:
        out.add(folder, "photos")
    sources = {"folder": folder, "encoded": packed(ucl, folder, "p.h5"), "tar": tmp_path / "photos.tar"}
    sources["both"] = packed(ucl, sources["tar"], "t.h5")
    if options != ("--pack", "none"):
        with tarfile.open(tmp_path / "photos.tar.gz", "w:gz") as out:
            out.add(folder, ".")
        sources["gzip"] = tmp_path / "photos.tar.gz"
    assert len(set(digests(ucl, sources["encoded"], sources["both"]))) == 1
    found = {}
    for name, source in sources.items():
        whole = name in ("folder", "encoded", "tar")
        made = ucl("run" if whole else "init", "deepcluster", source, "-o", tmp_path / name, "--size", 16, *SMALL, *options)
        assert made.code == 0, made.err
        parts = ("0000/model", "0001/labels", "0001/model") if whole else ("0000/model",)
        found[name] = digests(ucl, *(tmp_path / name / f"epochs/{part}.h5" for part in parts))
        images = read(tmp_path / name / "images.h5")
        assert images.samples.digest == read(tmp_path / "folder/images.h5").samples.digest
        if options != ("--pack", "none"):
            assert (images.pixels == read(tmp_path / "folder/images.h5").pixels).all()
            assert digests(ucl, tmp_path / name / "images.h5") == digests(ucl, tmp_path / "folder/images.h5")
        else:
            assert images.pixels is None
    assert all(value == found["folder"][:len(value)] for value in found.values())


def test_extract_and_train_epoch_take_it(ucl: Runner, tmp_path: Path, small: Path) -> None:
    folder = ragged(tmp_path / "photos")
    path, model = packed(ucl, folder, "p.h5"), small / "model.h5"
    tar = tmp_path / "photos.tar"
    with tarfile.open(tar, "w") as out:
        out.add(folder, ".")
    assert ucl("targets", folder, "-o", tmp_path / "truth.h5").code == 0
    made: dict[str, list[str]] = {}
    for name, source in (("a", folder), ("b", path), ("c", tar)):
        features, trained = tmp_path / f"{name}.h5", tmp_path / f"{name}-model.h5"
        assert ucl("extract", source, "--model", model, "-o", features).code == 0
        result = ucl("train-epoch", tmp_path / "truth.h5", "--images", source, "--model", model, "-o", trained, "--batch", 8)
        assert result.code == 0, result.err
        assert ucl("targets", source, "-o", tmp_path / f"{name}-truth.h5").code == 0
        made[name] = digests(ucl, features, trained, tmp_path / f"{name}-truth.h5")
    assert made["a"] == made["b"] == made["c"]


def test_pixels_are_a_source_of_squares(ucl: Runner, tmp_path: Path) -> None:
    folder = ragged(tmp_path / "photos")
    path = packed(ucl, folder, "p.h5", "--as", "pixels", "--pack-size", 16)
    for name, source in (("a", folder), ("b", path)):
        assert ucl("init", "deepcluster", source, "-o", tmp_path / name, "--size", 16, "--pack", 16, "-q", "-j", 1).code == 0
    a, b = (read(tmp_path / name / "images.h5") for name in "ab")
    assert (a.pixels == b.pixels).all()
    assert a.samples.digest == b.samples.digest
    assert (read(path).pixels == a.pixels).all()
    loose = ucl("init", "deepcluster", path, "-o", tmp_path / "c", "--size", 16, "--pack", "none", "-j", 1)
    assert loose.code == 0, loose.err
    c = read(tmp_path / "c/images.h5").files()
    assert (c.crops(np.arange(12)[::-1], None, 16) == a.pixels[::-1]).all()


def test_released_data_sets(ucl: Runner, tmp_path: Path) -> None:
    wanted = releases.cifar10(tmp_path / "c10")
    for form in ("encoded", "pixels"):
        path = packed(ucl, tmp_path / "c10", f"{form}.h5", "--as", form, "--split", "test+train", "-q")
        made = ucl("init", "deepcluster", path, "-o", tmp_path / form, "-q", "-j", 1)
        assert made.code == 0, made.err
        images = read(tmp_path / form / "images.h5")
        assert (images.pixels == np.concatenate([wanted["test"][0], wanted["train"][0]])).all()
        assert ucl("targets", path, "-o", tmp_path / f"{form}-truth.h5", "-q").code == 0
        names = read(tmp_path / f"{form}-truth.h5").info["classes"]
        truth = [releases.CIFAR10_NAMES[i] for part in ("test", "train") for i in wanted[part][1]]
        assert [names[i] for i in read(tmp_path / f"{form}-truth.h5").labels] == truth
        measured = ucl("evaluate", "knn", "--json", cwd=tmp_path / form, stdout="pipe")
        assert measured.json["metrics"]["knn_top1"]["n"] == 24


def test_unreadable_images_keep_their_rows(ucl: Runner, photos: Path, tmp_path: Path) -> None:
    (photos / "bee/x.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (photos / "bee/empty.png").write_bytes(b"")
    (photos / "bee/gone.png").symlink_to("nowhere.png")
    told = ucl("pack", photos, "-o", tmp_path / "p.h5")
    assert (told.code, len(told.lines)) == (65, 2)
    assert "bee/empty.png: the file is empty (3 of 27 images cannot be used)" in told.lines[0]
    assert not (tmp_path / "p.h5").exists()
    said = ucl("pack", photos, "-o", tmp_path / "p.h5", "--on-error", "skip", "--max-bad", 0.2)
    assert said.code == 0
    assert "27 images (3 unreadable)" in said.err
    told = ucl("init", "deepcluster", tmp_path / "p.h5", "-o", tmp_path / "r", "--size", 16)
    assert told.code == 65
    assert ucl("init", "deepcluster", tmp_path / "p.h5", "-o", tmp_path / "r", "--size", 16, "--on-error", "skip").code == 0
    assert ucl("init", "deepcluster", photos, "-o", tmp_path / "s", "--size", 16, "--on-error", "skip").code == 0
    assert len(set(digests(ucl, tmp_path / "r/images.h5", tmp_path / "s/images.h5"))) == 1
    pixels = ucl("pack", tmp_path / "p.h5", "-o", tmp_path / "q.h5", "--as", "pixels", "--pack-size", 16, "--on-error", "skip")
    assert pixels.code == 0
    assert ucl("init", "deepcluster", tmp_path / "q.h5", "-o", tmp_path / "t", "--size", 16, "--on-error", "skip").code == 0
    assert read(tmp_path / "t/images.h5").samples.status.tolist() == read(tmp_path / "s/images.h5").samples.status.tolist()


def test_a_byte_that_changed_in_the_pack(ucl: Runner, photos: Path, tmp_path: Path) -> None:
    path = packed(ucl, photos, "p.h5")
    assert ucl("init", "deepcluster", path, "-o", tmp_path / "r", "--size", 16, "--pack", "none", *SMALL).code == 0
    with h5py.File(path) as file:
        at = file["encoded"].id.get_offset() + int(file["samples/offset"][5]) + 40
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))
    told = ucl("init", "deepcluster", path, "-o", tmp_path / "s", "--size", 16)
    assert told.code == 65
    assert "ant/5.png: the bytes are not those that were packed: CRC" in told.err
    told = ucl("run", cwd=tmp_path / "r")
    assert told.code == 65
    assert "ant/5.png: the record is not the one that was listed" in told.err
    assert ucl("validate", "--full", path).code == 65


@pytest.mark.parametrize(("options", "code", "message"), [
    ((), 2, "no images: found neither IMAGES nor --files-from"),
    (("gone", "-o", "x.h5"), 66, "gone: no such folder"),
    (("photos", "-o", "x.h5", "--as", "zip"), 2, "--as: found 'zip', wanted encoded or pixels"),
    (("photos", "-o", "x.h5", "--as", "pixels"), 2, "--as pixels: found no --pack-size"),
    (("photos", "-o", "x.h5", "--pack-size", 16), 2, "--pack-size 16: wanted at least 1, with --as pixels"),
    (("digits", "-o", "x.h5"), 2, "the digits are built in"),
    (("photos", "-o", "photos"), 73, "is a folder, wanted a file name"),
    (("photos", "-o", "old.h5"), 73, "exists already"),
    (("photos", "-o", "x.h5", "--split", "train"), 2, "a folder of images has no parts"),
    (("photos", "-o", "x.h5", "--classes", "list.txt"), 65, "list.txt line 1: wasp: found no such class folder"),
    (("features.h5", "-o", "x.h5"), 65, "is ucl/features, expected ucl/images"),
    (("photos",), 2, "refusing to write HDF5"),
])
def test_told_before_anything_is_written(ucl: Runner, photos: Path, features: Path, options: tuple[object, ...], code: int, message: str) -> None:
    here = photos.parent
    (here / "old.h5").write_bytes(b"old")
    (here / "list.txt").write_text("wasp\n")
    (here / "features.h5").write_bytes(features.read_bytes())
    before = tree(here)
    told = ucl("pack", *options, cwd=here)
    assert (told.code, len(told.lines)) == (code, 2), told.err
    assert message in told.lines[0]
    assert told.lines[0].startswith("ucl pack: error: ")
    assert told.lines[1].startswith("  try: ")
    assert tree(here) == before


def test_an_images_file_of_another_kind(ucl: Runner, photos: Path, tmp_path: Path) -> None:
    """Half an index, a form of a later version, a file outside of the root: told, never followed."""
    path = packed(ucl, photos, "p.h5")
    for name, change, message in (
            ("a", lambda f: f.__delitem__("samples/offset"), "/samples/offset: missing"),
            ("b", lambda f: f.attrs.__setitem__("record", np.bytes_("zstd:32")), "records of form 'zstd:32'"),
            ("c", lambda f: f["samples/offset"].__setitem__(3, 1 << 40), "an image beyond the"),
            ("d", lambda f: f["samples/offset"].__setitem__(3, -1), "an image beyond the")):
        copy = tmp_path / f"{name}.h5"
        copy.write_bytes(path.read_bytes())
        with h5py.File(copy, "r+") as file:
            change(file)
        if name in ("c", "d"):
            assert "an image beyond the" in ucl("validate", "--full", copy, stdout="pipe").text
        told = ucl("init", "deepcluster", copy, "-o", tmp_path / f"run-{name}")
        assert (told.code, len(told.lines)) == (65, 2), told.err
        assert message in told.err
    loose = tmp_path / "loose"
    assert ucl("init", "deepcluster", path, "-o", loose, "--size", 16, "--pack", "none").code == 0
    secret = tmp_path / "secret"
    secret.write_bytes((photos / "ant/0.png").read_bytes())
    for names, number, message in (([b"../secret"], 0, "../secret: not a plain relative path"),
                                   ([str(secret).encode()], 0, "not a plain relative path"), ([b"."], 7, "/samples/file: 7, but there are 1 files")):
        copy = tmp_path / "copy.h5"
        copy.write_bytes((loose / "images.h5").read_bytes())
        with h5py.File(copy, "r+") as file:
            del file["files/path"]
            file["files/path"] = np.array(names)
            file["samples/file"][4] = number
        told = ucl("extract", copy, "--backbone", "convnet", "--size", 16, "-o", tmp_path / "f.h5")
        assert (told.code, len(told.lines)) == (65, 2), told.err
        assert message in told.err
    piped = ucl("extract", "-", "--backbone", "convnet", "-o", tmp_path / "f.h5", stdin=path.read_bytes())
    assert piped.code == 66


def test_digits_as_pixels(ucl: Runner, tmp_path: Path) -> None:
    assert ucl("pack", "digits", "--as", "pixels", "-o", tmp_path / "d.h5").code == 0
    assert read(tmp_path / "d.h5").pixels.shape == (1797, 8, 8, 3)
    assert ucl("targets", tmp_path / "d.h5", "-o", tmp_path / "t.h5").code == 0
    assert read(tmp_path / "t.h5").k == 10


def test_no_room_and_no_half_file(ucl: Runner, photos: Path, tmp_path: Path) -> None:
    told = ucl("pack", photos, "-o", tmp_path / "p.h5", fsize=9000)
    assert (told.code, len(told.lines)) == (74, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos"]
